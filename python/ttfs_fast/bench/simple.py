"""The simple algorithm on a GPU, to compare with: sort every receptive field, walk every output.

As in the TensorFlow code of the paper's authors: all receptive fields are copied, each is sorted by
itself, and every output goes through its field event by event. Its gradients walk the same way and
add up by atomic operations. Needs Triton.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ttfs_fast.bench import simple_kernels as kernels
from ttfs_fast.bench.layers import Layer
from ttfs_fast.gpu.layers import launch, on_device

LANES = 128
"""Outputs of a program."""


class _Simple(torch.autograd.Function):
    """Outputs (fields, outputs) of fields (fields, inputs) and weights (inputs, outputs)."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor, weights: Tensor) -> Tensor:
        times, order = torch.sort(fields, dim=1)
        z, slopes = (fields.new_empty(len(fields), weights.shape[1]) for _ in range(2))
        sizes = (fields.shape[1], weights.shape[1])
        with on_device(fields):
            launch(kernels.walk, _grid(z), times, order, weights, z, slopes, *sizes, LANES=LANES)
        ctx.save_for_backward(times, order, weights, z, slopes)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:
        times, order, weights, z, slopes = ctx.saved_tensors
        grad_fields, grad_weights = torch.zeros_like(times), torch.zeros_like(weights)
        with on_device(times):
            launch(
                kernels.walk_back, _grid(z),
                times, order, weights, z, slopes, grads[0].contiguous(), grad_fields, grad_weights,
                times.shape[1], weights.shape[1], LANES=LANES,
            )  # fmt: skip
        return grad_fields, grad_weights


def _grid(z: Tensor) -> tuple[int, int]:
    return len(z), -(-z.shape[1] // LANES)


def spiking(layer: Layer, z: Tensor, weight: Tensor) -> Tensor:
    """What `Layer.spiking` computes, by the simple algorithm; differentiable.

    Parameters
    ----------
    layer : Layer
        Shapes of the layer.
    z, weight : Tensor
        As for `Layer.spiking`.
    """
    weights = weight.flatten(1).t().contiguous()
    if not layer.size:
        return _apply(z, weights)
    padded = F.pad(z, (layer.padding,) * 4, value=torch.inf)
    fields = F.unfold(padded, layer.kernel, stride=layer.stride).transpose(1, 2)
    out = _apply(fields.flatten(0, 1).contiguous(), weights)
    side = (padded.shape[-1] - layer.kernel) // layer.stride + 1
    return out.view(len(z), side, side, layer.outputs).permute(0, 3, 1, 2)


def _apply(fields: Tensor, weights: Tensor) -> Tensor:
    out: Tensor = _Simple.apply(fields, weights)  # type: ignore[no-untyped-call]
    return out
