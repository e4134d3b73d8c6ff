#include "src/spike_values.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "src/parallel.h"
#include "src/shape.h"

namespace ttfs {

template <class T>
void require_spikes(const Kernels<T>& k, const Neuron& neuron, const ConvShape& s,
                    ConstView<T> input, int threads) {
  struct Dimension {
    std::int64_t size, stride;
  };
  Dimension d[4] = {{s.batch, input.stride.n},
                    {s.in_channels, input.stride.c},
                    {s.in_height, input.stride.h},
                    {s.in_width, input.stride.w}};
  for (Dimension& each : d) {
    if (each.size == 0) return;
    if (each.stride == 0) each.size = 1;  // an expanded tensor repeats the same values
  }
  // The dimension of unit stride becomes the innermost; contiguous dimensions are merged.
  std::sort(d, d + 4, [](const Dimension& a, const Dimension& b) {
    return a.size == 1 || b.size == 1 ? a.size != 1 && b.size == 1 : a.stride < b.stride;
  });
  std::vector<Dimension> merged{{1, 1}};
  for (const Dimension& each : d) {
    Dimension& last = merged.back();
    if (each.size == 1) continue;
    if (each.stride == last.stride * last.size)
      last.size *= each.size;
    else
      merged.push_back(each);
  }
  merged.resize(5, {1, 0});
  const std::int64_t outer = merged[1].size * merged[2].size * merged[3].size * merged[4].size;
  constexpr std::int64_t longest = std::int64_t{1} << 16;
  const std::int64_t parts = ceil_div(merged[0].size, longest);
  // Distributing a short part costs more than reading it, so a thread takes several.
  const std::int64_t batch = std::max<std::int64_t>(1, longest / merged[0].size);
  const T bound = neuron.on_values() ? T{0} : -std::numeric_limits<T>::infinity();
  std::vector<unsigned char> bad(static_cast<std::size_t>(std::max(threads, 1)), 0);
  parallel_for(ceil_div(outer, batch) * parts, threads, [&](std::int64_t item, int worker) {
    const std::int64_t part = item % parts, from = item / parts * batch;
    for (std::int64_t o = from; o < std::min(outer, from + batch); ++o) {
      std::int64_t rest = o, at = part * longest;
      for (int i = 1; i < 5; ++i) {
        at += rest % merged[static_cast<std::size_t>(i)].size *
              merged[static_cast<std::size_t>(i)].stride;
        rest /= merged[static_cast<std::size_t>(i)].size;
      }
      const std::int64_t length = std::min(longest, merged[0].size - part * longest);
      if (k.any_at_or_below(input.data + at, length, bound))
        bad[static_cast<std::size_t>(worker)] = 1;
    }
  });
  if (std::find(bad.begin(), bad.end(), 1) == bad.end()) return;
  if (neuron.on_values())
    throw std::invalid_argument(
        "input holds a value that is not positive; spike values are z = exp(t) > 0 with t the "
        "spike time, +inf for a neuron that does not spike (ttfs_fast.encoding makes them from "
        "times or pixels)");
  throw std::invalid_argument(
      "input holds -inf; this neuron takes spike times t: any number, and +inf for a neuron that "
      "does not spike");
}

template void require_spikes(const Kernels<float>&, const Neuron&, const ConvShape&,
                             ConstView<float>, int);
template void require_spikes(const Kernels<double>&, const Neuron&, const ConvShape&,
                             ConstView<double>, int);

}  // namespace ttfs
