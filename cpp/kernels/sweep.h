// The sweep: a receptive field's events against a block of output neurons. Included inside the
// namespace of an instruction set.
//
// The sweep follows two sums of each output: B = sum w - 1 over the events so far, and F, the
// membrane condition. (Other neurons start from another slope than -1, and F below 0.) Between two
// events F rises by B times the step in z. A lane fires where F first reaches 0. F need not be
// known at every event for that. Over a chunk of events from z = a to z = b
//
//     B(b) = B(a) + sum w_i,        F(b) = F(a) + B(a) (b - a) + sum w_i (b - z_i),
//
// an addition and a multiply-add per synapse. Within the chunk, F exceeds the straight line from
// F(a) to F(b) by no more than if every event had the neuron's lowest weight. Only lanes whose
// bound reaches 0 are rescanned event by event.

/// A lane's spike value and slope by the definition: event by event, in double precision.
template <class T>
void replay_in_double(const RecomputeTask<T>& task) {
  double slope = task.initial_slope, moment = task.threshold;
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
  const double last = static_cast<double>(task.last_time);
  if (!fired && last != infinity) {
    fired = slope > 0 && slope * last >= moment;
    for (std::int64_t i = 0; !fired && i < task.inputs; ++i)
      if (task.field[i] == task.last_time) {
        slope += static_cast<double>(task.weights[i]);
        moment += static_cast<double>(task.weights[i]) * last;
      }
  }
  fired = fired || (slope > 0 && (horizon == infinity || slope * horizon >= moment));
  *task.value = static_cast<T>(fired ? moment / slope : infinity);
  *task.slope = static_cast<T>(fired ? slope : 0);
}

/// Sums over the inputs before a spike value: of their weights, and of weight times spike value;
/// and how large the lanes' sums are, which their rounding errors go with.
struct CausalSums {
  double slope, moment, slope_size, moment_size;
};

/// Sums in the order of the weights. `Sums` of them run side by side, in an order that is the same
/// for all instruction sets, and are added up in double precision.
template <class V, int Sums, class T>
CausalSums causal_sums(const RecomputeTask<T>& task, T bound) {
  constexpr int R = Sums / V::lanes;
  using Element = typename V::Element;
  typename V::Reg slopes[R], moments[R];
  for (int r = 0; r < R; ++r) slopes[r] = moments[r] = V::set(0);
  const auto limit = V::set(static_cast<Element>(bound));
  std::int64_t i = 0;
  for (; i + Sums <= task.inputs; i += Sums)
    for (int r = 0; r < R; ++r) {
      const auto time = load_as<V>(task.field + i + r * V::lanes);
      const auto weight = load_as<V>(task.weights + i + r * V::lanes);
      const auto before = V::lt(time, limit);
      slopes[r] = V::add_where(before, slopes[r], weight);
      moments[r] = V::fma_where(before, time, weight, moments[r]);
    }
  Element lanes[2][Sums];
  for (int r = 0; r < R; ++r) {
    V::store(lanes[0] + r * V::lanes, slopes[r]);
    V::store(lanes[1] + r * V::lanes, moments[r]);
  }
  CausalSums found{};
  for (; i < task.inputs; ++i)
    if (task.field[i] < bound) {
      found.slope += static_cast<double>(task.weights[i]);
      found.moment += static_cast<double>(task.weights[i]) * static_cast<double>(task.field[i]);
    }
  for (int u = 0; u < Sums; ++u) {
    const double slope = static_cast<double>(lanes[0][u]);
    const double moment = static_cast<double>(lanes[1][u]);
    found.slope += slope;
    found.moment += moment;
    found.slope_size += __builtin_fabs(slope);
    found.moment_size += __builtin_fabs(moment);
  }
  return found;
}

