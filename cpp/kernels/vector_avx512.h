// AVX-512 vectors. Included inside namespace ttfs::avx512; a mask has one bit per lane.

template <>
struct Vec<float> {
  using Element = float;
  using Reg = __m512;
  using Mask = __mmask16;
  static constexpr int lanes = 16;
  static constexpr int registers = 32;
  static constexpr bool compresses = true;  // has `append`
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void prevent_elision(Reg& a) { asm volatile("" : "+v"(a)); }
  static void store(float* p, Reg a) { _mm512_storeu_ps(p, a); }
  static Reg set(float a) { return _mm512_set1_ps(a); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg fms(Reg a, Reg b, Reg c) { return _mm512_fmsub_ps(a, b, c); }
  static Mask all() { return 0xffff; }
  /// Selects lane i if bit i is set.
  static Mask lanes_of(unsigned bits) { return static_cast<Mask>(bits); }
  static bool any(Mask m) { return m != 0; }
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Reg if_negative(Reg a, Reg other) { return select(negative(a), a, other); }
  static Mask still_negative(Mask m, Reg a) { return static_cast<Mask>(m & negative(a)); }
  static Mask lt(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask le(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static Mask eq(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  /// Lanes whose sign is set.
  static Mask negative(Reg a) { return _mm512_movepi32_mask(_mm512_castps_si512(a)); }
  static unsigned signs(Reg a) { return negative(a); }
  static Mask flip(Mask m) { return static_cast<Mask>(~m); }
  static unsigned bits(Mask m) { return m; }
  static Mask not_ge(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_NGE_UQ); }
  static Mask unordered(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
  static Reg select(Mask m, Reg a, Reg b) { return _mm512_mask_blend_ps(m, b, a); }
  static Reg add_where(Mask m, Reg a, Reg b) { return _mm512_mask_add_ps(a, m, a, b); }
  /// m ? a * b + c : c. Where m is false, a may be anything and b must be finite, because other
  /// instruction sets multiply it by 0.
  static Reg fma_where(Mask m, Reg a, Reg b, Reg c) { return _mm512_mask3_fmadd_ps(a, b, c, m); }
};

template <>
struct Vec<double> {
  using Element = double;
  using Reg = __m512d;
  using Mask = __mmask8;
  static constexpr int lanes = 8;
  static constexpr int registers = 32;
  static constexpr bool compresses = true;  // has `append`
  static Reg load(const double* p) { return _mm512_loadu_pd(p); }
  static Reg widen(const double* p) { return _mm512_loadu_pd(p); }
  static Reg widen(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
  static void prevent_elision(Reg& a) { asm volatile("" : "+v"(a)); }
  static void store(double* p, Reg a) { _mm512_storeu_pd(p, a); }
  static Reg set(double a) { return _mm512_set1_pd(a); }
  static Reg add(Reg a, Reg b) { return _mm512_add_pd(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_pd(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_pd(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_pd(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_pd(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_pd(a, b); }
  /// (GCC 12 takes the undefined operand inside the unmasked intrinsic for an uninitialized
  /// variable.)
  static Reg sqrt(Reg a) { return _mm512_maskz_sqrt_pd(0xff, a); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_pd(a, b, c); }
  static Reg fms(Reg a, Reg b, Reg c) { return _mm512_fmsub_pd(a, b, c); }
  static Mask all() { return 0xff; }
  static Mask lanes_of(unsigned bits) { return static_cast<Mask>(bits); }
  static bool any(Mask m) { return m != 0; }
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Reg if_negative(Reg a, Reg other) { return select(negative(a), a, other); }
  static Mask still_negative(Mask m, Reg a) { return static_cast<Mask>(m & negative(a)); }
  static Mask lt(Reg a, Reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static Mask le(Reg a, Reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
  static Mask eq(Reg a, Reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
  /// Lanes whose sign is set.
  static Mask negative(Reg a) { return _mm512_movepi64_mask(_mm512_castpd_si512(a)); }
  static unsigned signs(Reg a) { return negative(a); }
  static Mask flip(Mask m) { return static_cast<Mask>(~m); }
  static unsigned bits(Mask m) { return m; }
  static Mask not_ge(Reg a, Reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_NGE_UQ); }
  static Mask unordered(Reg a, Reg b) { return _mm512_cmp_pd_mask(a, b, _CMP_UNORD_Q); }
  static Reg select(Mask m, Reg a, Reg b) { return _mm512_mask_blend_pd(m, b, a); }
  static Reg add_where(Mask m, Reg a, Reg b) { return _mm512_mask_add_pd(a, m, a, b); }
  static Reg fma_where(Mask m, Reg a, Reg b, Reg c) { return _mm512_mask3_fmadd_pd(a, b, c, m); }
};

/// Half a register: on some processors its instructions take half the time.
template <>
struct Narrow<float> {
  using Reg = __m256;
  using Mask = __mmask8;
  static constexpr int lanes = 8;
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg a) { _mm256_storeu_ps(p, a); }
  static Reg set(float a) { return _mm256_set1_ps(a); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg fms(Reg a, Reg b, Reg c) { return _mm256_fmsub_ps(a, b, c); }
  static Mask all() { return 0xff; }
  static Mask lanes_of(unsigned bits) { return static_cast<Mask>(bits); }
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
  static Mask either(Mask a, Mask b) { return static_cast<Mask>(a | b); }
  static Mask still_negative(Mask m, Reg a) { return static_cast<Mask>(m & negative(a)); }
  static Mask lt(Reg a, Reg b) { return _mm256_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask le(Reg a, Reg b) { return _mm256_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  static Mask eq(Reg a, Reg b) { return _mm256_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static Mask negative(Reg a) { return _mm256_movepi32_mask(_mm256_castps_si256(a)); }
  static Mask flip(Mask m) { return static_cast<Mask>(~m); }
  static unsigned bits(Mask m) { return m; }
  static Mask unordered(Reg a, Reg b) { return _mm256_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
  static Reg select(Mask m, Reg a, Reg b) { return _mm256_mask_blend_ps(m, b, a); }
};

/// For each of 32 words, a bit that is set if the word lacks one of the bits.
inline std::uint32_t words_without(const std::uint16_t (&p)[32], unsigned bits) {
  const __m512i all = _mm512_set1_epi16(static_cast<short>(bits));
  return _mm512_cmpneq_epi16_mask(_mm512_and_si512(_mm512_loadu_si512(p), all), all);
}

/// Appends the lanes of times and words that m selects, and returns their number. They are usually
/// few, and storing half a register takes half the time.
inline int append(Vec<float>::Mask m, Vec<float>::Reg times, __m512i words, float* times_out,
                  std::uint32_t* words_out) {
  // Compress to a register, then store: the storing form is microcoded on some processors.
  const __m512 picked = _mm512_maskz_compress_ps(m, times);
  const __m512i picked_words = _mm512_maskz_compress_epi32(m, words);
  const int count = __builtin_popcount(m);
  _mm256_storeu_ps(times_out, _mm512_castps512_ps256(picked));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words_out), _mm512_castsi512_si256(picked_words));
  if (count > 8) {
    _mm512_storeu_ps(times_out, picked);
    _mm512_storeu_si512(words_out, picked_words);
  }
  return count;
}

inline int append(Vec<double>::Mask m, Vec<double>::Reg times, __m256i words, double* times_out,
                  std::uint32_t* words_out) {
  _mm512_storeu_pd(times_out, _mm512_maskz_compress_pd(m, times));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words_out), _mm256_maskz_compress_epi32(m, words));
  return __builtin_popcount(m);
}

inline int append(Vec<float>::Mask m, __m512i words, std::uint32_t* words_out) {
  _mm512_storeu_si512(words_out, _mm512_maskz_compress_epi32(m, words));
  return __builtin_popcount(m);
}

inline __m512i load_words(const std::uint32_t* p, Vec<float>) { return _mm512_loadu_si512(p); }
inline __m256i load_words(const std::uint32_t* p, Vec<double>) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline __m512i count_from(std::uint32_t first, Vec<float>) {
  return _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                          _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
inline __m256i count_from(std::uint32_t first, Vec<double>) {
  return _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)),
                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
/// The words that Digits::word makes.
inline __m512i key_words(__m512 a, std::uint32_t origin, int right, int left, std::uint32_t first) {
  const __m512i above =
      _mm512_sub_epi32(_mm512_castps_si512(a), _mm512_set1_epi32(static_cast<int>(origin)));
  const __m512i digits = _mm512_srl_epi32(above, _mm_cvtsi32_si128(right));
  return _mm512_or_si512(_mm512_sll_epi32(digits, _mm_cvtsi32_si128(left)),
                         count_from(first, Vec<float>{}));
}
inline __m512i minus(__m512i a, std::uint32_t b) {
  return _mm512_sub_epi32(a, _mm512_set1_epi32(static_cast<int>(b)));
}
inline __m256i minus(__m256i a, std::uint32_t b) {
  return _mm256_sub_epi32(a, _mm256_set1_epi32(static_cast<int>(b)));
}
inline Vec<float>::Mask test_members(const std::uint16_t* p, int bit, Vec<float>) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm256_test_epi16_mask(words, _mm256_set1_epi16(static_cast<short>(1 << bit)));
}
inline Vec<double>::Mask test_members(const std::uint16_t* p, int bit, Vec<double>) {
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm_test_epi16_mask(words, _mm_set1_epi16(static_cast<short>(1 << bit)));
}
