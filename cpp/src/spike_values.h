// Checks that an input contains valid spike values, or spike times.
#pragma once

#include "kernels/table.h"
#include "ttfs/layers.h"

namespace ttfs {

/// Throws std::invalid_argument if some value is not positive or, for neurons on spike times,
/// -infinity (NaN is allowed).
template <class T>
void require_spikes(const Kernels<T>& k, const Neuron& neuron, const ConvShape& shape,
                    ConstView<T> input, int threads);

}  // namespace ttfs
