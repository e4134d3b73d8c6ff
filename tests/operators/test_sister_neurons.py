"""The family of neurons of one sweep: against `fire`, against simulated membranes, gradients."""

import math

import pytest
import torch
from torch import Tensor

from ttfs_fast.reference import fire, first_crossing

INF = math.inf
SISTERS = {"ramps": (0.0, 1.0), "falling threshold": (1.0, 2.0), "slowly falling": (0.25, 1.5)}


def inputs(rows: int, count: int, silent: float = 0.2) -> Tensor:
    t = 2 * torch.rand(rows, count, dtype=torch.float64) - 0.3
    return t.masked_fill(torch.rand(rows, count) < silent, INF)


def weights(outputs: int, count: int) -> Tensor:
    return torch.randn(outputs, count, dtype=torch.float64) + 0.3


def simulate(t_in: Tensor, weight: Tensor, slope: float, threshold: float, end: float) -> Tensor:
    """First times at which the membrane reaches the threshold, step by step."""
    dt = 1e-3
    spiked = torch.full((len(t_in), len(weight)), INF, dtype=torch.float64)
    membrane = torch.zeros_like(spiked)
    start = -0.5
    for step in range(round((end - start) / dt)):
        now = start + step * dt
        current = (t_in <= now).to(torch.float64) @ weight.t()
        membrane += current * dt
        reached = (membrane >= threshold - slope * (now + dt)) & spiked.isinf()
        spiked[reached] = now + dt
    return spiked


@pytest.mark.parametrize("name", SISTERS)
def test_the_closed_form_is_when_the_membrane_arrives(name: str, seed: int) -> None:
    slope, threshold = SISTERS[name]
    t_in, weight = inputs(6, 8), weights(10, 8)
    exact, d = first_crossing(t_in, weight, slope=slope, threshold=threshold)
    simulated = simulate(t_in, weight, slope, threshold, end=5.0)
    both = exact.isfinite() & simulated.isfinite()
    assert both.float().mean() > 0.3
    assert bool((d[exact.isfinite()] > 0).all())
    # A step late at most for each input, and much where the threshold is only just reached.
    error = (simulated - exact)[both].abs()
    assert error.median() < 0.005
    assert error.quantile(0.9) < 0.05
    near = (exact < 4.9) != simulated.isfinite()
    assert near.float().mean() < 0.05
    if slope > 0:
        assert exact.isfinite().float().mean() > (d >= slope).float().mean() - 0.2


@pytest.mark.parametrize("latest", [INF, 3.0])
def test_the_first_row_is_our_neuron_bit_for_bit(latest: float, seed: int) -> None:
    z, weight = (2 * torch.rand(20, 9)).exp(), torch.randn(15, 9) + 0.8
    z[torch.rand(20, 9) < 0.2] = INF
    z[0, 0] = math.nan
    weight[1, 0] = INF
    ours = fire(z, weight, math.log(latest))
    for mine, theirs in zip(first_crossing(z, weight, latest=latest), ours, strict=True):
        assert torch.equal(mine.nan_to_num(nan=-1), theirs.nan_to_num(nan=-1))
    assert ours[0].isfinite().float().mean() > 0.1


@pytest.mark.parametrize("name", SISTERS)
def test_gradients_are_two_quotients(name: str, seed: int) -> None:
    slope, threshold = SISTERS[name]
    t_in, weight = inputs(4, 6).requires_grad_(), weights(5, 6).requires_grad_()
    x, d = first_crossing(t_in, weight, slope=slope, threshold=threshold)
    heard = x.isfinite()
    assert heard.float().mean() > 0.2
    chosen = torch.rand_like(x)
    by_input, by_weight = torch.autograd.grad((x * chosen)[heard].sum(), (t_in, weight))
    with torch.no_grad():
        over = torch.where(heard, chosen / torch.where(heard, d, 1), 0)
        causal = (t_in[:, None] < x[..., None]) & heard[..., None]
        ahead = torch.where(causal, t_in[:, None] - x[..., None], 0)
        assert torch.allclose(by_input, (over[..., None] * causal * weight).sum(1))
        assert torch.allclose(by_weight, torch.einsum("ro,roi->oi", over, ahead))


def test_rules_are_those_of_the_contract() -> None:
    def run(t: list[float], w: list[float], **options: float) -> float:
        row = torch.tensor([t], dtype=torch.float64)
        return first_crossing(row, torch.tensor([w], dtype=torch.float64), **options)[0].item()

    ramp = {"slope": 0.0, "threshold": 1.0}
    assert run([0, 1], [1, 5], **ramp) == 1  # reached just as the second arrives
    assert run([0, 3], [0.5, -1], **ramp) == 2
    assert run([0, 1], [0.5, -1], **ramp) == INF
    assert run([0], [0.5], **ramp, latest=1.5) == INF
    assert run([0], [0.5], **ramp, latest=2) == 2
    assert run([INF], [3], **ramp) == INF
    assert math.isnan(run([0, math.nan], [1, 1], **ramp))
    falling = {"slope": 1.0, "threshold": 2.0}
    assert run([INF], [3], **falling) == 2  # the threshold comes to the neuron
    assert run([3], [3], **falling) == 2
    assert run([1], [1], **falling) == 1.5
    assert run([], [], **falling) == 2
    assert run([], [], **ramp) == INF


@pytest.mark.parametrize(
    ("t", "options", "message"),
    [
        ([1.0], {"slope": math.nan}, "must be finite"),
        ([1.0], {"slope": 0.0, "threshold": 0.0}, "threshold must be above 0"),
        ([1.0], {"slope": -1.0, "threshold": 1.0}, "threshold must be 0"),
        ([0.0], {}, "above 0 .inf where silent.; got 0"),
        ([-INF], {"slope": 0.0, "threshold": 1.0}, "must be finite .inf where silent.; got -inf"),
    ],
)
def test_neurons_without_a_first_crossing_are_refused(
    t: list[float], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        first_crossing(torch.tensor([t]), torch.ones(1, 1), **options)
