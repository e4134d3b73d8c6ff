#include "src/workspace.h"

#include <cstdint>
#include <cstdlib>
#include <new>
#include <stdexcept>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ttfs {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMaxCachedBytes = std::size_t{16} << 20;

unsigned char* new_block(std::size_t size) {
  const std::size_t alignment = size >= kHugePage / 2 ? kHugePage : kLine;
  void* memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // Packed weights are read in no fixed order. Large pages save address translations and most page
  // faults. If the system declines, nothing is lost.
  if (alignment == kHugePage) (void)madvise(memory, size, MADV_HUGEPAGE);
#endif
  return static_cast<unsigned char*>(memory);
}

// The last block that this thread released. A small operator takes less time than the page faults
// of fresh memory.
struct CachedBlock {
  unsigned char* memory = nullptr;
  std::size_t size = 0;
  ~CachedBlock() { std::free(memory); }
};
thread_local CachedBlock cached;

}  // namespace

std::size_t Workspace::padded(std::int64_t count, std::size_t size) {
  if (count < 0 || static_cast<std::uint64_t>(count) > (std::uint64_t{1} << 46) / size)
    throw std::length_error("ttfs: an array is too large for memory");
  const std::size_t bytes = static_cast<std::size_t>(count) * size;
  return (bytes + 2 * kLine - 1) / kLine * kLine;
}

void Workspace::allocate_block() {
  size_ = used_;
  if (cached.memory && cached.size >= size_) {
    memory_ = cached.memory;
    size_ = cached.size;
    cached.memory = nullptr;
    cached.size = 0;
  } else {
    memory_ = new_block(size_);
  }
  used_ = 0;
}

Workspace::~Workspace() {
  if (!memory_) return;
  if (size_ <= kMaxCachedBytes && size_ > cached.size) {
    std::free(cached.memory);
    cached.memory = memory_;
    cached.size = size_;
  } else {
    std::free(memory_);
  }
}

}  // namespace ttfs
