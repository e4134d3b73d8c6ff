// Forward: the output goes by in bundles of pixels whose events fit in memory set aside for them.
// Of a bundle, first the events are collected: strip by strip, tile by tile, sort the input spikes
// that the tile sees and filter each pixel's own out of them. Then the pixels are swept, one block
// of outputs after another, so that a block's weights stay in the cache. Last, the outputs that the
// sweep has marked are refined. A thread does whole bundles, so that events stay in its own cache;
// where there are too few pixels for that, all threads share one.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "kernels/table.h"
#include "src/padded.h"
#include "src/parallel.h"
#include "src/shape.h"
#include "src/workspace.h"
#include "ttfs/layers.h"

namespace ttfs {
namespace {

// Of a bundle's events, a thread: what stays in its second-level cache; more, for enough pixels or
// where threads share it; most, if every bundle also has to bring heavy weights there.
constexpr std::int64_t kEventBytes = std::int64_t{256} << 10, kMoreEventBytes = 16 * kEventBytes,
                       kMostEventBytes = 32 * kEventBytes;
constexpr std::int64_t kCachedBytes = std::int64_t{1} << 20;  // of weights that need no sharing
constexpr std::int64_t kPatchLimit = std::int64_t{1} << 16;   // inputs that one tile sees

/// One axis of the convolution. Outputs `every` apart read inputs on a common grid of step
/// `dilation`, on which the kernel is dense and the stride is `stride`: a dilated convolution is
/// `every` ordinary ones side by side.
struct Axis {
  Axis(std::int64_t in_size, std::int64_t out_size, std::int64_t kernel_size,
       std::int64_t stride_size, std::int64_t padding, std::int64_t dilation_size)
      : in(in_size),
        out(out_size),
        kernel(kernel_size),
        dilation(dilation_size),
        every(dilation_size / std::gcd(stride_size, dilation_size)),
        stride(stride_size / std::gcd(stride_size, dilation_size)),
        step(stride_size),
        pad(padding) {}

  /// Outputs of the given phase (first output, in [0, every)).
  std::int64_t outputs(std::int64_t phase) const {
    return phase < out ? ceil_div(out - phase, every) : 0;
  }
  /// Inputs that `n` neighbouring outputs of a phase see.
  std::int64_t span(std::int64_t n) const { return (n - 1) * stride + kernel; }

  std::int64_t in, out, kernel, dilation, every, stride, step, pad;
};

/// Outputs of one image, a row of tiles long.
struct Strip {
  std::int64_t image, group;
  std::int64_t row_phase, column_phase;
  std::int64_t row, column;    // first output, counted within the phase
  std::int64_t rows, columns;  // outputs within the strip
  std::int64_t pixel;          // of its first output within the bundle
};

/// Strips [first, last) of one group. A bundle is collected and then swept, piece by piece.
struct Run {
  std::int64_t first, last;
  std::int64_t pixels;
};
struct Bundle {
  Run strips;
  std::vector<Run> pieces;
};

struct TileShape {
  std::int64_t rows, columns;
};

/// The tile with the least work a pixel: a larger one shares the sorting among more pixels, but
/// each pixel filters its events out of more. The weights are cycles an event, measured on Sapphire
/// Rapids.
TileShape choose_tile(const Axis& y, const Axis& x, std::int64_t channels) {
  constexpr double sort_cost = 10, filter_cost = 0.4;
  TileShape best{1, 1};
  double least = sort_cost * static_cast<double>(y.kernel * x.kernel);
  const std::int64_t height = y.outputs(0), width = x.outputs(0);
  for (std::int64_t rows = 1; rows <= std::min<std::int64_t>(kTilePixels, height); ++rows)
    for (std::int64_t columns = 1; columns <= std::min(kTilePixels / rows, width); ++columns) {
      if (rows * columns == 1) continue;
      const std::int64_t seen = y.span(rows) * x.span(columns);
      if (seen * channels > kPatchLimit) continue;
      const double used = static_cast<double>(height * width) /
                          static_cast<double>(ceil_div(height, rows) * ceil_div(width, columns));
      const double cost = static_cast<double>(seen) * (sort_cost / used + filter_cost);
      if (cost < least) {
        least = cost;
        best = {rows, columns};
      }
    }
  return best;
}

/// Weights of one group as [block][row][output in block]; rows in the order of the weight tensor
/// (channel, kernel row, kernel column), then the bias, if any, and a row of zeros.
template <class T>
class PackedWeights {
 public:
  PackedWeights(const ConvShape& s, const T* weight, const T* bias)
      : weight_(weight),
        bias_(bias),
        groups_(s.groups),
        outputs_(s.out_channels / s.groups),
        inputs_(s.in_channels / s.groups * s.kernel_height * s.kernel_width),
        rows_(inputs_ + (bias ? 2 : 1)),
        padded_(round_up(outputs_, kBlockGrain)) {}

