// Checks of a circuit's parameters.
#pragma once

#include "ttfs/circuit.h"

namespace ttfs {

/// Throws std::invalid_argument with the bound that the task breaks.
void check(const CircuitTask& task);

}  // namespace ttfs
