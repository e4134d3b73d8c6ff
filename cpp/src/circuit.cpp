// Trials of the neuron circuit, eight side by side. The kernels compute the steps between inputs;
// this file computes the steps with an input or a crossing, one lane at a time.
#include "ttfs/circuit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "kernels/table.h"
#include "src/circuit_checks.h"
#include "src/parallel.h"
#include "src/pll.h"
#include "src/threefry.h"

namespace ttfs {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kTurn = 2 * std::numbers::pi;

struct Input {
  double time;
  double weight;
  std::int64_t index;
};

/// One trial's circuit, with the random parameters of its chip.
struct Neuron {
  double loop_gain = 0;   // 1/s
  double membrane = 0;    // d(membrane phase)/dt for a phase error of 1 rad, 1/s
  double detuning = 0;    // VCO1 - VCO2, rad/s
  double leak = 0;        // VCO4 at half duty - VCO3, rad/s
  double comparator = 0;  // rad
  double start = 0;       // turns
};

double spread(const CircuitTask& task, std::uint64_t chip, std::uint64_t number) {
  return normal_pair({task.seed, kSpreadStream}, {chip, number}).first;
}

Neuron draw_neuron(const CircuitTask& task, std::uint64_t trial, std::uint64_t chip) {
  const CircuitParameters& p = task.parameters;
  const CircuitNoise& noise = task.noise;
  // Gains vary by a positive factor, so that they stay above 0.
  const auto factor = [&](double deviation, std::uint64_t number) {
    return deviation > 0 ? std::exp(deviation * spread(task, chip, number)) : 1.0;
  };
  const auto shift = [&](double deviation, std::uint64_t number) {
    return deviation > 0 ? deviation * spread(task, chip, number) : 0.0;
  };
  Neuron n;
  n.loop_gain = p.loop_gain * factor(noise.loop_gain_spread, 0);
  n.membrane = 2 * (p.high_frequency - p.low_frequency) * factor(noise.membrane_gain_spread, 1);
  n.detuning = kTurn * (shift(noise.loop_frequency_spread, 2) + noise.differential_drift);
  n.leak = kTurn * (0.5 * (p.low_frequency + p.high_frequency) - p.threshold_frequency +
                    shift(noise.membrane_frequency_spread, 3) + noise.differential_drift);
  n.comparator = shift(noise.comparator_spread, 4);
  if (noise.random_start) n.start = uniform(threefry({task.seed, kStartStream}, {trial, 0}).a);
  return n;
}

double quantized(const CircuitTask& task, double weight, std::uint64_t chip, std::int64_t index) {
  const CircuitNoise& noise = task.noise;
  if (noise.weight_bits == 0) return weight;
  const double levels = std::ldexp(1.0, static_cast<int>(noise.weight_bits));
  const double level = noise.weight_full_scale / levels;
  double offset = 0;
  if (noise.bank_offset) {
    const Words words =
        threefry({task.seed, kBankStream}, {chip, static_cast<std::uint64_t>(index)});
    offset = uniform(words.a) - 0.5;
  }
  const double code =
      std::clamp(std::nearbyint(std::abs(weight) / level - offset), 0.0, levels - 1);
  // (A bank may lie below 0: the error is uniform at small weights, too.)
  return std::copysign(1.0, weight) * (code + offset) * level;
}

bool jitters(const CircuitNoise& noise) { return noise.relative_jitter > 0 || noise.jitter > 0; }

/// The order of each row's times; all neurons of a layer with the same inputs share it.
std::vector<std::int32_t> sort_rows(const CircuitTask& task, int threads) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(task.rows * task.inputs));
  parallel_for(task.rows, threads, [&](std::int64_t row, int) {
    const double* times = task.times + row * task.inputs;
    std::int32_t* mine = order.data() + row * task.inputs;
    for (std::int64_t i = 0; i < task.inputs; ++i) mine[i] = static_cast<std::int32_t>(i);
    std::sort(mine, mine + task.inputs, [times](std::int32_t a, std::int32_t b) {
      return times[a] != times[b] ? times[a] < times[b] : a < b;
    });
  });
  return order;
}

