"""Losses on spike times: each case by its rule, gradients, silence, and a regression."""

import math

import pytest
import torch
from torch import Tensor, fx, nn

import ttfs_fast
from ttfs_fast.nn import SpikingConv2d, SpikingLinear
from ttfs_fast.optim.clipping import clip_gradient_
from ttfs_fast.time_loss import TimeReadout, first_spike_mse, silence_cost

INF = math.inf


def test_every_case_has_its_rule() -> None:
    cases = [  # time, target, loss with a tolerance of 0.5 and silence at 8
        (2.0, 2.4, 0.0),
        (2.0, 4.0, 1.5**2),
        (4.0, 2.0, 1.5**2),
        (9.0, 8.0, 0.5**2),  # a late spike keeps its time
        (INF, 6.0, 1.5**2),
        (INF, 8.0, 0.0),
        (5.0, INF, 2.5**2),
        (7.8, INF, 0.0),
        (9.0, INF, 0.0),
        (INF, INF, 0.0),
    ]
    times, targets, expected = torch.tensor(cases, dtype=torch.float64).T
    z = times.exp().requires_grad_()
    losses = first_spike_mse(z, targets, tolerance=0.5, max_time=8, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-12)
    for reduction in ("mean", "sum"):
        whole = first_spike_mse(z, targets, tolerance=0.5, max_time=8, reduction=reduction)
        assert torch.allclose(whole, getattr(losses, reduction)())
    (grad,) = torch.autograd.grad(losses.sum(), z)
    signs = torch.tensor([0, -1, 1, 1, 0, 0, -1, 0, 0, 0], dtype=torch.float64)
    assert torch.equal(grad.sign(), signs)
    nothing = torch.ones(0, 3)
    assert first_spike_mse(nothing, nothing, reduction="sum") == 0


def test_gradients_of_the_squared_error(seed: int) -> None:
    z = (1 + 4 * torch.rand(4, 5, dtype=torch.float64)).exp().requires_grad_()
    target = 1 + 4 * torch.rand(4, 5, dtype=torch.float64)
    target[0] = INF
    assert torch.autograd.gradcheck(lambda v: first_spike_mse(v, target, tolerance=0.3), (z,))
    with torch.no_grad():
        z[1] = INF
    (grad,) = torch.autograd.grad(first_spike_mse(z, target, tolerance=0.3), z)
    assert bool((grad[1] == 0).all())
    assert bool(grad.isfinite().all())
    assert grad.ne(0).float().mean() > 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.zeros(3)}, "spike values are exp"),
        ({"target": torch.zeros(2)}, r"one shape; got \(3,\) and \(2,\)"),
        ({"target": torch.full((3,), math.nan)}, "got nan"),
        ({"target": torch.full((3,), -INF)}, "got -inf"),
        ({"target": torch.full((3,), 11.0)}, "up to max_time=10.*got 11"),
        ({"tolerance": -1.0}, "tolerance must be"),
        ({"max_time": INF}, "max_time must be finite"),
        ({"reduction": "median"}, "'mean', 'sum', 'none'; got 'median'"),
    ],
)
def test_squared_error_rejects_invalid_arguments(change: dict, message: str) -> None:
    given = {"z": torch.ones(3), "target": torch.ones(3)} | change
    with pytest.raises(ValueError, match=message):
        first_spike_mse(**given)


def test_squared_error_rejects_other_types() -> None:
    with pytest.raises(TypeError, match=r"target must be float32 or float64; got torch\.int64"):
        first_spike_mse(torch.ones(3), torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="convert one of them"):
        first_spike_mse(torch.ones(3), torch.ones(3, dtype=torch.float64))


def test_fx_records_the_squared_error() -> None:
    recorded = fx.symbolic_trace(lambda z, target: first_spike_mse(z, target, tolerance=0.1))
    z, target = torch.rand(4, 2).add(1), torch.rand(4, 2)
    assert torch.equal(recorded(z, target), first_spike_mse(z, target, tolerance=0.1))


@pytest.mark.parametrize("readout", [TimeReadout(1, -1, 2, 4), TimeReadout(0, 5, 0, 3, silent=9)])
def test_readout_maps_times_and_values_both_ways(readout: TimeReadout, seed: int) -> None:
    values = torch.linspace(-2, 7, 10, dtype=torch.float64)  # also beyond the two points
    z = readout.times(values).exp().requires_grad_()
    assert torch.allclose(readout(z), values)
    assert torch.autograd.gradcheck(readout, (z,))
    edges = torch.tensor([readout.first_time, readout.last_time]).exp()
    assert torch.allclose(readout(edges), torch.tensor([readout.first, readout.last]))
    silent = readout(torch.tensor([INF]))
    assert torch.equal(silent.isnan(), torch.tensor([math.isnan(readout.silent)]))
    assert math.isnan(readout.silent) or silent == readout.silent
    assert "tau" in repr(readout)