  /// Memory for what is kept of every block, and for all weights if they are packed ahead.
  void plan(Workspace& workspace, bool ahead) const {
    for (int i = 0; i < 2; ++i) workspace.plan<T>(groups_ * padded_);
    if (ahead) workspace.plan<T>(groups_ * rows_ * padded_);
  }
  void take(Workspace& workspace, bool ahead) {
    start_ = workspace.take<T>(groups_ * padded_);
    bends_ = workspace.take<T>(groups_ * padded_);
    if (ahead) weights_ = workspace.take<T>(groups_ * rows_ * padded_);
  }

  void pack_all(const Kernels<T>& k, int threads) const {
    parallel_for(groups_ * blocks(), threads, [&](std::int64_t item, int) {
      const std::int64_t group = item / blocks(), b = item % blocks();
      pack(k, group, b, block(group, b));
    });
  }

  void pack(const Kernels<T>& k, std::int64_t group, std::int64_t b, T* to) const {
    const std::int64_t first = b * kBlock, w = width(b);
    const std::int64_t used = std::min(w, outputs_ - first);
    const T* from = weight_ + (group * outputs_ + first) * inputs_;
    if (used < w) std::fill(to, to + rows_ * w, T{0});
    std::fill(to + no_weight() * w, to + rows_ * w, T{0});
    k.transpose(from, inputs_, to, w, used, inputs_);
    T* first_slope = start(group, b);
    std::fill(first_slope, first_slope + w, T{-1});
    T* bend = bends(group, b);
    std::fill(bend, bend + w, T{0});
    for (std::int64_t j = 0; j < used; ++j) {
      T lowest = k.lowest(from + j * inputs_, inputs_);
      if (bias_) {
        const T joins = bias_[group * outputs_ + first + j];
        to[inputs_ * w + j] = joins;
        lowest = std::isfinite(joins) ? std::min(lowest, joins) : joins - joins;
      }
      bend[j] = static_cast<T>(kBend) * -lowest;
      if (std::isnan(lowest)) first_slope[j] = std::numeric_limits<T>::quiet_NaN();
    }
  }

  std::int64_t bytes() const {
    return groups_ * rows_ * padded_ * static_cast<std::int64_t>(sizeof(T));
  }
  /// Values of the largest block.
  std::int64_t block_size() const { return rows_ * std::min(padded_, kBlock); }
  std::int64_t blocks() const { return ceil_div(outputs_, kBlock); }
  std::int64_t width(std::int64_t b) const { return std::min(kBlock, padded_ - b * kBlock); }
  std::int64_t inputs() const { return inputs_; }
  /// Events that a pixel has at most.
  std::int64_t events() const { return rows_ - 1; }
  /// The row of zeros.
  std::int64_t no_weight() const { return rows_ - 1; }
  std::int64_t outputs() const { return outputs_; }
  /// Where a block is packed ahead.
  T* block(std::int64_t group, std::int64_t b) const {
    return weights_ + (group * padded_ + b * kBlock) * rows_;
  }
  T* start(std::int64_t group, std::int64_t b) const {
    return start_ + group * padded_ + b * kBlock;
  }
  T* bends(std::int64_t group, std::int64_t b) const {
    return bends_ + group * padded_ + b * kBlock;
  }

