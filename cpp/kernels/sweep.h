// The sweep: a receptive field's events against a block of output neurons. Included inside the
// namespace of an instruction set.
//
// For each output, B = sum w - 1 over the events so far, and F, the membrane condition: between two
// events F rises by B times the step in z. A lane fires where F first reaches 0. What F is at every
// event need not be known for that. Over a chunk of events from z = a to z = b
//
//     B(b) = B(a) + sum w_i,        F(b) = F(a) + B(a) (b - a) + sum w_i (b - z_i),
//
// an addition and a multiply-add a synapse, and in between F stays below the line from F(a) to F(b)
// and what the lowest weight, were it every event's, could bend it up from there. The chunks in
// which that bound comes to 0 are gone through again, event by event, for the few lanes that each
// concerns.

/// A lane's spike value and slope by the definition, one event after the other, in double
/// precision.
template <class T>
void sweep_lane(const RefineTask<T>& task) {
  double slope = -1, moment = 0;
  const double infinity = __builtin_inf(), horizon = static_cast<double>(task.horizon);
  bool fired = false;
  for (std::int64_t e = 0; e < task.count; ++e) {
    const double time = static_cast<double>(task.times[e]);
    fired = slope > 0 && slope * time >= moment;
    if (fired) break;
    const std::int64_t row = task.rows[e] / kRowUnit;
    const double weight = static_cast<double>(row < task.inputs ? task.weights[row] : task.bias);
    slope += weight;
    moment += weight * time;
  }
  fired = fired || (slope > 0 && (horizon == infinity || slope * horizon >= moment));
  *task.value = static_cast<T>(fired ? moment / slope : infinity);
  *task.slope = static_cast<T>(fired ? slope : 0);
}

/// Sums the events of the lane that spike before its spike value again, in the order of the weights
/// and in double precision; 16 sums side by side, in an order that no instruction set changes.
template <class T>
void refine(const RefineTask<T>& task) {
  using W = Vec<double>;
  constexpr int sums = 16 / W::lanes;
  const T found = *task.value;
  typename W::Reg slopes[sums], moments[sums];
  for (int u = 0; u < sums; ++u) slopes[u] = moments[u] = W::set(0);
  const auto bound = W::set(static_cast<double>(found));
  std::int64_t i = 0;
  for (; i + 16 <= task.inputs; i += 16)
    for (int u = 0; u < sums; ++u) {
      const auto time = W::widen(task.field + i + u * W::lanes);
      const auto weight = W::widen(task.weights + i + u * W::lanes);
      const auto before = W::lt(time, bound);
      slopes[u] = W::add_where(before, slopes[u], weight);
      moments[u] = W::fma_where(before, time, weight, moments[u]);
    }
  double slope = -1, moment = 0;
  for (; i < task.inputs; ++i)
    if (task.field[i] < found) {
      slope += static_cast<double>(task.weights[i]);
      moment += static_cast<double>(task.weights[i]) * static_cast<double>(task.field[i]);
    }
  double lanes[2][16];
  for (int u = 0; u < sums; ++u) {
    W::store(lanes[0] + u * W::lanes, slopes[u]);
    W::store(lanes[1] + u * W::lanes, moments[u]);
  }
  for (int u = 0; u < 16; ++u) {
    slope += lanes[0][u];
    moment += lanes[1][u];
  }
  std::int64_t n = 0;  // events before it, by bisection
  for (std::int64_t end = task.count; n < end;) {
    const std::int64_t middle = n + (end - n) / 2;
    if (task.times[middle] < found)
      n = middle + 1;
    else
      end = middle;
  }
  if (task.bias_joins && 1 < found) {
    slope += static_cast<double>(task.bias);
    moment += static_cast<double>(task.bias);
  }
  // Is this the causal set of the spike value that it gives?
  const double value = moment / slope;
  const bool after = slope > 0 && (n == 0 || value > static_cast<double>(task.times[n - 1]));
  const double next = static_cast<double>(n < task.count ? task.times[n] : task.horizon);
  if (after && value <= next) {
    *task.value = static_cast<T>(value);
    *task.slope = static_cast<T>(slope);
  } else {
    sweep_lane(task);
  }
}

