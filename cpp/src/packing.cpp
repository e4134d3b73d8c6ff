#include "src/packing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "src/parallel.h"
#include "src/shape.h"

namespace ttfs {
namespace {

/// Outputs of ChannelWeights in one work item of packing.
constexpr std::int64_t kOutputsPerTurn = 16;

/// Bytes that kernels may read past the last code.
constexpr std::int64_t kSlackBytes = 4;

std::int64_t taps_of(const ConvShape& s) { return s.kernel_height * s.kernel_width; }
std::int64_t fan_in(const ConvShape& s) { return s.in_channels / s.groups * taps_of(s); }

}  // namespace

std::vector<Block> cut_blocks(std::int64_t outputs, std::int64_t widest, std::int64_t grain) {
  std::vector<Block> blocks;
  const std::int64_t padded = round_up(outputs, grain);
  for (std::int64_t first = 0; first < padded; first += widest)
    blocks.push_back({first, std::min(widest, padded - first), std::min(widest, outputs - first)});
  return blocks;
}

std::vector<Block> wide_and_narrow_blocks(std::int64_t outputs, std::int64_t wide,
                                          std::int64_t narrow) {
  std::vector<Block> blocks;
  for (std::int64_t first = 0; first < outputs; first += blocks.back().width) {
    const std::int64_t left = outputs - first;
    const std::int64_t width = left > 2 * narrow ? wide : narrow;
    blocks.push_back({first, width, std::min(width, left)});
  }
  return blocks;
}

BlockLayout::BlockLayout(std::int64_t groups, std::int64_t rows, std::vector<Block> blocks)
    : groups_(groups),
      rows_(rows),
      width_(blocks.empty() ? 0 : blocks.back().first + blocks.back().width),
      blocks_(std::move(blocks)) {}

template <class T>
PackedWeights<T>::PackedWeights(const ConvShape& s, const T* weight, const T* bias, T slope)
    : weight_(weight),
      bias_(bias),
      slope_(slope),
      outputs_(s.out_channels / s.groups),
      inputs_(fan_in(s)),
      layout_(s.groups, inputs_ + (bias ? 2 : 1), cut_blocks(outputs_, kBlock, kBlockGrain)),
      summed_(new std::once_flag[static_cast<std::size_t>(s.groups)]) {}

template <class T>
void PackedWeights<T>::take(Workspace& workspace, bool ahead) {
  initial_slope_ = workspace.take<T>(layout_.places());
  max_overshoot_ = workspace.take<T>(layout_.places());
  norm_ = workspace.take<T>(layout_.places());
  last_slope_ = workspace.take<T>(layout_.places());
  if (ahead) weights_ = workspace.take<T>(layout_.size());
}

template <class T>
void PackedWeights<T>::pack_all(const Kernels<T>& k, int threads) const {
  parallel_for(layout_.groups() * layout_.count(), threads, [&](std::int64_t item, int) {
    const std::int64_t group = item / layout_.count(), b = item % layout_.count();
    pack(k, group, b, block(group, b));
  });
}

template <class T>
void PackedWeights<T>::pack(const Kernels<T>& k, std::int64_t group, std::int64_t b, T* to) const {
  const auto [first, width, used] = layout_[b];
  const std::int64_t rows = layout_.rows(), first_output = group * outputs_ + first;
  const T* from = weight_ + first_output * inputs_;
  if (used < width) std::fill(to, to + rows * width, T{0});
  std::fill(to + zero_row() * width, to + rows * width, T{0});
  k.transpose(from, inputs_, to, width, used, inputs_);
  T* slope = initial_slope(group, b);
  std::fill(slope, slope + width, slope_);
  T *overshoot = max_overshoot(group, b), *norms = norm(group, b);
  std::fill(overshoot, overshoot + width, T{0});
  std::fill(norms, norms + width, T{0});
  for (std::int64_t j = 0; j < used; ++j) {
    const T* weights = from + j * inputs_;
    WeightExtent<T> extent{};
    if (compensates<T>(max_events()))
      extent = k.weight_extent(weights, inputs_);
    else
      extent.lowest = k.lowest(weights, inputs_);
    auto [lowest, norm] = extent;
    if (bias_) {
      const T weight = bias_[first_output + j];
      to[bias_row() * width + j] = weight;
      lowest = std::isfinite(weight) ? std::min(lowest, weight) : weight - weight;
      // Often first in its chunk: seven additions round by its size, where others see half as many.
      norm = std::sqrt(norm * norm + T(2.25) * weight * weight);
    }
    norms[j] = norm;
    overshoot[j] = static_cast<T>(kMaxOvershoot) * -lowest;
    if (std::isnan(lowest)) slope[j] = std::numeric_limits<T>::quiet_NaN();
  }
}

template <class T>
void PackedWeights<T>::sum_up(const Kernels<T>& k, std::int64_t group) const {
  std::call_once(summed_[static_cast<std::size_t>(group)], [&] {
    for (std::int64_t b = 0; b < layout_.count(); ++b) {
      T* slopes = last_slope_ + layout_.place(group, b);
      std::fill_n(slopes, layout_[b].width, slope_);
      for (std::int64_t j = 0; j < layout_[b].used; ++j) {
        const std::int64_t output = group * outputs_ + layout_[b].first + j;
        double slope = static_cast<double>(slope_) + k.sum(weight_ + output * inputs_, inputs_);
        if (bias_) slope += static_cast<double>(bias_[output]);
        slopes[j] = static_cast<T>(slope);
      }
    }
  });
}

template class PackedWeights<float>;
template class PackedWeights<double>;

template <class T>
ChannelWeights<T>::ChannelWeights(const ConvShape& s, const T* weight)
    : weight_(weight),
      outputs_(s.out_channels / s.groups),
      channels_(s.in_channels / s.groups),
      taps_(taps_of(s)),
      layout_(1, taps_ * outputs_, cut_blocks(channels_, kGradChannels, kBlockGrain)) {}

template <class T>
void ChannelWeights<T>::pack_all(const Kernels<T>& k, std::int64_t group, int threads) const {
  const std::int64_t turns = ceil_div(outputs_, kOutputsPerTurn);
  parallel_for(layout_.count() * turns, threads, [&](std::int64_t item, int) {
    const std::int64_t b = item / turns, first = item % turns * kOutputsPerTurn;
    pack(k, group, b, first, std::min(first + kOutputsPerTurn, outputs_), block(b));
  });
}

template <class T>
void ChannelWeights<T>::pack(const Kernels<T>& k, std::int64_t group, std::int64_t b,
                             std::int64_t first_output, std::int64_t last_output, T* block) const {
  const auto [first, width, used] = layout_[b];
  const std::int64_t tap_stride = outputs_ * width;
  for (std::int64_t j = first_output; j < last_output; ++j) {
    const T* row = weight_ + ((group * outputs_ + j) * channels_ + first) * taps_;
    T* to = block + j * width;
    if (taps_ == 1)
      std::copy_n(row, used, to);
    else
      k.transpose(row, taps_, to, tap_stride, used, taps_);
    if (used < width)
      for (std::int64_t tap = 0; tap < taps_; ++tap)
        std::fill_n(to + tap * tap_stride + used, width - used, T{0});
  }
}

template class ChannelWeights<float>;
template class ChannelWeights<double>;

PackedCodes::PackedCodes(const integer::Neurons& n)
    : bits_(n.bits),
      rows_(fan_in(n.shape)),
      outputs_(n.shape.out_channels / n.shape.groups),
      layout_(n.shape.groups, rows_ + (bits_ == 8 ? 1 : 0),
              wide_and_narrow_blocks(outputs_, kWideBlock, kNarrowBlock)),
      // Code 0 of 2 bits is a weight of 32, but places beyond the last output are never read.
      bytes_(static_cast<std::size_t>(layout_.size() * bits_ / 8 + kSlackBytes), 0) {}

PackedCodes::Place PackedCodes::place(std::int64_t group, std::int64_t row,
                                      std::int64_t output) const {
  std::int64_t b = output / kWideBlock;
  while (output >= layout_[b].first + layout_[b].used) ++b;
  const Block& block = layout_[b];
  const std::int64_t at = place_in_row(output - block.first, block.width);
  // A byte contains the codes of places half a row or a quarter of a row apart.
  const std::int64_t row_bytes = block.width * bits_ / 8;
  return {static_cast<std::size_t>(layout_.offset(group, b) * bits_ / 8 + row * row_bytes +
                                   at % row_bytes),
          static_cast<int>(at / row_bytes) * bits_};
}

void PackedCodes::put(std::int64_t group, std::int64_t row, std::int64_t output, int code) {
  const Place p = place(group, row, output);
  const unsigned mask = (1U << bits_) - 1;
  bytes_[p.byte] = static_cast<std::uint8_t>((bytes_[p.byte] & ~(mask << p.shift)) |
                                             ((static_cast<unsigned>(code) & mask) << p.shift));
}

int PackedCodes::get(std::int64_t group, std::int64_t row, std::int64_t output) const {
  const Place p = place(group, row, output);
  const unsigned code = bytes_[p.byte] >> p.shift & ((1U << bits_) - 1), sign = 1U << (bits_ - 1);
  return static_cast<int>(code ^ sign) - static_cast<int>(sign);
}

}  // namespace ttfs
