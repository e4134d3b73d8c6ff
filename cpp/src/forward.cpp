// Forward: the output is processed in work blocks (src/tiling.h). A work block's events are
// collected first: for each tile of each tile row, sort the input spikes that the tile receives,
// and filter each pixel's own from them. Then the pixels are swept, one block of outputs after
// another, so that a block's weights stay in the cache. Last, the outputs that the sweep has marked
// are recomputed more accurately.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "kernels/table.h"
#include "src/packing.h"
#include "src/padded.h"
#include "src/parallel.h"
#include "src/shape.h"
#include "src/spike_values.h"
#include "src/tiling.h"
#include "src/workspace.h"
#include "ttfs/layers.h"

namespace ttfs {
namespace {

/// Cycles per event, measured on Sapphire Rapids.
constexpr TileCosts kTileCosts{
    .sort = 10, .filter = 0.4, .max_weight_rows = std::numeric_limits<std::int64_t>::max()};

/// Pixels of a slice whose results stay in the first-level cache until they are written.
constexpr std::int64_t kSlicePixels = 48;

/// Pixels whose marked outputs are computed again together, at most; and the memory of their
/// fields.
constexpr std::int64_t kRecomputePixels = 16;
constexpr std::int64_t kRecomputeBytes = std::int64_t{256} << 10;

/// With fewer inputs, leaving out events saves less than finding out whether they can be.
constexpr std::int64_t kFewInputs = 16;

template <class T>
class Forward {
 public:
  Forward(const ConvShape& shape, const Neuron& kind, ConstView<T> in, const T* weight_data,
          const T* bias_data, double t_max, View<T> out, T* slopes, int thread_limit,
          ForwardCounts* counts)
      : s(shape),
        neuron(kind),
        k(kernels_of<T>(kernels())),
        input(in),
        output(out),
        slope(slopes),
        weight(weight_data),
        bias(bias_data),
        total(counts),
        horizon(latest(kind, t_max)),
        origin(static_cast<T>(kind.origin())),
        threads(std::max(thread_limit, 1)),
        channels(s.in_channels / s.groups),
        weights(s, weight_data, bias_data, static_cast<T>(kind.slope)),
        max_events(round_up(weights.max_events(), kChunk) + kBlockGrain),
        tiling(s, kTileCosts),
        patch_rows(tiling.patch_rows()),
        patch_columns(tiling.patch_columns()) {
    const int team = team_size(threads, threads);
    const std::int64_t blocks = weights.layout().count();
    tiling.divide_for_caches(
        max_events * static_cast<std::int64_t>(2 * sizeof(T) + sizeof(std::uint32_t)),
        weights.bytes(), team);
    tiling.slice([&](std::int64_t pixels) {
      if (tiling.block_per_thread) return kSlicePixels;
      return std::clamp<std::int64_t>(pixels * blocks / (4 * threads), 1, kSlicePixels);
    });
    // With one work block per group, each block of weights is swept once: the thread that takes it
    // packs it first, into its cache. Otherwise all weights are packed in advance.
    ahead = static_cast<std::int64_t>(tiling.blocks.size()) > s.groups || blocks < 4 * team;
    recompute_pixels = std::clamp<std::int64_t>(
        kRecomputeBytes / (field_size() * static_cast<std::int64_t>(sizeof(T))), 1,
        kRecomputePixels);
    row_columns = tiling.x.span(tiling.row_tiles * tiling.tile.columns);
    allocate(team);
    if (ahead) weights.pack_all(k, threads);
    describe_patch();
  }

  void run() {
    const auto count = static_cast<std::int64_t>(tiling.blocks.size());
    const Stop stop;
    if (tiling.block_per_thread)
      parallel_for(count, threads, [&](std::int64_t item, int worker) {
        const auto here = [&stop, worker](std::int64_t items, const auto& body) {
          for (std::int64_t i = 0; i < items && !stop(worker); ++i) body(i, worker);
        };
        run_block(tiling.blocks[static_cast<std::size_t>(item)],
                  events[static_cast<std::size_t>(worker)], here);
      });
    else
      for (const WorkBlock& block : tiling.blocks)
        run_block(block, events[0], [this](std::int64_t items, const auto& body) {
          parallel_for(items, threads, body);
        });
    for (const Counts& each : counts_of) {
      total->recomputed += each.recomputed;
      total->chunks += each.chunks;
      total->rescanned += each.rescanned;
    }
  }