/// Collects the trial's spikes in the order in which they reach the circuit; returns their number.
std::int64_t collect_inputs(const CircuitTask& task, const std::int32_t* order, std::int64_t local,
                            std::uint64_t trial, std::uint64_t chip, Input* to) {
  const CircuitNoise& noise = task.noise;
  const std::int64_t row = task.time_rows ? task.time_rows[local] : 0;
  const double* times = task.times + row * task.inputs;
  const double* weights =
      task.weights + (task.weight_rows ? task.weight_rows[local] : 0) * task.inputs;
  std::int64_t count = 0;
  for (std::int64_t n = 0; n < task.inputs; ++n) {
    const std::int64_t i = order[row * task.inputs + n];
    double time = times[i];
    if (time == kInfinity) break;
    if (weights[i] == 0) continue;
    if (jitters(noise)) {
      const auto [relative, absolute] =
          normal_pair({task.seed, kJitterStream}, {trial, static_cast<std::uint64_t>(i)});
      time =
          std::max(0.0, time + time * noise.relative_jitter * relative + noise.jitter * absolute);
    }
    if (time >= task.duration) continue;
    to[count++] = {time, quantized(task, weights[i], chip, i), i};
  }
  if (jitters(noise))
    std::sort(to, to + count, [](const Input& a, const Input& b) {
      return a.time != b.time ? a.time < b.time : a.index < b.index;
    });
  return count;
}

/// Lower triangle L with L L' = covariance of the change of (e, x, v) by white noise over a step.
std::array<double, 6> step_noise(const Loop& loop, double step, double membrane, double loop_noise,
                                 double membrane_noise) {
  // Gauss-Legendre, 8 points in each of 16 parts: the integrand decays at the loop's rates.
  static constexpr double kNodes[4] = {0.1834346424956498, 0.5255324099163290, 0.7966664774136267,
                                       0.9602898564975363};
  static constexpr double kWeights[4] = {0.3626837833783620, 0.3137066458778873, 0.2223810344533745,
                                         0.1012285362903763};
  constexpr int kParts = 16;
  double c[6] = {0, 0, 0, 0, 0, membrane_noise * step};  // ee, ex, xx, ev, xv, vv
  for (int part = 0; part < kParts; ++part)
    for (int node = 0; node < 8; ++node) {
      const double place = node < 4 ? kNodes[node] : -kNodes[node - 4];
      const double weight = kWeights[node % 4] * 0.5 * step / kParts * loop_noise;
      const Transition t = loop.after(step * (part + 0.5 + 0.5 * place) / kParts);
      const double e = t.ee, x = t.xe, v = membrane * t.ve;
      c[0] += weight * e * e;
      c[1] += weight * e * x;
      c[2] += weight * x * x;
      c[3] += weight * e * v;
      c[4] += weight * x * v;
      c[5] += weight * v * v;
    }
  const auto root = [](double a) { return a > 0 ? std::sqrt(a) : 0.0; };
  const auto over = [](double a, double b) { return b > 0 ? a / b : 0.0; };
  std::array<double, 6> l{};
  l[0] = root(c[0]);
  l[1] = over(c[1], l[0]);
  l[2] = root(c[2] - l[1] * l[1]);
  l[3] = over(c[3], l[0]);
  l[4] = over(c[4] - l[1] * l[3], l[2]);
  l[5] = root(c[5] - l[3] * l[3] - l[4] * l[4]);
  return l;
}

/// The loop's deviation from lock at time 0, after it has run for a long time: a draw from the
/// stationary distribution of (e, x) under white frequency noise of both oscillators, q = 2 D, with
/// var e = q (1 / gain + 1 / corner) / 2, cov(e, x) = q / 2 and var x = gain q / 2.
std::pair<double, double> settled(const CircuitTask& task, std::uint64_t trial, double gain) {
  const double q = 2 * task.noise.loop_diffusion;
  if (q == 0) return {0, 0};
  const auto [first, second] = normal_pair({task.seed, kStartStream}, {trial, 1});
  const double ee = 0.5 * q * (1 / gain + 1 / task.parameters.loop_corner);
  const double le = std::sqrt(ee), lx = 0.5 * q / le;
  return {le * first, lx * first + std::sqrt(std::max(0.0, 0.5 * q * gain - lx * lx)) * second};
}

/// step_noise of a chip. The difference of two oscillators diffuses twice as fast as each of them.
std::array<double, 6> chip_noise(const CircuitTask& task, const Neuron& neuron) {
  return step_noise(Loop(neuron.loop_gain, task.parameters.loop_corner), task.step, neuron.membrane,
                    2 * task.noise.loop_diffusion, 2 * task.noise.membrane_diffusion);
}

