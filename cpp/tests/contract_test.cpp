// The contract of the headers beside the numbers: the same bits for any number of threads and for
// the AVX sets, empty and wrong sizes, strides with gaps, gradients that are not requested.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "ttfs/isa.h"
#include "ttfs/layers.h"

namespace {

constexpr unsigned kSeed = 71;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

int failures = 0;

void check(bool holds, const std::string& what) {
  if (holds) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

/// Checks that the call throws std::invalid_argument with a message that contains `word`.
void check_throws(const std::function<void()>& call, const std::string& word) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    check(std::string(error.what()).find(word) != std::string::npos,
          "\"" + word + "\" is not in the message: " + error.what());
    return;
  }
  check(false, "no std::invalid_argument for \"" + word + "\"");
}

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

ttfs::Strides4 dense(std::int64_t c, std::int64_t h, std::int64_t w) {
  return {c * h * w, h * w, w, 1};
}

/// Equal in every bit, with the sign of zero; all NaNs count as equal.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](T x, T y) {
    return (std::isnan(x) && std::isnan(y)) || std::bit_cast<Bits>(x) == std::bit_cast<Bits>(y);
  });
}

template <class T>
struct Result {
  std::vector<T> output, slope, grad_input, grad_weight, grad_bias;

  bool same(const Result& other) const {
    return same_bits(output, other.output) && same_bits(slope, other.slope) &&
           same_bits(grad_input, other.grad_input) && same_bits(grad_weight, other.grad_weight) &&
           same_bits(grad_bias, other.grad_bias);
  }
};

template <class T>
struct Layer {
  ttfs::ConvShape s;
  std::vector<T> input, weight, bias, grad;

  ttfs::Strides4 in() const { return dense(s.in_channels, s.in_height, s.in_width); }
  ttfs::Strides4 out() const { return dense(s.out_channels, s.out_height, s.out_width); }

  void forward(Result<T>& r, int threads, double t_max = kInfinity, const ttfs::Neuron& neuron = {},
               ttfs::ForwardCounts* counts = nullptr) const {
    r.output.resize(at(s.batch * out().n));
    r.slope.resize(r.output.size());
    ttfs::spiking_conv2d_forward<T>(
        s, {input.data(), in()}, weight.data(), bias.empty() ? nullptr : bias.data(), t_max,
        {r.output.data(), out()}, r.slope.data(), threads, neuron, counts);
  }
  void backward(Result<T>& r, int threads) const {
    r.grad_input.resize(input.size());
    r.grad_weight.resize(weight.size());
    r.grad_bias.resize(bias.size());
    ttfs::spiking_conv2d_backward<T>(s, {input.data(), in()}, weight.data(),
                                     {r.output.data(), out()}, r.slope.data(), {grad.data(), out()},
                                     {r.grad_input.data(), in()}, r.grad_weight.data(),
                                     bias.empty() ? nullptr : r.grad_bias.data(), threads);
  }
  Result<T> run(int threads) const {
    Result<T> r;
    forward(r, threads);
    backward(r, threads);
    return r;
  }
};

/// Two groups, every size odd; optionally one NaN input.
template <class T>
Layer<T> odd_layer(std::mt19937& random, bool with_nan) {
  Layer<T> c;
  c.s.batch = 3;
  c.s.groups = 2;
  c.s.in_channels = 10;
  c.s.out_channels = 74;
  c.s.in_height = 13;
  c.s.in_width = 11;
  c.s.kernel_height = c.s.kernel_width = 3;
  c.s.stride_width = 2;
  c.s.dilation_height = 2;
  c.s.pad_top = c.s.pad_left = 1;
  c.s.out_height = 11;
  c.s.out_width = 6;
  std::uniform_real_distribution<double> uniform(0, 1);
  std::normal_distribution<double> normal;
  const auto made = [](std::int64_t count, const auto& next) {
    std::vector<T> values(at(count));
    for (T& v : values) v = static_cast<T>(next());
    return values;
  };
  c.input = made(c.s.batch * c.in().n, [&] {
    return uniform(random) < 0.3 ? kInfinity : std::exp(2.5 * uniform(random) - 0.5);
  });
  c.weight = made(c.s.out_channels * 45, [&] { return 3.0 / 45 + 0.3 * normal(random); });
  c.bias = made(c.s.out_channels, [&] { return 0.3 * normal(random); });
  c.grad = made(c.s.batch * c.out().n, [&] { return normal(random); });
  if (with_nan) c.input[at(c.in().n + 200)] = std::numeric_limits<T>::quiet_NaN();
  return c;
}

