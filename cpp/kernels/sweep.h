// The sweep: a receptive field's events against a block of output neurons. Included inside the
// namespace of an instruction set.
//
// For each output, B = sum w - 1 over the events so far, and F, the membrane condition: between two
// events F rises by B times the step in z. A lane fires where F first reaches 0. Looking at F costs
// more than computing it, so the sweep goes on in chunks of events, keeps only whether F stayed
// below 0 all along, and notes for each lane B and F at the start of the chunk in which it did not.
// Those chunks are gone through again, event by event, for the few lanes that each concerns.

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
    const std::int64_t row = task.rows[e];
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
      const auto time = W::load(task.field + i + u * W::lanes);
      const auto weight = W::widen(task.weights + i + u * W::lanes);
      const auto before = W::lt(time, bound);
      slopes[u] = W::add_where(before, slopes[u], weight);
      moments[u] = W::fma_where(before, time, weight, moments[u]);
    }
  double slope = -1, moment = 0;
  for (; i < task.inputs; ++i)
    if (task.field[i] < static_cast<double>(found)) {
      slope += static_cast<double>(task.weights[i]);
      moment += static_cast<double>(task.weights[i]) * task.field[i];
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

/// Events in a chunk.
constexpr int kChunk = 8;
static_assert(kEventGrain % kChunk == 0);

/// State of R registers of outputs' lanes.
template <class T, int R>
struct Sweep {
  typename Vec<T>::Reg slope[R], level[R];  // B, F
  typename Vec<T>::Mask waiting[R];
  // B and F at the start of the chunk in which a lane fires, and that chunk's number; of a lane
  // that waits, of the latest chunk. And the lowest B, looked at once a chunk.
  typename Vec<T>::Reg old_slope[R], old_level[R], chunk[R], lowest[R];
};

/// The weights of event e, of a block of W outputs.
template <int W, class T>
[[gnu::always_inline]] inline const T* weights_of(const SweepTask<T>& task, std::int64_t e) {
  return task.weights + static_cast<std::int64_t>(task.rows[e]) * W;
}

/// The chunk that begins at event e; false once every lane has fired.
template <int W, class T, int R>
[[gnu::always_inline]] inline bool sweep_chunk(Sweep<T, R>& s, const SweepTask<T>& task,
                                               std::int64_t first, std::int64_t e) {
  using V = Vec<T>;
  typename V::Reg below[R];  // sign set: F has been below 0 all along
  typename V::Reg start[R], gain[R];
  const std::int64_t chunk = e / kChunk;
  const auto number = V::set(static_cast<T>(chunk));
  for (int r = 0; r < R; ++r) {
    s.old_slope[r] = V::select(s.waiting[r], s.slope[r], s.old_slope[r]);
    s.old_level[r] = V::select(s.waiting[r], s.level[r], s.old_level[r]);
    s.chunk[r] = V::select(s.waiting[r], number, s.chunk[r]);
    s.lowest[r] = V::min(s.lowest[r], s.old_slope[r]);
    start[r] = s.slope[r];
    gain[r] = V::set(0);
  }
#pragma GCC unroll 8
  for (int u = 0; u < kChunk; ++u) {
    const auto step = V::set(task.steps[e + u]);
    const T* weights = weights_of<W>(task, e + u) + first;
    const T* soon = weights_of<W>(task, e + kChunk + u) + first;
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(soon + r * V::lanes);
      s.level[r] = V::fma(s.slope[r], step, s.level[r]);
      below[r] = u == 0 ? s.level[r] : V::and_bits(below[r], s.level[r]);
      gain[r] = V::add(gain[r], V::load(weights + r * V::lanes));
      s.slope[r] = V::add(start[r], gain[r]);
    }
  }
  for (int r = 0; r < R; ++r) s.waiting[r] = V::both(s.waiting[r], V::negative(below[r]));
  auto some = s.waiting[0];
  for (int r = 1; r < R; ++r) some = V::either(some, s.waiting[r]);
  return V::any(some);
}

/// Where lanes are: B and F behind an event, its time, and the latest that they may fire.
template <class T>
struct Place {
  typename Vec<T>::Reg slope, level, time, latest;
};

