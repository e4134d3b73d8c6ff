"""Simulation of neuron circuits: arrays in, spike times and waveforms out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ttfs_fast import _core
from ttfs_fast.circuit.parameters import CircuitParameters, Nonidealities

Model = Literal["averaged", "switching"]
STEPS_PER_TAU = 50
STEPS_PER_PERIOD = 16
_SECONDS_PER_CALL = 0.25
"""Seconds between reports of progress, at which Ctrl-C takes effect."""


@dataclass(frozen=True)
class Waveforms:
    """Recorded signals, each of shape (trials, samples).

    Attributes
    ----------
    time : array, shape (samples,)
        Seconds.
    phase_error : array
        Phi_ref - Phi_out in rad, minus its value in lock: proportional to the synaptic current.
    loop_frequency : array
        What the loop adds to VCO2's frequency, rad/s.
    membrane_phase : array
        Phase that VCO4 gained over VCO3 since the first input, rad; the neuron fires where it
        reaches the threshold, and it is 0 from then on.
    duty : array
        Duty cycle of UP: of the averaged model at this moment, of the switching model in the last
        step.
    """

    time: NDArray[np.float64]
    phase_error: NDArray[np.float64]
    loop_frequency: NDArray[np.float64]
    membrane_phase: NDArray[np.float64]
    duty: NDArray[np.float64]


@dataclass(frozen=True)
class SimulationResult:
    """Result of a simulation.

    Attributes
    ----------
    fire_times : array, shape (trials,)
        Seconds; +inf where the neuron did not fire.
    peak_error : array, shape (trials,)
        Largest size of the loop's phase error right after an input before the neuron fires, rad.
        Beyond pi / 2 the XOR detector folds over, which the switching model shows and the averaged
        one does not.
    neuron_steps : int
        Number of steps of neurons that had not fired yet.
    step, duration : float
        Seconds.
    waveforms : Waveforms or None
    """

    fire_times: NDArray[np.float64]
    peak_error: NDArray[np.float64]
    neuron_steps: int
    step: float
    duration: float
    waveforms: Waveforms | None = None


def default_step(parameters: CircuitParameters, model: Model = "averaged") -> float:
    """The step that `simulate` takes, in seconds.

    The averaged model is exact between inputs, so its step decides speed and the resolution of
    noise, not accuracy.
    """
    if model == "averaged":
        natural = math.sqrt(parameters.loop_gain * parameters.loop_corner)
        step = parameters.tau / STEPS_PER_TAU
        if parameters.loop_corner < 4 * parameters.loop_gain:
            step = min(step, 0.25 / natural)
        return step
    fastest = max(parameters.ring_frequency, parameters.high_frequency, parameters.vco3_frequency)
    return min(1 / (STEPS_PER_PERIOD * fastest), 0.5 / parameters.loop_corner)


def simulate(
    parameters: CircuitParameters,
    times: ArrayLike,
    weights: ArrayLike,
    *,
    noise: Nonidealities | None = None,
    model: Model = "averaged",
    duration: float | None = None,
    step: float | None = None,
    trials: int | None = None,
    time_rows: ArrayLike | None = None,
    weight_rows: ArrayLike | None = None,
    chips: ArrayLike | None = None,
    seed: int = 0,
    first_trial: int = 0,
    record_every: int = 0,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SimulationResult:
    """Simulate neuron circuits, one per trial.

    Parameters
    ----------
    parameters : CircuitParameters
    times : array_like, shape (inputs,) or (rows, inputs)
        Input spike times in seconds, 0 or above; +inf is a silent input.
    weights : array_like, shape (inputs,) or (rows, inputs)
        Weights as in the network, of either sign.
    noise : Nonidealities, optional
        None by default.
    model : {"averaged", "switching"}
        Continuous equations of the mean phases, or square waves with their XOR and a sampled
        flip-flop.
    duration : float, optional
        Seconds to simulate; by default 5 tau after the last input.
    step : float, optional
        Seconds; see `default_step`.
    trials : int, optional
        By default the number of `time_rows` or `weight_rows`, else of rows of `times` or
        `weights`, whichever is more.
    time_rows, weight_rows : int array_like, shape (trials,), optional
        Which row each trial takes. By default trial i takes row i, or the only one.
    chips : int array_like, shape (trials,), optional
        Trials with the same number share a chip's draws: spreads and bank offsets. By default
        every trial is a chip of its own.
    seed : int
        Together with the trial's number, determines all of its noise.
    first_trial : int
        Number of the first trial; trials 0..99 are the same in one call as in two of 50.
    record_every : int
        Record waveforms every N steps; 0: never.
    threads : int, optional
        torch's number of threads by default. The results have the same bits for any.
    progress : callable, optional
        Called with the number of trials done, several times a second. Ctrl-C stops as often.

    Returns
    -------
    result : SimulationResult

    Raises
    ------
    ValueError
        If a parameter is out of its bounds, if the step is too coarse for the loop or the ring, if
        a time is negative or NaN, a weight not finite, or if shapes do not match.

    Notes
    -----
    Zhou et al. (AAAI 2021), section 3.1; the equations are in docs/circuit.md.
    """
    inputs = _Inputs.of(times, weights, time_rows, weight_rows, chips, trials)
    if duration is None:
        duration = inputs.last_time + 5 * parameters.tau
    if step is None:
        step = default_step(parameters, model)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be from 0 to 2^64 - 1; got {seed}")
    noise = noise or Nonidealities()
    simulator = _core.CircuitSimulator(
        model=model,
        parameters=parameters.core(),
        noise=noise.core(parameters.ring_frequency),
        step=step,
        duration=duration,
        seed=seed,
        record_every=record_every,
    )
    threads = torch.get_num_threads() if threads is None else threads
    samples, trials = simulator.samples, inputs.trials
    fire, peak = np.empty(trials), np.empty(trials)
    waves = np.empty((trials, samples, _core.circuit_channels)) if samples else None
    work = 0
    count = inputs.times.shape[1]
    for chunk in _chunks(trials, duration / step, count, model, noise, threads):
        work += simulator.run(
            **inputs.part(chunk),
            first_trial=first_trial + chunk.start,
            fire=fire[chunk],
            peak=peak[chunk],
            waveforms=None if waves is None else waves[chunk],
            threads=threads,
        )
        if progress is not None:
            progress(chunk.stop)
    recorded = None
    if waves is not None:
        recorded = Waveforms(
            np.asarray(np.arange(samples) * (record_every * step), dtype=np.float64),
            *(np.ascontiguousarray(waves[:, :, channel]) for channel in range(4)),
        )
    return SimulationResult(fire, peak, work, step, duration, recorded)


def closed_form(times: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Spike times of ideal neurons, in units of tau: the first solution of equation (4).

    Parameters
    ----------
    times, weights : array_like, shape (inputs,) or (rows, inputs)
        Input spike times in units of tau, +inf for silent, and weights.

    Returns
    -------
    times : float64 array, shape (rows,)
        +inf where a neuron does not fire.
    """
    t, w = np.broadcast_arrays(_rows(times, "times"), _rows(weights, "weights"))
    if not t.shape[1]:
        return np.full(len(t), np.inf)
    values = np.exp(t)
    order = np.argsort(values, axis=1, kind="stable")
    z = np.take_along_axis(values, order, axis=1)
    silent = np.isinf(z)
    w = np.where(silent, 0.0, np.take_along_axis(w, order, axis=1))
    slope = np.cumsum(w, axis=1) - 1
    sums = np.cumsum(np.where(silent, 0.0, w * np.where(silent, 0.0, z)), axis=1)
    following = np.concatenate([z[:, 1:], np.full((len(z), 1), np.inf)], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(slope > 0, sums / slope, np.inf)
        # slope z - sums, the membrane's condition, reaches 0 before the next input or at it.
        fires = (slope > 0) & (found <= following) & ~silent
    first = np.argmax(fires, axis=1)
    spike = np.where(fires.any(axis=1), found[np.arange(len(found)), first], np.inf)
    return np.log(np.asarray(spike, dtype=np.float64))


Rows = NDArray[np.int64] | None
"""The row that each trial takes; None where all take the only one."""


@dataclass(frozen=True)
class _Inputs:
    """Rows of spike times and weights, and what each trial takes of them."""

    times: NDArray[np.float64]
    weights: NDArray[np.float64]
    time_rows: Rows
    weight_rows: Rows
    chips: NDArray[np.int64] | None
    trials: int

    @classmethod
    def of(
        cls,
        times: ArrayLike,
        weights: ArrayLike,
        time_rows: ArrayLike | None,
        weight_rows: ArrayLike | None,
        chips: ArrayLike | None,
        trials: int | None,
    ) -> Self:
        """The arguments of `simulate`, checked against each other."""
        t, w = _rows(times, "times"), _rows(weights, "weights")
        if t.shape[1] != w.shape[1]:
            raise ValueError(
                f"times and weights must have as many inputs; got {t.shape[1]} and {w.shape[1]}"
            )
        t_rows, w_rows = _numbers(time_rows, "time_rows"), _numbers(weight_rows, "weight_rows")
        if trials is None:
            picked = [len(rows) for rows in (t_rows, w_rows) if rows is not None]
            trials = max(picked or (len(t), len(w)))
        t_rows = _row_of_each_trial(t_rows, len(t), trials, "times")
        w_rows = _row_of_each_trial(w_rows, len(w), trials, "weights")
        chip_of = _numbers(chips, "chips")
        if chip_of is not None and len(chip_of) != trials:
            raise ValueError(f"chips must have {trials} entries, one per trial; got {len(chip_of)}")
        return cls(t, w, t_rows, w_rows, chip_of, trials)

    @property
    def last_time(self) -> float:
        """Time of the last input spike; 0 if there is none."""
        return float(self.times[np.isfinite(self.times)].max(initial=0.0))

    def part(self, chunk: slice) -> dict[str, Any]:
        """What the core takes for some trials: the rows that they use, and no others."""
        times, time_rows = _part(self.times, self.time_rows, chunk)
        weights, weight_rows = _part(self.weights, self.weight_rows, chunk)
        return {
            "times": times,
            "weights": weights,
            "time_rows": time_rows,
            "weight_rows": weight_rows,
            "chips": None if self.chips is None else self.chips[chunk],
        }


def _rows(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.ascontiguousarray(np.atleast_2d(np.asarray(values, dtype=np.float64)))
    if array.ndim != 2:
        raise ValueError(f"{name} must have the shape (inputs,) or (rows, inputs)")
    return array


def _numbers(values: ArrayLike | None, name: str) -> NDArray[np.int64] | None:
    if values is None:
        return None
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be a list of whole numbers")
    return np.ascontiguousarray(array, dtype=np.int64)


def _row_of_each_trial(rows: Rows, available: int, trials: int, name: str) -> Rows:
    if rows is not None:
        if len(rows) != trials:
            raise ValueError(f"rows of {name} must be given for each of {trials} trials")
        return rows
    if available == 1:
        return None
    if available != trials:
        raise ValueError(f"{name} has {available} rows; give 1, or one for each of {trials} trials")
    return np.arange(trials, dtype=np.int64)


def _part(
    values: NDArray[np.float64], rows: Rows, chunk: slice
) -> tuple[NDArray[np.float64], Rows]:
    """The rows that some trials use, and their numbers among these."""
    if rows is None:
        return values, None
    some = rows[chunk]
    low, high = (int(some.min()), int(some.max())) if len(some) else (0, 0)
    if low < 0 or high >= len(values):
        wrong = low if low < 0 else high
        raise ValueError(f"there is no row {wrong}: rows are 0 to {len(values) - 1}")
    return values[low : high + 1], some - low


def _chunks(
    trials: int, steps: float, inputs: int, model: Model, noise: Nonidealities, threads: int
) -> list[slice]:
    """Parts of the trials that take about a quarter of a second each."""
    rate = {"averaged": 5e8, "switching": 1e8}[model] * max(threads, 1)
    if noise.diffusion > 0:
        rate = 2e7 * max(threads, 1)
    cost = steps / rate + 1e-7 * inputs / max(threads, 1)
    size = int(min(max(_SECONDS_PER_CALL / max(cost, 1e-12), 8 * threads, 8), 1 << 20)) // 8 * 8
    return [slice(a, min(a + size, trials)) for a in range(0, trials, size)]
