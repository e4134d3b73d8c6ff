// Checks between work items whether to stop the call.
#pragma once

#include "ttfs/interrupt.h"

namespace ttfs {

/// Created by the calling thread and shared by its workers.
class Stop {
 public:
  Stop();

  /// Whether to skip the remaining work. Only the calling thread, worker 0, reads the clock and
  /// checks for signals; the others read a flag.
  bool operator()(int worker) const {
    return call_ &&
           (call_->stopped_.load(std::memory_order_relaxed) || (worker == 0 && call_->ask()));
  }

  /// Throws Interrupted if any work may have been skipped. The calling thread calls this after the
  /// others are done.
  void check() const {
    if (call_ && call_->stopped_.load(std::memory_order_relaxed)) throw Interrupted();
  }

 private:
  Interruptible* call_;
};

}  // namespace ttfs
