// One layer of the integer engine. As in forward.cpp, the output goes by in bundles of pixels whose
// events fit in memory set aside: first the threads collect them, tile by tile, then they sweep
// them, one block of outputs after another.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/table.h"
#include "src/integer.h"
#include "src/parallel.h"
#include "src/workspace.h"

namespace ttfs::integer {
namespace {

constexpr std::int64_t kEventBytes = std::int64_t{1} << 20;  // of a bundle's events, a thread
constexpr std::int64_t kSlack = 32;  // words that a kernel may write past its events

/// Output pixels that share the collecting and sorting of their events.
struct Tile {
  std::int64_t image, group;
  std::int64_t row, column, rows, columns;
  std::int64_t pixel;  // of its first output within the bundle
};

/// Tiles [first, last) and their pixels.
struct Run {
  std::int64_t first, last;
  std::int64_t pixels;
};

struct TileShape {
  std::int64_t rows, columns;
};

struct Pixel {
  std::int64_t groups;      // of events
  std::int64_t bias_group;  // the bias joins before it; -1: never
  bool exact;               // 32 bits do not hold a group
};

class LayerRun {
 public:
  LayerRun(const Layer& l, std::uint16_t silent_code, std::int64_t images,
           const std::uint16_t* from, std::uint16_t* to, int thread_limit)
      : layer(l),
        s(l.neurons->shape),
        k(kernels().integer),
        weights(*l.weights),
        silent(silent_code),
        reference(l.neurons->reference_code),
        batch(images),
        in(from),
        out(to),
        threads(std::max(thread_limit, 1)),
        channels(s.in_channels / s.groups),
        has_bias(!l.neurons->bias.empty()) {
    choose_tile();
    patch = patch_rows() * patch_columns() * channels;
    room = round_up(weights.rows(), kGroupEvents) + 2 * kGroupEvents + kSlack;
    cut();
    std::int64_t pixels = 0;
    for (const Run& bundle : bundles) pixels = std::max(pixels, bundle.pixels);
    const int team = team_size(threads, threads);
    const bool packed = layer.neurons->bits < 8;
    const std::int64_t block_bytes = packed ? (weights.rows() + 1) * kWideBlock : 0;
    workspace.plan<std::uint16_t>(patch);
    workspace.plan<std::uint16_t>(patch);
    workspace.plan<std::uint32_t>(pixels * room);
    workspace.plan<EventGroup>(pixels * (room / kGroupEvents));
    workspace.plan<Pixel>(pixels);
    for (int i = 0; i < team; ++i) {
      workspace.plan<std::uint32_t>(patch + kSlack);
      workspace.plan<std::uint32_t>(patch + kSlack);
      workspace.plan<std::uint16_t>(patch + kSlack);
      workspace.plan<std::int8_t>(block_bytes);
    }
    workspace.allocate();
    row_of = workspace.take<std::uint16_t>(patch);
    members_of = workspace.take<std::uint16_t>(patch);
    words = workspace.take<std::uint32_t>(pixels * room);
    groups = workspace.take<EventGroup>(pixels * (room / kGroupEvents));
    pixel = workspace.take<Pixel>(pixels);
    for (int i = 0; i < team; ++i) {
      Scratch w{};
      w.events = workspace.take<std::uint32_t>(patch + kSlack);
      w.sorted = workspace.take<std::uint32_t>(patch + kSlack);
      w.members = workspace.take<std::uint16_t>(patch + kSlack);
      w.weights = workspace.take<std::int8_t>(block_bytes);
      w.unpacked = -1;
      scratch.push_back(w);
    }
    describe_patch();
  }

  void run() {
    for (const Run& bundle : bundles) {
      parallel_for(bundle.last - bundle.first, threads, [&](std::int64_t item, int worker) {
        collect(tiles[static_cast<std::size_t>(bundle.first + item)],
                scratch[static_cast<std::size_t>(worker)]);
      });
      // All pieces of one block of outputs, then all of the next.
      const std::int64_t group = tiles[static_cast<std::size_t>(bundle.first)].group;
      const auto blocks = static_cast<std::int64_t>(weights.blocks().size());
      const std::int64_t enough =
          std::clamp<std::int64_t>(bundle.pixels * blocks / (8 * threads), 4, 64);
      std::vector<Run> pieces;
      for (std::int64_t i = bundle.first; i < bundle.last; ++i) {
        if (pieces.empty() || pieces.back().pixels >= enough) pieces.push_back({i, i, 0});
        const Tile& tile = tiles[static_cast<std::size_t>(i)];
        pieces.back().last = i + 1;
        pieces.back().pixels += tile.rows * tile.columns;
      }
      const auto count = static_cast<std::int64_t>(pieces.size());
      parallel_for(blocks * count, threads, [&](std::int64_t item, int worker) {
        sweep(pieces[static_cast<std::size_t>(item % count)], group, item / count,
              scratch[static_cast<std::size_t>(worker)]);
      });
    }
  }

