// Threads that share a loop: OpenMP's, or std::thread (the CMake variable TTFS_FAST_THREADS) for
// ThreadSanitizer, which reports the barriers of gcc's OpenMP as races.
#pragma once

#include <cstdint>

#ifdef TTFS_STD_THREADS
#include <atomic>
#include <thread>
#include <vector>
#elif defined(_OPENMP)
#include <omp.h>
#endif

namespace ttfs {

/// Calls body(item, worker) once for every item in [0, items), on `team` threads; the calling
/// thread is worker 0. The body must not throw.
template <class Body>
void share(std::int64_t items, [[maybe_unused]] int team, const Body& body) {
#ifdef TTFS_STD_THREADS
  std::atomic<std::int64_t> next{0};
  const auto work = [&](int worker) {
    for (std::int64_t item = 0; (item = next.fetch_add(1)) < items;) body(item, worker);
  };
  std::vector<std::thread> others;
  for (int worker = 1; worker < team; ++worker) others.emplace_back(work, worker);
  work(0);
  for (std::thread& other : others) other.join();
#else
#ifdef _OPENMP
  if (team > 1) {
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
    for (std::int64_t item = 0; item < items; ++item) body(item, omp_get_thread_num());
    return;
  }
#endif
  for (std::int64_t item = 0; item < items; ++item) body(item, 0);
#endif
}

}  // namespace ttfs
