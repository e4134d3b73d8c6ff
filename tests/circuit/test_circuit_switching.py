"""The switching model against a plain loop, and against the averaged model."""

import math

import numpy as np
import pytest
from circuit_reference import random_neurons, switch
from numpy.testing import assert_allclose

from ttfs_fast.circuit import CircuitParameters, Nonidealities, default_step, simulate
from ttfs_fast.circuit.convergence import FREQUENCIES, order, ring_convergence


def at_frequency(frequency: float, **more: float) -> CircuitParameters:
    """Rings at another frequency; loop and membrane keep their gains."""
    return CircuitParameters(
        ring_frequency=frequency,
        low_frequency=frequency - 0.1e9,
        high_frequency=frequency + 0.1e9,
        **more,
    )


@pytest.mark.parametrize("inputs", [1, 3, 20])
def test_against_the_plain_loop(inputs: int, instruction_set: str) -> None:
    p = at_frequency(0.5e9)
    times, weights = random_neurons(inputs, 10, inputs, latest=1.5, deviation=1.2)
    if inputs == 1:
        times, weights = np.linspace(0, 1, 10)[:, None], np.linspace(1.2, 3, 10)[:, None]
    end, step = 2.5 * p.tau, 1 / (12.3 * p.high_frequency)
    result = simulate(
        p, p.seconds(times), weights, model="switching", duration=end, step=step, threads=1
    )
    expected = np.array(
        [switch(p, p.seconds(t), w, end, step) for t, w in zip(times, weights, strict=True)]
    )
    assert np.isfinite(expected).sum() >= 5
    assert_allclose(result.fire_times, expected, rtol=0, atol=1e-9 * p.tau)


def test_switching_converges_to_the_averaged_model_at_first_order() -> None:
    """As the rings get faster: errors fall in proportion to 1 / frequency."""
    mean, high = ring_convergence()
    assert order(FREQUENCIES, mean) == pytest.approx(1.0, abs=0.15)
    assert order(FREQUENCIES, high) == pytest.approx(1.0, abs=0.2)
    assert mean[-1] < 0.1 / 16


def test_the_step_converges_within_a_period() -> None:
    p = at_frequency(1e9)
    times, weights = random_neurons(9, 60, 5, latest=1.5, deviation=1.2)
    fine = simulate(
        p, p.seconds(times), weights, model="switching", duration=3 * p.tau, step=1 / 400e9
    ).fire_times
    spread = []
    for per_period in (20, 80):
        found = simulate(
            p,
            p.seconds(times),
            weights,
            model="switching",
            duration=3 * p.tau,
            step=1 / (per_period * 1e9),
        ).fire_times
        both = np.isfinite(found) & np.isfinite(fine)
        assert both.sum() > 25
        spread.append(np.median(np.abs(found[both] - fine[both])))
    assert spread[1] < spread[0] < 0.05e-9


def test_the_flip_flop_samples_at_vco4_s_edges() -> None:
    """The neuron fires a whole number of VCO4's periods after the first input released it."""
    p = at_frequency(1e9)
    first = 0.3 * p.tau
    result = simulate(p, [first], [2.0], model="switching", duration=4 * p.tau, record_every=1)
    waves = result.waveforms
    assert waves is not None
    fire = result.fire_times[0]
    assert math.isfinite(fire)
    # Turns of VCO4 = those of VCO3 plus the membrane phase, at the last sample before firing.
    before = int(fire / result.step)
    turns_of_3 = (waves.time[before] - first) * 1e9
    turns_of_4 = turns_of_3 + waves.membrane_phase[0, before] / (2 * math.pi)
    rate = 0.9e9 + 0.2e9 * waves.duty[0, before + 1]
    at_fire = turns_of_4 + rate * (fire - waves.time[before])
    assert at_fire == pytest.approx(round(at_fire), abs=0.02)
    assert fire == pytest.approx(simulate(p, [first], [2.0]).fire_times[0], abs=3e-9)