 private:
  const T *weight_, *bias_;
  std::int64_t groups_, outputs_, inputs_, rows_, padded_;
  T* weights_ = nullptr;
  T *start_ = nullptr, *bends_ = nullptr;
};

/// Throws where some input is no spike value.
template <class T>
void require_positive(const Kernels<T>& k, const ConvShape& s, ConstView<T> input, int threads) {
  struct Dimension {
    std::int64_t size, stride;
  };
  Dimension d[4] = {{s.batch, input.stride.n},
                    {s.in_channels, input.stride.c},
                    {s.in_height, input.stride.h},
                    {s.in_width, input.stride.w}};
  for (Dimension& each : d) {
    if (each.size == 0) return;
    if (each.stride == 0) each.size = 1;  // an expanded tensor: the same values again
  }
  // Innermost the dimension of unit stride; dimensions that continue each other become one.
  std::sort(d, d + 4, [](const Dimension& a, const Dimension& b) {
    return a.size == 1 || b.size == 1 ? a.size != 1 && b.size == 1 : a.stride < b.stride;
  });
  std::vector<Dimension> merged{{1, 1}};
  for (const Dimension& each : d) {
    Dimension& last = merged.back();
    if (each.size == 1) continue;
    if (each.stride == last.stride * last.size)
      last.size *= each.size;
    else
      merged.push_back(each);
  }
  merged.resize(5, {1, 0});
  const std::int64_t outer = merged[1].size * merged[2].size * merged[3].size * merged[4].size;
  constexpr std::int64_t chunk = std::int64_t{1} << 16;
  const std::int64_t pieces = ceil_div(merged[0].size, chunk);
  // A short run costs more to hand out than to read.
  const std::int64_t batch = std::max<std::int64_t>(1, chunk / merged[0].size);
  std::vector<unsigned char> bad(static_cast<std::size_t>(std::max(threads, 1)), 0);
  parallel_for(ceil_div(outer, batch) * pieces, threads, [&](std::int64_t item, int worker) {
    const std::int64_t piece = item % pieces, from = item / pieces * batch;
    for (std::int64_t o = from; o < std::min(outer, from + batch); ++o) {
      std::int64_t rest = o, at = piece * chunk;
      for (int i = 1; i < 5; ++i) {
        at += rest % merged[static_cast<std::size_t>(i)].size *
              merged[static_cast<std::size_t>(i)].stride;
        rest /= merged[static_cast<std::size_t>(i)].size;
      }
      if (k.any_not_positive(input.data + at, std::min(chunk, merged[0].size - piece * chunk)))
        bad[static_cast<std::size_t>(worker)] = 1;
    }
  });
  if (std::find(bad.begin(), bad.end(), 1) != bad.end())
    throw std::invalid_argument(
        "input holds a value that is not positive; spike values are z = exp(t) > 0 with t the "
        "spike time, +inf for a neuron that does not spike (ttfs_fast.encoding makes them from "
        "times or pixels)");
}

template <class T>
class Forward {
 public:
  Forward(const ConvShape& shape, ConstView<T> in, const T* weight_data, const T* bias_data,
          double t_max, View<T> out, T* slopes, int thread_limit)
      : s(shape),
        k(kernels_of<T>(kernels())),
        input(in),
        output(out),
        slope(slopes),
        weight(weight_data),
        bias(bias_data),
        horizon(static_cast<T>(std::exp(t_max))),
        threads(std::max(thread_limit, 1)),
        y(s.in_height, s.out_height, s.kernel_height, s.stride_height, s.pad_top,
          s.dilation_height),
        x(s.in_width, s.out_width, s.kernel_width, s.stride_width, s.pad_left, s.dilation_width),
        channels(s.in_channels / s.groups),
        weights(s, weight_data, bias_data) {
    tile = choose_tile(y, x, channels);
    patch_rows = y.span(tile.rows);
    patch_columns = x.span(tile.columns);
    patch = patch_rows * patch_columns * channels;
    choose_strips();
    // One bundle a group sweeps each block of weights once: whoever does packs it first, and has it
    // in the cache. Else they are packed ahead, for all.
    const int team = team_size(threads, threads);
    ahead = static_cast<std::int64_t>(bundles.size()) > s.groups || weights.blocks() < 4 * team;
    strip_columns = x.span(strip_tiles * tile.columns);
    std::int64_t pixels = 0, piece_pixels = 0;
    for (const Bundle& b : bundles) {
      pixels = std::max(pixels, b.strips.pixels);
      for (const Run& piece : b.pieces) piece_pixels = std::max(piece_pixels, piece.pixels);
    }
    const std::int64_t strip_inputs = patch_rows * strip_columns * channels;
    weights.plan(workspace, ahead);
    workspace.plan<std::uint32_t>(strip_inputs);
    workspace.plan<std::uint16_t>(strip_inputs);
    for (int i = 0; i < (apart ? team : 1); ++i) {
      for (int j = 0; j < 2; ++j) workspace.plan<T>(pixels * room());
      workspace.plan<std::uint32_t>(pixels * room());
      workspace.plan<std::int64_t>(pixels);
      workspace.plan<std::uint32_t>(pixels * weights.blocks());
    }
    for (int worker = 0; worker < team; ++worker) {
      workspace.plan<T>(strip_inputs);
      for (int i = 0; i < 2; ++i) workspace.plan<T>(patch + 1);
      for (int i = 0; i < 3; ++i) workspace.plan<std::uint32_t>(patch + 1);
      workspace.plan<std::uint16_t>(patch);
      for (int i = 0; i < 2; ++i) workspace.plan<T>(piece_pixels * kBlock);
      workspace.plan<T>(weights.inputs() + 1);
      if (!ahead) workspace.plan<T>(weights.block_size());
    }
    workspace.allocate();
    weights.take(workspace, ahead);
    if (ahead) weights.pack_all(k, threads);
    row_of = workspace.take<std::uint32_t>(strip_inputs);
    members_of = workspace.take<std::uint16_t>(strip_inputs);
    describe_patch();
    for (int i = 0; i < (apart ? team : 1); ++i) {
      Events e;
      e.times = workspace.take<T>(pixels * room());
      e.rests = workspace.take<T>(pixels * room());
      e.rows = workspace.take<std::uint32_t>(pixels * room());
      e.counts = workspace.take<std::int64_t>(pixels);
      e.marks = workspace.take<std::uint32_t>(pixels * weights.blocks());
      events.push_back(e);
    }
    for (int worker = 0; worker < team; ++worker) {
      Scratch w;
      w.strip = workspace.take<T>(strip_inputs);
      w.times = workspace.take<T>(patch + 1);
      w.found_times = workspace.take<T>(patch + 1);
      w.positions = workspace.take<std::uint32_t>(patch + 1);
      w.found_positions = workspace.take<std::uint32_t>(patch + 1);
      w.rows = workspace.take<std::uint32_t>(patch + 1);
      w.members = workspace.take<std::uint16_t>(patch);
      w.values = workspace.take<T>(piece_pixels * kBlock);
      w.slopes = workspace.take<T>(piece_pixels * kBlock);
      w.field = workspace.take<T>(weights.inputs() + 1);
      w.block = ahead ? nullptr : workspace.take<T>(weights.block_size());
      scratch.push_back(w);
    }
  }

