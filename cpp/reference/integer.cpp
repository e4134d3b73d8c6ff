// The specification, docs/integer.md, in the same order.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "src/interrupt.h"
#include "ttfs/integer.h"

namespace ttfs::integer::reference {
namespace {

/// An input that spikes: its code, and its number among a neuron's inputs.
struct Event {
  std::int64_t code, input;
};

/// Radix sort by the bytes of the codes, the lower byte first. (A comparison sort would take most
/// of the reference's time.)
void sort_by_code(std::vector<Event>& events) {
  std::vector<Event> sorted(events.size());
  for (const int shift : {0, 8}) {
    const auto byte = [&](const Event& event) {
      return static_cast<std::size_t>(event.code >> shift & 255);
    };
    std::array<std::size_t, 257> first{};  // of each bucket
    for (const Event& event : events) ++first[byte(event) + 1];
    std::partial_sum(first.begin(), first.end(), first.begin());
    for (const Event& event : events) sorted[first[byte(event)]++] = event;
    events.swap(sorted);
  }
}

/// Finds when F of one neuron first reaches 0. The events are in the order of their codes, all
/// before the horizon; weights[input] is the neuron's weight.
std::uint16_t neuron(const std::vector<Event>& events, const std::int64_t* weights,
                     std::size_t output, const Neurons& layer, std::uint16_t silent) {
  // F(z) = sum of w_i (z - z_i) - theta z, with slope B; both at the codes of the inputs so far.
  std::int64_t slope = -layer.theta[output], membrane = 0, now = 0;
  const auto reached_by = [&](std::int64_t code) {
    membrane += slope * (code - now);
    now = code;
    return membrane >= 0;  // the crossing is before this input, or at it
  };
  bool reached = false;
  for (const Event& event : events) {
    reached = reached_by(event.code);
    if (reached) break;
    slope += weights[event.input];
  }
  if (layer.reference_code > 0 && !reached && !reached_by(layer.reference_code))
    slope = layer.slope[output];
  if (slope <= 0) return silent;  // no further input, and F does not rise
  // The crossing lies at moment / slope, moment = sum of w_i z_i. Scale, round halves upwards.
  const std::int64_t moment = slope * now - membrane;
  const std::int64_t divisor = slope * 65536;
  const std::int64_t code =
      std::max<std::int64_t>((moment * std::int64_t{layer.ratio} + divisor / 2) / divisor, 1);
  return code > layer.latest ? silent : static_cast<std::uint16_t>(code);
}

/// The integer weights of every output: those of its inputs, then that of its bias.
std::vector<std::int64_t> integer_weights(const Neurons& layer, const std::int8_t* weight_codes,
                                          std::int64_t inputs) {
  std::vector<std::int64_t> weights;
  for (std::int64_t output = 0; output < layer.shape.out_channels; ++output) {
    for (std::int64_t input = 0; input < inputs; ++input)
      weights.push_back(weight_of_code(*weight_codes++, layer.bits));
    weights.push_back(layer.bias.empty() ? 0 : layer.bias[static_cast<std::size_t>(output)]);
  }
  return weights;
}

}  // namespace

void neurons(const Neurons& layer, const std::int8_t* weight_codes, int time_bits,
             std::int64_t batch, const std::uint16_t* codes, std::uint16_t* out) {
  const ConvShape& s = layer.shape;
  const auto silent = static_cast<std::uint16_t>((1 << time_bits) - 1);
  const std::int64_t channels = s.in_channels / s.groups, outputs = s.out_channels / s.groups;
  const std::int64_t inputs = channels * s.kernel_height * s.kernel_width;
  const std::int64_t pixels = s.out_height * s.out_width;
  const std::uint16_t end = layer.reference_code > 0 ? layer.reference_code : silent;
  const std::vector<std::int64_t> weights = integer_weights(layer, weight_codes, inputs);
  std::vector<Event> events;
  const Stop stop;
  for (std::int64_t n = 0; n < batch; ++n)
    for (std::int64_t group = 0; group < s.groups; ++group)
      for (std::int64_t pixel = 0; pixel < pixels; ++pixel) {
        if (stop(0)) stop.check();
        const std::int64_t row = pixel / s.out_width, column = pixel % s.out_width;
        events.clear();
        std::int64_t input = 0;
        for (std::int64_t c = group * channels; c < (group + 1) * channels; ++c)
          for (std::int64_t ky = 0; ky < s.kernel_height; ++ky)
            for (std::int64_t kx = 0; kx < s.kernel_width; ++kx, ++input) {
              const std::int64_t y = row * s.stride_height - s.pad_top + ky * s.dilation_height;
              const std::int64_t x = column * s.stride_width - s.pad_left + kx * s.dilation_width;
              if (y < 0 || y >= s.in_height || x < 0 || x >= s.in_width) continue;
              const std::uint16_t code =
                  codes[((n * s.in_channels + c) * s.in_height + y) * s.in_width + x];
              if (code < end) events.push_back({code, input});
            }
        if (!layer.bias.empty()) events.push_back({layer.bias_code, inputs});
        sort_by_code(events);
        for (std::int64_t m = group * outputs; m < (group + 1) * outputs; ++m)
          out[(n * s.out_channels + m) * pixels + pixel] =
              neuron(events, weights.data() + m * (inputs + 1), static_cast<std::size_t>(m), layer,
                     silent);
      }
}

void pooling(const PoolShape& s, int time_bits, std::int64_t batch, const std::uint16_t* codes,
             std::uint16_t* out) {
  const auto silent = static_cast<std::uint16_t>((1 << time_bits) - 1);
  for (std::int64_t plane = 0; plane < batch * s.channels; ++plane)
    for (std::int64_t row = 0; row < s.out_height; ++row)
      for (std::int64_t column = 0; column < s.out_width; ++column) {
        std::uint16_t first = silent;
        for (std::int64_t ky = 0; ky < s.kernel_height; ++ky)
          for (std::int64_t kx = 0; kx < s.kernel_width; ++kx) {
            const std::int64_t y = row * s.stride_height - s.pad_top + ky * s.dilation_height;
            const std::int64_t x = column * s.stride_width - s.pad_left + kx * s.dilation_width;
            if (y < 0 || y >= s.in_height || x < 0 || x >= s.in_width) continue;
            first = std::min(first, codes[(plane * s.in_height + y) * s.in_width + x]);
          }
        *out++ = first;
      }
}

}  // namespace ttfs::integer::reference
