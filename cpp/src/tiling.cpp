#include "src/tiling.h"

#include <algorithm>
#include <numeric>

#include "kernels/table.h"
#include "src/shape.h"

namespace ttfs {
namespace {

// Bytes per thread for the events of a work block. They should stay in the second-level cache; more
// bytes give enough pixels, or blocks that threads share; the most are for large weights, which
// every work block loads again.
constexpr std::int64_t kEventBytes = std::int64_t{256} << 10, kSharedEventBytes = 16 * kEventBytes,
                       kMaxEventBytes = 32 * kEventBytes;
constexpr std::int64_t kCachedWeightBytes = std::int64_t{1} << 20;

/// The tile with the least work per pixel. A larger tile shares the sorting among more pixels, but
/// each pixel filters its events from a longer list.
TileShape choose_tile(const Axis& y, const Axis& x, std::int64_t channels, const TileCosts& costs) {
  TileShape best;
  double least = costs.sort * static_cast<double>(y.kernel * x.kernel);
  const std::int64_t height = y.outputs(0), width = x.outputs(0);
  for (std::int64_t rows = 1; rows <= std::min<std::int64_t>(kTilePixels, height); ++rows)
    for (std::int64_t columns = 1; columns <= std::min(kTilePixels / rows, width); ++columns) {
      if (rows * columns == 1) continue;
      const std::int64_t high = y.span(rows), wide = x.span(columns), seen = high * wide;
      if (seen * channels > costs.max_inputs) continue;
      if ((high * x.kernel + wide) * channels > costs.max_weight_rows) continue;
      const double used = static_cast<double>(height * width) /
                          static_cast<double>(ceil_div(height, rows) * ceil_div(width, columns));
      const double cost = static_cast<double>(seen) * (costs.sort / used + costs.filter);
      if (cost < least) {
        least = cost;
        best = {rows, columns};
      }
    }
  return best;
}

}  // namespace

Axis::Axis(std::int64_t out_size, std::int64_t kernel_size, std::int64_t stride_size,
           std::int64_t padding, std::int64_t dilation_size)
    : out(out_size),
      kernel(kernel_size),
      dilation(dilation_size),
      phases(std::clamp<std::int64_t>(dilation_size / std::gcd(stride_size, dilation_size), 1,
                                      std::max<std::int64_t>(out_size, 1))),
      stride(stride_size / std::gcd(stride_size, dilation_size)),
      full_stride(stride_size),
      pad(padding) {}

std::int64_t Axis::outputs(std::int64_t phase) const {
  return phase < out ? ceil_div(out - phase, phases) : 0;
}

Tiling::Tiling(const ConvShape& s, const TileCosts& costs)
    : y(s.out_height, s.kernel_height, s.stride_height, s.pad_top, s.dilation_height),
      x(s.out_width, s.kernel_width, s.stride_width, s.pad_left, s.dilation_width),
      tile(choose_tile(y, x, s.in_channels / s.groups, costs)),
      batch_(s.batch),
      groups_(s.groups) {}

void Tiling::divide(std::int64_t tiles, std::int64_t max_pixels) {
  row_tiles = tiles;
  const std::int64_t length = tiles * tile.columns;
  TileRange range{0, 0, 0};
  const auto close = [&] {
    range.last = static_cast<std::int64_t>(rows.size());
    if (range.pixels > 0) blocks.push_back({range, {}});
    range = {range.last, 0, 0};
  };
  for (std::int64_t group = 0; group < groups_; ++group, close())
    for (std::int64_t image = 0; image < batch_; ++image)
      for (std::int64_t py = 0; py < y.phases; ++py)
        for (std::int64_t px = 0; px < x.phases; ++px)
          for (std::int64_t row = 0; row < y.outputs(py); row += tile.rows)
            for (std::int64_t column = 0; column < x.outputs(px); column += length) {
              TileRow t{image, group, py, px, row, column, 0, 0, 0};
              t.rows = std::min(tile.rows, y.outputs(py) - row);
              t.columns = std::min(length, x.outputs(px) - column);
              const std::int64_t pixels = t.rows * t.columns;
              if (range.pixels + pixels > max_pixels) close();
              t.pixel = range.pixels;
              range.pixels += pixels;
              rows.push_back(t);
            }
}

void Tiling::divide_for_caches(std::int64_t pixel_bytes, std::int64_t weight_bytes, int team) {
  const std::int64_t bytes = std::clamp(weight_bytes / 2, kEventBytes, kMaxEventBytes);
  const std::int64_t shared = std::max<std::int64_t>(kSharedEventBytes / pixel_bytes, 1);
  // With one work block per thread, each thread loads all weights. This needs enough pixels.
  const std::int64_t enough = weight_bytes > kCachedWeightBytes ? 32 : 8;
  const std::int64_t fit = std::max(bytes / pixel_bytes, std::min(2 * enough, shared));
  const std::int64_t all = batch_ * groups_ * y.out * x.out;
  const std::int64_t share =
      ceil_div(all, round_up(std::max<std::int64_t>(ceil_div(all, fit), 4 * team), team));
  block_per_thread = team == 1 || share >= enough;
  const std::int64_t most = team == 1 ? fit : block_per_thread ? share : team * shared;
  // Tile rows are short enough for every thread to get some, and about equally long.
  const std::int64_t across = ceil_div(x.outputs(0), tile.columns);
  const std::int64_t all_tiles =
      batch_ * groups_ * y.phases * x.phases * ceil_div(y.outputs(0), tile.rows) * across;
  std::int64_t tiles =
      std::clamp<std::int64_t>(all_tiles / (8 * team), 1, std::min<std::int64_t>(across, 8));
  tiles = std::clamp<std::int64_t>(most / (tile.rows * tile.columns), 1, tiles);
  divide(ceil_div(across, ceil_div(across, tiles)), most);
}

void Tiling::slice(const std::function<std::int64_t(std::int64_t)>& min_pixels) {
  for (WorkBlock& block : blocks) {
    const std::int64_t enough = min_pixels(block.range.pixels);
    for (std::int64_t i = block.range.first; i < block.range.last; ++i) {
      if (block.slices.empty() || block.slices.back().pixels >= enough)
        block.slices.push_back({i, i, 0});
      block.slices.back().last = i + 1;
      block.slices.back().pixels += row(i).rows * row(i).columns;
    }
  }
}

std::int64_t Tiling::max_block_pixels() const {
  std::int64_t most = 0;
  for (const WorkBlock& block : blocks) most = std::max(most, block.range.pixels);
  return most;
}

std::int64_t Tiling::max_slice_pixels() const {
  std::int64_t most = 0;
  for (const WorkBlock& block : blocks)
    for (const TileRange& slice : block.slices) most = std::max(most, slice.pixels);
  return most;
}

}  // namespace ttfs
