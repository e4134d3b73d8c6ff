// Events of the integer engine. Included inside the namespace of an instruction set.

inline std::int64_t collect_codes(const std::uint16_t* codes, std::int64_t n, std::uint32_t first,
                                  std::uint16_t silent, std::uint32_t* events) {
  std::int64_t count = 0, i = 0;
  collect_vectors(codes, n, first, silent, events, i, count);
  for (; i < n; ++i) {
    events[count] = event_word(codes[i], first + static_cast<std::uint32_t>(i));
    count += codes[i] < silent;
  }
  return count;
}

/// One stable pass of a counting sort over `bits` bits of the code. If many events share a code,
/// each must wait until the one before has updated their slot. To shorten this chain, the first
/// half of the events fills the slots from their starts, and the second half, last event first,
/// from their ends.
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
  filter_vectors(events, members, n, bit, shift, out, i, count);
  for (; i < n; ++i) {
    out[count] = events[i] - shift;
    count += (members[i] >> bit) & 1;
  }
  return count;
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
    out->overshoot = describe_lags(words, *out);
    fits &= out->end - out->start <= span;
  }
  return fits;
}

inline void earlier_codes(const std::uint16_t* from, std::int64_t n, std::uint16_t* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] < to[i] ? from[i] : to[i];
}

inline void unpack_weights(const std::uint8_t* packed, int bits, std::int64_t rows,
                           std::int64_t width, std::int8_t* out) {
  // A byte contains the codes of places half a row or a quarter of a row apart.
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
