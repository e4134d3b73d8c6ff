// The layers of the core under google-benchmark, without Python. Reports synapses a second: input
// spikes times outputs of every receptive field, whether or not the sweep had to process them all.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ttfs/isa.h"
#include "ttfs/layers.h"

namespace {

struct Layer {
  const char* name;
  ttfs::ConvShape shape;
};

ttfs::ConvShape conv(std::int64_t batch, std::int64_t in, std::int64_t out, std::int64_t size,
                     std::int64_t kernel, std::int64_t stride) {
  ttfs::ConvShape s;
  s.batch = batch;
  s.in_channels = in;
  s.out_channels = out;
  s.in_height = s.in_width = size;
  s.kernel_height = s.kernel_width = kernel;
  s.stride_height = s.stride_width = stride;
  s.pad_top = s.pad_left = kernel / 2;
  s.out_height = s.out_width = (size - 1) / stride + 1;
  return s;
}

const Layer kLayers[] = {
    {"conv3x3/64-64@32/b4", conv(4, 64, 64, 32, 3, 1)},
    {"conv3x3/128-128@16/b8", conv(8, 128, 128, 16, 3, 1)},
    {"conv3x3/256-256@8/b16", conv(16, 256, 256, 8, 3, 1)},
    {"conv3x3/512-512@4/b32", conv(32, 512, 512, 4, 3, 1)},
    {"conv3x3/3-64@32/b16", conv(16, 3, 64, 32, 3, 1)},
    {"conv7x7s2/3-64@224/b1", conv(1, 3, 64, 224, 7, 2)},
    {"conv5x5s2/1-32@28/b10", conv(10, 1, 32, 28, 5, 2)},
    {"linear/4096-4096/b128", ttfs::linear_shape(128, 4096, 4096)},
    {"linear/1024-4096/b128", ttfs::linear_shape(128, 1024, 4096)},
};

ttfs::Strides4 dense(std::int64_t channels, std::int64_t height, std::int64_t width) {
  return {channels * height * width, height * width, width, 1};
}

/// 62 % of the inputs spike, uniformly in [0, 2]; weights of mean 3 / N, deviation 3 / sqrt(N),
/// with which about two thirds of the outputs fire.
struct Data {
  explicit Data(const ttfs::ConvShape& s)
      : in(dense(s.in_channels, s.in_height, s.in_width)),
        out(dense(s.out_channels, s.out_height, s.out_width)) {
    std::mt19937 random(0);
    std::uniform_real_distribution<float> uniform(0, 1);
    std::normal_distribution<float> normal;
    input.resize(static_cast<std::size_t>(s.batch * in.n));
    for (float& z : input) {
      z = std::exp(2 * uniform(random));
      if (uniform(random) > 0.62F) z = std::numeric_limits<float>::infinity();
    }
    const std::int64_t fan = s.in_channels / s.groups * s.kernel_height * s.kernel_width;
    weight.resize(static_cast<std::size_t>(s.out_channels * fan));
    const auto n = static_cast<float>(fan);
    for (float& w : weight) w = 3 / n + 3 / std::sqrt(n) * normal(random);
    output.resize(static_cast<std::size_t>(s.batch * out.n));
    slope = grad = output;
    for (float& g : grad) g = normal(random);
    synapses = 0.62 * static_cast<double>(s.batch * s.out_channels * s.out_height * s.out_width) *
               static_cast<double>(fan);
  }
  ttfs::Strides4 in, out;
  std::vector<float> input, weight, output, slope, grad;
  double synapses;
};

void rate(benchmark::State& state, double synapses) {
  state.counters["synapses"] = benchmark::Counter(
      synapses, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

void run_forward(const ttfs::ConvShape& s, Data& d, int threads) {
  ttfs::spiking_conv2d_forward<float>(s, {d.input.data(), d.in}, d.weight.data(), nullptr,
                                      std::numeric_limits<double>::infinity(),
                                      {d.output.data(), d.out}, d.slope.data(), threads);
}

void forward(benchmark::State& state, const ttfs::ConvShape& s) {
  Data d(s);
  for (auto _ : state) run_forward(s, d, static_cast<int>(state.range(0)));
  const auto fired =
      std::count_if(d.output.begin(), d.output.end(), [](float z) { return std::isfinite(z); });
  state.counters["fired"] = static_cast<double>(fired) / static_cast<double>(d.output.size());
  rate(state, d.synapses);
}

void backward(benchmark::State& state, const ttfs::ConvShape& s) {
  Data d(s);
  run_forward(s, d, static_cast<int>(state.range(0)));
  std::vector<float> grad_input(d.input.size()), grad_weight(d.weight.size());
  for (auto _ : state)
    ttfs::spiking_conv2d_backward<float>(
        s, {d.input.data(), d.in}, d.weight.data(), {d.output.data(), d.out}, d.slope.data(),
        {d.grad.data(), d.out}, {grad_input.data(), d.in}, grad_weight.data(), nullptr,
        static_cast<int>(state.range(0)));
  rate(state, d.synapses);
}

}  // namespace

int main(int argc, char** argv) {
  for (const Layer& layer : kLayers) {
    const std::string name = layer.name;
    const auto add = [&](const std::string& kind, auto* function) {
      benchmark::RegisterBenchmark((kind + name).c_str(), function, layer.shape)
          ->ArgName("threads")
          ->Arg(1)
          ->Arg(2)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    };
    add("forward/", forward);
    add("backward/", backward);
  }
  benchmark::AddCustomContext("instruction_set", ttfs::instruction_set());
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
