// Networks of the integer engine: what is allowed, and the public calls.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "src/integer.h"
#include "src/parallel.h"

namespace ttfs::integer {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 28;  // codes of one image in one layer
constexpr std::int64_t kMaxStep = std::int64_t{1} << 20;  // kernels, strides, padding, dilation

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string text(const Size& s) {
  std::string out = "(";  // (GCC 12 warns of "(" + std::to_string() at -O3)
  for (const std::int64_t n : {s.channels, s.height, s.width})
    out += (out.size() > 1 ? ", " : "") + std::to_string(n);
  return out + ")";
}

void require_size(const Size& s, const char* what) {
  for (const std::int64_t n : {s.channels, s.height, s.width})
    if (n < 1 || n > kMaxSize)
      refuse(std::string(what) + " has size " + text(s) + "; each must be from 1 to 2^28");
  if (s.height * s.width > kMaxSize || s.count() > kMaxSize)
    refuse(std::string(what) + " has size " + text(s) + ": more than 2^28 spike codes an image");
}

void require_steps(const Window& w) {
  for (const std::int64_t n : {w.kernel_height, w.kernel_width, w.stride_height, w.stride_width,
                               w.dilation_height, w.dilation_width})
    if (n < 1 || n > kMaxStep)
      refuse("a kernel, stride or dilation is " + std::to_string(n) +
             "; it must be from 1 to 2^20");
  for (const std::int64_t n : {w.pad_top, w.pad_left})
    if (n < 0 || n > kMaxStep)
      refuse("a padding is " + std::to_string(n) + "; it must be from 0 to 2^20");
}

void require_input(const Network::State& state, const Size& input) {
  if (!(input == state.last()))
    refuse("layer " + std::to_string(state.layers.size()) + " expects an input of size " +
           text(input) + ", but what is before it gives " + text(state.last()));
}

}  // namespace

void check_header(const Network::State& state) {
  if (state.time_bits != 8 && state.time_bits != 16)
    refuse("time_bits is " + std::to_string(state.time_bits) + "; it must be 8 or 16");
  if (state.encoders.empty() || state.encoders.size() > 2)
    refuse("there are " + std::to_string(state.encoders.size()) + " encoders; a pixel makes one " +
           "spike or two");
  require_size(state.image, "an image");
  require_size(state.input(), "the input");
  if (!(std::isfinite(state.unit) && state.unit > 0))
    refuse("the unit of the input codes must be a positive number; got " +
           std::to_string(state.unit));
  for (const Encoder& encoder : state.encoders)
    for (const std::uint16_t code : encoder)
      if (code < 1 || code > state.silent())
        refuse("the encoder holds the code " + std::to_string(code) + "; codes go from 1 to " +
               std::to_string(state.silent()));
}

