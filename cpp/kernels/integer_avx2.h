// The integer kernels of AVX2. Included inside its namespace.

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
  /// The results of `add_words`, in registers with the same outputs as those of `quad`.
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

/// Collects codes a vector at a time, from `i` on; the rest is left to the caller.
[[gnu::always_inline]] inline void collect_vectors(const std::uint16_t* codes, std::int64_t n,
                                                   std::uint32_t first, std::uint16_t silent,
                                                   std::uint32_t* events, std::int64_t& i,
                                                   std::int64_t& count) {
  const __m256i bound = _mm256_set1_epi32(silent), step = _mm256_set1_epi32(8);
  __m256i place = count_from(first, Vec<float>{});
  for (; i + 8 <= n; i += 8) {
    const __m256i code =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
    const __m256i word = _mm256_or_si256(_mm256_slli_epi32(code, 16), place);
    const __m256i spikes = _mm256_cmpgt_epi32(bound, code);
    const unsigned set = Vec<float>::bits(_mm256_castsi256_ps(spikes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(events + count), compress(set, word));
    count += __builtin_popcount(set);
    place = _mm256_add_epi32(place, step);
  }
}

/// Filters events a vector at a time, from `i` on; the rest is left to the caller.
[[gnu::always_inline]] inline void filter_vectors(const std::uint32_t* events,
                                                  const std::uint16_t* members, std::int64_t n,
                                                  int bit, std::uint32_t shift, std::uint32_t* out,
                                                  std::int64_t& i, std::int64_t& count) {
  for (; i + 8 <= n; i += 8) {
    const unsigned mine = Vec<float>::bits(test_members(members + i, bit, Vec<float>{}));
    const __m256i words = minus(load_words(events + i, Vec<float>{}), shift);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + count), compress(mine, words));
    count += __builtin_popcount(mine);
  }
}

/// The lags of a group of events, and the sum of min(lag, time since the start).
inline std::int32_t describe_lags(const std::uint32_t* words, EventGroup& out) {
  std::uint8_t* lags = out.lags;
  const auto times = [&](int i) {
    return _mm256_srli_epi32(load_words(words + i, Vec<float>{}), 16);
  };
  const __m256i start = _mm256_set1_epi32(out.start), end = _mm256_set1_epi32(out.end);
  const __m256i a = times(0), b = times(8);
  const __m256i lag_a = _mm256_sub_epi32(end, a), lag_b = _mm256_sub_epi32(end, b);
  const auto pack = [](__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  };
  if (out.wide) {
    const __m256i middle = _mm256_set1_epi32(kMidLag);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lags),
                        pack(_mm256_sub_epi32(lag_a, middle), _mm256_sub_epi32(lag_b, middle)));
  } else {
    const __m256i both = pack(lag_a, lag_b);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(lags),
        _mm_packus_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
  }
  const __m256i overshoots = _mm256_add_epi32(_mm256_min_epi32(lag_a, _mm256_sub_epi32(a, start)),
                                              _mm256_min_epi32(lag_b, _mm256_sub_epi32(b, start)));
  __m128i sum =
      _mm_add_epi32(_mm256_castsi256_si128(overshoots), _mm256_extracti128_si256(overshoots, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
}

/// `locate_crossing` for eight outputs side by side; their weights for event i are weights_of(i).
/// Returns those that fire.
template <class Weights, class Output>
std::uint32_t locate_crossing(const IntegerSweepTask& task, std::int64_t g, __m256i membrane,
                              __m256i slope, const Weights& weights_of, std::uint32_t wanted,
                              const Output& output_of, Fired& fired) {
  using V = IntVec;
  const std::uint32_t* words = task.words + g * kGroupEvents;
  alignas(32) std::int32_t next[kGroupEvents], step[kGroupEvents];
  for (int i = 0; i + 1 < kGroupEvents; ++i)
    next[i] = static_cast<std::int32_t>(words[i + 1] >> 16);
  next[kGroupEvents - 1] = task.groups[g].end;
  for (int i = 0; i < kGroupEvents; ++i)
    step[i] = next[i] - static_cast<std::int32_t>(words[i] >> 16);
  const auto select = [](__m256i sign, __m256i a, __m256i b) {
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(b), _mm256_castsi256_ps(a),
                                                _mm256_castsi256_ps(sign)));
  };
  // F, B and the time at which F is no longer below 0; until then, the sign of `below` is set.
  __m256i below = V::set(-1), f = V::set(0), b = f, at = f;
