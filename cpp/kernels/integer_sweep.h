// The integer sweep: a receptive field's events, sorted by time, against a block of outputs.
// Included inside the namespace of an instruction set; docs/integer.md has the definition and the
// bounds, and explains why looking at F once a group is enough.
//
// Of each output it keeps F, the membrane at the end of the events so far, and B, its slope. A
// group of events takes F over its own time by
//
//     F(end) = F(start) + B (end - start) + sum of w_i (end - t_i).
//
// Where F could have reached 0 on the way (`hit`), the group is gone through
// again for that output, event by event.

/// Where the outputs of a block fired: spike time = moment / slope; slope is 0 where silent.
struct Fired {
  std::int64_t moment[kWideBlock];
  std::int64_t slope[kWideBlock];
};

/// One output by the definition, over all events, in 64 bits.
inline void sweep_exactly(const IntegerSweepTask& task, std::int64_t output, Fired& fired) {
  const std::int8_t* weights = task.weights + place_in_row(output, task.width);
  std::int64_t slope = -std::int64_t{task.theta[output]}, membrane = 0, now = 0;
  bool reached = false;
  for (std::int64_t e = 0; e < task.group_count * kGroupEvents; ++e) {
    const auto time = static_cast<std::int64_t>(task.words[e] >> 16);
    membrane += slope * (time - now);
    now = time;
    reached = membrane >= 0 && time > 0;
    if (reached) break;
    if (e == task.bias_group * kGroupEvents) slope += task.bias[output];
    slope += weights[static_cast<std::int64_t>(task.words[e] & 0xffff) * task.width];
  }
  if (!reached && task.slope) slope = task.slope[output];
  if (slope <= 0) return;  // falls for ever
  fired.slope[output] = slope;
  fired.moment[output] = slope * now - membrane;
}

/// One output over one group of events; true if it fires there.
inline bool resolve(const IntegerSweepTask& task, std::int64_t g, std::int64_t output,
                    std::int32_t membrane, std::int32_t slope, Fired& fired) {
  const std::int8_t* weights = task.weights + place_in_row(output, task.width);
  const std::uint32_t* words = task.words + g * kGroupEvents;
  for (int i = 0; i < kGroupEvents; ++i) {
    const auto time = static_cast<std::int32_t>(words[i] >> 16);
    const auto next =
        i + 1 < kGroupEvents ? static_cast<std::int32_t>(words[i + 1] >> 16) : task.groups[g].end;
    slope += weights[static_cast<std::int64_t>(words[i] & 0xffff) * task.width];
    membrane += slope * (next - time);
    if (membrane >= 0) {
      fired.slope[output] = slope;
      fired.moment[output] = std::int64_t{slope} * next - membrane;
      return true;
    }
  }
  return false;
}

#if TTFS_ISA_avx512vnni

/// The lags from each event of a group to each event behind it: 16 points in time in the lanes,
/// four events in the bytes of a lane. The same for every output, so that one output's F at all
/// points is a product with its 16 weights.
struct GroupLags {
  __m512i low[4], high[4];
  __m512i since;  // the point's time since the start of the group
  alignas(64) std::int32_t points[kGroupEvents];
};

