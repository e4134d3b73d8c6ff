// The integer sweep: a receptive field's events, sorted by time, against a block of outputs.
// Included inside the namespace of an instruction set; docs/integer.md has the definition and the
// bounds, and explains why checking F once a group is enough.
//
// The sweep follows two numbers of each output: F, the membrane at the last event, and B, its
// slope. Over a group of events
//
//     F(end) = F(start) + B (end - start) + sum of w_i (end - t_i).
//
// Where F could have reached 0 in between (`hit`), the group is rescanned for that output, event by
// event.

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
    const Reg margin = V::set(-task.most_negative * group.overshoot - 1);
    std::uint64_t hit = 0;
    Reg lowest = membrane[0];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      hit |= std::uint64_t{V::greater(V::max(before[r], membrane[r]), margin)} << (V::lanes * r);
      lowest = V::min(lowest, membrane[r]);
    }
    hit &= waiting;
    if (hit != 0) locate_crossings(task, g, hit, before, slope_before, waiting, fired);
    // So low that the next group may overflow 32 bits: sweep all events in 64.
    if (V::greater(too_low, lowest) != 0)
      for (int r = 0; r < R; ++r)
        for (std::uint32_t low = V::greater(too_low, membrane[r]) & outputs_in<V>(waiting, r);
             low != 0; low &= low - 1) {
          const int output = V::lanes * r + __builtin_ctz(low);
          sweep_in_64_bits(task, output, fired);
          waiting &= ~(std::uint64_t{1} << output);
        }
    if (waiting == 0) return;
  }
  const std::int64_t end = task.groups[task.group_count - 1].end;
  for (int r = 0; r < R; ++r) {
    if (task.slope) slope[r] = V::load(task.slope + V::lanes * r);
    std::uint32_t rising = V::greater(slope[r], V::set(0)) & outputs_in<V>(waiting, r);
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

inline void sweep_events(const IntegerSweepTask& task) {
  Fired fired;
  for (std::int64_t j = 0; j < task.width; ++j) fired.slope[j] = fired.moment[j] = 0;
  if (task.exact)
    for (std::int64_t j = 0; j < task.used; ++j) sweep_in_64_bits(task, j, fired);
  else if (task.group_count > 0 && task.width == kWideBlock)
    sweep_groups<kWideBlock / IntVec::lanes>(task, fired);
  else if (task.group_count > 0)
    sweep_groups<kNarrowBlock / IntVec::lanes>(task, fired);
  finish(task, fired);
}
