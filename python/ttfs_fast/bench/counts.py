"""What a forward pass through a layer computes more than once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttfs_fast._native import _core
from ttfs_fast.bench.tables import Row
from ttfs_fast.geometry import conv_sizes
from ttfs_fast.layers import Layer
from ttfs_fast.neurons import neuron_of
from ttfs_fast.nn import SpikingConv2d


@dataclass(frozen=True)
class ForwardCounts:
    """Outputs and chunks of events, and those that are processed twice.

    A pixel's events are processed in chunks of 8. A chunk in which an output may spike is rescanned
    event by event. Pixels with few events have no chunks: fewer than 192, or 64 if all other inputs
    spike together after them.

    Attributes
    ----------
    outputs : int
        All outputs.
    recomputed : int
        Outputs that are computed again more accurately, because their D is small compared with the
        rounding error of its sum.
    chunks : int
        Pairs of a chunk and an output. The outputs of a block of weights are padded to a multiple
        of 16, and count with their padding.
    rescanned : int
        Pairs that are rescanned. The outputs of a vector, 2 to 8, are rescanned together, and all
        of them count.
    """

    outputs: int = 0
    recomputed: int = 0
    chunks: int = 0
    rescanned: int = 0

    def __add__(self, other: "ForwardCounts") -> "ForwardCounts":
        return ForwardCounts(
            self.outputs + other.outputs,
            self.recomputed + other.recomputed,
            self.chunks + other.chunks,
            self.rescanned + other.rescanned,
        )

    def fractions(self) -> Row:
        """Fractions of the outputs and of the chunks; None where there are none."""
        return {
            "recomputed": self.recomputed / self.outputs if self.outputs else None,
            "rescanned": self.rescanned / self.chunks if self.chunks else None,
        }


@torch.no_grad()
def count_forward(layer: Layer, z: Tensor) -> ForwardCounts:
    """Count what a forward pass computes more than once, with the instruction set in use.

    Parameters
    ----------
    layer : SpikingLinear or SpikingConv2d
        On the CPU.
    z : Tensor
        Spike values (or times) of its inputs, (N, features) or (N, C, H, W).
    """
    weight, bias = layer.weight.detach(), layer.bias
    padding, size = (0, 0), (1, 1)
    steps, holes, groups = (1, 1), (1, 1), 1
    if isinstance(layer, SpikingConv2d):
        steps, holes, groups = layer.stride, layer.dilation, layer.groups
        rows, columns = z.shape[2:]
        padding, size = conv_sizes(
            "count_forward", (rows, columns), layer.kernel_size, steps, layer.padding, holes
        )
    else:
        z, weight = z[:, :, None, None], weight[:, :, None, None]
    out = z.new_empty(len(z), len(weight), *size)
    slope = z.new_empty(len(z), *size, len(weight))
    counts = np.zeros(3, np.int64)
    kind = neuron_of(layer.neuron)
    _core.conv2d_forward(
        _array(z),
        _array(weight.contiguous()),
        None if bias is None else _array(bias.contiguous()),
        steps,
        padding,
        holes,
        groups,
        layer.t_max,
        _array(out),
        _array(slope),
        torch.get_num_threads(),
        kind.slope,
        kind.threshold,
        counts=counts,
    )
    return ForwardCounts(out.numel(), *counts.tolist())


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()
