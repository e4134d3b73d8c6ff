// The inner loops, as a table of function pointers: one table per instruction set and type.
#pragma once

#include <cstdint>

#include "kernels/circuit_table.h"
#include "kernels/integer_table.h"

namespace ttfs {

/// Outputs in one packed block of weights: what the sweep keeps in registers, so that a block's
/// weights are dense in the cache. The last block of a layer is cut to a multiple of kBlockGrain,
/// which is a multiple of every vector length.
inline constexpr std::int64_t kBlock = 32;
inline constexpr std::int64_t kBlockGrain = 16;

/// Positions that a word of 32 bits holds beside 16 bits of a time.
inline constexpr std::int64_t kWordPositions = std::int64_t{1} << 16;

/// Pixels that share a membership word, and so the largest tile of outputs.
inline constexpr int kTilePixels = 16;

/// Input pixels and channels that one call of input_gradient handles, at most.
inline constexpr int kGradPixels = 6;
inline constexpr std::int64_t kGradChannels = 64;

/// Inputs in one tile of weight_gradient.
inline constexpr int kGradInputs = 12;

/// Outputs in one tile of weight_gradient, at most.
inline constexpr std::int64_t kGradOutputs = 32;

/// Events in a chunk; a pixel's are padded to whole chunks.
inline constexpr std::int64_t kChunk = 8;

/// An event lifts F above a chunk's ends by at most a quarter of the chunk, and the last not at
/// all.
inline constexpr double kBend = (kChunk - 1) / 4.0;

/// Events name a row of packed weights by its number times this, which processors scale for
/// nothing.
inline constexpr std::uint32_t kRowUnit = 16;

template <class T>
struct SweepTask {
  const T* times;             // spike values of the events, ascending
  const T* rests;             // of each event, the spike value of its chunk's last less its own
  const std::uint32_t* rows;  // row of packed weights of each event, times kRowUnit
  std::int64_t count;         // events, before padding
  const T* weights;           // packed block: rows of `width` weights
  const T* start;             // `width` values: -1, or NaN where a weight is not finite
  const T* bends;             // `width` values: kBend of how far the lowest weight lies below 0
  std::int64_t width;         // outputs: kBlock or kBlockGrain
  T horizon;                  // latest spike value, +inf if none
  T* values;                  // out: `width` spike values, +inf where silent
  T* slopes;                  // out: `width` values of D, 0 where silent
  std::uint32_t* marks;       // out: a bit for each output to be refined
};

/// One output of one pixel, its spike value found by the sweep, to be computed again in double
/// precision. Here the weights are in the order of the weight tensor, and so are the inputs.
template <class T>
struct RefineTask {
  const T* field;    // spike values of the inputs, +inf where silent or behind the horizon
  const T* weights;  // one output's
  std::int64_t inputs;
  T bias;
  bool bias_joins;  // there is a bias, and its z = 1 lies before the horizon
  const T* times;   // the pixel's events, as in SweepTask; a row of `inputs` is the bias
  const std::uint32_t* rows;
  std::int64_t count;
  T horizon;
  T *value, *slope;  // in and out
};

/// grad_in[p][c] += sum over taps t and outputs j of (z_in < z_out) g w for `pixels` input pixels
/// and `width` channels; for a NaN either side of the comparison it holds, so that NaN spreads.
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
/// outputs; pixels are images x rows x columns.
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

/// Least value, largest below a limit (0 if none is), and whether there is a NaN.
template <class T>
struct Extent {
  T least, most;
  bool nan;
};

template <class T>
struct Kernels {
  /// True if some value is <= 0, which is no spike value (NaN passes).
  bool (*any_not_positive)(const T* values, std::int64_t n);

  bool (*any_nan)(const T* values, std::int64_t n);
  Extent<T> (*extent)(const T* values, std::int64_t n, T limit);
  /// The lowest value, or 0 where none is below; NaN where one is not finite.
  T (*lowest)(const T* values, std::int64_t n);

  /// dst[c * dst_stride + r] = src[r * src_stride + c] for r < rows, c < columns.
  void (*transpose)(const T* src, std::int64_t src_stride, T* dst, std::int64_t dst_stride,
                    std::int64_t rows, std::int64_t columns);

  /// Appends the values below limit and their positions first, first + 1, ...; returns how many.
  /// Both destinations have room for n more.
  std::int64_t (*collect)(const T* values, std::int64_t n, std::uint32_t first, T limit, T* times,
                          std::uint32_t* positions);

  /// Sorts events by time into the second pair of arrays; equal times keep their order. The first
  /// pair is left in disorder.
  void (*sort)(T* times, std::uint32_t* positions, std::int64_t count, T* times_out,
               std::uint32_t* positions_out);

  /// The same with half the memory to move, for positions below kWordPositions: collects words of
  /// the leading bits of a value in [least, most] and of its position; sorts them, so that
  /// positions are left, and times[i] = values[position]. False where values are too crowded for
  /// that.
  std::int64_t (*collect_words)(const T* values, std::int64_t n, std::uint32_t first, T limit,
                                T least, T most, std::uint32_t* words);
  bool (*sort_words)(std::uint32_t* words, std::int64_t count, const T* values, T* times,
                     std::uint32_t* scratch);

  /// Copies the events whose membership word has the bit set, with rows reduced by shift; returns
  /// how many. The destinations have room for count + kBlockGrain.
  std::int64_t (*filter)(const T* times, const std::uint32_t* rows, const std::uint16_t* members,
                         std::int64_t count, int bit, std::uint32_t shift, T* times_out,
                         std::uint32_t* rows_out);

  /// Pads a pixel's events to whole chunks with `row`, whose weights are 0, and writes their rests;
  /// behind them come kChunk rows more, to be prefetched. The arrays have room.
  void (*complete)(T* times, std::uint32_t* rows, std::int64_t count, std::uint32_t row, T* rests);

  void (*sweep)(const SweepTask<T>& task);
  void (*refine)(const RefineTask<T>& task);
  void (*input_gradient)(const InputGradientTask<T>& task);
  void (*weight_gradient)(const WeightGradientTask<T>& task);

  /// out[i] = grad[i] / slope[i] and values_out[i] = values[i] where i spiked, 0 and 0 elsewhere;
  /// NaN outputs stay NaN.
  void (*scale_gradient)(const T* values, const T* slopes, const T* gradients, std::int64_t n,
                         T* values_out, T* out);
};

struct KernelTable {
  Kernels<float> f32;
  Kernels<double> f64;
  CircuitKernels circuit;
  IntegerKernels integer;
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
