// The integer engine's inner loops: the contract between src/integer*.cpp and the kernels.
// docs/integer.md has the arithmetic and the proof that nothing overflows.
#pragma once

#include <cstdint>

namespace ttfs {

/// Events in a group: the sweep checks the membrane once per group.
inline constexpr int kGroupEvents = 16;

/// Outputs in a block of weights: a row of a wide block is one cache line. The remaining outputs of
/// a layer go into narrow blocks.
inline constexpr std::int64_t kWideBlock = 64;
inline constexpr std::int64_t kNarrowBlock = 16;

/// The place of an output's weight within a row of its block. In a wide block, interleaving the
/// bytes of four rows, as each instruction set does, gives the outputs in order.
constexpr std::int64_t place_in_row(std::int64_t output, std::int64_t width) {
  return width == kWideBlock ? output / 4 % 4 * 16 + output / 16 * 4 + output % 4 : output;
}

/// An event is a word: the spike code in the upper 16 bits, below it the row of weights.
constexpr std::uint32_t event_word(std::uint32_t code, std::uint32_t row) {
  return code << 16 | row;
}

/// The times of a group's events. An event's lag is the time from it to the end of the group, which
/// is the start of the next group.
struct EventGroup {
  std::uint8_t lags[2 * kGroupEvents];  // in the format of the instruction set's `add_events`
  std::int32_t start, end;
  std::int32_t overshoot;  // sum of min(lag, time since the start): see docs/integer.md
  std::int32_t wide;       // whether some lag is above the set's longest_narrow_lag
};

/// One pixel against one block of outputs.
struct IntegerSweepTask {
  const std::uint32_t* words;  // kGroupEvents for each group
  const EventGroup* groups;
  std::int64_t group_count;
  std::int64_t bias_group;     // the group before which the bias is added, or -1
  const std::int8_t* weights;  // rows of `width` weights, the last all 0
  const std::int32_t* theta;   // `width` thresholds
  const std::int32_t* bias;    // `width` bias weights
  const std::int32_t* slope;   // `width` slopes after the last group, or null: the sums so far
  std::int64_t width;          // kWideBlock or kNarrowBlock
  std::int64_t used;           // outputs that exist; the others' weights are 0
  std::int32_t most_negative;  // no weight of the block is below -most_negative
  bool exact;                  // sweep event by event, in 64 bits
  std::uint32_t ratio;         // output code = round(spike time * ratio / 2^16)
  std::uint32_t latest;        // later output codes are silent
  std::uint16_t silent;        // the code for silence
  std::uint16_t* codes;        // out: `width` spike codes
};

struct IntegerKernels {
  /// Appends an event (code, first + i) for every codes[i] < silent; returns how many. Room for n +
  /// 32 more.
  std::int64_t (*collect)(const std::uint16_t* codes, std::int64_t n, std::uint32_t first,
                          std::uint16_t silent, std::uint32_t* events);

  /// Counting sort by code; equal codes keep their order. Returns where the sorted events are:
  /// `events` or `scratch`, each with room for n.
  std::uint32_t* (*sort)(std::uint32_t* events, std::int64_t n, std::uint32_t* scratch);

  /// Replaces the position of every event by its row of weights, and looks up which pixels receive
  /// it.
  void (*describe)(std::uint32_t* events, std::int64_t n, const std::uint16_t* row_of,
                   const std::uint16_t* members_of, std::uint16_t* members);

  /// Copies the events whose membership word has the bit set, with rows reduced by shift; returns
  /// how many. Room for n + 32.
  std::int64_t (*filter)(const std::uint32_t* events, const std::uint16_t* members, std::int64_t n,
                         int bit, std::uint32_t shift, std::uint32_t* out);

  /// Describes the times of `groups` groups of events; false where a group lasts longer than
  /// `span`, so that the sweep must be exact.
  bool (*group)(const std::uint32_t* words, std::int64_t groups, std::int64_t span,
                EventGroup* out);

  void (*sweep)(const IntegerSweepTask& task);

  /// Weights of a block as bytes, from codes of `bits` bits (8, 4 or 2), rows of `width` each.
  void (*unpack)(const std::uint8_t* packed, int bits, std::int64_t rows, std::int64_t width,
                 std::int8_t* out);

  /// to[i] = min(to[i], from[i])
  void (*earlier)(const std::uint16_t* from, std::int64_t n, std::uint16_t* to);
};

}  // namespace ttfs
