#include "roof.h"

#if TTFS_ISA_avx2 || TTFS_ISA_avx512
#include <immintrin.h>
#endif

namespace ttfs::TTFS_ISA {
namespace {

#include "kernels/vector.h"

/// The compiler no longer knows what the register holds, and keeps it in one.
template <class Reg>
[[gnu::always_inline]] inline void hide(Reg& reg) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(reg));
#elif defined(__aarch64__)
  asm volatile("" : "+w"(reg));
#else
  asm volatile("" : "+m"(reg));
#endif
}

/// Sums of one kind that go on side by side: as many as hide the latency of a multiply-add and fit
/// in 16 registers.
constexpr int kSums = 8;

template <class Reg, int N>
[[gnu::always_inline]] inline void hide_all(Reg (&regs)[N]) {
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) hide(regs[i]);
}

template <class Reg, int N>
[[gnu::always_inline]] inline void clear(Reg (&regs)[N]) {
#pragma GCC unroll 8
  for (int i = 0; i < N; ++i) regs[i] = Reg{};
}

std::int64_t sweep(std::int64_t rounds) {
  using V = Vec<float>;
  constexpr int adds = 6;  // with kSums and two operands, 16 registers
  V::Reg level[kSums], slope[adds], a = V::set(1e-9F), b = V::set(1e-9F);
  clear(level);
  clear(slope);
  hide(a);
  hide(b);
  for (std::int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 24
    for (int u = 0; u < 24; ++u) {
      level[u % kSums] = V::fma(a, b, level[u % kSums]);
      slope[u % adds] = V::add(slope[u % adds], a);
    }
  hide_all(level);
  hide_all(slope);
  return rounds * 24 * V::lanes;
}

std::int64_t input_gradient(std::int64_t rounds) {
  using V = Vec<float>;
  V::Reg sum[kSums], weight = V::set(1e-9F), output = V::set(1), input = V::set(0.5F);
  clear(sum);
  hide(weight);
  hide(input);
  for (std::int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 8
    for (int u = 0; u < kSums; ++u) {
      hide(output);
      sum[u] = V::fma_where(V::not_ge(input, output), weight, output, sum[u]);
    }
  hide_all(sum);
  return rounds * kSums * V::lanes;
}

std::int64_t weight_gradient(std::int64_t rounds) {
  using V = Vec<float>;
  V::Reg sum[kSums], gradient = V::set(1e-9F), output = V::set(1), time = V::set(0.5F);
  clear(sum);
  hide(gradient);
  hide(time);
  for (std::int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 8
    for (int u = 0; u < kSums; ++u) {
      hide(output);
      sum[u] = V::fma(gradient, V::min(time, output), sum[u]);
    }
  hide_all(sum);
  return rounds * kSums * V::lanes;
}

std::int64_t recompute(std::int64_t rounds) {
  using V = Vec<float>;
  constexpr int half = kSums / 2;
  V::Reg slope[half], moment[half], weight = V::set(1e-9F), time = V::set(0.5F), bound = V::set(1);
  clear(slope);
  clear(moment);
  hide(weight);
  hide(bound);
  for (std::int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 4
    for (int u = 0; u < half; ++u) {
      hide(time);
      const auto before = V::lt(time, bound);
      slope[u] = V::add_where(before, slope[u], weight);
      moment[u] = V::fma_where(before, weight, time, moment[u]);
    }
  hide_all(slope);
  hide_all(moment);
  return rounds * half * V::lanes;
}

std::int64_t load(const float* numbers, std::int64_t count, std::int64_t rounds) {
  using V = Vec<float>;
  constexpr int at_once = 8;
  constexpr std::int64_t step = at_once * V::lanes;
  for (std::int64_t round = 0; round < rounds; ++round)
    for (std::int64_t i = 0; i + step <= count; i += step)
#pragma GCC unroll 8
      for (int u = 0; u < at_once; ++u) {
        auto reg = V::load(numbers + i + u * V::lanes);
        hide(reg);
      }
  return rounds * (count / step * step) * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace

extern const Roof roof = {sweep, input_gradient, weight_gradient, recompute, load};

}  // namespace ttfs::TTFS_ISA