/// The chunk that begins at event e, event by event, for the lanes that wait: `at` follows a lane
/// to the last event before F is no longer below 0. B and F go on for all lanes: the sums then wait
/// for nothing but themselves.
template <int W, class T>
[[gnu::always_inline]] inline void step_chunk(const SweepTask<T>& task, std::int64_t first,
                                              std::int64_t e, typename Vec<T>::Mask& waiting,
                                              typename Vec<T>::Reg& slope,
                                              typename Vec<T>::Reg& level, Place<T>& at) {
  using V = Vec<T>;
  const auto start = slope;
  auto gain = V::set(0);
#pragma GCC unroll 8
  for (int u = 0; u < kChunk; ++u) {
    level = V::fma(slope, V::set(task.steps[e + u]), level);
    gain = V::add(gain, V::load(weights_of<W>(task, e + u) + first));
    slope = V::add(start, gain);
    const auto time = V::set(task.times[e + u]);
    at.latest = V::select(waiting, time, at.latest);
    waiting = V::both(waiting, V::lt(level, V::set(0)));
    at.level = V::select(waiting, level, at.level);
    at.time = V::select(waiting, time, at.time);
    at.slope = V::select(waiting, slope, at.slope);
  }
}

/// Spike values, slopes and marks of a register's lanes: those that have stopped, and those that
/// wait behind the last event.
template <class T>
[[gnu::always_inline]] inline void finish(const SweepTask<T>& task, std::int64_t first,
                                          typename Vec<T>::Mask waiting,
                                          typename Vec<T>::Reg lowest, const Place<T>& at) {
  using V = Vec<T>;
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

/// All events of a pixel against R registers of outputs, in a block of W.
template <int W, int R, class T>
void sweep_chunks(const SweepTask<T>& task, std::int64_t first) {
  using V = Vec<T>;
  Sweep<T, R> s;
  for (int r = 0; r < R; ++r) {
    s.slope[r] = s.old_slope[r] = V::load(task.start + first + r * V::lanes);
    s.level[r] = s.old_level[r] = s.chunk[r] = V::set(0);
    s.lowest[r] = V::set(-1);
    s.waiting[r] = V::all();
  }
  bool some = true;
  for (std::int64_t e = 0; some && e < task.count; e += kChunk)
    some = sweep_chunk<W>(s, task, first, e);
  for (int r = 0; r < R; ++r) {
    const std::int64_t here = first + r * V::lanes;
    Place<T> at{s.slope[r], s.level[r], V::set(task.times[task.count - 1]), V::set(0)};
    const auto crossed = V::flip(s.waiting[r]);
    T chunks[V::lanes];
    V::store(chunks, s.chunk[r]);
    for (unsigned rest = V::bits(crossed); rest != 0;) {
      const T number = chunks[__builtin_ctz(rest)];
      auto same = V::both(crossed, V::eq(s.chunk[r], V::set(number)));
      rest &= ~V::bits(same);
      const auto e = static_cast<std::int64_t>(number) * kChunk;
      auto slope = s.old_slope[r], level = s.old_level[r];
      at.slope = V::select(same, slope, at.slope);
      at.level = V::select(same, level, at.level);
      at.time = V::select(same, V::set(e > 0 ? task.times[e - 1] : T{0}), at.time);
      step_chunk<W>(task, here, e, same, slope, level, at);
    }
    finish(task, here, s.waiting[r], s.lowest[r], at);
  }
}

/// The same for few events: looking at F at once costs less than looking again.
template <int W, int R, class T>
void sweep_events(const SweepTask<T>& task, std::int64_t first) {
  using V = Vec<T>;
  typename V::Reg slope[R], level[R], lowest[R];
  typename V::Mask waiting[R];
  Place<T> at[R];
  for (int r = 0; r < R; ++r) {
    slope[r] = at[r].slope = V::load(task.start + first + r * V::lanes);
    level[r] = at[r].level = at[r].time = at[r].latest = V::set(0);
    lowest[r] = V::set(-1);
    waiting[r] = V::all();
  }
  for (std::int64_t e = 0; e < task.count; e += kChunk)
    for (int r = 0; r < R; ++r) {
      lowest[r] = V::min(lowest[r], at[r].slope);
      step_chunk<W>(task, first + r * V::lanes, e, waiting[r], slope[r], level[r], at[r]);
    }
  for (int r = 0; r < R; ++r) finish(task, first + r * V::lanes, waiting[r], lowest[r], at[r]);
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
