// The layers against the one-neuron reference and a backward written out, over random shapes.
// The instruction set is the one that TTFS_FAST_ISA names.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "ttfs/isa.h"
#include "ttfs/layers.h"
#include "ttfs/reference.h"

namespace {

constexpr unsigned kSeed = 20210;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

int failures = 0;

void check(bool holds, const char* what) {
  if (holds) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what);
}

void check(bool holds, const std::string& what) { check(holds, what.c_str()); }

template <class Call>
void check_throws(const Call& call, const std::string& word) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    check(std::string(error.what()).find(word) != std::string::npos,
          "\"" + word + "\" is not in the message: " + error.what());
    return;
  }
  check(false, "no std::invalid_argument for \"" + word + "\"");
}

template <class T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

ttfs::Strides4 dense(std::int64_t c, std::int64_t h, std::int64_t w) {
  return {c * h * w, h * w, w, 1};
}

/// Channels last, because a layer accepts an input of any strides.
ttfs::Strides4 channels_last(std::int64_t c, std::int64_t h, std::int64_t w) {
  return {c * h * w, 1, w * c, c};
}

template <class T>
struct Case {
  ttfs::ConvShape s;
  ttfs::Strides4 in, out;
  double t_max = kInfinity;
  ttfs::Neuron neuron;
  bool has_bias = false;
  std::vector<T> input, weight, bias, grad;

  std::int64_t field() const { return s.in_channels / s.groups * s.kernel_height * s.kernel_width; }
  std::int64_t outputs() const { return s.batch * out.n; }
  const T* bias_data() const { return has_bias ? bias.data() : nullptr; }
};

/// Spike times of a layer's inputs: some silent; the same on few levels; and inputs that all spike,
/// none later than a horizon.
enum class Times { any, levels, horizon };

/// Fills a case of known sizes and strides with random numbers.
template <class T>
void fill(Case<T>& c, Times times, std::mt19937& random) {
  std::uniform_real_distribution<double> uniform(0, 1);
  std::uniform_int_distribution<int> level(-2, 8);
  std::normal_distribution<double> normal;
  c.input.resize(at(c.s.batch * c.s.in_channels * c.s.in_height * c.s.in_width));
  for (T& z : c.input) {
    double t = times == Times::levels ? 0.25 * level(random) : 2.5 * uniform(random) - 0.5;
    if (times == Times::horizon) t = std::min(t, 0.9);
    const double x = c.neuron.on_values() ? std::exp(t) : t;
    const bool silent = uniform(random) < 0.3 && times != Times::horizon;
    z = static_cast<T>(silent ? kInfinity : x);
  }
  const double n = static_cast<double>(c.field());
  c.weight.resize(at(c.s.out_channels * c.field()));
  for (T& w : c.weight) w = static_cast<T>(3 / n + 2 / std::sqrt(n) * normal(random));
  c.bias.resize(at(c.s.out_channels));
  for (T& b : c.bias) b = static_cast<T>(0.5 * normal(random));
  c.grad.resize(at(c.outputs()));
  for (T& g : c.grad) g = static_cast<T>(normal(random));
}