 private:
  /// The horizon. (Not -inf: F there would be 0 times it.)
  static T latest(const Neuron& kind, double t_max) {
    if (kind.on_values()) return static_cast<T>(std::exp(t_max));
    return std::max(static_cast<T>(t_max), std::numeric_limits<T>::lowest());
  }

  /// Of a work block's pixels: events, how many (-1: the pixel sees a NaN), when the inputs that
  /// are not among them spike (+inf: never), and in [pixel][block] a bit for each output to be
  /// computed again.
  struct Events {
    T *times, *time_to_chunk_end;
    std::uint32_t* rows;
    std::int64_t* counts;
    T* last_times;
    std::uint32_t* recompute_mask;
  };

  /// Of one thread, in a line of the cache of its own.
  struct alignas(64) Counts : ForwardCounts {};

  /// Memory of one thread.
  struct Scratch {
    T* inputs;                  // of a tile row, [row][column][channel]
    T *unsorted_times, *times;  // events of a tile
    std::uint32_t *unsorted_positions, *positions, *rows;
    std::uint16_t* members;
    T *values, *slopes;  // results of a slice and block of outputs
    T* block;            // of weights, if they are not packed ahead
    T* fields;           // receptive fields' inputs in the order of the weights, +inf where silent
    Counts* counts;      // null if nothing is counted
  };

  void allocate(int team) {
    const std::int64_t pixels = tiling.max_block_pixels(), results = tiling.max_slice_pixels();
    const std::int64_t row_inputs = patch_rows * row_columns * channels;
    const std::int64_t patch = patch_rows * patch_columns * channels;
    events.resize(static_cast<std::size_t>(tiling.block_per_thread ? team : 1));
    scratch.resize(static_cast<std::size_t>(team));
    if (total) counts_of.resize(scratch.size());
    for (std::size_t i = 0; i < scratch.size(); ++i)
      scratch[i].counts = total ? &counts_of[i] : nullptr;
    workspace.allocate([&] {
      weights.take(workspace, ahead);
      row_of = workspace.take<std::uint32_t>(row_inputs);
      members_of = workspace.take<std::uint16_t>(row_inputs);
      for (Events& e : events) {
        e.times = workspace.take<T>(pixels * max_events);
        e.time_to_chunk_end = workspace.take<T>(pixels * max_events);
        e.rows = workspace.take<std::uint32_t>(pixels * max_events);
        e.counts = workspace.take<std::int64_t>(pixels);
        e.last_times = workspace.take<T>(pixels);
        e.recompute_mask = workspace.take<std::uint32_t>(pixels * weights.layout().count());
      }
      for (Scratch& w : scratch) {
        w.inputs = workspace.take<T>(row_inputs);
        w.times = workspace.take<T>(patch + 1);
        w.unsorted_times = workspace.take<T>(patch + 1);
        w.positions = workspace.take<std::uint32_t>(patch + 1);
        w.unsorted_positions = workspace.take<std::uint32_t>(patch + 1);
        w.rows = workspace.take<std::uint32_t>(patch + 1);
        w.members = workspace.take<std::uint16_t>(patch);
        w.values = workspace.take<T>(results * kBlock);
        w.slopes = workspace.take<T>(results * kBlock);
        w.fields = workspace.take<T>(recompute_pixels * field_size());
        w.block = ahead ? nullptr : workspace.take<T>(weights.layout().block_size());
      }
    });
  }