#pragma GCC unroll 4
  for (int i = 0; i < kGroupEvents; ++i) {
    slope = V::add(slope, weights_of(i));
    membrane = V::add(membrane, V::mul(slope, V::set(step[i])));
    f = select(below, membrane, f);
    b = select(below, slope, b);
    at = select(below, V::set(next[i]), at);
    below = _mm256_and_si256(below, membrane);
  }
  const std::uint32_t fires =
      wanted & ~static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(below)));
  alignas(32) std::int32_t membranes[V::lanes], slopes[V::lanes], points[V::lanes];
  V::store(membranes, f);
  V::store(slopes, b);
  V::store(points, at);
  for (std::uint32_t rest = fires; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const std::int64_t output = output_of(lane);
    fired.slope[output] = slopes[lane];
    fired.moment[output] = std::int64_t{slopes[lane]} * points[lane] - membranes[lane];
  }
  return fires;
}

/// Rescans those of the outputs from `first` on, a multiple of 8, that `hit` names.
[[gnu::noinline]] std::uint32_t locate_neighbors(const IntegerSweepTask& task, std::int64_t g,
                                                 std::int64_t first, std::uint32_t hit,
                                                 __m256i membrane, __m256i slope, Fired& fired) {
  const std::uint32_t* words = task.words + g * kGroupEvents;
  // A row holds their weights in two groups of four.
  const std::int8_t* low = task.weights + place_in_row(first, task.width);
  const std::int8_t* high = task.weights + place_in_row(first + 4, task.width);
  const auto four = [](const std::int8_t* p) {
    std::int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return _mm_cvtsi32_si128(word);
  };
  const auto weights_of = [&](int i) {
    const std::int64_t row = static_cast<std::int64_t>(words[i] & 0xffff) * task.width;
    return _mm256_cvtepi8_epi32(_mm_unpacklo_epi32(four(low + row), four(high + row)));
  };
  return locate_crossing(
      task, g, membrane, slope, weights_of, hit, [&](int lane) { return first + lane; }, fired);
}

/// Up to eight outputs anywhere in the block, with F and B at the start of the group.
struct Scattered {
  std::int32_t output[IntVec::lanes];
  alignas(32) std::int32_t membrane[IntVec::lanes] = {}, slope[IntVec::lanes] = {};
  int count = 0;
};

/// Rescans them. Returns those that fire; bit j is output j.
[[gnu::noinline]] std::uint64_t locate_scattered(const IntegerSweepTask& task, std::int64_t g,
                                                 Scattered& hits, Fired& fired) {
  std::uint64_t fires = 0;
  if (hits.count <= 2) {  // faster one by one
    for (int h = 0; h < hits.count; ++h)
      if (locate_crossing(task, g, hits.output[h], hits.membrane[h], hits.slope[h], fired))
        fires |= std::uint64_t{1} << hits.output[h];
    return fires;
  }
  const int padded = hits.count <= 4 ? 4 : 8;
  std::int64_t place[IntVec::lanes];
  for (int h = 0; h < padded; ++h)
    place[h] = h < hits.count ? place_in_row(hits.output[h], task.width) : 0;
  const std::uint32_t* words = task.words + g * kGroupEvents;
  alignas(8) std::int8_t weights[kGroupEvents][IntVec::lanes] = {};
  for (int i = 0; i < kGroupEvents; ++i) {
    const std::int8_t* row =
        task.weights + static_cast<std::int64_t>(words[i] & 0xffff) * task.width;
    for (int h = 0; h < 4; ++h) weights[i][h] = row[place[h]];
    if (padded == 8)
      for (int h = 4; h < 8; ++h) weights[i][h] = row[place[h]];
  }
  const auto weights_of = [&](int i) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights[i])));
  };
  const auto output_of = [&](int lane) { return hits.output[lane]; };
  const std::uint32_t lanes =
      locate_crossing(task, g, IntVec::load(hits.membrane), IntVec::load(hits.slope), weights_of,
                      (1U << hits.count) - 1, output_of, fired);
  for (std::uint32_t rest = lanes; rest != 0; rest &= rest - 1)
    fires |= std::uint64_t{1} << hits.output[__builtin_ctz(rest)];
  return fires;
}

