// Events of the integer engine. Included inside the namespace of an instruction set.

inline std::int64_t collect_codes(const std::uint16_t* codes, std::int64_t n, std::uint32_t first,
                                  std::uint16_t silent, std::uint32_t* events) {
  std::int64_t count = 0, i = 0;
#if TTFS_ISA_avx512
  const __m512i bound = _mm512_set1_epi32(silent), step = _mm512_set1_epi32(16);
  __m512i place = count_from(first, Vec<float>{});
  for (; i + 16 <= n; i += 16) {
    const __m512i code =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i)));
    const __mmask16 spikes = _mm512_cmplt_epi32_mask(code, bound);
    const __m512i word = _mm512_or_si512(_mm512_slli_epi32(code, 16), place);
    _mm512_storeu_si512(events + count, _mm512_maskz_compress_epi32(spikes, word));
    count += __builtin_popcount(spikes);
    place = _mm512_add_epi32(place, step);
  }
#elif TTFS_ISA_avx2
  const __m256i bound = _mm256_set1_epi32(silent), step = _mm256_set1_epi32(8);
  __m256i place = count_from(first, Vec<float>{});
  for (; i + 8 <= n; i += 8) {
    const __m256i code =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
    const __m256i word = _mm256_or_si256(_mm256_slli_epi32(code, 16), place);
    const __m256i spikes = _mm256_cmpgt_epi32(bound, code);
    const unsigned set = Vec<float>::bits(_mm256_castsi256_ps(spikes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(events + count), compress(set, word));
    count += __builtin_popcount(set);
    place = _mm256_add_epi32(place, step);
  }
#endif
  for (; i < n; ++i) {
    events[count] = event_word(codes[i], first + static_cast<std::uint32_t>(i));
    count += codes[i] < silent;
  }
  return count;
}

/// One stable pass of a counting sort over `bits` bits of the code. Many events may have one code,
/// and each waits for the slot that the one before has moved on; so the first half fills the slots
/// from their starts while the second, from its last event on, fills them from their ends.
inline void counting_pass(const std::uint32_t* events, std::int64_t n, std::uint32_t least,
                          int shift, int bits, std::uint32_t* out) {
  std::uint32_t front[2048], back[2048];
  const std::uint32_t digits = 1U << bits, mask = digits - 1;
  const auto digit = [&](std::int64_t i) { return ((events[i] - least) >> shift) & mask; };
  for (std::uint32_t d = 0; d < digits; ++d) front[d] = back[d] = 0;
  const std::int64_t half = n / 2;
  for (std::int64_t i = 0; i < half; ++i) {
    ++front[digit(i)];
    ++back[digit(half + i)];
  }
  if (n > 2 * half) ++back[digit(n - 1)];
  std::uint32_t next = 0;
  for (std::uint32_t d = 0; d < digits; ++d) {
    const std::uint32_t here = front[d] + back[d];
    front[d] = next;
    next += here;
    back[d] = next;
  }
  if (n > 2 * half) out[--back[digit(n - 1)]] = events[n - 1];
  for (std::int64_t i = 0; i < half; ++i) {
    out[front[digit(i)]++] = events[i];
    const std::int64_t last = 2 * half - 1 - i;
    out[--back[digit(last)]] = events[last];
  }
}

inline std::uint32_t* sort_events(std::uint32_t* events, std::int64_t n, std::uint32_t* scratch) {
  std::uint32_t least = 0xffffffff, most = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    least = events[i] < least ? events[i] : least;
    most = events[i] > most ? events[i] : most;
  }
  least &= 0xffff0000;
  if (n < 2 || least == (most & 0xffff0000)) return events;
  const int range = 32 - __builtin_clz((most - least) >> 16);
  if (range <= 6 || (range <= 11 && (std::int64_t{1} << range) <= 2 * n)) {
    counting_pass(events, n, least, 16, range, scratch);
    return scratch;
  }
  const int low = range / 2;
  counting_pass(events, n, least, 16, low, scratch);
  counting_pass(scratch, n, least, 16 + low, range - low, events);
  return events;
}

inline void describe_events(std::uint32_t* events, std::int64_t n, const std::uint16_t* row_of,
                            const std::uint16_t* members_of, std::uint16_t* members) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t place = events[i] & 0xffff;
    members[i] = members_of[place];
    events[i] = (events[i] & 0xffff0000) | row_of[place];
  }
}

inline std::int64_t filter_events(const std::uint32_t* events, const std::uint16_t* members,
                                  std::int64_t n, int bit, std::uint32_t shift,
                                  std::uint32_t* out) {
  std::int64_t count = 0, i = 0;
#if TTFS_ISA_avx512
  const __m512i less = _mm512_set1_epi32(static_cast<int>(shift));
  const __m512i which = _mm512_set1_epi16(static_cast<short>(1 << bit));
  for (; i + 32 <= n; i += 32) {
    const __mmask32 mine = _mm512_test_epi16_mask(_mm512_loadu_si512(members + i), which);
    const auto low = static_cast<__mmask16>(mine), high = static_cast<__mmask16>(mine >> 16);
    const __m512i a = _mm512_sub_epi32(_mm512_loadu_si512(events + i), less);
    const __m512i b = _mm512_sub_epi32(_mm512_loadu_si512(events + i + 16), less);
    _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(low, a));
    count += __builtin_popcount(low);
    _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(high, b));
    count += __builtin_popcount(high);
  }