/// Data that all groups of a call share.
struct Shared {
  std::vector<std::int32_t> order;           // see sort_rows
  std::array<double, 6> nominal_noise = {};  // step_noise of a chip without spreads
  Stop stop = {};
};

/// Steps between two checks for a signal.
constexpr std::int64_t kStepsPerSignalCheck = std::int64_t{1} << 16;

/// Eight trials: the code that both models share.
class Group {
 public:
  Group(const CircuitTask& task, const Shared& shared, std::int64_t first, Input* inputs)
      : task_(task), stop_(shared.stop), steps_(circuit_steps(task)), first_(first) {
    lanes_ = static_cast<int>(std::min<std::int64_t>(kCircuitLanes, task.trials - first));
    for (int lane = 0; lane < lanes_; ++lane) {
      const std::int64_t local = first + lane;
      trial_[lane] = static_cast<std::uint64_t>(task.first_trial + local);
      const std::uint64_t chip =
          task.chips ? static_cast<std::uint64_t>(task.chips[local]) : trial_[lane];
      neuron_[lane] = draw_neuron(task, trial_[lane], chip);
      inputs_[lane] = inputs + lane * task.inputs;
      count_[lane] =
          collect_inputs(task, shared.order.data(), local, trial_[lane], chip, inputs_[lane]);
      fire_[lane] = kInfinity;
      find_next(lane);
    }
  }

 protected:
  double time_of(std::int64_t step) const { return static_cast<double>(step) * task_.step; }
  bool waits(int lane) const { return fire_[lane] == kInfinity; }
  bool recording() const { return task_.waveforms != nullptr; }

  bool has_input(int lane, std::int64_t step) const { return next_step_[lane] == step; }
  const Input& input(int lane) const { return inputs_[lane][next_[lane]]; }

  /// Moves to the lane's next input and returns whether it falls into this step as well.
  bool advance(int lane, std::int64_t step) {
    ++next_[lane];
    find_next(lane);
    return has_input(lane, step);
  }

  /// The first step at or after `step` that the kernel cannot compute alone: one with an input or a
  /// sample, or the end.
  std::int64_t stop_after(std::int64_t step) const {
    std::int64_t stop = steps_;
    for (int lane = 0; lane < lanes_; ++lane)
      if (waits(lane) || recording()) stop = std::min(stop, next_step_[lane]);
    if (recording()) stop = std::min(stop, (step / task_.record_every + 1) * task_.record_every);
    return stop;
  }

  int waiting() const {
    int count = 0;
    for (int lane = 0; lane < lanes_; ++lane) count += waits(lane);
    return count;
  }

  double* sample(int lane, std::int64_t step) const {
    return task_.waveforms +
           ((first_ + lane) * circuit_samples(task_) + step / task_.record_every) *
               kCircuitChannels;
  }

  void finish() const {
    for (int lane = 0; lane < lanes_; ++lane) {
      task_.fire[first_ + lane] = fire_[lane] <= task_.duration ? fire_[lane] : kInfinity;
      task_.peak[first_ + lane] = peak_[lane];
    }
  }

  const CircuitTask& task_;
  const Stop& stop_;
  const CircuitKernels& kernels_ = kernels().circuit;
  std::int64_t steps_, first_;
  int lanes_ = 0;
  std::uint64_t trial_[kCircuitLanes] = {};
  Neuron neuron_[kCircuitLanes];
  double fire_[kCircuitLanes] = {}, peak_[kCircuitLanes] = {};
  bool started_[kCircuitLanes] = {};

 private:
  void find_next(int lane) {
    next_step_[lane] = steps_;
    if (next_[lane] == count_[lane]) return;
    const double time = input(lane).time;
    auto step = static_cast<std::int64_t>(time / task_.step);
    while (step > 0 && time_of(step) > time) --step;
    while (time_of(step + 1) <= time) ++step;
    next_step_[lane] = std::min(step, steps_);
  }

  Input* inputs_[kCircuitLanes] = {};
  std::int64_t count_[kCircuitLanes] = {}, next_[kCircuitLanes] = {},
               next_step_[kCircuitLanes] = {};
};

