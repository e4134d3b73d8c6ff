#include "ttfs/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace ttfs::reference {

template <class T>
Spike neuron(const T* values, const T* weights, std::int64_t count, double t_max,
             const Neuron& kind) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  for (std::int64_t i = 0; i < count; ++i)
    if (std::isnan(values[i]) || !std::isfinite(weights[i])) return {nan, nan};

  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return values[a] < values[b]; });

  // F(x) = slope * x - moment, until the next input spike or the horizon.
  const double horizon =
      static_cast<double>(static_cast<T>(kind.on_values() ? std::exp(t_max) : t_max));
  double slope = kind.slope, moment = kind.threshold;
  for (std::int64_t i : order) {
    const double time = static_cast<double>(values[i]);
    if (time >= horizon || time == infinity) break;
    if (slope > 0 && slope * time - moment >= 0) return {moment / slope, slope};
    slope += static_cast<double>(weights[i]);
    moment += static_cast<double>(weights[i]) * time;
  }
  if (slope > 0 && (horizon == infinity || slope * horizon - moment >= 0))
    return {moment / slope, slope};
  return {infinity, 0};
}

template Spike neuron(const float*, const float*, std::int64_t, double, const Neuron&);
template Spike neuron(const double*, const double*, std::int64_t, double, const Neuron&);

}  // namespace ttfs::reference