  /// Calls for_each(items, body) for each phase of the work, with body(item, worker).
  template <class ForEach>
  void run_block(const WorkBlock& block, const Events& e, const ForEach& for_each) const {
    const TileRange& range = block.range;
    const std::int64_t rows = range.last - range.first, group = tiling.row(range.first).group;
    const BlockLayout& layout = weights.layout();
    for_each(rows, [&](std::int64_t item, int worker) {
      const Scratch& w = scratch[static_cast<std::size_t>(worker)];
      const TileRow& row = tiling.row(range.first + item);
      copy_inputs(row, w);
      collect_events(row, e, w);
    });
    const auto sweep_slice = [&](const TileRange& slice, std::int64_t b, const T* packed,
                                 const Scratch& w) {
      sweep(slice, b, packed, e, w);
      const std::int64_t first = tiling.row(slice.first).pixel;
      for (std::int64_t i = slice.first; i < slice.last; ++i) write(tiling.row(i), first, b, w);
    };
    const auto slices = static_cast<std::int64_t>(block.slices.size());
    if (ahead)
      // All slices of one block of outputs, then all of the next.
      for_each(layout.count() * slices, [&](std::int64_t item, int worker) {
        const std::int64_t b = item / slices;
        sweep_slice(block.slices[static_cast<std::size_t>(item % slices)], b,
                    weights.block(group, b), scratch[static_cast<std::size_t>(worker)]);
      });
    else
      for_each(layout.count(), [&](std::int64_t b, int worker) {
        const Scratch& w = scratch[static_cast<std::size_t>(worker)];
        weights.pack(k, group, b, w.block);
        for (const TileRange& slice : block.slices) sweep_slice(slice, b, w.block, w);
      });
    // A row of tiles, or several with few pixels, unless there are too few for all threads.
    const std::int64_t together =
        std::clamp<std::int64_t>(rows / (4 * threads), 1, recompute_pixels);
    for_each(ceil_div(rows, together), [&](std::int64_t item, int worker) {
      const std::int64_t first = range.first + item * together;
      recompute_rows(first, std::min(first + together, range.last), e,
                     scratch[static_cast<std::size_t>(worker)]);
    });
  }

  /// For every input that a tile sees, by its position in a tile row from the tile's corner on: its
  /// row of weights at the tile's first pixel, and the pixels whose receptive field holds it.
  void describe_patch() {
    const std::int64_t height = s.kernel_height, width = s.kernel_width;
    tiling.visit_patch([&](std::int64_t r, std::int64_t c, std::uint16_t members) {
      for (std::int64_t ch = 0; ch < channels; ++ch) {
        const std::int64_t at = (r * row_columns + c) * channels + ch;
        row_of[at] = kRowUnit * static_cast<std::uint32_t>((ch * height + r) * width + c);
        members_of[at] = members;
      }
    });
  }

  void copy_inputs(const TileRow& row, const Scratch& w) const {
    const Grid grid{tiling.y.first_input(tiling.out_row(row, 0)),
                    tiling.x.first_input(tiling.out_column(row, 0)),
                    s.dilation_height,
                    s.dilation_width,
                    patch_rows,
                    row_columns};
    copy_grid(k, input.data + row.image * input.stride.n + row.group * channels * input.stride.c,
              input.stride, s.in_height, s.in_width, channels, grid,
              std::numeric_limits<T>::infinity(), w.inputs);
    if (neuron.on_values()) return;
    // -0 becomes +0: the sort goes by the bits of a number.
    const std::int64_t count = patch_rows * row_columns * channels;
    for (std::int64_t i = 0; i < count; ++i) w.inputs[i] += T{0};
  }

  /// Calls body(inputs, first position, sum so far) for each row of what `rows` rows of the tile
  /// with this corner see, and returns the sum of what it returns.
  template <class Body>
  std::int64_t each_row(const T* corner, std::int64_t rows, const Body& body) const {
    std::int64_t count = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t first = r * row_columns * channels;
      count += body(corner + first, static_cast<std::uint32_t>(first), count);
    }
    return count;
  }

