// Every inner loop, compiled once per instruction set into a namespace of its own. No standard
// library here: its templates would leave weak symbols, compiled for AVX-512 say, that the linker
// may pick for everyone.
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

template <class T>
struct Vec;

/// Vectors for work on few lanes at a time.
template <class T>
struct Narrow : Vec<T> {};

#if TTFS_ISA_avx512
#include "kernels/vector_avx512.h"
#elif TTFS_ISA_avx2
#include "kernels/vector_avx2.h"
#else
#include "kernels/vector_baseline.h"
#endif

#include "kernels/circuit.h"
#include "kernels/events.h"
#include "kernels/gradients.h"
#include "kernels/sweep.h"

#include "kernels/integer_vector.h"

#include "kernels/integer_events.h"
#include "kernels/integer_sweep.h"

template <class T>
constexpr Kernels<T> all_kernels() {
  return {any_not_positive<T>, any_nan<T>, extent<T>,        lowest<T>,         transpose<T>,
          collect<T>,          sort<T>,    collect_words<T>, sort_words<T>,     filter<T>,
          complete<T>,         sweep<T>,   refine<T>,        input_gradient<T>, weight_gradient<T>,
          scale_gradient<T>};
}

}  // namespace

extern const KernelTable table = {
    all_kernels<float>(),
    all_kernels<double>(),
    circuit::kernels(),
    {collect_codes, sort_events, describe_events, filter_events, group_events, sweep_events,
     unpack_weights, earlier_codes},
};

}  // namespace ttfs::TTFS_ISA
