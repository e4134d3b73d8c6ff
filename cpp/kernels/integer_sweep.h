// The integer sweep: a receptive field's events, sorted by time, against a block of outputs.
// Included inside the namespace of an instruction set; docs/integer.md has the definition and the
// bounds, and explains why looking at F twice a group is enough.
//
// Of each output it keeps F, the membrane at the end of the events so far, and B, its slope. A
// half of a group takes F over its own time by
//
//     F(end) = F(start) + B (end - start) + sum of w_i (end - t_i)
//
// eight events at once. Where F could have reached 0 on the way (`hit`), the group is gone through
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
  for (std::int64_t e = 0; e < task.group_count * kGroupEvents; ++e) {
    const auto time = static_cast<std::int64_t>(task.words[e] >> 16);
    membrane += slope * (time - now);
    now = time;
    if (membrane >= 0 && time > 0) break;
    if (e == task.bias_group * kGroupEvents) slope += task.bias[output];
    slope += weights[static_cast<std::int64_t>(task.words[e] & 0xffff) * task.width];
  }
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
    const auto next = i + 1 < kGroupEvents ? static_cast<std::int32_t>(words[i + 1] >> 16)
                                           : task.groups[g].end;
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

inline std::uint32_t four_bytes(const std::uint8_t* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

#if TTFS_ISA_avx512vnni

/// The lags from each event of a group to each point where F is looked at: 16 points in the lanes,
/// four events in the bytes of a lane. The same for every output, so that one output's F at all
/// points is a product with its 16 weights.
struct GroupLags {
  __m512i low[4], high[4], before[4];
  __m512i times, points;
};

inline GroupLags group_lags(const std::uint32_t* words, const EventGroup& group) {
  GroupLags out;
  out.times = _mm512_srli_epi32(_mm512_loadu_si512(words), 16);
  // The point behind an event is the next event's time.
  alignas(64) std::int32_t points[kGroupEvents + 1], times[kGroupEvents];
  _mm512_store_si512(times, out.times);
  for (int i = 0; i + 1 < kGroupEvents; ++i) points[i] = times[i + 1];
  points[kGroupEvents - 1] = group.end;
  out.points = _mm512_load_si512(points);
  const __m512i twice = _mm512_or_si512(out.points, _mm512_slli_epi32(out.points, 16));
  const __m512i even = _mm512_set1_epi16(0x00ff);
  for (int q = 0; q < 4; ++q) {
    const auto pair = [&](int i) {
      return _mm512_subs_epu16(
          twice, _mm512_set1_epi32(times[4 * q + i] | (times[4 * q + i + 1] << 16)));
    };
    // Events 0 and 1 go to the even bytes, 2 and 3 to the odd ones: quad_order.
    const __m512i a = pair(0), b = pair(2);
    out.low[q] =
        _mm512_or_si512(_mm512_and_si512(a, even), _mm512_slli_epi16(b, 8));
    out.high[q] = _mm512_or_si512(_mm512_srli_epi16(a, 8), _mm512_andnot_si512(even, b));
    const __m512i one = _mm512_set1_epi8(1);
    out.before[q] = _mm512_min_epu8(_mm512_or_si512(out.low[q], out.high[q]), one);
  }
  return out;
}

/// `resolve` for the outputs of a register that `hit` names; returns those that fire. `weights` are
/// the 16 outputs' weights, four bytes an output, for each four events.
inline std::uint32_t resolve_lanes(const GroupLags& lags, const std::uint32_t (&weights)[4][16],
                                   std::uint32_t hit, const std::int32_t* membranes,
                                   const std::int32_t* slopes, const EventGroup& group,
                                   std::int64_t first, Fired& fired) {
  const __m512i since = _mm512_sub_epi32(lags.points, _mm512_set1_epi32(group.start));
  std::uint32_t done = 0;
  for (; hit != 0; hit &= hit - 1) {
    const int lane = __builtin_ctz(hit);
    const __m512i slope = _mm512_set1_epi32(slopes[lane]);
    __m512i f = _mm512_add_epi32(_mm512_set1_epi32(membranes[lane]),
                                 _mm512_mullo_epi32(slope, since));
    __m512i w[4];
    for (int q = 0; q < 4; ++q) {
      w[q] = _mm512_set1_epi32(static_cast<int>(weights[q][lane]));
      f = _mm512_dpbusd_epi32(f, lags.low[q], w[q]);
    }
    if (group.end - group.start > 255) {
      __m512i high = _mm512_setzero_si512();
      for (int q = 0; q < 4; ++q) high = _mm512_dpbusd_epi32(high, lags.high[q], w[q]);
      f = _mm512_add_epi32(f, _mm512_slli_epi32(high, 8));
    }
    const std::uint32_t reached = _mm512_cmpge_epi32_mask(f, _mm512_setzero_si512());
    if (reached == 0) continue;
    const auto pick = static_cast<__mmask16>(reached & (0 - reached));
    __m512i b = slope;
    for (int q = 0; q < 4; ++q) b = _mm512_dpbusd_epi32(b, lags.before[q], w[q]);
    const auto at = [&](__m512i v) {
      return _mm_cvtsi128_si32(_mm512_castsi512_si128(_mm512_maskz_compress_epi32(pick, v)));
    };
    fired.slope[first + lane] = at(b);
    fired.moment[first + lane] = std::int64_t{at(b)} * at(lags.points) - at(f);
    done |= 1U << lane;
  }
  return done;
}

#endif

/// The outputs of one pass: R registers, whose outputs are `apart` apart. A row's bytes of the pass
/// start at `offset`.
template <int R, int apart>
void sweep_pass(const IntegerSweepTask& task, std::int64_t first, std::int64_t offset,
                Fired& fired) {
  using V = IntVec;
  using Reg = typename V::Reg;
  constexpr std::uint32_t all = V::lanes == 16 ? 0xffff : (1U << V::lanes) - 1;
  const std::int8_t* weights = task.weights + offset;
  const std::int64_t width = task.width;
  const auto ones = V::lags(0x01010101);
  const Reg too_low = V::set(-(1 << 30));
  Reg membrane[R], slope[R];
  std::uint32_t waiting[R];
  for (int r = 0; r < R; ++r) {
    slope[r] = V::mul(V::load(task.theta + first + apart * r), V::set(-1));
    membrane[r] = V::mul(slope[r], V::set(task.groups[0].start));
    const std::int64_t used = task.used - first - apart * r;
    waiting[r] = used >= V::lanes ? all : used > 0 ? (1U << used) - 1 : 0;
  }
  for (std::int64_t g = 0; g < task.group_count; ++g) {
    const EventGroup& group = task.groups[g];
    const std::uint32_t* words = task.words + g * kGroupEvents;
    if (g == task.bias_group)
      for (int r = 0; r < R; ++r)
        slope[r] = V::add(slope[r], V::load(task.bias + first + apart * r));
    Reg before[R], slope_before[R], highest[R];
    for (int r = 0; r < R; ++r) {
      before[r] = highest[r] = membrane[r];
      slope_before[r] = slope[r];
    }
    for (int half = 0; half < 2; ++half) {
      const Reg time =
          V::set(half == 0 ? group.middle - group.start : group.end - group.middle);
      for (int r = 0; r < R; ++r) membrane[r] = V::add(membrane[r], V::mul(slope[r], time));
      typename V::Quad w[2][R];
      for (int q = 0; q < 2; ++q) {
        const int e = 8 * half + 4 * q;
        const auto row = [&](int i) {
          return weights + static_cast<std::int64_t>(words[e + quad_order(i)] & 0xffff) * width;
        };
        V::quad(row(0), row(1), row(2), row(3), w[q]);
        const auto low = V::lags(four_bytes(group.low + e));
        for (int r = 0; r < R; ++r) {
          membrane[r] = V::dot(membrane[r], low, w[q][r]);
          slope[r] = V::dot(slope[r], ones, w[q][r]);
        }
      }
      if (group.wide) {
        const auto high0 = V::lags(four_bytes(group.high + 8 * half));
        const auto high1 = V::lags(four_bytes(group.high + 8 * half + 4));
        for (int r = 0; r < R; ++r) {
          const Reg high = V::dot(V::dot(V::set(0), high0, w[0][r]), high1, w[1][r]);
          membrane[r] = V::add(membrane[r], V::times_256(high));
        }
      }
      for (int r = 0; r < R; ++r) highest[r] = V::max(highest[r], membrane[r]);
    }
    // F at a bend within a half is above both ends of the half by at most this.
    const Reg margin = V::set(-task.most_negative * group.bend - 1);
    std::uint32_t some = 0;
    for (int r = 0; r < R; ++r) some |= V::greater(highest[r], margin) & waiting[r];
    if (some != 0) {
#if TTFS_ISA_avx512vnni
      const GroupLags lags = group_lags(words, group);
#endif
      for (int r = 0; r < R; ++r) {
        std::uint32_t hit = V::greater(highest[r], margin) & waiting[r];
        if (hit == 0) continue;
        alignas(64) std::int32_t f[V::lanes], b[V::lanes];
        V::store(f, before[r]);
        V::store(b, slope_before[r]);
#if TTFS_ISA_avx512vnni
        alignas(64) std::uint32_t bytes[4][16];
        for (int q = 0; q < 4; ++q) {
          typename V::Quad w[R];
          const auto row = [&](int i) {
            return weights +
                   static_cast<std::int64_t>(words[4 * q + quad_order(i)] & 0xffff) * width;
          };
          V::quad(row(0), row(1), row(2), row(3), w);
          _mm512_store_si512(bytes[q], w[r]);
        }
        waiting[r] &= ~resolve_lanes(lags, bytes, hit, f, b, group, first + apart * r, fired);
#else
        for (; hit != 0; hit &= hit - 1) {
          const int lane = __builtin_ctz(hit);
          if (resolve(task, g, first + apart * r + lane, f[lane], b[lane], fired))
            waiting[r] &= ~(1U << lane);
        }
#endif
      }
    }
    std::uint32_t left = 0;
    for (int r = 0; r < R; ++r) {
      // So deep that 32 bits may not do for the next group: go through the events in 64.
      for (std::uint32_t low = V::greater(too_low, membrane[r]) & waiting[r]; low != 0;
           low &= low - 1) {
        const int lane = __builtin_ctz(low);
        sweep_exactly(task, first + apart * r + lane, fired);
        waiting[r] &= ~(1U << lane);
      }
      left |= waiting[r];
    }
    if (left == 0) return;
  }
  const std::int64_t end = task.groups[task.group_count - 1].end;
  for (int r = 0; r < R; ++r) {
    std::uint32_t rising = V::greater(slope[r], V::set(0)) & waiting[r];
    if (rising == 0) continue;
    alignas(64) std::int32_t f[V::lanes], b[V::lanes];
    V::store(f, membrane[r]);
    V::store(b, slope[r]);
    for (; rising != 0; rising &= rising - 1) {
      const int lane = __builtin_ctz(rising);
      const std::int64_t output = first + apart * r + lane;
      fired.slope[output] = b[lane];
      fired.moment[output] = b[lane] * end - f[lane];
    }
  }
}

inline void sweep_events(const IntegerSweepTask& task) {
  Fired fired;
  for (std::int64_t j = 0; j < task.width; ++j) fired.slope[j] = fired.moment[j] = 0;
  constexpr int lanes = IntVec::lanes;
  if (task.exact) {
    for (std::int64_t j = 0; j < task.used; ++j) sweep_exactly(task, j, fired);
  } else if (task.group_count > 0 && task.width == kWideBlock) {
    for (int pass = 0; pass < 16 / lanes; ++pass)
      sweep_pass<4, 16>(task, lanes * pass, 4 * lanes * pass, fired);
  } else if (task.group_count > 0) {
    sweep_pass<16 / lanes, lanes>(task, 0, 0, fired);
  }
  // The spike code is the spike time, scaled and rounded, halves upwards. The quotient in double
  // precision is off by one at most.
  for (std::int64_t j = 0; j < task.width; ++j) {
    const bool spikes = fired.slope[j] > 0;
    const std::int64_t divisor = spikes ? fired.slope[j] << 16 : 1;
    const std::int64_t dividend = fired.moment[j] * task.ratio + divisor / 2;
    auto quotient =
        static_cast<std::int64_t>(static_cast<double>(dividend) / static_cast<double>(divisor));
    const std::int64_t rest = dividend - quotient * divisor;
    quotient += (rest >= divisor ? 1 : 0) - (rest < 0 ? 1 : 0);
    quotient = quotient < 1 ? 1 : quotient;
    task.codes[j] = spikes && quotient <= task.latest ? static_cast<std::uint16_t>(quotient)
                                                      : task.silent;
  }
}
