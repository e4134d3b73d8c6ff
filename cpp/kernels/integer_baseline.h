// The integer kernels of the baseline: SSE2 on x86-64, the compiler's own vectors elsewhere.
// Included inside its namespace.

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
  static constexpr std::int32_t longest_narrow_lag = kMidLag - 1;  // the largest in 16 bits
  static void store_lag(EventGroup& group, int event, std::int32_t lag) {
    const auto word = static_cast<std::int16_t>(group.wide ? lag - kMidLag : lag);
    __builtin_memcpy(group.lags + 2 * event, &word, sizeof word);
  }
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
  static void store_lag(EventGroup& group, int event, std::int32_t lag) {
    group.lags[event] = static_cast<std::uint8_t>(lag);
    group.lags[kGroupEvents + event] = static_cast<std::uint8_t>(lag >> 8);
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

/// No vectors here: the caller's loop processes everything.
inline void collect_vectors(const std::uint16_t*, std::int64_t, std::uint32_t, std::uint16_t,
                            std::uint32_t*, std::int64_t&, std::int64_t&) {}
inline void filter_vectors(const std::uint32_t*, const std::uint16_t*, std::int64_t, int,
                           std::uint32_t, std::uint32_t*, std::int64_t&, std::int64_t&) {}

/// The lags of a group of events, and the sum of min(lag, time since the start).
inline std::int32_t describe_lags(const std::uint32_t* words, EventGroup& out) {
  std::int32_t overshoot = 0;
  for (int i = 0; i < kGroupEvents; ++i) {
    const auto time = static_cast<std::int32_t>(words[i] >> 16);
    const std::int32_t lag = out.end - time, since = time - out.start;
    IntVec::store_lag(out, i, lag);
    overshoot += lag < since ? lag : since;
  }
  return overshoot;
}

#include "kernels/integer_rescan.h"

/// Spike codes: the spike time, scaled and rounded, halves upwards. A quotient in double precision
/// is wrong by one at most.
inline void finish(const IntegerSweepTask& task, const Fired& fired) {
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
}
