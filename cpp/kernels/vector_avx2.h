// AVX2 + FMA vectors. Included inside namespace ttfs::avx2; a mask is a vector of all-ones or
// all-zeros lanes.

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Reg = __m256;
  using Mask = __m256;
  static constexpr int lanes = 8;
  static constexpr int registers = 16;
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg a) { _mm256_storeu_ps(p, a); }
  static Reg set(float a) { return _mm256_set1_ps(a); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg positive_part(Reg a) { return _mm256_max_ps(a, _mm256_setzero_ps()); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg fms(Reg a, Reg b, Reg c) { return _mm256_fmsub_ps(a, b, c); }
  static Mask all() { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
  static bool any(Mask m) { return _mm256_movemask_ps(m) != 0; }
  static Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
  static Mask either(Mask a, Mask b) { return _mm256_or_ps(a, b); }
  static Mask lt(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  static Mask le(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_LE_OQ); }
  static Mask eq(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static Mask negative(Reg a) {
    return _mm256_castsi256_ps(_mm256_srai_epi32(_mm256_castps_si256(a), 31));
  }
  static Mask flip(Mask m) { return _mm256_xor_ps(m, all()); }
  static unsigned bits(Mask m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
  static Reg and_bits(Reg a, Reg b) { return _mm256_and_ps(a, b); }
  static Mask not_ge(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_NGE_UQ); }
  static Mask unordered(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_UNORD_Q); }
  static Mask still_below(Mask m, Reg a, Reg b) {
    return _mm256_and_ps(m, _mm256_cmp_ps(a, b, _CMP_NGE_UQ));
  }
  static Reg select(Mask m, Reg a, Reg b) { return _mm256_blendv_ps(b, a, m); }
  static Reg add_where(Mask m, Reg a, Reg b) { return _mm256_add_ps(a, _mm256_and_ps(m, b)); }
  static Reg fma_where(Mask m, Reg a, Reg b, Reg c) {
    return _mm256_fmadd_ps(_mm256_and_ps(m, a), b, c);
  }
};

template <>
struct Vec<double> {
  using Reg = __m256d;
  using Mask = __m256d;
  static constexpr int lanes = 4;
  static constexpr int registers = 16;
  static Reg load(const double* p) { return _mm256_loadu_pd(p); }
  static Reg widen(const double* p) { return _mm256_loadu_pd(p); }
  static Reg widen(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  static void store(double* p, Reg a) { _mm256_storeu_pd(p, a); }
  static Reg set(double a) { return _mm256_set1_pd(a); }
  static Reg add(Reg a, Reg b) { return _mm256_add_pd(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_pd(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_pd(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_pd(a, b); }
  static Reg positive_part(Reg a) { return _mm256_max_pd(a, _mm256_setzero_pd()); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_pd(a, b, c); }
  static Reg fms(Reg a, Reg b, Reg c) { return _mm256_fmsub_pd(a, b, c); }
  static Mask all() { return _mm256_castsi256_pd(_mm256_set1_epi64x(-1)); }
  static bool any(Mask m) { return _mm256_movemask_pd(m) != 0; }
  static Mask both(Mask a, Mask b) { return _mm256_and_pd(a, b); }
  static Mask either(Mask a, Mask b) { return _mm256_or_pd(a, b); }
  static Mask lt(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  static Mask le(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_LE_OQ); }
  static Mask eq(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_EQ_OQ); }
  static Mask negative(Reg a) {
    return _mm256_castsi256_pd(_mm256_cmpgt_epi64(_mm256_setzero_si256(), _mm256_castpd_si256(a)));
  }
  static Mask flip(Mask m) { return _mm256_xor_pd(m, all()); }
  static unsigned bits(Mask m) { return static_cast<unsigned>(_mm256_movemask_pd(m)); }
  static Reg and_bits(Reg a, Reg b) { return _mm256_and_pd(a, b); }
  static Mask not_ge(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_NGE_UQ); }
  static Mask unordered(Reg a, Reg b) { return _mm256_cmp_pd(a, b, _CMP_UNORD_Q); }
  static Mask still_below(Mask m, Reg a, Reg b) {
    return _mm256_and_pd(m, _mm256_cmp_pd(a, b, _CMP_NGE_UQ));
  }
  static Reg select(Mask m, Reg a, Reg b) { return _mm256_blendv_pd(b, a, m); }
  static Reg add_where(Mask m, Reg a, Reg b) { return _mm256_add_pd(a, _mm256_and_pd(m, b)); }
  static Reg fma_where(Mask m, Reg a, Reg b, Reg c) {
    return _mm256_fmadd_pd(_mm256_and_pd(m, a), b, c);
  }
};
