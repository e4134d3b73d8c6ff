// Spiking layers on spike values z = exp(t) > 0; a neuron that never spikes has z = +infinity.
//
// Zhou et al., "Temporal-Coded Deep Spiking Neural Network with Easy Training and Robust
// Performance" (AAAI 2021), equations (1), (3) and (4). Neuron j receives input spikes z_i through
// weights w_ji and spikes at
//
//     z_j = sum_{i in C} w_ji z_i / D_j,     D_j = sum_{i in C} w_ji - 1,
//
// where the causal set C contains the inputs that spike before j. (Sister neurons, see Neuron, take
// spike times instead.) Every function here is instantiated for float and double, divides its work
// among at most `threads` threads, and gives the same bits for any number of them.
#pragma once

#include <cstdint>
#include <limits>

namespace ttfs {

/// The inputs of an output of a convolution or pooling. Right and bottom padding follow from
/// the output size: positions outside the input are silent.
struct Window {
  std::int64_t kernel_height = 1, kernel_width = 1;
  std::int64_t stride_height = 1, stride_width = 1;
  std::int64_t pad_top = 0, pad_left = 0;
  std::int64_t dilation_height = 1, dilation_width = 1;

  /// The input row that kernel row `ky` of an output row reads, and the same for columns.
  std::int64_t input_row(std::int64_t out_row, std::int64_t ky) const {
    return out_row * stride_height - pad_top + ky * dilation_height;
  }
  std::int64_t input_column(std::int64_t out_column, std::int64_t kx) const {
    return out_column * stride_width - pad_left + kx * dilation_width;
  }
};

/// Sizes of a 2-D convolution.
struct ConvShape : Window {
  std::int64_t batch = 1;
  std::int64_t in_channels = 1, in_height = 1, in_width = 1;
  std::int64_t out_channels = 1, out_height = 1, out_width = 1;
  std::int64_t groups = 1;
};

/// Sizes of a 2-D pooling.
struct PoolShape : Window {
  std::int64_t batch = 1, channels = 1;
  std::int64_t in_height = 1, in_width = 1;
  std::int64_t out_height = 1, out_width = 1;
};

/// Distance in elements between adjacent elements along (batch, channel, row, column).
struct Strides4 {
  std::int64_t n = 0, c = 0, h = 0, w = 0;
};

/// A constant 4-D array: a pointer and strides.
template <class T>
struct ConstView {
  const T* data = nullptr;
  Strides4 stride;
};

template <class T>
struct View {
  T* data = nullptr;
  Strides4 stride;
};

/// A neuron spikes at the first x from below at which
///
///     F(x) = sum_{i: x_i < x} w_i (x - x_i) + slope x - threshold
///
/// is 0. The default is the neuron above on spike values, x = z. A slope of 0 or more, with a
/// threshold above 0, makes a neuron on spike times, x = t, which may also be 0 or negative.
struct Neuron {
  double slope = -1, threshold = 0;

  bool on_values() const { return slope < 0; }
  /// x at t = 0: where the bias spikes.
  double origin() const { return on_values() ? 1 : 0; }
};

/// What a forward pass computes more than once.
struct ForwardCounts {
  std::int64_t recomputed = 0;  ///< outputs that are computed again, more accurately
  /// A pixel's chunks of events, once for each output of a block (its padding included), and those
  /// of them that are processed again, event by event. Pixels with few events have no chunks.
  std::int64_t chunks = 0, rescanned = 0;
};

/// Spike values of a convolution layer; for neurons on spike times, spike times.
///
/// input (batch, in_channels, in_height, in_width), weight dense (out_channels, in_channels /
/// groups, kernel_height, kernel_width), bias (out_channels) or null: the weight of one more input
/// that spikes at t = 0. Spikes later than t_max are treated as no spike (inf). Writes output and
/// slope, the D of every output as a dense (batch, out_height, out_width, out_channels) array, 0
/// where silent. Adds to counts, if not null.
///
/// Throws std::invalid_argument for inconsistent sizes, for a neuron of neither kind, and for an
/// input z <= 0 or t = -infinity (nothing is written).
template <class T>
void spiking_conv2d_forward(const ConvShape& shape, ConstView<T> input, const T* weight,
                            const T* bias, double t_max, View<T> output, T* slope, int threads,
                            const Neuron& neuron = {}, ForwardCounts* counts = nullptr);

/// Gradients of spiking_conv2d_forward, from its input, its output, its slope and the gradient of
/// the output. Null data skips a gradient; grad_weight is dense (out_channels, in_channels /
/// groups, kernel_height, kernel_width), grad_bias (out_channels).
template <class T>
void spiking_conv2d_backward(const ConvShape& shape, ConstView<T> input, const T* weight,
                             ConstView<T> output, const T* slope, ConstView<T> grad_output,
                             View<T> grad_input, T* grad_weight, T* grad_bias, int threads,
                             const Neuron& neuron = {});

/// The fully connected layer as a convolution with one receptive field per image: input (rows,
/// inputs) has strides n and c, weight is dense (outputs, inputs), slope dense (rows, outputs).
ConvShape linear_shape(std::int64_t rows, std::int64_t inputs, std::int64_t outputs);

/// First spike of each window: the least z, and in `index` its position in the window
/// (row * kernel_width + column; -1 where the window is silent), dense (batch, channels,
/// out_height, out_width). A window that contains a NaN is NaN, and its index is that of the NaN.
template <class T>
void spiking_max_pool2d_forward(const PoolShape& shape, ConstView<T> input, View<T> output,
                                std::int32_t* index, int threads);

/// Sends each output's gradient to the input that spiked first; grad_input is dense (batch,
/// channels, in_height, in_width).
template <class T>
void spiking_max_pool2d_backward(const PoolShape& shape, ConstView<T> grad_output,
                                 const std::int32_t* index, T* grad_input, int threads);

}  // namespace ttfs