class AveragedGroup : Group {
 public:
  AveragedGroup(const CircuitTask& task, const Shared& shared, std::int64_t first, Input* inputs)
      : Group(task, shared, first, inputs) {
    const CircuitNoise& noise = task.noise;
    s_.streams.on = noise.loop_diffusion > 0 || noise.membrane_diffusion > 0;
    s_.streams.seed = task.seed;
    for (int i = 0; i < kCircuitLanes; ++i) {
      s_.threshold[i] = kInfinity;
      if (i >= lanes_) continue;
      s_.streams.trial[i] = trial_[i];
      loop_[i] = Loop(neuron_[i].loop_gain, task.parameters.loop_corner);
      const Transition t = loop_[i].after(task.step);
      s_.ee[i] = t.ee;
      s_.ex[i] = t.ex;
      s_.xe[i] = t.xe;
      s_.xx[i] = t.xx;
      if (s_.streams.on) {
        noise_[i] = noise.loop_gain_spread > 0 || noise.membrane_gain_spread > 0
                        ? chip_noise(task, neuron_[i])
                        : shared.nominal_noise;
        for (int j = 0; j < 3; ++j) s_.noise[j][i] = noise_[i][static_cast<std::size_t>(j)];
        const auto [error, frequency] = settled(task, trial_[i], neuron_[i].loop_gain);
        s_.e[i] = error;
        s_.x[i] = frequency;
      }
    }
  }

  std::int64_t run(int worker) {
    std::int64_t step = 0, work = 0;
    if (recording()) record(0);
    while (step < steps_ && (recording() || waiting() > 0) && !stop_(worker)) {
      const std::int64_t stop = stop_after(step);
      const bool events = stop == step;
      const std::int64_t count = events ? 1 : std::min(stop - step, kStepsPerSignalCheck);
      unsigned crossed = 0;
      const std::int64_t done = kernels_.averaged(s_, step, count, &crossed);
      work += done * waiting();
      step += done;
      for (int lane = 0; lane < lanes_; ++lane) {
        if (events && has_input(lane, step - 1))
          step_with_inputs(lane, step - 1);
        else if (crossed >> lane & 1U)
          look_for_crossing(lane, step - 1);
      }
      if (recording() && step % task_.record_every == 0) record(step);
    }
    finish();
    return work;
  }

 private:
  double resting_error(int lane) const { return neuron_[lane].detuning / neuron_[lane].loop_gain; }
  double drift(int lane) const {
    return neuron_[lane].membrane * resting_error(lane) + neuron_[lane].leak;
  }
  double threshold(int lane) const {
    return task_.parameters.threshold_phase + neuron_[lane].comparator;
  }

  /// The first input releases the membrane.
  void start(int lane) {
    started_[lane] = true;
    const Transition t = loop_[lane].after(task_.step);
    const double membrane = neuron_[lane].membrane;
    s_.ve[lane] = membrane * t.ve;
    s_.vx[lane] = membrane * t.vx;
    s_.drift[lane] = drift(lane) * task_.step;
    for (std::size_t j = 3; j < 6; ++j) s_.noise[j][lane] = noise_[lane][j];
    // Within a step |e| stays below 2 (|e0| + step |x0|), as step gain <= 1/2.
    s_.reach_e[lane] = 2 * task_.step * membrane;
    s_.reach_x[lane] = 2 * task_.step * task_.step * membrane;
    s_.reach[lane] = task_.step * std::abs(drift(lane));
    s_.threshold[lane] = threshold(lane);
  }

  /// The membrane is reset. In this model it stays reset, because a neuron fires only once.
  void fire(int lane, double time) {
    fire_[lane] = time;
    s_.v[lane] = s_.ve[lane] = s_.vx[lane] = s_.drift[lane] = 0;
    s_.noise[3][lane] = s_.noise[4][lane] = s_.noise[5][lane] = 0;
    s_.reach_e[lane] = s_.reach_x[lane] = s_.reach[lane] = 0;
    s_.threshold[lane] = kInfinity;
  }

  /// The noise that the kernel added in its last step; zeros without noise.
  LoopState noise_of_step(int lane) const {
    if (!s_.streams.on) return {0, 0, 0};
    const double e = s_.old_e[lane], x = s_.old_x[lane];
    return {s_.e[lane] - (s_.ee[lane] * e + s_.ex[lane] * x),
            s_.x[lane] - (s_.xe[lane] * e + s_.xx[lane] * x),
            s_.v[lane] - (s_.old_v[lane] + (s_.ve[lane] * e + s_.vx[lane] * x + s_.drift[lane]))};
  }

