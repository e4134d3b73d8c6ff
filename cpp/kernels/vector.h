// The vectors of the instruction set that is being compiled. Included inside its namespace.

template <class T>
struct Vec;

/// Vectors for operations on few lanes at a time.
template <class T>
struct Narrow : Vec<T> {};

#if TTFS_ISA_avx512
#include "kernels/vector_avx512.h"
#elif TTFS_ISA_avx2
#include "kernels/vector_avx2.h"
#else
#include "kernels/vector_baseline.h"
#endif