// The rounding of a lane's sums grows with how far its slope B went below zero and with the root of
// the number of events, and is divided by D in the end. Lanes whose D is small against that are
// marked, to be summed again in double precision. The factor keeps the relative error within 1e-5
// for 99.9 % of the spikes; tests/operators measures it. (In double precision itself only D <= 0 is
// looked at again: between events that are equal but for rounding, F may seem to rise where it
// falls.)
template <class T>
T flat_slope(std::int64_t count, T factor) {
  if constexpr (sizeof(T) == sizeof(float)) return factor * __builtin_sqrtf(static_cast<T>(count));
  return 0;
}

/// Chunks that are swept before those in which a lane may fire are gone through.
constexpr int kStretch = 32;

/// The weights of event e, of a block of W outputs.
template <int W, class T>
[[gnu::always_inline]] inline const T* weights_of(const T* block, const std::uint32_t* rows,
                                                  std::int64_t e) {
  constexpr std::size_t unit = W * sizeof(T) / kRowUnit;
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(block) + rows[e] * unit);
}

/// An empty statement that a compiler must compute a value for, here and in this order: sums that
/// it put off would have to be kept, operand by operand, until then.
template <class Word>
[[gnu::always_inline]] inline void keep(Word& value) {
  asm volatile("" : "+r"(value));
}

/// Where lanes are: B and F behind an event, its time, and the latest that they may fire.
template <class V>
struct Place {
  typename V::Reg slope, level, time, latest;
};

/// Lanes that are followed event by event: those that wait, and B, F and z behind the last event;
/// B and F go on for all lanes, so that the sums wait for nothing but themselves. `at` follows a
/// lane to the last event before F is no longer below 0.
template <class V>
struct Walk {
  typename V::Mask waiting;
  typename V::Reg slope, level, time;
  Place<V> at;
};

/// F at event e.
template <class V, class T>
[[gnu::always_inline]] inline typename V::Reg level_at(const SweepTask<T>& task, std::int64_t e,
                                                       const Walk<V>& w) {
  return V::fma(w.slope, V::sub(V::set(task.times[e]), w.time), w.level);
}

/// To event e, where F is `level`.
template <int W, class V, class T>
[[gnu::always_inline]] inline void step(const SweepTask<T>& task, std::int64_t first,
                                        std::int64_t e, typename V::Reg level, Walk<V>& w) {
  w.level = level;
  w.slope = V::add(w.slope, V::load(weights_of<W>(task.weights, task.rows, e) + first));
  w.time = V::set(task.times[e]);
  w.at.latest = V::select(w.waiting, w.time, w.at.latest);
  w.waiting = V::still_negative(w.waiting, level);
  w.at.level = V::select(w.waiting, level, w.at.level);
  w.at.time = V::select(w.waiting, w.time, w.at.time);
  w.at.slope = V::select(w.waiting, w.slope, w.at.slope);
}

