// The integer kernels of AVX-512, with and without VNNI. Included inside the namespace of either.

/// Vectors; each set adds its own add_events.
struct IntVec512 {
  using Reg = __m512i;
  using Quad = __m512i;
  static constexpr int lanes = 16;
  static Reg set(std::int32_t a) { return _mm512_set1_epi32(a); }
  static Reg load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(std::int32_t* p, Reg a) { _mm512_storeu_si512(p, a); }
  static Reg add(Reg a, Reg b) { return _mm512_add_epi32(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mullo_epi32(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_epi32(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_epi32(a, b); }
  static Reg times_256(Reg a) { return _mm512_slli_epi32(a, 8); }
  static std::uint32_t greater(Reg a, Reg b) { return _mm512_cmpgt_epi32_mask(a, b); }
  static Reg lags(std::uint32_t bytes) { return set(static_cast<std::int32_t>(bytes)); }

  /// 64 outputs of a wide block: register r holds outputs 16 r to 16 r + 15.
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Quad (&out)[4]) {
    const Reg ra = _mm512_loadu_si512(a), rb = _mm512_loadu_si512(b);
    const Reg rc = _mm512_loadu_si512(c), rd = _mm512_loadu_si512(d);
    const Reg ab = _mm512_unpacklo_epi8(ra, rb), cd = _mm512_unpacklo_epi8(rc, rd);
    const Reg ba = _mm512_unpackhi_epi8(ra, rb), dc = _mm512_unpackhi_epi8(rc, rd);
    out[0] = _mm512_unpacklo_epi16(ab, cd);
    out[1] = _mm512_unpackhi_epi16(ab, cd);
    out[2] = _mm512_unpacklo_epi16(ba, dc);
    out[3] = _mm512_unpackhi_epi16(ba, dc);
  }
  /// The 16 outputs of a narrow block.
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Quad (&out)[1]) {
    const auto row = [](const std::int8_t* p) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    };
    Reg all = _mm512_castsi128_si512(row(a));
    all = _mm512_inserti32x4(all, row(b), 1);
    all = _mm512_inserti32x4(all, row(c), 2);
    all = _mm512_inserti32x4(all, row(d), 3);
    // Four outputs of each row side by side, then output by output.
    all = _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), all);
    out[0] = _mm512_shuffle_epi8(all, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                          0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
  }
};

/// Collects codes a vector at a time, from `i` on; the rest is left to the caller.
[[gnu::always_inline]] inline void collect_vectors(const std::uint16_t* codes, std::int64_t n,
                                                   std::uint32_t first, std::uint16_t silent,
                                                   std::uint32_t* events, std::int64_t& i,
                                                   std::int64_t& count) {
  const __m512i bound = _mm512_set1_epi32(silent), step = _mm512_set1_epi32(16);
  __m512i place = count_from(first, Vec<float>{});
  for (; i + 16 <= n; i += 16) {
    const __m512i code =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i)));
    const __mmask16 spikes = _mm512_cmplt_epi32_mask(code, bound);
    const __m512i word = _mm512_or_si512(_mm512_slli_epi32(code, 16), place);
    _mm512_storeu_si512(events + count, _mm512_maskz_compress_epi32(spikes, word));
    count += __builtin_popcount(spikes);
    place = _mm512_add_epi32(place, step);
  }
}

/// Filters events a vector at a time, from `i` on; the rest is left to the caller.
[[gnu::always_inline]] inline void filter_vectors(const std::uint32_t* events,
                                                  const std::uint16_t* members, std::int64_t n,
                                                  int bit, std::uint32_t shift, std::uint32_t* out,
                                                  std::int64_t& i, std::int64_t& count) {
  const __m512i less = _mm512_set1_epi32(static_cast<int>(shift));
  const __m512i which = _mm512_set1_epi16(static_cast<short>(1 << bit));
  for (; i + 32 <= n; i += 32) {
    const __mmask32 mine = _mm512_test_epi16_mask(_mm512_loadu_si512(members + i), which);
    const auto low = static_cast<__mmask16>(mine), high = static_cast<__mmask16>(mine >> 16);
    const __m512i a = _mm512_sub_epi32(_mm512_loadu_si512(events + i), less);
    const __m512i b = _mm512_sub_epi32(_mm512_loadu_si512(events + i + 16), less);
    _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(low, a));
    count += __builtin_popcount(low);
    _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(high, b));
    count += __builtin_popcount(high);
  }
}

/// Spike codes: the spike time, scaled and rounded, halves upwards. A quotient in double precision
/// is wrong by one at most.
inline void finish(const IntegerSweepTask& task, const Fired& fired) {
  const __m512i one = _mm512_set1_epi64(1), latest = _mm512_set1_epi64(task.latest);
  for (std::int64_t j = 0; j < task.width; j += 8) {
    const __m512i slope = _mm512_loadu_si512(fired.slope + j);
    const __mmask8 spikes = _mm512_cmpgt_epi64_mask(slope, _mm512_setzero_si512());
    const __m512i divisor = _mm512_slli_epi64(_mm512_max_epi64(slope, one), 16);
    const __m512i dividend = _mm512_add_epi64(
        _mm512_mullo_epi64(_mm512_loadu_si512(fired.moment + j), _mm512_set1_epi64(task.ratio)),
        _mm512_srli_epi64(divisor, 1));
    __m512i quotient = _mm512_cvttpd_epi64(
        _mm512_div_pd(_mm512_cvtepi64_pd(dividend), _mm512_cvtepi64_pd(divisor)));
    // Values above 2^17 are later than any code.
    quotient = _mm512_min_epi64(quotient, _mm512_set1_epi64(1 << 17));
    const __m512i product = _mm512_slli_epi64(_mm512_mul_epu32(quotient, slope), 16);
    const __m512i rest = _mm512_sub_epi64(dividend, product);
    const __mmask8 too_low = _mm512_cmpge_epi64_mask(rest, divisor);
    const __mmask8 too_high = _mm512_cmplt_epi64_mask(rest, _mm512_setzero_si512());
    quotient = _mm512_mask_add_epi64(quotient, too_low, quotient, one);
    quotient = _mm512_mask_sub_epi64(quotient, too_high, quotient, one);
    quotient = _mm512_max_epi64(quotient, one);
    const __mmask8 in_time = _mm512_mask_cmple_epi64_mask(spikes, quotient, latest);
    const __m512i codes = _mm512_mask_mov_epi64(_mm512_set1_epi64(task.silent), in_time, quotient);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(task.codes + j), _mm512_cvtepi64_epi16(codes));
  }
}