template <class T>
Case<T> random_case(std::mt19937& random, const ttfs::Neuron& neuron = {}) {
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  const auto one_of = [&](std::initializer_list<std::int64_t> list) {
    return *(list.begin() + pick(0, static_cast<int>(list.size()) - 1));
  };
  Case<T> c;
  c.neuron = neuron;
  ttfs::ConvShape& s = c.s;
  s.batch = pick(1, 4);
  s.groups = one_of({1, 1, 1, 2, 3});
  s.in_channels = s.groups * one_of({1, 2, 3, 8, 17, 65});
  s.out_channels = s.groups * one_of({1, 2, 7, 15, 16, 17, 31, 33, 65});
  s.kernel_height = pick(1, 4);
  s.kernel_width = pick(1, 4);
  s.stride_height = pick(1, 3);
  s.stride_width = pick(1, 3);
  s.dilation_height = pick(1, 3);
  s.dilation_width = pick(1, 3);
  s.pad_top = pick(0, 3);
  s.pad_left = pick(0, 3);
  const std::int64_t tall = s.dilation_height * (s.kernel_height - 1) + 1;
  const std::int64_t wide = s.dilation_width * (s.kernel_width - 1) + 1;
  s.in_height = std::max<std::int64_t>(tall - 2 * s.pad_top, 1) + pick(0, 9);
  s.in_width = std::max<std::int64_t>(wide - 2 * s.pad_left, 1) + pick(0, 9);
  s.out_height = (s.in_height + 2 * s.pad_top - tall) / s.stride_height + 1;
  s.out_width = (s.in_width + 2 * s.pad_left - wide) / s.stride_width + 1;
  c.in = (pick(0, 2) ? dense : channels_last)(s.in_channels, s.in_height, s.in_width);
  c.out = (pick(0, 2) ? dense : channels_last)(s.out_channels, s.out_height, s.out_width);
  c.has_bias = pick(0, 1) == 1;
  if (pick(0, 2) == 0) c.t_max = 1.2;
  constexpr Times kinds[] = {Times::any, Times::any, Times::levels, Times::horizon};
  fill(c, kinds[pick(0, 3)], random);
  return c;
}

template <class T>
struct Result {
  std::vector<T> output, slope, grad_input, grad_weight, grad_bias;
};

template <class T>
Result<T> run(const Case<T>& c, int threads) {
  Result<T> r;
  r.output.resize(at(c.outputs()));
  r.slope.resize(at(c.outputs()));
  r.grad_input.resize(c.input.size());
  r.grad_weight.resize(c.weight.size());
  r.grad_bias.resize(c.bias.size());
  ttfs::spiking_conv2d_forward<T>(c.s, {c.input.data(), c.in}, c.weight.data(), c.bias_data(),
                                  c.t_max, {r.output.data(), c.out}, r.slope.data(), threads,
                                  c.neuron);
  ttfs::spiking_conv2d_backward<T>(c.s, {c.input.data(), c.in}, c.weight.data(),
                                   {r.output.data(), c.out}, r.slope.data(), {c.grad.data(), c.out},
                                   {r.grad_input.data(), c.in}, r.grad_weight.data(),
                                   r.grad_bias.data(), threads, c.neuron);
  return r;
}

template <class T>
bool same_bits(const Result<T>& a, const Result<T>& b) {
  return a.output == b.output && a.slope == b.slope && a.grad_input == b.grad_input &&
         a.grad_weight == b.grad_weight && a.grad_bias == b.grad_bias;
}

/// Calls visit(output index, slope index, channel, field positions in the input or -1 for padding).
template <class T, class Visit>
void each_output(const Case<T>& c, const Visit& visit) {
  const ttfs::ConvShape& s = c.s;
  const std::int64_t channels = s.in_channels / s.groups, outputs = s.out_channels / s.groups;
  std::vector<std::int64_t> field(at(c.field()));
  for (std::int64_t n = 0; n < s.batch; ++n)
    for (std::int64_t m = 0; m < s.out_channels; ++m)
      for (std::int64_t y = 0; y < s.out_height; ++y)
        for (std::int64_t x = 0; x < s.out_width; ++x) {
          std::size_t i = 0;
          for (std::int64_t ch = 0; ch < channels; ++ch)
            for (std::int64_t ky = 0; ky < s.kernel_height; ++ky)
              for (std::int64_t kx = 0; kx < s.kernel_width; ++kx) {
                const std::int64_t row = y * s.stride_height - s.pad_top + ky * s.dilation_height;
                const std::int64_t column = x * s.stride_width - s.pad_left + kx * s.dilation_width;
                const bool inside =
                    row >= 0 && row < s.in_height && column >= 0 && column < s.in_width;
                field[i++] = inside ? n * c.in.n + (m / outputs * channels + ch) * c.in.c +
                                          row * c.in.h + column * c.in.w
                                    : -1;
              }
          visit(n * c.out.n + m * c.out.c + y * c.out.h + x * c.out.w,
                ((n * s.out_height + y) * s.out_width + x) * s.out_channels + m, m, field);
        }
}