void check_geometry(const Network::State& state, const Neurons& n) {
  const ConvShape& s = n.shape;
  const auto number = std::to_string(state.layers.size());
  require_input(state, {s.in_channels, s.in_height, s.in_width});
  require_size({s.out_channels, s.out_height, s.out_width}, "a layer's output");
  require_steps(s);
  const auto too_many = [&number] {
    refuse("layer " + number + " has more than " + std::to_string(kMaxInputs) +
           " inputs a neuron, the most that an event's row number holds");
  };
  if (s.kernel_height * s.kernel_width > kMaxInputs) too_many();
  check(s);
  if (s.in_channels / s.groups * s.kernel_height * s.kernel_width > kMaxInputs) too_many();
  if (n.bits != 8 && n.bits != 4 && n.bits != 2)
    refuse("layer " + number + " has weights of " + std::to_string(n.bits) +
           " bits; it must be 8, 4 or 2");
  if (n.ratio < 1 || n.ratio > kMaxRatio)
    refuse("layer " + number + " scales its spike codes by " + std::to_string(n.ratio) +
           " / 2^16; the numerator must be from 1 to 2^23");
  if (n.latest < 1 || n.latest >= state.silent())
    refuse("layer " + number + " has the latest spike code " + std::to_string(n.latest) +
           "; it must be from 1 to " + std::to_string(state.silent() - 1));
  if (n.bias_code < 1 || n.bias_code >= state.silent())
    refuse("layer " + number + " has a bias at the spike code " + std::to_string(n.bias_code) +
           "; it must be from 1 to " + std::to_string(state.silent() - 1));
  const auto outputs = static_cast<std::size_t>(s.out_channels);
  if (n.theta.size() != outputs || (!n.bias.empty() && n.bias.size() != outputs))
    refuse("layer " + number + " needs a threshold, and a bias if any, for each of its " +
           std::to_string(outputs) + " output channels");
  for (const std::int32_t theta : n.theta)
    if (theta < 1)
      refuse("layer " + number + " has the threshold " + std::to_string(theta) +
             "; it must be at least 1");
  if (n.reference_code == 0) {
    if (!n.slope.empty()) refuse("layer " + number + " has slopes, but no reference code");
    return;
  }
  if (n.reference_code >= state.silent())
    refuse("layer " + number + " has the reference code " + std::to_string(n.reference_code) +
           "; it must be from 1 to " + std::to_string(state.silent() - 1));
  if (!n.bias.empty() && n.bias_code >= n.reference_code)
    refuse("layer " + number + " has a bias at the spike code " + std::to_string(n.bias_code) +
           "; it must come before the reference code " + std::to_string(n.reference_code));
  if (n.slope.size() != outputs)
    refuse("layer " + number + " has a reference code and needs a slope for each of its " +
           std::to_string(outputs) + " output channels");
  for (const std::int32_t slope : n.slope)
    if (slope < 1 || slope > kMaxSum)
      refuse("layer " + number + " has the slope " + std::to_string(slope) +
             "; it must be from 1 to 2^22");
}

void append(Network::State& state, const Neurons& n, const NextCode& next) {
  check_geometry(state, n);
  const ConvShape& s = n.shape;
  Layer layer;
  layer.neurons = n;
  layer.input = state.last();
  layer.output = {s.out_channels, s.out_height, s.out_width};
  layer.weights.emplace(n);
  PackedCodes& weights = *layer.weights;
  const std::int64_t outputs = weights.outputs();
  const auto all = static_cast<std::size_t>(s.out_channels);
  std::vector<std::int64_t> positive(all, 0), negative(all, 0);
  std::vector<std::int32_t> least(all, 0);
  for (std::int64_t g = 0; g < s.groups; ++g)
    for (std::int64_t row = 0; row < weights.rows(); ++row)
      for (std::int64_t o = 0; o < outputs; ++o) {
        const int code = next();
        const int weight = weight_of_code(code, n.bits);
        const auto j = static_cast<std::size_t>(g * outputs + o);
        (weight > 0 ? positive : negative)[j] += weight > 0 ? weight : -weight;
        least[j] = std::min(least[j], weight);
        weights.put(g, row, o, code);
      }
  std::int64_t largest = 1;
  for (std::size_t j = 0; j < all; ++j) {
    const std::int64_t bias = n.bias.empty() ? 0 : n.bias[j];
    positive[j] += std::max<std::int64_t>(bias, 0);
    negative[j] += std::max<std::int64_t>(-bias, 0) + n.theta[j];
    const std::int64_t sum = std::max(positive[j], negative[j]);
    if (sum > kMaxSum)
      refuse("layer " + std::to_string(state.layers.size()) + " could overflow: the weights of " +
             "output channel " + std::to_string(j) + " of one sign sum to " + std::to_string(sum) +
             ", bias and threshold included; at most 2^22 are allowed. Give it smaller weights "
             "beside its largest one, or fewer inputs");
    largest = std::max(largest, sum);
  }
  layer.span = std::min<std::int64_t>((std::int64_t{1} << 30) / largest, 65535);
  for (std::int64_t g = 0; g < s.groups; ++g)
    for (const Block& block : weights.layout().blocks()) {
      std::int32_t most = 0, highest = 1;
      for (std::int64_t i = 0; i < block.width; ++i) {
        const auto j = static_cast<std::size_t>(g * outputs + block.first + i);
        const bool used = i < block.used;
        layer.theta.push_back(used ? n.theta[j] : 1);
        layer.bias.push_back(used && !n.bias.empty() ? n.bias[j] : 0);
        if (n.reference_code > 0) layer.slope.push_back(used ? n.slope[j] : 1);
        if (!used) continue;
        most = std::max(most, -least[j]);
        highest = std::max(highest, n.theta[j]);
      }
      layer.most_negative.push_back(most);
      layer.highest_theta.push_back(highest);
    }
  state.layers.push_back(std::move(layer));
}

