// Corrupted files of integer networks: each must be refused with an error that says why,
// or load as a network that runs. To be built with sanitizers (the preset asan).
//
//     ttfs_integer_fuzz [tries] [seed]
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "ttfs/integer.h"

namespace {

using ttfs::integer::Network;
using Bytes = std::vector<std::uint8_t>;

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  std::size_t below(std::size_t end) { return engine_() % end; }

 private:
  std::mt19937_64 engine_;
};

std::uint32_t crc32(const Bytes& data, std::size_t n) {
  std::uint32_t c = 0xffffffffU;
  for (std::size_t i = 0; i < n; ++i) {
    c ^= data[i];
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xedb88320U ^ (c >> 1) : c >> 1;
  }
  return ~c;
}

void put(Bytes& file, std::size_t at, std::uint64_t value, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes && at + i < file.size(); ++i)
    file[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
}

/// Corrects size and checksum, so that the checks after them are reached.
void seal(Bytes& file) {
  if (file.size() < 24) return;
  put(file, 12, file.size(), 8);
  put(file, file.size() - 4, crc32(file, file.size() - 4), 4);
}

constexpr std::size_t kEncoders = 48;  // where the encoders begin

Bytes small_network(int bits, int time_bits, bool bias, int encoders, bool horizon, bool names) {
  ttfs::integer::Encoder encoder{};
  for (std::size_t i = 0; i < encoder.size(); ++i)
    encoder[i] = static_cast<std::uint16_t>(1 + i % 254);
  Network network(time_bits, {2 / encoders, 5, 5}, 1.0 / 256,
                  std::vector<ttfs::integer::Encoder>(static_cast<std::size_t>(encoders), encoder));
  ttfs::integer::Neurons n;
  auto& s = n.shape;
  s.in_channels = 2;
  s.in_height = s.in_width = s.out_height = s.out_width = 5;
  s.out_channels = 6;
  s.kernel_height = s.kernel_width = 3;
  s.pad_top = s.pad_left = 1;
  n.bits = bits;
  n.latest = static_cast<std::uint16_t>(network.silent() - 1);
  n.theta.assign(6, 50);
  if (bias) n.bias.assign(6, 40);
  n.reference_code = horizon ? 200 : 0;
  if (horizon) n.slope.assign(6, 60);
  const std::vector<std::int8_t> codes(6 * 2 * 9, 1);
  network.add(n, codes.data());
  ttfs::PoolShape pooling;
  pooling.channels = 6;
  pooling.in_height = pooling.in_width = 5;
  pooling.out_height = pooling.out_width = 2;
  pooling.kernel_height = pooling.kernel_width = 2;
  pooling.stride_height = pooling.stride_width = 2;
  network.add(pooling);
  n.shape = {};
  n.shape.in_channels = 6;
  n.shape.in_height = n.shape.in_width = n.shape.kernel_height = n.shape.kernel_width = 2;
  n.shape.out_channels = 3;
  n.theta.assign(3, 50);
  if (bias) n.bias.assign(3, 40);
  if (horizon) n.slope.assign(3, 60);
  const std::vector<std::int8_t> last(3 * 6 * 4, 1);
  network.add(n, last.data());
  if (names) network.set_classes({"cat", "dog", "\xc3\xa9l\xc3\xa9phant"});
  return network.serialize();
}

Bytes corrupted(Bytes file, Random& random) {
  const std::uint64_t absurd[] = {
      0,          1,          0x7f,       0xff,        0xffff,
      0x10000,    0xffffff,   0x10000000, 0x7fffffff,  0x80000000,
      0xfffffffe, 0xffffffff, 0x3fffffff, 0x100000001, ~std::uint64_t{0}};
  switch (random.below(6)) {
    case 0:  // truncated
      file.resize(random.below(file.size()));
      break;
    case 1:  // bits flipped, size and checksum not corrected
      for (std::size_t i = random.below(8) + 1; i > 0; --i)
        file[random.below(file.size())] ^= static_cast<std::uint8_t>(1U << random.below(8));
      return file;
    case 2:  // bits flipped
      for (std::size_t i = random.below(8) + 1; i > 0; --i)
        file[random.below(file.size())] ^= static_cast<std::uint8_t>(1U << random.below(8));
      break;
    case 3:  // absurd numbers, outside the encoder as often as within
      for (std::size_t i = random.below(3) + 1; i > 0; --i) {
        std::size_t at = random.below(file.size());
        constexpr std::size_t end = kEncoders + 2 * 256;
        if (at >= kEncoders && at < end && random.below(8) != 0)
          at = end + random.below(file.size() - end);
        put(file, at, absurd[random.below(std::size(absurd))], 4);
      }
      break;
    case 4: {  // a part removed or repeated
      const auto begin = static_cast<std::ptrdiff_t>(random.below(file.size()));
      const auto end = begin + static_cast<std::ptrdiff_t>(
                                   random.below(file.size() - static_cast<std::size_t>(begin)));
      if (random.below(2) == 0) {
        file.erase(file.begin() + begin, file.begin() + end);
      } else {
        const Bytes part(file.begin() + begin, file.begin() + end);
        file.insert(file.begin() + begin, part.begin(), part.end());
      }
      break;
    }
    default:  // random bytes
      for (std::size_t i = random.below(40) + 1; i > 0; --i)
        file[random.below(file.size())] = static_cast<std::uint8_t>(random.below(256));
  }
  if (random.below(8) != 0) seal(file);
  return file;
}

}  // namespace

int main(int argc, char** argv) {
  const long tries = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 20000;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
  Random random(seed);
  std::vector<Bytes> files;
  for (const int bits : {8, 4, 2})
    for (const int time_bits : {8, 16})
      for (const bool bias : {false, true})
        for (const int encoders : {1, 2})
          for (const bool horizon : {false, true})
            for (const bool names : {false, true})
              files.push_back(small_network(bits, time_bits, bias, encoders, horizon, names));
  long loaded = 0, refused = 0;
  for (long i = 0; i < tries; ++i) {
    const Bytes file = corrupted(files[random.below(files.size())], random);
    try {
      const Network network = Network::parse(file.data(), file.size());
      ++loaded;
      // A network that loads must run; very large ones are skipped to save time.
      bool small = network.layer_count() > 0 && network.input().count() < 10000;
      std::vector<std::vector<std::uint16_t>> outputs;
      std::vector<std::uint16_t*> places;
      for (std::int64_t l = 0; small && l < network.layer_count(); ++l) {
        small = network.output(l).count() < 10000;
        if (small) outputs.emplace_back(static_cast<std::size_t>(network.output(l).count()));
      }
      if (!small) continue;
      for (auto& each : outputs) places.push_back(each.data());
      const std::vector<std::uint8_t> pixels(static_cast<std::size_t>(network.image().count()), 9);
      network.run(pixels.data(), 1, places, 1);
      // Files of version 1 do not have the number of encoders.
      if (network.serialize().size() != file.size() + (file[8] == 1 ? 4 : 0)) {
        std::fprintf(stderr, "try %ld: a file that loads is written in another size\n", i);
        return 1;
      }
    } catch (const std::runtime_error& error) {
      if (std::string(error.what()).find("not an integer network") == std::string::npos) {
        std::fprintf(stderr, "try %ld: %s\n", i, error.what());
        return 1;
      }
      ++refused;
    }
  }
  std::printf("seed %llu: %ld files, %ld refused, %ld loaded and run\n",
              static_cast<unsigned long long>(seed), tries, refused, loaded);
  return loaded > tries / 100 && refused > tries / 2 ? 0 : 1;
}
