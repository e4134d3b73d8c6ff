#include "src/interrupt.h"

#include <time.h>

namespace ttfs {
namespace {

constexpr std::int64_t kInterval = 100'000'000;  // ns

thread_local Interruptible* current = nullptr;

/// A clock in nanoseconds. It is cheap to read and accurate to some milliseconds.
std::int64_t now() {
#ifdef CLOCK_MONOTONIC_COARSE
  constexpr clockid_t clock = CLOCK_MONOTONIC_COARSE;
#else
  constexpr clockid_t clock = CLOCK_MONOTONIC;
#endif
  timespec time{};
  clock_gettime(clock, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

Interruptible::Interruptible(bool (*stop)())
    : stop_(stop), outer_(current), next_(now() + kInterval) {
  current = this;
}

Interruptible::~Interruptible() { current = outer_; }

bool Interruptible::ask() {
  // Work items take from less than a microsecond to some milliseconds: reading the clock for each
  // would cost too much.
  if (++calls_ % 8 != 0) return false;
  const std::int64_t time = now();
  if (time < next_) return false;
  next_ = time + kInterval;
  const bool stopped = stop_();
  if (stopped) stopped_.store(true, std::memory_order_relaxed);
  return stopped;
}

Stop::Stop() : call_(current) {}

}  // namespace ttfs