void append(Network::State& state, const PoolShape& pooling) {
  const PoolShape& s = pooling;
  require_input(state, {s.channels, s.in_height, s.in_width});
  Layer layer;
  layer.pooling = pooling;
  layer.input = state.last();
  layer.output = {s.channels, s.out_height, s.out_width};
  require_size(layer.output, "a pooling layer's output");
  require_steps(s);
  check(s);
  if (s.kernel_height * s.kernel_width > kMaxInputs)
    refuse("a pooling window is " + std::to_string(s.kernel_height) + " x " +
           std::to_string(s.kernel_width) + "; it may hold at most " + std::to_string(kMaxInputs) +
           " inputs");
  state.layers.push_back(std::move(layer));
}

namespace {

/// Length of the UTF-8 character (RFC 3629) that begins at `at`; 0 if none does.
std::size_t utf8_length(const std::string& text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xc0) != 0x80) return 0;
  const bool overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
  const bool surrogate = first == 0xed && byte(1) > 0x9f;
  const bool too_large = first == 0xf4 && byte(1) > 0x8f;
  return overlong || surrogate || too_large ? 0 : length;
}

bool is_utf8(const std::string& text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

void require_no_names(const Network::State& state) {
  if (!state.classes.empty())
    refuse("the classes have names already; name the classes once all layers are there");
}

}  // namespace

void name_classes(Network::State& state, std::vector<std::string> names) {
  const std::int64_t outputs = state.last().channels;
  if (!names.empty() && static_cast<std::int64_t>(names.size()) != outputs)
    refuse("a network of " + std::to_string(outputs) + " outputs needs a name for each class; " +
           "there are " + std::to_string(names.size()));
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i].empty() || !is_utf8(names[i]))
      refuse("the name of class " + std::to_string(i) + " is empty or no UTF-8");
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) refuse("two classes have the same name, " + *twice);
  state.classes = std::move(names);
}

Network::Network(int time_bits, Size image, double unit, const std::vector<Encoder>& encoders)
    : state_(std::make_unique<State>(State{time_bits, image, unit, encoders, {}, {}})) {
  check_header(*state_);
}
Network::Network(std::unique_ptr<State> state) : state_(std::move(state)) {}
Network::~Network() = default;
Network::Network(Network&&) noexcept = default;
Network& Network::operator=(Network&&) noexcept = default;

void Network::add(const Neurons& n, const std::int8_t* codes) {
  require_no_names(*state_);
  check_geometry(*state_, n);
  // From (output, channel, kernel row, kernel column) to the order of the file.
  const ConvShape& s = n.shape;
  const std::int64_t channels = s.in_channels / s.groups, outputs = s.out_channels / s.groups;
  const std::int64_t taps = s.kernel_height * s.kernel_width;
  const int least = -(1 << (n.bits - 1)), most = -least - 1;
  std::int64_t g = 0, tap = 0, c = 0, o = 0;
  append(*state_, n, [&]() {
    const auto code = int{codes[((g * outputs + o) * channels + c) * taps + tap]};
    if (code < least || code > most)
      refuse("a weight has the code " + std::to_string(code) + "; codes of " +
             std::to_string(n.bits) + " bits go from " + std::to_string(least) + " to " +
             std::to_string(most));
    if (++o == outputs) {
      o = 0;
      if (++c == channels) {
        c = 0;
        if (++tap == taps) {
          tap = 0;
          ++g;
        }
      }
    }
    return code;
  });
}

