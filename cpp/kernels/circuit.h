// The steppers of the neuron circuit and their random numbers. Included inside the namespace of an
// instruction set. There are no fused multiply-adds here, so that rounding and bits are the same
// for all instruction sets, the baseline included.

namespace circuit {

using V = Vec<double>;
using Real = V::Reg;
typedef unsigned long long Bits __attribute__((vector_size(sizeof(Real))));
constexpr int kParts = kCircuitLanes / V::lanes;

inline Bits load_bits(const std::uint64_t* p) {
  Bits a;
  __builtin_memcpy(&a, p, sizeof a);
  return a;
}
inline Bits bits_of(Real a) {
  Bits b;
  __builtin_memcpy(&b, &a, sizeof b);
  return b;
}
inline Real real_of(Bits a) {
  Real b;
  __builtin_memcpy(&b, &a, sizeof b);
  return b;
}
inline Bits all_bits(std::uint64_t a) { return Bits{} + a; }
inline Real absolute(Real a) { return real_of(bits_of(a) & all_bits(0x7fffffffffffffffULL)); }

template <int Count>
inline Bits rotate(Bits a) {
  return (a << Count) | (a >> (64 - Count));
}

template <int First, int Second, int Third, int Fourth>
inline void four_rounds(Bits& a, Bits& b) {
  a += b;
  b = rotate<First>(b) ^ a;
  a += b;
  b = rotate<Second>(b) ^ a;
  a += b;
  b = rotate<Third>(b) ^ a;
  a += b;
  b = rotate<Fourth>(b) ^ a;
}

/// Threefry-2x64 with 20 rounds (Salmon et al., SC 2011).
inline void threefry(Bits key0, Bits key1, Bits& a, Bits& b) {
  const Bits key2 = key0 ^ key1 ^ all_bits(0x1bd11bdaa9fc1a22ULL);
  a += key0;
  b += key1;
  four_rounds<16, 42, 12, 31>(a, b);
  a += key1;
  b += key2 + 1;
  four_rounds<16, 32, 24, 21>(a, b);
  a += key2;
  b += key0 + 2;
  four_rounds<16, 42, 12, 31>(a, b);
  a += key0;
  b += key1 + 3;
  four_rounds<16, 32, 24, 21>(a, b);
  a += key1;
  b += key2 + 4;
  four_rounds<16, 42, 12, 31>(a, b);
  a += key2;
  b += key0 + 5;
}

/// The midpoint of one of 2^52 equal parts of (0, 1).
inline Real uniform(Bits a) {
  return real_of((a >> 12) | all_bits(0x3ff0000000000000ULL)) - V::set(1.0 - 0x1p-53);
}

/// ln of a normal number above 0: exponent times ln 2, plus 2 artanh((m - 1) / (m + 1)) for the
/// mantissa m.
inline Real logarithm(Real a) {
  // Subtracting the bit pattern of sqrt(1/2) first brings the mantissa into [sqrt(1/2), sqrt(2)).
  const Bits shifted = bits_of(a) - all_bits(0x3fe6a09e667f3bcdULL);
  const Bits exponent = shifted & all_bits(0xfff0000000000000ULL);
  const Real mantissa = real_of(bits_of(a) - exponent);
  // Converts the signed exponent to a double: adding 2^52 + 2^11 is exact.
  const Bits biased = (exponent >> 52) ^ all_bits(0x800);
  const Real power =
      real_of((biased & all_bits(0xfff)) | all_bits(0x4330000000000000ULL)) - V::set(0x1p52 + 2048);
  const Real s = (mantissa - V::set(1)) / (mantissa + V::set(1));
  const Real q = s * s;
  Real sum = V::set(1.0 / 21);
  for (int n = 19; n >= 3; n -= 2) sum = sum * q + V::set(1.0 / n);
  return power * V::set(0.693147180559945309417) + (s + s) * (V::set(1) + q * sum);
}

/// cos and sin of 2 pi u, for u in [0, 1).
inline void circle(Real u, Real& cosine, Real& sine) {
  const Real shift = V::set(0x1.8p52);
  const Real rounded = u * V::set(4) + shift;
  const Bits quarter = bits_of(rounded);  // its lowest bits are the nearest quarter turn
  const Real x = (u * V::set(4) - (rounded - shift)) * V::set(1.57079632679489661923);
  const Real q = x * x;
  // Taylor series up to x^17 and x^16 on |x| <= pi / 4.
  Real s = V::set(1.0 / 355687428096000), c = V::set(1.0 / 20922789888000);
  s = V::set(-1.0 / 1307674368000) + q * s;
  c = V::set(-1.0 / 87178291200) + q * c;
  s = V::set(1.0 / 6227020800) + q * s;
  c = V::set(1.0 / 479001600) + q * c;
  s = V::set(-1.0 / 39916800) + q * s;
  c = V::set(-1.0 / 3628800) + q * c;
  s = V::set(1.0 / 362880) + q * s;
  c = V::set(1.0 / 40320) + q * c;
  s = V::set(-1.0 / 5040) + q * s;
  c = V::set(-1.0 / 720) + q * c;
  s = V::set(1.0 / 120) + q * s;
  c = V::set(1.0 / 24) + q * c;
  s = V::set(-1.0 / 6) + q * s;
  c = V::set(-0.5) + q * c;
  s = x + x * (q * s);
  c = V::set(1) + q * c;
  const Bits odd = all_bits(0) - (quarter & all_bits(1));  // all ones: swap sine and cosine
  const Bits swapped_c = (bits_of(s) & odd) | (bits_of(c) & ~odd);
  const Bits swapped_s = (bits_of(c) & odd) | (bits_of(s) & ~odd);
  cosine = real_of(swapped_c ^ (((quarter + 1) & all_bits(2)) << 62));
  sine = real_of(swapped_s ^ ((quarter & all_bits(2)) << 62));
}

/// Two independent normals for the counter (trial, number) (Box and Muller).
inline void normal_pair(std::uint64_t seed, Bits trial, std::uint64_t number, Real& first,
                        Real& second) {
  Bits a = trial, b = all_bits(number);
  threefry(all_bits(seed), all_bits(kPathStream), a, b);
  const Real radius = V::sqrt(V::set(-2) * logarithm(uniform(a)));
  Real cosine, sine;
  circle(uniform(b), cosine, sine);
  first = radius * cosine;
  second = radius * sine;
}

inline void normals(std::uint64_t seed, std::uint64_t trial, std::int64_t first, std::int64_t count,
                    double* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    Real n[4];
    const auto number = 2 * static_cast<std::uint64_t>(first + i);
    normal_pair(seed, all_bits(trial), number, n[0], n[1]);
    normal_pair(seed, all_bits(trial), number + 1, n[2], n[3]);
    for (int j = 0; j < 4; ++j) __builtin_memcpy(out + 4 * i + j, &n[j], sizeof(double));
  }
}

