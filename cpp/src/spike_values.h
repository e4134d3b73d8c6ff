// Whether an input holds spike values.
#pragma once

#include "kernels/table.h"
#include "ttfs/layers.h"

namespace ttfs {

/// Throws std::invalid_argument where some value is not positive (NaN passes).
template <class T>
void require_spike_values(const Kernels<T>& k, const ConvShape& shape, ConstView<T> input,
                          int threads);

}  // namespace ttfs