/// Spike values, slopes and marks of a register's lanes: those that have stopped, and those that
/// wait behind the last event.
template <class V, class T>
[[gnu::always_inline]] inline void finish(const SweepTask<T>& task, std::int64_t first,
                                          typename V::Mask waiting, typename V::Reg lowest,
                                          const Place<V>& at) {
  const auto zero = V::set(0), infinity = V::set(static_cast<T>(__builtin_inf()));
  // The error of B counts in full only for a lane that fires long after what its sum went through.
  const auto flat = V::select(waiting, V::set(flat_slope<T>(task.count, T(-0.002))),
                              V::set(flat_slope<T>(task.count, T(-0.001))));
  const auto horizon = V::set(task.horizon);
  // With no horizon F must rise for ever, B > 0; with one it must have reached 0 there.
  const auto silent =
      V::both(waiting, task.horizon == static_cast<T>(__builtin_inf())
                           ? V::le(at.slope, zero)
                           : V::lt(V::fma(at.slope, V::sub(horizon, at.time), at.level), zero));
  // Equation 4, with A = B z - F at the last event: there both terms are positive. (min gives its
  // second argument where one is NaN.)
  const auto latest = V::select(waiting, horizon, at.latest);
  const auto value = V::min(latest, V::div(V::fms(at.slope, at.time, at.level), at.slope));
  const auto nan = V::unordered(at.slope, at.slope);
  // F too large for its type leaves no positive number.
  const auto odd =
      V::either(V::le(at.slope, V::fma(flat, lowest, zero)), V::flip(V::lt(zero, value)));
  V::store(task.values + first, V::select(nan, at.slope, V::select(silent, infinity, value)));
  V::store(task.slopes + first, V::select(nan, at.slope, V::select(silent, zero, at.slope)));
  *task.marks |= (V::bits(odd) & ~V::bits(V::either(nan, silent))) << first;
}

/// B and F of some outputs at the start of a chunk; F is -inf for one that has fired.
template <class T, int Outputs>
struct Moment {
  alignas(64) T slope[Outputs], level[Outputs];
};

template <class T>
T fired_level() {
  return -static_cast<T>(__builtin_inf());
}

/// The largest F in a chunk cannot be more than this. Above the line between F at the chunk's ends,
/// `span` apart in z, an event lifts F by no more than span / 4 of how far its weight lies below 0.
template <class V>
[[gnu::always_inline]] inline typename V::Reg highest(typename V::Reg start, typename V::Reg end,
                                                      typename V::Reg bend, typename V::Reg span) {
  return V::fma(bend, span, V::max(start, end));
}

/// What is known of lanes: which have not fired, and where the others have.
template <class V>
struct Found {
  typename V::Mask waiting;
  Place<V> at;
};

/// Goes through the doubtful of the chunks from event e on, a bit each. Of `below`, a word a chunk,
/// the bits from `shift` on tell which lanes cannot fire in it.
template <int W, class V, int Outputs, class T>
[[gnu::noinline]] void resolve(const SweepTask<T>& task, std::int64_t first, int lane,
                               std::int64_t e, const Moment<T, Outputs>* moments,
                               const std::uint16_t* below, int shift, std::uint32_t doubts,
                               Found<V>& found) {
  const auto gone = V::set(fired_level<T>());
  typename V::Mask waiting = found.waiting;
  Place<V> at = found.at;
  for (; doubts != 0; doubts &= doubts - 1) {
    const int i = __builtin_ctz(doubts);
    const std::int64_t start = e + i * kChunk;
    const auto near = V::both(waiting, V::flip(V::lanes_of(below[i] >> shift)));
    const auto slope = V::load(moments[i].slope + lane), level = V::load(moments[i].level + lane);
    const auto end = V::load(moments[i + 1].level + lane);
    const auto time = V::set(task.times[start > 0 ? start - 1 : 0]);
    Walk<V> w{near, slope, level, time, at};
    w.at.slope = V::select(near, slope, w.at.slope);
    w.at.level = V::select(near, level, w.at.level);
    w.at.time = V::select(near, time, w.at.time);
#pragma GCC unroll 8
    for (int u = 0; u + 1 < kChunk; ++u)
      step<W>(task, first, start + u, level_at(task, start + u, w), w);
    // Both ways of computing F must agree at the end of the chunk on whether it is below 0.
    step<W>(task, first, start + kChunk - 1, V::select(V::eq(end, gone), V::set(0), end), w);
    waiting = V::both(waiting, V::either(w.waiting, V::flip(near)));
    at = w.at;
  }
  // One by one: a copy of all at once would wait for each of these to arrive in memory.
  found.waiting = waiting;
  found.at.slope = at.slope;
  found.at.level = at.level;
  found.at.time = at.time;
  found.at.latest = at.latest;
}