template <bool Noisy>
std::int64_t averaged_steps(AveragedLanes& lanes, std::int64_t first, std::int64_t steps,
                            unsigned* crossed) {
  Real e[kParts], x[kParts], v[kParts], old_e[kParts], old_x[kParts], old_v[kParts];
  for (int p = 0; p < kParts; ++p) {
    e[p] = V::load(lanes.e + p * V::lanes);
    x[p] = V::load(lanes.x + p * V::lanes);
    v[p] = V::load(lanes.v + p * V::lanes);
    old_e[p] = e[p];
    old_x[p] = x[p];
    old_v[p] = v[p];
  }
  std::int64_t done = 0;
  bool stop = false;
  while (done < steps && !stop) {
    for (int p = 0; p < kParts; ++p) {
      const int at = p * V::lanes;
      const Real e0 = old_e[p] = e[p], x0 = old_x[p] = x[p], v0 = old_v[p] = v[p];
      e[p] = V::load(lanes.ee + at) * e0 + V::load(lanes.ex + at) * x0;
      x[p] = V::load(lanes.xe + at) * e0 + V::load(lanes.xx + at) * x0;
      v[p] = v0 + (V::load(lanes.ve + at) * e0 + V::load(lanes.vx + at) * x0 +
                   V::load(lanes.drift + at));
      if constexpr (Noisy) {
        Real n0, n1, n2, n3;
        const auto number = 2 * static_cast<std::uint64_t>(first + done);
        const Bits trial = load_bits(lanes.streams.trial + at);
        normal_pair(lanes.streams.seed, trial, number, n0, n1);
        normal_pair(lanes.streams.seed, trial, number + 1, n2, n3);
        e[p] = e[p] + V::load(lanes.noise[0] + at) * n0;
        x[p] = x[p] + (V::load(lanes.noise[1] + at) * n0 + V::load(lanes.noise[2] + at) * n1);
        v[p] = v[p] + (V::load(lanes.noise[3] + at) * n0 + V::load(lanes.noise[4] + at) * n1 +
                       V::load(lanes.noise[5] + at) * n2);
      }
      const Real highest =
          v[p] + (V::load(lanes.reach_e + at) * absolute(e0) +
                  V::load(lanes.reach_x + at) * absolute(x0) + V::load(lanes.reach + at));
      stop |= V::any(V::le(V::load(lanes.threshold + at), highest));
    }
    ++done;
  }
  *crossed = 0;
  for (int p = 0; p < kParts; ++p) {
    const int at = p * V::lanes;
    V::store(lanes.e + at, e[p]);
    V::store(lanes.x + at, x[p]);
    V::store(lanes.v + at, v[p]);
    V::store(lanes.old_e + at, old_e[p]);
    V::store(lanes.old_x + at, old_x[p]);
    V::store(lanes.old_v + at, old_v[p]);
  }
  if (stop)
    for (int i = 0; i < kCircuitLanes; ++i) {
      const double e0 = lanes.old_e[i], x0 = lanes.old_x[i];
      const double highest = lanes.v[i] + (lanes.reach_e[i] * (e0 < 0 ? -e0 : e0) +
                                           lanes.reach_x[i] * (x0 < 0 ? -x0 : x0) + lanes.reach[i]);
      if (lanes.threshold[i] <= highest) *crossed |= 1U << i;
    }
  return done;
}