#elif TTFS_ISA_avx2
  for (; i + 8 <= n; i += 8) {
    const unsigned mine = Vec<float>::bits(test_members(members + i, bit, Vec<float>{}));
    const __m256i words = minus(load_words(events + i, Vec<float>{}), shift);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + count), compress(mine, words));
    count += __builtin_popcount(mine);
  }
#endif
  for (; i < n; ++i) {
    out[count] = events[i] - shift;
    count += (members[i] >> bit) & 1;
  }
  return count;
}

/// The lags of a group of events, and the sum of min(lag, time since the start).
inline std::int32_t describe_lags(const std::uint32_t* words, EventGroup& out) {
  std::uint8_t* lags = out.lags;
#if TTFS_ISA_avx512
  const __m512i times = _mm512_srli_epi32(_mm512_loadu_si512(words), 16);
  const __m512i lag = _mm512_sub_epi32(_mm512_set1_epi32(out.end), times);
  const __m512i since = _mm512_sub_epi32(times, _mm512_set1_epi32(out.start));
#if TTFS_ISA_avx512vnni
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lags), _mm512_cvtepi32_epi8(lag));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lags + kGroupEvents),
                   _mm512_cvtepi32_epi8(_mm512_srli_epi32(lag, 8)));
#else
  if (out.wide)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lags),
                        _mm512_cvtepi32_epi16(_mm512_sub_epi32(lag, _mm512_set1_epi32(kMidLag))));
  else
    _mm_storeu_si128(reinterpret_cast<__m128i*>(lags), _mm512_cvtepi32_epi8(lag));
#endif
  return _mm512_reduce_add_epi32(_mm512_min_epi32(lag, since));
#elif TTFS_ISA_avx2
  const auto times = [&](int i) {
    return _mm256_srli_epi32(load_words(words + i, Vec<float>{}), 16);
  };
  const __m256i start = _mm256_set1_epi32(out.start), end = _mm256_set1_epi32(out.end);
  const __m256i a = times(0), b = times(8);
  const __m256i lag_a = _mm256_sub_epi32(end, a), lag_b = _mm256_sub_epi32(end, b);
  const auto pack = [](__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  };
  if (out.wide) {
    const __m256i middle = _mm256_set1_epi32(kMidLag);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lags),
                        pack(_mm256_sub_epi32(lag_a, middle), _mm256_sub_epi32(lag_b, middle)));
  } else {
    const __m256i both = pack(lag_a, lag_b);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(lags),
        _mm_packus_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
  }
  const __m256i bends = _mm256_add_epi32(_mm256_min_epi32(lag_a, _mm256_sub_epi32(a, start)),
                                         _mm256_min_epi32(lag_b, _mm256_sub_epi32(b, start)));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(bends), _mm256_extracti128_si256(bends, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
#else
  std::int32_t bend = 0;
  for (int i = 0; i < kGroupEvents; ++i) {
    const auto time = static_cast<std::int32_t>(words[i] >> 16);
    const std::int32_t lag = out.end - time, since = time - out.start;
#if defined(__SSE2__)
    const auto word = static_cast<std::int16_t>(out.wide ? lag - kMidLag : lag);
    __builtin_memcpy(lags + 2 * i, &word, sizeof word);
#else
    lags[i] = static_cast<std::uint8_t>(lag);
    lags[kGroupEvents + i] = static_cast<std::uint8_t>(lag >> 8);
#endif
    bend += lag < since ? lag : since;
  }
  return bend;
#endif
}

inline bool group_events(const std::uint32_t* words, std::int64_t groups, std::int64_t span,
                         EventGroup* out) {
  bool fits = true;
  for (std::int64_t g = 0; g < groups; ++g, words += kGroupEvents, ++out) {
    out->start = static_cast<std::int32_t>(words[0] >> 16);
    // The last group ends with its own last event.
    out->end =
        static_cast<std::int32_t>(words[g + 1 < groups ? kGroupEvents : kGroupEvents - 1] >> 16);
    out->wide = out->end - out->start > IntVec::longest_narrow_lag;
    out->bend = describe_lags(words, *out);
    fits &= out->end - out->start <= span;
  }
  return fits;
}

inline void earlier_codes(const std::uint16_t* from, std::int64_t n, std::uint16_t* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] < to[i] ? from[i] : to[i];
}

inline void unpack_weights(const std::uint8_t* packed, int bits, std::int64_t rows,
                           std::int64_t width, std::int8_t* out) {
  // A byte holds the codes of places that are a half or a quarter of the row apart.
  for (std::int64_t r = 0; r < rows; ++r, out += width) {
    if (bits == 8) {
      __builtin_memcpy(out, packed, static_cast<std::size_t>(width));
      packed += width;
    } else if (bits == 4) {
      const std::int64_t half = width / 2;
      for (std::int64_t i = 0; i < half; ++i) {
        out[i] = static_cast<std::int8_t>(packed[i] << 4);
        out[half + i] = static_cast<std::int8_t>(packed[i] & 0xf0);
      }
      packed += half;
    } else {
      const std::int64_t quarter = width / 4;
      for (std::int64_t i = 0; i < quarter; ++i)
        for (int part = 0; part < 4; ++part)
          out[part * quarter + i] =
              static_cast<std::int8_t>(((packed[i] << (6 - 2 * part)) & 0xc0) + 32);
      packed += quarter;
    }
  }
}
