// Vectors of 32-bit integers for the integer sweep. Included inside the namespace of an instruction
// set. `add_events` adds a group's events to R registers of outputs: to F each weight times its
// lag, and to B each weight. row(i) is where the weights of event i are; a register's four bytes a
// lane come from four rows, as `quad` makes them of a row's bytes.

/// What a lag of two bytes is reduced by to fit a signed 16-bit number.
[[maybe_unused]] constexpr int kMidLagBits = 15;
[[maybe_unused]] constexpr std::int32_t kMidLag = 1 << kMidLagBits;

inline std::uint32_t four_bytes(const std::uint8_t* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

/// A block's R registers in parts that `quad` makes of a row's neighbouring bytes.
template <int R>
struct Parts {
  static constexpr int registers = R < 4 ? R : 4, count = R / registers;
  /// Which of the block's registers is number r of a part.
  static constexpr int whole(int part, int r) { return r * count + part; }
};

/// For instruction sets with `dot`, which adds to every lane the products of four unsigned bytes
/// (lags, the same for every lane) with the lane's own four signed bytes (weights).
template <class V, int R, class Row>
void add_events_by_bytes(const EventGroup& group, const Row& row, typename V::Reg (&membrane)[R],
                         typename V::Reg (&slope)[R]) {
  using P = Parts<R>;
  constexpr int registers = P::registers;
  const auto ones = V::lags(0x01010101);
#pragma GCC unroll 4
  for (int part = 0; part < P::count; ++part) {
    typename V::Reg f[registers], b[registers], high[registers];
#pragma GCC unroll 4
    for (int r = 0; r < registers; ++r) {
      f[r] = membrane[P::whole(part, r)];
      b[r] = slope[P::whole(part, r)];
      high[r] = V::set(0);
    }
    const auto four_events = [&](int e, typename V::Quad(&w)[registers]) {
      const int first = part * registers * V::lanes;
      V::quad(row(e) + first, row(e + 1) + first, row(e + 2) + first, row(e + 3) + first, w);
      const auto lags = V::lags(four_bytes(group.lags + e));
#pragma GCC unroll 4
      for (int r = 0; r < registers; ++r) {
        f[r] = V::dot(f[r], lags, w[r]);
        b[r] = V::dot(b[r], ones, w[r]);
      }
    };
    typename V::Quad w[registers];
    if (group.wide) {
#pragma GCC unroll 4
      for (int e = 0; e < kGroupEvents; e += 4) {
        four_events(e, w);
        const auto lags = V::lags(four_bytes(group.lags + kGroupEvents + e));
#pragma GCC unroll 4
        for (int r = 0; r < registers; ++r) high[r] = V::dot(high[r], lags, w[r]);
      }
    } else {
#pragma GCC unroll 4
      for (int e = 0; e < kGroupEvents; e += 4) four_events(e, w);
    }
#pragma GCC unroll 4
    for (int r = 0; r < registers; ++r) {
      membrane[P::whole(part, r)] = V::add(f[r], V::times_256(high[r]));
      slope[P::whole(part, r)] = b[r];
    }
  }
}

#if TTFS_ISA_avx512

struct IntVec {
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

#if TTFS_ISA_avx512vnni
  static constexpr std::int32_t longest_narrow_lag = 255;
  static Reg dot(Reg sum, Reg time, Quad w) { return _mm512_dpbusd_epi32(sum, time, w); }
  template <int R, class Row>
  static void add_events(const EventGroup& group, const Row& row, Reg (&membrane)[R],
                         Reg (&slope)[R]) {
    add_events_by_bytes<IntVec>(group, row, membrane, slope);
  }
#else
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
#endif

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

#elif TTFS_ISA_avx2

struct IntVec {
  using Reg = __m256i;
  static constexpr int lanes = 8;
  static constexpr std::int32_t longest_narrow_lag = 127;  // sums of two products fit 16 bits
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
  static Reg min(Reg a, Reg b) { return _mm256_min_epi32(a, b); }
  static std::uint32_t greater(Reg a, Reg b) {
    return static_cast<std::uint32_t>(
        _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b))));
  }

  template <int R, class Row>
  static void add_events(const EventGroup& group, const Row& row, Reg (&membrane)[R],
                         Reg (&slope)[R]) {
    if (group.wide)
      add_words(group, row, membrane, slope);
    else
      add_bytes(group, row, membrane, slope);
  }

  /// Lags of one byte: four events at a time.
  template <int R, class Row>
  static void add_bytes(const EventGroup& group, const Row& row, Reg (&membrane)[R],
                        Reg (&slope)[R]) {
    using P = Parts<R>;
    const Reg bytes = _mm256_set1_epi8(1), words = _mm256_set1_epi16(1);
#pragma GCC unroll 2
    for (int part = 0; part < P::count; ++part) {
      Reg f[P::registers], weights[P::registers];  // the weights' sums in 16 bits
#pragma GCC unroll 4
      for (int r = 0; r < P::registers; ++r) {
        f[r] = membrane[P::whole(part, r)];
        weights[r] = set(0);
      }
#pragma GCC unroll 4
      for (int e = 0; e < kGroupEvents; e += 4) {
        Reg w[P::registers];
        const int first = 32 * part;
        quad(row(e) + first, row(e + 1) + first, row(e + 2) + first, row(e + 3) + first, w);
        const Reg lags = set(static_cast<std::int32_t>(four_bytes(group.lags + e)));
#pragma GCC unroll 4
        for (int r = 0; r < P::registers; ++r) {
          f[r] = add(f[r], _mm256_madd_epi16(_mm256_maddubs_epi16(lags, w[r]), words));
          weights[r] = _mm256_add_epi16(weights[r], _mm256_maddubs_epi16(bytes, w[r]));
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < P::registers; ++r) {
        membrane[P::whole(part, r)] = f[r];
        Reg& b = slope[P::whole(part, r)];
        b = add(b, _mm256_madd_epi16(weights[r], words));
      }
    }
  }

  /// Lags of two bytes, reduced by kMidLag: two events at a time, their weights in 16 bits.
  template <int R, class Row>
  static void add_words(const EventGroup& group, const Row& row, Reg (&membrane)[R],
                        Reg (&slope)[R]) {
    using P = Parts<R>;
    constexpr int H = P::registers / 2;  // registers of 16 outputs
    const Reg words = _mm256_set1_epi16(1);
    const auto widened = [](const std::int8_t* p) {
      return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    };
#pragma GCC unroll 2
    for (int part = 0; part < P::count; ++part) {
      // Of the 16 outputs, `low` has the first and the third four, `high` the others.
      Reg low[H], high[H], weights[H];
#pragma GCC unroll 2
      for (int h = 0; h < H; ++h) low[h] = high[h] = weights[h] = set(0);
#pragma GCC unroll 8
      for (int e = 0; e < kGroupEvents; e += 2) {
        const Reg lags = set(static_cast<std::int32_t>(four_bytes(group.lags + 2 * e)));
#pragma GCC unroll 2
        for (int h = 0; h < H; ++h) {
          const int first = 32 * part + 16 * h;
          const Reg a = widened(row(e) + first), b = widened(row(e + 1) + first);
          low[h] = add(low[h], _mm256_madd_epi16(lags, _mm256_unpacklo_epi16(a, b)));
          high[h] = add(high[h], _mm256_madd_epi16(lags, _mm256_unpackhi_epi16(a, b)));
          weights[h] = _mm256_add_epi16(weights[h], _mm256_add_epi16(a, b));
        }
      }
      Reg low_weights[H], high_weights[H];
#pragma GCC unroll 2
      for (int h = 0; h < H; ++h) {
        low_weights[h] = _mm256_madd_epi16(_mm256_unpacklo_epi16(weights[h], set(0)), words);
        high_weights[h] = _mm256_madd_epi16(_mm256_unpackhi_epi16(weights[h], set(0)), words);
        low[h] = add(low[h], _mm256_slli_epi32(low_weights[h], kMidLagBits));
        high[h] = add(high[h], _mm256_slli_epi32(high_weights[h], kMidLagBits));
      }
      Reg f[P::registers], b[P::registers];
      in_order(low, high, f);
      in_order(low_weights, high_weights, b);
#pragma GCC unroll 4
      for (int r = 0; r < P::registers; ++r) {
        Reg& to_f = membrane[P::whole(part, r)];
        Reg& to_b = slope[P::whole(part, r)];
        to_f = add(to_f, f[r]);
        to_b = add(to_b, b[r]);
      }
    }
  }
  /// What `add_words` found, in registers with the same outputs as those of `quad`.
  static void in_order(const Reg (&low)[2], const Reg (&high)[2], Reg (&out)[4]) {
    out[0] = _mm256_permute2x128_si256(low[0], low[1], 0x20);
    out[1] = _mm256_permute2x128_si256(high[0], high[1], 0x20);
    out[2] = _mm256_permute2x128_si256(low[0], low[1], 0x31);
    out[3] = _mm256_permute2x128_si256(high[0], high[1], 0x31);
  }
  static void in_order(const Reg (&low)[1], const Reg (&high)[1], Reg (&out)[2]) {
    out[0] = _mm256_permute2x128_si256(low[0], high[0], 0x20);
    out[1] = _mm256_permute2x128_si256(low[0], high[0], 0x31);
  }

  /// 32 outputs of a wide block.
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Reg (&out)[4]) {
    const auto row = [](const std::int8_t* p) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    };
    const Reg ra = row(a), rb = row(b), rc = row(c), rd = row(d);
    const Reg ab = _mm256_unpacklo_epi8(ra, rb), cd = _mm256_unpacklo_epi8(rc, rd);
    const Reg ba = _mm256_unpackhi_epi8(ra, rb), dc = _mm256_unpackhi_epi8(rc, rd);
    out[0] = _mm256_unpacklo_epi16(ab, cd);
    out[1] = _mm256_unpackhi_epi16(ab, cd);
    out[2] = _mm256_unpacklo_epi16(ba, dc);
    out[3] = _mm256_unpackhi_epi16(ba, dc);
  }
  /// The 16 outputs of a narrow block.
  static void quad(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                   const std::int8_t* d, Reg (&out)[2]) {
    const auto row = [](const std::int8_t* p) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    };
    const __m128i ra = row(a), rb = row(b), rc = row(c), rd = row(d);
    const __m128i ab = _mm_unpacklo_epi8(ra, rb), cd = _mm_unpacklo_epi8(rc, rd);
    const __m128i ba = _mm_unpackhi_epi8(ra, rb), dc = _mm_unpackhi_epi8(rc, rd);
    out[0] = _mm256_set_m128i(_mm_unpackhi_epi16(ab, cd), _mm_unpacklo_epi16(ab, cd));
    out[1] = _mm256_set_m128i(_mm_unpackhi_epi16(ba, dc), _mm_unpacklo_epi16(ba, dc));
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
  static Reg min(Reg a, Reg b) {
    const Reg take = a > b;
    return (b & take) | (a & ~take);
  }
  static Reg times_256(Reg a) { return reinterpret_cast<Reg>(reinterpret_cast<Bits>(a) << 8); }
  static std::uint32_t greater(Reg a, Reg b) {
    const Reg m = a > b;
    return (m[0] & 1U) | (m[1] & 2U) | (m[2] & 4U) | (m[3] & 8U);
  }
