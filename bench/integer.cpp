// The integer engine under google-benchmark: whole layers, and each of its kernels alone. Layers
// report synapses a second as bench/layers.cpp does, kernels items a second.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "kernels/table.h"
#include "ttfs/integer.h"
#include "ttfs/isa.h"

namespace {

using namespace ttfs;
using namespace ttfs::integer;

constexpr double kUnit = 1.0 / 256;
constexpr double kSpiking = 0.62;
constexpr std::uint16_t kSilent = 65535;

std::vector<std::uint16_t> random_codes(std::int64_t count, std::mt19937& random) {
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<std::uint16_t> codes(static_cast<std::size_t>(count));
  for (std::uint16_t& code : codes) {
    const double z = std::exp(2 * uniform(random));
    code = uniform(random) > kSpiking ? kSilent : static_cast<std::uint16_t>(z / kUnit + 0.5);
  }
  return codes;
}

/// A 3x3 convolution, or a fully connected layer where size is 0.
void layer(benchmark::State& state, std::int64_t in, std::int64_t out, std::int64_t size,
           int bits) {
  const std::int64_t batch = state.range(0), kernel = size ? 3 : 1, side = size ? size : 1;
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  Neurons n;
  n.shape.in_channels = in;
  n.shape.out_channels = out;
  n.shape.in_height = n.shape.in_width = n.shape.out_height = n.shape.out_width = side;
  n.shape.kernel_height = n.shape.kernel_width = kernel;
  n.shape.pad_top = n.shape.pad_left = kernel / 2;
  n.bits = bits;
  n.latest = kSilent - 1;
  const auto fan = static_cast<std::size_t>(in * kernel * kernel);
  std::vector<std::int8_t> codes;
  std::vector<double> weights(fan);
  const int step = bits == 8 ? 1 : bits == 4 ? 16 : 64, top = 1 << (bits - 1);
  for (std::int64_t j = 0; j < out; ++j) {
    double largest = 0;
    for (double& w : weights) {
      const auto count = static_cast<double>(fan);
      w = 2 / count + 3 / std::sqrt(count) * normal(random);
      largest = std::max(largest, std::abs(w));
    }
    n.theta.push_back(static_cast<std::int32_t>(127 / largest));
    for (const double w : weights)
      codes.push_back(static_cast<std::int8_t>(
          std::clamp(std::floor(w * n.theta.back() / step + (bits == 2 ? 0 : 0.5)),
                     static_cast<double>(-top), static_cast<double>(top - 1))));
  }
  Encoder encoder{};
  encoder.fill(1);
  Network network(16, {in, side, side}, kUnit, {encoder});
  network.add(n, codes.data());
  const auto input = random_codes(batch * network.input().count(), random);
  std::vector<std::uint16_t> output(static_cast<std::size_t>(batch * network.output().count()));
  for (auto _ : state)
    network.run(input.data(), batch, {output.data()}, static_cast<int>(state.range(1)));
  state.counters["synapses"] = benchmark::Counter(
      kSpiking * static_cast<double>(fan) * static_cast<double>(output.size()),
      benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

/// Events of one receptive field, sorted, with rows of weights.
std::vector<std::uint32_t> sorted_events(std::int64_t count, std::mt19937& random) {
  const auto codes = random_codes(3 * count, random);
  std::vector<std::uint32_t> words;
  for (std::size_t i = 0; i < codes.size() && static_cast<std::int64_t>(words.size()) < count; ++i)
    if (codes[i] < kSilent) words.push_back(event_word(codes[i], static_cast<std::uint32_t>(i)));
  std::sort(words.begin(), words.end());
  words.resize(words.size() / kGroupEvents * kGroupEvents);
  return words;
}

void items(benchmark::State& state, std::int64_t count) {
  state.SetItemsProcessed(state.iterations() * count);
}

void collect(benchmark::State& state) {
  std::mt19937 random(0);
  const auto codes = random_codes(state.range(0), random);
  std::vector<std::uint32_t> events(codes.size() + 32);
  for (auto _ : state)
    benchmark::DoNotOptimize(
        kernels().integer.collect(codes.data(), state.range(0), 0, kSilent, events.data()));
  items(state, state.range(0));
}

void sort(benchmark::State& state) {
  std::mt19937 random(0);
  auto words = sorted_events(state.range(0), random);
  std::shuffle(words.begin(), words.end(), random);
  const auto count = static_cast<std::int64_t>(words.size());
  std::vector<std::uint32_t> events(words.size()), scratch(words.size());
  for (auto _ : state) {
    std::copy(words.begin(), words.end(), events.begin());
    benchmark::DoNotOptimize(kernels().integer.sort(events.data(), count, scratch.data()));
  }
  items(state, count);
}

void filter(benchmark::State& state) {
  std::mt19937 random(0);
  const auto words = sorted_events(state.range(0), random);
  const auto count = static_cast<std::int64_t>(words.size());
  std::vector<std::uint16_t> members(words.size());
  for (std::uint16_t& each : members) each = static_cast<std::uint16_t>(random());
  std::vector<std::uint32_t> out(words.size() + 32);
  for (auto _ : state)
    benchmark::DoNotOptimize(
        kernels().integer.filter(words.data(), members.data(), count, 3, 0, out.data()));
  items(state, count);
}

void group(benchmark::State& state) {
  std::mt19937 random(0);
  const auto words = sorted_events(state.range(0), random);
  const auto groups = static_cast<std::int64_t>(words.size()) / kGroupEvents;
  std::vector<EventGroup> out(static_cast<std::size_t>(groups));
  for (auto _ : state)
    benchmark::DoNotOptimize(kernels().integer.group(words.data(), groups, 65535, out.data()));
  items(state, groups * kGroupEvents);
}

void sweep(benchmark::State& state) {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  const auto words = sorted_events(state.range(0), random);
  const std::int64_t width = state.range(1), rows = 3 * state.range(0) + 1;
  std::vector<EventGroup> groups(words.size() / kGroupEvents);
  kernels().integer.group(words.data(), static_cast<std::int64_t>(groups.size()), 65535,
                          groups.data());
  std::vector<std::int8_t> weights(static_cast<std::size_t>(rows * width + 64));
  for (std::int8_t& w : weights)
    w = static_cast<std::int8_t>(std::clamp(normal(random) * 32 + 1, -127.0, 127.0));
  const auto threshold = static_cast<std::int32_t>(10.7 * std::sqrt(static_cast<double>(rows)));
  const std::vector<std::int32_t> theta(kWideBlock, threshold), bias(kWideBlock, 0);
  std::uint16_t codes[kWideBlock];
  IntegerSweepTask task{};
  task.words = words.data();
  task.groups = groups.data();
  task.group_count = static_cast<std::int64_t>(groups.size());
  task.bias_group = -1;
  task.weights = weights.data();
  task.theta = theta.data();
  task.bias = bias.data();
  task.width = task.used = width;
  task.most_negative = 127;
  task.ratio = kSameUnit;
  task.latest = kSilent - 1;
  task.silent = kSilent;
  task.codes = codes;
  for (auto _ : state) {
    kernels().integer.sweep(task);
    benchmark::DoNotOptimize(codes[0]);
  }
  items(state, static_cast<std::int64_t>(words.size()) * width);
}

void unpack(benchmark::State& state) {
  const int bits = static_cast<int>(state.range(0));
  const std::int64_t rows = 4096;
  const std::vector<std::uint8_t> packed(static_cast<std::size_t>(rows * kWideBlock * bits / 8),
                                         0x5a);
  std::vector<std::int8_t> out(static_cast<std::size_t>(rows * kWideBlock));
  for (auto _ : state) {
    kernels().integer.unpack(packed.data(), bits, rows, kWideBlock, out.data());
    benchmark::DoNotOptimize(out.data());
  }
  items(state, rows * kWideBlock);
}

void earlier(benchmark::State& state) {
  std::mt19937 random(0);
  const auto from = random_codes(state.range(0), random);
  auto to = random_codes(state.range(0), random);
  for (auto _ : state) {
    kernels().integer.earlier(from.data(), state.range(0), to.data());
    benchmark::DoNotOptimize(to.data());
  }
  items(state, state.range(0));
}

BENCHMARK(collect)->Arg(576)->Arg(4608);
BENCHMARK(sort)->Arg(60)->Arg(1400)->Arg(5700);
BENCHMARK(filter)->Arg(1400);
BENCHMARK(group)->Arg(1400);
BENCHMARK(sweep)->ArgNames({"events", "outputs"})->ArgsProduct({{16, 357, 2857}, {64, 16}});
BENCHMARK(unpack)->ArgName("bits")->Arg(4)->Arg(2);
BENCHMARK(earlier)->Arg(512);

}  // namespace

int main(int argc, char** argv) {
  struct Shape {
    std::int64_t in, out, size;
  };
  for (const int bits : {8, 4, 2})
    for (const Shape& s : {Shape{64, 64, 32}, Shape{128, 128, 16}, Shape{256, 256, 8},
                           Shape{512, 512, 4}, Shape{1024, 1024, 2}, Shape{4096, 4096, 0}}) {
      char name[64];
      std::snprintf(name, sizeof name, "layer/%dbit/%d-%d@%d", bits, static_cast<int>(s.in),
                    static_cast<int>(s.out), static_cast<int>(s.size));
      benchmark::RegisterBenchmark(name, layer, s.in, s.out, s.size, bits)
          ->ArgNames({"batch", "threads"})
          ->ArgsProduct({{1, 16}, {1, 2}})
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    }
  benchmark::AddCustomContext("instruction_set", instruction_set());
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
