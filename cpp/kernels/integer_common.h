// Code that the integer kernels of all instruction sets share. Included inside the namespace of an
// instruction set, before that set's own file. The latter defines
//
// - IntVec, vectors of 32-bit integers. IntVec::add_events adds a group's events to R registers of
//   outputs: to F each weight times its lag, and to B each weight. row(i) points at the weights of
//   event i; `quad` interleaves the bytes of four rows.
// - collect_vectors, filter_vectors, describe_lags, locate_crossings and finish.

/// A lag of two bytes is reduced by this to fit a signed 16-bit number.
[[maybe_unused]] constexpr int kMidLagBits = 15;
[[maybe_unused]] constexpr std::int32_t kMidLag = 1 << kMidLagBits;

inline std::uint32_t four_bytes(const std::uint8_t* p) {
  std::uint32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return word;
}

/// A block's R registers in parts: `quad` makes each part from adjacent bytes of the rows.
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

/// Where the outputs of a block fired: spike time = moment / slope; slope is 0 where silent.
struct Fired {
  std::int64_t moment[kWideBlock];
  std::int64_t slope[kWideBlock];
};

/// One output by the definition: all events, in 64 bits.
inline void sweep_in_64_bits(const IntegerSweepTask& task, std::int64_t output, Fired& fired) {
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
  if (slope <= 0) return;  // F never rises again
  fired.slope[output] = slope;
  fired.moment[output] = slope * now - membrane;
}

/// One output over one group of events; true if it fires there.
inline bool locate_crossing(const IntegerSweepTask& task, std::int64_t g, std::int64_t output,
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

/// The bits of register r of V in a set of outputs, one bit per output.
template <class V>
std::uint32_t outputs_in(std::uint64_t set, int r) {
  return static_cast<std::uint32_t>(set >> (V::lanes * r)) & ((1U << V::lanes) - 1);
}

/// One output's lane in a block's registers.
template <class Reg, int R>
std::int32_t lane_of(const Reg (&registers)[R], int output) {
  std::int32_t lane;
  __builtin_memcpy(&lane, reinterpret_cast<const char*>(registers) + 4 * output, sizeof lane);
  return lane;
}
