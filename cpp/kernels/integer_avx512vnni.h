// The integer kernels of AVX-512 with VNNI, which multiplies bytes. Included inside its namespace.

#include "kernels/integer_avx512_common.h"

struct IntVec : IntVec512 {
  static constexpr std::int32_t longest_narrow_lag = 255;
  static Reg dot(Reg sum, Reg time, Quad w) { return _mm512_dpbusd_epi32(sum, time, w); }
  template <int R, class Row>
  static void add_events(const EventGroup& group, const Row& row, Reg (&membrane)[R],
                         Reg (&slope)[R]) {
    add_events_by_bytes<IntVec>(group, row, membrane, slope);
  }
};

/// The lags of a group of events, and the sum of min(lag, time since the start).
inline std::int32_t describe_lags(const std::uint32_t* words, EventGroup& out) {
  std::uint8_t* lags = out.lags;
  const __m512i times = _mm512_srli_epi32(_mm512_loadu_si512(words), 16);
  const __m512i lag = _mm512_sub_epi32(_mm512_set1_epi32(out.end), times);
  const __m512i since = _mm512_sub_epi32(times, _mm512_set1_epi32(out.start));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lags), _mm512_cvtepi32_epi8(lag));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lags + kGroupEvents),
                   _mm512_cvtepi32_epi8(_mm512_srli_epi32(lag, 8)));
  return _mm512_reduce_add_epi32(_mm512_min_epi32(lag, since));
}

/// The lags from each event of a group to each later event: 16 points in time in the lanes,
/// four events in the bytes of a lane. They are the same for every output, so F of one output at
/// all points is a product with its 16 weights.
struct GroupLags {
  __m512i low[4], high[4];
  __m512i since;  // the point's time since the start of the group
  alignas(64) std::int32_t points[kGroupEvents];
};

inline GroupLags group_lags(const std::uint32_t* words, const EventGroup& group) {
  GroupLags out;
  const __m512i start = _mm512_set1_epi32(group.start);
  const __m512i times = _mm512_srli_epi32(_mm512_loadu_si512(words), 16);
  // Shift by one lane: the point of an event is the time of the next event.
  const __m512i points = _mm512_alignr_epi32(_mm512_set1_epi32(group.end), times, 1);
  _mm512_store_si512(out.points, points);
  out.since = _mm512_sub_epi32(points, start);
  if (!group.wide) {
    alignas(16) std::uint32_t fours[4];
    _mm_store_si128(reinterpret_cast<__m128i*>(fours),
                    _mm512_cvtepi32_epi8(_mm512_sub_epi32(times, start)));
    const __m512i four_times = _mm512_shuffle_epi8(
        out.since,
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12)));
    for (int q = 0; q < 4; ++q)
      out.low[q] = _mm512_subs_epu8(four_times, _mm512_set1_epi32(static_cast<int>(fours[q])));
    return out;
  }
  const __m512i twice = _mm512_or_si512(points, _mm512_slli_epi32(points, 16));
  const __m512i even = _mm512_set1_epi16(0x00ff);
  // Of four events, the first and third side by side, then the second and fourth.
  alignas(32) std::uint32_t pairs[8];
  const __m256i short_times = _mm512_cvtepi32_epi16(times);
  _mm256_store_si256(reinterpret_cast<__m256i*>(pairs),
                     _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(short_times, 0xd8), 0xd8));
  for (int q = 0; q < 4; ++q) {
    const auto lags = [&](int pair) {
      return _mm512_subs_epu16(twice, _mm512_set1_epi32(static_cast<int>(pairs[2 * q + pair])));
    };
    const __m512i a = lags(0), b = lags(1);
    out.low[q] = _mm512_or_si512(_mm512_and_si512(a, even), _mm512_slli_epi16(b, 8));
    out.high[q] = _mm512_or_si512(_mm512_srli_epi16(a, 8), _mm512_andnot_si512(even, b));
  }
  return out;
}

/// 1 if an event is not after the point: byte i of lane k of vector q is for event 4 q + i.
struct Triangle {
  alignas(64) std::uint8_t byte[4][64];
};
constexpr Triangle triangle() {
  Triangle out{};
  for (int q = 0; q < 4; ++q)
    for (int k = 0; k < 16; ++k)
      for (int i = 0; i < 4; ++i) out.byte[q][4 * k + i] = 4 * q + i <= k;
  return out;
}
constexpr Triangle kBefore = triangle();

