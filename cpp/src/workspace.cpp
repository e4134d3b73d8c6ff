#include "src/workspace.h"

#include <new>
#include <stdexcept>

namespace ttfs {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kKeep = std::size_t{8} << 20;

// The last block that this thread released: small operators come by the thousand, and fresh pages
// cost more than they do.
struct Kept {
  unsigned char* memory = nullptr;
  std::size_t size = 0;
  ~Kept() { ::operator delete(memory, std::align_val_t{kLine}); }
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
    memory_ = static_cast<unsigned char*>(::operator new(planned_, std::align_val_t{kLine}));
  }
  next_ = memory_;
}

Workspace::~Workspace() {
  if (!memory_) return;
  if (planned_ <= kKeep && planned_ > kept.size) {
    ::operator delete(kept.memory, std::align_val_t{kLine});
    kept.memory = memory_;
    kept.size = planned_;
  } else {
    ::operator delete(memory_, std::align_val_t{kLine});
  }
}

}  // namespace ttfs
