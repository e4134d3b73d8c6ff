"""Initial weights of spiking layers, in the style of :mod:`torch.nn.init`."""

import math

import torch
from torch import Tensor


def spiking_uniform_(weight: Tensor, total: float = 8.0) -> Tensor:
    """Fill a weight in place, uniformly from [0, total / fan_in], like the paper's authors.

    If all inputs of a neuron spike, their weights sum to about ``total / 2``. The neuron fires once
    the weights of its inputs sum to more than 1, so with the default it fires even if half of its
    inputs are silent.

    Parameters
    ----------
    weight : Tensor
        Shape (outputs, ...); the fan-in is the product of the other sizes.
    total : float
        Positive.

    Returns
    -------
    Tensor
        `weight`.

    Raises
    ------
    ValueError
        If `total` is not positive and finite.
    """
    if not (total > 0 and math.isfinite(total)):
        raise ValueError(f"total must be positive and finite; got {total}")
    fan_in = weight[0].numel() if weight.shape[0] else 0
    with torch.no_grad():
        return weight.uniform_(0, total / max(fan_in, 1))