/// Writes the spike value of these sums, if theirs is the causal set of the spike value that they
/// give; `accuracy` is how large they must be beside the lanes'.
template <class T>
bool settle(const RecomputeTask<T>& task, const CausalSums& sums, double accuracy) {
  const T found = *task.value;
  double slope = sums.slope + task.initial_slope, moment = sums.moment + task.threshold;
  if (task.bias_joins && task.origin < static_cast<double>(found)) {
    slope += static_cast<double>(task.bias);
    moment += static_cast<double>(task.bias) * task.origin;
  }
  // (Not where one is NaN.)
  const double size = __builtin_fabs(moment);
  if (!(slope > accuracy * sums.slope_size && size >= accuracy * sums.moment_size)) return false;
  if (size == __builtin_inf()) return false;  // an overflow
  std::int64_t n = 0;                         // events before it, by bisection
  for (std::int64_t end = task.count; n < end;) {
    const std::int64_t middle = n + (end - n) / 2;
    if (task.times[middle] < found)
      n = middle + 1;
    else
      end = middle;
  }
  const double value = moment / slope;
  T before = -static_cast<T>(__builtin_inf()), next = task.horizon;
  if (n > 0) before = task.times[n - 1];
  if (task.last_time < found)
    before = task.last_time;
  else if (n < task.count)
    next = task.times[n];
  else if (task.last_time < next)
    next = task.last_time;
  const bool after = slope > 0 && value > static_cast<double>(before);
  if (!(after && value <= static_cast<double>(next))) return false;
  *task.value = static_cast<T>(value);
  *task.slope = static_cast<T>(slope);
  return true;
}

/// Sums the lane's events before its spike value again, more accurately than the sweep does. Sums
/// of 32 lanes are small and short, so that float32 is enough for most neurons; else it takes
/// double precision, and where the causal set turns out to be another one, the definition.
template <class T>
void recompute(const RecomputeTask<T>& task) {
  const T found = *task.value;
  if constexpr (sizeof(T) == sizeof(float)) {
    // Keeps the relative error within 1e-5 for 99.9 % of the spikes.
    const double accuracy = 2e-4 * __builtin_sqrt(static_cast<double>(task.inputs));
    if (settle(task, causal_sums<Vec<float>, 32>(task, found), accuracy)) return;
  }
  if (!settle(task, causal_sums<Vec<double>, 16>(task, found), 0)) replay_in_double(task);
}

// Rounding errors of a lane's sums are in the end divided by D. Lanes whose D is small compared
// with them are marked, to be recomputed. The errors grow with the most negative slope B so far and
// with the root of the number of events; only those of B's sums within chunks grow with the
// weights' norm. The factors keep the relative error within 1e-5 for 99.9 % of the spikes;
// tests/operators measures it. (In double precision only D <= 0 is recomputed: between events that
// differ by rounding alone, F may seem to rise where it falls.)
template <class T>
T flat_slope(std::int64_t count, T factor) {
  if constexpr (sizeof(T) == sizeof(float)) return factor * __builtin_sqrtf(static_cast<T>(count));
  return 0;
}

/// Chunks that are swept before their candidates are rescanned.
constexpr int kChunksPerScan = 32;

/// The weights of event e, of a block of W outputs.
template <int W, class T>
[[gnu::always_inline]] inline const T* weights_of(const T* block, const std::uint32_t* rows,
                                                  std::int64_t e) {
  constexpr std::size_t unit = W * sizeof(T) / kRowUnit;
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(block) + rows[e] * unit);
}

/// Makes the compiler compute a value here and in this order. If it deferred a sum, it would have
/// to keep every operand until then.
template <class Word>
[[gnu::always_inline]] inline void prevent_elision(Word& value) {
  asm volatile("" : "+r"(value));
}

/// Lanes behind an event: B, F and the event's time; and the latest time at which they may fire.
template <class V>
struct LaneState {
  typename V::Reg slope, membrane, time, latest;
};

/// Lanes followed event by event. B, F and z behind the last event go on for all lanes, so that the
/// sums depend on nothing else. `at` follows a lane while it waits: to the last event at which F is
/// below 0.
template <class V>
struct EventScan {
  typename V::Mask waiting;
  typename V::Reg slope, membrane, time;
  LaneState<V> at;
};

/// F at event e.
template <class V, class T>
[[gnu::always_inline]] inline typename V::Reg membrane_at(const SweepTask<T>& task, std::int64_t e,
                                                          const EventScan<V>& scan) {
  return V::fma(scan.slope, V::sub(V::set(task.times[e]), scan.time), scan.membrane);
}