  void run() {
    const auto count = static_cast<std::int64_t>(bundles.size());
    const Stop stop;
    if (apart)
      parallel_for(count, threads, [&](std::int64_t item, int worker) {
        const auto here = [&stop, worker](std::int64_t items, const auto& body) {
          for (std::int64_t i = 0; i < items && !stop(worker); ++i) body(i, worker);
        };
        run_bundle(bundles[static_cast<std::size_t>(item)],
                   events[static_cast<std::size_t>(worker)], here);
      });
    else
      for (const Bundle& bundle : bundles)
        run_bundle(bundle, events[0], [this](std::int64_t items, const auto& body) {
          parallel_for(items, threads, body);
        });
  }

 private:
  /// Of a bundle's pixels: events, how many (-1: the pixel sees a NaN), and in [pixel][block] a bit
  /// for each output to be refined.
  struct Events {
    T *times, *rests;
    std::uint32_t* rows;
    std::int64_t* counts;
    std::uint32_t* marks;
  };

  /// Memory of one thread.
  struct Scratch {
    T* strip;                // inputs, [row][column][channel]
    T *found_times, *times;  // events of a tile, before they are sorted and after
    std::uint32_t *found_positions, *positions, *rows;
    std::uint16_t* members;
    T *values, *slopes;  // results of a piece and block
    T* block;            // of weights, if they are not packed ahead
    T* field;  // a receptive field's inputs in the order of the weights, +inf where silent
  };

