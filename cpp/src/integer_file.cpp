// The file of an integer network; docs/integer.md describes every byte.
#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "src/integer.h"

namespace ttfs::integer {
namespace {

constexpr char kMagic[8] = {'T', 'T', 'F', 'S', 'I', 'N', 'T', '\n'};
constexpr std::uint32_t kOneEncoder = 1;  // the version without their number
constexpr std::uint32_t kNoHorizon = 2;   // the version without layers with a horizon
constexpr std::uint32_t kNoNames = 3;     // the version without names of the classes
constexpr std::uint32_t kVersion = 4;
constexpr std::int64_t kHeaderBytes = 8 + 4 + 8;  // magic, version, size of the file
constexpr std::int64_t kChecksumBytes = 4;
constexpr std::uint32_t kNeurons = 1, kPooling = 2, kHorizon = 3;
constexpr std::uint32_t kMaxLayers = 1U << 16;

[[noreturn]] void bad(const std::string& what) { throw std::runtime_error(what); }

/// CRC-32 as in zlib, gzip and PNG.
class Checksum {
 public:
  void add(const std::uint8_t* data, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) value_ = table()[(value_ ^ data[i]) & 255] ^ (value_ >> 8);
  }
  std::uint32_t value() const { return ~value_; }

 private:
  static const std::array<std::uint32_t, 256>& table() {
    static const std::array<std::uint32_t, 256> entries = [] {
      std::array<std::uint32_t, 256> t{};
      for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t c = i;
        for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0xedb88320U ^ (c >> 1) : c >> 1;
        t[i] = c;
      }
      return t;
    }();
    return entries;
  }
  std::uint32_t value_ = 0xffffffffU;
};

/// Source of the bytes: a file, or memory.
class Source {
 public:
  virtual ~Source() = default;
  virtual std::int64_t size() const = 0;
  virtual void rewind() = 0;
  virtual void read(std::uint8_t* to, std::size_t n) = 0;  // throws where there are fewer
};

