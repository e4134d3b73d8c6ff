// Events: the input spikes of a receptive field in the order of their times. Included inside the
// namespace of an instruction set.

template <class T>
bool any_not_positive(const T* values, std::int64_t n) {
  using V = Vec<T>;
  typename V::Mask bad = V::lt(V::set(0), V::set(0));
  std::int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes)
    bad = V::either(bad, V::le(V::load(values + i), V::set(0)));
  bool found = V::any(bad);
  for (; i < n; ++i) found |= values[i] <= 0;
  return found;
}

template <class T>
bool any_nan(const T* values, std::int64_t n) {
  using V = Vec<T>;
  typename V::Mask bad = V::lt(V::set(0), V::set(0));
  std::int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    const auto a = V::load(values + i);
    bad = V::either(bad, V::unordered(a, a));
  }
  bool found = V::any(bad);
  for (; i < n; ++i) found |= values[i] != values[i];
  return found;
}

template <class T>
bool all_finite(const T* values, std::int64_t n) {
  using V = Vec<T>;
  // a - a is 0 for a number, NaN for an infinity or a NaN.
  auto sum = V::set(0);
  std::int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    const auto a = V::load(values + i);
    sum = V::add(sum, V::sub(a, a));
  }
  bool finite = !V::any(V::unordered(sum, sum));
  for (; i < n; ++i) finite &= values[i] - values[i] == 0;
  return finite;
}

template <class T>
T lowest(const T* values, std::int64_t n) {
  using V = Vec<T>;
  auto least = V::set(0);
  std::int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) least = V::min(V::load(values + i), least);
  T lanes[V::lanes];
  V::store(lanes, least);
  T result = 0;
  for (; i < n; ++i) result = values[i] < result ? values[i] : result;
  for (const T lane : lanes) result = lane < result ? lane : result;
  return result;
}

/// Transposition of a small square in registers.
template <class T>
struct Square;

template <>
struct Square<float> {
  typedef float Row __attribute__((vector_size(16)));
  static constexpr std::int64_t size = 4;
  static void transpose(const float* src, std::int64_t src_stride, float* dst,
                        std::int64_t dst_stride) {
    Row a, b, c, d;
    __builtin_memcpy(&a, src, 16);
    __builtin_memcpy(&b, src + src_stride, 16);
    __builtin_memcpy(&c, src + 2 * src_stride, 16);
    __builtin_memcpy(&d, src + 3 * src_stride, 16);
    const Row ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const Row ba = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Row cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Row dc = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
    b = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    c = __builtin_shufflevector(ba, dc, 0, 1, 4, 5);
    d = __builtin_shufflevector(ba, dc, 2, 3, 6, 7);
    __builtin_memcpy(dst, &a, 16);
    __builtin_memcpy(dst + dst_stride, &b, 16);
    __builtin_memcpy(dst + 2 * dst_stride, &c, 16);
    __builtin_memcpy(dst + 3 * dst_stride, &d, 16);
  }
};

template <>
struct Square<double> {
  typedef double Row __attribute__((vector_size(16)));
  static constexpr std::int64_t size = 2;
  static void transpose(const double* src, std::int64_t src_stride, double* dst,
                        std::int64_t dst_stride) {
    Row a, b;
    __builtin_memcpy(&a, src, 16);
    __builtin_memcpy(&b, src + src_stride, 16);
    const Row top = __builtin_shufflevector(a, b, 0, 2);
    const Row bottom = __builtin_shufflevector(a, b, 1, 3);
    __builtin_memcpy(dst, &top, 16);
    __builtin_memcpy(dst + dst_stride, &bottom, 16);
  }
};

template <class T>
void transpose(const T* src, std::int64_t src_stride, T* dst, std::int64_t dst_stride,
               std::int64_t rows, std::int64_t columns) {
  // Strips of one cache line keep the writes of one strip within the first cache.
  constexpr std::int64_t n = Square<T>::size, strip = 16;
  if (rows < n || columns < n) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) dst[c * dst_stride + r] = src[r * src_stride + c];
    return;
  }
  // A last square that does not fit overlaps the one before.
  const auto place = [](std::int64_t at, std::int64_t end) { return at + n <= end ? at : end - n; };
  for (std::int64_t r0 = 0; r0 < rows; r0 += strip) {
    const std::int64_t r1 = r0 + strip < rows ? r0 + strip : rows;
    for (std::int64_t c0 = 0; c0 < columns; c0 += n) {
      const std::int64_t c = place(c0, columns);
      for (std::int64_t i = r0; i < r1; i += n) {
        const std::int64_t r = place(i, r1);
        Square<T>::transpose(src + r * src_stride + c, src_stride, dst + c * dst_stride + r,
                             dst_stride);
      }
    }
  }
}

