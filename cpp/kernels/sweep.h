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

template <class T, int R>
void sweep_registers(const SweepTask<T>& task, std::int64_t first) {
  using V = Vec<T>;
  typename V::Reg slope[R], moment[R];
  typename V::Mask waiting[R];
  for (int r = 0; r < R; ++r) {
    slope[r] = V::load(task.start + first + r * V::lanes);
    moment[r] = V::set(0);
    waiting[r] = V::all();
  }
  const auto zero = V::set(0);
  const T* weights = task.weights + first;
  for (std::int64_t e = 0; e < task.count; ++e) {
    const auto time = V::set(task.times[e]);
    const T* row = weights + static_cast<std::int64_t>(task.rows[e]) * task.width;
    for (int r = 0; r < R; ++r) {
      const auto weight = V::load(row + r * V::lanes);
      waiting[r] = V::still_below(waiting[r], V::fms(slope[r], time, moment[r]), zero);
      slope[r] = V::add_where(waiting[r], slope[r], weight);
      moment[r] = V::fma_where(waiting[r], weight, time, moment[r]);
    }
    if ((e & 3) == 3) {
      auto some = waiting[0];
      for (int r = 1; r < R; ++r) some = V::either(some, waiting[r]);
      if (!V::any(some)) break;
    }
  }
  const bool endless = task.horizon == static_cast<T>(__builtin_inf());
  const auto infinity = V::set(static_cast<T>(__builtin_inf()));
  for (int r = 0; r < R; ++r) {
    // With no horizon F must rise for ever, B > 0; with one it must have reached 0 there.
    const auto silent =
        endless ? V::both(waiting[r], V::le(slope[r], zero))
                : V::still_below(waiting[r],
                                 V::fms(slope[r], V::set(task.horizon), moment[r]), zero);
    const auto nan = V::unordered(slope[r], slope[r]);
    const auto value = V::select(silent, infinity, V::div(moment[r], slope[r]));
    const std::int64_t at = first + r * V::lanes;
    V::store(task.values + at, V::select(nan, slope[r], value));
    V::store(task.slopes + at, V::select(nan, slope[r], V::select(silent, zero, slope[r])));
    const auto falling = V::le(V::select(silent, V::set(1), slope[r]), zero);
    if (V::any(falling)) {
      T flags[V::lanes];
      V::store(flags, V::select(falling, V::set(1), zero));
      for (int lane = 0; lane < V::lanes; ++lane)
        if (flags[lane] != 0) sweep_lane(task, at + lane);
    }
  }
}

template <class T, int R>
void sweep_from(const SweepTask<T>& task, std::int64_t first) {
  constexpr std::int64_t step = R * Vec<T>::lanes;
  for (; first + step <= task.width; first += step) sweep_registers<T, R>(task, first);
  if constexpr (R > 1) sweep_from<T, R / 2>(task, first);
}

template <class T>
void sweep(const SweepTask<T>& task) {
  // A lane's chain of operations is longer than it is wide: enough registers side by side to hide
  // it, as far as there are registers for B, A and the mask.
  sweep_from<T, Vec<T>::registers == 32 ? 8 : 4>(task, 0);
}
