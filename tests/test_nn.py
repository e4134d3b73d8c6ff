import copy
import io
import math
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ttfs_fast
from support.spikes import random_spikes
from ttfs_fast.init import spiking_uniform_
from ttfs_fast.nn import (
    SpikingConv2d,
    SpikingLinear,
    SpikingMaxPool2d,
)

INF = math.inf

PAIRS = [
    (SpikingLinear(7, 5), nn.Linear(7, 5)),
    (SpikingLinear(7, 5, bias=False), nn.Linear(7, 5, bias=False)),
    (SpikingConv2d(4, 6, 3), nn.Conv2d(4, 6, 3)),
    (SpikingConv2d(4, 6, (3, 5), 2, 1, 2, 2, False), nn.Conv2d(4, 6, (3, 5), 2, 1, 2, 2, False)),
    (SpikingConv2d(4, 6, 3, padding="same"), nn.Conv2d(4, 6, 3, padding="same")),
]


spikes = partial(random_spikes, silent=0.3)


@pytest.mark.parametrize(("ours", "torchs"), PAIRS, ids=lambda m: repr(m))
def test_parameters_and_text_are_those_of_torch(ours: nn.Module, torchs: nn.Module) -> None:
    state = ours.state_dict()
    expected = torchs.state_dict()
    assert list(state) == list(expected)
    assert [t.shape for t in state.values()] == [t.shape for t in expected.values()]
    assert ours.extra_repr() == torchs.extra_repr()
    assert (ours.bias is None) == (torchs.bias is None)
    ours.load_state_dict(expected)
    assert torch.equal(ours.weight, torchs.weight)
    torchs.load_state_dict(ours.state_dict())


def test_pool_text_and_output_are_those_of_torch() -> None:
    arguments = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": True}
    ours, torchs = SpikingMaxPool2d(**arguments), nn.MaxPool2d(**arguments)
    assert ours.extra_repr() == torchs.extra_repr()
    z = spikes(2, 3, 9, 10)
    assert torch.equal(ours(z), -torchs(-z))
    assert list(ours.state_dict()) == []
    assert SpikingMaxPool2d(2).stride == nn.MaxPool2d(2).stride == 2


def test_horizon_shows_in_the_text() -> None:
    assert "t_max=3.5" in repr(SpikingLinear(2, 2, t_max=3.5))
    assert "t_max=3.5" in repr(SpikingConv2d(2, 2, 1, t_max=3.5))
    assert "t_max" not in repr(SpikingLinear(2, 2))


@pytest.mark.parametrize("bias", [True, False])
def test_modules_call_the_functions(seed: int, bias: bool) -> None:
    linear = SpikingLinear(12, 5, bias, t_max=1.5)
    if bias:
        nn.init.uniform_(linear.bias, -0.5, 0.5)
    z = spikes(40, 12)
    out = linear(z)
    assert 0 < out.isfinite().float().mean() < 1
    expected = ttfs_fast.spiking_linear(z, linear.weight, linear.bias, t_max=1.5)
    assert torch.equal(out, expected)
    conv = SpikingConv2d(4, 6, (3, 2), (2, 1), "same", 2, 2, bias, t_max=1.5)
    z = spikes(2, 4, 9, 8)
    out = conv(z)
    assert 0 < out.isfinite().float().mean() < 1
    expected = ttfs_fast.spiking_conv2d(z, conv.weight, conv.bias, (2, 1), "same", 2, 2, t_max=1.5)
    assert torch.equal(out, expected)
    out.masked_fill(out == INF, 0).sum().backward()
    assert conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device(dtype: torch.dtype) -> None:
    for layer in (SpikingLinear(3, 2, dtype=dtype), SpikingConv2d(3, 2, 1, dtype=dtype)):
        assert {p.dtype for p in layer.parameters()} == {dtype}
        assert {p.dtype for p in layer.double().parameters()} == {torch.float64}
    meta = SpikingConv2d(3, 2, 1, device="meta", dtype=dtype)
    assert meta.weight.is_meta
    assert meta.weight.dtype == dtype
    real = meta.to_empty(device="cpu")
    real.reset_parameters()
    assert real.weight.isfinite().all()