template <class T>
void test_bits() {
  std::mt19937 random(kSeed);
  const std::string before = ttfs::instruction_set();
  for (bool with_nan : {false, true}) {
    const Layer<T> c = odd_layer<T>(random, with_nan);
    std::vector<Result<T>> with_fma;
    for (const std::string& isa : ttfs::instruction_sets()) {
      ttfs::set_instruction_set(isa);
      check(ttfs::instruction_set() == isa, "set_instruction_set has no effect");
      const Result<T> r = c.run(1);
      for (int threads : {1, 2, 3, 7})
        check(c.run(threads).same(r), isa + ": the bits depend on the number of threads");
      const auto spikes =
          std::count_if(r.output.begin(), r.output.end(), [](T z) { return std::isfinite(z); });
      const auto nans =
          std::count_if(r.output.begin(), r.output.end(), [](T z) { return std::isnan(z); });
      std::printf("  %s: %td spikes, %td NaN of %zu\n", isa.c_str(), spikes, nans, r.output.size());
      check(spikes > 3000 && (nans > 0) == with_nan, "the case tests nothing");
      if (isa != "baseline") with_fma.push_back(r);
    }
    for (const Result<T>& r : with_fma) check(r.same(with_fma[0]), "AVX2 and AVX-512 differ");
  }
  ttfs::set_instruction_set(before);
}

/// Whether this thread uses upper halves of vector registers; false where that cannot be known.
bool upper_halves_in_use() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kTellsComponentsInUse = 1u << 2, kOsSaves = 1u << 27, kUpperHalves = 1u << 2;
  if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || (c & kOsSaves) == 0) return false;
  if (!__get_cpuid_count(13, 1, &a, &b, &c, &d) || (a & kTellsComponentsInUse) == 0) return false;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(1));
  return (a & kUpperHalves) != 0;
#else
  return false;
#endif
}

/// Upper halves that a call leaves in use would slow down the SSE instructions of its caller.
template <class T>
void test_upper_halves() {
  std::mt19937 random(kSeed);
  const Layer<T> c = odd_layer<T>(random, false);
  const std::string before = ttfs::instruction_set();
  for (const std::string& isa : ttfs::instruction_sets()) {
    ttfs::set_instruction_set(isa);
    Result<T> r;
    c.forward(r, 1);
    check(!upper_halves_in_use(), isa + ": forward leaves upper halves of registers in use");
    c.run(1);
    check(!upper_halves_in_use(), isa + ": backward leaves upper halves of registers in use");
  }
  ttfs::set_instruction_set(before);
}

void test_instruction_set_errors() {
  const std::string before = ttfs::instruction_set();
  check_throws([] { ttfs::set_instruction_set("sse9"); }, "sse9");
  check_throws([] { ttfs::set_instruction_set(""); }, "baseline");
  check(ttfs::instruction_set() == before, "a refused instruction set changed the one in use");
}

