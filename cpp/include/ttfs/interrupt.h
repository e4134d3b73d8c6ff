// Stopping a long call.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

namespace ttfs {

/// Thrown by a call that was stopped. Its outputs are incomplete.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "ttfs: the call was stopped"; }
};

/// While it lives, calls of the thread that created it call `stop` on that thread several times a
/// second, and throw Interrupted once it returns true. `stop` must not throw. Without an
/// Interruptible, calls run to their end.
class Interruptible {
 public:
  explicit Interruptible(bool (*stop)());
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  friend class Stop;
  bool ask();

  // On a cache line of its own: all threads of the call read it.
  alignas(64) std::atomic<bool> stopped_{false};
  alignas(64) unsigned calls_ = 0;
  bool (*stop_)();
  Interruptible* outer_;
  std::int64_t next_;  // time of the next check, ns
};

}  // namespace ttfs
