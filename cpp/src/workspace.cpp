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
constexpr std::size_t kKeep = std::size_t{16} << 20;

unsigned char* allocate_block(std::size_t size) {
  const std::size_t alignment = size >= kHugePage / 2 ? kHugePage : kLine;
  void* memory = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // Packed weights are read in an order of their own: large pages save address translations, and
  // most of the cost of touching new memory. If the system declines, nothing is lost.
  if (alignment == kHugePage) (void)madvise(memory, size, MADV_HUGEPAGE);
#endif
  return static_cast<unsigned char*>(memory);
}

// The last block that this thread released: small operators come by the thousand, and fresh pages
// cost more than they do.
struct Kept {
  unsigned char* memory = nullptr;
  std::size_t size = 0;
  ~Kept() { std::free(memory); }
};
thread_local Kept kept;

}  // namespace

std::size_t Workspace::padded(std::int64_t count, std::size_t size) {
  if (count < 0 || static_cast<std::uint64_t>(count) > (std::uint64_t{1} << 46) / size)
    throw std::length_error("ttfs: an array is too large for memory");
  const std::size_t bytes = static_cast<std::size_t>(count) * size;
  return (bytes + 2 * kLine - 1) / kLine * kLine;
}

void Workspace::allocate() {
  if (kept.memory && kept.size >= planned_) {
    memory_ = kept.memory;
    planned_ = kept.size;
    kept.memory = nullptr;
    kept.size = 0;
  } else {
    memory_ = allocate_block(planned_);
  }
  next_ = memory_;
}

Workspace::~Workspace() {
  if (!memory_) return;
  if (planned_ <= kKeep && planned_ > kept.size) {
    std::free(kept.memory);
    kept.memory = memory_;
    kept.size = planned_;
  } else {
    std::free(memory_);
  }
}

}  // namespace ttfs