  /// Calls for_each(items, body) for each phase's pieces of work, body(item, worker).
  template <class ForEach>
  void run_bundle(const Bundle& bundle, const Events& e, const ForEach& for_each) const {
    const Run& all = bundle.strips;
    const auto strip_of = [&](std::int64_t item) -> const Strip& {
      return strips[static_cast<std::size_t>(all.first + item)];
    };
    for_each(all.last - all.first, [&](std::int64_t item, int worker) {
      const Scratch& w = scratch[static_cast<std::size_t>(worker)];
      copy_strip(strip_of(item), w);
      collect_events(strip_of(item), e, w);
    });
    const auto sweep_piece = [&](const Run& piece, std::int64_t b, const T* packed,
                                 const Scratch& w) {
      sweep_block(piece, b, packed, e, w);
      for (std::int64_t i = piece.first; i < piece.last; ++i)
        write_block(strips[static_cast<std::size_t>(i)], first_pixel(piece), b, w);
    };
    const std::int64_t group = strips[static_cast<std::size_t>(all.first)].group;
    const auto pieces = static_cast<std::int64_t>(bundle.pieces.size());
    if (ahead)
      // All pieces of one block of outputs, then all of the next.
      for_each(weights.blocks() * pieces, [&](std::int64_t item, int worker) {
        const std::int64_t b = item / pieces;
        sweep_piece(bundle.pieces[static_cast<std::size_t>(item % pieces)], b,
                    weights.block(group, b), scratch[static_cast<std::size_t>(worker)]);
      });
    else
      for_each(weights.blocks(), [&](std::int64_t b, int worker) {
        const Scratch& w = scratch[static_cast<std::size_t>(worker)];
        weights.pack(k, group, b, w.block);
        for (const Run& piece : bundle.pieces) sweep_piece(piece, b, w.block, w);
      });
    for_each(all.last - all.first, [&](std::int64_t item, int worker) {
      refine_strip(strip_of(item), e, scratch[static_cast<std::size_t>(worker)]);
    });
  }

  /// Room for the events of a pixel.
  std::int64_t room() const { return round_up(weights.events(), kChunk) + kBlockGrain; }

  /// Cuts the output into strips, short enough that every thread finds some, and into bundles.
  void choose_strips() {
    const int team = team_size(threads, threads);
    const std::int64_t pixel_bytes =
        room() * static_cast<std::int64_t>(2 * sizeof(T) + sizeof(std::uint32_t));
    const std::int64_t bytes = std::clamp(weights.bytes() / 2, kEventBytes, kMostEventBytes);
    const std::int64_t more = std::max<std::int64_t>(kMoreEventBytes / pixel_bytes, 1);
    // A bundle a thread reads all weights: it should have enough pixels for that to pay.
    const std::int64_t enough = weights.bytes() > kCachedBytes ? 32 : 8;
    const std::int64_t fit = std::max(bytes / pixel_bytes, std::min(2 * enough, more));
    const std::int64_t all = s.batch * s.groups * s.out_height * s.out_width;
    const std::int64_t share =
        ceil_div(all, round_up(std::max<std::int64_t>(ceil_div(all, fit), 4 * team), team));
    apart = team == 1 || share >= enough;
    const std::int64_t most = team == 1 ? fit : apart ? share : team * more;
    const std::int64_t across = ceil_div(x.outputs(0), tile.columns);
    const std::int64_t tiles =
        s.batch * s.groups * y.every * x.every * ceil_div(y.outputs(0), tile.rows) * across;
    strip_tiles =
        std::clamp<std::int64_t>(tiles / (8 * team), 1, std::min<std::int64_t>(across, 8));
    strip_tiles = std::clamp<std::int64_t>(most / (tile.rows * tile.columns), 1, strip_tiles);
    strip_tiles = ceil_div(across, ceil_div(across, strip_tiles));  // alike: all have the same room
    const std::int64_t length = strip_tiles * tile.columns;
    Run run{0, 0, 0};
    const auto close = [&] {
      run.last = static_cast<std::int64_t>(strips.size());
      if (run.pixels > 0) bundles.push_back({run, cut(run)});
      run = {run.last, 0, 0};
    };
    for (std::int64_t g = 0; g < s.groups; ++g, close())
      for (std::int64_t n = 0; n < s.batch; ++n)
        for (std::int64_t py = 0; py < y.every; ++py)
          for (std::int64_t px = 0; px < x.every; ++px)
            for (std::int64_t row = 0; row < y.outputs(py); row += tile.rows)
              for (std::int64_t column = 0; column < x.outputs(px); column += length) {
                Strip strip{n, g, py, px, row, column, 0, 0, 0};
                strip.rows = std::min(tile.rows, y.outputs(py) - row);
                strip.columns = std::min(length, x.outputs(px) - column);
                const std::int64_t pixels = strip.rows * strip.columns;
                if (run.pixels > 0 && run.pixels + pixels > most) close();
                strip.pixel = run.pixels;
                run.pixels += pixels;
                strips.push_back(strip);
              }
  }

