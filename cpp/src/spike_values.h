// Whether an input holds spike values, or spike times.
#pragma once

#include "kernels/table.h"
#include "ttfs/layers.h"

namespace ttfs {

/// Throws std::invalid_argument where some value is not positive, or -infinity for neurons on spike
/// times (NaN passes).
template <class T>
void require_spikes(const Kernels<T>& k, const Neuron& neuron, const ConvShape& shape,
                    ConstView<T> input, int threads);

}  // namespace ttfs
