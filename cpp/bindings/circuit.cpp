// The neuron circuit in Python.
#include "ttfs/circuit.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <optional>

#include "bindings/arrays.h"
#include "bindings/interrupt.h"
#include "bindings/module.h"
#include "kernels/table.h"

namespace ttfs::bindings {
namespace {

using py::literals::operator""_a;
using Reals = Array<double>;
using Rows = std::optional<Array<std::int64_t>>;

/// Numbers by name, all of which must be there and no other.
class Fields {
 public:
  Fields(const py::dict& values, const char* what) : values_(values), what_(what) {}
  template <class T>
  void read(const char* name, T& to) {
    if (!values_.contains(name)) throw std::invalid_argument(std::string(what_) + " lacks " + name);
    to = values_[name].cast<T>();
    ++read_;
  }
  void done() const {
    if (read_ != values_.size())
      throw std::invalid_argument(std::string(what_) + " has a field that is not known");
  }

 private:
  const py::dict& values_;
  const char* what_;
  std::size_t read_ = 0;
};

CircuitParameters parameters_of(const py::dict& values) {
  CircuitParameters p;
  Fields fields(values, "parameters");
  fields.read("loop_gain", p.loop_gain);
  fields.read("loop_corner", p.loop_corner);
  fields.read("phase_per_weight", p.phase_per_weight);
  fields.read("ring_frequency", p.ring_frequency);
  fields.read("low_frequency", p.low_frequency);
  fields.read("high_frequency", p.high_frequency);
  fields.read("threshold_frequency", p.threshold_frequency);
  fields.read("threshold_phase", p.threshold_phase);
  fields.read("phase_range", p.phase_range);
  fields.done();
  return p;
}

CircuitNoise noise_of(const py::dict& values) {
  CircuitNoise n;
  Fields fields(values, "noise");
  fields.read("relative_jitter", n.relative_jitter);
  fields.read("jitter", n.jitter);
  fields.read("weight_bits", n.weight_bits);
  fields.read("weight_full_scale", n.weight_full_scale);
  fields.read("bank_offset", n.bank_offset);
  fields.read("loop_diffusion", n.loop_diffusion);
  fields.read("membrane_diffusion", n.membrane_diffusion);
  fields.read("loop_gain_spread", n.loop_gain_spread);
  fields.read("membrane_gain_spread", n.membrane_gain_spread);
  fields.read("loop_frequency_spread", n.loop_frequency_spread);
  fields.read("membrane_frequency_spread", n.membrane_frequency_spread);
  fields.read("comparator_spread", n.comparator_spread);
  fields.read("common_drift", n.common_drift);
  fields.read("differential_drift", n.differential_drift);
  fields.read("random_start", n.random_start);
  fields.done();
  return n;
}

const std::int64_t* rows(const Rows& picked, std::int64_t trials, std::int64_t available,
                         const char* name) {
  if (!picked) {
    if (available < 1 && trials > 0)
      throw std::invalid_argument(std::string(name) + " has no row to take");
    return nullptr;
  }
  require_dense(*picked, {trials}, name);
  const std::int64_t* data = picked->data();
  for (std::int64_t i = 0; i < trials; ++i)
    if (data[i] < 0 || data[i] >= available)
      throw std::invalid_argument(std::string(name) + " holds " + std::to_string(data[i]) +
                                  "; there are " + std::to_string(available) + " rows");
  return data;
}

std::int64_t simulate(const std::string& model, const py::dict& parameters, const py::dict& noise,
                      double step, double duration, std::uint64_t seed, std::int64_t first_trial,
                      const Reals& times, const Reals& weights, const Rows& time_rows,
                      const Rows& weight_rows, const Rows& chips, Reals& fire, Reals& peak,
                      std::int64_t decimation, std::optional<Reals>& waveforms, int threads) {
  CircuitTask task;
  if (model == "switching")
    task.model = CircuitModel::switching;
  else if (model != "averaged")
    throw std::invalid_argument("model must be \"averaged\" or \"switching\"; got \"" + model +
                                "\"");
  task.parameters = parameters_of(parameters);
  task.noise = noise_of(noise);
  task.step = step;
  task.duration = duration;
  task.seed = seed;
  task.first_trial = first_trial;
  if (times.ndim() != 2 || weights.ndim() != 2 || fire.ndim() != 1)
    throw std::invalid_argument("times and weights must have 2 dimensions, fire 1");
  task.trials = fire.shape(0);
  task.inputs = times.shape(1);
  require_dense(times, {times.shape(0), task.inputs}, "times");
  require_dense(weights, {weights.shape(0), task.inputs}, "weights");
  require_dense(fire, {task.trials}, "fire");
  require_dense(peak, {task.trials}, "peak");
  for (py::ssize_t i = 0; i < times.size(); ++i)
    if (!(times.data()[i] >= 0))
      throw std::invalid_argument("times must be 0 or above, +inf for a silent input; got " +
                                  std::to_string(times.data()[i]));
  for (py::ssize_t i = 0; i < weights.size(); ++i)
    if (!std::isfinite(weights.data()[i]))
      throw std::invalid_argument("weights must be finite; got " +
                                  std::to_string(weights.data()[i]));
  task.rows = times.shape(0);
  task.times = times.data();
  task.weights = weights.data();
  task.time_rows = rows(time_rows, task.trials, times.shape(0), "time_rows");
  task.weight_rows = rows(weight_rows, task.trials, weights.shape(0), "weight_rows");
  task.chips = rows(chips, task.trials, std::numeric_limits<std::int64_t>::max(), "chips");
  task.fire = fire.mutable_data();
  task.peak = peak.mutable_data();
  if (waveforms) {
    task.decimation = decimation;
    task.waveforms = waveforms->mutable_data();
    if (decimation < 1)
      throw std::invalid_argument("decimation must be at least 1; got " +
                                  std::to_string(decimation));
    if (!(step > 0 && duration > 0 && duration / step <= 1e9))
      throw std::invalid_argument("step must be above 0 and duration at most 1e9 steps");
    require_dense(*waveforms, {task.trials, circuit_samples(task), kCircuitChannels}, "waveforms");
  }
  return without_lock([&] { return simulate_circuit(task, threads); });
}

/// Normals of the kernels in use, four a step: what drives the oscillators of a trial.
Reals normals(std::uint64_t seed, std::uint64_t trial, std::int64_t first, std::int64_t count) {
  if (count < 0) throw std::invalid_argument("count must be 0 or above");
  Reals out(std::vector<py::ssize_t>{count, 4});
  kernels().circuit.normals(seed, trial, first, count, out.mutable_data());
  return out;
}

}  // namespace

void define_circuit(py::module_& m) {
  m.def("simulate_circuit", &simulate, "model"_a, "parameters"_a, "noise"_a, "step"_a, "duration"_a,
        "seed"_a, "first_trial"_a, "times"_a.noconvert(), "weights"_a.noconvert(),
        "time_rows"_a.noconvert(), "weight_rows"_a.noconvert(), "chips"_a.noconvert(),
        "fire"_a.noconvert(), "peak"_a.noconvert(), "decimation"_a, "waveforms"_a.noconvert(),
        "threads"_a);
  m.def("circuit_normals", &normals, "seed"_a, "trial"_a, "first"_a, "count"_a);
  m.attr("circuit_channels") = kCircuitChannels;
}

}  // namespace ttfs::bindings