bool close(double a, double b, double tolerance) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (std::isinf(a) || std::isinf(b)) return a == b;
  return std::abs(a - b) <= tolerance * std::max(1.0, std::abs(b));
}

struct Count {
  std::int64_t fired = 0, silent = 0, differing = 0;
};

/// Compares forward with the one-neuron reference, backward with sums over the causal sets
/// z_in < z_out, and the bits of 2 threads with those of 1, 3 and 7.
template <class T>
void check_layer(const Case<T>& c, double tolerance, Count& count) {
  const Result<T> r = run(c, 2);
  std::vector<double> grad_input(c.input.size()), grad_weight(c.weight.size()),
      grad_bias(c.bias.size()), scale(c.input.size());
  std::vector<T> z, w;
  each_output(c, [&](std::int64_t o, std::int64_t d, std::int64_t m, const auto& field) {
    z.clear();
    w.clear();
    for (std::size_t i = 0; i < field.size(); ++i) {
      z.push_back(field[i] < 0 ? static_cast<T>(kInfinity) : c.input[at(field[i])]);
      w.push_back(c.weight[at(m * c.field()) + i]);
    }
    if (c.has_bias) {
      z.push_back(static_cast<T>(c.neuron.origin()));
      w.push_back(c.bias[at(m)]);
    }
    const auto spike = ttfs::reference::neuron(
        z.data(), w.data(), static_cast<std::int64_t>(z.size()), c.t_max, c.neuron);
    const double out = static_cast<double>(r.output[at(o)]);
    const double slope = static_cast<double>(r.slope[at(d)]);
    if (!close(out, spike.value, tolerance)) {
      // Only a flat crossing, or one at the horizon, may differ, and only by rounding.
      const bool flat = std::min(std::abs(slope), std::abs(spike.slope)) < 1e-3;
      const double horizon = c.neuron.on_values() ? std::exp(c.t_max) : c.t_max;
      const double finite = std::isinf(out) ? spike.value : out;
      check(flat || close(finite, horizon, 1e-4), "a spike value differs: " + std::to_string(out) +
                                                      " for " + std::to_string(spike.value));
      ++count.differing;
    }
    if (std::isinf(out)) {
      check(slope == 0, "a silent neuron has a slope");
      ++count.silent;
      return;
    }
    ++count.fired;
    const double g = static_cast<double>(c.grad[at(o)]) / slope;
    for (std::size_t i = 0; i < field.size(); ++i) {
      if (field[i] < 0) continue;
      const double in = static_cast<double>(c.input[at(field[i])]);
      if (!(in < out)) continue;
      const double weight = static_cast<double>(w[i]);
      grad_input[at(field[i])] += g * weight;
      scale[at(field[i])] += std::abs(g * weight);
      grad_weight[at(m * c.field()) + i] -= g * (out - in);
    }
    const double origin = c.neuron.origin();
    if (out > origin) grad_bias[at(m)] -= g * (out - origin);
  });
  const auto largest = [](const std::vector<double>& values) {
    double most = 1;
    for (double v : values) most = std::max(most, std::abs(v));
    return most;
  };
  const double bound = 4 * tolerance;
  for (std::size_t i = 0; i < grad_input.size(); ++i)
    check(std::abs(static_cast<double>(r.grad_input[i]) - grad_input[i]) <=
              bound * std::max(1.0, scale[i]),
          "the gradient of an input differs");
  const double most_weight = largest(grad_weight), most_bias = largest(grad_bias);
  for (std::size_t i = 0; i < grad_weight.size(); ++i)
    check(std::abs(static_cast<double>(r.grad_weight[i]) - grad_weight[i]) <= bound * most_weight,
          "the gradient of a weight differs");
  for (std::size_t i = 0; i < grad_bias.size(); ++i)
    check(std::abs(static_cast<double>(r.grad_bias[i]) - grad_bias[i]) <= bound * most_bias,
          "the gradient of a bias differs");
  for (int threads : {1, 3, 7}) {
    check(same_bits(run(c, threads), r), "the bits depend on the number of threads");
  }
}

