"""Convergence of the circuit to equation (1), and of the switching to the averaged model."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ttfs_fast.circuit.parameters import CircuitParameters, Nonidealities
from ttfs_fast.circuit.simulation import closed_form, simulate

RATIOS = (1e2, 1e3, 1e4, 1e5, 1e6)
FREQUENCIES = (1e9, 2e9, 4e9, 8e9, 16e9)
INPUTS = (2, 3, 5, 8, 16, 33, 64)

Array = NDArray[np.float64]


def random_neurons(
    inputs: int, neurons: int, *, max_time: float = 2.5, seed: int = 0
) -> tuple[Array, Array]:
    """Input times in units of tau, a fifth of them silent, and weights of both signs."""
    rng = np.random.default_rng((seed, inputs))
    times = rng.uniform(0, max_time, (neurons, inputs))
    times[rng.random(times.shape) < 0.2] = np.inf
    return times, rng.normal(2.5 / inputs, 1.3 / np.sqrt(inputs), (neurons, inputs))


def loop_convergence(
    parameters: CircuitParameters | None = None,
    ratios: Sequence[float] = RATIOS,
    *,
    neurons: int = 60,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Spike times of the averaged model against the closed form, as the loop filter gets faster.

    Parameters
    ----------
    parameters : CircuitParameters, optional
    ratios : sequence of float
        w_lf / k.
    neurons : int
        Random neurons for each of 2, 3, 5, 8, 16, 33 and 64 inputs.
    seed : int

    Returns
    -------
    median, high : array, shape (ratios,)
        Median and 90 % quantile of the error of the spike time, in units of tau, over neurons whose
        ideal time is below 6.
    """
    base = parameters or CircuitParameters()
    found = []
    for ratio in ratios:
        p = dataclasses.replace(base, loop_corner=ratio * base.loop_gain)
        errors = []
        for inputs in INPUTS:
            times, weights = random_neurons(inputs, neurons, seed=seed)
            ideal = closed_form(times, weights)
            fire = simulate(p, p.seconds(times), weights, duration=12 * p.tau).fire_times
            early = ideal < 6
            errors.append(np.abs(p.network_time(fire[early]) - ideal[early]))
        found.append(np.quantile(np.concatenate(errors), [0.5, 0.9]))
    median, high = np.array(found).T
    return median, high


def ring_convergence(
    parameters: CircuitParameters | None = None,
    frequencies: Sequence[float] = FREQUENCIES,
    *,
    inputs: int = 6,
    neurons: int = 120,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Spike times of the switching model against the averaged one, as the rings get faster.

    Loop and membrane keep their gains: VCO4's two frequencies stay as far apart.

    Parameters
    ----------
    parameters : CircuitParameters, optional
    frequencies : sequence of float
        Of all rings, Hz.
    inputs, neurons, seed : int

    Returns
    -------
    mean, high : array, shape (frequencies,)
        Mean and 90 % quantile of the difference, in units of tau, over neurons that fire before
        2.5 tau.
    """
    base = parameters or CircuitParameters()
    half = 0.5 * (base.high_frequency - base.low_frequency)
    times, weights = random_neurons(inputs, neurons, max_time=1.5, seed=seed)
    found = []
    for frequency in frequencies:
        threshold = base.threshold_frequency
        if threshold is not None:
            threshold += frequency - base.middle_frequency
        p = dataclasses.replace(
            base,
            ring_frequency=frequency,
            threshold_frequency=threshold,
            low_frequency=frequency - half,
            high_frequency=frequency + half,
        )
        ideal = simulate(p, p.seconds(times), weights, duration=4 * p.tau).fire_times
        fire = simulate(
            p,
            p.seconds(times),
            weights,
            model="switching",
            noise=Nonidealities(random_start=True),
            duration=4.5 * p.tau,
            seed=seed,
        ).fire_times
        early = ideal < 2.5 * p.tau
        errors = p.network_time(np.abs(fire[early] - ideal[early]))
        found.append((errors.mean(), np.quantile(errors, 0.9)))
    mean, high = np.array(found).T
    return mean, high


def order(x: Sequence[float], errors: Array) -> float:
    """Exponent with which errors fall as x grows: 1 is first order."""
    return -float(np.polyfit(np.log(np.asarray(x)), np.log(errors), 1)[0])
