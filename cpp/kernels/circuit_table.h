// The data of the kernels of the neuron circuit: eight trials side by side.
#pragma once

#include <cstdint>

namespace ttfs {

inline constexpr int kCircuitLanes = 8;

/// Second word of the generator's key: the use of the numbers.
inline constexpr std::uint64_t kPathStream = 0, kJitterStream = 1, kBankStream = 2,
                               kSpreadStream = 3, kStartStream = 4;

/// The counter-based generator's key and counters of eight trials (Threefry-2x64, 20 rounds).
struct CircuitStreams {
  bool on = false;
  std::uint64_t seed = 0;
  alignas(64) std::uint64_t trial[kCircuitLanes] = {};
};

/// Eight averaged neurons. One step, exact between inputs, from the deviations e of the loop's
/// phase error and x of VCO2's frequency from their resting values:
///   e <- ee e + ex x + n_e,  x <- xe e + xx x + n_x,  v <- v + ve e + vx x + drift + n_v.
struct AveragedLanes {
  alignas(64) double e[kCircuitLanes] = {}, x[kCircuitLanes] = {}, v[kCircuitLanes] = {};
  alignas(64) double ee[kCircuitLanes] = {}, ex[kCircuitLanes] = {}, xe[kCircuitLanes] = {},
                     xx[kCircuitLanes] = {}, ve[kCircuitLanes] = {}, vx[kCircuitLanes] = {},
                     drift[kCircuitLanes] = {};
  /// No crossing is possible in a step after which v + reach_e |e| + reach_x |x| + reach <
  /// threshold with e and x those before it.
  alignas(64) double reach_e[kCircuitLanes] = {}, reach_x[kCircuitLanes] = {},
                     reach[kCircuitLanes] = {}, threshold[kCircuitLanes] = {};
  /// Lower triangle that turns three independent normals into (n_e, n_x, n_v).
  alignas(64) double noise[6][kCircuitLanes] = {};
  CircuitStreams streams;
  alignas(64) double old_e[kCircuitLanes] = {}, old_x[kCircuitLanes] = {},
                     old_v[kCircuitLanes] = {};  // out: before the last step
};

/// Eight switching neurons; phases in turns, frequencies in turns per step.
struct SwitchingLanes {
  alignas(64) double reference[kCircuitLanes] = {}, output[kCircuitLanes] = {};  // VCO1, VCO2
  alignas(64) double control[kCircuitLanes] = {};                                // loop filter
  alignas(64) double clock[kCircuitLanes] = {};  // VCO4, whose rising edges clock the flip-flop
  alignas(64) double lead[kCircuitLanes] = {};   // VCO4 - VCO3
  alignas(64) double duty[kCircuitLanes] = {};   // of UP in the last step
  alignas(64) double fire[kCircuitLanes] = {};   // in steps, with fraction; +inf before
  alignas(64) double reference_rate[kCircuitLanes] = {}, output_rate[kCircuitLanes] = {};
  alignas(64) double output_gain[kCircuitLanes] = {};  // turns per step for a control of 1
  alignas(64) double decay[kCircuitLanes] = {};        // of the filter over a step
  alignas(64) double mean[kCircuitLanes] = {};         // of that decay within the step
  alignas(64) double low_rate[kCircuitLanes] = {}, gain_rate[kCircuitLanes] = {};  // VCO4
  alignas(64) double threshold_rate[kCircuitLanes] = {};                           // VCO3
  alignas(64) double offset[kCircuitLanes] = {};                                   // comparator
  double range = 1;
  double loop_noise = 0;  // deviation of a phase after one step, turns
  alignas(64) double membrane_noise[kCircuitLanes] = {};
  CircuitStreams streams;
  alignas(64) double old[6][kCircuitLanes] = {};  // out: reference .. lead, fire before the step
};

struct CircuitKernels {
  /// Runs at most `steps` steps, the first of which has the number `first`; stops after a step in
  /// which a lane may have crossed its threshold and sets its bit. Returns the steps done.
  std::int64_t (*averaged)(AveragedLanes& lanes, std::int64_t first, std::int64_t steps,
                           unsigned* crossed);

  /// Runs `steps` steps. Records when lanes fire; their membrane continues.
  void (*switching)(SwitchingLanes& lanes, std::int64_t first, std::int64_t steps);

  /// `count` normal numbers of one lane's stream, for tests: those of steps first, first + 1, ...
  void (*normals)(std::uint64_t seed, std::uint64_t trial, std::int64_t first, std::int64_t count,
                  double* out);
};

}  // namespace ttfs
