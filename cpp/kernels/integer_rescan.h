// Rescans output by output, for instruction sets without a faster way. Included inside the
// namespace of an instruction set, after its IntVec.

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