void Network::add(const PoolShape& pooling) {
  require_no_names(*state_);
  append(*state_, pooling);
}
void Network::set_classes(std::vector<std::string> names) {
  name_classes(*state_, std::move(names));
}

int Network::time_bits() const { return state_->time_bits; }
std::uint16_t Network::silent() const { return state_->silent(); }
double Network::unit() const { return state_->unit; }
Size Network::image() const { return state_->image; }
Size Network::input() const { return state_->input(); }
Size Network::output() const { return state_->last(); }
const std::vector<Encoder>& Network::encoders() const { return state_->encoders; }
const std::vector<std::string>& Network::classes() const { return state_->classes; }
std::int64_t Network::layer_count() const {
  return static_cast<std::int64_t>(state_->layers.size());
}

namespace {
const Layer& layer_of(const Network::State& state, std::int64_t layer) {
  if (layer < 0 || layer >= static_cast<std::int64_t>(state.layers.size()))
    throw std::out_of_range("there is no layer " + std::to_string(layer) + "; the network has " +
                            std::to_string(state.layers.size()));
  return state.layers[static_cast<std::size_t>(layer)];
}
}  // namespace

Size Network::output(std::int64_t layer) const { return layer_of(*state_, layer).output; }
const Neurons* Network::neurons(std::int64_t layer) const {
  const Layer& l = layer_of(*state_, layer);
  return l.neurons ? &*l.neurons : nullptr;
}
const PoolShape* Network::pooling(std::int64_t layer) const {
  const Layer& l = layer_of(*state_, layer);
  return l.pooling ? &*l.pooling : nullptr;
}

std::vector<std::int8_t> Network::weight_codes(std::int64_t layer) const {
  const Layer& l = layer_of(*state_, layer);
  std::vector<std::int8_t> codes;
  if (!l.neurons) return codes;
  const ConvShape& s = l.neurons->shape;
  const std::int64_t channels = s.in_channels / s.groups, outputs = s.out_channels / s.groups;
  const std::int64_t taps = s.kernel_height * s.kernel_width;
  codes.reserve(static_cast<std::size_t>(s.out_channels * channels * taps));
  for (std::int64_t m = 0; m < s.out_channels; ++m)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t tap = 0; tap < taps; ++tap)
        codes.push_back(
            static_cast<std::int8_t>(l.weights->get(m / outputs, tap * channels + c, m % outputs)));
  return codes;
}

std::int64_t Network::weight_bytes() const {
  std::int64_t bytes = 0;
  for (const Layer& l : state_->layers) bytes += l.weights ? l.weights->bytes() : 0;
  return bytes;
}

namespace {

/// Copies (batch, channels, places) to (batch, places, channels), or back with the sizes swapped.
template <class From, class To, class Map>
void transpose(const From* from, std::int64_t batch, std::int64_t rows, std::int64_t columns,
               To* to, const Map& map) {
  for (std::int64_t n = 0; n < batch; ++n, from += rows * columns, to += rows * columns)
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) to[c * rows + r] = map(from[r * columns + c]);
}

void require_batch(std::int64_t batch) {
  if (batch < 0) refuse("batch size is " + std::to_string(batch) + "; it must not be negative");
}

