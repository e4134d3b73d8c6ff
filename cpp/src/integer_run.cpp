// One layer of the integer engine. As in forward.cpp, the output is processed in work blocks: first
// the threads collect their events, tile by tile, then they sweep them, one block of outputs after
// another.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/table.h"
#include "src/integer.h"
#include "src/parallel.h"
#include "src/tiling.h"
#include "src/workspace.h"

namespace ttfs::integer {
namespace {

constexpr std::int64_t kEventBytes = std::int64_t{1} << 20;  // of a work block's events, a thread
constexpr std::int64_t kSlack = 32;  // words that a kernel may write past its events

/// Cycles an event. An event names its row of weights by 16 bits.
constexpr TileCosts kTileCosts{.sort = 8, .filter = 0.5, .max_weight_rows = 1 << 16};

struct Pixel {
  std::int64_t groups;      // of events
  std::int64_t bias_group;  // the bias joins before it; -1: never
  bool exact;               // a group exceeds 32 bits
};

class LayerRun {
 public:
  LayerRun(const Layer& l, std::uint16_t silent_code, std::int64_t batch, const std::uint16_t* from,
           std::uint16_t* to, int thread_limit)
      : layer(l),
        s(l.neurons->shape),
        k(kernels().integer),
        weights(*l.weights),
        silent(silent_code),
        reference(l.neurons->reference_code),
        in(from),
        out(to),
        threads(std::max(thread_limit, 1)),
        channels(s.in_channels / s.groups),
        has_bias(!l.neurons->bias.empty()),
        max_events(round_up(weights.rows(), kGroupEvents) + 2 * kGroupEvents + kSlack),
        tiling(with_batch(s, batch), kTileCosts) {
    const std::int64_t pixel_bytes =
        max_events *
        static_cast<std::int64_t>(sizeof(std::uint32_t) + sizeof(EventGroup) / kGroupEvents);
    tiling.divide(1, std::max<std::int64_t>(threads * kEventBytes / pixel_bytes, 1));
    tiling.slice([&](std::int64_t pixels) {
      return std::clamp<std::int64_t>(pixels * weights.layout().count() / (8 * threads), 4, 64);
    });
    allocate();
    describe_patch();
  }

