"""Monte Carlo sweeps of one neuron: output jitter against input jitter and weight bits."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttfs_fast.circuit.parameters import CircuitParameters, Nonidealities
from ttfs_fast.circuit.simulation import Model, simulate


@dataclass(frozen=True)
class OperatingPoint:
    """One neuron with its input spikes, and the noise at every point of a sweep.

    Attributes
    ----------
    times, weights : tuple of float
        Input spike times in units of tau, and weights as in the network.
    weight_full_scale : float
        Range of the resistor banks.
    noise : Nonidealities
        Non-idealities in addition to the swept quantity.
    """

    times: tuple[float, ...]
    weights: tuple[float, ...]
    weight_full_scale: float
    noise: Nonidealities = dataclasses.field(default_factory=Nonidealities)

    def __post_init__(self) -> None:
        if len(self.times) != len(self.weights) or not self.times:
            raise ValueError(
                "an operating point needs as many times as weights, at least one; got "
                f"{len(self.times)} and {len(self.weights)}"
            )


@dataclass(frozen=True)
class SweepPoint:
    """Output jitter at one value of the swept quantity.

    Attributes
    ----------
    value : float
        Input jitter in %, or bits.
    jitter : float
        Mean of ``|t - t0|`` / t0 over the trials that fired, in %; t0 is the spike time without any
        non-ideality (the paper's definition, section 4.2).
    low, high : float
        95 % confidence interval of that mean.
    trials, silent : int
        Trials run, and how many of them did not fire.
    """

    value: float
    jitter: float
    low: float
    high: float
    trials: int
    silent: int


def jitter_sweep(
    point: OperatingPoint,
    jitters: Sequence[float],
    *,
    parameters: CircuitParameters | None = None,
    trials: int = 20_000,
    model: Model = "averaged",
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[SweepPoint]:
    """Output jitter of a neuron whose input times jitter.

    Parameters
    ----------
    point : OperatingPoint
        The neuron.
    jitters : sequence of float
        Input jitter in %: the standard deviation of each input's time as a fraction of the time.
    parameters : CircuitParameters, optional
    trials : int
        Trials at each value.
    model, seed, threads
        As for `simulate`. Every value uses the same trials, so that curves are smooth.
    progress : callable, optional
        Called with the number of trials done so far, over all values.

    Returns
    -------
    points : list of SweepPoint

    Raises
    ------
    ValueError
        If a jitter is negative, there are no trials, or the neuron does not fire undisturbed.
    """
    full = point.weight_full_scale
    noises = [
        dataclasses.replace(point.noise, relative_jitter=x / 100, weight_full_scale=full)
        for x in jitters
    ]
    return _sweep(parameters, point, jitters, noises, trials, model, seed, threads, progress)


def quantization_sweep(
    point: OperatingPoint,
    bits: Sequence[int],
    *,
    parameters: CircuitParameters | None = None,
    trials: int = 20_000,
    model: Model = "averaged",
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[SweepPoint]:
    """Output jitter of a neuron whose weights are rounded to a resistor bank's levels.

    Parameters
    ----------
    point : OperatingPoint
        The neuron.
    bits : sequence of int
        Bits of the bank.
    parameters, trials, model, seed, threads, progress
        As for `jitter_sweep`. Every trial is another chip: with ``point.noise.bank_offset`` its
        weights fall elsewhere between two levels.

    Returns
    -------
    points : list of SweepPoint
    """
    noises = [
        dataclasses.replace(point.noise, weight_bits=b, weight_full_scale=point.weight_full_scale)
        for b in bits
    ]
    return _sweep(parameters, point, bits, noises, trials, model, seed, threads, progress)


def is_monotone(points: Sequence[SweepPoint]) -> bool:
    """True if the means rise, or fall, all along; equal where intervals overlap."""
    means = [p.jitter for p in points]
    rising = means[-1] > means[0]
    for a, b in itertools.pairwise(points):
        first, second = (a, b) if rising else (b, a)
        if first.jitter > second.jitter and first.low > second.high:
            return False
    return True


def _sweep(
    parameters: CircuitParameters | None,
    point: OperatingPoint,
    values: Sequence[float],
    noises: Sequence[Nonidealities],
    trials: int,
    model: Model,
    seed: int,
    threads: int | None,
    progress: Callable[[int], None] | None,
) -> list[SweepPoint]:
    p = parameters or CircuitParameters()
    if trials < 2:
        raise ValueError(f"a sweep needs at least 2 trials per value; got {trials}")
    times = p.seconds(point.times)
    duration = float(times.max()) + 6 * p.tau
    ideal = simulate(p, times, point.weights, duration=duration, model=model)
    desired = float(ideal.fire_times[0])
    if not math.isfinite(desired):
        raise ValueError("the neuron of this operating point does not fire undisturbed")
    if desired <= 0:
        raise ValueError("the neuron fires at time 0: a fraction of that has no meaning")
    points = []
    for number, (value, noise) in enumerate(zip(values, noises, strict=True)):

        def advance(done: int, before: int = number * trials) -> None:
            if progress is not None:
                progress(before + done)

        result = simulate(
            p,
            times,
            point.weights,
            noise=noise,
            model=model,
            trials=trials,
            duration=duration,
            seed=seed,
            threads=threads,
            progress=advance,
        )
        fired = result.fire_times[np.isfinite(result.fire_times)]
        points.append(_summary(value, fired, desired, trials))
    return points


def _summary(value: float, fired: NDArray[np.float64], desired: float, trials: int) -> SweepPoint:
    deviation = 100 * np.abs(fired - desired) / desired
    count = len(deviation)
    mean = float(deviation.mean()) if count else math.nan
    error = float(deviation.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return SweepPoint(
        float(value), mean, mean - 1.96 * error, mean + 1.96 * error, trials, trials - count
    )