  /// False if v certainly stays below the threshold: the kernel's bound, for a part of a step.
  static bool reachable(const Path& path, double length, double threshold) {
    const double error = 2 * (std::abs(path.start.e) + length * std::abs(path.start.x));
    return path.start.v + length * (path.membrane * error + std::abs(path.drift)) >= threshold;
  }

  void look_for_crossing(int lane, std::int64_t step) {
    const Path path{loop_[lane],
                    {s_.old_e[lane], s_.old_x[lane], s_.old_v[lane]},
                    neuron_[lane].membrane,
                    drift(lane) + noise_of_step(lane).v / task_.step};
    const double s = first_crossing(path, task_.step, threshold(lane));
    if (s >= 0) fire(lane, time_of(step) + s);
    // Rounding may bring the kernel's sum to the threshold but not that of the closed form.
    if (s < 0 && s_.v[lane] >= threshold(lane)) fire(lane, time_of(step + 1));
  }

  void step_with_inputs(int lane, std::int64_t step) {
    const LoopState noise = noise_of_step(lane);
    LoopState state{s_.old_e[lane], s_.old_x[lane], s_.old_v[lane]};
    const double begin = time_of(step);
    double reached = begin;
    bool more = true;
    while (true) {
      const double end = more ? std::max(input(lane).time, reached) : time_of(step + 1);
      const bool integrates = started_[lane] && waits(lane);
      const Path path{loop_[lane], state, integrates ? neuron_[lane].membrane : 0.0,
                      integrates ? drift(lane) + noise.v / task_.step : 0.0};
      const double length = end - reached;
      if (integrates && reachable(path, length, threshold(lane))) {
        const double s = first_crossing(path, length, threshold(lane));
        if (s >= 0) fire(lane, reached + s);
      }
      if (length > 0) state = path.at(length);
      reached = end;
      if (!more) break;
      state.e += task_.parameters.phase_per_weight * input(lane).weight;
      if (waits(lane)) peak_[lane] = std::max(peak_[lane], std::abs(state.e + resting_error(lane)));
      if (!started_[lane]) start(lane);
      more = advance(lane, step);
    }
    s_.e[lane] = state.e + noise.e;
    s_.x[lane] = state.x + noise.x;
    s_.v[lane] = waits(lane) ? state.v : 0;
    if (waits(lane) && s_.v[lane] >= s_.threshold[lane]) fire(lane, time_of(step + 1));
  }

  void record(std::int64_t step) const {
    for (int lane = 0; lane < lanes_; ++lane) {
      double* to = sample(lane, step);
      const double error = s_.e[lane] + resting_error(lane);
      to[0] = error;
      to[1] = s_.x[lane] + neuron_[lane].detuning;
      to[2] = s_.v[lane];
      to[3] = 0.5 + error / std::numbers::pi;
    }
  }

  AveragedLanes s_;
  Loop loop_[kCircuitLanes];
  std::array<double, 6> noise_[kCircuitLanes] = {};
};

class SwitchingGroup : Group {
 public:
  SwitchingGroup(const CircuitTask& task, const Shared& shared, std::int64_t first, Input* inputs)
      : Group(task, shared, first, inputs) {
    const CircuitParameters& p = task.parameters;
    const CircuitNoise& noise = task.noise;
    const double h = task.step;
    s_.streams.on = noise.loop_diffusion > 0 || noise.membrane_diffusion > 0;
    s_.streams.seed = task.seed;
    s_.range = p.phase_range;
    s_.loop_noise = std::sqrt(noise.loop_diffusion * h) / kTurn;
    for (int i = 0; i < kCircuitLanes; ++i) {
      s_.fire[i] = kInfinity;
      s_.lead[i] = s_.offset[i] = 0;
      s_.reference_rate[i] = s_.output_rate[i] = 0.01;  // an unused lane needs some rate
      if (i >= lanes_) continue;
      const Neuron& n = neuron_[i];
      s_.streams.trial[i] = trial_[i];
      // VCO2 gets the whole mismatch of the pair; in lock its control compensates it.
      s_.reference_rate[i] = h * (p.ring_frequency + noise.common_drift);
      s_.output_rate[i] = s_.reference_rate[i] - h * n.detuning / kTurn;
      s_.output_gain[i] = h * n.loop_gain / 2;
      s_.decay[i] = std::exp(-p.loop_corner * h);
      s_.mean[i] = -std::expm1(-p.loop_corner * h) / (p.loop_corner * h);
      s_.offset[i] = n.comparator / kTurn;
      // The XOR locks at a quarter of a turn, where UP is high half of the time.
      const auto [error, frequency] = settled(task, trial_[i], n.loop_gain);
      s_.reference[i] = n.start;
      s_.output[i] = fraction(n.start - 0.25 - (n.detuning / n.loop_gain + error) / kTurn);
      s_.control[i] = 0.5 + (n.detuning + frequency) / (std::numbers::pi * n.loop_gain);
      s_.duty[i] = 0.5;
      s_.lead[i] = -p.threshold_phase / kTurn;
    }
  }

