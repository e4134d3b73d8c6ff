// Division of work among threads.
#pragma once

#include <cstdint>

#include "kernels/table.h"
#include "src/interrupt.h"
#include "src/team.h"

namespace ttfs {

/// The number of threads for `items` work items when `threads` are allowed. One in a child of
/// fork(): the parent's OpenMP threads do not exist there, and libgomp would wait for them.
int team_size(std::int64_t items, int threads);

/// Calls body(item, worker) once for every item in [0, items), worker in [0, team_size(...)). The
/// body must not throw; it may call kernels. If the call is stopped, skips the remaining items and
/// throws Interrupted.
template <class Body>
void parallel_for(std::int64_t items, int threads, const Body& body) {
  const Stop stop;
  const auto clear_upper_halves = kernels().clear_upper_halves;
  share(items, team_size(items, threads), [&](std::int64_t item, int worker) {
    if (stop(worker)) return;
    body(item, worker);
    clear_upper_halves();
  });
  stop.check();
}

}  // namespace ttfs
