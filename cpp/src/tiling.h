// How a forward pass divides its output. Up to kTilePixels adjacent pixels form a *tile*: they
// share the collecting and sorting of their events. Adjacent tiles form a *tile row*. Tile rows
// whose events fit in the memory set aside for them form a *work block*: its events are collected,
// then swept, one *slice* of tile rows after another.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ttfs/layers.h"

namespace ttfs {

/// One axis of a convolution. Outputs `phases` apart read inputs on a common grid of step
/// `dilation`. On this grid the kernel is dense and the stride is `stride`: a dilated convolution
/// is `phases` ordinary ones side by side.
struct Axis {
  Axis(std::int64_t out_size, std::int64_t kernel_size, std::int64_t stride_size,
       std::int64_t padding, std::int64_t dilation_size);

  /// Outputs of a phase; `phase` is the first of them, in [0, phases).
  std::int64_t outputs(std::int64_t phase) const;
  /// Output number i of a phase.
  std::int64_t output_at(std::int64_t phase, std::int64_t i) const { return phase + i * phases; }
  /// First input that an output reads; it may lie outside.
  std::int64_t first_input(std::int64_t output) const { return output * full_stride - pad; }
  /// Grid positions that `n` adjacent outputs of a phase read.
  std::int64_t span(std::int64_t n) const { return (n - 1) * stride + kernel; }

  std::int64_t out, kernel, dilation, phases, stride, full_stride, pad;
};

/// Pixels of a tile.
struct TileShape {
  std::int64_t rows = 1, columns = 1;
};

/// The costs and limits that determine the shape of a tile.
struct TileCosts {
  double sort, filter;                // cycles per event
  std::int64_t max_inputs = 1 << 16;  // of a tile of several pixels
  std::int64_t max_weight_rows;       // that its events may refer to
};

/// Adjacent tiles of one image and group, side by side.
struct TileRow {
  std::int64_t image, group;
  std::int64_t row_phase, column_phase;
  std::int64_t row, column;    // first pixel, counted within the phase
  std::int64_t rows, columns;  // pixels
  std::int64_t pixel;          // number of the first pixel within the work block
};

/// Tile rows [first, last) and their pixels.
struct TileRange {
  std::int64_t first, last;
  std::int64_t pixels;
};

/// Tile rows of one group.
struct WorkBlock {
  TileRange range;
  std::vector<TileRange> slices;
};

class Tiling {
 public:
  /// Chooses the shape of a tile.
  Tiling(const ConvShape& shape, const TileCosts& costs);

  /// Divides the output into tile rows of at most `tiles` tiles, and into work blocks of at most
  /// `max_pixels` pixels.
  void divide(std::int64_t tiles, std::int64_t max_pixels);

  /// The same, with sizes that suit the caches. If there are enough pixels, each thread takes whole
  /// work blocks, so that events stay in its own cache; otherwise `team` threads share each
  /// (`block_per_thread`).
  void divide_for_caches(std::int64_t pixel_bytes, std::int64_t weight_bytes, int team);

  /// Divides each work block into slices of at least min_pixels(pixels of the block) pixels.
  void slice(const std::function<std::int64_t(std::int64_t)>& min_pixels);

  /// Grid positions in the receptive fields of one tile.
  std::int64_t patch_rows() const { return y.span(tile.rows); }
  std::int64_t patch_columns() const { return x.span(tile.columns); }

  /// Calls visit(r, c, members) for every grid position (r, c) of a tile. In `members`, bit
  /// row * tile.columns + column is set for each pixel whose receptive field contains it.
  template <class Visit>
  void visit_patch(const Visit& visit) const {
    for (std::int64_t r = 0; r < patch_rows(); ++r)
      for (std::int64_t c = 0; c < patch_columns(); ++c) {
        std::uint32_t members = 0;
        for (std::int64_t i = 0; i < tile.rows; ++i)
          for (std::int64_t j = 0; j < tile.columns; ++j) {
            const std::int64_t ky = r - i * y.stride, kx = c - j * x.stride;
            if (ky >= 0 && ky < y.kernel && kx >= 0 && kx < x.kernel)
              members |= 1U << (i * tile.columns + j);
          }
        visit(r, c, static_cast<std::uint16_t>(members));
      }
  }

  const TileRow& row(std::int64_t i) const { return rows[static_cast<std::size_t>(i)]; }
  std::int64_t out_row(const TileRow& t, std::int64_t i) const {
    return y.output_at(t.row_phase, t.row + i);
  }
  std::int64_t out_column(const TileRow& t, std::int64_t j) const {
    return x.output_at(t.column_phase, t.column + j);
  }

  /// Pixels of the largest work block, and of the largest slice.
  std::int64_t max_block_pixels() const;
  std::int64_t max_slice_pixels() const;

  Axis y, x;
  TileShape tile;
  std::int64_t row_tiles = 1;  // the largest number of tiles in a tile row
  bool block_per_thread = false;
  std::vector<TileRow> rows;
  std::vector<WorkBlock> blocks;

 private:
  std::int64_t batch_, groups_;
};

}  // namespace ttfs
