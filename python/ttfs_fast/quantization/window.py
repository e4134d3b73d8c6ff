"""Code that integer layers with and without a horizon share."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ttfs_fast.geometry import IntPair, conv_sizes
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The receptive field of a neuron within its layer's input.

    A fully connected layer is a convolution whose kernel covers its input; its flattened weights
    have this order.

    Attributes
    ----------
    inputs : tuple of int
        Channels, rows and columns: of a neuron's weights.
    stride, padding, dilation : pair of int
        Rows and columns; the padding is that at the top and left.
    output : pair of int
        Rows and columns of the output.
    """

    inputs: tuple[int, int, int]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    output: Pair = (1, 1)


def window_of(
    layer: SpikingConv2d | SpikingLinear,
    size: tuple[int, int, int],
    padding: IntPair | str = 0,
    reference: int = 0,
) -> Window:
    """The window of a layer on an input of this size.

    Parameters
    ----------
    layer : SpikingConv2d or SpikingLinear
    size : tuple of int
        Channels, rows and columns of its input.
    padding
        Of a convolution; its own, or that of its `ReferenceSpikes`.
    reference : int
        How many of the layer's inputs are reference inputs, which the integer layer does not have.

    Raises
    ------
    ValueError
        If the layer does not fit the size.
    """
    if isinstance(layer, SpikingLinear):
        if layer.in_features - reference != math.prod(size):
            raise ValueError(
                f"SpikingLinear takes {layer.in_features - reference} inputs, but what is before "
                f"it gives {math.prod(size)}, a map of {size}"
            )
        return Window(size)
    if layer.in_channels - reference != size[0]:
        raise ValueError(
            f"SpikingConv2d takes {layer.in_channels - reference} channels, but what is before it "
            f"gives {size[0]}"
        )
    stride, dilation = layer.stride, layer.dilation
    before, output = conv_sizes(
        "SpikingConv2d", size[1:], layer.kernel_size, stride, padding, dilation
    )
    channels = (layer.in_channels - reference) // layer.groups
    rows, columns = layer.kernel_size
    return Window((channels, rows, columns), stride, before, dilation, output)


def integers(values: Tensor, dtype: Any) -> Any:
    """Rounded, as a contiguous numpy array."""
    return np.ascontiguousarray(values.round().numpy().astype(dtype))
