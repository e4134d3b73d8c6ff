// The spiking layers in Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <optional>

#include "bindings/arrays.h"
#include "bindings/interrupt.h"
#include "bindings/module.h"
#include "ttfs/layers.h"

namespace ttfs::bindings {
namespace {

using py::literals::operator""_a;

template <class T>
ConvShape conv_shape(const Array<T>& input, const Array<T>& weight, const Array<T>& output,
                     Pair stride, Pair padding, Pair dilation, std::int64_t groups) {
  if (input.ndim() != 4 || weight.ndim() != 4 || output.ndim() != 4)
    throw std::invalid_argument("input, weight and output must have 4 dimensions");
  if (groups < 1)
    throw std::invalid_argument("groups must be at least 1; got " + std::to_string(groups));
  ConvShape s{window({weight.shape(2), weight.shape(3)}, stride, padding, dilation)};
  s.batch = input.shape(0);
  s.in_channels = input.shape(1);
  s.in_height = input.shape(2);
  s.in_width = input.shape(3);
  s.out_channels = weight.shape(0);
  s.out_height = output.shape(2);
  s.out_width = output.shape(3);
  s.groups = groups;
  require_dense(weight, {s.out_channels, s.in_channels / groups, s.kernel_height, s.kernel_width},
                "weight");
  require_shape(output, {s.batch, s.out_channels, s.out_height, s.out_width}, "output");
  return s;
}

template <class T>
void conv2d_forward(const Array<T>& input, const Array<T>& weight,
                    const std::optional<Array<T>>& bias, Pair stride, Pair padding, Pair dilation,
                    std::int64_t groups, double t_max, Array<T>& output, Array<T>& slope,
                    int threads, double initial_slope, double threshold,
                    std::optional<Array<std::int64_t>>& counts) {
  const auto s = conv_shape(input, weight, output, stride, padding, dilation, groups);
  const auto in = view(input, {s.batch, s.in_channels, s.in_height, s.in_width}, "input");
  if (bias) require_dense(*bias, {s.out_channels}, "bias");
  const auto out = writable(output, {s.batch, s.out_channels, s.out_height, s.out_width}, "output");
  require_dense(slope, {s.batch, s.out_height, s.out_width, s.out_channels}, "slope");
  T* slopes = slope.mutable_data();
  const T* biases = bias ? bias->data() : nullptr;
  ForwardCounts counted;
  std::int64_t* to_counts = nullptr;
  if (counts) {
    require_dense(*counts, {3}, "counts");
    to_counts = counts->mutable_data();
  }
  without_lock([&] {
    spiking_conv2d_forward<T>(s, in, weight.data(), biases, t_max, out, slopes, threads,
                              {initial_slope, threshold}, to_counts ? &counted : nullptr);
  });
  if (to_counts) {
    to_counts[0] += counted.recomputed;
    to_counts[1] += counted.chunks;
    to_counts[2] += counted.rescanned;
  }
}

template <class T>
void conv2d_backward(const Array<T>& input, const Array<T>& weight, const Array<T>& output,
                     const Array<T>& slope, const Array<T>& grad_output, Pair stride, Pair padding,
                     Pair dilation, std::int64_t groups, std::optional<Array<T>>& grad_input,
                     std::optional<Array<T>>& grad_weight, std::optional<Array<T>>& grad_bias,
                     int threads, double initial_slope, double threshold) {
  const auto s = conv_shape(input, weight, output, stride, padding, dilation, groups);
  const std::vector<std::int64_t> in_shape{s.batch, s.in_channels, s.in_height, s.in_width};
  const std::vector<std::int64_t> out_shape{s.batch, s.out_channels, s.out_height, s.out_width};
  const auto in = view(input, in_shape, "input");
  const auto out = view(output, out_shape, "output");
  const auto grad = view(grad_output, out_shape, "grad_output");
  require_dense(slope, {s.batch, s.out_height, s.out_width, s.out_channels}, "slope");
  View<T> to_input;
  if (grad_input) to_input = writable(*grad_input, in_shape, "grad_input");
  T* to_weight = nullptr;
  T* to_bias = nullptr;
  if (grad_weight) {
    require_dense(*grad_weight,
                  {s.out_channels, s.in_channels / groups, s.kernel_height, s.kernel_width},
                  "grad_weight");
    to_weight = grad_weight->mutable_data();
  }
  if (grad_bias) {
    if (!grad_weight) throw std::invalid_argument("grad_bias needs grad_weight as well");
    require_dense(*grad_bias, {s.out_channels}, "grad_bias");
    to_bias = grad_bias->mutable_data();
  }
  without_lock([&] {
    spiking_conv2d_backward<T>(s, in, weight.data(), out, slope.data(), grad, to_input, to_weight,
                               to_bias, threads, {initial_slope, threshold});
  });
}

template <class T>
PoolShape pool_shape(const Array<T>& input, const Array<T>& output, Pair kernel, Pair stride,
                     Pair padding, Pair dilation) {
  if (input.ndim() != 4 || output.ndim() != 4)
    throw std::invalid_argument("input and output must have 4 dimensions");
  PoolShape s{window(kernel, stride, padding, dilation)};
  s.batch = input.shape(0);
  s.channels = input.shape(1);
  s.in_height = input.shape(2);
  s.in_width = input.shape(3);
  s.out_height = output.shape(2);
  s.out_width = output.shape(3);
  if (kernel[0] > 0 && kernel[1] > std::numeric_limits<std::int32_t>::max() / kernel[0])
    throw std::invalid_argument("the window is " + std::to_string(kernel[0]) + " x " +
                                std::to_string(kernel[1]) +
                                "; it may hold at most 2^31 - 1 inputs");
  return s;
}

template <class T>
void max_pool2d_forward(const Array<T>& input, Pair kernel, Pair stride, Pair padding,
                        Pair dilation, Array<T>& output, Array<std::int32_t>& index, int threads) {
  const auto s = pool_shape(input, output, kernel, stride, padding, dilation);
  const std::vector<std::int64_t> out_shape{s.batch, s.channels, s.out_height, s.out_width};
  const auto in = view(input, {s.batch, s.channels, s.in_height, s.in_width}, "input");
  const auto out = writable(output, out_shape, "output");
  require_dense(index, out_shape, "index");
  std::int32_t* places = index.mutable_data();
  without_lock([&] { spiking_max_pool2d_forward<T>(s, in, out, places, threads); });
}

template <class T>
void max_pool2d_backward(const Array<T>& grad_output, const Array<std::int32_t>& index, Pair kernel,
                         Pair stride, Pair padding, Pair dilation, Array<T>& grad_input,
                         int threads) {
  const auto s = pool_shape(grad_input, grad_output, kernel, stride, padding, dilation);
  const std::vector<std::int64_t> out_shape{s.batch, s.channels, s.out_height, s.out_width};
  const auto grad = view(grad_output, out_shape, "grad_output");
  require_dense(index, out_shape, "index");
  require_dense(grad_input, {s.batch, s.channels, s.in_height, s.in_width}, "grad_input");
  // The index should come from the forward pass, but a caller can pass any: check it first.
  const std::int32_t* places = index.data();
  const auto places_in_window = static_cast<std::int32_t>(kernel[0] * kernel[1]);
  for (py::ssize_t i = 0; i < index.size(); ++i) {
    if (i % kItemsPerSignalCheck == 0) check_signals();
    if (places[i] < -1 || places[i] >= places_in_window)
      throw std::invalid_argument("index holds a place outside the window");
    if (places[i] < 0) continue;
    const std::int64_t row = i / s.out_width % s.out_height, column = i % s.out_width;
    const std::int64_t y = s.input_row(row, places[i] / kernel[1]);
    const std::int64_t x = s.input_column(column, places[i] % kernel[1]);
    if (y < 0 || y >= s.in_height || x < 0 || x >= s.in_width)
      throw std::invalid_argument("index holds a place outside the input");
  }
  T* to = grad_input.mutable_data();
  without_lock([&] { spiking_max_pool2d_backward<T>(s, grad, places, to, threads); });
}

template <class T>
void define(py::module_& m) {
  const Neuron n_lif;
  m.def("conv2d_forward", &conv2d_forward<T>, "input"_a.noconvert(), "weight"_a.noconvert(),
        "bias"_a.noconvert(), "stride"_a, "padding"_a, "dilation"_a, "groups"_a, "t_max"_a,
        "output"_a.noconvert(), "slope"_a.noconvert(), "threads"_a, "initial_slope"_a = n_lif.slope,
        "threshold"_a = n_lif.threshold, py::kw_only(), "counts"_a.noconvert() = py::none());
  m.def("conv2d_backward", &conv2d_backward<T>, "input"_a.noconvert(), "weight"_a.noconvert(),
        "output"_a.noconvert(), "slope"_a.noconvert(), "grad_output"_a.noconvert(), "stride"_a,
        "padding"_a, "dilation"_a, "groups"_a, "grad_input"_a.noconvert(),
        "grad_weight"_a.noconvert(), "grad_bias"_a.noconvert(), "threads"_a,
        "initial_slope"_a = n_lif.slope, "threshold"_a = n_lif.threshold);
  m.def("max_pool2d_forward", &max_pool2d_forward<T>, "input"_a.noconvert(), "kernel"_a, "stride"_a,
        "padding"_a, "dilation"_a, "output"_a.noconvert(), "index"_a.noconvert(), "threads"_a);
  m.def("max_pool2d_backward", &max_pool2d_backward<T>, "grad_output"_a.noconvert(),
        "index"_a.noconvert(), "kernel"_a, "stride"_a, "padding"_a, "dilation"_a,
        "grad_input"_a.noconvert(), "threads"_a);
}

}  // namespace

void define_layers(py::module_& m) {
  define<float>(m);
  define<double>(m);
}

}  // namespace ttfs::bindings