void check_counts(const Count& count) {
  check(count.fired > 5000 && count.silent > 3000, "too few neurons fired or stayed silent");
  check(count.differing * 1000 <= count.fired, "more than one in a thousand spikes differs");
  std::printf("  %lld spikes, %lld silent, %lld flat crossings that differ\n",
              static_cast<long long>(count.fired), static_cast<long long>(count.silent),
              static_cast<long long>(count.differing));
}

template <class T>
void test_random_layers(std::mt19937& random, double tolerance, const ttfs::Neuron& neuron = {}) {
  Count count;
  for (int repeat = 0; repeat < 40; ++repeat)
    check_layer(random_case<T>(random, neuron), tolerance, count);
  check_counts(count);
}

/// Ramps that add up to a fixed threshold, and to ones that fall.
constexpr ttfs::Neuron kSisters[] = {{0, 1}, {1, 2}, {0.25, 1.5}};

/// Layers whose events and rows do not fit in the scratch memory at once: the forward pass needs
/// several work blocks, the backward pass several bands of rows that overlap.
template <class T>
void test_large_layer(std::mt19937& random, double tolerance, std::int64_t stride,
                      std::int64_t kernel, std::int64_t dilation) {
  Case<T> c;
  ttfs::ConvShape& s = c.s;
  s.in_channels = 3;
  s.out_channels = 33;
  s.in_height = 100 * stride;
  s.in_width = 80 * stride;
  s.kernel_height = s.kernel_width = kernel;
  s.stride_height = s.stride_width = stride;
  s.dilation_height = s.dilation_width = dilation;
  s.pad_top = s.pad_left = 1;
  s.out_height = (s.in_height + 2 - dilation * (kernel - 1) - 1) / stride + 1;
  s.out_width = (s.in_width + 2 - dilation * (kernel - 1) - 1) / stride + 1;
  c.in = dense(s.in_channels, s.in_height, s.in_width);
  c.out = dense(s.out_channels, s.out_height, s.out_width);
  c.has_bias = true;
  fill(c, Times::any, random);
  Count count;
  check_layer(c, tolerance, count);
  check_counts(count);
}

/// Inputs that all spike, many of them together and last, need no events: the counts tell. What an
/// image is computed from does not depend on the others of the batch.
template <class T>
void test_inputs_that_spike_together(std::mt19937& random, double tolerance) {
  Case<T> c;
  ttfs::ConvShape& s = c.s;
  s.batch = 3;
  s.groups = 2;
  s.in_channels = 2 * 60;
  s.out_channels = 2 * 48;
  s.in_height = 9;
  s.in_width = 8;
  s.kernel_height = s.kernel_width = 3;
  s.out_height = s.in_height - 2;
  s.out_width = s.in_width - 2;
  c.in = dense(s.in_channels, s.in_height, s.in_width);
  c.out = dense(s.out_channels, s.out_height, s.out_width);
  c.has_bias = true;
  fill(c, Times::horizon, random);
  for (T& b : c.bias) b = std::abs(b);
  const T last = *std::max_element(c.input.begin(), c.input.end());
  // One of the images has a silent input, and one has all its inputs at different times.
  c.input[at(c.in.n)] = static_cast<T>(kInfinity);
  for (std::int64_t i = 2 * c.in.n; i < 3 * c.in.n; ++i)
    c.input[at(i)] *=
        static_cast<T>(1 + 1e-3 * static_cast<double>(i) / static_cast<double>(c.in.n));
  Count count;
  check_layer(c, tolerance, count);
  check(count.fired > 2000, "too few neurons fired");
  Result<T> whole = run(c, 2);
  std::int64_t early_chunks = 0, chunks[3] = {};
  each_output(c, [&](std::int64_t o, std::int64_t, std::int64_t, const auto& field) {
    if (o >= c.out.n) return;
    const auto early = std::count_if(field.begin(), field.end(),
                                     [&](std::int64_t i) { return c.input[at(i)] < last; });
    check(early >= 192, "too few events for chunks");
    early_chunks += (early + 1 + 7) / 8;  // with the bias, in chunks of eight
  });
  for (std::int64_t image = 0; image < s.batch; ++image) {
    Case<T> one = c;
    one.s.batch = 1;
    one.input.assign(c.input.begin() + image * c.in.n, c.input.begin() + (image + 1) * c.in.n);
    std::vector<T> output(at(c.out.n)), slope(at(c.out.n));
    ttfs::ForwardCounts found;
    ttfs::spiking_conv2d_forward<T>(one.s, {one.input.data(), c.in}, c.weight.data(), c.bias_data(),
                                    c.t_max, {output.data(), c.out}, slope.data(), 2, c.neuron,
                                    &found);
    check(std::equal(output.begin(), output.end(), whole.output.begin() + image * c.out.n),
          "the bits depend on other images");
    chunks[image] = found.chunks;
  }
  const std::int64_t all_chunks = c.out.n * ((c.field() + 1 + 7) / 8);
  check(chunks[0] == early_chunks, "not all early inputs, or late ones too, are events");
  check(chunks[1] > early_chunks && chunks[1] < all_chunks,
        "a silent input must affect the tiles that see it, and no others");
  check(chunks[2] == all_chunks, "some inputs at different times are no events");
  std::printf("  %lld chunks of events before the last inputs, %lld of all\n",
              static_cast<long long>(chunks[0]), static_cast<long long>(chunks[2]));
}

