// First-spike pooling.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "src/parallel.h"
#include "src/shape.h"
#include "ttfs/layers.h"

namespace ttfs {
namespace {

/// Rows of a plane between two checks whether to stop: about ten thousand inputs.
std::int64_t rows_per_stop_check(const PoolShape& s) {
  const std::int64_t row = s.out_width * s.kernel_height * s.kernel_width;
  return ceil_div(std::int64_t{1} << 16, std::max<std::int64_t>(row, 1));
}

struct Range {
  std::int64_t first, last;
};

/// Kernel positions of an output that lie inside the input.
Range inside(std::int64_t start, std::int64_t kernel, std::int64_t dilation, std::int64_t size) {
  const std::int64_t first = start < 0 ? ceil_div(-start, dilation) : 0;
  const std::int64_t last = start < size ? std::min(kernel, ceil_div(size - start, dilation)) : 0;
  return {first, std::max(first, last)};
}

}  // namespace

template <class T>
void spiking_max_pool2d_forward(const PoolShape& s, ConstView<T> input, View<T> output,
                                std::int32_t* index, int threads) {
  check(s);
  const Stop stop;
  parallel_for(s.batch * s.channels, threads, [&](std::int64_t plane, int worker) {
    const std::int64_t n = plane / s.channels, c = plane % s.channels;
    const T* in = input.data + n * input.stride.n + c * input.stride.c;
    T* out = output.data + n * output.stride.n + c * output.stride.c;
    std::int32_t* places = index + plane * s.out_height * s.out_width;
    std::int64_t rows_left = rows_per_stop_check(s);
    for (std::int64_t row = 0; row < s.out_height; ++row) {
      if (--rows_left == 0) {
        if (stop(worker)) return;
        rows_left = rows_per_stop_check(s);
      }
      const std::int64_t top = s.input_row(row, 0);
      const Range rows = inside(top, s.kernel_height, s.dilation_height, s.in_height);
      for (std::int64_t column = 0; column < s.out_width; ++column) {
        const std::int64_t left = s.input_column(column, 0);
        const Range columns = inside(left, s.kernel_width, s.dilation_width, s.in_width);
        T least = std::numeric_limits<T>::infinity();
        std::int64_t place = -1;
        for (std::int64_t ky = rows.first; ky < rows.last; ++ky)
          for (std::int64_t kx = columns.first; kx < columns.last; ++kx) {
            const T value = in[(top + ky * s.dilation_height) * input.stride.h +
                               (left + kx * s.dilation_width) * input.stride.w];
            // The first of equal values; the first NaN takes precedence over all.
            if (value < least || (value != value && least == least)) {
              least = value;
              place = ky * s.kernel_width + kx;
            }
          }
        out[row * output.stride.h + column * output.stride.w] = least;
        *places++ = static_cast<std::int32_t>(place);
      }
    }
  });
}

template <class T>
void spiking_max_pool2d_backward(const PoolShape& s, ConstView<T> grad_output,
                                 const std::int32_t* index, T* grad_input, int threads) {
  check(s);
  const Stop stop;
  parallel_for(s.batch * s.channels, threads, [&](std::int64_t plane, int worker) {
    const std::int64_t n = plane / s.channels, c = plane % s.channels;
    const T* grad = grad_output.data + n * grad_output.stride.n + c * grad_output.stride.c;
    const std::int32_t* places = index + plane * s.out_height * s.out_width;
    T* to = grad_input + plane * s.in_height * s.in_width;
    std::fill_n(to, s.in_height * s.in_width, T{0});
    std::int64_t rows_left = rows_per_stop_check(s);
    for (std::int64_t row = 0; row < s.out_height; ++row) {
      if (--rows_left == 0) {
        if (stop(worker)) return;
        rows_left = rows_per_stop_check(s);
      }
      for (std::int64_t column = 0; column < s.out_width; ++column) {
        const std::int64_t place = *places++;
        if (place < 0) continue;
        const std::int64_t y = s.input_row(row, place / s.kernel_width);
        const std::int64_t x = s.input_column(column, place % s.kernel_width);
        to[y * s.in_width + x] += grad[row * grad_output.stride.h + column * grad_output.stride.w];
      }
    }
  });
}

template void spiking_max_pool2d_forward(const PoolShape&, ConstView<float>, View<float>,
                                         std::int32_t*, int);
template void spiking_max_pool2d_forward(const PoolShape&, ConstView<double>, View<double>,
                                         std::int32_t*, int);
template void spiking_max_pool2d_backward(const PoolShape&, ConstView<float>, const std::int32_t*,
                                          float*, int);
template void spiking_max_pool2d_backward(const PoolShape&, ConstView<double>, const std::int32_t*,
                                          double*, int);

}  // namespace ttfs
