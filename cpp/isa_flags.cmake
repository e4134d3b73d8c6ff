# The only table of instruction set -> compiler flags. The first column is the name that
# TTFS_FAST_ISA takes, the namespace of its kernels and the suffix of its object library.
#
# The baseline is what every processor of the architecture has: SSE2 on x86-64, NEON on Arm.
set(TTFS_ISAS baseline)
set(TTFS_ISA_FLAGS_baseline "")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND TTFS_ISAS avx2 avx512 avx512vnni)
  set(TTFS_ISA_FLAGS_avx2 -mavx2 -mfma)
  set(TTFS_ISA_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma
                            -mprefer-vector-width=512
                            # GCC 12's own AVX-512 header trips these two.
                            $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
                            $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>)
  # Products of bytes for the integer engine; the rest is avx512 again.
  set(TTFS_ISA_FLAGS_avx512vnni -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma
                                -mprefer-vector-width=512
                                $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
                                $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>)
endif()

if(TTFS_FAST_ISAS)
  if(NOT "baseline" IN_LIST TTFS_FAST_ISAS)
    message(FATAL_ERROR "TTFS_FAST_ISAS is ${TTFS_FAST_ISAS}; baseline has to be among them")
  endif()
  foreach(isa IN LISTS TTFS_FAST_ISAS)
    if(NOT isa IN_LIST TTFS_ISAS)
      message(FATAL_ERROR "TTFS_FAST_ISAS names ${isa}; this architecture has: ${TTFS_ISAS}")
    endif()
  endforeach()
  set(TTFS_ISAS ${TTFS_FAST_ISAS})
endif()
