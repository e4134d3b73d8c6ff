// Events: the input spikes of a receptive field in the order of their times. Included inside the
// namespace of an instruction set.

/// Values in vectors of `V`, whose elements are as wide or wider.
template <class V, class T>
typename V::Reg load_as(const T* values) {
  if constexpr (sizeof(T) == sizeof(typename V::Element))
    return V::load(values);
  else
    return V::widen(values);
}

template <class T>
bool any_at_or_below(const T* values, std::int64_t n, T bound) {
  using V = Vec<T>;
  const auto limit = V::set(bound);
  typename V::Mask bad = V::lt(limit, limit);
  std::int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) bad = V::either(bad, V::le(V::load(values + i), limit));
  bool found = V::any(bad);
  for (; i < n; ++i) found |= values[i] <= bound;
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
Extent<T> extent(const T* values, std::int64_t n, T limit) {
  using V = Vec<T>;
  const T infinity = static_cast<T>(__builtin_inf());
  const auto bound = V::set(limit);
  auto least = V::set(infinity), most = V::set(0);
  typename V::Mask bad = V::lt(bound, bound), above = bad;
  std::int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    const auto a = V::load(values + i);
    const auto below = V::lt(a, bound);
    bad = V::either(bad, V::unordered(a, a));
    above = V::either(above, V::flip(below));
    least = V::min(a, least);  // (the second where one is NaN)
    most = V::max(V::select(below, a, V::set(0)), most);
  }
  Extent<T> found{infinity, 0, V::any(bad), V::any(above)};
  const auto widen = [&](T low, T high) {
    found.least = low < found.least ? low : found.least;
    found.most = high > found.most ? high : found.most;
  };
  T lows[V::lanes], highs[V::lanes];
  V::store(lows, least);
  V::store(highs, most);
  for (int lane = 0; lane < V::lanes; ++lane) widen(lows[lane], highs[lane]);
  for (; i < n; ++i) {
    found.nan |= values[i] != values[i];
    found.above |= !(values[i] < limit);
    widen(values[i], values[i] < limit ? values[i] : 0);
  }
  return found;
}

template <class T>
T lowest(const T* values, std::int64_t n) {
  using V = Vec<T>;
  // a - a is 0 for a number, NaN for an infinity or a NaN.
  auto odd = V::set(0), least = V::set(0);
  std::int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) {
    const auto a = V::load(values + i);
    odd = V::add(odd, V::sub(a, a));
    least = V::min(a, least);
  }
  T lanes[2][V::lanes];
  V::store(lanes[0], odd);
  V::store(lanes[1], least);
  T sum = 0, result = 0;
  const auto take = [&](T odd_part, T value) {
    sum += odd_part;
    result = value < result ? value : result;
  };
  for (int lane = 0; lane < V::lanes; ++lane) take(lanes[0][lane], lanes[1][lane]);
  for (; i < n; ++i) take(values[i] - values[i], values[i]);
  return sum == 0 ? result : sum;
}

template <class T>
std::int64_t count_equal(const T* values, std::int64_t n, T value) {
  using V = Vec<T>;
  const auto wanted = V::set(value);
  std::int64_t count = 0, i = 0;
  for (; i + V::lanes <= n; i += V::lanes)
    count += __builtin_popcount(V::bits(V::eq(V::load(values + i), wanted)));
  for (; i < n; ++i) count += values[i] == value;
  return count;
}

// 16 sums side by side in double precision, whatever a register holds: the same bits everywhere.
template <class T>
double sum(const T* values, std::int64_t n) {
  using V = Vec<double>;
  constexpr int width = 16, R = width / V::lanes;
  typename V::Reg sums[R];
  for (int r = 0; r < R; ++r) sums[r] = V::set(0);
  std::int64_t i = 0;
  for (; i + width <= n; i += width)
    for (int r = 0; r < R; ++r) sums[r] = V::add(sums[r], load_as<V>(values + i + r * V::lanes));
  double lanes[width];
  for (int r = 0; r < R; ++r) V::store(lanes + r * V::lanes, sums[r]);
  double total = 0;
  for (int u = 0; u < width; ++u) total += lanes[u];
  for (; i < n; ++i) total += static_cast<double>(values[i]);
  return total;
}

