// Each kernel of the instruction set in use under google-benchmark, alone, on one thread, with data
// such as the layers give it: rates, and the share of a roof (roof.h; bench/README.md).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/table.h"
#include "roof.h"
#include "ttfs/isa.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kInputShare = 0.62;
constexpr std::int64_t kCached = std::int64_t{16} << 10;  // bytes that the first cache holds twice

const ttfs::Kernels<float>& kernels() { return ttfs::kernels().f32; }

const ttfs::Roof& roof() {
  const std::string isa = ttfs::instruction_set();
#if TTFS_HAVE_avx512
  if (isa.starts_with("avx512")) return ttfs::avx512::roof;  // avx512vnni: the same for floats
#endif
#if TTFS_HAVE_avx2
  if (isa == "avx2") return ttfs::avx2::roof;
#endif
  return ttfs::baseline::roof;
}

/// Best rate a second of a roof's loop in five short runs. Measured next to every benchmark,
/// because the speed of a machine drifts.
template <class Loop>
double best_rate(const Loop& loop) {
  double best = 0;
  std::int64_t rounds = 1000;
  for (int run = 0; run < 5;) {
    const auto begin = Clock::now();
    const std::int64_t work = loop(rounds);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (seconds < 1e-3) {
      rounds *= 2;
      continue;
    }
    best = std::max(best, static_cast<double>(work) / seconds);
    ++run;
  }
  return best;
}

/// Bytes a second read from a buffer of this size.
double load_rate(std::int64_t bytes) {
  constexpr std::int64_t line = 64 / sizeof(float);
  const std::int64_t count = bytes / static_cast<std::int64_t>(sizeof(float)) / line * line;
  std::vector<float> buffer(static_cast<std::size_t>(count + line), 1.0F);
  // No load crosses a line of the cache.
  const auto skipped = (64 - reinterpret_cast<std::uintptr_t>(buffer.data()) % 64) / sizeof(float);
  const float* numbers = buffer.data() + skipped % line;
  return best_rate([&](std::int64_t rounds) {
    return roof().load(numbers, count, std::max<std::int64_t>(1, rounds * 1024 / bytes));
  });
}

/// Runs a benchmark whose every iteration does `work` things, of which at most `most` a second are
/// possible, and reports its rate, that roof, and the share of it.
template <class Body>
void measure(benchmark::State& state, const char* what, std::int64_t work, double most,
             const Body& body) {
  using benchmark::Counter;
  const auto begin = Clock::now();
  for (auto _ : state) {
    body();
    benchmark::ClobberMemory();
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const double done = static_cast<double>(work) * static_cast<double>(state.iterations());
  state.counters[what] = Counter(done, Counter::kIsRate, Counter::kIs1000);
  state.counters["roof"] = Counter(most, Counter::kDefaults, Counter::kIs1000);
  state.counters["of_roof"] = done / seconds / most;
}

/// Spike values, `share` of them finite, at times uniform in [0, 2].
std::vector<float> spikes(std::int64_t n, double share, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& z : values) {
    z = std::exp(2 * uniform(random));
    if (uniform(random) > static_cast<float>(share)) z = kInfinity;
  }
  return values;
}

std::vector<float> normal(std::int64_t n, float mean, float deviation, std::mt19937& random) {
  std::normal_distribution<float> distribution(mean, deviation);
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& value : values) value = distribution(random);
  return values;
}

/// A receptive field of `inputs`: its events in order, and packed weights of a block of outputs.
struct Field {
  explicit Field(std::int64_t n, float mean) : inputs(n) {
    std::mt19937 random(0);
    values = spikes(inputs, kInputShare, random);
    const auto size = static_cast<std::size_t>(inputs + 4 * ttfs::kBlockGrain);
    times.resize(size);
    time_to_chunk_end.resize(size);
    rows.resize(size);
    std::vector<float> found_times(size);
    std::vector<std::uint32_t> found_rows(size);
    count = kernels().collect(values.data(), inputs, 0, kInfinity, found_times.data(),
                              found_rows.data());
    kernels().sort(found_times.data(), found_rows.data(), count, times.data(), rows.data());
    for (std::uint32_t& row : rows) row *= ttfs::kRowUnit;
    kernels().pad_to_chunk(times.data(), rows.data(), count,
                           ttfs::kRowUnit * static_cast<std::uint32_t>(inputs),
                           time_to_chunk_end.data());
    const auto fan = static_cast<float>(inputs);
    const auto drawn = normal(inputs * ttfs::kBlock, mean / fan, 3 / std::sqrt(fan), random);
    constexpr std::size_t line = 64 / sizeof(float);
    storage.resize(drawn.size() + ttfs::kBlock + line);
    bytes = static_cast<std::int64_t>((drawn.size() + ttfs::kBlock) * sizeof(float));
    // A row of weights begins with a line of the cache, as in a layer.
    const auto skipped = 64 - reinterpret_cast<std::uintptr_t>(storage.data()) % 64;
    weights = storage.data() + skipped / sizeof(float) % line;
    std::copy(drawn.begin(), drawn.end(), weights);
    max_overshoot.resize(ttfs::kBlock);
    norm.resize(ttfs::kBlock);
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const std::size_t output = i % ttfs::kBlock;
      max_overshoot[output] =
          std::max(max_overshoot[output], static_cast<float>(ttfs::kMaxOvershoot) * -drawn[i]);
      norm[output] = std::hypot(norm[output], drawn[i]);
    }
  }
  Field(const Field&) = delete;
  Field& operator=(const Field&) = delete;

  std::int64_t inputs, count = 0, bytes = 0;
  std::vector<float> values, times, time_to_chunk_end, max_overshoot, norm, storage;
  float* weights = nullptr;
  std::vector<std::uint32_t> rows;
};

