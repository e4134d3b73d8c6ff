// Counter-based random numbers, a function of a key and a counter, one at a time. The kernels have
// the same generator for several trials side by side (kernels/circuit.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>

namespace ttfs {

struct Words {
  std::uint64_t a, b;
};

/// Threefry-2x64 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
/// SC 2011).
inline Words threefry(Words key, Words counter) {
  static constexpr int kRotations[8] = {16, 42, 12, 31, 16, 32, 24, 21};
  const std::uint64_t keys[3] = {key.a, key.b, key.a ^ key.b ^ 0x1bd11bdaa9fc1a22ULL};
  std::uint64_t a = counter.a + keys[0], b = counter.b + keys[1];
  for (unsigned round = 0; round < 20; ++round) {
    a += b;
    b = std::rotl(b, kRotations[round % 8]) ^ a;
    if (round % 4 == 3) {
      const unsigned n = round / 4 + 1;
      a += keys[n % 3];
      b += keys[(n + 1) % 3] + n;
    }
  }
  return {a, b};
}

/// The midpoint of one of 2^52 equal parts of (0, 1).
inline double uniform(std::uint64_t word) {
  return std::bit_cast<double>((word >> 12) | 0x3ff0000000000000ULL) - (1.0 - 0x1p-53);
}

/// Two independent normals (Box and Muller).
inline std::pair<double, double> normal_pair(Words key, Words counter) {
  const Words words = threefry(key, counter);
  const double radius = std::sqrt(-2 * std::log(uniform(words.a)));
  const double angle = 2 * std::numbers::pi * uniform(words.b);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace ttfs
