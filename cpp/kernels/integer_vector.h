// Vectors of 32-bit integers for the integer sweep. Included inside the namespace of an instruction
// set. `dot` adds, to every lane, the products of four unsigned bytes (lags, the same for every
// lane) with the lane's own four signed bytes (weights). What `quad` makes of four rows of weights
// is kept in the form that `dot` wants.

#if TTFS_ISA_avx512

struct IntVec {
  using Reg = __m512i;
  static constexpr int lanes = 16;
  static Reg set(std::int32_t a) { return _mm512_set1_epi32(a); }
  static Reg load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static void store(std::int32_t* p, Reg a) { _mm512_storeu_si512(p, a); }
  static Reg add(Reg a, Reg b) { return _mm512_add_epi32(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mullo_epi32(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_epi32(a, b); }
  static Reg times_256(Reg a) { return _mm512_slli_epi32(a, 8); }
  static std::uint32_t greater(Reg a, Reg b) { return _mm512_cmpgt_epi32_mask(a, b); }

#if TTFS_ISA_avx512vnni
  using Lags = __m512i;
  using Quad = __m512i;
  static Lags lags(std::uint32_t bytes) { return set(static_cast<std::int32_t>(bytes)); }
  static Quad prepare(Reg weights) { return weights; }
  static Reg dot(Reg sum, Lags time, Quad w) { return _mm512_dpbusd_epi32(sum, time, w); }
#else
  struct Lags {
    Reg even, odd;
  };
  using Quad = Lags;
  static Lags lags(std::uint32_t bytes) {
    return {set(static_cast<std::int32_t>(bytes & 0x00ff00ff)),
            set(static_cast<std::int32_t>(bytes >> 8 & 0x00ff00ff))};
  }
  static Quad prepare(Reg w) {
    return {_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), _mm512_srai_epi16(w, 8)};
  }
  static Reg dot(Reg sum, Lags time, Quad w) {
    sum = add(sum, _mm512_madd_epi16(time.even, w.even));
    return add(sum, _mm512_madd_epi16(time.odd, w.odd));
  }
#endif

  /// 64 outputs of a wide block: register r holds outputs 16 r to 16 r + 15.
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Quad (&out)[4]) {
    const Reg ra = _mm512_loadu_si512(a), rb = _mm512_loadu_si512(b);
    const Reg rc = _mm512_loadu_si512(c), rd = _mm512_loadu_si512(d);
    const Reg ab = _mm512_unpacklo_epi8(ra, rb), cd = _mm512_unpacklo_epi8(rc, rd);
    const Reg ba = _mm512_unpackhi_epi8(ra, rb), dc = _mm512_unpackhi_epi8(rc, rd);
    out[0] = prepare(_mm512_unpacklo_epi16(ab, cd));
    out[1] = prepare(_mm512_unpackhi_epi16(ab, cd));
    out[2] = prepare(_mm512_unpacklo_epi16(ba, dc));
    out[3] = prepare(_mm512_unpackhi_epi16(ba, dc));
  }
  /// The 16 outputs of a narrow block.
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Quad (&out)[1]) {
    out[0] = prepare(interleave(a, b, c, d));
  }
  static Reg interleave(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                        const std::int8_t* d) {
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
    return _mm512_shuffle_epi8(all, _mm512_broadcast_i32x4(_mm_setr_epi8(
                                        0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
  }
};

#elif TTFS_ISA_avx2

struct IntVec {
  using Reg = __m256i;
  static constexpr int lanes = 8;
  static Reg set(std::int32_t a) { return _mm256_set1_epi32(a); }
  static Reg load(const std::int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store(std::int32_t* p, Reg a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a);
  }
  static Reg add(Reg a, Reg b) { return _mm256_add_epi32(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mullo_epi32(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_epi32(a, b); }
  static Reg times_256(Reg a) { return _mm256_slli_epi32(a, 8); }
  static std::uint32_t greater(Reg a, Reg b) {
    return static_cast<std::uint32_t>(
        _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b))));
  }
  struct Lags {
    Reg even, odd;
  };
  using Quad = Lags;
  static Lags lags(std::uint32_t bytes) {
    return {set(static_cast<std::int32_t>(bytes & 0x00ff00ff)),
            set(static_cast<std::int32_t>(bytes >> 8 & 0x00ff00ff))};
  }
  static Quad prepare(Reg w) {
    return {_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
  }
  static Reg dot(Reg sum, const Lags& time, const Quad& w) {
    sum = add(sum, _mm256_madd_epi16(time.even, w.even));
    return add(sum, _mm256_madd_epi16(time.odd, w.odd));
  }
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Quad (&out)[4]) {
    const auto row = [](const std::int8_t* p) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    };
    const Reg ra = row(a), rb = row(b), rc = row(c), rd = row(d);
    const Reg ab = _mm256_unpacklo_epi8(ra, rb), cd = _mm256_unpacklo_epi8(rc, rd);
    const Reg ba = _mm256_unpackhi_epi8(ra, rb), dc = _mm256_unpackhi_epi8(rc, rd);
    out[0] = prepare(_mm256_unpacklo_epi16(ab, cd));
    out[1] = prepare(_mm256_unpackhi_epi16(ab, cd));
    out[2] = prepare(_mm256_unpacklo_epi16(ba, dc));
    out[3] = prepare(_mm256_unpackhi_epi16(ba, dc));
  }
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Quad (&out)[2]) {
    const auto row = [](const std::int8_t* p) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    };
    const __m128i ra = row(a), rb = row(b), rc = row(c), rd = row(d);
    const __m128i ab = _mm_unpacklo_epi8(ra, rb), cd = _mm_unpacklo_epi8(rc, rd);
    const __m128i ba = _mm_unpackhi_epi8(ra, rb), dc = _mm_unpackhi_epi8(rc, rd);
    out[0] = prepare(_mm256_set_m128i(_mm_unpackhi_epi16(ab, cd), _mm_unpacklo_epi16(ab, cd)));
    out[1] = prepare(_mm256_set_m128i(_mm_unpackhi_epi16(ba, dc), _mm_unpacklo_epi16(ba, dc)));
  }
};

