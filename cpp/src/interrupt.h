// Asking, between pieces of work, whether the call is to be stopped.
#pragma once

#include "ttfs/interrupt.h"

namespace ttfs {

/// Made by the calling thread, and handed to all that work for it.
class Stop {
 public:
  Stop();

  /// Whether to leave out what is not done yet. `worker` is 0 on the calling thread alone, which
  /// looks at a clock and asks when it is time; the others read a flag.
  bool operator()(int worker) const {
    return call_ &&
           (call_->stopped_.load(std::memory_order_relaxed) || (worker == 0 && call_->ask()));
  }

  /// Throws Interrupted if anything may have been left out. On the calling thread, when the others
  /// are done.
  void check() const {
    if (call_ && call_->stopped_.load(std::memory_order_relaxed)) throw Interrupted();
  }

 private:
  Interruptible* call_;
};

}  // namespace ttfs