/// Outputs of a block to rescan, with F and B at the start of the group.
struct Hits {
  alignas(64) std::int32_t output[kWideBlock], membrane[kWideBlock], slope[kWideBlock];
  int count = 0;

  void add(std::uint32_t which, std::int64_t first, __m512i f, __m512i b) {
    const auto mask = static_cast<__mmask16>(which);
    const __m512i outputs = count_from(static_cast<std::uint32_t>(first), Vec<float>{});
    _mm512_storeu_si512(output + count, _mm512_maskz_compress_epi32(mask, outputs));
    _mm512_storeu_si512(membrane + count, _mm512_maskz_compress_epi32(mask, f));
    _mm512_storeu_si512(slope + count, _mm512_maskz_compress_epi32(mask, b));
    count += __builtin_popcount(which);
  }
};

/// `locate_crossing` without branches. `weights` are the output's, for the first four events;
/// `apart` words further on are those of the next four.
inline bool locate_crossing(const GroupLags& lags, bool wide, const std::uint32_t* weights,
                            std::int64_t apart, std::int64_t output, std::int32_t membrane,
                            std::int32_t slope, Fired& fired) {
  const auto four = [&](int q) { return _mm512_set1_epi32(static_cast<int>(weights[q * apart])); };
  __m512i b = _mm512_set1_epi32(slope);
  __m512i f = _mm512_add_epi32(_mm512_set1_epi32(membrane), _mm512_mullo_epi32(b, lags.since));
  for (int q = 0; q < 4; ++q) f = _mm512_dpbusd_epi32(f, lags.low[q], four(q));
  if (wide) {
    __m512i high = _mm512_setzero_si512();
    for (int q = 0; q < 4; ++q) high = _mm512_dpbusd_epi32(high, lags.high[q], four(q));
    f = _mm512_add_epi32(f, _mm512_slli_epi32(high, 8));
  }
  // At the crossing, the sums contain all events up to the point.
  for (int q = 0; q < 4; ++q)
    b = _mm512_dpbusd_epi32(b, _mm512_load_si512(kBefore.byte[q]), four(q));
  const std::uint32_t reached = _mm512_cmpge_epi32_mask(f, _mm512_setzero_si512());
  const std::uint32_t first = reached & (0 - reached);
  const auto at = [&](__m512i v) {
    return _mm_cvtsi128_si32(
        _mm512_castsi512_si128(_mm512_maskz_compress_epi32(static_cast<__mmask16>(first), v)));
  };
  const std::int64_t steep = at(b);
  fired.slope[output] = reached ? steep : 0;
  fired.moment[output] = steep * lags.points[__builtin_ctz(first | 0x8000)] - at(f);
  return reached != 0;
}

/// Rescans the outputs of group g that `hit` names, with F and B at the start of the group; removes
/// from `waiting` those that fire.
template <int R>
[[gnu::always_inline]] inline void locate_crossings(const IntegerSweepTask& task, std::int64_t g,
                                                    std::uint64_t hit, IntVec::Reg (&before)[R],
                                                    IntVec::Reg (&slope_before)[R],
                                                    std::uint64_t& waiting, Fired& fired) {
  using V = IntVec;
  const std::uint32_t* words = task.words + g * kGroupEvents;
  const auto row = [&](int i) {
    return task.weights + static_cast<std::int64_t>(words[i] & 0xffff) * R * V::lanes;
  };
  Hits hits;
  alignas(64) std::uint32_t quads[4][R][V::lanes];  // their weights
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    if (outputs_in<IntVec>(hit, r) == 0) continue;
    hits.add(outputs_in<IntVec>(hit, r), V::lanes * r, before[r], slope_before[r]);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      V::Quad w[R];
      V::quad(row(4 * q), row(4 * q + 1), row(4 * q + 2), row(4 * q + 3), w);
      _mm512_store_si512(quads[q][r], w[r]);
    }
  }
  const GroupLags lags = group_lags(words, task.groups[g]);
  for (int h = 0; h < hits.count; ++h) {
    const std::int32_t output = hits.output[h];
    const bool fires =
        locate_crossing(lags, task.groups[g].wide, &quads[0][0][0] + output, R * V::lanes, output,
                        hits.membrane[h], hits.slope[h], fired);
    waiting &= ~(std::uint64_t{fires} << output);
  }
}
