// AVX2 + FMA vectors. Included inside namespace ttfs::avx2; a mask is a vector of all-ones or
// all-zeros lanes.

template <>
struct Vec<float> {
  using Element = float;
  using Reg = __m256;
  using Mask = __m256;
  static constexpr int lanes = 8;
  static constexpr int registers = 16;
  static constexpr bool compresses = true;  // has `append`
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void prevent_elision(Reg& a) { asm volatile("" : "+x"(a)); }
  static void store(float* p, Reg a) { _mm256_storeu_ps(p, a); }
  static Reg set(float a) { return _mm256_set1_ps(a); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg fms(Reg a, Reg b, Reg c) { return _mm256_fmsub_ps(a, b, c); }
  static Mask all() { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
  /// Selects lane i if bit i is set.
  static Mask lanes_of(unsigned bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane));
  }
  static bool any(Mask m) { return _mm256_movemask_ps(m) != 0; }
  static Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
  static Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
  static Reg if_negative(Reg a, Reg other) { return _mm256_blendv_ps(other, a, a); }
  static Mask still_negative(Mask m, Reg a) { return _mm256_and_ps(m, a); }
  static Mask lt(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask le(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static Mask eq(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static unsigned signs(Reg a) { return static_cast<unsigned>(_mm256_movemask_ps(a)); }
  static Mask negative(Reg a) {
    return _mm256_castsi256_ps(_mm256_srai_epi32(_mm256_castps_si256(a), 31));
  }
  static Mask flip(Mask m) { return _mm256_xor_ps(m, all()); }
  static unsigned bits(Mask m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
  static Mask not_ge(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_NGE_UQ); }
  static Mask unordered(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
  static Reg select(Mask m, Reg a, Reg b) { return _mm256_blendv_ps(b, a, m); }
  static Reg add_where(Mask m, Reg a, Reg b) { return _mm256_add_ps(a, _mm256_and_ps(m, b)); }
  static Reg fma_where(Mask m, Reg a, Reg b, Reg c) {
    return _mm256_fmadd_ps(_mm256_and_ps(m, a), b, c);
  }
};

template <>
struct Vec<double> {
  using Element = double;
  using Reg = __m256d;
  using Mask = __m256d;
  static constexpr int lanes = 4;
  static constexpr int registers = 16;
  static constexpr bool compresses = true;  // has `append`
  static Reg load(const double* p) { return _mm256_loadu_pd(p); }
  static Reg widen(const double* p) { return _mm256_loadu_pd(p); }
  static Reg widen(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static void prevent_elision(Reg& a) { asm volatile("" : "+x"(a)); }
  static void store(double* p, Reg a) { _mm256_storeu_pd(p, a); }
  static Reg set(double a) { return _mm256_set1_pd(a); }
  static Reg add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_pd(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_pd(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_pd(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_pd(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_pd(a, b); }
  static Reg sqrt(Reg a) { return _mm256_sqrt_pd(a); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_pd(a, b, c); }
  static Reg fms(Reg a, Reg b, Reg c) { return _mm256_fmsub_pd(a, b, c); }
  static Mask all() { return _mm256_castsi256_pd(_mm256_set1_epi64x(-1)); }
  static Mask lanes_of(unsigned bits) {
    const __m256i lane = _mm256_setr_epi64x(1, 2, 4, 8);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi64x(static_cast<int>(bits)), lane);
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(set, lane));
  }
  static bool any(Mask m) { return _mm256_movemask_pd(m) != 0; }
  static Mask both(Mask a, Mask b) { return _mm256_and_pd(a, b); }
  static Mask either(Mask a, Mask b) { return _mm256_or_pd(a, b); }
  static Reg if_negative(Reg a, Reg other) { return _mm256_blendv_pd(other, a, a); }
  static Mask still_negative(Mask m, Reg a) { return _mm256_and_pd(m, a); }
  static Mask lt(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  static Mask le(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_LE_OQ); }
  static Mask eq(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
  static unsigned signs(Reg a) { return static_cast<unsigned>(_mm256_movemask_pd(a)); }
  static Mask negative(Reg a) {
    return _mm256_castsi256_pd(_mm256_cmpgt_epi64(_mm256_setzero_si256(), _mm256_castpd_si256(a)));
  }
  static Mask flip(Mask m) { return _mm256_xor_pd(m, all()); }
  static unsigned bits(Mask m) { return static_cast<unsigned>(_mm256_movemask_pd(m)); }
  static Mask not_ge(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_NGE_UQ); }
  static Mask unordered(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_UNORD_Q); }
  static Reg select(Mask m, Reg a, Reg b) { return _mm256_blendv_pd(b, a, m); }
  static Reg add_where(Mask m, Reg a, Reg b) { return _mm256_add_pd(a, _mm256_and_pd(m, b)); }
  static Reg fma_where(Mask m, Reg a, Reg b, Reg c) {
    return _mm256_fmadd_pd(_mm256_and_pd(m, a), b, c);
  }
};

/// For each of 32 words, a bit that is set if the word lacks one of the bits.
inline std::uint32_t words_without(const std::uint16_t (&p)[32], unsigned bits) {
  const __m256i all = _mm256_set1_epi16(static_cast<short>(bits));
  const auto alike = [&](const std::uint16_t* words) {
    const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
    return _mm256_cmpeq_epi16(_mm256_and_si256(word, all), all);
  };
  // Packing alternates between the halves of both registers.
  const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(alike(p), alike(p + 16)),
                                                 _MM_SHUFFLE(3, 1, 2, 0));
  return ~static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
}

/// For each set of lanes, their numbers in order. AVX2 has no instruction that compresses lanes.
struct Compressed {
  std::uint64_t lanes[256];  // one byte per lane
};
constexpr Compressed compressed_lanes() {
  Compressed c{};
  for (unsigned set = 0; set < 256; ++set) {
    int count = 0;
    for (unsigned lane = 0; lane < 8; ++lane)
      if ((set >> lane) & 1) c.lanes[set] |= std::uint64_t{lane} << (8 * count++);
  }
  return c;
}
constexpr Compressed kCompressed = compressed_lanes();

inline __m256i compress(unsigned set, __m256i words) {
  const auto lanes = static_cast<long long>(kCompressed.lanes[set]);
  return _mm256_permutevar8x32_epi32(words, _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(lanes)));
}
inline __m128i compress(unsigned set, __m128i words) {
  const auto lanes = static_cast<int>(kCompressed.lanes[set]);
  return _mm_castps_si128(
      _mm_permutevar_ps(_mm_castsi128_ps(words), _mm_cvtepu8_epi32(_mm_cvtsi32_si128(lanes))));
}

/// Appends the lanes of times and words that m selects, and returns their number.
inline int append(Vec<float>::Mask m, Vec<float>::Reg times, __m256i words, float* times_out,
                  std::uint32_t* words_out) {
  const unsigned set = Vec<float>::bits(m);
  _mm256_storeu_ps(times_out, _mm256_castsi256_ps(compress(set, _mm256_castps_si256(times))));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words_out), compress(set, words));
  return __builtin_popcount(set);
}

inline int append(Vec<double>::Mask m, Vec<double>::Reg times, __m128i words, double* times_out,
                  std::uint32_t* words_out) {
  const unsigned set = Vec<double>::bits(m);
  // Both halves of a double move together.
  const auto halves = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castpd_ps(m)));
  _mm256_storeu_pd(times_out, _mm256_castsi256_pd(compress(halves, _mm256_castpd_si256(times))));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(words_out), compress(set, words));
  return __builtin_popcount(set);
}