/// AVX2 and AVX-512 give the same bits; the baseline rounds its products.
template <class T>
void test_avx_sets_agree(std::mt19937& random) {
  const auto sets = ttfs::instruction_sets();
  for (const char* name : {"avx2", "avx512"})
    if (std::find(sets.begin(), sets.end(), name) == sets.end()) return;
  const std::string before = ttfs::instruction_set();
  for (int repeat = 0; repeat < 32; ++repeat) {
    const Case<T> c = random_case<T>(random, repeat < 20 ? ttfs::Neuron{} : kSisters[repeat % 3]);
    ttfs::set_instruction_set("avx2");
    const Result<T> narrow = run(c, 2);
    ttfs::set_instruction_set("avx512");
    check(ttfs::instruction_set() == "avx512", "set_instruction_set has no effect");
    check(same_bits(narrow, run(c, 2)), "AVX2 and AVX-512 differ");
  }
  ttfs::set_instruction_set(before);
}

/// A NaN input: NaN in the outputs that can receive it and in the gradients of their weights, and
/// nowhere else.
void test_nan() {
  std::mt19937 random(kSeed);
  Case<float> c;
  ttfs::ConvShape& s = c.s;
  s.batch = 2;
  s.groups = 2;
  s.in_channels = 6;
  s.out_channels = 34;
  s.in_height = s.in_width = s.out_height = s.out_width = 7;
  s.kernel_height = s.kernel_width = 3;
  s.pad_top = s.pad_left = 1;
  c.in = dense(6, 7, 7);
  c.out = dense(34, 7, 7);
  fill(c, Times::any, random);
  const std::size_t bad = at(c.in.n + 4 * c.in.c + 3 * c.in.h + 2);
  c.input[bad] = std::numeric_limits<float>::quiet_NaN();
  const Result<float> r = run(c, 2);
  std::vector<int> neighbors(c.input.size());  // inputs that share an output with the NaN
  std::int64_t reached = 0, others = 0;
  each_output(c, [&](std::int64_t o, std::int64_t, std::int64_t, const auto& field) {
    const bool sees =
        std::find(field.begin(), field.end(), static_cast<std::int64_t>(bad)) != field.end();
    check(std::isnan(r.output[at(o)]) == sees, "a NaN is where it should not be, or missing");
    (sees ? reached : others) += 1;
    for (std::int64_t i : field)
      if (sees && i >= 0) neighbors[at(i)] = 1;
  });
  check(reached == 9 * 17 && others > 0, "the NaN case tests nothing");
  check(std::isnan(r.grad_input[bad]), "the gradient of a NaN input is NaN");
  for (std::size_t i = 0; i < c.input.size(); ++i)
    if (!neighbors[i]) check(std::isfinite(r.grad_input[i]), "a NaN gradient went astray");
  const std::size_t half = c.weight.size() / 2;  // the weights of the first group saw no NaN
  for (std::size_t i = 0; i < c.weight.size(); ++i) {
    const bool on_nan_channel = i >= half && i % 27 / 9 == 1;
    if (i < half || on_nan_channel)
      check(std::isnan(r.grad_weight[i]) == on_nan_channel, "NaN in the gradient of a weight");
  }
}

