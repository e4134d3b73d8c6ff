// The sweep: a receptive field's events against a block of output neurons. Included inside the
// namespace of an instruction set.
//
// For each output, B = sum w - 1 and A = sum w z over the events so far. The membrane condition
// F(z) = B z - A is tested at every event before the event joins; a lane whose F has reached 0
// stops there, with the B and A of its causal set, and its spike value is A / B (equation 4).
// Testing with one rounding (fused) makes A / B no later than the event at which the lane stopped.

/// The lane's spike value and slope, in double precision. For the rare lane that stopped with
/// B <= 0: between events that are equal but for rounding, F may seem to rise where it falls.
template <class T>
void sweep_lane(const SweepTask<T>& task, std::int64_t lane) {
  double slope = -1, moment = 0;
  const double infinity = __builtin_inf();
  bool fired = false;
  for (std::int64_t e = 0; e < task.count && !fired; ++e) {
    const double time = static_cast<double>(task.times[e]);
    fired = slope > 0 && slope * time >= moment;
    if (fired) break;
    const double weight = static_cast<double>(
        task.weights[static_cast<std::int64_t>(task.rows[e]) * task.width + lane]);
    slope += weight;
    moment += weight * time;
  }
  if (!fired && slope > 0) {
    const double horizon = static_cast<double>(task.horizon);
    fired = horizon == infinity || slope * horizon >= moment;
  }
  task.values[lane] = static_cast<T>(fired ? moment / slope : infinity);
  task.slopes[lane] = static_cast<T>(fired ? slope : 0);
}

/// State of P pixels' lanes, R registers from output `first` on.
template <class T, int P, int R>
struct Sweep {
  using V = Vec<T>;
  typename V::Reg slope[P][R], moment[P][R];
  typename V::Mask waiting[P][R];
};

/// One event of pixel p: test, then join.
template <class T, int P, int R>
[[gnu::always_inline]] inline void join(Sweep<T, P, R>& s, int p, const SweepTask<T>& task,
                                        std::int64_t first, std::int64_t e) {
  using V = Vec<T>;
  const auto time = V::set(task.times[e]);
  const T* row = task.weights + static_cast<std::int64_t>(task.rows[e]) * task.width + first;
  for (int r = 0; r < R; ++r) {
    const auto weight = V::load(row + r * V::lanes);
    s.waiting[p][r] =
        V::still_below(s.waiting[p][r], V::fms(s.slope[p][r], time, s.moment[p][r]), V::set(0));
    s.slope[p][r] = V::add_where(s.waiting[p][r], s.slope[p][r], weight);
    s.moment[p][r] = V::fma_where(s.waiting[p][r], weight, time, s.moment[p][r]);
  }
}

template <class T, int P, int R>
bool all_fired(const Sweep<T, P, R>& s) {
  auto some = s.waiting[0][0];
  for (int p = 0; p < P; ++p)
    for (int r = 0; r < R; ++r) some = Vec<T>::either(some, s.waiting[p][r]);
  return !Vec<T>::any(some);
}

/// Spike values and slopes of pixel p, after its last event.
template <class T, int P, int R>
void finish(const Sweep<T, P, R>& s, int p, const SweepTask<T>& task, std::int64_t first) {
  using V = Vec<T>;
  const auto zero = V::set(0), infinity = V::set(static_cast<T>(__builtin_inf()));
  const bool endless = task.horizon == static_cast<T>(__builtin_inf());
  for (int r = 0; r < R; ++r) {
    const auto slope = s.slope[p][r], moment = s.moment[p][r];
    // With no horizon F must rise for ever, B > 0; with one it must have reached 0 there.
    const auto silent = endless ? V::both(s.waiting[p][r], V::le(slope, zero))
                                : V::still_below(s.waiting[p][r],
                                                 V::fms(slope, V::set(task.horizon), moment), zero);
    const auto nan = V::unordered(slope, slope);
    const std::int64_t at = first + r * V::lanes;
    V::store(task.values + at,
             V::select(nan, slope, V::select(silent, infinity, V::div(moment, slope))));
    V::store(task.slopes + at, V::select(nan, slope, V::select(silent, zero, slope)));
    const auto falling = V::le(V::select(silent, V::set(1), slope), zero);
    if (V::any(falling)) {
      T flags[V::lanes];
      V::store(flags, V::select(falling, V::set(1), zero));
      for (int lane = 0; lane < V::lanes; ++lane)
        if (flags[lane] != 0) sweep_lane(task, at + lane);
    }
  }
}

// A lane's chain of operations, test to mask to sum, is longer than the operations of one pixel's
// registers are wide: P pixels side by side fill it.
template <class T, int P, int R>
void sweep_tile(const SweepTask<T>* tasks, std::int64_t first) {
  using V = Vec<T>;
  Sweep<T, P, R> s;
  std::int64_t common = tasks[0].count;
  for (int p = 0; p < P; ++p) {
    common = tasks[p].count < common ? tasks[p].count : common;
    for (int r = 0; r < R; ++r) {
      s.slope[p][r] = V::load(tasks[p].start + first + r * V::lanes);
      s.moment[p][r] = V::set(0);
      s.waiting[p][r] = V::all();
    }
  }
  for (std::int64_t e = 0; e < common; ++e) {
    for (int p = 0; p < P; ++p) join(s, p, tasks[p], first, e);
    if ((e & 3) == 3 && all_fired(s)) break;
  }
  for (int p = 0; p < P; ++p) {
    // Where the loop above ended early every lane has fired, and these events change nothing.
    Sweep<T, 1, R> rest;
    for (int r = 0; r < R; ++r) {
      rest.slope[0][r] = s.slope[p][r];
      rest.moment[0][r] = s.moment[p][r];
      rest.waiting[0][r] = s.waiting[p][r];
    }
    for (std::int64_t e = common; e < tasks[p].count; ++e) {
      if ((e & 3) == 0 && all_fired(rest)) break;
      join(rest, 0, tasks[p], first, e);
    }
    finish(rest, 0, tasks[p], first);
  }
}

template <class T, int P, int R>
void sweep_pixels(const SweepTask<T>* tasks, int pixels, std::int64_t first) {
  int p = 0;
  for (; p + P <= pixels; p += P) sweep_tile<T, P, R>(tasks + p, first);
  for (; p < pixels; ++p) sweep_tile<T, 1, R>(tasks + p, first);
}

template <class T>
void sweep(const SweepTask<T>* tasks, int pixels) {
  constexpr int lanes = Vec<T>::lanes;
  const std::int64_t width = tasks[0].width;
  std::int64_t first = 0;
  if constexpr (Vec<T>::registers == 32) {
    for (; first + 2 * lanes <= width; first += 2 * lanes)
      sweep_pixels<T, 3, 2>(tasks, pixels, first);
    for (; first < width; first += lanes) sweep_pixels<T, 6, 1>(tasks, pixels, first);
  } else {
    for (; first + 4 * lanes <= width; first += 4 * lanes)
      sweep_pixels<T, 1, 4>(tasks, pixels, first);
    for (; first < width; first += 2 * lanes) sweep_pixels<T, 2, 2>(tasks, pixels, first);
  }
}
