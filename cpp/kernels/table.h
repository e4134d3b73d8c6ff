// The inner loops, as a table of function pointers: one table per instruction set and type.
#pragma once

#include <cstdint>

#include "kernels/circuit_table.h"
#include "kernels/integer_table.h"

namespace ttfs {

/// Outputs in one packed block of weights: as many as the sweep keeps in registers. The last block
/// of a layer is shortened to a multiple of kBlockGrain, a multiple of every vector length.
inline constexpr std::int64_t kBlock = 32;
inline constexpr std::int64_t kBlockGrain = 16;

/// Number of positions that fit into a 32-bit word next to 16 bits of a time.
inline constexpr std::int64_t kWordPositions = std::int64_t{1} << 16;

/// Pixels that share a membership word, and so the largest tile of outputs.
inline constexpr int kTilePixels = 16;

/// The most input pixels and channels in one call of input_gradient.
inline constexpr int kGradPixels = 6;
inline constexpr std::int64_t kGradChannels = 64;

/// Inputs in one tile of weight_gradient.
inline constexpr int kGradInputs = 12;

/// The most outputs in one tile of weight_gradient.
inline constexpr std::int64_t kGradOutputs = 32;

/// Events in a chunk. A pixel's events are padded to whole chunks.
inline constexpr std::int64_t kChunk = 8;

/// Within a chunk of duration d, an event of weight -w raises F above the straight line between its
/// values at the ends by at most w d / 4; the last event does not raise it.
inline constexpr double kMaxOvershoot = (kChunk - 1) / 4.0;

/// Whether a sweep of that many events goes chunk by chunk; else it goes event by event.
/// `together`: the other inputs spike together after them. Most outputs then fire later still, and
/// few chunks are rescanned.
constexpr bool goes_by_chunks(std::int64_t events, bool together) {
  return events >= (together ? 64 : 192);
}

/// Whether a sweep of that many events compensates the rounding errors of its sums over chunks.
template <class T>
constexpr bool compensates(std::int64_t events) {
  return sizeof(T) == sizeof(float) && events >= 512;
}

/// Events refer to a row of packed weights by its number times this unit, because an address with
/// it needs no further multiplication.
inline constexpr std::uint32_t kRowUnit = 16;

template <class T>
struct SweepTask {
  const T* times;              // spike values of the events, ascending
  const T* time_to_chunk_end;  // spike value of the chunk's last event minus the event's own; like
                               // the padding, read only if the sweep goes by chunks
  const std::uint32_t* rows;   // row of packed weights of each event, times kRowUnit
  std::int64_t count;          // events, before padding
  const T* weights;            // packed block: rows of `width` weights
  const T* initial_slope;      // `width` values of B before any event, or NaN where a weight is
                               // not finite
  const T* max_overshoot;      // `width` values: kMaxOvershoot times -min(weights, 0)
  const T* norm;               // `width` values: the size of the rounding errors within chunks;
                               // read only if `compensates`
  std::int64_t width;          // outputs: kBlock or kBlockGrain
  T horizon;                   // latest spike value, +inf if none
  T* values;                   // out: `width` spike values, +inf where silent
  T* slopes;                   // out: `width` values of D, 0 where silent
  std::uint32_t* recompute_mask;      // out: a bit for each output to recompute
  T initial_membrane = 0;             // F at x = 0 before any event
  T initial_error = -1;               // below 0: how large B and F are before any event
  T lower_bound = 0;                  // every spike is later
  std::int64_t* rescanned = nullptr;  // in and out, if not null: chunks that are rescanned, once
                                      // for each lane of the vectors that do it
  // Not null: all inputs that are not among the events spike together after them, at `last_time`,
  // with which B becomes these `width` values.
  const T* last_slope = nullptr;
  T last_time = 0;
};

/// One output of one pixel, to be recomputed more accurately from the spike value that the sweep
/// found. Weights and inputs are in the order of the weight tensor.
template <class T>
struct RecomputeTask {
  const T* field;    // spike values of the inputs, +inf where silent or after the horizon
  const T* weights;  // one output's
  std::int64_t inputs;
  T bias;
  bool bias_joins;  // there is a bias, and it spikes before the horizon
  const T* times;   // the pixel's events, as in SweepTask; a row of `inputs` is the bias
  const std::uint32_t* rows;
  std::int64_t count;
  T horizon;
  T *value, *slope;  // in and out
  // F before any event is initial_slope x - threshold; the bias spikes at `origin`.
  double initial_slope = -1, threshold = 0, origin = 1;
  // Inputs that are not among the events spike together at this value after them, if any.
  T last_time = static_cast<T>(__builtin_inf());
};

/// grad_in[p][c] += sum over taps t and outputs j of (z_in < z_out) g w for `pixels` input pixels
/// and `width` channels. The comparison holds where either side is NaN, so that NaN propagates.
template <class T>
struct InputGradientTask {
  int pixels;  // <= kGradPixels
  std::int64_t taps;
  const T* const* inputs;     // [pixels] spike values of `width` channels
  const T* const* outputs;    // [taps][pixels] spike values of `count` outputs
  const T* const* gradients;  // [taps][pixels] grad / D of `count` outputs
  const T* const* weights;    // [taps] -> [count][width]
  std::int64_t count;
  std::int64_t width;  // a multiple of kBlockGrain, <= kGradChannels
  T* const* results;   // [pixels] -> `width` values, overwritten
};

/// result[i][j] = -sum over pixels of g_j max(z_j - z_i, 0), for kGradInputs inputs and `width`
/// outputs; pixels are images x rows x columns. The sums are accurate if the values are small, so
/// the caller subtracts a common value from all of them. Outputs are finite or NaN.
template <class T>
struct WeightGradientTask {
  std::int64_t images, rows, columns;
  const T* inputs;              // spike value of input i at (image, row, column) is
  const std::int64_t* offsets;  // inputs[offsets[i] + image * .. + row * .. + column * ..]
  std::int64_t input_image, input_row, input_column;
  const T* outputs;  // spike values and grad / D, `width` contiguous outputs
  const T* gradients;
  std::int64_t output_image, output_row, output_column;
  std::int64_t width;  // a multiple of kBlockGrain, <= kGradOutputs
  T* result;           // [kGradInputs][kGradOutputs]
};

/// Least value, largest below a limit (0 if none is), whether there is a NaN, and whether a value
/// is not below the limit.
template <class T>
struct Extent {
  T least, most;
  bool nan, above;
};

/// As Kernels::lowest, and the root of the sum of the squares.
template <class T>
struct WeightExtent {
  T lowest, norm;
};

template <class T>
struct Kernels {
  /// True if some value is at or below a bound, not counting NaN: 0 for spike values, -inf for
  /// spike times.
  bool (*any_at_or_below)(const T* values, std::int64_t n, T bound);

