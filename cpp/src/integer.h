// How the integer engine keeps a network in memory; shared by src/integer*.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <new>
#include <optional>
#include <vector>

#include "kernels/integer_table.h"
#include "src/shape.h"
#include "ttfs/integer.h"

namespace ttfs::integer {

/// Memory on cache lines: a row of a wide block is one.
template <class T>
struct OnLines {
  using value_type = T;
  OnLines() = default;
  template <class U>
  OnLines(const OnLines<U>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const OnLines&) const = default;
};

/// Outputs of one group that are swept together.
struct Block {
  std::int64_t first, width, used;  // within the group
  std::int64_t offset;              // of its packed weights within the group's
};

/// Weights in the layout of the kernels: [group][block][row][place in row], `bits` bits each, rows
/// in the order (kernel row, kernel column, channel). With 8 bits the kernels read them in place,
/// and a row of zeros ends each block.
class PackedWeights {
 public:
  explicit PackedWeights(const Neurons& neurons);

  /// Takes the next code in the order [group][row][output]: the order of the file.
  void put(std::int64_t group, std::int64_t row, std::int64_t output, int code);
  int get(std::int64_t group, std::int64_t row, std::int64_t output) const;

  std::int64_t rows() const { return rows_; }
  std::int64_t outputs() const { return outputs_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  const std::uint8_t* block(std::int64_t group, const Block& b) const {
    return bytes_.data() + group * group_bytes_ + b.offset;
  }
  std::int64_t bytes() const { return static_cast<std::int64_t>(bytes_.size()); }

 private:
  struct Place {
    std::int64_t byte;
    int shift;
  };
  Place place(std::int64_t group, std::int64_t row, std::int64_t output) const;

  int bits_;
  std::int64_t rows_, outputs_, group_bytes_ = 0;
  std::vector<Block> blocks_;
  std::vector<std::uint8_t, OnLines<std::uint8_t>> bytes_;
};

struct Layer {
  std::optional<Neurons> neurons;
  std::optional<PoolShape> pooling;
  Size input, output;
  // Of a layer of neurons:
  std::optional<PackedWeights> weights;
  // [group][block][place], for whole blocks; slope with a horizon only
  std::vector<std::int32_t> theta, bias, slope;
  std::vector<std::int32_t> most_negative;  // [group][block]
  std::vector<std::int32_t> highest_theta;  // [group][block]
  std::int64_t span = 0;                    // longest group of events that 32 bits hold
};

struct Network::State {
  int time_bits;
  Size image;
  double unit;
  std::vector<Encoder> encoders;
  std::vector<Layer> layers;

  std::uint16_t silent() const { return static_cast<std::uint16_t>((1 << time_bits) - 1); }
  Size input() const {
    return {image.channels * static_cast<std::int64_t>(encoders.size()), image.height, image.width};
  }
  Size last() const { return layers.empty() ? input() : layers.back().output; }
};

/// Weights of one layer, one after the other in the order of the file.
using NextCode = std::function<int()>;

/// Checks a layer against the network so far, packs its weights, and appends it.
void append(Network::State& state, const Neurons& neurons, const NextCode& next);
void append(Network::State& state, const PoolShape& pooling);

/// Throws std::invalid_argument where the description itself is not allowed.
void check_header(const Network::State& state);
void check_geometry(const Network::State& state, const Neurons& neurons);

/// Runs one layer, channels last: in (batch, height, width, channels), and so out.
void run_layer(const Layer& layer, std::uint16_t silent, std::int64_t batch,
               const std::uint16_t* in, std::uint16_t* out, int threads);

}  // namespace ttfs::integer