// 16 sums side by side, whatever a register holds: the same bits with AVX2 and AVX-512.
template <class T>
WeightExtent<T> weight_extent(const T* values, std::int64_t n) {
  using V = Vec<T>;
  constexpr int width = 16, R = width / V::lanes;
  typename V::Reg odd[R], least[R], squares[R];
  for (int r = 0; r < R; ++r) odd[r] = least[r] = squares[r] = V::set(0);
  const auto take = [&](const T* some) {
    for (int r = 0; r < R; ++r) {
      const auto a = V::load(some + r * V::lanes);
      // a - a is 0 for a number, NaN for an infinity or a NaN.
      odd[r] = V::add(odd[r], V::sub(a, a));
      least[r] = V::min(a, least[r]);
      squares[r] = V::fma(a, a, squares[r]);
    }
  };
  std::int64_t i = 0;
  for (; i + width <= n; i += width) take(values + i);
  if (i < n) {
    T rest[width] = {};
    __builtin_memcpy(rest, values + i, static_cast<std::size_t>(n - i) * sizeof(T));
    take(rest);
  }
  T odds[width], lows[width], sums[width];
  for (int r = 0; r < R; ++r) {
    V::store(odds + r * V::lanes, odd[r]);
    V::store(lows + r * V::lanes, least[r]);
    V::store(sums + r * V::lanes, squares[r]);
  }
  for (int half = width / 2; half > 0; half /= 2)
    for (int u = 0; u < half; ++u) {
      odds[u] += odds[u + half];
      lows[u] = lows[u] < lows[u + half] ? lows[u] : lows[u + half];
      sums[u] += sums[u + half];
    }
  const T norm = static_cast<T>(__builtin_sqrt(static_cast<double>(sums[0])));
  return {odds[0] == 0 ? lows[0] : odds[0], norm};
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
  // Bands of `band` rows: the cache lines that one band writes stay in the first-level cache.
  constexpr std::int64_t n = Square<T>::size, band = 16;
  if (rows < n || columns < n) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c) dst[c * dst_stride + r] = src[r * src_stride + c];
    return;
  }
  // A last square that does not fit overlaps the one before.
  const auto place = [](std::int64_t at, std::int64_t end) { return at + n <= end ? at : end - n; };
  for (std::int64_t r0 = 0; r0 < rows; r0 += band) {
    const std::int64_t r1 = r0 + band < rows ? r0 + band : rows;
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
struct BitsOf;
template <>
struct BitsOf<float> {
  using Type = std::uint32_t;
};
template <>
struct BitsOf<double> {
  using Type = std::uint64_t;
};

/// Bits of a number that is +0 or above; their order as integers is the order of the numbers.
template <class T>
struct Key {
  using Bits = typename BitsOf<T>::Type;
  static Bits of(T value) {
    Bits bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
  }
};

/// The same for any number: flips the sign bit, and all other bits of a negative number.
template <class T>
struct SignedKey {
  using Bits = typename BitsOf<T>::Type;
  static Bits of(T value) {
    constexpr Bits sign = Bits{1} << (8 * sizeof(T) - 1);
    const Bits bits = Key<T>::of(value);
    return (bits & sign) != 0 ? ~bits : bits | sign;
  }
};

template <class T>
std::int64_t collect(const T* values, std::int64_t n, std::uint32_t first, T limit, T* times,
                     std::uint32_t* positions) {
  std::int64_t count = 0, i = 0;
  using V = Vec<T>;
  if constexpr (V::compresses) {
    const auto bound = V::set(limit);
    // Each store writes a whole vector: the destinations have room for n values.
    for (; i + V::lanes <= n; i += V::lanes) {
      const auto a = V::load(values + i);
      count += append(V::lt(a, bound), a, count_from(first + static_cast<std::uint32_t>(i), V{}),
                      times + count, positions + count);
    }
  }
  for (; i < n; ++i) {
    times[count] = values[i];
    positions[count] = first + static_cast<std::uint32_t>(i);
    count += values[i] < limit;
  }
  return count;
}

/// How to take the 16 leading bits of values in [least, most]: what to subtract from a key, and the
/// shifts that follow.
template <class T>
struct Digits {
  Digits(T least, T most) : origin(Key<T>::of(least)) {
    const auto range = static_cast<unsigned long long>(Key<T>::of(most) - origin);
    const int bits = range == 0 ? 0 : 64 - __builtin_clzll(range);
    right = bits > 16 ? bits - 16 : 0;
    left = bits > 16 ? 16 : 32 - bits;
  }
  std::uint32_t word(T value, std::uint32_t position) const {
    return static_cast<std::uint32_t>(
               static_cast<unsigned long long>((Key<T>::of(value) - origin) >> right) << left) |
           position;
  }
  typename Key<T>::Bits origin;
  int right, left;
};

template <class T>
std::int64_t collect_words(const T* values, std::int64_t n, std::uint32_t first, T limit, T least,
                           T most, std::uint32_t* words) {
  const Digits<T> digits(least, most);
  std::int64_t count = 0, i = 0;
  using V = Vec<T>;
  if constexpr (V::compresses && sizeof(T) == sizeof(float)) {
    const auto bound = V::set(limit);
    for (; i + V::lanes <= n; i += V::lanes) {
      const auto a = V::load(values + i);
      const auto word = key_words(a, digits.origin, digits.right, digits.left,
                                  first + static_cast<std::uint32_t>(i));
      count += append(V::lt(a, bound), word, words + count);
    }
  }
  for (; i < n; ++i) {
    words[count] = digits.word(values[i], first + static_cast<std::uint32_t>(i));
    count += values[i] < limit;
  }
  return count;
}

template <class T>
std::int64_t filter(const T* times, const std::uint32_t* rows, const std::uint16_t* members,
                    std::int64_t n, int bit, std::uint32_t shift, T* times_out,
                    std::uint32_t* rows_out) {
  std::int64_t count = 0, i = 0;
  using V = Vec<T>;
  if constexpr (V::compresses)
    for (; i + V::lanes <= n; i += V::lanes)
      count += append(test_members(members + i, bit, V{}), V::load(times + i),
                      minus(load_words(rows + i, V{}), shift), times_out + count, rows_out + count);
  for (; i < n; ++i) {
    times_out[count] = times[i];
    rows_out[count] = rows[i] - shift;
    count += (members[i] >> bit) & 1;
  }
  return count;
}

template <class T>
void pad_to_chunk(T* times, std::uint32_t* rows, std::int64_t count, std::uint32_t row,
                  T* time_to_chunk_end) {
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
    const Chunk to_end = times[e + kChunk - 1] - chunk;
    __builtin_memcpy(time_to_chunk_end + e, &to_end, sizeof to_end);
  }
}

