#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "kernels/table.h"
#include "ttfs/isa.h"

namespace ttfs {
namespace {

struct Candidate {
  const char* name;
  const KernelTable* table;
  bool runs_here;
};

// Narrowest first. The processor is queried only here.
const std::vector<Candidate>& candidates() {
  static const std::vector<Candidate> list = [] {
    std::vector<Candidate> all;
    all.push_back({"baseline", &baseline::table, true});
#if TTFS_HAVE_avx2
    all.push_back(
        {"avx2", &avx2::table, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")});
#endif
#if TTFS_HAVE_avx512
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    all.push_back({"avx512", &avx512::table, avx512});
#if TTFS_HAVE_avx512vnni
    all.push_back(
        {"avx512vnni", &avx512vnni::table, avx512 && __builtin_cpu_supports("avx512vnni")});
#endif
#endif
    return all;
  }();
  return list;
}

const Candidate& find(const std::string& name, const std::string& source) {
  std::string known;
  for (const Candidate& c : candidates()) {
    if (name == c.name && c.runs_here) return c;
    if (c.runs_here) known += (known.empty() ? "" : ", ") + std::string(c.name);
  }
  throw std::invalid_argument(source + " is \"" + name +
                              "\"; this build and this processor offer: " + known);
}

std::atomic<const Candidate*> chosen{nullptr};

const Candidate& current() {
  const Candidate* c = chosen.load(std::memory_order_acquire);
  if (c) return *c;
  const char* forced = std::getenv("TTFS_FAST_ISA");
  if (forced && *forced) {
    c = &find(forced, "TTFS_FAST_ISA");
  } else {
    c = &candidates().front();
    for (const Candidate& candidate : candidates())
      if (candidate.runs_here) c = &candidate;
  }
  chosen.store(c, std::memory_order_release);
  return *c;
}

}  // namespace

const KernelTable& kernels() { return *current().table; }

std::string instruction_set() { return current().name; }

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates())
    if (c.runs_here) names.emplace_back(c.name);
  return names;
}

void set_instruction_set(const std::string& name) {
  chosen.store(&find(name, "instruction set"), std::memory_order_release);
}

}  // namespace ttfs