  /// When the last inputs of a tile spike, if all inputs spike and a quarter of them at that time;
  /// otherwise +inf. This is so in a layer whose inputs have a horizon. These inputs need no
  /// events: none has an effect before that time, and after it B is the sum of all weights. (What
  /// an output is computed from depends on its tile alone, not on how threads divide the tiles.)
  T last_inputs(const T* corner, std::int64_t rows, std::int64_t columns) const {
    constexpr T never = std::numeric_limits<T>::infinity();
    if (!neuron.on_values() || weights.inputs() < kFewInputs) return never;
    const std::int64_t high = tiling.y.span(rows), length = tiling.x.span(columns) * channels;
    T last = 0;
    for (std::int64_t r = 0; r < high; ++r) {
      const Extent<T> extent = k.extent(corner + r * row_columns * channels, length, horizon);
      if (extent.above) return never;
      last = std::max(last, extent.most);
    }
    if (bias && last <= origin) return never;
    const std::int64_t late =
        each_row(corner, high, [&](const T* inputs, std::uint32_t, std::int64_t) {
          return k.count_equal(inputs, length, last);
        });
    return 4 * late >= high * length ? last : never;
  }

  /// Sorts the events of the tile with this corner before `end`: times and positions. Returns how
  /// many.
  std::int64_t sort_events(const T* corner, const Extent<T>& extent, T end,
                           const Scratch& w) const {
    const std::int64_t length = patch_columns * channels;
    const bool negative = extent.least < 0;
    if (!negative &&
        ((patch_rows - 1) * row_columns + patch_columns) * channels <= kWordPositions) {
      const std::int64_t count =
          each_row(corner, patch_rows, [&](const T* inputs, std::uint32_t first, std::int64_t at) {
            return k.collect_words(inputs, length, first, end, extent.least, extent.most,
                                   w.positions + at);
          });
      if (k.sort_words(w.positions, count, corner, w.times, w.unsorted_positions)) return count;
    }
    const std::int64_t count =
        each_row(corner, patch_rows, [&](const T* inputs, std::uint32_t first, std::int64_t at) {
          return k.collect(inputs, length, first, end, w.unsorted_times + at,
                           w.unsorted_positions + at);
        });
    (negative ? k.sort_signed : k.sort)(w.unsorted_times, w.unsorted_positions, count, w.times,
                                        w.positions);
    return count;
  }

  void collect_events(const TileRow& row, const Events& to, const Scratch& w) const {
    const std::int64_t row_stride = tiling.y.stride, column_stride = tiling.x.stride;
    const Extent<T> extent = k.extent(w.inputs, patch_rows * row_columns * channels, horizon);
    for (std::int64_t column = 0; column < row.columns; column += tiling.tile.columns) {
      const T* corner = w.inputs + column * column_stride * channels;
      const T last =
          last_inputs(corner, row.rows, std::min(tiling.tile.columns, row.columns - column));
      if (!std::isinf(last)) weights.sum_up(k, row.group);
      const std::int64_t count = sort_events(corner, extent, std::min(last, horizon), w);
      for (std::int64_t e = 0; e < count; ++e) {
        w.rows[e] = row_of[w.positions[e]];
        w.members[e] = members_of[w.positions[e]];
      }
      // The bias comes after every event with t <= 0.
      const std::int64_t split =
          bias_joins() ? std::upper_bound(w.times, w.times + count, origin) - w.times : count;
      for (std::int64_t i = 0; i < row.rows; ++i)
        for (std::int64_t j = 0; j < std::min(tiling.tile.columns, row.columns - column); ++j) {
          const std::int64_t pixel = row.pixel + i * row.columns + column + j;
          T* times = to.times + pixel * max_events;
          std::uint32_t* rows = to.rows + pixel * max_events;
          const int bit = static_cast<int>(i * tiling.tile.columns + j);
          const auto shift = kRowUnit * static_cast<std::uint32_t>(i * row_stride * s.kernel_width +
                                                                   j * column_stride);
          std::int64_t n = k.filter(w.times, w.rows, w.members, split, bit, shift, times, rows);
          if (bias_joins()) {
            times[n] = origin;
            rows[n++] = kRowUnit * static_cast<std::uint32_t>(weights.bias_row());
            n += k.filter(w.times + split, w.rows + split, w.members + split, count - split, bit,
                          shift, times + n, rows + n);
          }
          if (goes_by_chunks(n, !std::isinf(last)))
            k.pad_to_chunk(times, rows, n,
                           kRowUnit * static_cast<std::uint32_t>(weights.zero_row()),
                           to.time_to_chunk_end + pixel * max_events);
          to.counts[pixel] = n;
          to.last_times[pixel] = last;
          if (extent.nan && field_has_nan(corner, i * row_stride, j * column_stride))
            to.counts[pixel] = -1;
        }
    }
  }