/// F(z) = 2 (z - 1) - z reaches 0 at the second input, z = 2; weights of sum 0.75 never fire.
template <class T>
void test_linear_by_hand() {
  Layer<T> c;
  c.s = ttfs::linear_shape(2, 2, 2);
  c.input = {1, 2, 2, static_cast<T>(kInfinity)};
  c.weight = {2, 1, T(0.5), T(0.25)};
  c.grad = {3, 5, 7, 11};
  const T silent = static_cast<T>(kInfinity);
  const Result<T> r = c.run(2);
  check(r.output == std::vector<T>{2, silent, 4, silent}, "spikes of a fully connected layer");
  check(r.slope == std::vector<T>{1, 0, 1, 0}, "slopes of a fully connected layer");
  // An input at exactly the time of the spike is not causal. dz/dz_i = 2; dz/dw = z_i - z.
  check(r.grad_input == std::vector<T>{6, 0, 14, 0}, "gradients of the inputs");
  check(r.grad_weight == std::vector<T>{3 * (1 - 2) + 7 * (2 - 4), 0, 0, 0},
        "gradients of the weights");

  Result<T> early;
  c.forward(early, 2, std::log(3.0));
  check(early.output == std::vector<T>{2, silent, silent, silent}, "a spike after the horizon");
  check(early.slope == std::vector<T>{1, 0, 0, 0}, "the slope of a spike after the horizon");
}

/// Three neurons on 200 inputs: one whose weights add up to hardly more than 1, one that fires
/// among its inputs, and one that never fires.
template <class T>
void test_counts() {
  Layer<T> c;
  c.s = ttfs::linear_shape(2, 200, 3);
  for (std::int64_t i = 0; i < 400; ++i)
    c.input.push_back(static_cast<T>(std::exp(static_cast<double>(i % 200) / 100)));
  for (double sum : {1.001, 4.0, -1.0})
    c.weight.insert(c.weight.end(), 200, static_cast<T>(sum / 200));
  const std::string before = ttfs::instruction_set();
  for (const std::string& isa : ttfs::instruction_sets()) {
    ttfs::set_instruction_set(isa);
    Result<T> plain;
    c.forward(plain, 1);
    check(plain.output[0] > 100 && plain.output[1] < 7 && std::isinf(plain.output[2]),
          isa + ": the case tests nothing");
    ttfs::ForwardCounts first;
    for (int threads : {1, 2, 3}) {
      Result<T> r;
      ttfs::ForwardCounts counts;
      c.forward(r, threads, kInfinity, {}, &counts);
      check(same_bits(r.output, plain.output) && same_bits(r.slope, plain.slope),
            isa + ": counting changes the bits");
      if (threads == 1) first = counts;
      // Of each row 25 chunks and, with its padding, a block of 16 outputs.
      check(counts.recomputed == (sizeof(T) == sizeof(float) ? 2 : 0) && counts.chunks == 800 &&
                counts.rescanned > 0 && counts.rescanned < 100 &&
                counts.rescanned == first.rescanned,
            isa + ": " + std::to_string(counts.recomputed) + " outputs recomputed, " +
                std::to_string(counts.rescanned) + " of " + std::to_string(counts.chunks) +
                " chunks rescanned");
      c.forward(r, threads, kInfinity, {}, &counts);
      check(counts.recomputed == 2 * first.recomputed && counts.chunks == 2 * first.chunks &&
                counts.rescanned == 2 * first.rescanned,
            isa + ": a second call does not add to the counts");
    }
  }
  ttfs::set_instruction_set(before);
}

template <class T>
void test_empty() {
  Layer<T> c;
  c.s = ttfs::linear_shape(3, 0, 2);
  c.grad.assign(6, 1);
  Result<T> r = c.run(2);
  check(std::all_of(r.output.begin(), r.output.end(), [](T z) { return std::isinf(z) && z > 0; }),
        "a neuron without inputs is silent");
  c.bias = {3, 1};  // 3 (z - 1) - z = 0 at 1.5; z - 1 - z is never 0
  r = c.run(2);
  check(r.output[0] == T(1.5) && r.output[4] == T(1.5) && std::isinf(r.output[1]),
        "a neuron whose only input is its bias");
  check(r.grad_bias == std::vector<T>{3 * (1 - T(1.5)) / 2, 0}, "the gradient of a lone bias");

  c = Layer<T>();
  c.s = ttfs::linear_shape(0, 4, 2);
  c.weight.assign(8, 1);
  r = c.run(2);
  check(r.grad_weight == std::vector<T>(8, T(0)), "an empty batch leaves no gradient");

  c = Layer<T>();
  c.s = ttfs::linear_shape(2, 4, 0);
  c.input.assign(8, 1);
  r = c.run(2);
  check(r.grad_input == std::vector<T>(8, T(0)), "no outputs send no gradient");
}

