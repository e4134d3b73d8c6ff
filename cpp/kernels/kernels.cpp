// Every inner loop, compiled once per instruction set into its own namespace. Nothing here uses the
// standard library: its templates leave weak symbols, and the linker could use one that was
// compiled for AVX-512 for every caller.
#include "kernels/table.h"

#if TTFS_ISA_avx512vnni
#define TTFS_ISA_avx512 1
#endif

#if TTFS_ISA_avx2 || TTFS_ISA_avx512
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace ttfs::TTFS_ISA {
namespace {

#include "kernels/vector.h"

void clear_upper_halves() {
#if TTFS_ISA_avx2 || TTFS_ISA_avx512
  _mm256_zeroupper();
#endif
}

#include "kernels/circuit.h"
#include "kernels/events.h"
#include "kernels/gradients.h"
#include "kernels/sweep.h"

#include "kernels/integer_common.h"
#if TTFS_ISA_avx512vnni
#include "kernels/integer_avx512vnni.h"
#elif TTFS_ISA_avx512
#include "kernels/integer_avx512.h"
#elif TTFS_ISA_avx2
#include "kernels/integer_avx2.h"
#else
#include "kernels/integer_baseline.h"
#endif
#include "kernels/integer_events.h"
#include "kernels/integer_sweep.h"

template <class T>
constexpr Kernels<T> all_kernels() {
  return {
      .any_at_or_below = any_at_or_below<T>,
      .any_nan = any_nan<T>,
      .extent = extent<T>,
      .lowest = lowest<T>,
      .weight_extent = weight_extent<T>,
      .sum = sum<T>,
      .count_equal = count_equal<T>,
      .transpose = transpose<T>,
      .collect = collect<T>,
      .sort = sort<T, Key<T>>,
      .sort_signed = sort<T, SignedKey<T>>,
      .collect_words = collect_words<T>,
      .sort_words = sort_words<T>,
      .filter = filter<T>,
      .pad_to_chunk = pad_to_chunk<T>,
      .sweep = sweep<T>,
      .recompute = recompute<T>,
      .input_gradient = input_gradient<T>,
      .weight_gradient = weight_gradient<T>,
      .scale_gradient = scale_gradient<T>,
  };
}

constexpr IntegerKernels integer_kernels() {
  return {
      .collect = collect_codes,
      .sort = sort_events,
      .describe = describe_events,
      .filter = filter_events,
      .group = group_events,
      .sweep = sweep_events,
      .unpack = unpack_weights,
      .earlier = earlier_codes,
  };
}

}  // namespace

extern const KernelTable table = {
    .f32 = all_kernels<float>(),
    .f64 = all_kernels<double>(),
    .circuit = circuit::kernels(),
    .integer = integer_kernels(),
    .clear_upper_halves = clear_upper_halves,
};

}  // namespace ttfs::TTFS_ISA
