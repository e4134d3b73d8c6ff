"""One neuron at a time, against the definition in exact arithmetic."""

import math
from fractions import Fraction
from itertools import zip_longest

import pytest
import torch

import ttfs_fast
from ttfs_fast import reference

INF = math.inf
EVALUATIONS = [ttfs_fast.spiking_linear, reference.spiking_linear]

# (input spike values, weights, spike value, causal set)
WORKED = [
    ([1, 2], [2, 1], 2, {0}),  # F(2) = 2 - 2 = 0: it spikes as the second input arrives
    ([1, 2], [0.5, 0.25], INF, set()),
    ([1, 1.5], [2, 1], 1.75, {0, 1}),  # (2 * 1 + 1 * 1.5) / (3 - 1)
    ([1, 3], [2, 1], 2, {0}),  # over before the second arrives
    ([2, 1], [1, 2], 2, {1}),  # the order of the inputs does not matter
    ([1, 2, 4], [1, -3, 8], 5.4, {0, 1, 2}),  # F(2) = -2, F(4) = -8; (1 - 6 + 32) / 5
    ([1, INF], [3, 9], 1.5, {0}),
    ([INF, INF], [3, 9], INF, set()),
    ([1], [1], INF, set()),  # D = 0: F stays at -1 for ever
]


def first_spike(
    times: list[float], weights: list[float], horizon: float = INF
) -> tuple[Fraction | None, set[int]]:
    """Spike value and causal set of one neuron, by the definition and in exact arithmetic."""
    synapses = [
        (Fraction(z), Fraction(w), i)
        for i, (z, w) in enumerate(zip(times, weights, strict=True))
        if z < INF
    ]

    def membrane(z: Fraction) -> Fraction:
        return sum((w * (z - z_i) for z_i, w, _ in synapses if z_i < z), Fraction(0)) - z

    knots = sorted({z for z, _, _ in synapses if z < horizon})
    for knot, following in zip_longest(knots, knots[1:]):
        causal = [s for s in synapses if s[0] <= knot]
        slope = sum(w for _, w, _ in causal) - 1
        if following is None and horizon == INF:
            reaches = slope > 0
        else:
            reaches = membrane(Fraction(horizon) if following is None else following) >= 0
        if reaches:
            return sum(w * z for z, w, _ in causal) / slope, {i for _, _, i in causal}
    return None, set()


@pytest.mark.parametrize(("times", "weights", "spike", "causal"), WORKED)
def test_worked_examples(
    instruction_set: str, times: list[float], weights: list[float], spike: float, causal: set[int]
) -> None:
    exact, members = first_spike(times, weights)
    assert (INF if exact is None else float(exact)) == spike
    assert members == causal
    for evaluate in EVALUATIONS:
        for dtype in (torch.float32, torch.float64):
            z = torch.tensor(times, dtype=dtype, requires_grad=True)
            w = torch.tensor([weights], dtype=dtype, requires_grad=True)
            out = evaluate(z, w)
            torch.testing.assert_close(out, torch.tensor([spike], dtype=dtype))
            out.masked_fill(out == INF, 0).sum().backward()
            slope = sum(weights[i] for i in causal) - 1
            for i in range(len(times)):
                dz = weights[i] / slope if i in causal else 0
                dw = (times[i] - spike) / slope if i in causal else 0
                assert z.grad is not None
                assert w.grad is not None
                assert z.grad[i].item() == pytest.approx(dz, rel=1e-6)
                assert w.grad[0, i].item() == pytest.approx(dw, rel=1e-6)


def test_membrane_reaches_threshold_at_the_spike_time() -> None:
    """Equation (3): v(t) = sum w (1 - exp(t_i - t)) is 1 at the spike, below it before."""
    times, weights = [0.1, 0.4, 0.9, 1.3], [0.9, -0.4, 0.8, 0.9]
    z = torch.tensor(times, dtype=torch.float64).exp()
    out = ttfs_fast.spiking_linear(z, torch.tensor([weights], dtype=torch.float64))
    spike = out.log().item()

    def membrane(t: float) -> float:
        rises = ((w, t_i) for w, t_i in zip(weights, times, strict=True) if t_i < t)
        return sum(w * (1 - math.exp(t_i - t)) for w, t_i in rises)

    assert membrane(spike) == pytest.approx(1, rel=1e-12)
    assert all(membrane(spike * k / 1000) < 1 for k in range(1000))


@pytest.mark.parametrize("horizon", [INF, 2.5])
def test_small_integers_exactly(instruction_set: str, seed: int, horizon: float) -> None:
    """Quarters and small sizes: every sum is exact, so are ties, touches and decisions."""
    rows, inputs, outputs = 40, 6, 20
    z = torch.randint(1, 13, (rows, inputs)).double() / 4
    z[torch.rand(rows, inputs) < 0.2] = INF
    w = torch.randint(-6, 9, (outputs, inputs)).double() / 4
    spiking = 0
    t_max = math.log(horizon)
    horizon = math.exp(t_max)  # as rounded by the logarithm
    got = {}
    for dtype in (torch.float32, torch.float64):
        got[dtype] = ttfs_fast.spiking_linear(z.to(dtype), w.to(dtype), t_max=t_max)
        plain = reference.spiking_linear(z.to(dtype), w.to(dtype), t_max=t_max)
        torch.testing.assert_close(got[dtype], plain, rtol=1e-6, atol=0)
    for r in range(rows):
        for j in range(outputs):
            exact, _ = first_spike(z[r].tolist(), w[j].tolist(), horizon)
            spiking += exact is not None
            expected = INF if exact is None else float(exact)
            assert got[torch.float64][r, j].item() == pytest.approx(expected, rel=1e-15)
            assert got[torch.float32][r, j].item() == pytest.approx(expected, rel=1e-7)
    # The share of 20 random neurons: 0.55 and 0.32 on average, with deviations of 0.08 and 0.06.
    assert rows * outputs * (0.1 if horizon == INF else 0.05) < spiking < rows * outputs
