"""Random numbers and non-idealities: distributions, switches, dependences."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from ttfs_fast import _core
from ttfs_fast.circuit import CircuitParameters, Nonidealities, simulate

P = CircuitParameters()
MASK = (1 << 64) - 1


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x64-20 in plain integers."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDAA9FC1A22)
    a, b = (counter[0] + keys[0]) & MASK, (counter[1] + keys[1]) & MASK
    for n in range(20):
        turn = (16, 42, 12, 31, 16, 32, 24, 21)[n % 8]
        a = (a + b) & MASK
        b = (b << turn | b >> (64 - turn)) & MASK ^ a
        if n % 4 == 3:
            s = n // 4 + 1
            a, b = (a + keys[s % 3]) & MASK, (b + keys[(s + 1) % 3] + s) & MASK
    return a, b


def test_threefry_known_answers() -> None:
    """The published test vectors, for the plain version with which the kernels are compared."""
    assert threefry((0, 0), (0, 0)) == (0xC2B6E3A8C2C69865, 0x6F81ED42F350084D)
    assert threefry((MASK, MASK), (MASK, MASK)) == (0xE02CB7C4D95D277A, 0xD06633D0893B8B68)
    assert threefry(
        (0xA4093822299F31D0, 0x082EFA98EC4E6C89), (0x243F6A8885A308D3, 0x13198A2E03707344)
    ) == (0x263C7D30BB0F0AF1, 0x56BE8361D3311526)


def test_the_kernels_normals_are_those_of_threefry(instruction_set: str) -> None:
    seed, trial, first = 2**63 + 5, 123456789012345, 77
    found = _core.circuit_normals(seed, trial, first, 50)
    expected = np.empty((50, 4))
    for i in range(50):
        for j in range(2):
            a, b = threefry((seed, 0), (trial, 2 * (first + i) + j))
            u, v = (((word >> 12) + 0.5) / 2**52 for word in (a, b))
            radius = math.sqrt(-2 * math.log(u))
            expected[i, 2 * j] = radius * math.cos(2 * math.pi * v)
            expected[i, 2 * j + 1] = radius * math.sin(2 * math.pi * v)
    assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


def test_the_normals_are_normal() -> None:
    normals = np.concatenate([_core.circuit_normals(3, trial, 0, 500) for trial in range(200)])
    for column in normals.T:
        assert stats.kstest(column, "norm").pvalue > 1e-4
    assert np.abs(np.corrcoef(normals.T) - np.eye(4)).max() < 0.02
    assert abs(np.corrcoef(normals[:-1, 0], normals[1:, 0])[0, 1]) < 0.02


def test_phase_noise_has_its_stationary_error_and_its_random_walk() -> None:
    """Var e = q (1 / k + 1 / w_lf) / 2 with q = 2 D, all along. Without input the membrane is
    reset, and after one its phase walks with 2 D t more than the integrated error's variance."""
    noise = Nonidealities(phase_noise=-105.0)
    diffusion = noise.diffusion
    assert diffusion == pytest.approx(10**-10.5 * (2 * math.pi * 1e6) ** 2)
    q, k, w = 2 * diffusion, P.loop_gain, P.loop_corner
    variance = q * (1 / k + 1 / w) / 2
    trials = 6000
    run = simulate(
        P, [np.inf], [1.0], noise=noise, trials=trials, duration=2 * P.tau, record_every=10, seed=5
    )
    assert run.waveforms is not None
    measured = run.waveforms.phase_error.var(axis=0)
    assert_allclose(measured, variance, rtol=0.1)
    assert measured.mean() == pytest.approx(variance, rel=0.04)
    assert not run.waveforms.membrane_phase.any()
    # A spike of nearly no weight starts the membrane; its walk, by the exact covariance of the
    # integral of a stationary first-order process for w_lf >> k: 2 var k^-1 (t - (1 - e^-kt) / k).
    fast = CircuitParameters(loop_corner=1e5 * k)
    run = simulate(
        fast, [0.0], [1e-9], noise=noise, trials=trials, duration=3 * P.tau, record_every=50, seed=6
    )
    assert run.waveforms is not None
    assert np.isinf(run.fire_times).all()
    t = run.waveforms.time[1:]
    integrated = 2 * (q / (2 * k)) / k * (t - -np.expm1(-k * t) / k)
    expected = 2 * diffusion * t + fast.membrane_gain**2 * integrated
    assert_allclose(run.waveforms.membrane_phase.var(axis=0)[1:], expected, rtol=0.1)


def test_the_spread_of_firing_does_not_depend_on_the_step() -> None:
    noise = Nonidealities(phase_noise=-118.0)
    spreads = []
    for steps in (20, 100):
        found = simulate(
            P, P.seconds([0.0, 0.3]), [1.2, 1.0], noise=noise, trials=8000, step=P.tau / steps
        ).fire_times
        assert np.isfinite(found).all()
        spreads.append(found.std())
    assert spreads[1] == pytest.approx(spreads[0], rel=0.06)
    assert 0.002 * P.tau < spreads[0] < 0.1 * P.tau