#else

struct IntVec {
  typedef std::int32_t Reg __attribute__((vector_size(16)));
  static constexpr int lanes = 4;
  static Reg set(std::int32_t a) { return Reg{} + a; }
  static Reg load(const std::int32_t* p) {
    Reg a;
    __builtin_memcpy(&a, p, sizeof a);
    return a;
  }
  static void store(std::int32_t* p, Reg a) { __builtin_memcpy(p, &a, sizeof a); }
  // Lanes that have fired run on and may wrap: unsigned, where wrapping is defined.
  typedef std::uint32_t Bits __attribute__((vector_size(16)));
  static Reg add(Reg a, Reg b) {
    return reinterpret_cast<Reg>(reinterpret_cast<Bits>(a) + reinterpret_cast<Bits>(b));
  }
  static Reg mul(Reg a, Reg b) {
    return reinterpret_cast<Reg>(reinterpret_cast<Bits>(a) * reinterpret_cast<Bits>(b));
  }
  static Reg max(Reg a, Reg b) {
    const Reg take = a > b;
    return (a & take) | (b & ~take);
  }
  static Reg times_256(Reg a) { return reinterpret_cast<Reg>(reinterpret_cast<Bits>(a) << 8); }
  static std::uint32_t greater(Reg a, Reg b) {
    const Reg m = a > b;
    return (m[0] & 1U) | (m[1] & 2U) | (m[2] & 4U) | (m[3] & 8U);
  }
  struct Lags {
    std::int32_t byte[4];
  };
  struct Quad {
    Reg byte[4];
  };
  static Lags lags(std::uint32_t bytes) {
    Lags out;
    for (int i = 0; i < 4; ++i) out.byte[i] = static_cast<std::int32_t>(bytes >> (8 * i) & 255);
    return out;
  }
  static Reg dot(Reg sum, const Lags& time, const Quad& w) {
    for (int i = 0; i < 4; ++i) sum = add(sum, mul(w.byte[i], set(time.byte[i])));
    return sum;
  }
  /// 16 places of the four rows.
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Quad (&out)[4]) {
    const std::int8_t* rows[4] = {a, b, c, d};
    for (int r = 0; r < 4; ++r)
      for (int i = 0; i < 4; ++i) {
        const std::int8_t* p = rows[i] + 4 * r;
        out[r].byte[i] = Reg{p[0], p[1], p[2], p[3]};
      }
  }
};

#endif
