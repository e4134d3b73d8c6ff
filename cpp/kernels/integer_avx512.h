// The integer kernels of AVX-512 without VNNI. Included inside its namespace.

#include "kernels/integer_avx512_common.h"

struct IntVec : IntVec512 {
  static constexpr std::int32_t longest_narrow_lag = 127;  // sums of two products fit 16 bits
  template <int R, class Row>
  static void add_events(const EventGroup& group, const Row& row, Reg (&membrane)[R],
                         Reg (&slope)[R]) {
    const Reg bytes = _mm512_set1_epi8(1), words = _mm512_set1_epi16(1);
    Reg weights[R];  // in 16 bits
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) weights[r] = set(0);
#pragma GCC unroll 4
    for (int e = 0; e < kGroupEvents; e += 4) {
      Quad w[R];
      quad(row(e), row(e + 1), row(e + 2), row(e + 3), w);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        weights[r] = _mm512_add_epi16(weights[r], _mm512_maddubs_epi16(bytes, w[r]));
        if (group.wide) {
          // Of four lags, the first and third side by side, then the second and fourth.
          const std::uint32_t a = four_bytes(group.lags + 2 * e);
          const std::uint32_t b = four_bytes(group.lags + 2 * e + 4);
          const Reg even = lags((a & 0xffff) | b << 16), odd = lags(a >> 16 | (b & 0xffff0000));
          membrane[r] =
              add(membrane[r],
                  _mm512_madd_epi16(even, _mm512_srai_epi16(_mm512_slli_epi16(w[r], 8), 8)));
          membrane[r] = add(membrane[r], _mm512_madd_epi16(odd, _mm512_srai_epi16(w[r], 8)));
        } else {
          const Reg pairs = _mm512_maddubs_epi16(lags(four_bytes(group.lags + e)), w[r]);
          membrane[r] = add(membrane[r], _mm512_madd_epi16(pairs, words));
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Reg total = _mm512_madd_epi16(weights[r], words);
      slope[r] = add(slope[r], total);
      if (group.wide) membrane[r] = add(membrane[r], _mm512_slli_epi32(total, kMidLagBits));
    }
  }
};

/// The lags of a group of events, and the sum of min(lag, time since the start).
inline std::int32_t describe_lags(const std::uint32_t* words, EventGroup& out) {
  std::uint8_t* lags = out.lags;
  const __m512i times = _mm512_srli_epi32(_mm512_loadu_si512(words), 16);
  const __m512i lag = _mm512_sub_epi32(_mm512_set1_epi32(out.end), times);
  const __m512i since = _mm512_sub_epi32(times, _mm512_set1_epi32(out.start));
  if (out.wide)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lags),
                        _mm512_cvtepi32_epi16(_mm512_sub_epi32(lag, _mm512_set1_epi32(kMidLag))));
  else
    _mm_storeu_si128(reinterpret_cast<__m128i*>(lags), _mm512_cvtepi32_epi8(lag));
  return _mm512_reduce_add_epi32(_mm512_min_epi32(lag, since));
}

#include "kernels/integer_rescan.h"
