#include "src/circuit_checks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
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

using P = CircuitParameters;
constexpr CircuitField<P> kParameters[] = {
    {"loop_gain", &P::loop_gain, Bound::positive, "1/s (the loop is unstable otherwise)"},
    {"loop_corner", &P::loop_corner, Bound::positive, "rad/s (the loop is unstable otherwise)"},
    {"phase_per_weight", &P::phase_per_weight, Bound::positive, "rad"},
    {"ring_frequency", &P::ring_frequency, Bound::positive, "Hz"},
    {"low_frequency", &P::low_frequency, Bound::positive, "Hz"},
    {"high_frequency", &P::high_frequency, Bound::positive, "Hz"},
    {"threshold_frequency", &P::threshold_frequency, Bound::positive, "Hz"},
    {"threshold_phase", &P::threshold_phase, Bound::positive, "rad"},
    {"phase_range", &P::phase_range, Bound::positive, "turns"},
};
static_assert(sizeof(P) == std::size(kParameters) * sizeof(double), "a parameter has no row");

using N = CircuitNoise;
constexpr CircuitField<N> kNoise[] = {
    {"relative_jitter", &N::relative_jitter, Bound::not_negative, ""},
    {"jitter", &N::jitter, Bound::not_negative, "s"},
    {"weight_bits", &N::weight_bits, Bound::none, ""},
    {"weight_full_scale", &N::weight_full_scale, Bound::not_negative, ""},
    {"bank_offset", &N::bank_offset, Bound::none, ""},
    {"loop_diffusion", &N::loop_diffusion, Bound::not_negative, "rad^2/s"},
    {"membrane_diffusion", &N::membrane_diffusion, Bound::not_negative, "rad^2/s"},
    {"loop_gain_spread", &N::loop_gain_spread, Bound::not_negative, ""},
    {"membrane_gain_spread", &N::membrane_gain_spread, Bound::not_negative, ""},
    {"loop_frequency_spread", &N::loop_frequency_spread, Bound::not_negative, "Hz"},
    {"membrane_frequency_spread", &N::membrane_frequency_spread, Bound::not_negative, "Hz"},
    {"comparator_spread", &N::comparator_spread, Bound::not_negative, "rad"},
    {"common_drift", &N::common_drift, Bound::finite, "Hz"},
    {"differential_drift", &N::differential_drift, Bound::finite, "Hz"},
    {"random_start", &N::random_start, Bound::none, ""},
};
static_assert(sizeof(N) == std::size(kNoise) * sizeof(double), "a non-ideality has no row");

void require(Bound bound, double value, const std::string& name, const std::string& unit) {
  const bool holds = bound == Bound::positive ? value > 0 : bound == Bound::finite || value >= 0;
  if (bound == Bound::none || (holds && std::isfinite(value))) return;
  const char* allowed = bound == Bound::positive       ? "a finite number above 0"
                        : bound == Bound::not_negative ? "0 or a finite number above"
                                                       : "finite";
  refuse(name + " must be " + allowed + (unit.empty() ? "" : " " + unit) + "; got " + text(value));
}

template <class T>
void check_fields(const T& values) {
  for (const CircuitField<T>& field : circuit_fields<T>())
    if (const auto* member = std::get_if<double T::*>(&field.member))
      require(field.bound, values.*(*member), field.name, field.unit);
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
  const N& n = task.noise;
  // Almost no chip is further from the others.
  constexpr double kDeviations = 6;
  const double half = 0.5 * (p.high_frequency - p.low_frequency);
  const double low = p.low_frequency + half - half * std::exp(kDeviations * n.membrane_gain_spread);
  const double slowest =
      std::min({p.ring_frequency, low, p.threshold_frequency}) - std::abs(n.common_drift) -
      std::abs(n.differential_drift) -
      kDeviations * std::max(n.loop_frequency_spread, n.membrane_frequency_spread) -
      0.25 * p.loop_gain * std::exp(kDeviations * n.loop_gain_spread);
  if (!(slowest > 0))
    refuse(
        "a ring would stop: the lowest frequency less drift, six times the spreads and loop_gain / "
        "4 must be above 0; got " +
        text(slowest) + " Hz");
}

}  // namespace

template <>
std::span<const CircuitField<CircuitParameters>> circuit_fields() {
  return kParameters;
}

template <>
std::span<const CircuitField<CircuitNoise>> circuit_fields() {
  return kNoise;
}

void check(const CircuitParameters& p) {
  // First, because defaults of others follow from the difference.
  if (p.low_frequency >= p.high_frequency)
    refuse(
        "low_frequency must be below high_frequency (the membrane's gain is negative "
        "otherwise); got " +
        text(p.low_frequency) + " and " + text(p.high_frequency) + " Hz");
  check_fields(p);
  if (p.phase_range != std::floor(p.phase_range))
    refuse("phase_range must be a whole number of turns from 1 on; got " + text(p.phase_range));
  const double half_range = std::numbers::pi * p.phase_range;
  if (!(p.threshold_phase < half_range))
    refuse("threshold_phase must be below pi phase_range = " + text(half_range) +
           " rad, half of what the flip-flop tells apart; got " + text(p.threshold_phase));
  // The detector compares twice per period, and each time corrects the error by the factor
  // gain / (2 frequency). The loop is stable if this is below 2.
  const double most = 4 * p.ring_frequency;
  if (!(p.loop_gain < most))
    refuse("the loop is unstable: loop_gain must be below 4 ring_frequency = " + text(most) +
           " 1/s, since the detector compares two edges a period; got " + text(p.loop_gain));
}

void check(const CircuitNoise& n) {
  check_fields(n);
  if (n.weight_bits < 0 || n.weight_bits > 52)
    refuse("weight_bits must be from 1 to 52, or 0 for exact weights; got " +
           std::to_string(n.weight_bits));
  if (n.weight_bits > 0) require(Bound::positive, n.weight_full_scale, "weight_full_scale", "");
}

void check(const CircuitTask& task) {
  check(task.parameters);
  check(task.noise);
  require(Bound::positive, task.step, "step", "s");
  require(Bound::positive, task.duration, "duration", "s");
  if (!(task.duration / task.step <= 1e9))
    refuse("duration must be at most 1e9 steps; got " + text(task.duration / task.step));
  check_step(task);
  if (task.trials < 0 || task.inputs < 0 || task.rows < 0 || task.first_trial < 0)
    refuse("trials, inputs, rows and first_trial must be 0 or above; got " +
           std::to_string(task.trials) + ", " + std::to_string(task.inputs) + ", " +
           std::to_string(task.rows) + " and " + std::to_string(task.first_trial));
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (task.inputs > most)
    refuse("inputs must be at most " + std::to_string(most) + "; got " +
           std::to_string(task.inputs));
  if (task.record_every < (task.waveforms ? 1 : 0))
    refuse(std::string("record_every must be ") + (task.waveforms ? "at least 1" : "0 or above") +
           "; got " + std::to_string(task.record_every));
}

}  // namespace ttfs
