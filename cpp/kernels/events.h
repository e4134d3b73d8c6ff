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
  for (std::int64_t r0 = 0; r0 < rows; r0 += strip) {
    const std::int64_t r1 = r0 + strip < rows ? r0 + strip : rows;
    std::int64_t c = 0;
    for (; c + n <= columns; c += n) {
      std::int64_t r = r0;
      for (; r + n <= r1; r += n)
        Square<T>::transpose(src + r * src_stride + c, src_stride, dst + c * dst_stride + r,
                             dst_stride);
      for (; r < r1; ++r)
        for (std::int64_t i = c; i < c + n; ++i) dst[i * dst_stride + r] = src[r * src_stride + i];
    }
    for (; c < columns; ++c)
      for (std::int64_t r = r0; r < r1; ++r) dst[c * dst_stride + r] = src[r * src_stride + c];
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
void complete(T* times, std::uint32_t* rows, std::int64_t count, std::uint32_t row, T* steps) {
  const T last = count > 0 ? times[count - 1] : T{0};
  std::int64_t end = count;
  for (; end % kEventGrain != 0; ++end) {
    times[end] = last;
    rows[end] = row;
    steps[end] = 0;
  }
  for (std::int64_t e = end; e < end + kEventGrain; ++e) rows[e] = row;
  if (count == 0) return;
  steps[0] = times[0];
  std::int64_t e = 1;
  using V = Vec<T>;
  for (; e + V::lanes <= count; e += V::lanes)
    V::store(steps + e, V::sub(V::load(times + e), V::load(times + e - 1)));
  for (; e < count; ++e) steps[e] = times[e] - times[e - 1];
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

/// One stable counting pass over `bits` bits of the key, from (times, positions) to the others.
template <class T>
void radix_pass(const T* times, const std::uint32_t* positions, std::int64_t n,
                typename Key<T>::Bits least, int shift, int bits, T* times_out,
                std::uint32_t* positions_out) {
  std::uint32_t slot[256];
  const unsigned digits = 1u << bits, mask = digits - 1;
  for (unsigned d = 0; d < digits; ++d) slot[d] = 0;
  for (std::int64_t i = 0; i < n; ++i)
    ++slot[static_cast<unsigned>((key(times[i]) - least) >> shift) & mask];
  std::uint32_t next = 0;
  for (unsigned d = 0; d < digits; ++d) {
    const std::uint32_t here = slot[d];
    slot[d] = next;
    next += here;
  }
  for (std::int64_t i = 0; i < n; ++i) {
    const auto to = slot[static_cast<unsigned>((key(times[i]) - least) >> shift) & mask]++;
    times_out[to] = times[i];
    positions_out[to] = positions[i];
  }
}

// Counting passes over the leading bits of the keys' range, and an insertion sort for what they
// leave. Two passes bring nearly every event where it belongs; few events get one pass, into about
// as many classes as there are events, which leaves some of them a place or two away. Keys so
// crowded that the insertion sort gives up get every byte of the key, in as many passes.
template <class T>
void sort(T* times, std::uint32_t* positions, std::int64_t n, T* time_scratch,
          std::uint32_t* position_scratch) {
  using Bits = typename Key<T>::Bits;
  constexpr int key_bits = 8 * static_cast<int>(sizeof(Bits));
  if (n <= 20) {
    insertion_sort(times, positions, n, n * n);
    return;
  }
  Bits least = key(times[0]), most = least;
  for (std::int64_t i = 1; i < n; ++i) {
    const Bits k = key(times[i]);
    least = k < least ? k : least;
    most = k > most ? k : most;
  }
  if (least == most) return;
  const int range = 64 - __builtin_clzll(static_cast<unsigned long long>(most - least));
  const bool few = n < 256;
  const int bits = few ? 64 - __builtin_clzll(static_cast<unsigned long long>(n)) : 8;
  const int covered = few ? bits : 2 * bits;
  const int shift = range > covered ? range - covered : 0;
  radix_pass(times, positions, n, least, shift, bits, time_scratch, position_scratch);
  if (few) {
    __builtin_memcpy(times, time_scratch, static_cast<std::size_t>(n) * sizeof(T));
    __builtin_memcpy(positions, position_scratch,
                     static_cast<std::size_t>(n) * sizeof(std::uint32_t));
  } else {
    radix_pass(time_scratch, position_scratch, n, least, shift + bits, bits, times, positions);
  }
  if (shift == 0 || insertion_sort(times, positions, n, 8 * n)) return;
  for (int done = 0; done < key_bits; done += 16) {
    radix_pass(times, positions, n, least, done, 8, time_scratch, position_scratch);
    radix_pass(time_scratch, position_scratch, n, least, done + 8, 8, times, positions);
  }
}
