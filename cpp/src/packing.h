// Weights in the layouts that kernels read: blocks of outputs (or channels) side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "kernels/table.h"
#include "src/workspace.h"
#include "ttfs/integer.h"
#include "ttfs/layers.h"

namespace ttfs {

/// Outputs [first, first + used), whose weights are stored side by side in rows of `width` places.
struct Block {
  std::int64_t first, width, used;
};

/// Blocks of `widest` places; the last one is shortened to a multiple of `grain`.
std::vector<Block> cut_blocks(std::int64_t outputs, std::int64_t widest, std::int64_t grain);

/// Blocks of `wide` places, and narrow ones for a remainder of up to two narrow blocks.
std::vector<Block> wide_and_narrow_blocks(std::int64_t outputs, std::int64_t wide,
                                          std::int64_t narrow);

/// The layout of packed weights: [group][block][row][place].
class BlockLayout {
 public:
  BlockLayout(std::int64_t groups, std::int64_t rows, std::vector<Block> blocks);

  std::int64_t groups() const { return groups_; }
  std::int64_t rows() const { return rows_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  std::int64_t count() const { return static_cast<std::int64_t>(blocks_.size()); }
  const Block& operator[](std::int64_t b) const { return blocks_[static_cast<std::size_t>(b)]; }

  /// Places of all groups: the size of an array with one value for each output.
  std::int64_t places() const { return groups_ * width_; }
  /// Number of a block's first place among them.
  std::int64_t place(std::int64_t group, std::int64_t b) const {
    return group * width_ + (*this)[b].first;
  }
  /// Number of weights in all groups, in the largest block, and before a block.
  std::int64_t size() const { return places() * rows_; }
  std::int64_t block_size() const { return blocks_.empty() ? 0 : blocks_.front().width * rows_; }
  std::int64_t offset(std::int64_t group, std::int64_t b) const { return place(group, b) * rows_; }

 private:
  std::int64_t groups_, rows_, width_;  // width: places of one group
  std::vector<Block> blocks_;
};

/// Weights for the sweep. Rows are in the order of the weight tensor (channel, kernel row, kernel
/// column), followed by the bias, if any, and a row of zeros.
template <class T>
class PackedWeights {
 public:
  /// `slope` is B before any event.
  PackedWeights(const ConvShape& shape, const T* weight, const T* bias, T slope);

  /// Takes memory for one block, and for all weights if they are packed in advance.
  void take(Workspace& workspace, bool ahead);

  void pack_all(const Kernels<T>& k, int threads) const;
  void pack(const Kernels<T>& k, std::int64_t group, std::int64_t b, T* to) const;

  const BlockLayout& layout() const { return layout_; }
  std::int64_t bytes() const { return layout_.size() * static_cast<std::int64_t>(sizeof(T)); }
  std::int64_t outputs() const { return outputs_; }
  std::int64_t inputs() const { return inputs_; }
  /// The largest number of events of a pixel.
  std::int64_t max_events() const { return layout_.rows() - 1; }
  /// Numbers of the row of zeros and of the row of biases.
  std::int64_t zero_row() const { return layout_.rows() - 1; }
  std::int64_t bias_row() const { return inputs_; }

  /// A block that was packed in advance.
  T* block(std::int64_t group, std::int64_t b) const { return weights_ + layout_.offset(group, b); }
  /// See SweepTask.
  T* initial_slope(std::int64_t group, std::int64_t b) const {
    return initial_slope_ + layout_.place(group, b);
  }
  T* max_overshoot(std::int64_t group, std::int64_t b) const {
    return max_overshoot_ + layout_.place(group, b);
  }
  T* norm(std::int64_t group, std::int64_t b) const { return norm_ + layout_.place(group, b); }
  const T* last_slope(std::int64_t group, std::int64_t b) const {
    return last_slope_ + layout_.place(group, b);
  }
  /// Computes the last slopes of a group, unless a thread has done so before.
  void sum_up(const Kernels<T>& k, std::int64_t group) const;

 private:
  const T *weight_, *bias_;
  T slope_;
  std::int64_t outputs_, inputs_;
  BlockLayout layout_;
  T *weights_ = nullptr, *initial_slope_ = nullptr, *max_overshoot_ = nullptr, *norm_ = nullptr,
    *last_slope_ = nullptr;
  std::unique_ptr<std::once_flag[]> summed_;  // of each group
};

/// Weights of one group for the gradient of the inputs: blocks of channels, rows [tap][output].
template <class T>
class ChannelWeights {
 public:
  ChannelWeights(const ConvShape& shape, const T* weight);

  void take(Workspace& workspace) { weights_ = workspace.take<T>(layout_.size()); }

  /// Packs all of a group into the memory taken.
  void pack_all(const Kernels<T>& k, std::int64_t group, int threads) const;
  /// Packs the weights of one block of channels and of all outputs.
  void pack(const Kernels<T>& k, std::int64_t group, std::int64_t b, T* to) const {
    pack(k, group, b, 0, outputs_, to);
  }

  const BlockLayout& layout() const { return layout_; }
  T* block(std::int64_t b) const { return weights_ + layout_.offset(0, b); }

 private:
  void pack(const Kernels<T>& k, std::int64_t group, std::int64_t b, std::int64_t first_output,
            std::int64_t last_output, T* to) const;

  const T* weight_;
  std::int64_t outputs_, channels_, taps_;
  BlockLayout layout_;
  T* weights_ = nullptr;
};

/// Allocates on cache lines; a row of a wide block is one cache line.
template <class T>
struct CacheAlignedAllocator {
  using value_type = T;
  CacheAlignedAllocator() = default;
  template <class U>
  CacheAlignedAllocator(const CacheAlignedAllocator<U>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const CacheAlignedAllocator&) const = default;
};

/// Weight codes of an integer layer, 8, 4 or 2 bits each. Rows are in the order (kernel row, kernel
/// column, channel). Kernels read 8-bit codes in place, so each block then ends with a row of
/// zeros.
class PackedCodes {
 public:
  explicit PackedCodes(const integer::Neurons& neurons);

  void put(std::int64_t group, std::int64_t row, std::int64_t output, int code);
  int get(std::int64_t group, std::int64_t row, std::int64_t output) const;

  const BlockLayout& layout() const { return layout_; }
  std::int64_t rows() const { return rows_; }  // without the zeros
  std::int64_t outputs() const { return outputs_; }
  const std::uint8_t* block(std::int64_t group, std::int64_t b) const {
    return bytes_.data() + layout_.offset(group, b) * bits_ / 8;
  }
  std::int64_t bytes() const { return static_cast<std::int64_t>(bytes_.size()); }

 private:
  struct Place {
    std::size_t byte;
    int shift;
  };
  Place place(std::int64_t group, std::int64_t row, std::int64_t output) const;

  int bits_;
  std::int64_t rows_, outputs_;
  BlockLayout layout_;
  std::vector<std::uint8_t, CacheAlignedAllocator<std::uint8_t>> bytes_;
};

}  // namespace ttfs
