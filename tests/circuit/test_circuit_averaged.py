"""The averaged model against linear system theory, numerical integration and the closed form."""

import math

import numpy as np
import pytest
import torch
from circuit_reference import integrate, random_neurons
from numpy.testing import assert_allclose
from scipy import signal

from ttfs_fast import reference
from ttfs_fast.circuit import CircuitParameters, Nonidealities, closed_form, simulate
from ttfs_fast.circuit.convergence import RATIOS, loop_convergence, order

K = CircuitParameters().loop_gain


def with_corner(ratio: float, **more: float) -> CircuitParameters:
    """w_lf = ratio k."""
    return CircuitParameters(loop_corner=ratio * K, **more)


@pytest.mark.parametrize(
    "ratio", [0.5, 1.0, 3.0, 4.0 * (1 - 1e-9), 4.0, 4.0 * (1 + 1e-9), 5.0, 1e3]
)
def test_the_step_response_is_that_of_equation_2(ratio: float, instruction_set: str) -> None:
    """Under-damped below w_lf = 4 k, critical at it, over-damped above."""
    p = with_corner(ratio)
    weight, begin = 0.7, 0.137 * p.tau
    result = simulate(p, [begin], [weight], duration=12 * p.tau, record_every=1)
    waves = result.waveforms
    assert waves is not None
    after = waves.time > begin
    assert after.sum() > 500
    jump = p.phase_per_weight * weight
    # In units of tau, so that the polynomial's coefficients are near 1.
    system = signal.TransferFunction([1.0], [1 / ratio, 1.0, 1.0])
    grid = np.concatenate([[0.0], (waves.time[after] - begin) / p.tau])
    # lsim wants an even grid; this one is even from its second point on, so step from there on by
    # the state-space solution at each point.
    a, b, c, _ = signal.tf2ss(system.num, system.den)
    state = signal.StateSpace(a, b, c, [[0.0]])
    even = grid[1:] - grid[1]
    first = signal.lsim(state, [1.0, 1.0], [0.0, grid[1]])[2][-1]
    response = signal.lsim(state, np.ones(len(even)), even, X0=first)[1]
    phi_out = jump - waves.phase_error[0, after]
    assert np.abs(phi_out - jump * response).max() <= 1e-9 * jump
    assert np.abs(waves.phase_error[0, ~after]).max() == 0
    if ratio < 3.5:
        assert phi_out.max() > jump * 1.0001  # it overshoots, as it should
    elif ratio >= 4:
        assert phi_out.max() <= jump * (1 + 1e-12)


@pytest.mark.parametrize("ratio", [0.7, 4.0, 20.0])
@pytest.mark.parametrize("inputs", [1, 2, 9, 64])
def test_spike_times_are_those_of_numerical_integration(ratio: float, inputs: int) -> None:
    p = with_corner(ratio)
    times, weights = random_neurons(7 * inputs, 12, inputs)
    if inputs == 1:
        times, weights = np.linspace(0, 2, 12)[:, None], np.linspace(0.8, 3, 12)[:, None]
    end = 8.0
    result = simulate(p, p.seconds(times), weights, duration=end * p.tau)
    found = p.network_time(result.fire_times)
    expected = np.array([integrate(p, t, w, end) for t, w in zip(times, weights, strict=True)])
    assert np.isfinite(expected).sum() >= 5
    assert_allclose(found, expected, rtol=0, atol=1e-8)