def test_readout_is_the_inverse_of_the_encoding() -> None:
    pixels = torch.linspace(0, 1, 11)
    readout = TimeReadout(first=1.0, last=0.0, first_time=0.0, last_time=3.0)
    assert torch.allclose(readout(ttfs_fast.encoding.encode(pixels[None], 3.0)), pixels, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, 1, 0, 3), "must differ"),
        ((1, 0, 3, 3), "before last_time"),
        ((1, 0, 4, 3), "before last_time"),
        ((1, math.nan, 0, 3), "must be finite"),
        ((1, 0, 0, INF), "must be finite"),
    ],
)
def test_readout_rejects_invalid_arguments(given: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeReadout(*given)


LAYERS = {
    "linear": (lambda: SpikingLinear(6, 8), (40, 6)),
    "conv": (lambda: SpikingConv2d(2, 3, 3, padding=1), (4, 2, 6, 6)),
    "same, groups": (
        lambda: SpikingConv2d(2, 4, 2, stride=2, padding="same", groups=2),
        (3, 2, 7, 7),
    ),
    "dilation, no bias": (lambda: SpikingConv2d(2, 3, 3, dilation=2, bias=False), (3, 2, 7, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_silence_cost_is_the_missing_weight(name: str, seed: int) -> None:
    make, shape = LAYERS[name]
    layer = make()
    with torch.no_grad():
        layer.weight.mul_(0.35)  # none is negative: neurons spike if they hear more than 1
    z = (2 * torch.rand(shape)).exp().masked_fill(torch.rand(shape) < 0.4, INF)
    out = layer(z)
    silent = out.isinf()
    assert silent.float().mean() > 0.1
    costs = silence_cost(layer, z, out, reduction="none")
    assert torch.equal(costs > 0, silent)
    if name == "linear":
        sums = z.isfinite().float() @ layer.weight.detach().T
        assert torch.allclose(costs, torch.where(silent, 1.1 - sums, 0), atol=1e-6)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        cost = silence_cost(layer, z, layer(z), reduction="sum")
        cost.backward()
        assert bool(layer.weight.grad.le(0).all())
        optimizer.step()
    # With a bias every neuron spikes now; without, those that hear anything at all.
    deaf = silence_cost(layer, z, layer(z), reduction="none") > 1
    assert torch.equal(layer(z).isinf(), deaf)
    assert not deaf.all()
    assert layer.bias is None or not deaf.any()


def test_targets_of_inf_may_stay_silent() -> None:
    layer = SpikingLinear(2, 2)
    nn.init.constant_(layer.weight, 0.2)
    z = torch.ones(1, 2)
    out = layer(z)
    assert out.isinf().all()
    target = torch.tensor([[2.0, INF]])
    costs = silence_cost(layer, z, out, target, margin=0.0, reduction="none")
    assert torch.allclose(costs, torch.tensor([[0.6, 0.0]]))
    for reduction in ("mean", "sum"):
        cost = silence_cost(layer, z, out, target, margin=0.0, reduction=reduction)
        assert torch.allclose(cost, getattr(costs, reduction)())


def test_silence_cost_rejects_invalid_arguments() -> None:
    layer, z = SpikingLinear(2, 3), torch.ones(1, 2)
    out = layer(z)
    with pytest.raises(TypeError, match="got Linear"):
        silence_cost(nn.Linear(2, 3), z, out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the layer gives \(1, 3\).*got \(1, 2\)"):
        silence_cost(layer, z, z)
    with pytest.raises(ValueError, match=r"with 2 features; got \(1, 3\)"):
        silence_cost(layer, out, out)
    with pytest.raises(ValueError, match=r"with 2 channels; got \(3, 5, 5\)"):
        silence_cost(SpikingConv2d(2, 3, 3), torch.ones(3, 5, 5), out)
    with pytest.raises(ValueError, match=r"and \(1, 2\)"):
        silence_cost(layer, z, out, z)
    with pytest.raises(ValueError, match="margin must be"):
        silence_cost(layer, z, out, margin=-1)
    with pytest.raises(ValueError, match="got 'median'"):
        silence_cost(layer, z, out, reduction="median")  # type: ignore[arg-type]


def fit(start: float) -> tuple[Tensor, Tensor]:
    """Spikes that are to tell x**2: errors before and after training, and what was silent."""
    torch.manual_seed(0)
    x = torch.linspace(0, 1, 64)[:, None]
    z = torch.cat([x, 1 - x], 1).mul(2).exp()
    readout = TimeReadout(first=0.0, last=1.0, first_time=2.5, last_time=3.5)
    target = readout.times(x**2)
    hidden, last = SpikingLinear(2, 30), SpikingLinear(30, 1)
    for layer in (hidden, last):
        with torch.no_grad():
            layer.weight.mul_(start)
    model = nn.Sequential(hidden, last)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    errors = []
    for _ in range(200):
        optimizer.zero_grad()
        between = hidden(z)
        out = last(between)
        loss = first_spike_mse(out, target)
        (loss + silence_cost(hidden, z, between) + silence_cost(last, between, out)).backward()
        clip_gradient_(model)
        optimizer.step()
        errors.append((readout(out.detach()) - x**2).abs().nan_to_num(nan=9).mean())
    return errors[0], errors[-1]


@pytest.mark.parametrize("start", [1.0, 0.02])  # the second begins in silence
def test_a_regression_learns(start: float) -> None:
    before, after = fit(start)
    assert (before == 9) == (start < 0.1)
    assert after < 0.05
