// How the integer engine keeps a network in memory; shared by src/integer*.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "src/packing.h"
#include "src/shape.h"
#include "ttfs/integer.h"

namespace ttfs::integer {

struct Layer {
  std::optional<Neurons> neurons;
  std::optional<PoolShape> pooling;
  Size input, output;
  // Of a layer of neurons:
  std::optional<PackedCodes> weights;
  // [group][block][place], for all places of the blocks; slope with a horizon only
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
  std::vector<std::string> classes;

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

/// Names the output channels: none of them, or each, in UTF-8 and no name twice.
void name_classes(Network::State& state, std::vector<std::string> names);

/// Runs one layer, channels last: in (batch, height, width, channels), and so out.
void run_layer(const Layer& layer, std::uint16_t silent, std::int64_t batch,
               const std::uint16_t* in, std::uint16_t* out, int threads);

}  // namespace ttfs::integer