def test_both_models_have_the_same_phase_noise() -> None:
    """The switching model's phase noise, in each oscillator, is the averaged one's; ripple and
    sampling come on top of it."""
    spreads = {}
    for name, model, phase_noise in (
        ("averaged", "averaged", -100.0),
        ("quiet", "switching", None),
        ("switching", "switching", -100.0),
    ):
        found = simulate(
            P,
            P.seconds([0.1, 0.3]),
            [1.5, 1.2],
            noise=Nonidealities(phase_noise=phase_noise, random_start=True),
            trials=3000,
            model=model,  # type: ignore[arg-type]
        ).fire_times
        assert np.isfinite(found).all()
        spreads[name] = found.std()
    assert spreads["averaged"] > 1.5 * spreads["quiet"] > 0
    expected = math.hypot(spreads["averaged"], spreads["quiet"])
    assert spreads["switching"] == pytest.approx(expected, rel=0.1)


def test_input_jitter_moves_the_only_input_and_so_the_spike() -> None:
    fire = simulate(P, P.seconds([1.0]), [2.0]).fire_times[0]
    by_fraction = simulate(
        P, P.seconds([1.0]), [2.0], noise=Nonidealities(relative_jitter=0.05), trials=5000
    ).fire_times
    shift = (by_fraction - fire) / P.tau / 0.05
    assert stats.kstest(shift, "norm").pvalue > 1e-4
    by_time = simulate(
        P, P.seconds([1.0]), [2.0], noise=Nonidealities(jitter=1e-9), trials=5000
    ).fire_times
    assert stats.kstest((by_time - fire) / 1e-9, "norm").pvalue > 1e-4
    # At time 0 relative jitter has nothing to act on.
    still = simulate(P, [0.0], [2.0], noise=Nonidealities(relative_jitter=0.05), trials=10)
    assert (still.fire_times == simulate(P, [0.0], [2.0]).fire_times[0]).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_weights_are_rounded_to_the_bank_s_levels(bits: int) -> None:
    rng = np.random.default_rng(bits)
    times, weights = np.zeros((60, 2)), rng.uniform(-1.0, 4.0, (60, 2))
    level = 4.0 / 2**bits
    rounded = np.sign(weights) * np.minimum(np.rint(np.abs(weights) / level), 2**bits - 1) * level
    found = simulate(
        P, times, weights, noise=Nonidealities(weight_bits=bits, weight_full_scale=4.0)
    ).fire_times
    expected = simulate(P, times, rounded).fire_times
    assert np.isfinite(expected).sum() > 20
    assert_array_equal(found, expected)


def test_a_bank_s_offset_makes_the_rounding_error_uniform() -> None:
    """Read back from the spike time of neurons with one input, through the exact relation."""
    noise = Nonidealities(weight_bits=4, weight_full_scale=4.0, bank_offset=True)
    found = simulate(P, [0.0], [2.1], noise=noise, trials=4000).fire_times
    grid = np.linspace(1.8, 2.4, 4001)
    times = simulate(P, np.zeros((4001, 1)), grid[:, None]).fire_times
    weights = np.interp(-found, -times, grid)
    error = (weights - 2.1) / 0.25
    assert stats.kstest(error, "uniform", args=(-0.5, 1.0)).pvalue > 1e-4
    shared = simulate(P, [0.0], [2.1], noise=noise, trials=40, chips=np.arange(40) // 10).fire_times
    assert len(np.unique(shared)) == 4


def test_a_bank_s_offset_does_not_enlarge_small_weights() -> None:
    """Of forty synapses with 5 % of a level each, the mean over the chips is their sum."""
    noise = Nonidealities(weight_bits=4, weight_full_scale=4.0, bank_offset=True)
    times, weights = np.zeros(41), np.array([2.1] + [0.0125] * 40)
    found = simulate(P, times, weights, noise=noise, trials=2000).fire_times
    grid = np.linspace(1.0, 4.5, 2001)
    exact = simulate(P, np.zeros((2001, 1)), grid[:, None]).fire_times
    sums = np.interp(-found, -exact, grid)
    deviation = 0.25 * math.sqrt(41 / 12)
    assert sums.std() == pytest.approx(deviation, rel=0.1)
    assert sums.mean() == pytest.approx(weights.sum(), abs=4 * deviation / math.sqrt(2000))


def test_spreads_are_drawn_once_per_chip() -> None:
    times, weights = P.seconds([0.0, 0.2]), [1.5, 1.0]
    ideal = simulate(P, times, weights).fire_times[0]
    fired = {}
    for name, value in {
        "loop_gain_spread": 0.05,
        "membrane_gain_spread": 0.05,
        "loop_frequency_spread": 1e-4,
        "membrane_frequency_spread": 1e-4,
        "comparator_spread": 0.1,
    }.items():
        found = simulate(
            P, times, weights, noise=Nonidealities(**{name: value}), trials=2000
        ).fire_times
        assert np.isfinite(found).mean() > 0.99
        assert len(np.unique(found)) > 1900
        fired[name] = found
        assert abs(np.median(found) - ideal) < 0.01 * P.tau
    # The comparator's offset is that of the threshold: what a changed threshold would do.
    moved = [
        simulate(CircuitParameters(threshold_phase=P.threshold + d), times, weights).fire_times[0]
        for d in (-0.1, 0.1)
    ]
    expected = (moved[1] - moved[0]) / 2
    assert fired["comparator_spread"].std() == pytest.approx(expected, rel=0.08)
    gained = [
        simulate(
            CircuitParameters(
                low_frequency=1e9 - 0.1e9 * f,
                high_frequency=1e9 + 0.1e9 * f,
                threshold_phase=P.threshold,
            ),
            times,
            weights,
        ).fire_times[0]
        for f in (math.exp(0.05), math.exp(-0.05))
    ]
    expected = (gained[1] - gained[0]) / 2
    assert fired["membrane_gain_spread"].std() == pytest.approx(expected, rel=0.08)
