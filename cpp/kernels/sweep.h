// The sweep: a receptive field's events against a block of output neurons. Included inside the
// namespace of an instruction set.
//
// For each output, B = sum w - 1 and A = sum w z over the events so far. The membrane condition
// F(z) = B z - A is tested at every event before the event joins; a lane whose F has reached 0
// stops there, with the B and A of its causal set, and its spike value is A / B (equation 4).
// Testing with one rounding (fused) makes A / B no later than the event at which the lane stopped.

/// The lane's spike value and slope by the definition, one event after the other, in double
/// precision.
template <class T>
void sweep_lane(const SweepTask<T>& task, std::int64_t lane) {
  double slope = -1, moment = 0;
  const double infinity = __builtin_inf(), horizon = static_cast<double>(task.horizon);
  bool fired = false;
  for (std::int64_t e = 0; e < task.count; ++e) {
    const double time = static_cast<double>(task.times[e]);
    fired = slope > 0 && slope * time >= moment;
    if (fired) break;
    const double weight = static_cast<double>(
        task.weights[static_cast<std::int64_t>(task.rows[e]) * task.width + lane]);
    slope += weight;
    moment += weight * time;
  }
  fired = fired || (slope > 0 && (horizon == infinity || slope * horizon >= moment));
  task.values[lane] = static_cast<T>(fired ? moment / slope : infinity);
  task.slopes[lane] = static_cast<T>(fired ? slope : 0);
}

// The rounding of a lane's sums grows with how far its slope B went below zero and with the root of
// the number of events, and is divided by D in the end. Lanes whose D is small against that are
// summed again in double precision, over the events before the time that the sweep found. The
// factor keeps the relative error within 1e-5 for 99.9 % of the spikes; tests/operators measures
// it. (In double precision itself only D <= 0 is looked at again: between events that are equal but
// for rounding, F may seem to rise where it falls.)
template <class T>
T flat_slope(std::int64_t count) {
  if constexpr (sizeof(T) == sizeof(float)) return -0.003F * __builtin_sqrtf(static_cast<T>(count));
  return 0;
}

/// Sums the events of the lane that spike before its spike value again; eight sums side by side,
/// in an order that no instruction set changes.
template <class T>
void refine_lane(const SweepTask<T>& task, std::int64_t lane) {
  const T found = task.values[lane];
  std::int64_t n = 0;  // events before it
  for (std::int64_t step = task.count; step > 0;) {
    const std::int64_t half = (step + 1) / 2;
    if (n + half <= task.count && task.times[n + half - 1] < found) n += half;
    step = step == 1 ? 0 : half;
  }
  double slopes[8] = {}, moments[8] = {};
  const T* weights = task.weights + lane;
  const auto add = [&](std::int64_t e, int u) {
    const double weight =
        static_cast<double>(weights[static_cast<std::int64_t>(task.rows[e]) * task.width]);
    slopes[u] += weight;
    moments[u] += weight * static_cast<double>(task.times[e]);
  };
  std::int64_t e = 0;
  for (; e + 8 <= n; e += 8)
    for (int u = 0; u < 8; ++u) add(e + u, u);
  for (int u = 0; e < n; ++e, ++u) add(e, u);
  double slope = -1, moment = 0;
  for (int u = 0; u < 8; ++u) {
    slope += slopes[u];
    moment += moments[u];
  }
  // Is this the causal set of the spike value that it gives?
  const double value = moment / slope;
  const bool after = slope > 0 && (n == 0 || value > static_cast<double>(task.times[n - 1]));
  const double next = static_cast<double>(n < task.count ? task.times[n] : task.horizon);
  if (after && value <= next) {
    task.values[lane] = static_cast<T>(value);
    task.slopes[lane] = static_cast<T>(slope);
  } else {
    sweep_lane(task, lane);
  }
}

/// State of P pixels' lanes, R registers from output `first` on.
template <class T, int P, int R>
struct Sweep {
  using V = Vec<T>;
  typename V::Reg slope[P][R], moment[P][R], lowest[P][R];
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

/// Once every few events: how low the slopes are, and whether every lane has fired.
template <class T, int P, int R>
[[gnu::always_inline]] inline bool take_stock(Sweep<T, P, R>& s) {
  for (int p = 0; p < P; ++p)
    for (int r = 0; r < R; ++r) s.lowest[p][r] = Vec<T>::min(s.lowest[p][r], s.slope[p][r]);
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
  const auto flat = V::set(flat_slope<T>(task.count));
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
    const auto is_flat =
        V::le(V::select(silent, infinity, slope), V::fma(flat, s.lowest[p][r], zero));
    if (V::any(is_flat)) {
      T flags[V::lanes];
      V::store(flags, V::select(is_flat, V::set(1), zero));
      for (int lane = 0; lane < V::lanes; ++lane)
        if (flags[lane] != 0) refine_lane(task, at + lane);
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
      s.lowest[p][r] = V::set(-1);
      s.waiting[p][r] = V::all();
    }
  }
  for (std::int64_t e = 0; e < common; ++e) {
    for (int p = 0; p < P; ++p) join(s, p, tasks[p], first, e);
    if ((e & 7) == 7 && take_stock(s)) break;
  }
  for (int p = 0; p < P; ++p) {
    // Where the loop above ended early every lane has fired, and these events change nothing.
    Sweep<T, 1, R> rest;
    for (int r = 0; r < R; ++r) {
      rest.slope[0][r] = s.slope[p][r];
      rest.moment[0][r] = s.moment[p][r];
      rest.lowest[0][r] = s.lowest[p][r];
      rest.waiting[0][r] = s.waiting[p][r];
    }
    for (std::int64_t e = common; e < tasks[p].count; ++e) {
      if ((e & 7) == 0 && take_stock(rest)) break;
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