template <class T>
std::int64_t collect(const T* values, std::int64_t n, std::uint32_t first, T limit, T* times,
                     std::uint32_t* positions) {
  std::int64_t count = 0, i = 0;
#if TTFS_ISA_avx512 || TTFS_ISA_avx2
  using V = Vec<T>;
  const auto bound = V::set(limit);
  // A whole vector is stored each time; near the end of the room only the lanes that fit may be.
  for (; i + V::lanes <= n; i += V::lanes) {
    const auto a = V::load(values + i);
    count += append(V::lt(a, bound), a, count_from(first + static_cast<std::uint32_t>(i), V{}),
                    times + count, positions + count);
  }
#endif
  for (; i < n; ++i) {
    times[count] = values[i];
    positions[count] = first + static_cast<std::uint32_t>(i);
    count += values[i] < limit;
  }
  return count;
}

template <class T>
std::int64_t filter(const T* times, const std::uint32_t* rows, const std::uint16_t* members,
                    std::int64_t n, int bit, std::uint32_t shift, T* times_out,
                    std::uint32_t* rows_out) {
  std::int64_t count = 0, i = 0;
#if TTFS_ISA_avx512 || TTFS_ISA_avx2
  using V = Vec<T>;
  for (; i + V::lanes <= n; i += V::lanes)
    count += append(test_members(members + i, bit, V{}), V::load(times + i),
                    minus(load_words(rows + i, V{}), shift), times_out + count, rows_out + count);
#endif
  for (; i < n; ++i) {
    times_out[count] = times[i];
    rows_out[count] = rows[i] - shift;
    count += (members[i] >> bit) & 1;
  }
  return count;
}

template <class T>
void complete(T* times, std::uint32_t* rows, std::int64_t count, std::uint32_t row, T* rests) {
  std::int64_t end = count;
  for (; end % kChunk != 0; ++end) {
    times[end] = times[count - 1];
    rows[end] = row;
  }
  for (std::int64_t e = end; e < end + kChunk; ++e) rows[e] = row;
  typedef T Chunk __attribute__((vector_size(kChunk * sizeof(T))));
  for (std::int64_t e = 0; e < end; e += kChunk) {
    Chunk chunk;
    __builtin_memcpy(&chunk, times + e, sizeof chunk);
    const Chunk rest = times[e + kChunk - 1] - chunk;
    __builtin_memcpy(rests + e, &rest, sizeof rest);
  }
}

template <class T>
struct Key;
template <>
struct Key<float> {
  using Bits = std::uint32_t;
};
template <>
struct Key<double> {
  using Bits = std::uint64_t;
};

/// Bits of a positive number; their order as integers is the order of the numbers.
template <class T>
typename Key<T>::Bits key(T value) {
  typename Key<T>::Bits bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

/// Insertion sort that gives up after `budget` moves; true if it finished.
template <class T>
bool insertion_sort(T* times, std::uint32_t* positions, std::int64_t n, std::int64_t budget) {
  for (std::int64_t i = 1; i < n; ++i) {
    const T time = times[i];
    if (!(time < times[i - 1])) continue;
    const std::uint32_t position = positions[i];
    std::int64_t j = i;
    do {
      times[j] = times[j - 1];
      positions[j] = positions[j - 1];
      --j;
    } while (j > 0 && time < times[j - 1]);
    times[j] = time;
    positions[j] = position;
    budget -= i - j;
    if (budget < 0) return false;
  }
  return true;
}

/// Turns how many of each digit there are into where the first of each goes.
inline void place_digits(std::uint32_t* slots, unsigned digits) {
  std::uint32_t next = 0;
  for (unsigned d = 0; d < digits; ++d) {
    const std::uint32_t here = slots[d];
    slots[d] = next;
    next += here;
  }
}

/// One stable counting pass over `bits` bits of the key, from (times, positions) to the others.
template <class T>
void radix_pass(const T* times, const std::uint32_t* positions, std::int64_t n,
                typename Key<T>::Bits least, int shift, int bits, T* times_out,
                std::uint32_t* positions_out) {
  std::uint32_t slots[256];
  const unsigned digits = 1u << bits, mask = digits - 1;
  for (unsigned d = 0; d < digits; ++d) slots[d] = 0;
  for (std::int64_t i = 0; i < n; ++i)
    ++slots[static_cast<unsigned>((key(times[i]) - least) >> shift) & mask];
  place_digits(slots, digits);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto to = slots[static_cast<unsigned>((key(times[i]) - least) >> shift) & mask]++;
    times_out[to] = times[i];
    positions_out[to] = positions[i];
  }
}

