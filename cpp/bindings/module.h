// What each file of the bindings adds to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace ttfs::bindings {

void define_circuit(pybind11::module_& m);
void define_integer(pybind11::module_& m);
void define_layers(pybind11::module_& m);

}  // namespace ttfs::bindings