  /// Cuts a bundle's strips into pieces: some for every thread that shares it, and short enough
  /// that a piece's results stay in the first cache until they are written.
  std::vector<Run> cut(const Run& all) const {
    const std::int64_t share = all.pixels * weights.blocks() / (4 * threads);
    const std::int64_t enough = apart ? 48 : std::clamp<std::int64_t>(share, 1, 48);
    std::vector<Run> pieces;
    Run piece{all.first, all.first, 0};
    for (std::int64_t i = all.first; i < all.last; ++i) {
      const Strip& strip = strips[static_cast<std::size_t>(i)];
      piece.pixels += strip.rows * strip.columns;
      piece.last = i + 1;
      if (piece.pixels >= enough || i + 1 == all.last) {
        pieces.push_back(piece);
        piece = {i + 1, i + 1, 0};
      }
    }
    return pieces;
  }

  std::int64_t first_pixel(const Run& run) const {
    return strips[static_cast<std::size_t>(run.first)].pixel;
  }

  /// For every input that a tile sees, by its position in a strip from the tile's corner on: its
  /// row of weights at the tile's first pixel, and the pixels whose receptive field holds it.
  void describe_patch() {
    for (std::int64_t r = 0; r < patch_rows; ++r)
      for (std::int64_t c = 0; c < patch_columns; ++c) {
        std::uint32_t word = 0;
        for (std::int64_t i = 0; i < tile.rows; ++i)
          for (std::int64_t j = 0; j < tile.columns; ++j) {
            const std::int64_t ky = r - i * y.stride, kx = c - j * x.stride;
            if (ky >= 0 && ky < y.kernel && kx >= 0 && kx < x.kernel)
              word |= 1u << (i * tile.columns + j);
          }
        for (std::int64_t ch = 0; ch < channels; ++ch) {
          const std::int64_t at = (r * strip_columns + c) * channels + ch;
          row_of[at] =
              kRowUnit * static_cast<std::uint32_t>(ch * y.kernel * x.kernel + r * x.kernel + c);
          members_of[at] = static_cast<std::uint16_t>(word);
        }
      }
  }

  std::int64_t out_row(const Strip& strip, std::int64_t i) const {
    return strip.row_phase + (strip.row + i) * y.every;
  }
  std::int64_t out_column(const Strip& strip, std::int64_t j) const {
    return strip.column_phase + (strip.column + j) * x.every;
  }

  void copy_strip(const Strip& strip, const Scratch& w) const {
    const Grid grid{out_row(strip, 0) * y.step - y.pad,
                    out_column(strip, 0) * x.step - x.pad,
                    y.dilation,
                    x.dilation,
                    patch_rows,
                    strip_columns};
    copy_grid(k,
              input.data + strip.image * input.stride.n + strip.group * channels * input.stride.c,
              input.stride, s.in_height, s.in_width, channels, grid,
              std::numeric_limits<T>::infinity(), w.strip);
  }

  /// Calls body(inputs, first position, sum so far) for each row of what the tile with this corner
  /// sees, and returns the sum of what it returns.
  template <class Body>
  std::int64_t each_row(const T* corner, const Body& body) const {
    std::int64_t count = 0;
    for (std::int64_t r = 0; r < patch_rows; ++r) {
      const std::int64_t first = r * strip_columns * channels;
      count += body(corner + first, static_cast<std::uint32_t>(first), count);
    }
    return count;
  }

  /// Sorts the events of the tile with this corner: times and positions. Returns how many.
  std::int64_t sort_events(const T* corner, const Extent<T>& extent, const Scratch& w) const {
    const std::int64_t run = patch_columns * channels;
    if (((patch_rows - 1) * strip_columns + patch_columns) * channels <= kWordPositions) {
      const std::int64_t count =
          each_row(corner, [&](const T* inputs, std::uint32_t first, std::int64_t at) {
            return k.collect_words(inputs, run, first, horizon, extent.least, extent.most,
                                   w.positions + at);
          });
      if (k.sort_words(w.positions, count, corner, w.times, w.found_positions)) return count;
    }
    const std::int64_t count =
        each_row(corner, [&](const T* inputs, std::uint32_t first, std::int64_t at) {
          return k.collect(inputs, run, first, horizon, w.found_times + at, w.found_positions + at);
        });
    k.sort(w.found_times, w.found_positions, count, w.times, w.positions);
    return count;
  }

