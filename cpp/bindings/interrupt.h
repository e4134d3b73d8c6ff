// Calls of the core that Ctrl-C can stop.
#pragma once

#include <pybind11/pybind11.h>

#include "ttfs/interrupt.h"

namespace ttfs::bindings {

namespace py = pybind11;

/// Elements that a loop of the bindings processes between two calls of check_signals.
inline constexpr py::ssize_t kItemsPerSignalCheck = py::ssize_t{1} << 20;

/// Runs the handlers of pending signals, and throws the exception that they raise. The caller must
/// hold the interpreter lock.
inline void check_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

/// Whether a signal handler has raised an exception, which then stays set in Python.
inline bool signal_raised() {
  const py::gil_scoped_acquire lock;
  return PyErr_CheckSignals() != 0;
}

/// Calls the core without the interpreter lock. Signals are still handled (by Python's main thread,
/// as always), and an exception of a handler ends the call.
template <class Call>
auto without_lock(const Call& call) {
  try {
    const Interruptible interruptible(&signal_raised);
    const py::gil_scoped_release release;
    return call();
  } catch (const Interrupted&) {
    throw py::error_already_set();
  }
}

}  // namespace ttfs::bindings
