// Which of the instruction sets that the library was compiled for runs the kernels.
#pragma once

#include <string>
#include <vector>

namespace ttfs {

/// The name of the instruction set in use: "baseline", "avx2", "avx512" or "avx512vnni".
///
/// Chosen at first use: the environment variable TTFS_FAST_ISA if set (std::invalid_argument
/// if it names a set that is unknown or that this processor lacks), the widest set otherwise.
std::string instruction_set();

/// The sets that this build contains and this processor supports, narrowest first.
std::vector<std::string> instruction_sets();

/// Uses the named set from now on, in every thread. Throws std::invalid_argument as above.
void set_instruction_set(const std::string& name);

}  // namespace ttfs