  void collect_events(const Strip& strip, const Events& to, const Scratch& w) const {
    const Extent<T> extent = k.extent(w.strip, patch_rows * strip_columns * channels, horizon);
    for (std::int64_t column = 0; column < strip.columns; column += tile.columns) {
      const T* corner = w.strip + column * x.stride * channels;
      const std::int64_t count = sort_events(corner, extent, w);
      for (std::int64_t e = 0; e < count; ++e) {
        w.rows[e] = row_of[w.positions[e]];
        w.members[e] = members_of[w.positions[e]];
      }
      // Where the bias joins: behind every event with z <= 1.
      const std::int64_t split =
          bias_joins() ? std::upper_bound(w.times, w.times + count, T{1}) - w.times : count;
      for (std::int64_t i = 0; i < strip.rows; ++i)
        for (std::int64_t j = 0; j < std::min(tile.columns, strip.columns - column); ++j) {
          const std::int64_t pixel = strip.pixel + i * strip.columns + column + j;
          T* times = to.times + pixel * room();
          std::uint32_t* rows = to.rows + pixel * room();
          const int bit = static_cast<int>(i * tile.columns + j);
          const auto shift =
              kRowUnit * static_cast<std::uint32_t>(i * y.stride * x.kernel + j * x.stride);
          std::int64_t n = k.filter(w.times, w.rows, w.members, split, bit, shift, times, rows);
          if (bias_joins()) {
            times[n] = 1;
            rows[n++] = kRowUnit * static_cast<std::uint32_t>(weights.inputs());
            n += k.filter(w.times + split, w.rows + split, w.members + split, count - split, bit,
                          shift, times + n, rows + n);
          }
          k.complete(times, rows, n, kRowUnit * static_cast<std::uint32_t>(weights.no_weight()),
                     to.rests + pixel * room());
          to.counts[pixel] = n;
          if (extent.nan && field_has_nan(corner, i, j)) to.counts[pixel] = -1;
        }
    }
  }

  bool bias_joins() const { return bias && horizon > 1; }

  bool field_has_nan(const T* corner, std::int64_t i, std::int64_t j) const {
    for (std::int64_t ky = 0; ky < y.kernel; ++ky) {
      const T* row = corner + ((i * y.stride + ky) * strip_columns + j * x.stride) * channels;
      if (k.any_nan(row, x.kernel * channels)) return true;
    }
    return false;
  }

  void sweep_block(const Run& piece, std::int64_t b, const T* packed, const Events& e,
                   const Scratch& w) const {
    const std::int64_t group = strips[static_cast<std::size_t>(piece.first)].group;
    const std::int64_t first = first_pixel(piece);
    for (std::int64_t i = 0; i < piece.pixels; ++i) {
      const std::int64_t pixel = first + i;
      T *values = w.values + i * kBlock, *slopes = w.slopes + i * kBlock;
      std::uint32_t* mark = e.marks + pixel * weights.blocks() + b;
      if (e.counts[pixel] < 0) {
        std::fill(values, values + kBlock, std::numeric_limits<T>::quiet_NaN());
        std::fill(slopes, slopes + kBlock, std::numeric_limits<T>::quiet_NaN());
        *mark = 0;
        continue;
      }
      k.sweep({e.times + pixel * room(), e.rests + pixel * room(), e.rows + pixel * room(),
               e.counts[pixel], packed, weights.start(group, b), weights.bends(group, b),
               weights.width(b), horizon, values, slopes, mark});
    }
  }

  void write_block(const Strip& strip, std::int64_t piece_pixel, std::int64_t b,
                   const Scratch& w) const {
    const std::int64_t first = strip.group * weights.outputs() + b * kBlock;
    const std::int64_t used = std::min(kBlock, weights.outputs() - b * kBlock);
    for (std::int64_t i = 0; i < strip.rows; ++i) {
      const std::int64_t row = out_row(strip, i);
      const std::int64_t pixel = strip.pixel - piece_pixel + i * strip.columns;
      const std::int64_t column = out_column(strip, 0);
      T* slopes = slope +
                  ((strip.image * s.out_height + row) * s.out_width + column) * s.out_channels +
                  first;
      for (std::int64_t j = 0; j < strip.columns; ++j)
        std::copy_n(w.slopes + (pixel + j) * kBlock, used, slopes + j * x.every * s.out_channels);
      T* values = output.data + strip.image * output.stride.n + first * output.stride.c +
                  row * output.stride.h + column * output.stride.w;
      const std::int64_t step = x.every * output.stride.w;
      if (step == 1 && output.stride.c != 1) {
        k.transpose(w.values + pixel * kBlock, kBlock, values, output.stride.c, strip.columns,
                    used);
      } else {
        for (std::int64_t j = 0; j < strip.columns; ++j)
          for (std::int64_t o = 0; o < used; ++o)
            values[j * step + o * output.stride.c] = w.values[(pixel + j) * kBlock + o];
      }
    }
  }