def test_mismatched_pairs_against_numerical_integration() -> None:
    """A constant frequency difference biases the loop's error and lets the membrane drift."""
    p = with_corner(8.0)
    times, weights = random_neurons(3, 12, 6)
    relative = 2e-4
    detuning = 2 * math.pi * relative * p.ring_frequency * p.tau
    result = simulate(
        p,
        p.seconds(times),
        weights,
        noise=Nonidealities(differential_drift=relative),
        duration=8 * p.tau,
    )
    expected = np.array(
        [
            integrate(p, t, w, 8.0, detuning=detuning, leak=detuning)
            for t, w in zip(times, weights, strict=True)
        ]
    )
    ideal = simulate(p, p.seconds(times), weights, duration=8 * p.tau)
    spiked = np.isfinite(expected)
    assert spiked.sum() >= 5
    assert_allclose(p.network_time(result.fire_times), expected, rtol=0, atol=1e-8)
    with np.errstate(invalid="ignore"):
        moved = np.abs(result.fire_times - ideal.fire_times)[spiked & np.isfinite(ideal.fire_times)]
    assert moved.max() > 0.01 * p.tau


def test_a_raised_threshold_frequency_makes_the_threshold_rise() -> None:
    base = with_corner(10.0)
    raised = with_corner(10.0, threshold_frequency=1.0e9 + 2e6)
    leak = -2 * math.pi * 2e6 * base.tau
    times, weights = np.array([0.1, 0.6]), np.array([0.9, 0.8])
    found = simulate(raised, raised.seconds(times), weights, duration=9 * base.tau).fire_times[0]
    expected = integrate(raised, times, weights, 9.0, leak=leak)
    assert math.isfinite(expected)
    assert raised.network_time(found) == pytest.approx(expected, abs=1e-8)
    assert found > simulate(base, base.seconds(times), weights).fire_times[0]


def test_the_step_does_not_matter_without_noise() -> None:
    p = with_corner(30.0)
    times, weights = random_neurons(5, 200, 12)
    found = [
        simulate(p, p.seconds(times), weights, duration=8 * p.tau, step=p.tau / n).fire_times
        for n in (2, 7, 50, 1000)
    ]
    assert np.isfinite(found[0]).sum() > 80
    for other in found[1:]:
        assert_allclose(other, found[0], rtol=0, atol=1e-12 * p.tau)


def test_crossing_within_a_step_is_detected() -> None:
    """A strong spike and a stronger inhibitory one inside one step; the membrane's own peak."""
    p = with_corner(1e4)
    step = p.tau / 4
    times, weights = np.array([0.05, 0.15]), np.array([12.0, -40.0])
    found = simulate(p, p.seconds(times), weights, duration=3 * p.tau, step=step).fire_times[0]
    expected = integrate(p, times, weights, 3.0)
    assert 0.05 < expected < 0.15
    assert p.network_time(found) == pytest.approx(expected, abs=1e-8)
    # With little damping the membrane swings over its end value: its peak is above the threshold,
    # where it settles is below.
    p = with_corner(0.25)
    rising = simulate(p, [0.0], [0.95], duration=20 * p.tau, step=p.tau / 4)
    assert p.network_time(rising.fire_times[0]) == pytest.approx(
        integrate(p, [0.0], [0.95], 20.0), abs=1e-8
    )
    assert math.isfinite(rising.fire_times[0])


def test_closed_form_is_the_package_s_own() -> None:
    times, weights = random_neurons(11, 300, 10)
    expected = [
        reference.spiking_linear(torch.from_numpy(t).exp()[None], torch.from_numpy(w)[None])
        for t, w in zip(times, weights, strict=True)
    ]
    expected = torch.cat(expected).flatten().log().numpy()
    assert 100 < np.isfinite(expected).sum() < 300
    assert_allclose(closed_form(times, weights), expected, rtol=1e-12, atol=1e-12)


def test_spike_times_converge_to_the_closed_form_at_first_order() -> None:
    """As w_lf rises, with errors in proportion to k / w_lf: neurons of 2 to 64 inputs."""
    median, high = loop_convergence()
    for errors in (median, high):
        assert order(RATIOS, errors) == pytest.approx(1.0, abs=0.05)
    assert median[-1] < 1e-5


def test_a_neuron_without_inputs_is_silent() -> None:
    assert closed_form([], []).tolist() == [math.inf]
    assert closed_form(np.empty((3, 0)), np.empty((3, 0))).tolist() == [math.inf] * 3
