"""Analyses of a network: accuracy, spikes, latency, energy, faults, and pictures of them.

`evaluate` measures accuracy, spikes per neuron, spike times and energy of any network of spiking
layers; `spike_timing` measures when it decides, `decide` returns its decisions on single images;
`diagnose` prints spike statistics per layer and flags the first layer with a problem;
`count_operations` counts the operations of hardware, and energy models convert them to joules;
`check_limits` checks whether a network fits a chip. Disturbances are in
:mod:`ttfs_fast.analysis.robustness`, pictures in :mod:`ttfs_fast.analysis.plotting`.
"""

from ttfs_fast.analysis.decisions import Decisions, decide
from ttfs_fast.analysis.diagnose import Diagnosis, LayerDiagnosis, diagnose
from ttfs_fast.analysis.energy import EnergyModel, read_energy_models
from ttfs_fast.analysis.evaluate import EvaluationResult, evaluate
from ttfs_fast.analysis.latency import SpikeTiming, spike_timing
from ttfs_fast.analysis.limits import Limits, LimitsCheck, check_limits, read_limits
from ttfs_fast.analysis.operations import (
    LayerOperations,
    MemoryModel,
    OperationCounts,
    count_on_images,
    count_operations,
)

__all__ = [
    "Decisions",
    "Diagnosis",
    "EnergyModel",
    "EvaluationResult",
    "LayerDiagnosis",
    "LayerOperations",
    "Limits",
    "LimitsCheck",
    "MemoryModel",
    "OperationCounts",
    "SpikeTiming",
    "check_limits",
    "count_on_images",
    "count_operations",
    "decide",
    "diagnose",
    "evaluate",
    "read_energy_models",
    "read_limits",
    "spike_timing",
]