inline GroupLags group_lags(const std::uint32_t* words, const EventGroup& group) {
  GroupLags out;
  const __m512i start = _mm512_set1_epi32(group.start);
  const __m512i times = _mm512_srli_epi32(_mm512_loadu_si512(words), 16);
  // One place on: the point behind an event is when the next one comes.
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

/// 1 where an event is not behind the point: byte i of lane k of vector q is for event 4 q + i.
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

/// Outputs of a block to look at event by event, with F and B at the start of the group.
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

/// `resolve` without branches. `weights` are the output's, for the first four events; `apart` words
/// further on are those of the next four.
inline bool resolve(const GroupLags& lags, bool wide, const std::uint32_t* weights,
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
  // Where F crosses, all events up to the point are in.
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

#elif TTFS_ISA_avx2

/// `resolve` for eight outputs side by side; their weights for event i are weights_of(i). Returns
/// those that fire.
template <class Weights, class Output>
std::uint32_t resolve(const IntegerSweepTask& task, std::int64_t g, __m256i membrane, __m256i slope,
                      const Weights& weights_of, std::uint32_t wanted, const Output& output_of,
                      Fired& fired) {
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

/// The outputs from `first` on, a multiple of 8, that `hit` names.
[[gnu::noinline]] std::uint32_t resolve_neighbours(const IntegerSweepTask& task, std::int64_t g,
                                                   std::int64_t first, std::uint32_t hit,
                                                   __m256i membrane, __m256i slope, Fired& fired) {
  const std::uint32_t* words = task.words + g * kGroupEvents;
  // They lie in two fours of a row.
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
  return resolve(
      task, g, membrane, slope, weights_of, hit, [&](int lane) { return first + lane; }, fired);
}

/// Up to eight outputs, wherever they are, with F and B at the start of the group.
struct Scattered {
  std::int32_t output[IntVec::lanes];
  alignas(32) std::int32_t membrane[IntVec::lanes] = {}, slope[IntVec::lanes] = {};
  int count = 0;
};

/// Those that fire; bit j is output j.
[[gnu::noinline]] std::uint64_t resolve_scattered(const IntegerSweepTask& task, std::int64_t g,
                                                  Scattered& hits, Fired& fired) {
  std::uint64_t fires = 0;
  if (hits.count <= 2) {  // sooner done one by one
    for (int h = 0; h < hits.count; ++h)
      if (resolve(task, g, hits.output[h], hits.membrane[h], hits.slope[h], fired))
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
      resolve(task, g, IntVec::load(hits.membrane), IntVec::load(hits.slope), weights_of,
              (1U << hits.count) - 1, output_of, fired);
  for (std::uint32_t rest = lanes; rest != 0; rest &= rest - 1)
    fires |= std::uint64_t{1} << hits.output[__builtin_ctz(rest)];
  return fires;
}

#endif

/// The outputs of a block in R registers, each with consecutive ones.
template <int R>
void sweep_groups(const IntegerSweepTask& task, Fired& fired) {
  using V = IntVec;
  using Reg = typename V::Reg;
  constexpr std::int64_t width = R * V::lanes;
  const Reg too_low = V::set(-(1 << 30));
  Reg membrane[R], slope[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    slope[r] = V::mul(V::load(task.theta + V::lanes * r), V::set(-1));
    membrane[r] = V::mul(slope[r], V::set(task.groups[0].start));
  }
  // Outputs that have not fired; bit j is output j.
  std::uint64_t waiting = task.used < 64 ? (std::uint64_t{1} << task.used) - 1 : ~std::uint64_t{0};
  const auto outputs_of = [](std::uint64_t set, int r) {
    return static_cast<std::uint32_t>(set >> (V::lanes * r)) & ((1U << V::lanes) - 1);
  };
  [[maybe_unused]] const auto lane_of = [](const Reg(&of)[R], int output) {
    std::int32_t lane;
    __builtin_memcpy(&lane, reinterpret_cast<const char*>(of) + 4 * output, sizeof lane);
    return lane;
  };
  for (std::int64_t g = 0; g < task.group_count; ++g) {
    const EventGroup& group = task.groups[g];
    const std::uint32_t* words = task.words + g * kGroupEvents;
    if (g == task.bias_group)
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) slope[r] = V::add(slope[r], V::load(task.bias + V::lanes * r));
    Reg before[R], slope_before[R];
    const Reg time = V::set(group.end - group.start);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      before[r] = membrane[r];
      slope_before[r] = slope[r];
      membrane[r] = V::add(membrane[r], V::mul(slope[r], time));
    }
    const auto row = [&](int i) {
      return task.weights + static_cast<std::int64_t>(words[i] & 0xffff) * width;
    };
    V::add_events(group, row, membrane, slope);
    // Within the group F is above both its ends by at most this.
    const Reg margin = V::set(-task.most_negative * group.bend - 1);
    std::uint64_t hit = 0;
    Reg lowest = membrane[0];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      hit |= std::uint64_t{V::greater(V::max(before[r], membrane[r]), margin)} << (V::lanes * r);
      lowest = V::min(lowest, membrane[r]);
    }
    hit &= waiting;
    if (hit != 0) {
#if TTFS_ISA_avx512vnni
      Hits hits;
      alignas(64) std::uint32_t kept[4][R][V::lanes];  // their weights
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        if (outputs_of(hit, r) == 0) continue;
        hits.add(outputs_of(hit, r), V::lanes * r, before[r], slope_before[r]);
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          typename V::Quad w[R];
          V::quad(row(4 * q), row(4 * q + 1), row(4 * q + 2), row(4 * q + 3), w);
          _mm512_store_si512(kept[q][r], w[r]);
        }
      }
      const GroupLags lags = group_lags(words, group);
      for (int h = 0; h < hits.count; ++h) {
        const std::int32_t output = hits.output[h];
        const bool fires = resolve(lags, group.wide, &kept[0][0][0] + output, R * V::lanes, output,
                                   hits.membrane[h], hits.slope[h], fired);
        waiting &= ~(std::uint64_t{fires} << output);
      }
#elif TTFS_ISA_avx2
      Scattered hits;
      for (int r = 0; r < R; ++r) {
        const std::uint32_t here = outputs_of(hit, r);
        if (here == 0 || __builtin_popcount(here) <= 4) continue;
        const std::uint32_t fires =
            resolve_neighbours(task, g, V::lanes * r, here, before[r], slope_before[r], fired);
        waiting &= ~(std::uint64_t{fires} << (V::lanes * r));
        hit &= ~(std::uint64_t{here} << (V::lanes * r));
      }
      for (; hit != 0; hit &= hit - 1) {
        const int output = __builtin_ctzll(hit);
        hits.output[hits.count] = output;
        hits.membrane[hits.count] = lane_of(before, output);
        hits.slope[hits.count] = lane_of(slope_before, output);
        if (++hits.count == V::lanes || (hit & (hit - 1)) == 0) {
          waiting &= ~resolve_scattered(task, g, hits, fired);
          hits.count = 0;
        }
      }
#else
      for (; hit != 0; hit &= hit - 1) {
        const int output = __builtin_ctzll(hit);
        if (resolve(task, g, output, lane_of(before, output), lane_of(slope_before, output), fired))
          waiting &= ~(std::uint64_t{1} << output);
      }
#endif
    }
    // So deep that 32 bits may not do for the next group: go through the events in 64.
    if (V::greater(too_low, lowest) != 0)
      for (int r = 0; r < R; ++r)
        for (std::uint32_t low = V::greater(too_low, membrane[r]) & outputs_of(waiting, r);
             low != 0; low &= low - 1) {
          const int output = V::lanes * r + __builtin_ctz(low);
          sweep_exactly(task, output, fired);
          waiting &= ~(std::uint64_t{1} << output);
        }
    if (waiting == 0) return;
  }
  const std::int64_t end = task.groups[task.group_count - 1].end;
  for (int r = 0; r < R; ++r) {
    if (task.slope) slope[r] = V::load(task.slope + V::lanes * r);
    std::uint32_t rising = V::greater(slope[r], V::set(0)) & outputs_of(waiting, r);
    if (rising == 0) continue;
    alignas(64) std::int32_t f[V::lanes], b[V::lanes];
    V::store(f, membrane[r]);
    V::store(b, slope[r]);
    for (; rising != 0; rising &= rising - 1) {
      const int lane = __builtin_ctz(rising);
      const std::int64_t output = V::lanes * r + lane;
      fired.slope[output] = b[lane];
      fired.moment[output] = b[lane] * end - f[lane];
    }
  }
}

