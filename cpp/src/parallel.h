// Division of work among threads.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace ttfs {

/// The threads to use for `items` pieces of work when `threads` are allowed. One in a child of
/// fork(): the parent's OpenMP threads do not exist there, and libgomp would wait for them.
int team_size(std::int64_t items, int threads);

/// Calls body(item, worker) once for every item in [0, items), worker in [0, team_size(...)).
/// The body must not throw.
template <class Body>
void parallel_for(std::int64_t items, int threads, const Body& body) {
  const int team = team_size(items, threads);
#ifdef _OPENMP
  if (team > 1) {
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
    for (std::int64_t item = 0; item < items; ++item) body(item, omp_get_thread_num());
    return;
  }
#endif
  for (std::int64_t item = 0; item < items; ++item) body(item, 0);
}

}  // namespace ttfs