template <class T>
void test_refused_input_writes_nothing() {
  std::mt19937 random(kSeed);
  Layer<T> c = odd_layer<T>(random, false);
  for (T bad : {T(0), T(-0.0), T(-1), static_cast<T>(-kInfinity)}) {
    c.input.back() = bad;
    Result<T> r;
    r.output.assign(at(c.s.batch * c.out().n), T(42));
    r.slope = r.output;
    const auto before = r.output;
    check_throws([&] { c.forward(r, 2); }, "not positive");
    check(r.output == before && r.slope == before, "a refused input has changed the output");
  }
  // Spike times may be any number except -inf.
  const ttfs::Neuron ramps{0, 1};
  Result<T> r;
  std::vector<T> positive, negative{T(1)};
  for (T good : {T(0), T(-0.0), T(-1), std::numeric_limits<T>::lowest()}) {
    c.input.back() = good;
    c.forward(r, 2, kInfinity, ramps);
    if (good == 0) (std::signbit(good) ? negative : positive) = r.output;
  }
  check(positive == negative, "-0 is another time than 0");
  c.input.back() = static_cast<T>(-kInfinity);
  r.output.assign(r.output.size(), T(42));
  const auto before = r.output;
  check_throws([&] { c.forward(r, 2, kInfinity, ramps); }, "-inf");
  check(r.output == before, "a refused input has changed the output");
  c.input.back() = 1;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const ttfs::Neuron& none : {ttfs::Neuron{0, 0}, ttfs::Neuron{-1, 1}, ttfs::Neuron{1, -1},
                                   ttfs::Neuron{nan, 1}, ttfs::Neuron{0, kInfinity}})
    check_throws([&] { c.forward(r, 2, kInfinity, none); }, "threshold");
  check(r.output == before, "a refused neuron has changed the output");
}

/// Elements between those that the strides name are neither read nor written.
template <class T>
void test_strides_with_gaps() {
  std::mt19937 random(kSeed);
  const Layer<T> c = odd_layer<T>(random, false);
  const auto spread = [](ttfs::Strides4 s) {
    return ttfs::Strides4{2 * s.n, 2 * s.c, 2 * s.h, 2 * s.w};
  };
  const auto apart = [](const std::vector<T>& values) {
    std::vector<T> wide(2 * values.size(), T(-1));
    for (std::size_t i = 0; i < values.size(); ++i) wide[2 * i] = values[i];
    return wide;
  };
  const Result<T> r = c.run(2);
  const auto input = apart(c.input), grad = apart(c.grad);
  std::vector<T> output(2 * r.output.size(), T(-1)), grad_input(input.size(), T(-1));
  std::vector<T> slope(r.slope.size()), grad_weight(c.weight.size()), grad_bias(c.bias.size());
  ttfs::spiking_conv2d_forward<T>(c.s, {input.data(), spread(c.in())}, c.weight.data(),
                                  c.bias.data(), kInfinity, {output.data(), spread(c.out())},
                                  slope.data(), 2);
  ttfs::spiking_conv2d_backward<T>(
      c.s, {input.data(), spread(c.in())}, c.weight.data(), {output.data(), spread(c.out())},
      slope.data(), {grad.data(), spread(c.out())}, {grad_input.data(), spread(c.in())},
      grad_weight.data(), grad_bias.data(), 2);
  check(same_bits(output, apart(r.output)) && same_bits(slope, r.slope), "outputs with gaps");
  check(same_bits(grad_input, apart(r.grad_input)), "gradients of inputs with gaps");
  check(same_bits(grad_weight, r.grad_weight) && same_bits(grad_bias, r.grad_bias),
        "gradients of weights from arrays with gaps");
}

