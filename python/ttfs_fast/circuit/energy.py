"""Energy of the neuron circuit, from its parameters."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ttfs_fast.circuit.parameters import CircuitParameters
from ttfs_fast.circuit.simulation import SimulationResult

SPIKE_TIME = 3.5
"""Time from first input to spike, in units of tau, for which `energy_per_spike` is quoted:
about the median of the trained MNIST network."""


def cycle_energy(parameters: CircuitParameters) -> float:
    """Joules of one ring oscillator for one period: stages x capacitance x supply^2."""
    return parameters.stages * parameters.stage_capacitance * parameters.supply**2


def energy(
    parameters: CircuitParameters, loop_time: ArrayLike, membrane_time: ArrayLike
) -> NDArray[np.float64]:
    """Joules that a neuron takes.

    Parameters
    ----------
    parameters : CircuitParameters
    loop_time : array_like
        Seconds during which VCO1 and VCO2, the detector and the bias run.
    membrane_time : array_like
        Seconds during which VCO3 and VCO4 run: from the first input to the spike, because both are
        in reset before and after.

    Returns
    -------
    energy : float64 array
        Joules: cycles of the four rings x energy of a cycle, the logic's charge once per period,
        and the static power.
    """
    loop = np.asarray(loop_time, dtype=np.float64)
    membrane = np.asarray(membrane_time, dtype=np.float64)
    logic = parameters.logic_capacitance * parameters.supply**2
    loop_power = (
        parameters.ring_frequency * (2 * cycle_energy(parameters) + logic) + parameters.static_power
    )
    frequencies = parameters.middle_frequency + parameters.vco3_frequency
    membrane_power = frequencies * cycle_energy(parameters)
    return loop * loop_power + membrane * membrane_power


def energy_per_spike(parameters: CircuitParameters, spike_time: float = SPIKE_TIME) -> float:
    """Joules of a neuron that fires `spike_time` tau after its first input.

    The paper states less than 10 pJ, without an operating point.
    """
    seconds = float(parameters.seconds(spike_time))
    return float(energy(parameters, seconds, seconds))


@dataclass(frozen=True)
class NetworkEnergy:
    """Energy of simulated neurons.

    Attributes
    ----------
    total : float
        Joules of all neurons, silent ones included.
    spiking : float
        Joules of those that fired.
    spikes, neurons : int
    """

    total: float
    spiking: float
    spikes: int
    neurons: int

    @property
    def per_spike(self) -> float:
        """Joules per spike of the neurons that fired; nan without a spike."""
        return self.spiking / self.spikes if self.spikes else float("nan")


def simulated_energy(
    parameters: CircuitParameters, result: SimulationResult, first_inputs: ArrayLike
) -> NetworkEnergy:
    """Energy of the neurons of a simulation.

    Parameters
    ----------
    parameters : CircuitParameters
    result : SimulationResult
    first_inputs : array_like, shape (trials,)
        Seconds of each neuron's first input, +inf if it has none. A neuron without input takes no
        energy; a silent neuron runs to the end of the simulation.
    """
    first = np.broadcast_to(np.asarray(first_inputs, dtype=np.float64), result.fire_times.shape)
    end = np.minimum(result.fire_times, result.duration)
    span = np.where(
        np.isfinite(first), np.maximum(end - np.where(np.isfinite(first), first, 0), 0), 0
    )
    joules = energy(parameters, span, span)
    fired = np.isfinite(result.fire_times)
    return NetworkEnergy(
        float(joules.sum()), float(joules[fired].sum()), int(fired.sum()), len(joules)
    )