/// To event e, where F is `membrane`.
template <int W, class V, class T>
[[gnu::always_inline]] inline void step(const SweepTask<T>& task, std::int64_t first,
                                        std::int64_t e, typename V::Reg membrane,
                                        EventScan<V>& scan) {
  scan.membrane = membrane;
  scan.slope = V::add(scan.slope, V::load(weights_of<W>(task.weights, task.rows, e) + first));
  scan.time = V::set(task.times[e]);
  scan.at.latest = V::select(scan.waiting, scan.time, scan.at.latest);
  scan.waiting = V::still_negative(scan.waiting, membrane);
  scan.at.membrane = V::select(scan.waiting, membrane, scan.at.membrane);
  scan.at.time = V::select(scan.waiting, scan.time, scan.at.time);
  scan.at.slope = V::select(scan.waiting, scan.slope, scan.at.slope);
}

/// Lanes whose D is small compared with the rounding errors.
template <bool Compensated, class V, class T>
[[gnu::always_inline]] inline typename V::Mask flat(const SweepTask<T>& task, std::int64_t first,
                                                    typename V::Mask waiting,
                                                    typename V::Reg lowest, typename V::Reg moment,
                                                    const LaneState<V>& at) {
  const auto early = V::mul(V::set(flat_slope<T>(task.count, T(-0.001))), lowest);
  // The error of B counts in full only for a lane that fires long after its lowest slope.
  const auto late = V::mul(V::set(flat_slope<T>(task.count, T(-0.002))), lowest);
  if (!Compensated || task.lower_bound != 0)  // (a time may be 0)
    return V::le(at.slope, V::select(waiting, late, early));
  // What is left of that error is small. That of F, which is at most -B z, counts against A = B z
  // instead: a lane that fires long after the last event has a large A.
  const auto sums = V::mul(V::set(T(0.02)), V::load(task.norm + first));
  const auto imprecise = V::either(V::le(at.slope, sums), V::le(moment, V::mul(early, at.time)));
  return V::either(V::both(waiting, imprecise), V::both(V::flip(waiting), V::le(at.slope, early)));
}

/// Writes spike values, slopes and recompute bits of a register's lanes: those that have fired, and
/// those that wait behind the last event. `lowest` is the most negative slope so far.
/// `Compensated`: B has no errors but those of its sums within chunks.
template <bool Compensated, class V, class T>
[[gnu::always_inline]] inline void finish(const SweepTask<T>& task, std::int64_t first,
                                          typename V::Mask waiting, typename V::Reg lowest,
                                          const LaneState<V>& at) {
  const auto zero = V::set(0), infinity = V::set(static_cast<T>(__builtin_inf()));
  const auto horizon = V::set(task.horizon);
  // Without a horizon F must rise for ever, B > 0; with one it must have reached 0 by then.
  const auto silent =
      V::both(waiting, task.horizon == static_cast<T>(__builtin_inf())
                           ? V::le(at.slope, zero)
                           : V::lt(V::fma(at.slope, V::sub(horizon, at.time), at.membrane), zero));
  // Equation 4, with A = B z - F at the last event: there both terms are positive. (min gives its
  // second argument where one is NaN.)
  const auto latest = V::select(waiting, horizon, at.latest);
  const auto moment = V::fms(at.slope, at.time, at.membrane);
  const auto value = V::min(latest, V::div(moment, at.slope));
  const auto initial_slope = V::load(task.initial_slope + first);
  const auto nan = V::unordered(initial_slope, initial_slope);  // (an overflow is none)
  // If A or F overflows, A is infinite, or no number above the bound is left.
  const auto inside = V::both(V::lt(moment, infinity), V::lt(V::set(task.lower_bound), value));
  const auto unreliable =
      V::either(flat<Compensated, V>(task, first, waiting, lowest, moment, at), V::flip(inside));
  V::store(task.values + first, V::select(nan, initial_slope, V::select(silent, infinity, value)));
  V::store(task.slopes + first, V::select(nan, initial_slope, V::select(silent, zero, at.slope)));
  *task.recompute_mask |= (V::bits(unreliable) & ~V::bits(V::either(nan, silent))) << first;
}

/// B and F of some outputs at the start of a chunk; F is -inf for one that has fired.
template <class T, int Outputs>
struct ChunkStart {
  alignas(64) T slope[Outputs], membrane[Outputs];
};

template <class T>
T fired_membrane() {
  return -static_cast<T>(__builtin_inf());
}

