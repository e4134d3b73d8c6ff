"""The neuron as a circuit in the phase domain: ring oscillators and a type-I phase-locked loop.

A simulator of the circuit of Zhou et al. (AAAI 2021), section 3.1, with the averaged equations and
with the switching waveforms; see docs/circuit.md.
"""

import importlib
from typing import Any

from ttfs_fast.circuit.energy import (
    NetworkEnergy,
    energy,
    energy_per_spike,
    simulated_energy,
)
from ttfs_fast.circuit.parameters import CircuitParameters, Nonidealities
from ttfs_fast.circuit.simulation import (
    SimulationResult,
    Waveforms,
    closed_form,
    default_step,
    simulate,
)
from ttfs_fast.circuit.sweeps import (
    OperatingPoint,
    SweepPoint,
    is_monotone,
    jitter_sweep,
    quantization_sweep,
)

__all__ = [
    "CircuitParameters",
    "NetworkEnergy",
    "Nonidealities",
    "OperatingPoint",
    "SimulationResult",
    "SweepPoint",
    "Waveforms",
    "closed_form",
    "default_step",
    "energy",
    "energy_per_spike",
    "is_monotone",
    "jitter_sweep",
    "quantization_sweep",
    "simulate",
    "simulated_energy",
]


def __getattr__(name: str) -> Any:
    # No simulation needs these, and some of them need torch or matplotlib.
    if name in ("convergence", "network", "plots", "spice"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