  bool bias_joins() const { return bias && horizon > origin; }

  /// Whether the receptive field from grid position (row, column) of a tile on holds a NaN.
  bool field_has_nan(const T* corner, std::int64_t row, std::int64_t column) const {
    for (std::int64_t ky = 0; ky < s.kernel_height; ++ky) {
      const T* inputs = corner + ((row + ky) * row_columns + column) * channels;
      if (k.any_nan(inputs, s.kernel_width * channels)) return true;
    }
    return false;
  }

  void sweep(const TileRange& slice, std::int64_t b, const T* packed, const Events& e,
             const Scratch& w) const {
    const std::int64_t first = tiling.row(slice.first).pixel;
    for (std::int64_t r = slice.first; r < slice.last; ++r) {
      const TileRow& t = tiling.row(r);
      for (std::int64_t i = 0; i < t.rows; ++i)
        for (std::int64_t j = 0; j < t.columns; ++j) {
          const std::int64_t pixel = t.pixel + i * t.columns + j, place = (pixel - first) * kBlock;
          T* slopes = w.slopes + place;
          if (writes_slopes(b))
            slopes = slope_at(t.image, tiling.out_row(t, i), tiling.out_column(t, j),
                              t.group * weights.outputs() + weights.layout()[b].first);
          sweep_pixel(t.group, pixel, b, packed, e, w.values + place, slopes, w.counts);
        }
    }
  }

  /// Whether the sweep of a block of outputs writes their slopes to their final place.
  bool writes_slopes(std::int64_t b) const {
    const Block& block = weights.layout()[b];
    return block.used == block.width;
  }

  void sweep_pixel(std::int64_t group, std::int64_t pixel, std::int64_t b, const T* packed,
                   const Events& e, T* values, T* slopes, Counts* counts) const {
    const BlockLayout& layout = weights.layout();
    std::uint32_t* mask = e.recompute_mask + pixel * layout.count() + b;
    if (e.counts[pixel] < 0) {
      std::fill_n(values, layout[b].width, std::numeric_limits<T>::quiet_NaN());
      std::fill_n(slopes, layout[b].width, std::numeric_limits<T>::quiet_NaN());
      *mask = 0;
      return;
    }
    const bool together = !std::isinf(e.last_times[pixel]);
    if (counts && goes_by_chunks(e.counts[pixel], together))
      counts->chunks += ceil_div(e.counts[pixel], kChunk) * layout[b].width;
    k.sweep({e.times + pixel * max_events, e.time_to_chunk_end + pixel * max_events,
             e.rows + pixel * max_events, e.counts[pixel], packed, weights.initial_slope(group, b),
             weights.max_overshoot(group, b), weights.norm(group, b), layout[b].width, horizon,
             values, slopes, mask, initial_membrane, initial_error, lower_bound,
             counts ? &counts->rescanned : nullptr,
             together ? weights.last_slope(group, b) : nullptr, e.last_times[pixel]});
  }

  /// Address of the slope of output `out` of a pixel.
  T* slope_at(std::int64_t image, std::int64_t row, std::int64_t column, std::int64_t out) const {
    return slope + ((image * s.out_height + row) * s.out_width + column) * s.out_channels + out;
  }

