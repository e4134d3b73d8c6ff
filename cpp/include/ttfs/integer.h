// Networks of spiking neurons in integers, from pixels to class: spike codes of 8 or 16 bits,
// weights of 8, 4 or 2 bits. docs/integer.md is the specification; every implementation gives the
// same codes, bit for bit.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ttfs/layers.h"

namespace ttfs::integer {

/// The largest number of inputs of one neuron, without the bias.
inline constexpr std::int64_t kMaxInputs = 65535;

/// The largest sum of a neuron's weights of one sign, with the bias; the threshold counts as a
/// negative weight. docs/integer.md derives it.
inline constexpr std::int64_t kMaxSum = std::int64_t{1} << 22;

/// `Neurons::ratio` of a layer whose input and output codes have the same unit.
inline constexpr std::uint32_t kSameUnit = 1U << 16;
inline constexpr std::uint32_t kMaxRatio = 1U << 23;

/// Spike codes or pixels of one image: channels, rows, columns.
struct Size {
  std::int64_t channels = 1, height = 1, width = 1;
  std::int64_t count() const { return channels * height * width; }
  bool operator==(const Size&) const = default;
};

/// The spike code of each pixel intensity.
using Encoder = std::array<std::uint16_t, 256>;

/// A layer of neurons. A fully connected layer is a convolution whose kernel covers its input. In a
/// layer with a horizon, padding and every input that has not spiked before `reference_code` count
/// as spiking then, together with a reference input that brings each neuron's slope to `slope`.
struct Neurons {
  ConvShape shape;                   // its batch is ignored
  int bits = 8;                      // of a weight: 8, 4 or 2
  std::uint32_t ratio = kSameUnit;   // output code = round(spike time * ratio / 2^16)
  std::uint16_t latest = 0;          // spikes with a later output code are treated as no spike
  std::uint16_t bias_code = 1;       // spike code of the bias input
  std::vector<std::int32_t> theta;   // threshold of every output
  std::vector<std::int32_t> bias;    // bias weight of every output, or empty
  std::uint16_t reference_code = 0;  // the horizon of the inputs; 0: no horizon
  std::vector<std::int32_t> slope;   // of every output after the horizon; empty without one
};

/// The integer weight that the sums use for a weight code of `bits` bits.
constexpr int weight_of_code(int code, int bits) {
  return bits == 8 ? code : bits == 4 ? code * 16 : code * 64 + 32;
}

class Network {
 public:
  /// A network without layers. Each of the one or two encoders turns a pixel into a spike; the
  /// channels by the first encoder come before those by the second. `unit` is the spike
  /// value exp(t) of one step of an input code, stored for information only. Throws
  /// std::invalid_argument, like the functions below.
  Network(int time_bits, Size image, double unit, const std::vector<Encoder>& encoders);
  ~Network();
  Network(Network&&) noexcept;
  Network& operator=(Network&&) noexcept;

  /// Appends a layer of neurons; `codes` are its weights' codes, dense (out_channels, in_channels /
  /// groups, kernel_height, kernel_width). Refuses a layer whose sums could overflow.
  void add(const Neurons& neurons, const std::int8_t* codes);
  /// Appends first-spike pooling.
  void add(const PoolShape& pooling);

  /// Sets the names of the classes, one for each channel of the output, in UTF-8; an empty list
  /// removes them. Layers cannot be added to a network whose classes have names.
  void set_classes(std::vector<std::string> names);

  /// Reads a file that `serialize` wrote, or one of version 1. Throws std::runtime_error if the
  /// file cannot be read, is truncated, was altered, or is of another version.
  static Network load(const std::string& path);
  static Network parse(const std::uint8_t* data, std::size_t size);
  std::vector<std::uint8_t> serialize() const;

  int time_bits() const;
  std::uint16_t silent() const;  ///< the code for "no spike": 2^time_bits - 1
  double unit() const;
  Size image() const;
  Size input() const;  ///< spike codes of an image
  Size output() const;
  const std::vector<Encoder>& encoders() const;
  const std::vector<std::string>& classes() const;  ///< their names; empty if they have none

  std::int64_t layer_count() const;
  Size output(std::int64_t layer) const;
  /// The description of a layer of neurons, or null for pooling; `pooling` is null for neurons.
  const Neurons* neurons(std::int64_t layer) const;
  const PoolShape* pooling(std::int64_t layer) const;
  /// The weights' codes, as `add` takes them.
  std::vector<std::int8_t> weight_codes(std::int64_t layer) const;

  /// Memory of the weights, in bytes.
  std::int64_t weight_bytes() const;

  /// Runs `batch` inputs, dense (batch, channels, height, width) spike codes from 1 to silent().
  /// Writes the output codes of layer l to outputs[l], in the same layout, unless it is null.
  void run(const std::uint16_t* codes, std::int64_t batch,
           const std::vector<std::uint16_t*>& outputs, int threads) const;
  /// The same from pixels, dense (batch, image channels, height, width).
  void run(const std::uint8_t* pixels, std::int64_t batch,
           const std::vector<std::uint16_t*>& outputs, int threads) const;

  /// The output that spikes first (the lowest index of several), or -1 if all are silent.
  void classify(const std::uint8_t* pixels, std::int64_t batch, std::int32_t* classes,
                int threads) const;

  struct State;  // src/integer.h

 private:
  explicit Network(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

namespace reference {

/// A layer by the specification, slow and simple, on dense (batch, channels, height, width) codes.
void neurons(const Neurons& layer, const std::int8_t* weight_codes, int time_bits,
             std::int64_t batch, const std::uint16_t* codes, std::uint16_t* out);
void pooling(const PoolShape& layer, int time_bits, std::int64_t batch, const std::uint16_t* codes,
             std::uint16_t* out);

}  // namespace reference

}  // namespace ttfs::integer