 private:
  struct Scratch {
    std::uint32_t *events, *sorted;
    std::uint16_t* members;
    std::int8_t* weights;   // a block's, where they are packed
    std::int64_t unpacked;  // which
  };

  std::int64_t patch_rows() const { return (shape.rows - 1) * s.stride_height + s.kernel_height; }
  std::int64_t patch_columns() const {
    return (shape.columns - 1) * s.stride_width + s.kernel_width;
  }

  /// The tile with the least work a pixel: a larger one shares the sorting among more pixels, but
  /// each pixel filters its events out of more. In cycles an event. Dilated fields share little.
  void choose_tile() {
    constexpr double sort_cost = 8, filter_cost = 0.5;
    constexpr std::int64_t limit = std::int64_t{1} << 16;  // of positions and of rows
    shape = {1, 1};
    if (s.dilation_height > 1 || s.dilation_width > 1) return;
    double least = 0;
    for (std::int64_t rows = 1; rows <= std::min<std::int64_t>(kTilePixels, s.out_height); ++rows)
      for (std::int64_t columns = 1; columns <= std::min(kTilePixels / rows, s.out_width);
           ++columns) {
        const std::int64_t high = (rows - 1) * s.stride_height + s.kernel_height;
        const std::int64_t wide = (columns - 1) * s.stride_width + s.kernel_width;
        const bool single = rows * columns == 1;
        if (!single && (high * wide > limit || high * wide * channels > limit ||
                        (high * s.kernel_width + wide) * channels > limit))
          continue;
        const double used =
            static_cast<double>(s.out_height * s.out_width) /
            static_cast<double>(ceil_div(s.out_height, rows) * ceil_div(s.out_width, columns));
        const double cost =
            static_cast<double>(high * wide) * (sort_cost / used + (single ? 0 : filter_cost));
        if (single || cost < least) {
          least = cost;
          shape = {rows, columns};
        }
      }
  }

  /// Tiles, group after group, and bundles of them.
  void cut() {
    const std::int64_t pixel_bytes =
        room * static_cast<std::int64_t>(sizeof(std::uint32_t) + sizeof(EventGroup) / kGroupEvents);
    const std::int64_t most = std::max<std::int64_t>(threads * kEventBytes / pixel_bytes, 1);
    Run run{0, 0, 0};
    const auto close = [&] {
      run.last = static_cast<std::int64_t>(tiles.size());
      if (run.pixels > 0) bundles.push_back(run);
      run = {run.last, 0, 0};
    };
    for (std::int64_t g = 0; g < s.groups; ++g, close())
      for (std::int64_t n = 0; n < batch; ++n)
        for (std::int64_t row = 0; row < s.out_height; row += shape.rows)
          for (std::int64_t column = 0; column < s.out_width; column += shape.columns) {
            Tile tile{n,
                      g,
                      row,
                      column,
                      std::min(shape.rows, s.out_height - row),
                      std::min(shape.columns, s.out_width - column),
                      0};
            const std::int64_t pixels = tile.rows * tile.columns;
            if (run.pixels + pixels > most) close();
            tile.pixel = run.pixels;
            run.pixels += pixels;
            tiles.push_back(tile);
          }
  }

  /// For every input that a tile sees, its row of weights at the tile's first pixel and the pixels
  /// whose receptive field holds it.
  void describe_patch() {
    for (std::int64_t r = 0; r < patch_rows(); ++r)
      for (std::int64_t c = 0; c < patch_columns(); ++c) {
        std::uint32_t members = 0;
        for (std::int64_t i = 0; i < shape.rows; ++i)
          for (std::int64_t j = 0; j < shape.columns; ++j) {
            const std::int64_t ky = r - i * s.stride_height, kx = c - j * s.stride_width;
            if (ky >= 0 && ky < s.kernel_height && kx >= 0 && kx < s.kernel_width)
              members |= 1U << (i * shape.columns + j);
          }
        for (std::int64_t ch = 0; ch < channels; ++ch) {
          const std::int64_t at = (r * patch_columns() + c) * channels + ch;
          row_of[at] = static_cast<std::uint16_t>((r * s.kernel_width + c) * channels + ch);
          members_of[at] = static_cast<std::uint16_t>(members);
        }
      }
  }