template <class T>
void test_gradients_that_are_not_wanted() {
  std::mt19937 random(kSeed);
  const Layer<T> c = odd_layer<T>(random, false);
  const Result<T> all = c.run(2);
  for (int wanted = 0; wanted < 8; ++wanted) {
    Result<T> r = all;
    for (auto* gradient : {&r.grad_input, &r.grad_weight, &r.grad_bias})
      std::fill(gradient->begin(), gradient->end(), T(42));
    const auto pointer = [&](int bit, std::vector<T>& to) {
      return wanted & bit ? to.data() : nullptr;
    };
    ttfs::spiking_conv2d_backward<T>(c.s, {c.input.data(), c.in()}, c.weight.data(),
                                     {r.output.data(), c.out()}, r.slope.data(),
                                     {c.grad.data(), c.out()}, {pointer(1, r.grad_input), c.in()},
                                     pointer(2, r.grad_weight), pointer(4, r.grad_bias), 2);
    const auto right = [&](int bit, const std::vector<T>& got, const std::vector<T>& full) {
      return same_bits(got, wanted & bit ? full : std::vector<T>(full.size(), T(42)));
    };
    check(right(1, r.grad_input, all.grad_input) && right(2, r.grad_weight, all.grad_weight) &&
              right(4, r.grad_bias, all.grad_bias),
          "gradients " + std::to_string(wanted) + " alone are not those of all");
  }
}

template <class Shape>
struct BadSize {
  std::int64_t Shape::* size;
  std::int64_t value;
  const char* name;
};

void test_sizes() {
  using Conv = ttfs::ConvShape;
  const std::vector<BadSize<Conv>> conv_sizes = {
      {&Conv::batch, -1, "batch size"},
      {&Conv::in_channels, -2, "input channels"},
      {&Conv::in_height, -1, "input height"},
      {&Conv::in_width, -1, "input width"},
      {&Conv::out_channels, -2, "output channels"},
      {&Conv::out_height, -1, "output height"},
      {&Conv::out_width, -1, "output width"},
      {&Conv::kernel_height, 0, "kernel height"},
      {&Conv::kernel_width, 0, "kernel width"},
      {&Conv::stride_height, 0, "stride"},
      {&Conv::stride_width, 0, "stride"},
      {&Conv::dilation_height, 0, "dilation"},
      {&Conv::dilation_width, 0, "dilation"},
      {&Conv::pad_top, -1, "top padding"},
      {&Conv::pad_left, -1, "left padding"},
      {&Conv::groups, 0, "groups"},
      {&Conv::groups, 3, "divisible"},
      {&Conv::kernel_width, std::int64_t{1} << 32, "too large"},
      {&Conv::kernel_width, std::int64_t{1} << 26, "too large"}};
  std::mt19937 random(kSeed);
  const Layer<float> good = odd_layer<float>(random, false);
  for (const auto& bad : conv_sizes) {
    // The arrays have the sizes that the shape should have; a refused call must not change them.
    Result<float> r = good.run(1);
    const Result<float> before = r;
    Conv s = good.s;
    s.*bad.size = bad.value;
    check_throws(
        [&] {
          ttfs::spiking_conv2d_forward<float>(s, {good.input.data(), good.in()}, good.weight.data(),
                                              good.bias.data(), kInfinity,
                                              {r.output.data(), good.out()}, r.slope.data(), 2);
        },
        bad.name);
    check_throws(
        [&] {
          ttfs::spiking_conv2d_backward<float>(
              s, {good.input.data(), good.in()}, good.weight.data(), {r.output.data(), good.out()},
              r.slope.data(), {good.grad.data(), good.out()}, {r.grad_input.data(), good.in()},
              r.grad_weight.data(), r.grad_bias.data(), 2);
        },
        bad.name);
    check(r.same(before), "a refused size has changed a result");
  }

  using Pool = ttfs::PoolShape;
  const std::vector<BadSize<Pool>> pool_sizes = {
      {&Pool::batch, -1, "batch size"},         {&Pool::channels, -1, "channels"},
      {&Pool::in_height, -1, "input height"},   {&Pool::in_width, -1, "input width"},
      {&Pool::out_height, -1, "output height"}, {&Pool::out_width, -1, "output width"},
      {&Pool::kernel_height, 0, "kernel"},      {&Pool::kernel_width, 0, "kernel"},
      {&Pool::stride_height, 0, "stride"},      {&Pool::stride_width, 0, "stride"},
      {&Pool::dilation_height, 0, "dilation"},  {&Pool::dilation_width, 0, "dilation"},
      {&Pool::pad_top, -1, "top padding"},      {&Pool::pad_left, -1, "left padding"}};
  for (const auto& bad : pool_sizes) {
    Pool s;
    s.*bad.size = bad.value;
    float in = 1, out = 42, back = 42;
    std::int32_t index = 42;
    check_throws(
        [&] { ttfs::spiking_max_pool2d_forward<float>(s, {&in, {}}, {&out, {}}, &index, 2); },
        bad.name);
    check_throws([&] { ttfs::spiking_max_pool2d_backward<float>(s, {&in, {}}, &index, &back, 2); },
                 bad.name);
    check(out == 42 && index == 42 && back == 42, "a refused pooling has changed a result");
  }
}

