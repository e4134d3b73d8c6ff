// Vectors of 16 bytes in the compiler's own vector extension: SSE2 on x86-64, NEON on Arm.
// Included inside namespace ttfs::baseline. A product is rounded before it is added, so these
// results may differ from the AVX ones in the last bits.

template <class Float, class Int, int Lanes>
struct GenericVec {
  using Element = Float;
  typedef Float Reg __attribute__((vector_size(16)));
  typedef Int Mask __attribute__((vector_size(16)));
  static constexpr int lanes = Lanes;
  static constexpr int registers = 16;
  static constexpr bool compresses = false;
  static Reg load(const Float* p) {
    Reg a;
    __builtin_memcpy(&a, p, sizeof a);
    return a;
  }
  static void prevent_elision(Reg& a) {
#if defined(__x86_64__)
    asm volatile("" : "+x"(a));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(a));
#endif
  }
  static void store(Float* p, Reg a) { __builtin_memcpy(p, &a, sizeof a); }
  static Reg set(Float a) { return Reg{} + a; }
  static Reg add(Reg a, Reg b) { return a + b; }
  static Reg min(Reg a, Reg b) { return select(a < b, a, b); }
  static Reg max(Reg a, Reg b) { return select(a > b, a, b); }
  static Reg mul(Reg a, Reg b) { return a * b; }
  static Reg sub(Reg a, Reg b) { return a - b; }
  static Reg div(Reg a, Reg b) { return a / b; }
  static Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
  static Reg fms(Reg a, Reg b, Reg c) { return a * b - c; }
  static Mask all() { return ~Mask{}; }
  static Mask lanes_of(unsigned bits) {
    Mask m;
    for (int i = 0; i < lanes; ++i) m[i] = (bits >> i & 1) != 0 ? ~Int{} : Int{};
    return m;
  }
  static bool any(Mask m) {
    Int bits = 0;
    for (int i = 0; i < lanes; ++i) bits = static_cast<Int>(bits | m[i]);
    return bits != 0;
  }
  static Mask both(Mask a, Mask b) { return a & b; }
  static Mask either(Mask a, Mask b) { return a | b; }
  static Reg if_negative(Reg a, Reg other) { return select(negative(a), a, other); }
  static Mask still_negative(Mask m, Reg a) { return m & negative(a); }
  static Mask lt(Reg a, Reg b) { return a < b; }
  static Mask le(Reg a, Reg b) { return a <= b; }
  static Mask eq(Reg a, Reg b) { return a == b; }
  static Mask negative(Reg a) { return reinterpret_cast<Mask>(a) < Mask{}; }
  static unsigned signs(Reg a) { return bits(negative(a)); }
  static Mask flip(Mask m) { return ~m; }
  static unsigned bits(Mask m) {
    unsigned all = 0;
    for (int i = 0; i < lanes; ++i) all |= (m[i] != 0 ? 1u : 0u) << i;
    return all;
  }
  static Mask not_ge(Reg a, Reg b) { return ~(a >= b); }
  static Mask unordered(Reg a, Reg b) { return (a != a) | (b != b); }
  /// a where m is true, otherwise 0.
  static Reg if_then_else_zero(Mask m, Reg a) {
    return reinterpret_cast<Reg>(reinterpret_cast<Mask>(a) & m);
  }
  static Reg select(Mask m, Reg a, Reg b) {
    return reinterpret_cast<Reg>((reinterpret_cast<Mask>(a) & m) |
                                 (reinterpret_cast<Mask>(b) & ~m));
  }
  static Reg add_where(Mask m, Reg a, Reg b) { return a + if_then_else_zero(m, b); }
  static Reg fma_where(Mask m, Reg a, Reg b, Reg c) { return if_then_else_zero(m, a) * b + c; }
};

template <>
struct Vec<float> : GenericVec<float, int, 4> {};
template <>
struct Vec<double> : GenericVec<double, long long, 2> {
  static Reg sqrt(Reg a) {
    for (int i = 0; i < lanes; ++i) a[i] = __builtin_sqrt(a[i]);
    return a;
  }
  static Reg widen(const double* p) { return load(p); }
  static Reg widen(const float* p) { return Reg{p[0], p[1]}; }
};

/// For each of 32 words, a bit that is set if the word lacks one of the bits.
inline std::uint32_t words_without(const std::uint16_t (&p)[32], unsigned bits) {
  std::uint32_t found = 0;
  for (int i = 0; i < 32; ++i) found |= std::uint32_t{(p[i] & bits) != bits} << i;
  return found;
}
