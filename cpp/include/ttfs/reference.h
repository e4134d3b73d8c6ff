// The neuron, slow and simple: tests compare the kernels with it.
#pragma once

#include <cstdint>

#include "ttfs/layers.h"

namespace ttfs::reference {

struct Spike {
  double value;  ///< spike value z, or spike time, +inf where the neuron is silent
  double slope;  ///< D = sum of the causal set's weights + the neuron's slope, 0 where silent
};

/// One neuron: `count` inputs with spike values z (or times) and weights w, evaluated in double
/// precision. A NaN input or a weight that is not finite gives NaN.
template <class T>
Spike neuron(const T* values, const T* weights, std::int64_t count, double t_max,
             const Neuron& kind = {});

}  // namespace ttfs::reference
