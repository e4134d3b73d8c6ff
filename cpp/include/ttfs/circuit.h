// The neuron circuit in the phase domain: a phase-locked loop as the synapse, two ring oscillators
// as the membrane (Zhou et al., AAAI 2021, section 3.1). Units are seconds, hertz and radians.
#pragma once

#include <cstdint>

namespace ttfs {

enum class CircuitModel : std::uint8_t {
  averaged,   // the detector's duty cycle drives the loop and VCO4
  switching,  // square waves, their XOR, a sampled flip-flop
};

struct CircuitParameters {
  double loop_gain = 0;            // k = k_pd k_vco of equation (2), 1/s; tau = 1 / k
  double loop_corner = 0;          // w_lf of equation (2), rad/s
  double phase_per_weight = 0;     // step of VCO1's phase for a weight of 1, rad
  double ring_frequency = 0;       // VCO1 and VCO2 in lock, Hz
  double low_frequency = 0;        // VCO4 at I_L, Hz
  double high_frequency = 0;       // VCO4 at I_H, Hz
  double threshold_frequency = 0;  // VCO3 at I_th, Hz
  double threshold_phase = 0;      // lead of VCO3 over VCO4 after a reset, rad
  double phase_range = 0;          // turns that the flip-flop distinguishes, >= 1
};

/// Non-idealities; 0 switches each off. Spreads are standard deviations of Gaussians, drawn once
/// per chip. Jitter is drawn once per input and trial. Diffusion acts at every step.
struct CircuitNoise {
  double relative_jitter = 0;            // of an input's time, as a fraction of it
  double jitter = 0;                     // of an input's time, s
  std::int64_t weight_bits = 0;          // bits of the resistor bank without sign; 0: exact weights
  double weight_full_scale = 0;          // largest weight of the bank
  bool bank_offset = false;              // shift each bank's levels by a random fraction of a level
  double loop_diffusion = 0;             // of VCO1 and of VCO2: variance of the phase, rad^2/s
  double membrane_diffusion = 0;         // of VCO3 and of VCO4
  double loop_gain_spread = 0;           // VCO2's gain against VCO1's, relative
  double membrane_gain_spread = 0;       // VCO4's gain, relative
  double loop_frequency_spread = 0;      // VCO1's frequency minus VCO2's, Hz
  double membrane_frequency_spread = 0;  // VCO4's frequency minus VCO3's, Hz
  double comparator_spread = 0;          // offset of the comparison, rad
  double common_drift = 0;               // of all four frequencies, Hz, the same for every trial
  double differential_drift = 0;         // VCO1 - VCO2 and VCO4 - VCO3, Hz, for every trial
  bool random_start = false;             // the rings' phase at time 0 is uniform, else 0
};

/// Trials: each is one neuron with `inputs` inputs. `time_rows` and `weight_rows` select the rows
/// of a trial; a null pointer selects row 0 for every trial.
struct CircuitTask {
  CircuitModel model = CircuitModel::averaged;
  CircuitParameters parameters;
  CircuitNoise noise;
  double step = 0;      // s
  double duration = 0;  // s
  std::uint64_t seed = 0;
  std::int64_t first_trial = 0;  // number of the first trial; noise is a function of (seed, trial)
  std::int64_t trials = 0;
  std::int64_t inputs = 0;
  std::int64_t rows = 0;            // of times
  const double* times = nullptr;    // [rows][inputs], s, >= 0; +inf is silent
  const double* weights = nullptr;  // [rows][inputs], finite
  const std::int64_t* time_rows = nullptr;
  const std::int64_t* weight_rows = nullptr;
  const std::int64_t* chips = nullptr;  // number of each trial's chip; null: the trial's number
  double* fire = nullptr;               // out: [trials] s, +inf where silent
  double* peak = nullptr;               // out: [trials] largest |phase error| after an input, rad
  /// Every `record_every` steps, from time 0: [trials][samples][kCircuitChannels], or null.
  std::int64_t record_every = 0;
  double* waveforms = nullptr;
};

/// Phase error of the loop (rad), frequency that the loop adds to VCO2 (rad/s), phase that VCO4
/// gained over VCO3 since the reset (rad; the neuron fires at threshold_phase), duty cycle of UP.
inline constexpr std::int64_t kCircuitChannels = 4;

std::int64_t circuit_steps(const CircuitTask& task);
std::int64_t circuit_samples(const CircuitTask& task);

/// Runs the trials and returns the number of neuron-steps: steps of neurons that had not fired yet.
/// The result does not depend on `threads`, nor on how trials are divided among calls.
/// Throws std::invalid_argument, which names the bound, for invalid parameters.
std::int64_t simulate_circuit(const CircuitTask& task, int threads);

}  // namespace ttfs