def test_reset_parameters_is_the_documented_start(seed: int) -> None:
    layer = SpikingConv2d(16, 32, 5)
    nn.init.constant_(layer.weight, -7)
    nn.init.constant_(layer.bias, -7)
    layer.reset_parameters()
    top = 8 / (16 * 25)
    assert layer.weight.min() >= 0
    assert 0.99 * top < layer.weight.max() <= top
    assert layer.weight.mean().item() == pytest.approx(top / 2, rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize("inputs", [25, 64, 1000])
def test_initialized_neurons_fire(seed: int, inputs: int) -> None:
    weight = torch.empty(200, inputs)
    assert spiking_uniform_(weight) is weight
    everything = ttfs_fast.spiking_linear(spikes(20, inputs, silent=0), weight)
    assert everything.isfinite().float().mean() > 0.98
    half = ttfs_fast.spiking_linear(spikes(20, inputs, silent=0.5), weight)
    assert half.isfinite().float().mean() > 0.6


def test_initialization_refuses_a_total_that_is_not_positive() -> None:
    for total in (0.0, -1.0, INF, math.nan):
        with pytest.raises(ValueError, match=r"total must be positive and finite; got"):
            spiking_uniform_(torch.empty(2, 2), total)
    assert spiking_uniform_(torch.empty(0, 3)).shape == (0, 3)
    assert spiking_uniform_(torch.empty(3, 0)).shape == (3, 0)


@pytest.mark.parametrize("layer", [SpikingLinear(9, 4, t_max=2.0), SpikingConv2d(1, 4, 3)])
def test_copies_compute_the_same(seed: int, layer: nn.Module) -> None:
    z = spikes(6, 9) if isinstance(layer, SpikingLinear) else spikes(6, 1, 5, 5)
    expected = layer(z)
    assert expected.isfinite().any()
    saved = io.BytesIO()
    torch.save(layer.state_dict(), saved)
    saved.seek(0)
    loaded = copy.deepcopy(layer)
    nn.init.zeros_(loaded.weight)
    loaded.load_state_dict(torch.load(saved, weights_only=True))
    again = pickle.Unpickler(io.BytesIO(pickle.dumps(layer))).load()
    for other in (copy.deepcopy(layer), again, loaded):
        assert torch.equal(other(z), expected)
        assert repr(other) == repr(layer)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"in_channels \(3\).*divisible by groups \(2\)"):
        SpikingConv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="groups"):
        SpikingConv2d(3, 4, 3, groups=0)
    with pytest.raises(ValueError, match="out_features is -1"):
        SpikingLinear(3, -1)
    with pytest.raises(ValueError, match="t_max is NaN"):
        SpikingLinear(3, 3, t_max=math.nan)


def test_small_network_learns_target_spike_times(seed: int) -> None:
    net = nn.Sequential(
        SpikingConv2d(1, 8, 3, padding="same"),
        SpikingMaxPool2d(2),
        nn.Flatten(),
        SpikingLinear(8 * 16, 3),
    )
    images = spikes(32, 1, 8, 8, silent=0.2)
    wanted = net(images).detach().log().mean(0) * torch.tensor([0.8, 0.7, 0.9])
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        out = net(images)
        assert out.isfinite().float().mean() > 0.9
        loss = (out.log().clamp(max=5) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("two", "three"),
    [
        (np.int64(2), np.int64(3)),
        (np.uint8(2), np.int8(3)),
        (np.array([2, 2]), np.array([3, 3])),
        ((np.int64(2), 2), [np.int32(3)]),
    ],
    ids=["int64", "bytes", "arrays", "pairs"],
)
def test_sizes_may_be_numpy_s_numbers(two: Any, three: Any, seed: int) -> None:
    z = torch.rand(2, 4, 9, 9).exp()
    whole = np.int64(4)
    conv = SpikingConv2d(whole, whole, three, two, three, two, groups=np.int64(2))
    same = SpikingConv2d(4, 4, 3, 2, 3, 2, groups=2)
    same.load_state_dict(conv.state_dict())
    pool = SpikingMaxPool2d(three, two, padding=np.int64(1), ceil_mode=np.bool_(True))
    plain = SpikingMaxPool2d(3, 2, padding=1, ceil_mode=True)
    dense = SpikingLinear(whole, np.int64(5), t_max=np.float32(2.5))
    assert torch.equal(conv(z), same(z))
    assert torch.equal(pool(z), plain(z))
    assert dense(torch.ones(3, 4)).shape == (3, 5)
    assert repr(conv) == repr(same)
    for module in (conv, pool, dense):
        assert "np." not in repr(module)
        assert {type(value).__module__ for value in module.__dict__.values()} <= {
            "builtins",
            "collections",
        }
    weight = conv.weight
    expected = ttfs_fast.spiking_conv2d(z, weight, None, 2, 3, 2, 2)
    assert torch.equal(
        ttfs_fast.spiking_conv2d(z, weight, None, two, three, two, np.int64(2)), expected
    )  # type: ignore[arg-type]
    assert torch.equal(
        ttfs_fast.spiking_max_pool2d(z, three, two), ttfs_fast.spiking_max_pool2d(z, 3, 2)
    )


def test_sizes_that_are_not_whole_are_refused() -> None:
    z = torch.rand(1, 1, 8, 8).exp()
    for size in (2.5, np.float64(2), (2, 2.5)):
        with pytest.raises(TypeError, match=r"kernel_size is .*; it must be a whole number or two"):
            ttfs_fast.spiking_max_pool2d(z, size)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a size is one whole number or two; got"):
            SpikingConv2d(1, 1, size)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one whole number or two; got \(2, 2, 2\)"):
        SpikingConv2d(1, 1, (2, 2, 2))


def test_unknown_padding_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match='padding must be "valid", "same" or numbers; got \'foo\''):
        SpikingConv2d(1, 1, 3, padding="foo")