class Memory : public Source {
 public:
  Memory(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  std::int64_t size() const override { return static_cast<std::int64_t>(size_); }
  void rewind() override { at_ = 0; }
  void read(std::uint8_t* to, std::size_t n) override {
    if (n > size_ - at_) bad("it is cut short");
    if (n > 0) std::memcpy(to, data_ + at_, n);
    at_ += n;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

class File final : public Source {
 public:
  explicit File(const std::string& path) : file_(std::fopen(path.c_str(), "rb"), std::fclose) {
    if (!file_) bad(std::string("it cannot be opened: ") + std::strerror(errno));
    go_to(0, SEEK_END);
    size_ = std::ftell(file_.get());
    if (size_ < 0) bad(kIrregular);
    go_to(0, SEEK_SET);
  }
  std::int64_t size() const override { return size_; }
  void rewind() override { go_to(0, SEEK_SET); }
  void read(std::uint8_t* to, std::size_t n) override {
    if (std::fread(to, 1, n, file_.get()) != n) bad("it is cut short, or cannot be read");
  }

 private:
  static constexpr const char* kIrregular = "it cannot be read; is it a regular file?";

  void go_to(long place, int from) {
    if (std::fseek(file_.get(), place, from) != 0) bad(kIrregular);
  }

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::int64_t size_ = 0;
};

/// Numbers, little-endian, from within the part of the file that the checksum covers.
class Reader {
 public:
  Reader(Source& source, std::int64_t left) : source_(source), left_(left) {}

  std::int64_t left() const { return left_ + static_cast<std::int64_t>(full_ - at_); }

  std::uint8_t byte() {
    if (at_ == full_) {
      full_ = static_cast<std::size_t>(
          std::min<std::int64_t>(left_, static_cast<std::int64_t>(sizeof buffer_)));
      if (full_ == 0) bad("it ends within a layer");
      source_.read(buffer_, full_);
      left_ -= static_cast<std::int64_t>(full_);
      at_ = 0;
    }
    return buffer_[at_++];
  }

  template <class T>
  T number() {
    static_assert(std::is_unsigned_v<T>);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) value |= std::uint64_t{byte()} << (8 * i);
    return static_cast<T>(value);
  }
  std::int32_t signed_number() { return static_cast<std::int32_t>(number<std::uint32_t>()); }
  std::int64_t size() { return number<std::uint32_t>(); }

  /// Checks that `count` items of `bits` bits are there before memory is allocated for them.
  void expect(std::int64_t count, std::int64_t bits) {
    if (count < 0 || count > (std::numeric_limits<std::int64_t>::max() - 7) / bits ||
        (count * bits + 7) / 8 > left())
      bad("it announces more data than it holds");
  }

 private:
  Source& source_;
  std::int64_t left_;
  std::size_t at_ = 0, full_ = 0;
  std::uint8_t buffer_[1 << 14];
};

/// A window's numbers in their order in the file.
template <class AnyWindow>
auto window_numbers(AnyWindow& w) {
  return std::array{&w.kernel_height, &w.kernel_width, &w.stride_height,   &w.stride_width,
                    &w.pad_top,       &w.pad_left,     &w.dilation_height, &w.dilation_width};
}

void read_window(Reader& in, Window& window) {
  for (std::int64_t* number : window_numbers(window)) *number = in.size();
}

Neurons read_neurons(Reader& in, bool horizon) {
  Neurons n;
  ConvShape& s = n.shape;
  n.bits = in.number<std::uint8_t>();
  const bool has_bias = in.number<std::uint8_t>() != 0;
  n.latest = in.number<std::uint16_t>();
  n.bias_code = in.number<std::uint16_t>();
  n.ratio = in.number<std::uint32_t>();
  if (horizon) {
    n.reference_code = in.number<std::uint16_t>();
    if (n.reference_code == 0) bad("it holds a layer with a horizon at the code 0");
  }
  for (std::int64_t* size :
       {&s.in_channels, &s.in_height, &s.in_width, &s.out_channels, &s.out_height, &s.out_width})
    *size = in.size();
  read_window(in, s);
  s.groups = in.size();
  for (std::vector<std::int32_t>* values : {&n.theta, &n.bias, &n.slope}) {
    if ((values == &n.bias && !has_bias) || (values == &n.slope && !horizon)) continue;
    in.expect(s.out_channels, 32);
    values->reserve(static_cast<std::size_t>(s.out_channels));
    for (std::int64_t j = 0; j < s.out_channels; ++j) values->push_back(in.signed_number());
  }
  return n;
}

void read_layer(Reader& in, std::uint32_t version, Network::State& state) {
  const auto kind = in.number<std::uint32_t>();
  if (kind == kPooling) {
    PoolShape s;
    for (std::int64_t* size : {&s.channels, &s.in_height, &s.in_width, &s.out_height, &s.out_width})
      *size = in.size();
    read_window(in, s);
    append(state, s);
    return;
  }
  const bool horizon = kind == kHorizon && version > kNoHorizon;
  if (kind != kNeurons && !horizon)
    bad("it holds a layer of the unknown kind " + std::to_string(kind));
  const Neurons n = read_neurons(in, horizon);
  check_geometry(state, n);  // so that the product below cannot overflow
  const ConvShape& s = n.shape;
  const std::int64_t fan = s.in_channels / s.groups * s.kernel_height * s.kernel_width;
  in.expect(s.out_channels * fan, n.bits);
  unsigned bits = 0;  // those of the current byte that are left
  int left = 0;
  append(state, n, [&]() {
    if (left == 0) {
      bits = in.byte();
      left = 8;
    }
    const unsigned code = bits & ((1U << n.bits) - 1), top = 1U << (n.bits - 1);
    bits >>= n.bits;
    left -= n.bits;
    return static_cast<int>(code ^ top) - static_cast<int>(top);
  });
}

std::vector<std::string> read_names(Reader& in) {
  const std::int64_t count = in.size();
  if (count == 0) bad("it is of the version with names of the classes, and holds none");
  in.expect(count, 32);
  std::vector<std::string> names(static_cast<std::size_t>(count));
  for (std::string& name : names) {
    const std::int64_t bytes = in.size();
    in.expect(bytes, 8);
    name.reserve(static_cast<std::size_t>(bytes));
    for (std::int64_t i = 0; i < bytes; ++i) name.push_back(static_cast<char>(in.byte()));
  }
  return names;
}

std::unique_ptr<Network::State> read(Source& source) {
  const std::int64_t size = source.size();
  std::uint8_t start[kHeaderBytes];
  if (size < kHeaderBytes + kChecksumBytes) bad("it is too short for an integer network");
  source.read(start, sizeof start);
  if (std::memcmp(start, kMagic, sizeof kMagic) != 0)
    bad("it does not begin as an integer network does");
  std::uint64_t fields[2] = {0, 0};
  for (int i = 0; i < 4; ++i) fields[0] |= std::uint64_t{start[8 + i]} << (8 * i);
  for (int i = 0; i < 8; ++i) fields[1] |= std::uint64_t{start[12 + i]} << (8 * i);
  if (fields[0] < kOneEncoder || fields[0] > kVersion)
    bad("it is of format version " + std::to_string(fields[0]) + "; this program reads versions " +
        std::to_string(kOneEncoder) + " to " + std::to_string(kVersion));
  if (fields[1] != static_cast<std::uint64_t>(size))
    bad("it should have " + std::to_string(fields[1]) + " bytes and has " + std::to_string(size) +
        ": it was cut short or appended to");
  source.rewind();
  Checksum checksum;
  std::uint8_t buffer[1 << 14];
  for (std::int64_t left = size - kChecksumBytes; left > 0;) {
    const auto n = static_cast<std::size_t>(
        std::min<std::int64_t>(left, static_cast<std::int64_t>(sizeof buffer)));
    source.read(buffer, n);
    checksum.add(buffer, n);
    left -= static_cast<std::int64_t>(n);
  }
  std::uint8_t stored[kChecksumBytes];
  source.read(stored, sizeof stored);
  std::uint32_t expected = 0;
  for (int i = 0; i < 4; ++i) expected |= std::uint32_t{stored[i]} << (8 * i);
  if (checksum.value() != expected) bad("its checksum does not fit: it was altered or damaged");
  source.rewind();
  source.read(start, sizeof start);

  Reader in(source, size - kHeaderBytes - kChecksumBytes);
  const auto time_bits = static_cast<int>(in.number<std::uint32_t>());
  const double unit = std::bit_cast<double>(in.number<std::uint64_t>());
  Size image;
  for (std::int64_t* n : {&image.channels, &image.height, &image.width}) *n = in.size();
  const std::int64_t encoder_count = fields[0] == kOneEncoder ? 1 : in.size();
  in.expect(encoder_count, 256 * 16);
  std::vector<Encoder> encoders(static_cast<std::size_t>(encoder_count));
  for (Encoder& encoder : encoders)
    for (std::uint16_t& code : encoder) code = in.number<std::uint16_t>();
  auto state = std::make_unique<Network::State>(
      Network::State{time_bits, image, unit, std::move(encoders), {}, {}});
  check_header(*state);
  const auto layers = in.number<std::uint32_t>();
  if (layers > kMaxLayers)
    bad("it announces " + std::to_string(layers) + " layers; there may be at most " +
        std::to_string(kMaxLayers));
  const auto version = static_cast<std::uint32_t>(fields[0]);
  for (std::uint32_t l = 0; l < layers; ++l) read_layer(in, version, *state);
  if (version > kNoNames) name_classes(*state, read_names(in));
  if (in.left() != 0) bad("it holds more than its layers");
  return state;
}

class Writer {
 public:
  template <class T>
  void number(T value) {
    const auto bits = static_cast<std::uint64_t>(value);
    for (std::size_t i = 0; i < sizeof(T); ++i)
      bytes.push_back(static_cast<std::uint8_t>(bits >> (8 * i)));
  }
  void size(std::int64_t value) { number(static_cast<std::uint32_t>(value)); }

  std::vector<std::uint8_t> bytes;
};

void write_window(Writer& out, const Window& window) {
  for (const std::int64_t* number : window_numbers(window)) out.size(*number);
}

void write_neurons(Writer& out, const Layer& layer) {
  const Neurons& n = *layer.neurons;
  const ConvShape& s = n.shape;
  const bool horizon = n.reference_code > 0;
  out.number(horizon ? kHorizon : kNeurons);
  out.number(static_cast<std::uint8_t>(n.bits));
  out.number(static_cast<std::uint8_t>(!n.bias.empty()));
  out.number(n.latest);
  out.number(n.bias_code);
  out.number(n.ratio);
  if (horizon) out.number(n.reference_code);
  for (const std::int64_t size :
       {s.in_channels, s.in_height, s.in_width, s.out_channels, s.out_height, s.out_width})
    out.size(size);
  write_window(out, s);
  out.size(s.groups);
  for (const std::int32_t theta : n.theta) out.number(theta);
  for (const std::int32_t bias : n.bias) out.number(bias);
  for (const std::int32_t slope : n.slope) out.number(slope);
  unsigned byte = 0;
  int used = 0;
  for (std::int64_t g = 0; g < s.groups; ++g)
    for (std::int64_t row = 0; row < layer.weights->rows(); ++row)
      for (std::int64_t o = 0; o < layer.weights->outputs(); ++o) {
        const auto code = static_cast<unsigned>(layer.weights->get(g, row, o));
        byte |= (code & ((1U << n.bits) - 1)) << used;
        used += n.bits;
        if (used < 8) continue;
        out.number(static_cast<std::uint8_t>(byte));
        byte = 0;
        used = 0;
      }
  if (used > 0) out.number(static_cast<std::uint8_t>(byte));
}

void write_pooling(Writer& out, const PoolShape& s) {
  out.number(kPooling);
  for (const std::int64_t size : {s.channels, s.in_height, s.in_width, s.out_height, s.out_width})
    out.size(size);
  write_window(out, s);
}

}  // namespace

std::vector<std::uint8_t> Network::serialize() const {
  Writer out;
  for (const char c : kMagic) out.number(static_cast<std::uint8_t>(c));
  // The oldest version that can represent the network, so that older programs can read it.
  const bool horizons = std::any_of(
      state_->layers.begin(), state_->layers.end(),
      [](const Layer& layer) { return layer.neurons && layer.neurons->reference_code > 0; });
  const std::uint32_t plain = horizons ? kNoNames : kNoHorizon;
  out.number(state_->classes.empty() ? plain : kVersion);
  out.number(std::uint64_t{0});  // the size, once it is known
  out.number(static_cast<std::uint32_t>(state_->time_bits));
  out.number(std::bit_cast<std::uint64_t>(state_->unit));
  for (const std::int64_t n : {state_->image.channels, state_->image.height, state_->image.width})
    out.size(n);
  out.size(static_cast<std::int64_t>(state_->encoders.size()));
  for (const Encoder& encoder : state_->encoders)
    for (const std::uint16_t code : encoder) out.number(code);
  out.number(static_cast<std::uint32_t>(state_->layers.size()));
  for (const Layer& layer : state_->layers) {
    if (layer.pooling)
      write_pooling(out, *layer.pooling);
    else
      write_neurons(out, layer);
  }
  if (!state_->classes.empty()) {
    out.size(static_cast<std::int64_t>(state_->classes.size()));
    for (const std::string& name : state_->classes) {
      out.size(static_cast<std::int64_t>(name.size()));
      for (const char c : name) out.number(static_cast<std::uint8_t>(c));
    }
  }
  const std::uint64_t size = out.bytes.size() + static_cast<std::uint64_t>(kChecksumBytes);
  for (std::size_t i = 0; i < 8; ++i)
    out.bytes[12 + i] = static_cast<std::uint8_t>(size >> (8 * i));
  Checksum checksum;
  checksum.add(out.bytes.data(), out.bytes.size());
  out.number(checksum.value());
  return std::move(out.bytes);
}

Network Network::load(const std::string& path) {
  try {
    File file(path);
    return Network(read(file));
  } catch (const std::exception& error) {
    bad(path + " is not an integer network that can be used: " + error.what());
  }
}

Network Network::parse(const std::uint8_t* data, std::size_t size) {
  try {
    Memory memory(data, size);
    return Network(read(memory));
  } catch (const std::exception& error) {
    bad(std::string("this is not an integer network that can be used: ") + error.what());
  }
}

}  // namespace ttfs::integer
