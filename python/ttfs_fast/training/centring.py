"""Weights whose sum stays what it is.

All inputs of a neuron's causal set spike before it does, so in dz_j/dw_ji = (z_i - z_j) / D_j every
factor z_i - z_j is negative: the gradients of a neuron's weights share a sign. An optimizer that
gives every weight a step of the same size, as Adam does, spends its steps on the sum of the
weights, which moves the neuron's spike earlier or later and tells nothing apart. Here the sum is
taken out: gradients are projected onto changes that keep it, and it is put back after each step.

This is Adam on v in the parametrisation w = v - mean(v) + total / fan_in. Nothing remains of it in
the trained network.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ttfs_fast.nn import SpikingConv2d, SpikingLinear, centred_normal_

Layers = Iterable[SpikingLinear | SpikingConv2d]


def start_centred_(layers: Layers, total: float, spread: float) -> None:
    """Give layers their first weights: normal, of the same sum for every neuron.

    Parameters
    ----------
    layers : iterable of SpikingLinear or SpikingConv2d
        Their biases become 0.
    total : float
        Sum of each neuron's weights; above 1, or it does not fire.
    spread : float
        Norm of the deviations of a neuron's weights from their mean.
    """
    for layer in layers:
        centred_normal_(layer.weight, total, spread)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    hold_sums_(layers, total)


@torch.no_grad()
def project_gradients_(layers: Layers) -> None:
    """Take out of each weight's gradient what would change its neuron's sums."""
    for layer in layers:
        if layer.weight.grad is not None:
            _centre_(layer.weight.grad, 0.0)


@torch.no_grad()
def hold_sums_(layers: Layers, total: float) -> None:
    """Shift each neuron's weights so that they sum to ``total``.

    In a convolution over several channels the weights of each tap of the kernel sum to its share
    of ``total``: a neuron at the border, where padding leaves taps silent, then keeps the share of
    the taps that remain.
    """
    for layer in layers:
        fan_in = layer.weight[0].numel()
        _centre_(layer.weight, total / max(fan_in, 1))


def _centre_(values: Tensor, mean: float) -> None:
    taps = values.dim() == 4 and values.shape[1] > 1
    inputs = 1 if taps else tuple(range(1, values.dim()))
    values -= values.mean(inputs, keepdim=True) - mean