  /// Writes the results of a tile row and a block of outputs; those of the slice's pixels begin
  /// with pixel `first`.
  void write(const TileRow& t, std::int64_t first, std::int64_t b, const Scratch& w) const {
    const Block& block = weights.layout()[b];
    const std::int64_t out = t.group * weights.outputs() + block.first, used = block.used;
    const std::int64_t column = tiling.out_column(t, 0), column_step = tiling.x.phases;
    const std::int64_t step = column_step * output.stride.w;
    for (std::int64_t i = 0; i < t.rows; ++i) {
      const std::int64_t row = tiling.out_row(t, i);
      const std::int64_t pixel = t.pixel - first + i * t.columns;
      T* slopes = slope_at(t.image, row, column, out);
      for (std::int64_t j = 0; j < t.columns && !writes_slopes(b); ++j)
        std::copy_n(w.slopes + (pixel + j) * kBlock, used,
                    slopes + j * column_step * s.out_channels);
      T* values = output.data + t.image * output.stride.n + out * output.stride.c +
                  row * output.stride.h + column * output.stride.w;
      if (step == 1 && output.stride.c != 1) {
        k.transpose(w.values + pixel * kBlock, kBlock, values, output.stride.c, t.columns, used);
      } else {
        for (std::int64_t j = 0; j < t.columns; ++j)
          for (std::int64_t o = 0; o < used; ++o)
            values[j * step + o * output.stride.c] = w.values[(pixel + j) * kBlock + o];
      }
    }
  }

  /// A pixel with outputs to be computed again, and its receptive field.
  struct MarkedPixel {
    const TileRow* tile_row;
    std::int64_t number, row, column;
    T* field;
  };

  /// Computes marked outputs of the tile rows [first, last) again, some pixels at a time: they
  /// share the weights, which no cache holds all of.
  void recompute_rows(std::int64_t first, std::int64_t last, const Events& e,
                      const Scratch& w) const {
    MarkedPixel pixels[kRecomputePixels];
    std::int64_t count = 0;
    const std::int64_t blocks = weights.layout().count();
    const auto recompute = [&] {
      for (std::int64_t b = 0; b < blocks; ++b)
        for (std::int64_t p = 0; p < count; ++p) recompute_outputs(pixels[p], b, e, w.counts);
      count = 0;
    };
    for (std::int64_t r = first; r < last; ++r) {
      const TileRow& row = tiling.row(r);
      for (std::int64_t i = 0; i < row.rows; ++i)
        for (std::int64_t j = 0; j < row.columns; ++j) {
          const std::int64_t number = row.pixel + i * row.columns + j;
          const std::uint32_t* recompute_mask = e.recompute_mask + number * blocks;
          if (std::all_of(recompute_mask, recompute_mask + blocks,
                          [](std::uint32_t m) { return m == 0; }))
            continue;
          T* field = w.fields + count * field_size();
          scatter_events(number, e, field);
          pixels[count++] = {&row, number, tiling.out_row(row, i), tiling.out_column(row, j),
                             field};
          if (count == recompute_pixels) recompute();
        }
    }
    recompute();
  }

  /// (The bias, if any, is one row more.)
  std::int64_t field_size() const { return weights.inputs() + 1; }

  void scatter_events(std::int64_t pixel, const Events& events_of, T* field) const {
    const T* times = events_of.times + pixel * max_events;
    const std::uint32_t* rows = events_of.rows + pixel * max_events;
    std::fill_n(field, weights.inputs(), events_of.last_times[pixel]);
    for (std::int64_t e = 0; e < events_of.counts[pixel]; ++e) field[rows[e] / kRowUnit] = times[e];
  }

