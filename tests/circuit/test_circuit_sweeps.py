"""Sweeps of input jitter and weight bits, and the energy of neurons."""

import dataclasses
import math

import numpy as np
import pytest

from ttfs_fast.circuit import (
    CircuitParameters,
    Nonidealities,
    OperatingPoint,
    SweepPoint,
    closed_form,
    energy,
    energy_per_spike,
    is_monotone,
    jitter_sweep,
    quantization_sweep,
    simulate,
    simulated_energy,
)

P = CircuitParameters()
POINT = OperatingPoint(
    times=(0.0, 0.3143),
    weights=(3.71, 2.5),
    weight_full_scale=4.45,
    noise=Nonidealities(bank_offset=True, phase_noise=-147.0),
)


def test_jitter_of_inputs_in_the_causal_set_is_linear() -> None:
    """If all inputs come before the spike, output jitter is proportional to input jitter."""
    point = OperatingPoint(times=(0.1, 0.3), weights=(1.2, 1.1), weight_full_scale=2.0)
    points = jitter_sweep(point, (0.5, 1.0, 2.0), trials=20_000)
    shares = [p.jitter / p.value for p in points]
    assert max(shares) / min(shares) < 1.05
    # Its slope, from the gradient of the closed form: dt_j/dt_i = w_i z_i / (D z_j).
    t, w = np.array(point.times), np.array(point.weights)
    out = closed_form(t, w)[0]
    gains = w * np.exp(t - out) / (w.sum() - 1) * t / out
    expected = np.sqrt(2 / np.pi) * np.sqrt((gains**2).sum())
    assert shares[0] == pytest.approx(expected, rel=0.03)


def test_no_noise_and_no_jitter_give_no_deviation() -> None:
    quiet = dataclasses.replace(POINT, noise=Nonidealities(bank_offset=True))
    assert jitter_sweep(quiet, (0.0,), trials=50)[0].jitter == 0
    assert quantization_sweep(quiet, (52,), trials=50)[0].jitter < 1e-9


def test_the_switching_model_of_the_same_sweep_is_quantized() -> None:
    """With 1 GHz rings the flip-flop's clock hides small deviations and enlarges large ones."""
    points = jitter_sweep(POINT, (3.0, 9.0), trials=2000, model="switching")
    assert 0 < points[0].jitter < points[1].jitter < 5


def test_monotone() -> None:
    def point(mean: float, half: float = 0.01) -> SweepPoint:
        return SweepPoint(0.0, mean, mean - half, mean + half, 10, 0)

    assert is_monotone([point(1), point(2), point(3)])
    assert is_monotone([point(3), point(2), point(2.005), point(1)])
    assert not is_monotone([point(1), point(3), point(2)])


def test_progress_counts_all_trials() -> None:
    seen: list[int] = []
    quantization_sweep(POINT, (4, 8, 12), trials=500, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1500


def test_bad_sweeps_are_refused() -> None:
    with pytest.raises(ValueError, match="relative_jitter"):
        jitter_sweep(POINT, (-1.0,))
    with pytest.raises(ValueError, match="weight_bits"):
        quantization_sweep(POINT, (60,))
    with pytest.raises(ValueError, match="at least 2 trials"):
        jitter_sweep(POINT, (1.0,), trials=1)
    with pytest.raises(ValueError, match="does not fire"):
        jitter_sweep(OperatingPoint((0.0,), (0.5,), 1.0), (1.0,))
    with pytest.raises(ValueError, match="as many times as weights"):
        OperatingPoint((0.0, 1.0), (0.5,), 1.0)


def test_energy_of_a_spike_is_below_ten_picojoule() -> None:
    """Less than 10 pJ, as the paper states."""
    per_spike = energy_per_spike(P)
    assert 5e-12 < per_spike < 10e-12
    # From the parameters: four rings, the logic and the bias.
    seconds = 3.5 * P.tau
    rings = 4 * P.ring_frequency * P.stages * P.stage_capacitance * P.supply**2
    logic = P.ring_frequency * P.logic_capacitance * P.supply**2
    assert per_spike == pytest.approx(seconds * (rings + logic + P.static_power), rel=1e-12)
    assert energy(P, 2e-9, 1e-9) < energy(P, 2e-9, 2e-9)


def test_energy_of_simulated_neurons() -> None:
    times = P.seconds([[0.5, 1.0], [0.5, 1.0], [np.inf, np.inf]])
    weights = [[1.0, 1.0], [0.2, 0.2], [1.0, 1.0]]
    result = simulate(P, times, weights, duration=4 * P.tau)
    found = simulated_energy(P, result, times.min(axis=1))
    span = result.fire_times[0] - times[0, 0]
    assert (found.spikes, found.neurons) == (1, 3)
    assert found.per_spike == pytest.approx(float(energy(P, span, span)))
    silent = float(energy(P, 3.5 * P.tau, 3.5 * P.tau))
    assert found.total == pytest.approx(found.spiking + silent)
    assert math.isnan(simulated_energy(P, simulate(P, [0.0], [0.1]), 0.0).per_spike)


def test_both_sweeps_have_the_same_bank() -> None:
    """Rounded weights without jitter are those of the other sweep with these bits."""
    noise = dataclasses.replace(POINT.noise, weight_bits=8)
    rounded = dataclasses.replace(POINT, noise=noise)
    (jitter,) = jitter_sweep(rounded, (0.0,), trials=500)
    (bits,) = quantization_sweep(POINT, (8,), trials=500)
    assert jitter.jitter == bits.jitter
    assert 0 < bits.jitter < 5
