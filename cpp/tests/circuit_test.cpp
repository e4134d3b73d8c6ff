// The neuron circuit from C++: the closed form in the limit of a fast loop filter, the same bits
// for any number of threads and every instruction set, and refusals.
#include "ttfs/circuit.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "ttfs/isa.h"
#include "ttfs/reference.h"

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr unsigned kSeed = 5;
constexpr std::int64_t kTrials = 203, kInputs = 9;
int failures = 0;

void check(bool holds, const std::string& what) {
  if (holds) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

struct Bench {
  std::vector<double> times, weights, fire, peak;
  std::vector<std::int64_t> rows;
  ttfs::CircuitTask task;

  Bench() : fire(kTrials), peak(kTrials) {
    std::mt19937_64 random(kSeed);
    std::uniform_real_distribution<double> time(0, 2.5);
    std::normal_distribution<double> weight(0.35, 0.5);
    const double tau = 5e-8;
    for (std::int64_t i = 0; i < kTrials * kInputs; ++i) {
      times.push_back(i % 7 == 3 ? kInfinity : time(random) * tau);
      weights.push_back(weight(random));
    }
    for (std::int64_t i = 0; i < kTrials; ++i) rows.push_back(i);
    task.parameters = {1 / tau, 1e6 / tau, 0.25, 1e9, 0.9e9, 1.1e9, 1e9, 5.0, 16};
    task.step = tau / 40;
    task.duration = 8 * tau;
    task.trials = kTrials;
    task.inputs = kInputs;
    task.rows = kTrials;
    task.times = times.data();
    task.weights = weights.data();
    task.time_rows = task.weight_rows = rows.data();
    task.fire = fire.data();
    task.peak = peak.data();
  }
};

void against_the_closed_form() {
  Bench b;
  const std::int64_t work = ttfs::simulate_circuit(b.task, 1);
  int spikes = 0;
  for (std::int64_t n = 0; n < kTrials; ++n) {
    std::vector<double> z, w;
    for (std::int64_t i = n * kInputs; i < (n + 1) * kInputs; ++i) {
      z.push_back(std::exp(b.times[static_cast<std::size_t>(i)] / 5e-8));
      w.push_back(b.weights[static_cast<std::size_t>(i)]);
    }
    const double ideal =
        std::log(ttfs::reference::neuron(z.data(), w.data(), kInputs, kInfinity).value);
    const double found = b.fire[static_cast<std::size_t>(n)] / 5e-8;
    if (!(ideal < 6)) continue;
    ++spikes;
    check(std::abs(found - ideal) < 1e-3, "neuron " + std::to_string(n) + " fires at " +
                                              std::to_string(found) + ", ideally " +
                                              std::to_string(ideal));
  }
  check(spikes > 60, "enough neurons fire: " + std::to_string(spikes));
  check(work > 0 && work <= kTrials * ttfs::circuit_steps(b.task), "the steps done are counted");
}

void same_bits() {
  for (const auto model : {ttfs::CircuitModel::averaged, ttfs::CircuitModel::switching}) {
    std::vector<double> expected;
    for (const std::string& isa : ttfs::instruction_sets()) {
      ttfs::set_instruction_set(isa);
      for (const int threads : {1, 2, 3, 7}) {
        Bench b;
        b.task.model = model;
        b.task.parameters.loop_corner = 2e9;
        b.task.noise.loop_diffusion = b.task.noise.membrane_diffusion = 30;
        b.task.noise.relative_jitter = 0.01;
        if (model == ttfs::CircuitModel::switching) b.task.step = 5e-11;
        ttfs::simulate_circuit(b.task, threads);
        if (expected.empty()) expected = b.fire;
        check(b.fire == expected, isa + ", " + std::to_string(threads) + " threads: same bits");
      }
    }
    int spikes = 0;
    for (const double time : expected) spikes += time < kInfinity;
    check(spikes > 60 && spikes < kTrials, "some neurons fire: " + std::to_string(spikes));
  }
}

void refusals() {
  const auto refused = [](auto change, const std::string& word) {
    Bench b;
    change(b.task);
    try {
      ttfs::simulate_circuit(b.task, 1);
    } catch (const std::invalid_argument& error) {
      check(std::string(error.what()).find(word) != std::string::npos, error.what());
      return;
    }
    check(false, "not refused: " + word);
  };
  using Task = ttfs::CircuitTask;
  refused([](Task& t) { t.parameters.loop_gain = -1; }, "loop_gain");
  refused([](Task& t) { t.parameters.loop_gain = 1e10; }, "unstable");
  refused([](Task& t) { t.step = 1e-7; }, "too coarse for the loop");
  refused([](Task& t) { t.noise.jitter = std::nan(""); }, "jitter");
  refused([](Task& t) { t.model = ttfs::CircuitModel::switching; }, "too coarse for the ring");
}

}  // namespace

int main() {
  against_the_closed_form();
  same_bits();
  refusals();
  std::printf("%s\n", failures ? "some checks failed" : "all checks passed");
  return failures ? 1 : 0;
}