/// Runs all layers on channels-last codes; hands every layer's output to `see`.
template <class See>
void run_all(const Network::State& state, std::int64_t batch, std::vector<std::uint16_t> codes,
             int threads, const See& see) {
  std::vector<std::uint16_t> next;
  for (std::size_t l = 0; l < state.layers.size(); ++l) {
    const Layer& layer = state.layers[l];
    next.resize(static_cast<std::size_t>(batch * layer.output.count()));
    run_layer(layer, state.silent(), batch, codes.data(), next.data(), threads);
    see(l, next.data());
    codes.swap(next);
  }
}

/// Spike codes of images, channels last.
std::vector<std::uint16_t> encode(const Network::State& state, std::int64_t batch,
                                  const std::uint8_t* pixels) {
  require_batch(batch);
  const Size& image = state.image;
  const std::int64_t places = image.height * image.width, channels = state.input().channels;
  std::vector<std::uint16_t> codes(static_cast<std::size_t>(batch * channels * places));
  std::uint16_t* to = codes.data();
  for (std::int64_t n = 0; n < batch; ++n, pixels += image.count(), to += channels * places) {
    std::int64_t channel = 0;
    for (const Encoder& encoder : state.encoders)
      for (std::int64_t c = 0; c < image.channels; ++c, ++channel)
        for (std::int64_t i = 0; i < places; ++i)
          to[i * channels + channel] = encoder[pixels[c * places + i]];
  }
  return codes;
}

auto copy_outputs(const Network::State& state, std::int64_t batch,
                  const std::vector<std::uint16_t*>& outputs) {
  if (outputs.size() != state.layers.size())
    refuse("there are " + std::to_string(outputs.size()) + " outputs for " +
           std::to_string(state.layers.size()) + " layers");
  return [&state, batch, &outputs](std::size_t l, const std::uint16_t* codes) {
    const Size& s = state.layers[l].output;
    if (outputs[l])
      transpose(codes, batch, s.height * s.width, s.channels, outputs[l],
                [](std::uint16_t code) { return code; });
  };
}

}  // namespace

void Network::run(const std::uint16_t* codes, std::int64_t batch,
                  const std::vector<std::uint16_t*>& outputs, int threads) const {
  require_batch(batch);
  const std::uint16_t silent = state_->silent();
  const Size s = state_->input();
  bool wrong = false;
  std::vector<std::uint16_t> last(static_cast<std::size_t>(batch * s.count()));
  transpose(codes, batch, s.channels, s.height * s.width, last.data(), [&](std::uint16_t code) {
    wrong |= code < 1 || code > silent;
    return code;
  });
  if (wrong)
    refuse("the input holds a value that is no spike code; codes go from 1 to " +
           std::to_string(silent - 1) + ", and " + std::to_string(silent) + " is no spike");
  run_all(*state_, batch, std::move(last), threads, copy_outputs(*state_, batch, outputs));
}

void Network::run(const std::uint8_t* pixels, std::int64_t batch,
                  const std::vector<std::uint16_t*>& outputs, int threads) const {
  run_all(*state_, batch, encode(*state_, batch, pixels), threads,
          copy_outputs(*state_, batch, outputs));
}

void Network::classify(const std::uint8_t* pixels, std::int64_t batch, std::int32_t* classes,
                       int threads) const {
  if (state_->layers.empty()) refuse("the network has no layers");
  const std::size_t last = state_->layers.size() - 1;
  const Size s = state_->last();
  if (s.height * s.width != 1)
    refuse("the network's output has size " + text(s) +
           "; to classify, it must be one value a "
           "class");
  const auto decide = [&](std::size_t l, const std::uint16_t* out) {
    if (l != last) return;
    for (std::int64_t n = 0; n < batch; ++n) {
      const std::uint16_t* row = out + n * s.channels;
      const std::uint16_t* first = std::min_element(row, row + s.channels);
      classes[n] = *first == state_->silent() ? -1 : static_cast<std::int32_t>(first - row);
    }
  };
  run_all(*state_, batch, encode(*state_, batch, pixels), threads, decide);
}

}  // namespace ttfs::integer