/// Insertion sort that stops after `budget` moves; true if it finished. It skips sorted parts a
/// vector at a time.
template <class T>
bool insertion_sort(T* times, std::uint32_t* positions, std::int64_t n, std::int64_t budget) {
  using V = Vec<T>;
  for (std::int64_t i = 1; i < n;) {
    std::int64_t end = i + 1;
    if (i + V::lanes <= n) {
      end = i + V::lanes;
      if (!V::any(V::lt(V::load(times + i), V::load(times + i - 1)))) {
        i = end;
        continue;
      }
    }
    for (; i < end; ++i) {
      const T time = times[i];
      const std::uint32_t position = positions[i];
      std::int64_t j = i;
      for (; j > 0 && time < times[j - 1]; --j) {
        times[j] = times[j - 1];
        positions[j] = positions[j - 1];
      }
      times[j] = time;
      positions[j] = position;
      budget -= i - j;
      if (budget < 0) return false;
    }
  }
  return true;
}

/// Turns the counts of digits into the places of the first of each.
inline void place_digits(std::uint32_t* slots, unsigned digits) {
  std::uint32_t next = 0;
  for (unsigned d = 0; d < digits; ++d) {
    const std::uint32_t here = slots[d];
    slots[d] = next;
    next += here;
  }
}