  /// Events of the part of the input that the tile sees; what lies outside the input is silent.
  /// With a horizon, those before it: the slopes from there on are known without the others.
  std::int64_t collect_patch(const Tile& tile, std::uint32_t* events) const {
    const std::int64_t top = tile.row * s.stride_height - s.pad_top;
    const std::int64_t left = tile.column * s.stride_width - s.pad_left;
    const std::int64_t columns = patch_columns();
    const bool dense = s.groups == 1 && s.dilation_width == 1;
    const std::uint16_t bound = reference > 0 ? reference : silent;
    std::int64_t count = 0;
    for (std::int64_t r = 0; r < patch_rows(); ++r) {
      const std::int64_t y = top + r * s.dilation_height;
      if (y < 0 || y >= s.in_height) continue;
      const std::uint16_t* row =
          in + (tile.image * s.in_height + y) * s.in_width * s.in_channels + tile.group * channels;
      const auto take = [&](std::int64_t c, std::int64_t n) {
        const std::int64_t x = left + c * s.dilation_width;
        count += k.collect(row + x * s.in_channels, n * channels,
                           static_cast<std::uint32_t>((r * columns + c) * channels), bound,
                           events + count);
      };
      if (dense) {
        const std::int64_t first = std::clamp<std::int64_t>(-left, 0, columns);
        const std::int64_t last = std::clamp<std::int64_t>(s.in_width - left, first, columns);
        if (last > first) take(first, last - first);
      } else {
        for (std::int64_t c = 0; c < columns; ++c) {
          const std::int64_t x = left + c * s.dilation_width;
          if (x >= 0 && x < s.in_width) take(c, 1);
        }
      }
    }
    return count;
  }

  void collect(const Tile& tile, const Scratch& w) const {
    const std::int64_t count = collect_patch(tile, w.events);
    std::uint32_t* events = k.sort(w.events, count, w.sorted);
    k.describe(events, count, row_of, members_of, w.members);
    const std::uint32_t bias = event_word(layer.neurons->bias_code, 0);
    const std::int64_t split =
        has_bias ? std::lower_bound(events, events + count, bias) - events : 0;
    const auto no_weight = static_cast<std::uint32_t>(weights.rows());
    for (std::int64_t i = 0; i < tile.rows; ++i)
      for (std::int64_t j = 0; j < tile.columns; ++j) {
        const std::int64_t at = tile.pixel + i * tile.columns + j;
        std::uint32_t* to = words + at * room;
        const int bit = static_cast<int>(i * shape.columns + j);
        const auto shift = static_cast<std::uint32_t>(
            (i * s.stride_height * s.kernel_width + j * s.stride_width) * channels);
        std::int64_t n = 0, bias_group = -1;
        // Events that weigh nothing fill the groups.
        const auto fill = [&](std::uint32_t word) {
          while (n % kGroupEvents != 0) to[n++] = word;
        };
        if (has_bias) {
          n = k.filter(events, w.members, split, bit, shift, to);
          fill(bias | no_weight);
          bias_group = n / kGroupEvents;
          to[n++] = bias | no_weight;
        }
        n += k.filter(events + split, w.members + split, count - split, bit, shift, to + n);
        if (reference > 0) to[n++] = event_word(reference, 0) | no_weight;  // F is wanted there
        if (n > 0) fill((to[n - 1] & 0xffff0000) | no_weight);
        const std::int64_t of_pixel = n / kGroupEvents;
        const bool fits = k.group(to, of_pixel, layer.span, groups + at * (room / kGroupEvents));
        pixel[at] = {of_pixel, bias_group, !fits};
      }
  }