/// A weight that is not finite affects its own output channel only.
void test_weights_that_are_not_finite() {
  std::mt19937 random(kSeed);
  Case<double> c = random_case<double>(random);
  while (c.s.out_channels <= 2) c = random_case<double>(random);
  c.weight[0] = kInfinity;
  c.weight[at(c.field() * (c.s.out_channels - 1))] = std::numeric_limits<double>::quiet_NaN();
  const Result<double> r = run(c, 2);
  each_output(c, [&](std::int64_t o, std::int64_t, std::int64_t m, const auto&) {
    const bool bad = m == 0 || m == c.s.out_channels - 1;
    check(std::isnan(r.output[at(o)]) == bad, "NaN, and only there, for a weight not finite");
  });
}

template <class T>
void test_pooling(std::mt19937& random) {
  const auto pick = [&](int low, int high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  std::int64_t spiking = 0, silent = 0, nans = 0;
  for (int repeat = 0; repeat < 60; ++repeat) {
    ttfs::PoolShape s;
    s.batch = pick(1, 3);
    s.channels = pick(1, 4);
    s.kernel_height = pick(1, 3);
    s.kernel_width = pick(1, 3);
    s.stride_height = pick(1, 3);
    s.stride_width = pick(1, 3);
    s.pad_top = pick(0, 2);
    s.pad_left = pick(0, 2);
    s.dilation_height = pick(1, 2);
    s.dilation_width = pick(1, 2);
    s.in_height = s.dilation_height * s.kernel_height + pick(0, 6);
    s.in_width = s.dilation_width * s.kernel_width + pick(0, 6);
    s.out_height = s.in_height / s.stride_height;  // the last windows may be entirely outside
    s.out_width = s.in_width / s.stride_width;
    const auto in = (pick(0, 1) ? dense : channels_last)(s.channels, s.in_height, s.in_width);
    const auto out = (pick(0, 1) ? dense : channels_last)(s.channels, s.out_height, s.out_width);
    std::vector<T> input(at(s.batch * in.n)), output(at(s.batch * out.n)), grad(output.size());
    std::vector<T> back(input.size()), expected(input.size());
    // Few levels, so that ties are common.
    for (T& z : input) {
      const std::int64_t level = pick(1, 40);
      z = level > 20    ? std::numeric_limits<T>::infinity()
          : level == 20 ? std::numeric_limits<T>::quiet_NaN()
                        : static_cast<T>(1 + level % 4);
    }
    for (T& g : grad) g = static_cast<T>(pick(-8, 8));  // sums of these are exact
    std::vector<std::int32_t> index(output.size()), places(output.size());
    ttfs::spiking_max_pool2d_forward<T>(s, {input.data(), in}, {output.data(), out}, index.data(),
                                        2);
    ttfs::spiking_max_pool2d_backward<T>(s, {grad.data(), out}, index.data(), back.data(), 2);
    std::size_t i = 0;
    for (std::int64_t n = 0; n < s.batch; ++n)
      for (std::int64_t ch = 0; ch < s.channels; ++ch)
        for (std::int64_t y = 0; y < s.out_height; ++y)
          for (std::int64_t x = 0; x < s.out_width; ++x, ++i) {
            T least = std::numeric_limits<T>::infinity();
            std::int32_t place = -1;
            std::size_t winner = 0;
            for (std::int64_t k = 0; k < s.kernel_height * s.kernel_width; ++k) {
              const std::int64_t row =
                  y * s.stride_height - s.pad_top + k / s.kernel_width * s.dilation_height;
              const std::int64_t column =
                  x * s.stride_width - s.pad_left + k % s.kernel_width * s.dilation_width;
              if (row < 0 || row >= s.in_height || column < 0 || column >= s.in_width) continue;
              const T z = input[at(n * in.n + ch * in.c + row * in.h + column * in.w)];
              if (!std::isnan(least) && (std::isnan(z) || z < least)) {
                least = z;
                place = static_cast<std::int32_t>(k);
                winner = at(((n * s.channels + ch) * s.in_height + row) * s.in_width + column);
              }
            }
            const std::size_t o = at(n * out.n + ch * out.c + y * out.h + x * out.w);
            const T got = output[o];
            check(std::isnan(least) ? std::isnan(got) : got == least,
                  "pooling is not the first spike");
            check(index[i] == place, "pooling is not the first of equals");
            if (place >= 0) expected[winner] += grad[o];
            (std::isnan(least) ? nans : place < 0 ? silent : spiking) += 1;
          }
    check(back == expected, "the gradient of pooling differs");
    for (int threads : {1, 3, 7}) {
      std::vector<T> other(output.size());
      ttfs::spiking_max_pool2d_forward<T>(s, {input.data(), in}, {other.data(), out}, places.data(),
                                          threads);
      check(places == index && same_bytes(other, output),
            "pooling depends on the number of threads");
    }
  }
  check(spiking > 1000 && silent > 100 && nans > 100, "pooling met too few cases");
}

void test_errors() {
  std::mt19937 random(kSeed);
  Case<float> c = random_case<float>(random);
  check_throws([] { ttfs::set_instruction_set("sse9"); }, "sse9");
  const float old = c.input[0];
  for (float bad : {0.0F, -1.0F, -std::numeric_limits<float>::infinity()}) {
    c.input[0] = bad;
    check_throws([&] { run(c, 1); }, "not positive");
  }
  c.input[0] = old;
  c.t_max = std::numeric_limits<double>::quiet_NaN();
  check_throws([&] { run(c, 1); }, "t_max");
  c.t_max = kInfinity;
  c.s.groups = c.s.in_channels + 1;
  check_throws([&] { run(c, 1); }, "divisible by groups");
}

}  // namespace