/// All events of a pixel against R registers of outputs, in a block of W. Few registers are too
/// short a chain for a processor: their sums go two ways.
template <int W, int R, class T>
void sweep_chunks(const SweepTask<T>& task, std::int64_t first) {
  using V = Vec<T>;
  using N = Narrow<T>;
  constexpr int ways = W == kBlock ? 1 : 2;
  constexpr int groups = R * V::lanes / N::lanes;  // of outputs that are resolved together
  Moment<T, R * V::lanes> moments[kStretch + 1];
  alignas(64) std::uint16_t below[R][kStretch] = {};  // lanes that cannot fire in a chunk
  Found<N> found[groups];
  typename V::Reg slope[R], level[R], lowest[R], bend[R];
  for (int r = 0; r < R; ++r) {
    slope[r] = V::load(task.start + first + r * V::lanes);
    level[r] = V::mul(slope[r], V::set(task.times[0]));
    bend[r] = V::load(task.bends + first + r * V::lanes);
    lowest[r] = V::set(-1);
  }
  for (int g = 0; g < groups; ++g) {
    const auto start = N::load(task.start + first + g * N::lanes), zero = N::set(0);
    found[g] = {N::all(), {start, zero, zero, zero}};
  }
  const T* block = task.weights + first;
  keep(block);
  const T *times = task.times, *rests = task.rests;
  const std::uint32_t* rows = task.rows;
  const auto gone = V::set(fired_level<T>());
  T before = times[0];
  bool some = true;
  const auto note = [&](int i) {
    for (int r = 0; r < R; ++r) {
      V::store(moments[i].slope + r * V::lanes, slope[r]);
      V::store(moments[i].level + r * V::lanes, level[r]);
    }
  };
  for (std::int64_t e = 0; some && e < task.count; e += kStretch * kChunk) {
    int i = 0;
    note(0);
    for (; some && i < kStretch && e + i * kChunk < task.count; ++i) {
      typename V::Reg gain[ways][R], rise[ways][R];
#pragma GCC unroll 8
      for (int u = 0; u < kChunk; ++u) {
        const auto rest = V::set(rests[u]);
        const T* weights = weights_of<W>(block, rows, u);
        const T* soon = weights_of<W>(block, rows, kChunk + u);
        for (int r = 0; r < R; ++r) {
          if (r * V::lanes % (64 / sizeof(T)) == 0) __builtin_prefetch(soon + r * V::lanes);
          auto &sum = gain[u % ways][r], &area = rise[u % ways][r];
          auto weight = V::load(weights + r * V::lanes);
          V::keep(weight);
          sum = u < ways ? weight : V::add(sum, weight);
          V::keep(sum);
          if (u + 1 == kChunk) continue;  // where its own weight has nothing to do with F
          area = u < ways ? V::mul(weight, rest) : V::fma(weight, rest, area);
          V::keep(area);
        }
      }
      const T last = times[kChunk - 1];
      const auto span = V::set(last - before);
      const bool look = i % 4 == 3;  // often enough
      for (int r = 0; look && r < R; ++r) lowest[r] = V::min(slope[r], lowest[r]);
      auto most = gone;
      for (int r = 0; r < R; ++r) {
        for (int way = 1; way < ways; ++way) {
          gain[0][r] = V::add(gain[0][r], gain[way][r]);
          rise[0][r] = V::add(rise[0][r], rise[way][r]);
        }
        const auto end = V::add(V::fma(slope[r], span, level[r]), rise[0][r]);
        const auto high = highest<V>(level[r], end, bend[r], span);
        below[r][i] = static_cast<std::uint16_t>(V::signs(high));
        slope[r] = V::add(slope[r], gain[0][r]);
        level[r] = V::if_negative(end, gone);
        most = V::max(most, level[r]);
      }
      note(i + 1);
      if (look) some = V::any(V::lt(gone, most));
      before = last;
      times += kChunk;
      rests += kChunk;
      rows += kChunk;
    }
    const std::uint32_t chunks = ~std::uint32_t{0} >> (kStretch - i);
    for (int g = 0; g < groups; ++g) {
      const int lane = g * N::lanes;
      const unsigned all = (1U << N::lanes) - 1;
      const std::uint32_t doubts =
          other_than(below[lane / V::lanes], all << lane % V::lanes) & chunks;
      resolve<W, N>(task, first + lane, lane, e, moments, below[lane / V::lanes], lane % V::lanes,
                    doubts, found[g]);
    }
  }
  note(0);
  alignas(64) T lows[R * V::lanes];
  for (int r = 0; r < R; ++r) V::store(lows + r * V::lanes, lowest[r]);
  for (int g = 0; g < groups; ++g) {
    const int lane = g * N::lanes;
    const auto waiting = found[g].waiting;
    auto at = found[g].at;
    at.slope = N::select(waiting, N::load(moments[0].slope + lane), at.slope);
    at.level = N::select(waiting, N::load(moments[0].level + lane), at.level);
    at.time = N::select(waiting, N::set(before), at.time);
    finish<N>(task, first + lane, waiting, N::load(lows + lane), at);
  }
}

