// Copies parts of an input to channels-last order; positions outside it are silent.
#pragma once

#include <limits>

#include "kernels/table.h"
#include "ttfs/layers.h"

namespace ttfs {

/// A grid of input positions: row r, column c lies at (top + r * row_step, left + c * column_step).
struct Grid {
  std::int64_t top, left;
  std::int64_t row_step, column_step;
  std::int64_t rows, columns;
};

/// Copies `channels` channels of the grid's positions into to[row][column][channel]; positions
/// outside height x width get `outside`. `image` points at (first channel, row 0, column 0).
template <class T>
void copy_grid(const Kernels<T>& k, const T* image, const Strides4& stride, std::int64_t height,
               std::int64_t width, std::int64_t channels, const Grid& grid, T outside, T* to) {
  // Columns [first, last) of the grid lie inside the image.
  std::int64_t first = 0;
  while (first < grid.columns && grid.left + first * grid.column_step < 0) ++first;
  std::int64_t last = grid.columns;
  while (last > first && grid.left + (last - 1) * grid.column_step >= width) --last;
  const std::int64_t step = stride.w * grid.column_step;
  const auto fill = [&](T* begin, T* end) {
    while (begin != end) *begin++ = outside;
  };
  for (std::int64_t r = 0; r < grid.rows; ++r, to += grid.columns * channels) {
    const std::int64_t y = grid.top + r * grid.row_step;
    if (y < 0 || y >= height || first == last) {
      fill(to, to + grid.columns * channels);
      continue;
    }
    fill(to, to + first * channels);
    fill(to + last * channels, to + grid.columns * channels);
    const T* from = image + y * stride.h + (grid.left + first * grid.column_step) * stride.w;
    T* inside = to + first * channels;
    const std::int64_t columns = last - first;
    if (step == 1) {
      k.transpose(from, stride.c, inside, channels, channels, columns);
    } else if (stride.c == 1) {
      for (std::int64_t c = 0; c < columns; ++c)
        __builtin_memcpy(inside + c * channels, from + c * step,
                         static_cast<std::size_t>(channels) * sizeof(T));
    } else {
      for (std::int64_t c = 0; c < columns; ++c)
        for (std::int64_t ch = 0; ch < channels; ++ch)
          inside[c * channels + ch] = from[ch * stride.c + c * step];
    }
  }
}

}  // namespace ttfs