/// To the inputs that spike together after all events. `at` follows the lanes to
/// the last event.
template <class V, class T>
[[gnu::always_inline]] inline void to_last_inputs(const SweepTask<T>& task, std::int64_t first,
                                                  typename V::Mask& waiting, LaneState<V>& at) {
  const auto time = V::set(task.last_time);
  const auto membrane = V::fma(at.slope, V::sub(time, at.time), at.membrane);
  at.latest = V::select(waiting, time, at.latest);
  waiting = V::still_negative(waiting, membrane);
  at.membrane = V::select(waiting, membrane, at.membrane);
  at.time = V::select(waiting, time, at.time);
  at.slope = V::select(waiting, V::load(task.last_slope + first), at.slope);
}

/// An upper bound of F in a chunk of duration `span`, from F at its ends. An event lifts F above
/// the line between them by no more than span / 4 times how far its weight lies below 0.
template <class V>
[[gnu::always_inline]] inline typename V::Reg max_membrane(typename V::Reg start,
                                                           typename V::Reg end,
                                                           typename V::Reg max_overshoot,
                                                           typename V::Reg span) {
  return V::fma(max_overshoot, span, V::max(start, end));
}

/// Which lanes have not fired, and the state in which the others have.
template <class V>
struct LaneResults {
  typename V::Mask waiting;
  LaneState<V> at;
};

/// Rescans the candidate chunks, a bit each, counted from event e on. Of `below`, a word a chunk,
/// the bits from `shift` on tell which lanes cannot fire in it.
template <int W, class V, int Outputs, class T>
[[gnu::noinline]] void locate_crossing(const SweepTask<T>& task, std::int64_t first, int lane,
                                       std::int64_t e, const ChunkStart<T, Outputs>* starts,
                                       const std::uint16_t* below, int shift,
                                       std::uint32_t candidates, LaneResults<V>& results) {
  if (task.rescanned) *task.rescanned += V::lanes * __builtin_popcount(candidates);
  const auto fired = V::set(fired_membrane<T>());
  typename V::Mask waiting = results.waiting;
  LaneState<V> at = results.at;
  for (; candidates != 0; candidates &= candidates - 1) {
    const int i = __builtin_ctz(candidates);
    const std::int64_t start = e + i * kChunk;
    const auto scanned = V::both(waiting, V::flip(V::lanes_of(below[i] >> shift)));
    const auto slope = V::load(starts[i].slope + lane);
    const auto membrane = V::load(starts[i].membrane + lane);
    const auto end = V::load(starts[i + 1].membrane + lane);
    const auto time = V::set(task.times[start > 0 ? start - 1 : 0]);
    EventScan<V> scan{scanned, slope, membrane, time, at};
    scan.at.slope = V::select(scanned, slope, scan.at.slope);
    scan.at.membrane = V::select(scanned, membrane, scan.at.membrane);
    scan.at.time = V::select(scanned, time, scan.at.time);
#pragma GCC unroll 8
    for (int u = 0; u + 1 < kChunk; ++u)
      step<W>(task, first, start + u, membrane_at(task, start + u, scan), scan);
    // Sweep and scan must agree on whether F is below 0 at the end of the chunk.
    step<W>(task, first, start + kChunk - 1, V::select(V::eq(end, fired), V::set(0), end), scan);
    waiting = V::both(waiting, V::either(scan.waiting, V::flip(scanned)));
    at = scan.at;
  }
  // One by one: a copy of the whole would wait until each of these has arrived in memory.
  results.waiting = waiting;
  results.at.slope = at.slope;
  results.at.membrane = at.membrane;
  results.at.time = at.time;
  results.at.latest = at.latest;
}

