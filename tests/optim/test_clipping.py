"""The limit on gradients."""

import math

import pytest
import torch
from torch import nn

from ttfs_fast.nn import SpikingLinear
from ttfs_fast.optim.clipping import clip_gradient_


def test_clip_scales_only_gradients_above_the_limit() -> None:
    large, small = (nn.Parameter(torch.zeros(2, 3, 2)) for _ in range(2))
    large.grad = torch.full((2, 3, 2), 100.0)
    small.grad = torch.full((2, 3, 2), 1.0)
    norm = 100 * math.sqrt(12)
    assert clip_gradient_([large, small]) == pytest.approx(norm / 2)
    assert large.grad.norm().item() == pytest.approx(2 * 10)
    assert torch.equal(large.grad, large.grad[0, 0, 0].expand(2, 3, 2))
    assert torch.equal(small.grad, torch.ones(2, 3, 2))
    assert clip_gradient_([large, small]) == pytest.approx(10)


def test_clip_takes_a_modules_bias_as_a_column_of_its_weights() -> None:
    layer = SpikingLinear(3, 2)
    layer.weight.grad = torch.full((2, 3), 30.0)
    assert layer.bias is not None
    layer.bias.grad = torch.full((2,), 40.0)
    together = math.sqrt(6 * 30**2 + 2 * 40**2)
    assert clip_gradient_(nn.Sequential(layer), 1.0) == pytest.approx(together / 2)
    both = torch.cat([layer.weight.grad.flatten(), layer.bias.grad])
    assert both.norm().item() == pytest.approx(2)
    assert (layer.bias.grad / layer.weight.grad[:, 0]).tolist() == pytest.approx([4 / 3] * 2)


def test_clip_counts_a_shared_parameter_once() -> None:
    parameter = nn.Parameter(torch.zeros(1, 4))
    parameter.grad = torch.full((1, 4), 50.0)
    assert clip_gradient_([parameter, parameter]) == 100
    assert parameter.grad.norm().item() == pytest.approx(10)


def test_clip_passes_over_parameters_without_gradient() -> None:
    model = nn.Sequential(SpikingLinear(3, 4), SpikingLinear(4, 2))
    assert clip_gradient_(model) == 0.0
    parameter = next(model.parameters())
    parameter.grad = torch.full_like(parameter, 1e4)
    assert clip_gradient_(model.parameters(), 2.0) > 2
    assert parameter.grad.norm().item() / len(parameter) == pytest.approx(2)
    assert clip_gradient_(nn.Parameter(torch.zeros(2, 2))) == 0.0


def test_clip_does_not_overflow_on_the_way() -> None:
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.full((2, 2), 1e30)
    assert clip_gradient_(parameter) == pytest.approx(1e30, rel=1e-6)
    assert parameter.grad.norm().item() == pytest.approx(20)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_gradients_raise_and_stay_unchanged(bad: float) -> None:
    first, second = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3, 2))
    first.grad = torch.full((2, 2), 1000.0)
    second.grad = torch.full((3, 2), bad)
    with pytest.raises(RuntimeError, match=r"\(3, 2\)"):
        clip_gradient_([first, second])
    assert (first.grad == 1000).all()
    returned = clip_gradient_([first, second], error_if_nonfinite=False)
    assert not math.isfinite(returned)
    assert first.grad.norm().item() == pytest.approx(20)
    assert not second.grad.isfinite().any()


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_clip_refuses_a_limit_that_is_not_positive(limit: float) -> None:
    with pytest.raises(ValueError, match="max_norm"):
        clip_gradient_([nn.Parameter(torch.zeros(1, 1))], limit)


def test_clip_mixes_dtypes() -> None:
    parameters = [nn.Parameter(torch.zeros(1, 2, dtype=d)) for d in (torch.float32, torch.float64)]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 30.0)
    assert clip_gradient_(parameters) == pytest.approx(30 * math.sqrt(2))
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.norm().item() == pytest.approx(10)


def test_norms_of_large_gradients(seed: int) -> None:
    """Taken by rows: as exact, and large values do not overflow on the way."""
    weight = torch.zeros(1024, 64, 5, 5, requires_grad=True)
    for size, limit in ((1.0, 1e-3), (1e30, 1e-3)):
        weight.grad = size * torch.randn_like(weight)
        exact = weight.grad.double().norm().item() / 1024
        assert clip_gradient_([weight], limit) == pytest.approx(exact, rel=1e-6)
        assert weight.grad.double().norm().item() / 1024 == pytest.approx(limit, rel=1e-5)
    weight.grad[3, 2, 1, 0] = math.nan
    assert math.isnan(clip_gradient_([weight], 1.0, error_if_nonfinite=False))
