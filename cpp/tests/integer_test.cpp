// The integer engine against the reference, without Python; and its file format.
//
//     ttfs_integer_test [seed]
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "ttfs/integer.h"
#include "ttfs/isa.h"

namespace {

using namespace ttfs::integer;

int failures = 0;

void check(bool good, const std::string& what) {
  if (good) return;
  std::fprintf(stderr, "failed: %s\n", what.c_str());
  ++failures;
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::int64_t from(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  template <class T>
  T pick(const std::vector<T>& of) {
    return of[static_cast<std::size_t>(from(0, static_cast<std::int64_t>(of.size()) - 1))];
  }

 private:
  std::mt19937_64 engine_;
};

Encoder encoder(std::uint16_t silent) {
  Encoder codes{};
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] =
        static_cast<std::uint16_t>(1 + (255 - i) * (silent > 255 ? 20U : 1U) % (silent - 1U));
  return codes;
}

/// One or two encoders; the second has the intensities in reverse order.
std::vector<Encoder> encoders(std::uint16_t silent, int count) {
  std::vector<Encoder> both(static_cast<std::size_t>(count), encoder(silent));
  if (count == 2) std::reverse(both[1].begin(), both[1].end());
  return both;
}

void add_convolution(Random& random, Network& network) {
  const Size in = network.output();
  Neurons n;
  auto& s = n.shape;
  s.groups = in.channels % 2 == 0 ? random.pick<std::int64_t>({1, 1, 2}) : 1;
  s.in_channels = in.channels;
  s.in_height = in.height;
  s.in_width = in.width;
  s.kernel_height = random.from(1, 4);
  s.kernel_width = random.from(1, 4);
  s.stride_height = random.from(1, 2);
  s.stride_width = random.from(1, 2);
  s.pad_top = random.from(0, 2);
  s.pad_left = random.from(0, 2);
  s.dilation_height = random.pick<std::int64_t>({1, 1, 2});
  s.out_channels = s.groups * random.pick<std::int64_t>({1, 10, 16, 33, 64, 65});
  s.out_height = random.from(1, 8);
  s.out_width = random.from(1, 8);
  n.bits = random.pick<int>({8, 4, 2});
  n.latest = static_cast<std::uint16_t>(network.silent() - 1);
  n.bias_code = static_cast<std::uint16_t>(random.from(1, network.silent() - 1));
  n.ratio = random.pick<std::uint32_t>({kSameUnit, kSameUnit, 60000, 100000});
  const std::int64_t fan = in.channels / s.groups * s.kernel_height * s.kernel_width;
  const std::int64_t extreme = std::int64_t{1} << (n.bits - 1);
  std::vector<std::int8_t> codes(static_cast<std::size_t>(s.out_channels * fan));
  for (std::int8_t& code : codes)
    code =
        static_cast<std::int8_t>(random.from(0, 2) == 0 ? random.from(-extreme, extreme - 1)
                                                        : random.from(-extreme / 2, extreme - 1));
  for (std::int64_t j = 0; j < s.out_channels; ++j) {
    n.theta.push_back(static_cast<std::int32_t>(random.from(1, 200)));
    n.bias.push_back(static_cast<std::int32_t>(random.from(-100, 400)));
  }
  if (random.from(0, 2) == 0) n.bias.clear();
  if (random.from(0, 1) == 0) {  // a horizon, early, somewhere or at the last code
    const std::int64_t last = network.silent() - 1;
    n.reference_code = static_cast<std::uint16_t>(
        random.pick<std::int64_t>({random.from(2, 12), random.from(2, last), last}));
    n.bias_code = static_cast<std::uint16_t>(random.from(1, n.reference_code - 1));
    const std::int64_t steep = random.pick<std::int64_t>({4, 500, kMaxSum});
    for (std::int64_t j = 0; j < s.out_channels; ++j)
      n.slope.push_back(static_cast<std::int32_t>(random.from(1, steep)));
  }
  network.add(n, codes.data());
}

void add_pooling(Random& random, Network& network) {
  const Size in = network.output();
  ttfs::PoolShape s;
  s.channels = in.channels;
  s.in_height = in.height;
  s.in_width = in.width;
  s.kernel_height = random.from(1, 3);
  s.kernel_width = random.from(1, 3);
  s.stride_height = s.stride_width = 2;
  s.out_height = (in.height + 1) / 2;
  s.out_width = (in.width + 1) / 2;
  network.add(s);
}

/// Returns the fraction of the neurons that spike.
double test_network(std::uint64_t seed) {
  Random random(seed);
  const int time_bits = random.pick<int>({8, 16});
  const auto silent = static_cast<std::uint16_t>((1 << time_bits) - 1);
  Network network(time_bits, {random.from(1, 6), random.from(1, 12), random.from(1, 12)}, 0.5,
                  encoders(silent, random.pick<int>({1, 2})));
  for (std::int64_t l = random.from(1, 4); l > 0; --l)
    random.from(0, 3) == 0 ? add_pooling(random, network) : add_convolution(random, network);

  const std::int64_t batch = random.from(1, 3);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(batch * network.image().count()));
  for (std::uint8_t& p : pixels) p = static_cast<std::uint8_t>(random.from(0, 255));
  std::vector<std::vector<std::uint16_t>> expected;
  std::vector<std::uint16_t> codes;
  const auto image = static_cast<std::ptrdiff_t>(network.image().count());
  for (auto first = pixels.begin(); first != pixels.end(); first += image)
    for (const Encoder& each : network.encoders())
      for (auto p = first; p != first + image; ++p) codes.push_back(each[*p]);
  std::int64_t spikes = 0, all = 0;
  for (std::int64_t l = 0; l < network.layer_count(); ++l) {
    std::vector<std::uint16_t> out(static_cast<std::size_t>(batch * network.output(l).count()));
    if (const auto* pooling = network.pooling(l))
      reference::pooling(*pooling, time_bits, batch, codes.data(), out.data());
    else
      reference::neurons(*network.neurons(l), network.weight_codes(l).data(), time_bits, batch,
                         codes.data(), out.data());
    for (const std::uint16_t code : out) spikes += code != silent;
    all += static_cast<std::int64_t>(out.size());
    expected.push_back(out);
    codes = std::move(out);
  }

