#include "src/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>

namespace ttfs {
namespace {

std::atomic<bool> forked{false};

const int registered = pthread_atfork(nullptr, nullptr, [] { forked.store(true); });

}  // namespace

int team_size(std::int64_t items, int threads) {
  if (forked.load(std::memory_order_relaxed) || registered != 0) return 1;
  return static_cast<int>(std::clamp<std::int64_t>(items, 1, std::max(threads, 1)));
}

}  // namespace ttfs