inline int append(Vec<float>::Mask m, __m256i words, std::uint32_t* words_out) {
  const unsigned set = Vec<float>::bits(m);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words_out), compress(set, words));
  return __builtin_popcount(set);
}

inline __m256i load_words(const std::uint32_t* p, Vec<float>) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m128i load_words(const std::uint32_t* p, Vec<double>) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}
inline __m256i count_from(std::uint32_t first, Vec<float>) {
  return _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)),
                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m128i count_from(std::uint32_t first, Vec<double>) {
  return _mm_add_epi32(_mm_set1_epi32(static_cast<int>(first)), _mm_setr_epi32(0, 1, 2, 3));
}
/// The words that Digits::word makes.
inline __m256i key_words(__m256 a, std::uint32_t origin, int right, int left, std::uint32_t first) {
  const __m256i above =
      _mm256_sub_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(static_cast<int>(origin)));
  const __m256i digits = _mm256_srl_epi32(above, _mm_cvtsi32_si128(right));
  return _mm256_or_si256(_mm256_sll_epi32(digits, _mm_cvtsi32_si128(left)),
                         count_from(first, Vec<float>{}));
}
inline __m256i minus(__m256i a, std::uint32_t b) {
  return _mm256_sub_epi32(a, _mm256_set1_epi32(static_cast<int>(b)));
}
inline __m128i minus(__m128i a, std::uint32_t b) {
  return _mm_sub_epi32(a, _mm_set1_epi32(static_cast<int>(b)));
}
inline Vec<float>::Mask test_members(const std::uint16_t* p, int bit, Vec<float>) {
  const __m128i which = _mm_set1_epi16(static_cast<short>(1 << bit));
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(
      _mm256_cvtepi16_epi32(_mm_cmpeq_epi16(_mm_and_si128(words, which), which)));
}
inline Vec<double>::Mask test_members(const std::uint16_t* p, int bit, Vec<double>) {
  const __m128i which = _mm_set1_epi16(static_cast<short>(1 << bit));
  const __m128i words = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_pd(
      _mm256_cvtepi16_epi64(_mm_cmpeq_epi16(_mm_and_si128(words, which), which)));
}
