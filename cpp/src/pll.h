// The phase-locked loop of equation (2) between two inputs, in closed form.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

namespace ttfs {

/// e is the phase error and x the frequency that the loop adds to VCO2, both minus their resting
/// values: de/dt = -x, dx/dt = corner (gain e - x). The membrane follows dv/dt = membrane e +
/// drift.
struct LoopState {
  double e, x, v;
};

/// The change of a state over a time s: e <- ee e + ex x and x <- xe e + xx x; ve e + vx x is the
/// integral of e.
struct Transition {
  double ee, ex, xe, xx, ve, vx;
};

class Loop {
 public:
  Loop() = default;
  Loop(double gain, double corner) : gain_(gain), corner_(corner), half_(corner / 2) {
    const double discriminant = half_ * half_ - corner * gain;
    oscillates_ = discriminant < 0;
    root_ = std::sqrt(std::abs(discriminant));
    // The slow rate is the product of both divided by the fast one, which avoids cancellation.
    slow_ = corner * gain / (half_ + root_);
  }

  Transition after(double s) const {
    double mean, over;  // exp(-half s) cosh(root s) and exp(-half s) sinh(root s) / root
    if (oscillates_) {
      const double decay = std::exp(-half_ * s);
      mean = decay * std::cos(root_ * s);
      over = decay * std::sin(root_ * s) / root_;
    } else {
      const double slow = std::exp(-slow_ * s);
      const double z = 2 * root_ * s;
      mean = 0.5 * slow * (1 + std::exp(-z));
      // (1 - exp(-z)) / z, also where both are 0: critical damping.
      over = slow * s * (z == 0 ? 1 : -std::expm1(-z) / z);
    }
    Transition t;
    t.ee = mean + half_ * over;
    t.ex = -over;
    t.xe = corner_ * gain_ * over;
    t.xx = mean - half_ * over;
    t.ve = (1 - t.ee + t.xe / corner_) / gain_;
    t.vx = (-t.ex + (t.xx - 1) / corner_) / gain_;
    return t;
  }

 private:
  double gain_ = 1, corner_ = 1, half_ = 0.5, root_ = 0, slow_ = 1;
  bool oscillates_ = false;
};

/// A neuron between two inputs.
struct Path {
  const Loop& loop;
  LoopState start;
  double membrane, drift;

  LoopState at(double s) const {
    const Transition t = loop.after(s);
    return {t.ee * start.e + t.ex * start.x, t.xe * start.e + t.xx * start.x,
            start.v + membrane * (t.ve * start.e + t.vx * start.x) + drift * s};
  }
  double slope(const LoopState& state) const { return membrane * state.e + drift; }
};

/// Narrows [low, high], at whose ends `value` has opposite signs, to adjacent numbers or a zero.
template <class Value>
double bisect(double low, double high, const Value& value) {
  const bool rising = value(high) > 0;
  while (true) {
    const double middle = 0.5 * (low + high);
    if (!(middle > low && middle < high)) return high;
    const double found = value(middle);
    if (found == 0) return middle;
    (found > 0) == rising ? high = middle : low = middle;
  }
}

/// First s in [0, length] at which v reaches the threshold, or -1. The length is at most a quarter
/// of an oscillation, so x changes its sign at most once and v's slope at most twice.
inline double first_crossing(const Path& path, double length, double threshold) {
  if (path.start.v >= threshold) return 0;
  const LoopState end = path.at(length);
  // Between these points v is monotone: first where the slope turns (x = 0), then where it is 0.
  double slope_points[3] = {0, length, length};
  int slopes = 1;
  if ((path.start.x < 0) != (end.x < 0) && path.start.x != 0 && end.x != 0)
    slope_points[slopes++] = bisect(0, length, [&](double s) { return path.at(s).x; });
  slope_points[slopes] = length;
  double points[6] = {0};
  int count = 1;
  for (int i = 0; i < slopes; ++i) {
    const double low = slope_points[i], high = slope_points[i + 1];
    const double at_low = path.slope(path.at(low)), at_high = path.slope(path.at(high));
    if ((at_low > 0 && at_high < 0) || (at_low < 0 && at_high > 0))
      points[count++] = bisect(low, high, [&](double s) { return path.slope(path.at(s)); });
    points[count++] = high;
  }
  for (int i = 0; i + 1 < count; ++i) {
    double low = points[i], high = points[i + 1];
    if (path.at(high).v < threshold) continue;
    // Newton's method within a bracket: one end is below the threshold, the other is not.
    double s = high;
    for (int step = 0; step < 200; ++step) {
      const LoopState state = path.at(s);
      (state.v >= threshold ? high : low) = s;
      const double newton = s - (state.v - threshold) / path.slope(state);
      const double next = newton > low && newton < high ? newton : 0.5 * (low + high);
      if (std::abs(next - s) <= 1e-15 * length || !(next > low && next < high)) return next;
      s = next;
    }
    return high;
  }
  return -1;
}

}  // namespace ttfs