  std::int64_t run(int worker) {
    std::int64_t step = 0, work = 0;
    if (recording()) record(0);
    while (step < steps_ && (recording() || waiting() > 0) && !stop_(worker)) {
      const std::int64_t stop = stop_after(step);
      const bool events = stop == step;
      // In parts, so that a group stops soon after all its neurons have fired.
      const std::int64_t count = events ? 1 : std::min<std::int64_t>(stop - step, 256);
      kernels_.switching(s_, step, count);
      for (int lane = 0; events && lane < lanes_; ++lane)
        if (has_input(lane, step)) step_with_inputs(lane, step);
      for (int lane = 0; lane < lanes_; ++lane) {
        if (!waits(lane)) continue;
        const bool fired = s_.fire[lane] < kInfinity;
        work += fired ? static_cast<std::int64_t>(s_.fire[lane]) + 1 - step : count;
        if (fired) fire_[lane] = s_.fire[lane] * task_.step;
      }
      step += count;
      if (recording() && step % task_.record_every == 0) record(step);
    }
    finish();
    return work;
  }

 private:
  static double fraction(double a) {
    const double f = a - std::floor(a);
    return f < 1 ? f : 0;
  }

  /// The first input releases VCO3 and VCO4.
  void start(int lane) {
    const CircuitParameters& p = task_.parameters;
    const Neuron& n = neuron_[lane];
    const double h = task_.step, drift = task_.noise.common_drift;
    started_[lane] = true;
    const double gain = n.membrane / 2;  // Hz between duty 0 and 1
    const double middle = 0.5 * (p.low_frequency + p.high_frequency);
    s_.gain_rate[lane] = h * gain;
    s_.low_rate[lane] = h * (middle - 0.5 * gain + drift);
    // VCO3 gets the whole mismatch of the pair.
    s_.threshold_rate[lane] = h * (middle + drift - n.leak / kTurn);
    s_.membrane_noise[lane] = std::sqrt(task_.noise.membrane_diffusion * h) / kTurn;
  }

  struct State {
    double reference, output, control, clock, lead, fire;
  };

  static double switching_time(double phase, double rate, int& level) {
    level = phase >= 0.5;
    return std::min((0.5 - (phase - 0.5 * level)) / rate, 1.0);
  }

  double wrap_lead(double lead) const {
    if (lead >= 0.5 * s_.range) lead -= s_.range;
    return lead < -0.5 * s_.range ? lead + s_.range : lead;
  }

  /// Computes a part of a step as the kernel computes a whole step.
  void move(State& state, int lane, double begin, double part) {
    if (!(part > 0)) return;
    const double corner = task_.parameters.loop_corner * task_.step * part;
    const double decay = std::exp(-corner), mean = -std::expm1(-corner) / corner;
    const double reference_rate = s_.reference_rate[lane] * part;
    const double output_rate = s_.output_rate[lane] * part;
    const double output_gain = s_.output_gain[lane] * part;
    int reference_level, output_level;
    const double a = switching_time(state.reference, reference_rate, reference_level);
    const double b = switching_time(state.output, output_rate + output_gain * (state.control - 0.5),
                                    output_level);
    const double gap = std::abs(a - b);
    const double duty = reference_level != output_level ? 1 - gap : gap;
    const double excess = state.control - duty;
    state.reference = fraction(state.reference + reference_rate);
    state.output =
        fraction(state.output + output_rate + output_gain * (duty + excess * mean - 0.5));
    state.control = duty + excess * decay;
    s_.duty[lane] = duty;
    const double forward = (s_.low_rate[lane] + s_.gain_rate[lane] * duty) * part;
    const double gained = forward - s_.threshold_rate[lane] * part;
    if (state.clock + forward >= 1) {
      const double edge = (1 - state.clock) / forward;
      const double lead = wrap_lead(state.lead + edge * gained);
      if (lead >= s_.offset[lane]) state.fire = std::min(state.fire, begin + edge * part);
      state.clock -= 1;
    }
    state.clock += forward;
    state.lead = wrap_lead(state.lead + gained);
  }