  const std::vector<std::uint8_t> file = network.serialize();
  const Network again = Network::parse(file.data(), file.size());
  check(again.serialize() == file,
        "a network read and written again, seed " + std::to_string(seed));
  for (const std::string& isa : ttfs::instruction_sets()) {
    ttfs::set_instruction_set(isa);
    for (const int threads : {1, 2, 3, 7}) {
      std::vector<std::vector<std::uint16_t>> outputs;
      std::vector<std::uint16_t*> places;
      for (const auto& each : expected) outputs.emplace_back(each.size());
      for (auto& each : outputs) places.push_back(each.data());
      again.run(pixels.data(), batch, places, threads);
      check(outputs == expected, "engine = reference, seed " + std::to_string(seed) + ", " + isa +
                                     ", " + std::to_string(threads) + " threads");
    }
  }
  return static_cast<double>(spikes) / static_cast<double>(all);
}

void test_refusals() {
  Network network(16, {70000, 1, 1}, 1, {encoder(65535)});
  Neurons n;
  n.shape.in_channels = 70000;
  n.latest = 100;
  n.theta = {1};
  const std::vector<std::int8_t> codes(70000, 127);
  const auto refused = [&](const auto& call, const char* what) {
    bool thrown = false;
    try {
      call();
    } catch (const std::invalid_argument&) {
      thrown = true;
    }
    check(thrown, what);
  };
  refused([&] { network.add(n, codes.data()); }, "too many inputs");
  Network wide(16, {40000, 1, 1}, 1, {encoder(65535)});
  n.shape.in_channels = 40000;
  refused([&] { wide.add(n, codes.data()); }, "sums that could overflow");
  Network single(16, {1, 1, 1}, 1, {encoder(65535)});
  n.shape.in_channels = 1;
  n.slope = {5};
  refused([&] { single.add(n, codes.data()); }, "a slope without a horizon");
  n.reference_code = 65535;
  refused([&] { single.add(n, codes.data()); }, "a horizon at the silent code");
  n.reference_code = 100;
  for (const std::int32_t slope : {0, -1, (1 << 22) + 1}) {
    n.slope = {slope};
    refused([&] { single.add(n, codes.data()); }, "a slope outside 1 to 2^22");
  }
  n.slope = {};
  refused([&] { single.add(n, codes.data()); }, "a horizon without slopes");
  n.slope = {1 << 22};
  n.bias = {1};
  n.bias_code = 100;
  refused([&] { single.add(n, codes.data()); }, "a bias at the horizon");
  n.bias_code = 99;
  single.add(n, codes.data());
  check(single.layer_count() == 1, "a layer with a horizon");
  check(wide.layer_count() == 0, "a refused layer is not there");
  refused([&] { (void)Network(16, {1, 1, 1}, 1, {}); }, "0 encoders");
  refused([&] { (void)Network(7, {1, 1, 1}, 1, {encoder(255)}); }, "7-bit codes");
  std::int32_t none = 0;
  const std::uint8_t pixel = 0;
  refused([&] { wide.classify(&pixel, 1, &none, 1); }, "a network without layers");
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  double spikes = 0;
  constexpr int networks = 60;
  for (int i = 0; i < networks; ++i) spikes += test_network(seed * 1000 + static_cast<unsigned>(i));
  std::printf("%.0f %% of the neurons spiked\n", 100 * spikes / networks);
  check(spikes / networks > 0.4, "enough neurons spike");
  test_refusals();
  return failures == 0 ? 0 : 1;
}
