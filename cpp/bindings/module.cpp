// The Python module _core. The bindings check types, shapes and strides, release the interpreter
// lock, and call the core; nothing else in cpp/ depends on Python.
#include "bindings/module.h"

#include <pybind11/stl.h>

#include "ttfs/isa.h"
#include "ttfs/version.h"

namespace py = pybind11;
using py::literals::operator""_a;

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled kernels of ttfs_fast; see ttfs_fast.functional for the operators.";
  m.attr("__version__") = TTFS_VERSION;
  ttfs::bindings::define_circuit(m);
  ttfs::bindings::define_integer(m);
  ttfs::bindings::define_layers(m);
  m.def("instruction_set", &ttfs::instruction_set);
  m.def("instruction_sets", &ttfs::instruction_sets);
  m.def("set_instruction_set", &ttfs::set_instruction_set, "name"_a);
}