def test_up_is_the_xor_of_two_square_waves() -> None:
    p = at_frequency(1e9)
    waves = simulate(p, [10e-9], [1.0], model="switching", duration=40e-9, record_every=1).waveforms
    assert waves is not None
    duty = waves.duty[0]
    assert ((duty >= 0) & (duty <= 1)).all()
    full = ((duty == 0) | (duty == 1)).mean()
    assert full > 0.5  # most steps hold no edge: UP is high or low, nothing between
    period = 16
    resting = duty[1 : 8 * period + 1].mean()
    after = duty[int(10e-9 / default_step(p, "switching")) + 2 :][: 2 * period].mean()
    assert resting == pytest.approx(0.5, abs=0.02)
    # 0.25 rad / pi more right after the spike, and less as the loop follows.
    assert after - resting == pytest.approx(0.25 / math.pi, rel=0.15)


def test_the_detector_folds_beyond_a_quarter_turn() -> None:
    """Beyond pi / 2 of phase error UP's duty falls again; the averaged model has no such limit."""
    p = at_frequency(1e9)
    peak = simulate(p, [0.0], [10.0]).peak_error[0]
    assert peak == pytest.approx(10 * 0.25)
    assert peak > math.pi / 2
    linear = simulate(p, [0.0], [10.0]).fire_times[0]
    folded = simulate(p, [0.0], [10.0], model="switching").fire_times[0]
    assert folded > linear + 0.02 * p.tau
    inside = simulate(p, [0.0], [5.0], model="switching").peak_error[0]
    assert inside == pytest.approx(1.25, abs=0.1)


def test_a_deeply_inhibited_membrane_wraps_around() -> None:
    """Below minus half of phase_range turns the comparison of the flip-flop is inverted."""
    times, weights = [0.0], [-8.0]
    for turns, fires in ((2, True), (64, False)):
        p = at_frequency(1e9, phase_range=turns)
        found = simulate(p, times, weights, model="switching", duration=3 * p.tau).fire_times[0]
        assert math.isfinite(found) == fires
    assert math.isinf(simulate(p, times, weights).fire_times[0])


@pytest.mark.parametrize("model", ["averaged", "switching"])
def test_common_drift_cancels_and_differential_drift_does_not(model: str) -> None:
    p = at_frequency(1e9)
    # Excitatory only: a neuron that fires only just is sensitive to anything.
    times, weights = random_neurons(4, 40, 4, latest=1.5, deviation=1.2)
    weights = np.abs(weights) + 0.3

    def fire(**drift: float) -> np.ndarray:
        return simulate(
            p,
            p.seconds(times),
            weights,
            model=model,
            noise=Nonidealities(**drift),
            duration=3 * p.tau,
            step=1 / 40e9,
        ).fire_times

    ideal, common, apart = fire(), fire(common_drift=0.02), fire(differential_drift=2e-4)
    both = np.isfinite(ideal) & np.isfinite(common) & np.isfinite(apart)
    assert both.sum() > 15
    period = 1 / p.ring_frequency
    by_common = np.abs(common[both] - ideal[both])
    by_difference = np.abs(apart[both] - ideal[both])
    if model == "averaged":
        assert by_common.max() == 0
    else:  # the rings' edges move, and with them ripple and sampling: a matter of periods
        assert np.quantile(by_common, 0.9) < 3 * period
    # A hundredth of that drift between the two of a pair does more.
    assert np.median(by_difference) > 2 * np.median(by_common)
    assert np.median(by_difference) > 0.2 * period


def test_convergence_keeps_a_threshold_of_ones_own() -> None:
    """VCO3 moves with the other rings; at a fixed frequency another neuron would be measured."""
    base = CircuitParameters()
    own = CircuitParameters(threshold_frequency=base.middle_frequency + 1e6)
    frequencies = (0.5e9, 2e9)
    mean, _ = ring_convergence(own, frequencies=frequencies, neurons=200)
    assert order(frequencies, mean) == pytest.approx(1, abs=0.3)
