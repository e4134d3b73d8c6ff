// A spiking network in C++ alone: pixels to spikes, a convolution, a pooling, a fully connected
// layer. The weights are random, so the answer means nothing; the point is how to call the core.
//
//     ttfs_example_spikes                         a drawn ring
//     ttfs_example_spikes t10k-images-idx3-ubyte  the first image of an IDX file (not gzipped)
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "ttfs/isa.h"
#include "ttfs/layers.h"

namespace {

constexpr std::int64_t kSide = 28;
constexpr double kNever = std::numeric_limits<double>::infinity();

/// Strides of a dense (batch, channels, height, width) array.
ttfs::Strides4 dense(std::int64_t channels, std::int64_t height, std::int64_t width) {
  return {channels * height * width, height * width, width, 1};
}

std::vector<float> ring() {
  std::vector<float> pixels;
  for (std::int64_t y = 0; y < kSide; ++y)
    for (std::int64_t x = 0; x < kSide; ++x) {
      const double radius =
          std::hypot(static_cast<double>(y) - 13.5, static_cast<double>(x) - 13.5);
      pixels.push_back(static_cast<float>(std::clamp(2.5 - std::abs(radius - 8), 0.0, 1.0)));
    }
  return pixels;
}

std::vector<float> first_image(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<unsigned char, 16 + kSide * kSide> bytes{};
  if (!file.read(reinterpret_cast<char*>(bytes.data()), bytes.size()))
    throw std::runtime_error(path + ": cannot be read, or is shorter than one image");
  const std::array<unsigned char, 4> magic{0, 0, 8, 3};
  if (!std::equal(magic.begin(), magic.end(), bytes.begin()) || bytes[11] != kSide ||
      bytes[15] != kSide)
    throw std::runtime_error(path + ": not an IDX file of 28 x 28 images");
  std::vector<float> pixels;
  for (std::size_t i = 16; i < bytes.size(); ++i)
    pixels.push_back(static_cast<float>(bytes[i]) / 255);
  return pixels;
}

/// Weights that make neurons fire: uniform in [0, 8 / inputs].
std::vector<float> random_weights(std::mt19937& random, std::int64_t outputs, std::int64_t inputs) {
  std::uniform_real_distribution<float> uniform(0, 8.0F / static_cast<float>(inputs));
  std::vector<float> weights(static_cast<std::size_t>(outputs * inputs));
  for (float& w : weights) w = uniform(random);
  return weights;
}

int run(const std::vector<float>& pixels) {
  const int threads = 2;
  std::mt19937 random(0);

  // Bright pixels spike first: t = 3 (1 - p), z = exp(t).
  std::vector<float> z;
  for (float p : pixels) z.push_back(std::exp(3 * (1 - p)));

  // Convolution 5 x 5, 8 channels, stride 2: 28 x 28 -> 14 x 14.
  ttfs::ConvShape conv;
  conv.in_height = conv.in_width = kSide;
  conv.out_channels = 8;
  conv.kernel_height = conv.kernel_width = 5;
  conv.stride_height = conv.stride_width = 2;
  conv.pad_top = conv.pad_left = 1;
  conv.out_height = conv.out_width = 14;
  const auto conv_weights = random_weights(random, 8, 25);
  std::vector<float> hidden(8 * 14 * 14), slope(hidden.size());
  ttfs::spiking_conv2d_forward<float>(conv, {z.data(), dense(1, kSide, kSide)}, conv_weights.data(),
                                      nullptr, kNever, {hidden.data(), dense(8, 14, 14)},
                                      slope.data(), threads);

  // First spike of each 2 x 2 window: 14 x 14 -> 7 x 7.
  ttfs::PoolShape pool;
  pool.channels = 8;
  pool.in_height = pool.in_width = 14;
  pool.kernel_height = pool.kernel_width = pool.stride_height = pool.stride_width = 2;
  pool.out_height = pool.out_width = 7;
  std::vector<float> pooled(8 * 7 * 7);
  std::vector<std::int32_t> place(pooled.size());
  ttfs::spiking_max_pool2d_forward<float>(pool, {hidden.data(), dense(8, 14, 14)},
                                          {pooled.data(), dense(8, 7, 7)}, place.data(), threads);

  // Fully connected: 392 -> 10.
  const auto linear = ttfs::linear_shape(1, 392, 10);
  const auto linear_weights = random_weights(random, 10, 392);
  std::vector<float> classes(10), class_slope(10);
  ttfs::spiking_conv2d_forward<float>(
      linear, {pooled.data(), dense(392, 1, 1)}, linear_weights.data(), nullptr, kNever,
      {classes.data(), dense(10, 1, 1)}, class_slope.data(), threads);

  std::printf("instruction set: %s\n", ttfs::instruction_set().c_str());
  const auto spiking =
      std::count_if(hidden.begin(), hidden.end(), [](float v) { return std::isfinite(v); });
  std::printf("convolution: %lld of %zu neurons spike\n", static_cast<long long>(spiking),
              hidden.size());
  for (std::size_t i = 0; i < classes.size(); ++i)
    std::printf("class %zu spikes at t = %.4f\n", i, static_cast<double>(std::log(classes[i])));
  const auto first = std::min_element(classes.begin(), classes.end()) - classes.begin();
  std::printf("first: class %td\n", first);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? first_image(argv[1]) : ring());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
