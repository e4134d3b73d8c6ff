// Checks of sizes, shared by forward and backward.
#pragma once

#include "ttfs/layers.h"

namespace ttfs {

/// Throws std::invalid_argument that names the offending size.
void check(const ConvShape& shape);
void check(const PoolShape& shape);

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

}  // namespace ttfs