/// Events that radix_words can number.
constexpr std::int64_t kWords = std::int64_t{1} << 16;

/// Two counting passes over 16 bits of the key. Between them go words of these bits and of where an
/// event is found: half of what an event is.
template <class T>
void radix_words(const T* times, const std::uint32_t* positions, std::int64_t n,
                 typename Key<T>::Bits least, int shift, T* times_out, std::uint32_t* positions_out,
                 std::uint32_t* words) {
  std::uint32_t low[256] = {}, high[256] = {};
  std::uint32_t* found = positions_out;  // the less memory, the more of it in the first cache
  for (std::int64_t i = 0; i < n; ++i)
    found[i] = static_cast<std::uint32_t>((key(times[i]) - least) >> shift) << 16 |
               static_cast<std::uint32_t>(i);
  for (std::int64_t i = 0; i < n; ++i) {
    ++low[found[i] >> 16 & 255];
    ++high[found[i] >> 24];
  }
  place_digits(low, 256);
  place_digits(high, 256);
  for (std::int64_t i = 0; i < n; ++i) words[low[found[i] >> 16 & 255]++] = found[i];
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t from = words[i] & 0xffff, to = high[words[i] >> 24]++;
    times_out[to] = times[from];
    positions_out[to] = positions[from];
  }
}

template <class T>
bool in_order(const T* times, std::int64_t n) {
  using V = Vec<T>;
  std::int64_t i = 1;
  for (; i + V::lanes <= n; i += V::lanes)
    if (V::any(V::lt(V::load(times + i), V::load(times + i - 1)))) return false;
  for (; i < n; ++i)
    if (times[i] < times[i - 1]) return false;
  return true;
}

// Counting passes over the leading bits of the keys' range, and an insertion sort for what they
// leave. Two passes bring nearly every event where it belongs; few events get one pass, into about
// as many classes as there are events, which leaves some of them a place or two away. Very many
// events, and keys so crowded that the insertion sort gives up, get every byte of the key, in as
// many passes.
template <class T>
void sort(T* times, std::uint32_t* positions, std::int64_t n, T* times_out,
          std::uint32_t* positions_out, std::uint32_t* words) {
  using Bits = typename Key<T>::Bits;
  using V = Vec<T>;
  constexpr int key_bits = 8 * static_cast<int>(sizeof(Bits));
  const auto copy_out = [&] {
    __builtin_memcpy(times_out, times, static_cast<std::size_t>(n) * sizeof(T));
    __builtin_memcpy(positions_out, positions, static_cast<std::size_t>(n) * sizeof(*positions));
  };
  if (n <= 20) {
    copy_out();
    insertion_sort(times_out, positions_out, n, n * n);
    return;
  }
  auto lows = V::set(times[0]), highs = lows;
  std::int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    lows = V::min(lows, V::load(times + i));
    highs = V::max(highs, V::load(times + i));
  }
  T ends[2][V::lanes];
  V::store(ends[0], lows);
  V::store(ends[1], highs);
  Bits least = key(times[0]), most = least;
  const auto widen = [&](T value) {
    least = key(value) < least ? key(value) : least;
    most = key(value) > most ? key(value) : most;
  };
  for (; i < n; ++i) widen(times[i]);
  for (int lane = 0; lane < V::lanes; ++lane) {
    widen(ends[0][lane]);
    widen(ends[1][lane]);
  }
  if (least == most) {
    copy_out();
    return;
  }
  const int range = 64 - __builtin_clzll(static_cast<unsigned long long>(most - least));
  const bool few = n < 256;
  const int bits = few ? 64 - __builtin_clzll(static_cast<unsigned long long>(n)) : 16;
  const int shift = range > bits ? range - bits : 0;
  if (n <= kWords) {
    if (few)
      radix_pass(times, positions, n, least, shift, bits, times_out, positions_out);
    else
      radix_words(times, positions, n, least, shift, times_out, positions_out, words);
    if (shift == 0 || (!few && in_order(times_out, n)) ||
        insertion_sort(times_out, positions_out, n, 8 * n))
      return;
  } else {
    copy_out();
  }
  for (int done = 0; done < key_bits; done += 16) {
    radix_pass(times_out, positions_out, n, least, done, 8, times, positions);
    radix_pass(times, positions, n, least, done + 8, 8, times_out, positions_out);
  }
}
