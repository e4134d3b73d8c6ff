"""The benchmark's groups for GPUs, run by the interpreter at tiny sizes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ttfs_fast.bench import GPU_GROUPS, Settings, run, simple
from ttfs_fast.bench.layers import Layer


class Tiny(Layer):
    """A layer whose weights are not searched for with the operator itself, which takes minutes."""

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        space = (self.size,) * 2 if self.size else ()
        z = torch.rand(self.batch, self.inputs, *space).mul(2).exp()
        z[torch.rand_like(z) < 0.3] = torch.inf
        weight = torch.randn(self.outputs, self.inputs, *((self.kernel,) * 2 if space else ()))
        return z, torch.randn_like(z), weight.add(1).mul(3 / self.fan_in)


LAYERS = [Tiny(1, 2, 5, 4, 3, 2, 1), Tiny(3, 9, 7)]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_the_simple_algorithm_computes_the_same(layer: Layer) -> None:
    z, _, weight = layer.tensors()
    results = []
    for operator in (layer.spiking, lambda *a: simple.spiking(layer, *a)):
        leaves = [t.detach().requires_grad_() for t in (z, weight)]
        out = operator(*leaves)
        grad = torch.linspace(-1, 1, out.numel()).view_as(out)
        results.append((out.detach(), *torch.autograd.grad(out, leaves, grad)))
    ours, plain = results
    assert 0.3 < ours[0].isfinite().float().mean() < 1
    assert all(g.abs().sum() > 0 for g in ours[1:])
    for a, b in zip(plain, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_layers_of_the_gpu_group_fill_its_table(launched: list[str]) -> None:
    settings = replace(Settings.quick(1), layers=(Tiny(1, 2, 3, 2, 3, 1, 1),), repeats=1)
    (row,) = run("gpu", settings).rows
    assert set(GPU_GROUPS["gpu"].columns) <= set(row)
    assert all(row[name] for name in row if name not in ("layer", "fired"))
    assert {"sweep", "weight_gradient", "input_gradient"} <= set(launched)
