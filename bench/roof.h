// What the processor could do at most: loops that do a kernel's arithmetic, or its loads, and
// nothing else, compiled once per instruction set. A kernel's share of the roof is its rate over
// that of such a loop.
#pragma once

#include <cstdint>

namespace ttfs {

/// Each function does some work `rounds` times and returns how much: synapses (or inputs) of the
/// arithmetic that a kernel cannot do without, on registers and with no sum waiting for another.
struct Roof {
  std::int64_t (*sweep)(std::int64_t rounds);            // B + w, F + B step
  std::int64_t (*input_gradient)(std::int64_t rounds);   // z_i < z_j, sum + g w where it holds
  std::int64_t (*weight_gradient)(std::int64_t rounds);  // min(z_i, z_j), sum + g times it
  std::int64_t (*recompute)(std::int64_t rounds);        // z_i < z_j, B + w and A + w z_i
  /// Bytes, loaded in order from `count` numbers, which decide the cache that they come from.
  std::int64_t (*load)(const float* numbers, std::int64_t count, std::int64_t rounds);
};

namespace baseline {
extern const Roof roof;
}
namespace avx2 {
extern const Roof roof;
}
namespace avx512 {
extern const Roof roof;
}

}  // namespace ttfs