/// One stable counting pass over a byte of the key, from (times, positions) to the others.
template <class T, class K>
void radix_pass(const T* times, const std::uint32_t* positions, std::int64_t n,
                typename K::Bits least, int shift, T* times_out, std::uint32_t* positions_out) {
  std::uint32_t slots[256] = {};
  const auto digit = [&](T time) {
    return static_cast<unsigned>((K::of(time) - least) >> shift) & 255;
  };
  for (std::int64_t i = 0; i < n; ++i) ++slots[digit(times[i])];
  place_digits(slots, 256);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto to = slots[digit(times[i])]++;
    times_out[to] = times[i];
    positions_out[to] = positions[i];
  }
}

/// One stable counting pass over `bits` bits of words; `slots` holds the count of each digit. It
/// works from both ends to the middle: neither side waits for a slot that the other has just
/// updated.
inline void radix_words(const std::uint32_t* words, std::int64_t n, int shift, int bits,
                        std::uint32_t* slots, std::uint32_t* words_out) {
  const unsigned digits = 1U << bits, mask = digits - 1;
  std::uint32_t ends[256];
  place_digits(slots, digits);
  for (unsigned d = 0; d + 1 < digits; ++d) ends[d] = slots[d + 1];
  ends[mask] = static_cast<std::uint32_t>(n);
  std::int64_t i = 0;
  for (std::int64_t j = n - 1; i < j; ++i, --j) {
    const std::uint32_t first = words[i], last = words[j];
    words_out[slots[first >> shift & mask]++] = first;
    words_out[--ends[last >> shift & mask]] = last;
  }
  if (i < n && n % 2 == 1) words_out[slots[words[i] >> shift & mask]] = words[i];
}

inline void insertion_sort(std::uint32_t* words, std::int64_t n) {
  for (std::int64_t i = 1; i < n; ++i) {
    const std::uint32_t word = words[i];
    std::int64_t j = i;
    for (; j > 0 && word < words[j - 1]; --j) words[j] = words[j - 1];
    words[j] = word;
  }
}

// A few words get one counting pass, with about as many digits as there are words, and an insertion
// sort; more words get two passes. The last insertion sort orders events whose leading bits are
// equal.
template <class T>
bool sort_words(std::uint32_t* words, std::int64_t n, const T* values, T* times,
                std::uint32_t* scratch) {
  std::uint32_t low[256] = {}, high[256] = {};
  if (n <= 20) {
    insertion_sort(words, n);
  } else if (n < 256) {
    const int bits = 32 - __builtin_clz(static_cast<unsigned>(n));
    for (std::int64_t i = 0; i < n; ++i) ++high[words[i] >> (32 - bits)];
    radix_words(words, n, 32 - bits, bits, high, scratch);
    insertion_sort(scratch, n);
    __builtin_memcpy(words, scratch, static_cast<std::size_t>(n) * sizeof(*words));
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      ++low[words[i] >> 16 & 255];
      ++high[words[i] >> 24];
    }
    radix_words(words, n, 16, 8, low, scratch);
    radix_words(scratch, n, 24, 8, high, words);
  }
  for (std::int64_t i = 0; i < n; ++i) {
    words[i] &= 0xffff;
    times[i] = values[words[i]];
  }
  return insertion_sort(times, words, n, 8 * n);
}

// One counting pass for each byte of the keys' range.
template <class T, class K>
void sort(T* times, std::uint32_t* positions, std::int64_t n, T* times_out,
          std::uint32_t* positions_out) {
  typename K::Bits least = ~typename K::Bits{0}, most = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto k = K::of(times[i]);
    least = k < least ? k : least;
    most = k > most ? k : most;
  }
  T *from = times, *to = times_out;
  std::uint32_t *rows_from = positions, *rows_to = positions_out;
  for (int shift = 0; n > 0 && shift < 8 * static_cast<int>(sizeof(T)); shift += 8) {
    if ((most - least) >> shift == 0) break;
    radix_pass<T, K>(from, rows_from, n, least, shift, to, rows_to);
    T* const other = from;
    from = to;
    to = other;
    std::uint32_t* const others = rows_from;
    rows_from = rows_to;
    rows_to = others;
  }
  if (from == times_out) return;
  __builtin_memcpy(times_out, times, static_cast<std::size_t>(n) * sizeof(T));
  __builtin_memcpy(positions_out, positions, static_cast<std::size_t>(n) * sizeof(*positions));
}