/// All events of a pixel against R registers of outputs, in a block of W. A few registers do not
/// hide the latency of an addition: their sums go two ways. `Compensated`: the rounding error of an
/// addition to B is carried on to the next (Kahan's sum).
template <int W, int R, bool Compensated, class T>
void sweep_chunks(const SweepTask<T>& task, std::int64_t first) {
  using V = Vec<T>;
  using N = Narrow<T>;
  constexpr int ways = W == kBlock ? 1 : 2;
  constexpr int groups = R * V::lanes / N::lanes;  // of outputs that are rescanned together
  ChunkStart<T, R * V::lanes> starts[kChunksPerScan + 1];
  alignas(64) std::uint16_t below[R][kChunksPerScan] = {};  // lanes that cannot fire in a chunk
  LaneResults<N> results[groups];
  typename V::Reg slope[R], excess[R], membrane[R], lowest[R], max_overshoot[R];
  for (int r = 0; r < R; ++r) {
    slope[r] = V::load(task.initial_slope + first + r * V::lanes);
    membrane[r] = V::fma(slope[r], V::set(task.times[0]), V::set(task.initial_membrane));
    max_overshoot[r] = V::load(task.max_overshoot + first + r * V::lanes);
    lowest[r] = V::set(task.initial_error);
    excess[r] = V::set(0);
  }
  for (int g = 0; g < groups; ++g) {
    const auto start = N::load(task.initial_slope + first + g * N::lanes), zero = N::set(0);
    results[g] = {N::all(), {start, zero, zero, zero}};
  }
  const T* block = task.weights + first;
  prevent_elision(block);
  const T *times = task.times, *times_to_end = task.time_to_chunk_end;
  const std::uint32_t* rows = task.rows;
  const auto fired = V::set(fired_membrane<T>());
  T before = times[0];
  bool any_waiting = true;
  const auto store_start = [&](int i) {
    for (int r = 0; r < R; ++r) {
      V::store(starts[i].slope + r * V::lanes, slope[r]);
      V::store(starts[i].membrane + r * V::lanes, membrane[r]);
    }
  };
  for (std::int64_t e = 0; any_waiting && e < task.count; e += kChunksPerScan * kChunk) {
    int i = 0;
    store_start(0);
    for (; any_waiting && i < kChunksPerScan && e + i * kChunk < task.count; ++i) {
      typename V::Reg slope_gain[ways][R], membrane_gain[ways][R];
#pragma GCC unroll 8
      for (int u = 0; u < kChunk; ++u) {
        const auto time_to_end = V::set(times_to_end[u]);
        const T* weights = weights_of<W>(block, rows, u);
        const T* next_weights = weights_of<W>(block, rows, kChunk + u);
        for (int r = 0; r < R; ++r) {
          if (r * V::lanes % (64 / sizeof(T)) == 0) __builtin_prefetch(next_weights + r * V::lanes);
          auto &to_slope = slope_gain[u % ways][r], &to_membrane = membrane_gain[u % ways][r];
          auto weight = V::load(weights + r * V::lanes);
          V::prevent_elision(weight);
          to_slope = u < ways ? weight : V::add(to_slope, weight);
          V::prevent_elision(to_slope);
          if (u + 1 == kChunk) continue;  // its time to the end is 0
          to_membrane =
              u < ways ? V::mul(weight, time_to_end) : V::fma(weight, time_to_end, to_membrane);
          V::prevent_elision(to_membrane);
        }
      }
      const T last = times[kChunk - 1];
      const auto span = V::set(last - before);
      const bool check = i % 4 == 3;  // often enough
      for (int r = 0; check && r < R; ++r) lowest[r] = V::min(slope[r], lowest[r]);
      for (int r = 0; r < R; ++r) {
        for (int way = 1; way < ways; ++way) {
          slope_gain[0][r] = V::add(slope_gain[0][r], slope_gain[way][r]);
          membrane_gain[0][r] = V::add(membrane_gain[0][r], membrane_gain[way][r]);
        }
        const auto end = V::add(V::fma(slope[r], span, membrane[r]), membrane_gain[0][r]);
        const auto bound = max_membrane<V>(membrane[r], end, max_overshoot[r], span);
        below[r][i] = static_cast<std::uint16_t>(V::signs(bound));
        if constexpr (Compensated) {
          const auto gain = V::sub(slope_gain[0][r], excess[r]);
          const auto sum = V::add(slope[r], gain);
          excess[r] = V::sub(V::sub(sum, slope[r]), gain);
          slope[r] = sum;
        } else {
          slope[r] = V::add(slope[r], slope_gain[0][r]);
        }
        membrane[r] = V::if_negative(end, fired);
      }
      store_start(i + 1);
      if (check) {
        auto most = fired;  // (max gives its second argument where one is NaN)
        for (int r = 0; r < R; ++r) most = V::max(membrane[r], most);
        any_waiting = V::any(V::lt(fired, most));
      }
      before = last;
      times += kChunk;
      times_to_end += kChunk;
      rows += kChunk;
    }
    // Rescans are batched: whether a lane needs one is an unpredictable branch, which costs more
    // than stopping early saves.
    const std::uint32_t chunks = ~std::uint32_t{0} >> (kChunksPerScan - i);
    for (int g = 0; g < groups; ++g) {
      const int lane = g * N::lanes;
      const unsigned all = (1U << N::lanes) - 1;
      const std::uint32_t candidates =
          words_without(below[lane / V::lanes], all << lane % V::lanes) & chunks;
      locate_crossing<W, N>(task, first + lane, lane, e, starts, below[lane / V::lanes],
                            lane % V::lanes, candidates, results[g]);
    }
  }
  store_start(0);
  alignas(64) T lows[R * V::lanes];
  for (int r = 0; r < R; ++r) V::store(lows + r * V::lanes, lowest[r]);
  for (int g = 0; g < groups; ++g) {
    const int lane = g * N::lanes;
    auto waiting = results[g].waiting;
    auto at = results[g].at;
    at.slope = N::select(waiting, N::load(starts[0].slope + lane), at.slope);
    at.membrane = N::select(waiting, N::load(starts[0].membrane + lane), at.membrane);
    at.time = N::select(waiting, N::set(before), at.time);
    if (task.last_slope) to_last_inputs(task, first + lane, waiting, at);
    finish<Compensated, N>(task, first + lane, waiting, N::load(lows + lane), at);
  }
}

