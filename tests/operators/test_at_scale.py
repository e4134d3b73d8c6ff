"""A small version of tests/operators/at_scale.py, which checks 200,000 neurons."""

import math

import pytest
import torch
from at_scale import FAMILIES, NEURONS, TOLERANCE, Draw, draws, judge, kind, run

import ttfs_fast
from ttfs_fast import reference


def test_every_disagreement_is_explained(seed: int) -> None:
    count = len(FAMILIES) * NEURONS
    results = run(count, seed)
    assert {isa for isa, _ in results} == set(ttfs_fast.instruction_sets())
    for found in results.values():
        assert found.counts.total() == count
        assert found.counts["unexplained"] == 0, found
        assert 0.25 * count < found.spiking < count


def test_neurons_at_the_threshold_differ_from_wrong_ones() -> None:
    """F just reaches 0 at the second input, so only there rounding may change the result."""
    inputs = torch.tensor([[1.0, 2.0, 4.0]])
    weights = torch.tensor([[2.0, -5.0, 0.0]])
    exact = torch.tensor(2.0, dtype=torch.float64)
    slope = torch.tensor(1.0, dtype=torch.float64)
    eps = torch.finfo(torch.float32).eps

    def judged(z: float) -> str:
        return kind(inputs, weights, torch.tensor(z), exact, slope, eps, math.inf)

    assert judged(math.inf) == "near tie"
    for wrong in (1.9, 2.1, 3.0, math.nan):
        assert judged(wrong) == "unexplained"
    flat = torch.tensor([[0.5, 0.5 + 1e-4]])
    times = torch.tensor([[1.0, 1.5]])
    z, d = reference.fire(times.double(), flat.double())
    off = (z[0, 0] * (1 + 2e-4)).float()
    assert kind(times, flat, off, z[0, 0], d[0, 0], eps, math.inf) == "small D"
    far = (z[0, 0] * 1.1).float()
    assert kind(times, flat, far, z[0, 0], d[0, 0], eps, math.inf) == "unexplained"


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_wrong_kernels_are_detected(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    import at_scale

    right = at_scale.spiking_linear

    def wrong(inputs: torch.Tensor, weights: torch.Tensor, **more: float) -> torch.Tensor:
        out = right(inputs, weights, **more)
        out[0, 0] *= 1.001
        return out

    monkeypatch.setattr(at_scale, "spiking_linear", wrong)
    draw: Draw = next(d for d in draws(1) if right(d.inputs, d.weights)[0, 0].isfinite())
    assert judge(draw, dtype).counts["unexplained"] == 1
