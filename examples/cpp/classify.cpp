// Classifies the images of an IDX file (as MNIST has them, unpacked) with an integer network: no
// Python, no floating point.
//
//     ttfs_example_classify mnist.ttfs t10k-images-idx3-ubyte [t10k-labels-idx1-ubyte]
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "ttfs/integer.h"
#include "ttfs/isa.h"

namespace {

struct Idx {
  std::vector<std::uint32_t> sizes;
  std::vector<std::uint8_t> values;
};

/// An IDX file of bytes: two zero bytes, the type 8, the number of sizes, the sizes (big-endian).
Idx read_idx(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::uint8_t head[4] = {};
  if (!file.read(reinterpret_cast<char*>(head), 4) || head[0] != 0 || head[1] != 0 || head[2] != 8)
    throw std::runtime_error(path + " is not an unpacked IDX file of bytes");
  Idx idx;
  std::uint64_t count = 1;
  for (int d = 0; d < head[3]; ++d) {
    std::uint8_t size[4] = {};
    if (!file.read(reinterpret_cast<char*>(size), 4))
      throw std::runtime_error(path + " is cut short");
    idx.sizes.push_back(static_cast<std::uint32_t>(size[0]) << 24 | size[1] << 16 | size[2] << 8 |
                        size[3]);
    count *= idx.sizes.back();
    if (count > std::uint64_t{1} << 32) throw std::runtime_error(path + " is too large");
  }
  // In pieces, so that a wrong size ends with the file and not with the memory.
  std::vector<char> piece(1 << 16);
  while (idx.values.size() < count) {
    const auto left = static_cast<std::streamsize>(count - idx.values.size());
    file.read(piece.data(), std::min(left, static_cast<std::streamsize>(piece.size())));
    if (file.gcount() == 0) throw std::runtime_error(path + " is cut short");
    idx.values.insert(idx.values.end(), piece.data(), piece.data() + file.gcount());
  }
  return idx;
}

void run(const std::string& network_path, const std::string& images_path, const char* labels_path) {
  const auto network = ttfs::integer::Network::load(network_path);
  const Idx images = read_idx(images_path);
  const auto image = network.image();
  const std::int64_t count = images.sizes.empty() ? 0 : images.sizes[0];
  if (count == 0 || images.values.size() != static_cast<std::size_t>(count * image.count()))
    throw std::runtime_error(images_path + " does not hold images of the network's size");
  const int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  std::vector<std::int32_t> classes(static_cast<std::size_t>(count));
  const auto begin = std::chrono::steady_clock::now();
  constexpr std::int64_t batch = 200;
  for (std::int64_t n = 0; n < count; n += batch)
    network.classify(images.values.data() + n * image.count(), std::min(batch, count - n),
                     classes.data() + n, threads);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  std::printf("%lld images, %.0f a second, %d threads, %s instructions\n",
              static_cast<long long>(count), static_cast<double>(count) / time.count(), threads,
              ttfs::instruction_set().c_str());
  if (!labels_path) {
    for (const std::int32_t each : classes) std::printf("%d\n", each);
    return;
  }
  const Idx labels = read_idx(labels_path);
  if (labels.values.size() != classes.size())
    throw std::runtime_error(std::string(labels_path) + " holds another number of labels");
  std::int64_t correct = 0;
  for (std::size_t i = 0; i < classes.size(); ++i) correct += classes[i] == labels.values[i];
  std::printf("%lld correct, %.2f %%\n", static_cast<long long>(correct),
              100.0 * static_cast<double>(correct) / static_cast<double>(count));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr, "usage: %s NETWORK IMAGES [LABELS]\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2], argc == 4 ? argv[3] : nullptr);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