  void refine_strip(const Strip& strip, const Events& e, const Scratch& w) const {
    for (std::int64_t i = 0; i < strip.rows; ++i)
      for (std::int64_t j = 0; j < strip.columns; ++j) {
        const std::int64_t pixel = strip.pixel + i * strip.columns + j;
        const std::uint32_t* mark = e.marks + pixel * weights.blocks();
        if (std::any_of(mark, mark + weights.blocks(), [](std::uint32_t m) { return m != 0; }))
          refine_pixel(strip, pixel, out_row(strip, i), out_column(strip, j), e, w);
      }
  }

  void refine_pixel(const Strip& strip, std::int64_t pixel, std::int64_t row, std::int64_t column,
                    const Events& events_of, const Scratch& w) const {
    RefineTask<T> task;
    task.field = w.field;
    task.inputs = weights.inputs();
    task.bias_joins = bias_joins();
    task.times = events_of.times + pixel * room();
    task.rows = events_of.rows + pixel * room();
    task.count = events_of.counts[pixel];
    task.horizon = horizon;
    // (The bias, if any, is one row more.)
    std::fill_n(w.field, weights.inputs(), std::numeric_limits<T>::infinity());
    for (std::int64_t e = 0; e < task.count; ++e) w.field[task.rows[e] / kRowUnit] = task.times[e];
    for (std::int64_t b = 0; b < weights.blocks(); ++b)
      for (std::uint32_t rest = events_of.marks[pixel * weights.blocks() + b]; rest;
           rest &= rest - 1) {
        const std::int64_t in_group = b * kBlock + std::countr_zero(rest);
        if (in_group >= weights.outputs()) break;
        const std::int64_t out = strip.group * weights.outputs() + in_group;
        task.weights = weight + out * weights.inputs();
        task.bias = bias ? bias[out] : T{0};
        task.value = output.data + strip.image * output.stride.n + out * output.stride.c +
                     row * output.stride.h + column * output.stride.w;
        task.slope = slope +
                     ((strip.image * s.out_height + row) * s.out_width + column) * s.out_channels +
                     out;
        k.refine(task);
      }
  }

  const ConvShape s;
  const Kernels<T>& k;
  const ConstView<T> input;
  const View<T> output;
  T* const slope;
  const T *const weight, *const bias;
  const T horizon;
  const int threads;
  const Axis y, x;
  const std::int64_t channels;
  Workspace workspace;
  PackedWeights<T> weights;
  TileShape tile;
  std::int64_t patch_rows, patch_columns, patch;  // what one tile sees
  std::int64_t strip_tiles = 1;
  std::int64_t strip_columns = 0;  // inputs across a strip
  std::vector<Strip> strips;
  std::vector<Bundle> bundles;
  std::uint32_t* row_of = nullptr;
  std::uint16_t* members_of = nullptr;
  bool apart = false;          // a thread does whole bundles
  bool ahead = true;           // weights are packed before all else
  std::vector<Events> events;  // one a thread, or one for all
  std::vector<Scratch> scratch;
};

}  // namespace

template <class T>
void spiking_conv2d_forward(const ConvShape& shape, ConstView<T> input, const T* weight,
                            const T* bias, double t_max, View<T> output, T* slope, int threads) {
  check(shape);
  if (std::isnan(t_max)) throw std::invalid_argument("t_max is NaN; it must be a spike time");
  require_positive(kernels_of<T>(kernels()), shape, input, threads);
  if (shape.batch == 0 || shape.out_channels == 0 || shape.out_height == 0 || shape.out_width == 0)
    return;
  Forward<T>(shape, input, weight, bias, t_max, output, slope, threads).run();
}

template void spiking_conv2d_forward(const ConvShape&, ConstView<float>, const float*, const float*,
                                     double, View<float>, float*, int);
template void spiking_conv2d_forward(const ConvShape&, ConstView<double>, const double*,
                                     const double*, double, View<double>, double*, int);

}  // namespace ttfs