#if defined(__SSE2__)
  static constexpr std::int32_t longest_narrow_lag = kMidLag - 1;  // what 16 bits hold
  /// Eight outputs and two events at a time, weights and lags in 16 bits.
  template <int R, class Row>
  static void add_events(const EventGroup& group, const Row& row, Reg (&membrane)[R],
                         Reg (&slope)[R]) {
    using P = Parts<R>;
    const __m128i zero = _mm_setzero_si128(), ones = _mm_set1_epi16(1);
    const auto widened = [](const std::int8_t* p) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
      return _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
    };
    for (int part = 0; part < P::count; ++part)
      for (int r = 0; r < P::registers; r += 2) {
        const int first = (part * P::registers + r) * lanes;
        __m128i low = zero, high = zero, weights = zero;
#pragma GCC unroll 8
        for (int e = 0; e < kGroupEvents; e += 2) {
          const __m128i lags =
              _mm_set1_epi32(static_cast<std::int32_t>(four_bytes(group.lags + 2 * e)));
          const __m128i a = widened(row(e) + first), b = widened(row(e + 1) + first);
          low = _mm_add_epi32(low, _mm_madd_epi16(lags, _mm_unpacklo_epi16(a, b)));
          high = _mm_add_epi32(high, _mm_madd_epi16(lags, _mm_unpackhi_epi16(a, b)));
          weights = _mm_add_epi16(weights, _mm_add_epi16(a, b));
        }
        const auto add_to = [&](int which, __m128i products, __m128i pairs) {
          const __m128i sums = _mm_madd_epi16(pairs, ones);
          if (group.wide) products = _mm_add_epi32(products, _mm_slli_epi32(sums, kMidLagBits));
          Reg &f = membrane[P::whole(part, which)], &b = slope[P::whole(part, which)];
          f = add(f, reinterpret_cast<Reg>(products));
          b = add(b, reinterpret_cast<Reg>(sums));
        };
        add_to(r, low, _mm_unpacklo_epi16(weights, zero));
        add_to(r + 1, high, _mm_unpackhi_epi16(weights, zero));
      }
  }
#else
  static constexpr std::int32_t longest_narrow_lag = 255;
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
  template <int R, class Row>
  static void add_events(const EventGroup& group, const Row& row, Reg (&membrane)[R],
                         Reg (&slope)[R]) {
    add_events_by_bytes<IntVec>(group, row, membrane, slope);
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
#endif
};

#endif