inline std::int64_t averaged(AveragedLanes& lanes, std::int64_t first, std::int64_t steps,
                             unsigned* crossed) {
  return lanes.streams.on ? averaged_steps<true>(lanes, first, steps, crossed)
                          : averaged_steps<false>(lanes, first, steps, crossed);
}

/// Wraps a phase that is outside [0, 1) by less than a turn.
inline Real wrap(Real phase) {
  const Real one = V::set(1), zero = V::set(0);
  phase = V::select(V::le(one, phase), phase - one, phase);
  return V::select(V::lt(phase, zero), phase + one, phase);
}

/// Fraction of a step after which a square wave of this phase and rate switches, 1 if it does not;
/// level is 1 in the second half of its period, otherwise 0.
inline Real switching_time(Real phase, Real rate, Real& level) {
  const Real half = V::set(0.5), one = V::set(1);
  level = V::select(V::le(half, phase), one, V::set(0));
  return V::min((half - (phase - half * level)) / rate, one);
}

template <bool Noisy>
void switching_steps(SwitchingLanes& lanes, std::int64_t first, std::int64_t steps) {
  const Real half = V::set(0.5), one = V::set(1), zero = V::set(0), two = V::set(2);
  const Real range = V::set(lanes.range), half_range = V::set(0.5 * lanes.range);
  for (int p = 0; p < kParts; ++p) {
    const int at = p * V::lanes;
    Real reference = V::load(lanes.reference + at), output = V::load(lanes.output + at);
    Real control = V::load(lanes.control + at), clock = V::load(lanes.clock + at);
    Real lead = V::load(lanes.lead + at), fire = V::load(lanes.fire + at);
    Real duty = V::load(lanes.duty + at);
    const Real reference_rate = V::load(lanes.reference_rate + at);
    const Real output_rate = V::load(lanes.output_rate + at);
    const Real output_gain = V::load(lanes.output_gain + at);
    const Real decay = V::load(lanes.decay + at), mean = V::load(lanes.mean + at);
    const Real low_rate = V::load(lanes.low_rate + at), gain_rate = V::load(lanes.gain_rate + at);
    const Real threshold_rate = V::load(lanes.threshold_rate + at);
    const Real offset = V::load(lanes.offset + at);
    Real old[6] = {reference, output, control, clock, lead, fire};
    for (std::int64_t n = 0; n < steps; ++n) {
      if (n == steps - 1) {
        old[0] = reference;
        old[1] = output;
        old[2] = control;
        old[3] = clock;
        old[4] = lead;
        old[5] = fire;
      }
      // UP: the fraction of the step in which the two square waves differ. Each switches once at
      // most.
      Real reference_level, output_level;
      const Real a = switching_time(reference, reference_rate, reference_level);
      const Real b =
          switching_time(output, output_rate + output_gain * (control - half), output_level);
      const Real differ = reference_level - output_level, start = differ * differ;
      duty = start + (one - two * start) * absolute(a - b);
      // The loop filter, driven by this fraction, and the phases.
      const Real excess = control - duty;
      reference = wrap(reference + reference_rate);
      output = wrap(output + (output_rate + output_gain * (duty + excess * mean - half)));
      control = duty + excess * decay;
      const Real advance = low_rate + gain_rate * duty;
      const Real gained = advance - threshold_rate;
      // The flip-flop samples at VCO4's rising edge.
      const Real next = clock + advance;
      const auto edge = V::le(one, next);
      const Real part = (one - clock) / advance;
      Real at_edge = lead + part * gained;
      at_edge = V::select(V::le(half_range, at_edge), at_edge - range, at_edge);
      at_edge = V::select(V::lt(at_edge, zero - half_range), at_edge + range, at_edge);
      const auto passed = V::both(edge, V::le(offset, at_edge));
      fire = V::select(passed, V::min(fire, V::set(static_cast<double>(first + n)) + part), fire);
      clock = V::select(edge, next - one, next);
      lead = lead + gained;
      if constexpr (Noisy) {
        Real n0, n1, n2, n3;
        const auto number = 2 * static_cast<std::uint64_t>(first + n);
        const Bits trial = load_bits(lanes.streams.trial + at);
        normal_pair(lanes.streams.seed, trial, number, n0, n1);
        normal_pair(lanes.streams.seed, trial, number + 1, n2, n3);
        const Real membrane = V::load(lanes.membrane_noise + at);
        reference = wrap(reference + V::set(lanes.loop_noise) * n0);
        output = wrap(output + V::set(lanes.loop_noise) * n1);
        clock = clock + membrane * n2;
        lead = lead + membrane * (n2 - n3);
      }
      lead = V::select(V::le(half_range, lead), lead - range, lead);
      lead = V::select(V::lt(lead, zero - half_range), lead + range, lead);
    }
    V::store(lanes.reference + at, reference);
    V::store(lanes.output + at, output);
    V::store(lanes.control + at, control);
    V::store(lanes.clock + at, clock);
    V::store(lanes.lead + at, lead);
    V::store(lanes.duty + at, duty);
    V::store(lanes.fire + at, fire);
    for (int i = 0; i < 6; ++i) V::store(lanes.old[i] + at, old[i]);
  }
}

inline void switching(SwitchingLanes& lanes, std::int64_t first, std::int64_t steps) {
  if (lanes.streams.on)
    switching_steps<true>(lanes, first, steps);
  else
    switching_steps<false>(lanes, first, steps);
}

constexpr CircuitKernels kernels() { return {averaged, switching, normals}; }

}  // namespace circuit
