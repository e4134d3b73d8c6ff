// The parameters of a circuit by name, each with its valid range.
#pragma once

#include <cstdint>
#include <span>
#include <variant>

#include "ttfs/circuit.h"

namespace ttfs {

enum class Bound : std::uint8_t { positive, not_negative, finite, none };

/// One member of CircuitParameters or CircuitNoise.
template <class T>
struct CircuitField {
  const char* name;
  std::variant<double T::*, std::int64_t T::*, bool T::*> member;
  Bound bound;
  const char* unit;
};

/// All members, in their order.
template <class T>
std::span<const CircuitField<T>> circuit_fields();

/// Throw std::invalid_argument with the bound that is broken.
void check(const CircuitParameters& parameters);
void check(const CircuitNoise& noise);
void check(const CircuitTask& task);

}  // namespace ttfs