  void step_with_inputs(int lane, std::int64_t step) {
    const auto number = static_cast<double>(step);
    State state{s_.old[0][lane], s_.old[1][lane], s_.old[2][lane],
                s_.old[3][lane], s_.old[4][lane], s_.old[5][lane]};
    double reached = 0;
    for (bool more = true; more; more = advance(lane, step)) {
      const double end = std::clamp(input(lane).time / task_.step - number, reached, 1.0);
      move(state, lane, number + reached, end - reached);
      reached = end;
      const double jump = task_.parameters.phase_per_weight * input(lane).weight / kTurn;
      state.reference = fraction(state.reference + jump);
      const double error = fraction(state.reference - state.output + 0.25) - 0.5;
      if (state.fire == kInfinity) peak_[lane] = std::max(peak_[lane], kTurn * std::abs(error));
      if (!started_[lane]) {
        start(lane);
        state.clock = 0;
      }
    }
    move(state, lane, number + reached, 1 - reached);
    if (s_.streams.on) {
      const auto counter = 2 * static_cast<std::uint64_t>(step);
      const Words key{task_.seed, kPathStream};
      const auto [n0, n1] = normal_pair(key, {trial_[lane], counter});
      const auto [n2, n3] = normal_pair(key, {trial_[lane], counter + 1});
      state.reference = fraction(state.reference + s_.loop_noise * n0);
      state.output = fraction(state.output + s_.loop_noise * n1);
      state.clock += s_.membrane_noise[lane] * n2;
      state.lead = wrap_lead(state.lead + s_.membrane_noise[lane] * (n2 - n3));
    }
    s_.reference[lane] = state.reference;
    s_.output[lane] = state.output;
    s_.control[lane] = state.control;
    s_.clock[lane] = state.clock;
    s_.lead[lane] = state.lead;
    s_.fire[lane] = state.fire;
  }

  void record(std::int64_t step) const {
    for (int lane = 0; lane < lanes_; ++lane) {
      double* to = sample(lane, step);
      const double error = fraction(s_.reference[lane] - s_.output[lane] + 0.25) - 0.5;
      to[0] = kTurn * error;
      to[1] = std::numbers::pi * neuron_[lane].loop_gain * (s_.control[lane] - 0.5);
      to[2] = waits(lane) ? kTurn * s_.lead[lane] + task_.parameters.threshold_phase : 0;
      to[3] = s_.duty[lane];
    }
  }

  SwitchingLanes s_;
};

}  // namespace

std::int64_t circuit_steps(const CircuitTask& task) {
  return static_cast<std::int64_t>(std::ceil(task.duration / task.step * (1 - 1e-12)));
}

std::int64_t circuit_samples(const CircuitTask& task) {
  return task.record_every > 0 ? circuit_steps(task) / task.record_every + 1 : 0;
}

std::int64_t simulate_circuit(const CircuitTask& task, int threads) {
  check(task);
  const std::int64_t groups = (task.trials + kCircuitLanes - 1) / kCircuitLanes;
  const auto team = static_cast<std::int64_t>(team_size(groups, threads));
  const std::int64_t room = kCircuitLanes * task.inputs;
  std::vector<Input> inputs(static_cast<std::size_t>(team * room));
  Shared shared{sort_rows(task, threads)};
  Neuron nominal;
  nominal.loop_gain = task.parameters.loop_gain;
  nominal.membrane = 2 * (task.parameters.high_frequency - task.parameters.low_frequency);
  shared.nominal_noise = chip_noise(task, nominal);
  std::vector<std::int64_t> work(static_cast<std::size_t>(groups));
  parallel_for(groups, threads, [&](std::int64_t group, int worker) {
    Input* mine = inputs.data() + worker * room;
    const std::int64_t first = group * kCircuitLanes;
    work[static_cast<std::size_t>(group)] =
        task.model == CircuitModel::averaged
            ? AveragedGroup(task, shared, first, mine).run(worker)
            : SwitchingGroup(task, shared, first, mine).run(worker);
  });
  std::int64_t total = 0;
  for (const std::int64_t steps : work) total += steps;
  return total;
}

}  // namespace ttfs
