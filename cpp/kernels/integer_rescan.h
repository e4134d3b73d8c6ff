// Rescans output by output, for instruction sets without a faster way. Included inside the
// namespace of an instruction set, after its IntVec.

/// A register's share of a set of outputs, a bit each.
inline std::uint32_t outputs_in(std::uint64_t set, int r) {
  return static_cast<std::uint32_t>(set >> (IntVec::lanes * r)) & ((1U << IntVec::lanes) - 1);
}

/// One output's lane in a block's registers.
template <int R>
std::int32_t lane_of(const IntVec::Reg (&registers)[R], int output) {
  std::int32_t lane;
  __builtin_memcpy(&lane, reinterpret_cast<const char*>(registers) + 4 * output, sizeof lane);
  return lane;
}

/// Rescans the outputs of group g that `hit` names, with F and B at the start of the group; removes
/// from `waiting` those that fire.
template <int R>
[[gnu::always_inline]] inline void locate_crossings(const IntegerSweepTask& task, std::int64_t g,
                                                    std::uint64_t hit, IntVec::Reg (&before)[R],
                                                    IntVec::Reg (&slope_before)[R],
                                                    std::uint64_t& waiting, Fired& fired) {
  for (; hit != 0; hit &= hit - 1) {
    const int output = __builtin_ctzll(hit);
    if (locate_crossing(task, g, output, lane_of(before, output), lane_of(slope_before, output),
                        fired))
      waiting &= ~(std::uint64_t{1} << output);
  }
}
