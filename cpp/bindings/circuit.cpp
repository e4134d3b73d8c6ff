// The neuron circuit in Python.
#include "ttfs/circuit.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <variant>

#include "bindings/arrays.h"
#include "bindings/interrupt.h"
#include "bindings/module.h"
#include "kernels/table.h"
#include "src/circuit_checks.h"

namespace ttfs::bindings {
namespace {

using py::literals::operator""_a;
using Reals = Array<double>;
using Rows = std::optional<Array<std::int64_t>>;

/// Numbers by name: exactly the fields of the type.
template <class T>
T values_of(const py::dict& given, const std::string& what) {
  T values;
  for (const CircuitField<T>& field : circuit_fields<T>()) {
    if (!given.contains(field.name)) throw std::invalid_argument(what + " lacks " + field.name);
    double number = 0;
    try {
      number = given[field.name].template cast<double>();
    } catch (const py::cast_error&) {
      throw std::invalid_argument(std::string(field.name) + " must be a number");
    }
    std::visit(
        [&](auto member) {
          using Value = std::decay_t<decltype(values.*member)>;
          if constexpr (std::is_same_v<Value, std::int64_t>)
            if (!(number == std::floor(number) && std::abs(number) < 1e9))
              throw std::invalid_argument(std::string(field.name) +
                                          " must be a whole number; got " + std::to_string(number));
          values.*member = static_cast<Value>(number);
        },
        field.member);
  }
  if (given.size() != circuit_fields<T>().size())
    throw std::invalid_argument(what + " has a field that is not known");
  return values;
}

template <class T>
py::tuple names() {
  py::list found;
  for (const CircuitField<T>& field : circuit_fields<T>()) found.append(field.name);
  return py::tuple(found);
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

/// A circuit with its noise, step and duration, checked once; `run` simulates trials of it.
class CircuitSimulator {
 public:
  CircuitSimulator(const std::string& model, const py::dict& parameters, const py::dict& noise,
                   double step, double duration, std::uint64_t seed, std::int64_t record_every) {
    if (model == "switching")
      task_.model = CircuitModel::switching;
    else if (model != "averaged")
      throw std::invalid_argument("model must be \"averaged\" or \"switching\"; got \"" + model +
                                  "\"");
    task_.parameters = values_of<CircuitParameters>(parameters, "parameters");
    task_.noise = values_of<CircuitNoise>(noise, "noise");
    task_.step = step;
    task_.duration = duration;
    task_.seed = seed;
    task_.record_every = record_every;
    check(task_);
  }

  std::int64_t samples() const { return circuit_samples(task_); }

  std::int64_t run(const Reals& times, const Reals& weights, const Rows& time_rows,
                   const Rows& weight_rows, const Rows& chips, std::int64_t first_trial,
                   Reals& fire, Reals& peak, std::optional<Reals>& waveforms, int threads) const {
    CircuitTask task = task_;
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
    if (waveforms.has_value() != (samples() > 0))
      throw std::invalid_argument("waveforms must be given where record_every is above 0 only");
    if (waveforms) {
      require_dense(*waveforms, {task.trials, samples(), kCircuitChannels}, "waveforms");
      task.waveforms = waveforms->mutable_data();
    }
    return without_lock([&] { return simulate_circuit(task, threads); });
  }

 private:
  CircuitTask task_;
};

/// Normal numbers of the kernels in use, four per step: the noise of a trial's oscillators.
Reals normals(std::uint64_t seed, std::uint64_t trial, std::int64_t first, std::int64_t count) {
  if (count < 0) throw std::invalid_argument("count must be 0 or above");
  Reals out(std::vector<py::ssize_t>{count, 4});
  kernels().circuit.normals(seed, trial, first, count, out.mutable_data());
  return out;
}

}  // namespace

void define_circuit(py::module_& m) {
  py::class_<CircuitSimulator>(m, "CircuitSimulator", py::module_local())
      .def(py::init<const std::string&, const py::dict&, const py::dict&, double, double,
                    std::uint64_t, std::int64_t>(),
           py::kw_only(), "model"_a, "parameters"_a, "noise"_a, "step"_a, "duration"_a, "seed"_a,
           "record_every"_a)
      .def_property_readonly("samples", &CircuitSimulator::samples)
      .def("run", &CircuitSimulator::run, py::kw_only(), "times"_a.noconvert(),
           "weights"_a.noconvert(), "time_rows"_a.noconvert(), "weight_rows"_a.noconvert(),
           "chips"_a.noconvert(), "first_trial"_a, "fire"_a.noconvert(), "peak"_a.noconvert(),
           "waveforms"_a.noconvert(), "threads"_a);
  m.def(
      "check_circuit_parameters",
      [](const py::dict& values) { check(values_of<CircuitParameters>(values, "parameters")); },
      "values"_a);
  m.def(
      "check_circuit_noise",
      [](const py::dict& values) { check(values_of<CircuitNoise>(values, "noise")); }, "values"_a);
  m.attr("circuit_parameters") = names<CircuitParameters>();
  m.attr("circuit_noise") = names<CircuitNoise>();
  m.def("circuit_normals", &normals, "seed"_a, "trial"_a, "first"_a, "count"_a);
  m.attr("circuit_channels") = kCircuitChannels;
}

}  // namespace ttfs::bindings