/// The same for few events, all of them gone through.
template <int W, int R, class T>
void sweep_events(const SweepTask<T>& task, std::int64_t first) {
  using V = Vec<T>;
  Walk<V> w[R];
  typename V::Reg lowest[R];
  const auto zero = V::set(0);
  for (int r = 0; r < R; ++r) {
    const auto slope = V::load(task.start + first + r * V::lanes);
    w[r] = {V::all(), slope, zero, zero, {slope, zero, zero, zero}};
    lowest[r] = V::set(-1);
  }
  std::int64_t e = 0;
  for (; e + kChunk <= task.count; e += kChunk)
    for (int r = 0; r < R; ++r) {
      lowest[r] = V::min(lowest[r], w[r].at.slope);
#pragma GCC unroll 8
      for (int u = 0; u < kChunk; ++u)
        step<W>(task, first + r * V::lanes, e + u, level_at(task, e + u, w[r]), w[r]);
    }
  // What is left: as many registers side by side as the processor has room for.
  constexpr int P = V::registers == 32 && R % 2 == 0 ? 2 : 1;
  for (int r = 0; r < R; r += P) {
    for (int p = r; p < r + P; ++p) lowest[p] = V::min(lowest[p], w[p].at.slope);
    for (std::int64_t last = e; last < task.count; ++last)
      for (int p = r; p < r + P; ++p)
        step<W>(task, first + p * V::lanes, last, level_at(task, last, w[p]), w[p]);
  }
  for (int r = 0; r < R; ++r)
    finish<V>(task, first + r * V::lanes, w[r].waiting, lowest[r], w[r].at);
}

template <class T, int W>
void sweep_block(const SweepTask<T>& task) {
  constexpr std::int64_t few = 192;
  constexpr int lanes = Vec<T>::lanes, R = W / lanes < 4 ? W / lanes : 4;
  *task.marks = 0;
  if (task.count < few)
    for (std::int64_t first = 0; first < W; first += R * lanes) sweep_events<W, R>(task, first);
  else
    for (std::int64_t first = 0; first < W; first += R * lanes) sweep_chunks<W, R>(task, first);
}

template <class T>
void sweep(const SweepTask<T>& task) {
  static_assert(kBlock == 32 && kBlockGrain == 16);
  if (task.width == 32)
    sweep_block<T, 32>(task);
  else
    sweep_block<T, 16>(task);
}
