// Scratch memory of one operator call. Small blocks are reused by the next call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ttfs {

/// Takes aligned arrays from one allocation. A caller lists its arrays once:
///
///     workspace.allocate([&] {
///       times = workspace.take<float>(count);
///       rows = workspace.take<std::uint32_t>(count);
///     });
class Workspace {
 public:
  Workspace() = default;
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// Calls list() twice: the first time take() adds up sizes and returns null, the second time it
  /// returns the arrays. list() must ask for the same arrays both times.
  template <class List>
  void allocate(const List& list) {
    list();
    allocate_block();
    list();
  }

  template <class T>
  T* take(std::int64_t count) {
    unsigned char* array = memory_ ? memory_ + used_ : nullptr;
    used_ += padded(count, sizeof(T));
    return reinterpret_cast<T*>(array);
  }

 private:
  void allocate_block();
  /// Room for a whole vector past the end, and the next array on a cache line of its own.
  static std::size_t padded(std::int64_t count, std::size_t size);

  unsigned char* memory_ = nullptr;
  std::size_t size_ = 0;  // of the memory
  std::size_t used_ = 0;  // by the arrays so far
};

}  // namespace ttfs