int main() {
  const char* wanted = std::getenv("TTFS_FAST_ISA");
  if (wanted) {
    const auto sets = ttfs::instruction_sets();
    if (std::find(sets.begin(), sets.end(), wanted) == sets.end()) {
      std::printf("this processor does not run %s: nothing tested\n", wanted);
      return 77;
    }
    check(ttfs::instruction_set() == wanted, "TTFS_FAST_ISA is ignored");
  }
  std::printf("instruction set %s, seed %u\n", ttfs::instruction_set().c_str(), kSeed);
  std::mt19937 random(kSeed);
  test_random_layers<double>(random, 1e-9);
  test_random_layers<float>(random, 3e-5);
  test_large_layer<double>(random, 1e-9, 1, 3, 1);
  test_large_layer<float>(random, 3e-5, 2, 4, 3);
  for (const ttfs::Neuron& neuron : kSisters) {
    test_random_layers<double>(random, 1e-9, neuron);
    test_random_layers<float>(random, 3e-5, neuron);
  }
  test_inputs_that_spike_together<double>(random, 1e-9);
  test_inputs_that_spike_together<float>(random, 3e-5);
  test_avx_sets_agree<double>(random);
  test_avx_sets_agree<float>(random);
  test_nan();
  test_weights_that_are_not_finite();
  test_pooling<double>(random);
  test_pooling<float>(random);
  test_errors();
  std::printf("%d checks failed\n", failures);
  return failures ? 1 : 0;
}
