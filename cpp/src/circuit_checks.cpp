#include "src/circuit_checks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>

namespace ttfs {
namespace {

std::string text(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.6g", value);
  return buffer;
}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

void require_positive(double value, const char* name, const char* unit) {
  if (!(value > 0 && std::isfinite(value)))
    refuse(std::string(name) + " must be a finite number above 0 " + unit + "; got " + text(value));
}

void require_not_negative(double value, const char* name) {
  if (!(value >= 0 && std::isfinite(value)))
    refuse(std::string(name) + " must be 0 or a finite number above; got " + text(value));
}

void require_finite(double value, const char* name) {
  if (!std::isfinite(value)) refuse(std::string(name) + " must be finite; got " + text(value));
}

void check(const CircuitParameters& p) {
  require_positive(p.loop_gain, "loop_gain (the loop is unstable otherwise)", "1/s");
  require_positive(p.loop_corner, "loop_corner (the loop is unstable otherwise)", "rad/s");
  require_positive(p.phase_per_weight, "phase_per_weight", "rad");
  require_positive(p.ring_frequency, "ring_frequency", "Hz");
  require_positive(p.low_frequency, "low_frequency", "Hz");
  require_positive(p.high_frequency, "high_frequency", "Hz");
  require_positive(p.threshold_frequency, "threshold_frequency", "Hz");
  require_positive(p.threshold_phase, "threshold_phase", "rad");
  if (!(p.phase_range >= 1 && std::isfinite(p.phase_range)) ||
      p.phase_range != std::floor(p.phase_range))
    refuse("phase_range must be a whole number of turns from 1 on; got " + text(p.phase_range));
  if (!(p.low_frequency < p.high_frequency))
    refuse(
        "low_frequency must be below high_frequency (the membrane's gain is negative "
        "otherwise); got " +
        text(p.low_frequency) + " and " + text(p.high_frequency) + " Hz");
  const double half_range = std::numbers::pi * p.phase_range;
  if (!(p.threshold_phase < half_range))
    refuse("threshold_phase must be below pi phase_range = " + text(half_range) +
           " rad, half of what the flip-flop tells apart; got " + text(p.threshold_phase));
  // The detector looks twice a period, and each look corrects the error by gain / (2 frequency):
  // the loop is stable while that is below 2.
  const double most = 4 * p.ring_frequency;
  if (!(p.loop_gain < most))
    refuse("the loop is unstable: loop_gain must be below 4 ring_frequency = " + text(most) +
           " 1/s, since the detector compares two edges a period; got " + text(p.loop_gain));
}

void check(const CircuitNoise& n) {
  require_not_negative(n.relative_jitter, "relative_jitter");
  require_not_negative(n.jitter, "jitter");
  require_not_negative(n.loop_diffusion, "loop_diffusion");
  require_not_negative(n.membrane_diffusion, "membrane_diffusion");
  require_not_negative(n.loop_gain_spread, "loop_gain_spread");
  require_not_negative(n.membrane_gain_spread, "membrane_gain_spread");
  require_not_negative(n.loop_frequency_spread, "loop_frequency_spread");
  require_not_negative(n.membrane_frequency_spread, "membrane_frequency_spread");
  require_not_negative(n.comparator_spread, "comparator_spread");
  require_finite(n.common_drift, "common_drift");
  require_finite(n.differential_drift, "differential_drift");
  if (n.weight_bits < 0 || n.weight_bits > 52)
    refuse("weight_bits must be from 1 to 52, or 0 for exact weights; got " +
           std::to_string(n.weight_bits));
  if (n.weight_bits > 0) require_positive(n.weight_full_scale, "weight_full_scale", "");
}

void check_step(const CircuitTask& task) {
  const CircuitParameters& p = task.parameters;
  if (task.model == CircuitModel::averaged) {
    const double most = 0.5 / p.loop_gain;
    if (!(task.step <= most))
      refuse("step is too coarse for the loop: it must be at most 1 / (2 loop_gain) = " +
             text(most) + " s; got " + text(task.step));
    const double natural = std::sqrt(p.loop_gain * p.loop_corner);
    const double turn = 0.25 * std::numbers::pi / natural;
    if (p.loop_corner < 4 * p.loop_gain && !(task.step <= turn))
      refuse(
          "step is too coarse for the loop's oscillation: it must be at most pi / (4 "
          "sqrt(loop_gain loop_corner)) = " +
          text(turn) + " s; got " + text(task.step));
    return;
  }
  const double fastest = std::max({p.ring_frequency, p.high_frequency, p.threshold_frequency}) +
                         std::abs(task.noise.common_drift) +
                         std::abs(task.noise.differential_drift) + 0.25 * p.loop_gain;
  const double most = 1 / (8 * fastest);
  if (!(task.step <= most))
    refuse("step is too coarse for the ring: it must be at most an eighth of the fastest period, " +
           text(most) + " s; got " + text(task.step));
  if (!(task.step * p.loop_corner <= 1))
    refuse("step is too coarse for the loop filter: it must be at most 1 / loop_corner = " +
           text(1 / p.loop_corner) + " s; got " + text(task.step));
  const double slowest =
      std::min(p.ring_frequency, std::min(p.low_frequency, p.threshold_frequency)) -
      std::abs(task.noise.common_drift) - std::abs(task.noise.differential_drift) -
      0.25 * p.loop_gain;
  if (!(slowest > 0))
    refuse(
        "a ring would stop: the lowest frequency less drift and loop_gain / 4 must be above 0; "
        "got " +
        text(slowest) + " Hz");
}

}  // namespace

void check(const CircuitTask& task) {
  check(task.parameters);
  check(task.noise);
  require_positive(task.step, "step", "s");
  require_positive(task.duration, "duration", "s");
  if (!(task.duration / task.step <= 1e9))
    refuse("duration must be at most 1e9 steps; got " + text(task.duration / task.step));
  check_step(task);
  if (task.trials < 0 || task.inputs < 0 || task.rows < 0 || task.first_trial < 0)
    refuse("trials, inputs, rows and first_trial must be 0 or above");
  if (task.inputs > std::numeric_limits<std::int32_t>::max()) refuse("there are too many inputs");
  if (task.waveforms && task.decimation < 1)
    refuse("decimation must be at least 1; got " + std::to_string(task.decimation));
}

}  // namespace ttfs
