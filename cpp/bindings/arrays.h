// Checks of numpy arrays, for every file of the bindings. Arrays are never converted: an argument
// of another type is refused.
#pragma once

#include <pybind11/numpy.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "ttfs/layers.h"

namespace ttfs::bindings {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, 0>;

using Pair = std::array<std::int64_t, 2>;  // rows, columns

inline Window window(Pair kernel, Pair stride, Pair padding, Pair dilation) {
  return {kernel[0],  kernel[1],  stride[0],   stride[1],
          padding[0], padding[1], dilation[0], dilation[1]};
}

template <class T>
Strides4 strides(const Array<T>& array, const char* name) {
  std::int64_t in_elements[4];
  for (int d = 0; d < 4; ++d) {
    const auto bytes = array.strides(d);
    if (bytes % static_cast<py::ssize_t>(sizeof(T)) != 0)
      throw std::invalid_argument(std::string(name) + " is not aligned to its elements");
    in_elements[d] = bytes / static_cast<py::ssize_t>(sizeof(T));
  }
  return {in_elements[0], in_elements[1], in_elements[2], in_elements[3]};
}

inline std::string text(const std::vector<std::int64_t>& shape) {
  std::string out = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + ")";
}

template <class T>
void require_shape(const Array<T>& array, const std::vector<std::int64_t>& expected,
                   const char* name) {
  const std::vector<std::int64_t> shape(array.shape(), array.shape() + array.ndim());
  if (shape != expected)
    throw std::invalid_argument(std::string(name) + " has shape " + text(shape) + ", expected " +
                                text(expected));
}

template <class T>
void require_dense(const Array<T>& array, const std::vector<std::int64_t>& shape,
                   const char* name) {
  require_shape(array, shape, name);
  if (!(array.flags() & py::array::c_style))
    throw std::invalid_argument(std::string(name) + " must be contiguous");
}

template <class T>
ConstView<T> view(const Array<T>& array, const std::vector<std::int64_t>& shape, const char* name) {
  require_shape(array, shape, name);
  return {array.data(), strides(array, name)};
}

template <class T>
View<T> writable(Array<T>& array, const std::vector<std::int64_t>& shape, const char* name) {
  require_shape(array, shape, name);
  return {array.mutable_data(), strides(array, name)};
}

}  // namespace ttfs::bindings
