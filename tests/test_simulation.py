"""The operators against an independent simulation of the differential equation (1).

The simulation knows no closed form: it integrates dv/dt = I, dI/dt = -I with scipy between input
spikes, adds each weight to the synaptic current I when its input spikes, and looks for the first
time at which the membrane potential v reaches 1.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import ttfs_fast

# Tolerances of the solver; the spike time is wrong by about the error of v over the slope there.
RTOL, ATOL = 1e-11, 1e-12


def threshold(_: float, state: np.ndarray) -> float:
    return float(state[0]) - 1


threshold.terminal = True  # type: ignore[attr-defined]
threshold.direction = 1  # type: ignore[attr-defined]


def simulated_spike(times: np.ndarray, weights: np.ndarray) -> float:
    """First time at which v reaches 1, inf if it never does."""
    order = np.argsort(times, kind="stable")
    times, weights = times[order], weights[order]
    state = np.zeros(2)  # v, I
    for i, (time, weight) in enumerate(zip(times, weights, strict=True)):
        state[1] += weight
        # After the last input v = v_last + I (1 - e^-t) is monotone with the limit v_last + I;
        # past 40 time constants all that can still come is e^-40 of I, below the tolerance.
        end = times[i + 1] if i + 1 < len(times) else time + 40
        if end == time:
            continue
        part = solve_ivp(
            lambda _, s: (s[1], -s[1]),
            (time, end),
            state,
            method="DOP853",
            rtol=RTOL,
            atol=ATOL,
            events=threshold,
        )
        if part.t_events[0].size:
            return float(part.t_events[0][0])
        state = part.y[:, -1].copy()
    return math.inf


def random_neuron(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    count = int(random.integers(2, 41))
    times = random.uniform(-1, 2, count)
    weights = random.normal(2.0 / count, 2.5 / math.sqrt(count), count)
    return times, weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_random_neurons(dtype: torch.dtype) -> None:
    random = np.random.default_rng(7)
    # Solver: 1e-9 with a margin for flat crossings. float32: a spike value to 1e-5.
    bound = 1e-7 if dtype == torch.float64 else 3e-5
    spiked = silent = 0
    for _ in range(60):
        times, weights = random_neuron(random)
        z = torch.tensor(np.exp(times), dtype=dtype)
        w = torch.tensor(weights, dtype=dtype)
        out = ttfs_fast.spiking_linear(z, w[None]).item()
        # The simulation gets what the operator got, after rounding.
        expected = simulated_spike(np.log(z.double().numpy()), w.double().numpy())
        assert math.isinf(out) == math.isinf(expected)
        if math.isinf(expected):
            silent += 1
            continue
        spiked += 1
        assert abs(math.log(out) - expected) < bound
    assert spiked >= 20
    assert silent >= 5


def test_bias_is_an_input_at_time_zero() -> None:
    random = np.random.default_rng(3)
    spiked = 0
    for _ in range(15):
        times, weights = random_neuron(random)
        z = torch.tensor(np.exp(times))
        out = ttfs_fast.spiking_linear(
            z, torch.tensor(weights[None]), torch.tensor([0.8], dtype=torch.float64)
        ).item()
        expected = simulated_spike(np.append(times, 0.0), np.append(weights, 0.8))
        assert math.isinf(out) == math.isinf(expected)
        if not math.isinf(expected):
            spiked += 1
            assert abs(math.log(out) - expected) < 1e-7
    assert spiked >= 8


def test_convolution_with_silent_padding() -> None:
    random = np.random.default_rng(5)
    times = random.uniform(0, 2, (3, 6, 6))
    weight = random.normal(3.0 / 27, 2.5 / math.sqrt(27), (4, 3, 3, 3))
    z = torch.tensor(np.exp(times))
    out = ttfs_fast.spiking_conv2d(z, torch.tensor(weight), stride=2, padding=1)
    padded = np.full((3, 8, 8), np.inf)
    padded[:, 1:7, 1:7] = times
    spiked = 0
    for channel in range(4):
        for row, column in ((0, 0), (1, 1), (2, 0), (2, 2)):
            field = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].ravel()
            seen = np.isfinite(field)
            expected = simulated_spike(field[seen], weight[channel].ravel()[seen])
            got = out[channel, row, column].item()
            assert math.isinf(got) == math.isinf(expected)
            if not math.isinf(expected):
                spiked += 1
                assert abs(math.log(got) - expected) < 1e-7
    assert spiked >= 6
