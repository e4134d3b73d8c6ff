#include "src/shape.h"

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/table.h"

namespace ttfs {
namespace {

using Named = std::pair<const char*, std::int64_t>;

// Positions of a window, sums of products of two of its sizes, then fit into 64 bits.
constexpr std::int64_t kMostOfWindow = (std::int64_t{1} << 31) - 1;

[[noreturn]] void refuse(const Named& size, const char* allowed, std::int64_t bound) {
  throw std::invalid_argument(std::string(size.first) + " is " + std::to_string(size.second) +
                              allowed + std::to_string(bound));
}

void require_at_least(std::int64_t least, std::initializer_list<Named> sizes) {
  for (const Named& size : sizes)
    if (size.second < least) refuse(size, "; it must be at least ", least);
}

void require_window(std::int64_t least, std::initializer_list<Named> sizes) {
  require_at_least(least, sizes);
  for (const Named& size : sizes)
    if (size.second > kMostOfWindow)
      refuse(size, ", too large; it must be at most ", kMostOfWindow);
}

void check_window(const Window& w) {
  require_window(0, {{"top padding", w.pad_top}, {"left padding", w.pad_left}});
  require_window(1, {{"kernel height", w.kernel_height},
                     {"kernel width", w.kernel_width},
                     {"stride", w.stride_height},
                     {"stride", w.stride_width},
                     {"dilation", w.dilation_height},
                     {"dilation", w.dilation_width}});
}

}  // namespace

void check(const ConvShape& s) {
  require_at_least(0, {{"batch size", s.batch},
                       {"input channels", s.in_channels},
                       {"input height", s.in_height},
                       {"input width", s.in_width},
                       {"output channels", s.out_channels},
                       {"output height", s.out_height},
                       {"output width", s.out_width}});
  check_window(s);
  require_at_least(1, {{"groups", s.groups}});
  if (s.in_channels % s.groups != 0 || s.out_channels % s.groups != 0)
    throw std::invalid_argument("input channels (" + std::to_string(s.in_channels) +
                                ") and output channels (" + std::to_string(s.out_channels) +
                                ") must be divisible by groups (" + std::to_string(s.groups) + ")");
  const std::int64_t receptive = s.in_channels / s.groups * s.kernel_height * s.kernel_width;
  // Events count rows of weights in 32 bits, in steps of kRowUnit; a bias and padding add some.
  constexpr std::int64_t most = (std::int64_t{1} << 31) / kRowUnit;
  if (receptive >= most)
    throw std::invalid_argument("a receptive field of " + std::to_string(receptive) +
                                " inputs is too large; fewer than " + std::to_string(most) +
                                " are supported");
}

void check(const PoolShape& s) {
  require_at_least(0, {{"batch size", s.batch},
                       {"channels", s.channels},
                       {"input height", s.in_height},
                       {"input width", s.in_width},
                       {"output height", s.out_height},
                       {"output width", s.out_width}});
  check_window(s);
}

ConvShape linear_shape(std::int64_t rows, std::int64_t inputs, std::int64_t outputs) {
  ConvShape s;
  s.in_channels = inputs;
  s.out_channels = outputs;
  s.batch = rows;
  return s;
}

}  // namespace ttfs