  void sweep(const Run& piece, std::int64_t group, std::int64_t b, Scratch& w) const {
    const Block& block = weights.blocks()[static_cast<std::size_t>(b)];
    const Neurons& n = *layer.neurons;
    const auto blocks = static_cast<std::int64_t>(weights.blocks().size());
    const auto which = static_cast<std::size_t>(group * blocks + b);
    const std::int64_t group_width = weights.blocks().back().first + weights.blocks().back().width;
    const std::int64_t lane = group * group_width + block.first;
    IntegerSweepTask task{};
    task.weights = block_weights(group, b, w);
    task.theta = layer.theta.data() + lane;
    task.bias = layer.bias.data() + lane;
    task.slope = reference > 0 ? layer.slope.data() + lane : nullptr;
    task.width = block.width;
    task.used = block.used;
    task.most_negative = layer.most_negative[which];
    task.ratio = n.ratio;
    task.latest = n.latest;
    task.silent = silent;
    std::uint16_t codes[kWideBlock];
    task.codes = codes;
    const std::int64_t first = group * weights.outputs() + block.first;
    for (std::int64_t t = piece.first; t < piece.last; ++t) {
      const Tile& tile = tiles[static_cast<std::size_t>(t)];
      for (std::int64_t i = 0; i < tile.rows; ++i)
        for (std::int64_t j = 0; j < tile.columns; ++j) {
          const std::int64_t at = tile.pixel + i * tile.columns + j;
          task.words = words + at * room;
          task.groups = groups + at * (room / kGroupEvents);
          task.group_count = pixel[at].groups;
          task.bias_group = pixel[at].bias_group;
          task.exact =
              pixel[at].exact || (task.group_count > 0 &&
                                  std::int64_t{layer.highest_theta[which]} * task.groups[0].start >=
                                      std::int64_t{1} << 30);
          k.sweep(task);
          std::copy_n(
              codes, block.used,
              out +
                  ((tile.image * s.out_height + tile.row + i) * s.out_width + tile.column + j) *
                      s.out_channels +
                  first);
        }
    }
  }

  const std::int8_t* block_weights(std::int64_t group, std::int64_t b, Scratch& w) const {
    const Block& block = weights.blocks()[static_cast<std::size_t>(b)];
    const std::uint8_t* packed = weights.block(group, block);
    if (layer.neurons->bits == 8) return reinterpret_cast<const std::int8_t*>(packed);
    const std::int64_t which = group * static_cast<std::int64_t>(weights.blocks().size()) + b;
    if (w.unpacked != which) {
      k.unpack(packed, layer.neurons->bits, weights.rows(), block.width, w.weights);
      std::fill_n(w.weights + weights.rows() * block.width, block.width, std::int8_t{0});
      w.unpacked = which;
    }
    return w.weights;
  }

  const Layer& layer;
  const ConvShape& s;
  const IntegerKernels& k;
  const PackedWeights& weights;
  const std::uint16_t silent;
  const std::uint16_t reference;  // 0: no horizon
  const std::int64_t batch;
  const std::uint16_t* const in;
  std::uint16_t* const out;
  const int threads;
  const std::int64_t channels;
  const bool has_bias;
  TileShape shape{1, 1};
  std::int64_t patch = 0, room = 0;
  std::vector<Tile> tiles;
  std::vector<Run> bundles;
  Workspace workspace;
  std::uint16_t *row_of = nullptr, *members_of = nullptr;
  std::uint32_t* words = nullptr;  // events of a bundle's pixels
  EventGroup* groups = nullptr;
  Pixel* pixel = nullptr;
  std::vector<Scratch> scratch;
};

void run_pooling(const Layer& layer, std::uint16_t silent, std::int64_t batch,
                 const std::uint16_t* in, std::uint16_t* out, int threads) {
  const PoolShape& s = *layer.pooling;
  const IntegerKernels& k = kernels().integer;
  parallel_for(batch * s.out_height, threads, [&](std::int64_t item, int) {
    const std::int64_t n = item / s.out_height, row = item % s.out_height;
    for (std::int64_t column = 0; column < s.out_width; ++column) {
      std::uint16_t* to = out + (item * s.out_width + column) * s.channels;
      std::fill_n(to, s.channels, silent);
      for (std::int64_t ky = 0; ky < s.kernel_height; ++ky)
        for (std::int64_t kx = 0; kx < s.kernel_width; ++kx) {
          const std::int64_t y = s.input_row(row, ky), x = s.input_column(column, kx);
          if (y < 0 || y >= s.in_height || x < 0 || x >= s.in_width) continue;
          k.earlier(in + ((n * s.in_height + y) * s.in_width + x) * s.channels, s.channels, to);
        }
    }
  });
}

}  // namespace

void run_layer(const Layer& layer, std::uint16_t silent, std::int64_t batch,
               const std::uint16_t* in, std::uint16_t* out, int threads) {
  if (batch == 0) return;
  if (layer.pooling)
    run_pooling(layer, silent, batch, in, out, threads);
  else
    LayerRun(layer, silent, batch, in, out, threads).run();
}

}  // namespace ttfs::integer