void collect(benchmark::State& state) {
  std::mt19937 random(0);
  const std::int64_t n = state.range(0);
  const auto values = spikes(n, kInputShare, random);
  std::vector<std::uint32_t> words(static_cast<std::size_t>(n) + ttfs::kBlockGrain);
  const auto extent = kernels().extent(values.data(), n, kInfinity);
  const double most = load_rate(kCached) / sizeof(float);
  measure(state, "values", n, most, [&] {
    kernels().collect_words(values.data(), n, 0, kInfinity, extent.least, extent.most,
                            words.data());
  });
}

void sort(benchmark::State& state) {
  std::mt19937 random(0);
  const std::int64_t n = state.range(0);
  const auto size = static_cast<std::size_t>(n);
  const auto values = spikes(n, 1, random);
  std::vector<float> times(size);
  std::vector<std::uint32_t> words(size + ttfs::kBlockGrain), scratch(size);
  const auto extent = kernels().extent(values.data(), n, kInfinity);
  // Collecting is part of it: sorting what is sorted already would be another thing.
  const double most = load_rate(kCached) / sizeof(float);
  measure(state, "events", n, most, [&] {
    kernels().collect_words(values.data(), n, 0, kInfinity, extent.least, extent.most,
                            words.data());
    kernels().sort_words(words.data(), n, values.data(), times.data(), scratch.data());
  });
}

void filter(benchmark::State& state) {
  std::mt19937 random(0);
  const std::int64_t n = state.range(0);
  const auto size = static_cast<std::size_t>(n);
  const auto times = spikes(n, 1, random);
  std::vector<std::uint32_t> rows(size);
  std::iota(rows.begin(), rows.end(), 0U);
  std::vector<std::uint16_t> members(size);
  for (auto& word : members) word = static_cast<std::uint16_t>(random());
  std::vector<float> times_out(size + ttfs::kBlockGrain);
  std::vector<std::uint32_t> rows_out(times_out.size());
  constexpr double bytes = sizeof(float) + sizeof(std::uint32_t) + sizeof(std::uint16_t);
  const double most = load_rate(kCached) / bytes;
  int bit = 0;
  measure(state, "events", n, most, [&] {
    kernels().filter(times.data(), rows.data(), members.data(), n, bit, 0, times_out.data(),
                     rows_out.data());
    bit = (bit + 1) % ttfs::kTilePixels;
  });
}

void sweep_with(benchmark::State& state, float mean) {
  const Field field(state.range(0), mean);
  const std::vector<float> initial_slope(ttfs::kBlock, -1.0F);
  std::vector<float> out(ttfs::kBlock), slopes(ttfs::kBlock);
  std::uint32_t recompute_mask = 0;
  const ttfs::SweepTask<float> task{field.times.data(),
                                    field.time_to_chunk_end.data(),
                                    field.rows.data(),
                                    field.count,
                                    field.weights,
                                    initial_slope.data(),
                                    field.max_overshoot.data(),
                                    field.norm.data(),
                                    ttfs::kBlock,
                                    kInfinity,
                                    out.data(),
                                    slopes.data(),
                                    &recompute_mask};
  const double most = std::min(best_rate(roof().sweep), load_rate(field.bytes) / sizeof(float));
  measure(state, "synapses", field.count * ttfs::kBlock, most, [&] { kernels().sweep(task); });
  const auto fired = std::count_if(out.begin(), out.end(), [](float z) { return z < kInfinity; });
  state.counters["fired"] = static_cast<double>(fired) / ttfs::kBlock;
}

void sweep(benchmark::State& state) { sweep_with(state, 3); }
void sweep_silent(benchmark::State& state) { sweep_with(state, -1000); }

