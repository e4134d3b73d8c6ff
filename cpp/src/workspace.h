// Scratch memory of one operator call, kept for the next call while it is small.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ttfs {

/// Cuts aligned arrays from one allocation. Two passes: first ask for every array with plan(),
/// then allocate(), then ask again in the same order with take().
class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <class T>
  void plan(std::int64_t count) {
    planned_ += padded(count, sizeof(T));
  }
  void allocate();
  template <class T>
  T* take(std::int64_t count) {
    T* array = reinterpret_cast<T*>(next_);
    next_ += padded(count, sizeof(T));
    return array;
  }

 private:
  /// Room for a whole vector past the end, and the next array on a cache line of its own.
  static std::size_t padded(std::int64_t count, std::size_t size);

  std::size_t planned_ = 0;
  unsigned char* memory_ = nullptr;
  unsigned char* next_ = nullptr;
};

}  // namespace ttfs