  bool (*any_nan)(const T* values, std::int64_t n);
  Extent<T> (*extent)(const T* values, std::int64_t n, T limit);
  /// The lowest value, or 0 if no value is below 0; NaN if a value is not finite.
  T (*lowest)(const T* values, std::int64_t n);
  WeightExtent<T> (*weight_extent)(const T* values, std::int64_t n);
  double (*sum)(const T* values, std::int64_t n);
  /// How many values are equal to this one.
  std::int64_t (*count_equal)(const T* values, std::int64_t n, T value);

  /// dst[c * dst_stride + r] = src[r * src_stride + c] for r < rows, c < columns.
  void (*transpose)(const T* src, std::int64_t src_stride, T* dst, std::int64_t dst_stride,
                    std::int64_t rows, std::int64_t columns);

  /// Appends the values below limit and their positions first, first + 1, ...; returns the count.
  /// Both destinations have room for n more.
  std::int64_t (*collect)(const T* values, std::int64_t n, std::uint32_t first, T limit, T* times,
                          std::uint32_t* positions);

  /// Sorts events by time into the second pair of arrays; the sort is stable. Overwrites the first
  /// pair. Times are +0 or above; sort_signed takes negative ones as well, and -0 before +0.
  void (*sort)(T* times, std::uint32_t* positions, std::int64_t count, T* times_out,
               std::uint32_t* positions_out);
  void (*sort_signed)(T* times, std::uint32_t* positions, std::int64_t count, T* times_out,
                      std::uint32_t* positions_out);

  /// As sort, with half the memory traffic, for positions below kWordPositions. A word holds the
  /// leading bits of a value in [least, most] and its position. sort_words leaves the positions,
  /// and times[i] = values[position]. It returns false if too many values share their leading
  /// bits.
  std::int64_t (*collect_words)(const T* values, std::int64_t n, std::uint32_t first, T limit,
                                T least, T most, std::uint32_t* words);
  bool (*sort_words)(std::uint32_t* words, std::int64_t count, const T* values, T* times,
                     std::uint32_t* scratch);

  /// Copies the events whose membership word has the bit set, with rows reduced by shift; returns
  /// their number. The destinations have room for count + kBlockGrain.
  std::int64_t (*filter)(const T* times, const std::uint32_t* rows, const std::uint16_t* members,
                         std::int64_t count, int bit, std::uint32_t shift, T* times_out,
                         std::uint32_t* rows_out);

  /// Pads a pixel's events to whole chunks with `row`, whose weights are 0, and writes the time
  /// from each to its chunk's end; appends kChunk rows for prefetching. The arrays have room for
  /// them.
  void (*pad_to_chunk)(T* times, std::uint32_t* rows, std::int64_t count, std::uint32_t row,
                       T* time_to_chunk_end);

  void (*sweep)(const SweepTask<T>& task);
  void (*recompute)(const RecomputeTask<T>& task);
  void (*input_gradient)(const InputGradientTask<T>& task);
  void (*weight_gradient)(const WeightGradientTask<T>& task);

  /// out[i] = grad[i] / slope[i] and values_out[i] = values[i] where i spiked, otherwise both 0;
  /// NaN outputs stay NaN.
  void (*scale_gradient)(const T* values, const T* slopes, const T* gradients, std::int64_t n,
                         T* values_out, T* out);
};

struct KernelTable {
  Kernels<float> f32;
  Kernels<double> f64;
  CircuitKernels circuit;
  IntegerKernels integer;

  /// Compilers do not end every kernel with it. Upper halves of vector registers that are left in
  /// use slow down SSE instructions of the caller.
  void (*clear_upper_halves)();
};

template <class T>
const Kernels<T>& kernels_of(const KernelTable& table);
template <>
inline const Kernels<float>& kernels_of(const KernelTable& table) {
  return table.f32;
}
template <>
inline const Kernels<double>& kernels_of(const KernelTable& table) {
  return table.f64;
}

/// The table in use (src/dispatch.cpp); read once per operator call.
const KernelTable& kernels();

namespace baseline {
extern const KernelTable table;
}
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512vnni {
extern const KernelTable table;
}

}  // namespace ttfs