/// The same for few events, event by event.
template <int W, int R, class T>
void sweep_events(const SweepTask<T>& task, std::int64_t first) {
  using V = Vec<T>;
  EventScan<V> scan[R];
  typename V::Reg lowest[R];
  const auto zero = V::set(0), start = V::set(task.initial_membrane);
  for (int r = 0; r < R; ++r) {
    const auto slope = V::load(task.initial_slope + first + r * V::lanes);
    scan[r] = {V::all(), slope, start, zero, {slope, start, zero, zero}};
    lowest[r] = V::set(task.initial_error);
  }
  // As many registers side by side as the processor has room for.
  constexpr int P = V::registers == 32 && R % 2 == 0 ? 2 : 1;
  std::int64_t e = 0;
  for (; e + kChunk <= task.count; e += kChunk)
    for (int r = 0; r < R; r += P) {
      for (int p = r; p < r + P; ++p) lowest[p] = V::min(lowest[p], scan[p].at.slope);
#pragma GCC unroll 8
      for (int u = 0; u < kChunk; ++u)
        for (int p = r; p < r + P; ++p)
          step<W>(task, first + p * V::lanes, e + u, membrane_at(task, e + u, scan[p]), scan[p]);
    }
  for (int r = 0; r < R; r += P) {
    for (int p = r; p < r + P; ++p) lowest[p] = V::min(lowest[p], scan[p].at.slope);
    for (std::int64_t last = e; last < task.count; ++last)
      for (int p = r; p < r + P; ++p)
        step<W>(task, first + p * V::lanes, last, membrane_at(task, last, scan[p]), scan[p]);
  }
  if (task.last_slope)
    for (int r = 0; r < R; ++r)
      to_last_inputs(task, first + r * V::lanes, scan[r].waiting, scan[r].at);
  for (int r = 0; r < R; ++r)
    finish<false, V>(task, first + r * V::lanes, scan[r].waiting, lowest[r], scan[r].at);
}

template <class T, int W>
void sweep_block(const SweepTask<T>& task) {
  constexpr int lanes = Vec<T>::lanes, R = W / lanes < 4 ? W / lanes : 4;
  *task.recompute_mask = 0;
  for (std::int64_t first = 0; first < W; first += R * lanes)
    if (!goes_by_chunks(task.count, task.last_slope))
      sweep_events<W, R>(task, first);
    else if (compensates<T>(task.count))
      sweep_chunks<W, R, true>(task, first);
    else
      sweep_chunks<W, R, false>(task, first);
}

template <class T>
void sweep(const SweepTask<T>& task) {
  static_assert(kBlock == 32 && kBlockGrain == 16);
  if (task.width == 32)
    sweep_block<T, 32>(task);
  else
    sweep_block<T, 16>(task);
}