  void recompute_outputs(const MarkedPixel& pixel, std::int64_t b, const Events& events_of,
                         Counts* counts) const {
    const BlockLayout& layout = weights.layout();
    const TileRow& t = *pixel.tile_row;
    RecomputeTask<T> task;
    task.field = pixel.field;
    task.inputs = weights.inputs();
    task.bias_joins = bias_joins();
    task.times = events_of.times + pixel.number * max_events;
    task.rows = events_of.rows + pixel.number * max_events;
    task.count = events_of.counts[pixel.number];
    task.horizon = horizon;
    task.initial_slope = neuron.slope;
    task.threshold = neuron.threshold;
    task.origin = neuron.origin();
    task.last_time = events_of.last_times[pixel.number];
    for (std::uint32_t left = events_of.recompute_mask[pixel.number * layout.count() + b]; left;
         left &= left - 1) {
      const std::int64_t lane = std::countr_zero(left);
      if (lane >= layout[b].used) break;
      const std::int64_t out = t.group * weights.outputs() + layout[b].first + lane;
      task.weights = weight + out * weights.inputs();
      task.bias = bias ? bias[out] : T{0};
      task.value = output.data + t.image * output.stride.n + out * output.stride.c +
                   pixel.row * output.stride.h + pixel.column * output.stride.w;
      task.slope = slope_at(t.image, pixel.row, pixel.column, out);
      k.recompute(task);
      if (counts) ++counts->recomputed;
    }
  }

  const ConvShape s;
  const Neuron neuron;
  const Kernels<T>& k;
  const ConstView<T> input;
  const View<T> output;
  T* const slope;
  const T *const weight, *const bias;
  ForwardCounts* const total;  // null if nothing is counted
  const T horizon, origin;     // `origin` is where the bias spikes
  // See SweepTask.
  const T initial_membrane = static_cast<T>(0 - neuron.threshold);
  const T initial_error = static_cast<T>(-std::max(std::abs(neuron.slope), neuron.threshold));
  const T lower_bound = neuron.on_values() ? T{0} : -std::numeric_limits<T>::infinity();
  const int threads;
  const std::int64_t channels;
  PackedWeights<T> weights;
  const std::int64_t max_events;  // of a pixel, padding included
  Tiling tiling;
  const std::int64_t patch_rows, patch_columns;
  std::int64_t recompute_pixels = 1;
  std::int64_t row_columns = 0;  // grid columns that a tile row sees
  bool ahead = true;             // weights are packed before all else
  Workspace workspace;
  std::uint32_t* row_of = nullptr;
  std::uint16_t* members_of = nullptr;
  std::vector<Events> events;  // one per thread, or one for all
  std::vector<Scratch> scratch;
  std::vector<Counts> counts_of;  // threads; empty if nothing is counted
};

}  // namespace

template <class T>
void spiking_conv2d_forward(const ConvShape& shape, ConstView<T> input, const T* weight,
                            const T* bias, double t_max, View<T> output, T* slope, int threads,
                            const Neuron& neuron, ForwardCounts* counts) {
  check(shape);
  if (std::isnan(t_max)) throw std::invalid_argument("t_max is NaN; it must be a spike time");
  if (!std::isfinite(neuron.slope) || !std::isfinite(neuron.threshold) ||
      (neuron.on_values() ? neuron.threshold != 0 : !(neuron.threshold > 0)))
    throw std::invalid_argument(
        "a neuron has a slope below 0 and the threshold 0, or a slope of 0 or more and a threshold "
        "above 0; both must be finite");
  require_spikes(kernels_of<T>(kernels()), neuron, shape, input, threads);
  if (shape.batch == 0 || shape.out_channels == 0 || shape.out_height == 0 || shape.out_width == 0)
    return;
  Forward<T>(shape, neuron, input, weight, bias, t_max, output, slope, threads, counts).run();
}

template void spiking_conv2d_forward(const ConvShape&, ConstView<float>, const float*, const float*,
                                     double, View<float>, float*, int, const Neuron&,
                                     ForwardCounts*);
template void spiking_conv2d_forward(const ConvShape&, ConstView<double>, const double*,
                                     const double*, double, View<double>, double*, int,
                                     const Neuron&, ForwardCounts*);

}  // namespace ttfs