  void run() {
    for (const WorkBlock& block : tiling.blocks) {
      const TileRange& range = block.range;
      parallel_for(range.last - range.first, threads, [&](std::int64_t item, int worker) {
        collect(tiling.row(range.first + item), scratch[static_cast<std::size_t>(worker)]);
      });
      // All slices of one block of outputs, then all of the next.
      const auto slices = static_cast<std::int64_t>(block.slices.size());
      parallel_for(weights.layout().count() * slices, threads, [&](std::int64_t item, int worker) {
        sweep(block.slices[static_cast<std::size_t>(item % slices)], item / slices,
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

  static ConvShape with_batch(ConvShape shape, std::int64_t batch) {
    shape.batch = batch;
    return shape;
  }

  void allocate() {
    const std::int64_t pixels = tiling.max_block_pixels();
    const std::int64_t patch = tiling.patch_rows() * tiling.patch_columns() * channels;
    const bool packed = layer.neurons->bits < 8;
    const std::int64_t block_bytes = packed ? (weights.rows() + 1) * kWideBlock : 0;
    scratch.resize(static_cast<std::size_t>(team_size(threads, threads)));
    workspace.allocate([&] {
      row_of = workspace.take<std::uint16_t>(patch);
      members_of = workspace.take<std::uint16_t>(patch);
      words = workspace.take<std::uint32_t>(pixels * max_events);
      groups = workspace.take<EventGroup>(pixels * (max_events / kGroupEvents));
      pixel = workspace.take<Pixel>(pixels);
      for (Scratch& w : scratch) {
        w.events = workspace.take<std::uint32_t>(patch + kSlack);
        w.sorted = workspace.take<std::uint32_t>(patch + kSlack);
        w.members = workspace.take<std::uint16_t>(patch + kSlack);
        w.weights = workspace.take<std::int8_t>(block_bytes);
        w.unpacked = -1;
      }
    });
  }

  /// For every input that a tile sees, its row of weights at the tile's first pixel and the pixels
  /// whose receptive field holds it.
  void describe_patch() {
    tiling.visit_patch([&](std::int64_t r, std::int64_t c, std::uint16_t members) {
      for (std::int64_t ch = 0; ch < channels; ++ch) {
        const std::int64_t at = (r * tiling.patch_columns() + c) * channels + ch;
        row_of[at] = static_cast<std::uint16_t>((r * s.kernel_width + c) * channels + ch);
        members_of[at] = members;
      }
    });
  }

  /// Events of the part of the input that the tile sees; what lies outside the input is silent.
  /// With a horizon, those before it: the slopes from there on are known without the others.
  std::int64_t collect_patch(const TileRow& tile, std::uint32_t* events) const {
    const std::int64_t top = tiling.y.first_input(tiling.out_row(tile, 0));
    const std::int64_t left = tiling.x.first_input(tiling.out_column(tile, 0));
    const std::int64_t columns = tiling.patch_columns();
    const bool dense = s.groups == 1 && s.dilation_width == 1;
    const std::uint16_t bound = reference > 0 ? reference : silent;
    std::int64_t count = 0;
    for (std::int64_t r = 0; r < tiling.patch_rows(); ++r) {
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

  void collect(const TileRow& tile, const Scratch& w) const {
    const std::int64_t count = collect_patch(tile, w.events);
    std::uint32_t* events = k.sort(w.events, count, w.sorted);
    k.describe(events, count, row_of, members_of, w.members);
    const std::uint32_t bias = event_word(layer.neurons->bias_code, 0);
    const std::int64_t split =
        has_bias ? std::lower_bound(events, events + count, bias) - events : 0;
    const auto zero_row = static_cast<std::uint32_t>(weights.rows());
    for (std::int64_t i = 0; i < tile.rows; ++i)
      for (std::int64_t j = 0; j < tile.columns; ++j) {
        const std::int64_t at = tile.pixel + i * tile.columns + j;
        std::uint32_t* to = words + at * max_events;
        const int bit = static_cast<int>(i * tiling.tile.columns + j);
        const auto shift = static_cast<std::uint32_t>(
            (i * tiling.y.stride * s.kernel_width + j * tiling.x.stride) * channels);
        std::int64_t n = 0, bias_group = -1;
        // Events of weight 0 fill up the groups.
        const auto fill = [&](std::uint32_t word) {
          while (n % kGroupEvents != 0) to[n++] = word;
        };
        if (has_bias) {
          n = k.filter(events, w.members, split, bit, shift, to);
          fill(bias | zero_row);
          bias_group = n / kGroupEvents;
          to[n++] = bias | zero_row;
        }
        n += k.filter(events + split, w.members + split, count - split, bit, shift, to + n);
        if (reference > 0) to[n++] = event_word(reference, 0) | zero_row;  // to know F there
        if (n > 0) fill((to[n - 1] & 0xffff0000) | zero_row);
        const std::int64_t of_pixel = n / kGroupEvents;
        const bool fits =
            k.group(to, of_pixel, layer.span, groups + at * (max_events / kGroupEvents));
        pixel[at] = {of_pixel, bias_group, !fits};
      }
  }

  void sweep(const TileRange& slice, std::int64_t b, Scratch& w) const {
    const std::int64_t group = tiling.row(slice.first).group;
    const BlockLayout& layout = weights.layout();
    const Block& block = layout[b];
    const Neurons& n = *layer.neurons;
    const auto which = static_cast<std::size_t>(group * layout.count() + b);
    const std::int64_t lane = layout.place(group, b);
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
    for (std::int64_t t = slice.first; t < slice.last; ++t) {
      const TileRow& tile = tiling.row(t);
      for (std::int64_t i = 0; i < tile.rows; ++i)
        for (std::int64_t j = 0; j < tile.columns; ++j) {
          const std::int64_t at = tile.pixel + i * tile.columns + j;
          task.words = words + at * max_events;
          task.groups = groups + at * (max_events / kGroupEvents);
          task.group_count = pixel[at].groups;
          task.bias_group = pixel[at].bias_group;
          task.exact =
              pixel[at].exact || (task.group_count > 0 &&
                                  std::int64_t{layer.highest_theta[which]} * task.groups[0].start >=
                                      std::int64_t{1} << 30);
          k.sweep(task);
          const std::int64_t row = tiling.out_row(tile, i), column = tiling.out_column(tile, j);
          std::copy_n(
              codes, block.used,
              out + ((tile.image * s.out_height + row) * s.out_width + column) * s.out_channels +
                  first);
        }
    }
  }

  const std::int8_t* block_weights(std::int64_t group, std::int64_t b, Scratch& w) const {
    const BlockLayout& layout = weights.layout();
    const std::uint8_t* packed = weights.block(group, b);
    if (layer.neurons->bits == 8) return reinterpret_cast<const std::int8_t*>(packed);
    const std::int64_t which = group * layout.count() + b, width = layout[b].width;
    if (w.unpacked != which) {
      k.unpack(packed, layer.neurons->bits, weights.rows(), width, w.weights);
      std::fill_n(w.weights + weights.rows() * width, width, std::int8_t{0});
      w.unpacked = which;
    }
    return w.weights;
  }

  const Layer& layer;
  const ConvShape& s;
  const IntegerKernels& k;
  const PackedCodes& weights;
  const std::uint16_t silent;
  const std::uint16_t reference;  // 0: no horizon
  const std::uint16_t* const in;
  std::uint16_t* const out;
  const int threads;
  const std::int64_t channels;
  const bool has_bias;
  const std::int64_t max_events;  // of a pixel, padding included
  Tiling tiling;
  Workspace workspace;
  std::uint16_t *row_of = nullptr, *members_of = nullptr;
  std::uint32_t* words = nullptr;  // events of a work block's pixels
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