#if TTFS_ISA_avx2

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
  // More than 2^17 is later than any code.
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

#endif

/// Spike codes: the spike time, scaled and rounded, halves upwards. A quotient in double precision
/// is off by one at most.
inline void finish(const IntegerSweepTask& task, const Fired& fired) {
#if TTFS_ISA_avx512
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
    // More than 2^17 is later than any code.
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
#elif TTFS_ISA_avx2
  for (std::int64_t j = 0; j < task.width; j += 4) finish_four(task, fired, j);
#else
  for (std::int64_t j = 0; j < task.width; ++j) {
    task.codes[j] = task.silent;
    if (fired.slope[j] <= 0) continue;
    const std::int64_t divisor = fired.slope[j] << 16;
    const std::int64_t dividend = fired.moment[j] * task.ratio + divisor / 2;
    auto quotient =
        static_cast<std::int64_t>(static_cast<double>(dividend) / static_cast<double>(divisor));
    const std::int64_t rest = dividend - quotient * divisor;
    quotient += (rest >= divisor ? 1 : 0) - (rest < 0 ? 1 : 0);
    quotient = quotient < 1 ? 1 : quotient;
    if (quotient <= task.latest) task.codes[j] = static_cast<std::uint16_t>(quotient);
  }
#endif
}

inline void sweep_events(const IntegerSweepTask& task) {
  Fired fired;
  for (std::int64_t j = 0; j < task.width; ++j) fired.slope[j] = fired.moment[j] = 0;
  if (task.exact)
    for (std::int64_t j = 0; j < task.used; ++j) sweep_exactly(task, j, fired);
  else if (task.group_count > 0 && task.width == kWideBlock)
    sweep_groups<kWideBlock / IntVec::lanes>(task, fired);
  else if (task.group_count > 0)
    sweep_groups<kNarrowBlock / IntVec::lanes>(task, fired);
  finish(task, fired);
}