/// Rescans the outputs of group g that `hit` names, with F and B at the start of the group; removes
/// from `waiting` those that fire.
template <int R>
[[gnu::always_inline]] inline void locate_crossings(const IntegerSweepTask& task, std::int64_t g,
                                                    std::uint64_t hit, IntVec::Reg (&before)[R],
                                                    IntVec::Reg (&slope_before)[R],
                                                    std::uint64_t& waiting, Fired& fired) {
  using V = IntVec;
  Scattered hits;
  for (int r = 0; r < R; ++r) {
    const std::uint32_t here = outputs_in<IntVec>(hit, r);
    if (here == 0 || __builtin_popcount(here) <= 4) continue;
    const std::uint32_t fires =
        locate_neighbors(task, g, V::lanes * r, here, before[r], slope_before[r], fired);
    waiting &= ~(std::uint64_t{fires} << (V::lanes * r));
    hit &= ~(std::uint64_t{here} << (V::lanes * r));
  }
  for (; hit != 0; hit &= hit - 1) {
    const int output = __builtin_ctzll(hit);
    hits.output[hits.count] = output;
    hits.membrane[hits.count] = lane_of(before, output);
    hits.slope[hits.count] = lane_of(slope_before, output);
    if (++hits.count == V::lanes || (hit & (hit - 1)) == 0) {
      waiting &= ~locate_scattered(task, g, hits, fired);
      hits.count = 0;
    }
  }
}

/// `finish` for the outputs j to j + 3. Slopes are below 2^23 and moments, of those that fire, from
/// 0 to 2^39.
inline void finish_four(const IntegerSweepTask& task, const Fired& fired, std::int64_t j) {
  const auto load = [&](const std::int64_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + j));
  };
  // Whole numbers below 2^52 are the last bits of a double that starts at 2^52.
  const __m256d whole = _mm256_set1_pd(0x1p52);
  const auto exact_double = [&](__m256i a) {
    return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(a, _mm256_castpd_si256(whole))),
                         whole);
  };
  const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi64x(1);
  const __m256i slope = load(fired.slope), moment = load(fired.moment);
  const __m256i spikes = _mm256_cmpgt_epi64(slope, zero);
  const __m256i some = _mm256_blendv_epi8(one, slope, spikes);
  const __m256i divisor = _mm256_slli_epi64(some, 16);
  const __m256i ratio = _mm256_set1_epi64x(task.ratio);
  const __m256i dividend = _mm256_add_epi64(
      _mm256_add_epi64(
          _mm256_mul_epu32(moment, ratio),
          _mm256_slli_epi64(_mm256_mul_epu32(_mm256_srli_epi64(moment, 32), ratio), 32)),
      _mm256_srli_epi64(divisor, 1));
  const __m256d estimate =
      _mm256_div_pd(_mm256_fmadd_pd(exact_double(moment), _mm256_set1_pd(task.ratio),
                                    exact_double(_mm256_slli_epi64(some, 15))),
                    exact_double(divisor));
  // Values above 2^17 are later than any code.
  __m256i quotient =
      _mm256_cvtepi32_epi64(_mm256_cvttpd_epi32(_mm256_min_pd(estimate, _mm256_set1_pd(0x1p17))));
  const __m256i rest =
      _mm256_sub_epi64(dividend, _mm256_slli_epi64(_mm256_mul_epu32(quotient, some), 16));
  const __m256i too_low = _mm256_cmpgt_epi64(divisor, rest);  // not: 0
  const __m256i too_high = _mm256_cmpgt_epi64(zero, rest);    // -1
  quotient = _mm256_add_epi64(_mm256_add_epi64(quotient, one), _mm256_add_epi64(too_low, too_high));
  quotient = _mm256_blendv_epi8(one, quotient, _mm256_cmpgt_epi64(quotient, zero));
  const __m256i late = _mm256_cmpgt_epi64(quotient, _mm256_set1_epi64x(task.latest));
  const __m256i codes = _mm256_blendv_epi8(_mm256_set1_epi64x(task.silent), quotient,
                                           _mm256_andnot_si256(late, spikes));
  const __m256i words = _mm256_shuffle_epi8(
      codes, _mm256_setr_epi8(0, 1, 8, 9, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 8,
                              9, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  _mm_storel_epi64(
      reinterpret_cast<__m128i*>(task.codes + j),
      _mm_unpacklo_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

/// Spike codes: the spike time, scaled and rounded, halves upwards. A quotient in double precision
/// is wrong by one at most.
inline void finish(const IntegerSweepTask& task, const Fired& fired) {
  for (std::int64_t j = 0; j < task.width; j += 4) finish_four(task, fired, j);
}