void recompute(benchmark::State& state) {
  const Field field(state.range(0), 16);
  std::mt19937 random(0);
  const auto n = static_cast<float>(field.inputs);
  const auto weights = normal(field.inputs, 16 / n, 3 / std::sqrt(n), random);
  // A first pass finds the spike value, as the sweep would have.
  float found = kInfinity, slope = 0;
  const ttfs::RecomputeTask<float> task{
      field.values.data(), weights.data(), field.inputs, 0,      false, field.times.data(),
      field.rows.data(),   field.count,    kInfinity,    &found, &slope};
  kernels().recompute(task);
  if (!(found < kInfinity)) {
    state.SkipWithError("the neuron did not fire");
    return;
  }
  const double most = std::min(best_rate(roof().recompute), load_rate(field.inputs * 8) / 8);
  measure(state, "inputs", field.inputs, most, [&] { kernels().recompute(task); });
}

void input_gradient(benchmark::State& state) {
  std::mt19937 random(0);
  constexpr std::int64_t taps = 9, width = ttfs::kGradChannels;
  constexpr int pixels = ttfs::kGradPixels;
  const std::int64_t count = state.range(0);
  const auto inputs = spikes(pixels * width, kInputShare, random);
  const auto outputs = spikes(taps * pixels * count, 1, random);
  const auto gradients = normal(taps * pixels * count, 0, 1, random);
  const auto weights = normal(taps * count * width, 0, 1, random);
  std::vector<float> results(static_cast<std::size_t>(pixels * width));
  std::vector<const float*> in, out, grad, weight;
  std::vector<float*> result;
  for (std::int64_t p = 0; p < pixels; ++p) {
    in.push_back(inputs.data() + p * width);
    result.push_back(results.data() + p * width);
  }
  for (std::int64_t t = 0; t < taps; ++t) {
    weight.push_back(weights.data() + t * count * width);
    for (std::int64_t p = 0; p < pixels; ++p) {
      out.push_back(outputs.data() + (t * pixels + p) * count);
      grad.push_back(gradients.data() + (t * pixels + p) * count);
    }
  }
  const ttfs::InputGradientTask<float> task{
      pixels, taps, in.data(), out.data(), grad.data(), weight.data(), count, width, result.data()};
  const double most = best_rate(roof().input_gradient);
  measure(state, "synapses", pixels * taps * count * width, most,
          [&] { kernels().input_gradient(task); });
}

void weight_gradient(benchmark::State& state) {
  std::mt19937 random(0);
  constexpr std::int64_t channels = 32, width = ttfs::kGradOutputs;
  const std::int64_t size = state.range(0), padded = size + 2;
  const auto inputs = spikes(padded * padded * channels, kInputShare, random);
  const auto outputs = spikes(size * size * width, 1, random);
  const auto gradients = normal(size * size * width, 0, 1, random);
  std::vector<std::int64_t> offsets(ttfs::kGradInputs);
  std::iota(offsets.begin(), offsets.end(), 0);
  std::vector<float> result(static_cast<std::size_t>(ttfs::kGradInputs * width));
  const ttfs::WeightGradientTask<float> task{1,
                                             size,
                                             size,
                                             inputs.data(),
                                             offsets.data(),
                                             0,
                                             padded * channels,
                                             channels,
                                             outputs.data(),
                                             gradients.data(),
                                             0,
                                             size * width,
                                             width,
                                             width,
                                             result.data()};
  const double most = best_rate(roof().weight_gradient);
  measure(state, "synapses", size * size * width * ttfs::kGradInputs, most,
          [&] { kernels().weight_gradient(task); });
}

}  // namespace

// Events of a tile of 3x3 fields of 64 and of 512 channels; inputs of a field of as many.
BENCHMARK(collect)->ArgName("values")->Arg(64)->Arg(512)->Arg(4096);
BENCHMARK(sort)->ArgName("events")->Arg(36)->Arg(357)->Arg(1428)->Arg(11428);
BENCHMARK(filter)->ArgName("events")->Arg(1428)->Arg(11428);
BENCHMARK(sweep)->ArgName("inputs")->Arg(27)->Arg(576)->Arg(1152)->Arg(4608);
BENCHMARK(sweep_silent)->ArgName("inputs")->Arg(576)->Arg(4608);
BENCHMARK(recompute)->ArgName("inputs")->Arg(576)->Arg(4608);
BENCHMARK(input_gradient)->ArgName("outputs")->Arg(64)->Arg(512);
BENCHMARK(weight_gradient)->ArgName("size")->Arg(8)->Arg(32);

int main(int argc, char** argv) {
  benchmark::AddCustomContext("instruction_set", ttfs::instruction_set());
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
