import pytest
import torch
from torch import nn

from ttfs_fast.nn import SpikingConv2d, SpikingLinear
from ttfs_fast.training.centring import hold_sums_, project_gradients_, start_centred_

Layers = list[SpikingLinear | SpikingConv2d]


def some_layers() -> Layers:
    return [
        SpikingConv2d(1, 4, 3, dtype=torch.float64),
        SpikingConv2d(5, 6, 3, dtype=torch.float64),
        SpikingLinear(30, 7, dtype=torch.float64),
        SpikingLinear(20, 3, bias=False, dtype=torch.float64),
    ]


def assert_sums(layers: Layers, total: float) -> None:
    for layer in layers:
        sums = layer.weight.flatten(1).sum(1)
        torch.testing.assert_close(sums, torch.full_like(sums, total))
    taps = layers[1].weight.sum(1)
    torch.testing.assert_close(taps, torch.full_like(taps, total / 9))


def test_start(seed: int) -> None:
    layers = some_layers()
    start_centred_(layers, 4.0, 2.0)
    assert_sums(layers, 4.0)
    for index in (0, 2, 3):  # the taps of several channels are centred once more
        weight = layers[index].weight.flatten(1)
        norms = (weight - weight.mean(1, keepdim=True)).norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, 2.0))
    for layer in layers:
        assert layer.weight.std(dim=0).min() > 0  # neurons differ
        assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_it_is_adam_in_the_parametrisation(seed: int, decay: float) -> None:
    """Projected gradients and held sums against w = v - mean(v) + total / fan_in itself."""
    total = 3.0
    layers = some_layers()
    start_centred_(layers, total, 1.0)
    dims = [(1, 2, 3), (1,), (1,), (1,)]
    raw = [
        (
            layer.weight.detach()
            + torch.randn(layer.weight.shape[0], *[1] * (layer.weight.dim() - 1))
        )
        .clone()
        .requires_grad_()
        for layer in layers
    ]

    def weight_of(v: torch.Tensor, over: tuple[int, ...]) -> torch.Tensor:
        return v - v.mean(over, keepdim=True) + total / v[0].numel()

    direct = torch.optim.AdamW([layer.weight for layer in layers], lr=0.01, weight_decay=decay)
    parametrised = torch.optim.AdamW(raw, lr=0.01, weight_decay=decay)
    for _ in range(20):
        slopes = [torch.randn_like(layer.weight) + 1 for layer in layers]
        for layer, slope in zip(layers, slopes, strict=True):
            layer.weight.grad = slope.clone()
        project_gradients_(layers)
        direct.step()
        hold_sums_(layers, total)
        parametrised.zero_grad()
        for v, over, slope in zip(raw, dims, slopes, strict=True):
            (weight_of(v, over) * slope).sum().backward()
        parametrised.step()
    assert_sums(layers, total)
    for layer, v, over in zip(layers, raw, dims, strict=True):
        torch.testing.assert_close(layer.weight.detach(), weight_of(v, over).detach())


def test_layers_without_gradient_are_passed_over() -> None:
    layers = some_layers()
    project_gradients_(layers)
    assert all(layer.weight.grad is None for layer in layers)
    assert all(isinstance(layer.weight, nn.Parameter) for layer in layers)