template <class T>
void test_pooling_bits() {
  std::mt19937 random(kSeed);
  Layer<T> c = odd_layer<T>(random, true);
  ttfs::PoolShape s;
  s.batch = c.s.batch;
  s.channels = c.s.in_channels;
  s.in_height = c.s.in_height;
  s.in_width = c.s.in_width;
  s.kernel_height = s.kernel_width = 3;
  s.stride_height = s.stride_width = 2;
  s.pad_top = s.pad_left = 1;
  s.out_height = 7;
  s.out_width = 6;
  const std::size_t count = at(s.batch * s.channels * 7 * 6);
  const ttfs::Strides4 out = dense(s.channels, 7, 6);
  std::vector<T> first, first_back;
  for (int threads : {1, 2, 3, 7}) {
    std::vector<T> output(count), back(c.input.size());
    std::vector<std::int32_t> index(count);
    ttfs::spiking_max_pool2d_forward<T>(s, {c.input.data(), c.in()}, {output.data(), out},
                                        index.data(), threads);
    ttfs::spiking_max_pool2d_backward<T>(s, {c.grad.data(), out}, index.data(), back.data(),
                                         threads);
    if (threads == 1) {
      first = output;
      first_back = back;
      check(std::any_of(back.begin(), back.end(), [](T g) { return g != 0; }), "no gradient");
    }
    check(same_bits(output, first) && same_bits(back, first_back),
          "pooling's bits depend on the number of threads");
  }
}

template <class T>
void test_type() {
  test_bits<T>();
  test_upper_halves<T>();
  test_linear_by_hand<T>();
  test_counts<T>();
  test_empty<T>();
  test_refused_input_writes_nothing<T>();
  test_strides_with_gaps<T>();
  test_gradients_that_are_not_wanted<T>();
  test_pooling_bits<T>();
}

}  // namespace

int main() {
  std::printf("seed %u\n", kSeed);
  test_type<float>();
  test_type<double>();
  test_sizes();
  test_instruction_set_errors();
  std::printf("%d checks failed\n", failures);
  return failures ? 1 : 0;
}
