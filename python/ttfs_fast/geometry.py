"""Sizes of convolutions and pools: outputs along an axis, and taps inside the input."""

import math
from collections.abc import Sequence

import numpy as np

IntPair = int | Sequence[int]

_OF_NUMPY = (np.ndarray, np.generic)  # torch.compile does not follow a union of the two


def whole_numbers(value: IntPair) -> list[int]:
    """A size as it is given, one number or several, as a list of Python's numbers.

    Numpy's own count too: ``np.int64(2)``, a tuple of them, an array.
    """
    if isinstance(value, _OF_NUMPY):
        value = value.tolist()
    # Not "is it a number": torch.export has symbols in place of some.
    numbers = list(value) if isinstance(value, Sequence) else [value]
    return [number.item() if isinstance(number, np.generic) else number for number in numbers]


def pair(value: IntPair) -> tuple[int, int]:
    """One whole number or two, as two."""
    both = whole_numbers(value)
    if len(both) == 1:
        both *= 2
    if len(both) != 2:
        raise ValueError(f"a size is one whole number or two; got {value}")
    if any(isinstance(number, float) for number in both):
        raise TypeError(f"a size is one whole number or two; got {value}")
    return both[0], both[1]


def checked_pair(name: str, what: str, value: IntPair, least: int) -> tuple[int, int]:
    """One whole number or two, as two, of at least ``least``.

    Raises
    ------
    RuntimeError, TypeError
        If they are others; ``name`` and ``what`` say of what.
    """
    both = whole_numbers(value)
    if any(isinstance(number, float) for number in both):
        raise TypeError(f"{name}: {what} is {value}; it must be a whole number or two")
    if len(both) == 1:
        both *= 2
    if len(both) != 2:
        raise RuntimeError(f"{name}: {what} is {value}; it must be one number or two")
    if min(both) < least:
        raise RuntimeError(f"{name}: {what} is {value}; it must be at least {least}")
    return both[0], both[1]


def conv_axis(
    size: int, kernel: int, stride: int, padding: int | str, dilation: int = 1
) -> tuple[int, int]:
    """Outputs of a convolution along one axis, and the padding before the first input.

    ``"same"`` gives ceil(size / stride) outputs, the odd row of padding at the end, as
    :func:`ttfs_fast.spiking_conv2d` has it.
    """
    if padding == "same":
        out = -(-size // stride)
        return out, max((out - 1) * stride + dilation * (kernel - 1) + 1 - size, 0) // 2
    before = 0 if isinstance(padding, str) else padding
    return (size + 2 * before - dilation * (kernel - 1) - 1) // stride + 1, before


def conv_sizes(
    name: str,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: IntPair | str,
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding at the top and left of a convolution, and its output size.

    Parameters
    ----------
    name : str
        Of the operator, for messages.
    size, kernel, stride, dilation : tuple of int
        Rows and columns.
    padding : int, pair of int, "same" or "valid"
        As for :func:`ttfs_fast.spiking_conv2d`.

    Raises
    ------
    RuntimeError, TypeError
        If the padding is not valid, or the input is smaller than the kernel.
    """
    pads: tuple[int | str, int | str]
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise RuntimeError(
                f'{name}: padding is "{padding}"; it must be a number, a pair, "same" or "valid"'
            )
        pads = ("same", "same") if padding == "same" else (0, 0)
    else:
        pads = checked_pair(name, "padding", padding, 0)
    (rows, top), (columns, left) = (
        conv_axis(size[i], kernel[i], stride[i], pads[i], dilation[i]) for i in (0, 1)
    )
    if pads[0] != "same" and min(rows, columns) < 1:
        raise RuntimeError(
            f"{name}: an input of {size[0]} x {size[1]} with padding {pads} is smaller than the "
            f"kernel {kernel} with dilation {dilation}"
        )
    return (top, left), (rows, columns)


def pool_axis(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Outputs of a pool along one axis, as :func:`torch.nn.functional.max_pool2d` counts them."""
    room = size + 2 * padding - kernel
    out = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (out - 1) * stride >= size + padding:
        out -= 1
    return out


def taps_inside(
    size: int, kernel: int, stride: int, padding: int | str, dilation: int = 1
) -> list[int]:
    """For each output along one axis, the taps of its kernel that lie on an input."""
    out, before = conv_axis(size, kernel, stride, padding, dilation)
    return [
        sum(0 <= o * stride - before + k * dilation < size for k in range(kernel))
        for o in range(out)
    ]


def tap_fractions(
    size: Sequence[int],
    kernel: IntPair,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
) -> tuple[float, float]:
    """Fraction of a convolution's taps that lie on an input: mean over the outputs, and least.

    The others lie on padding, which is silent.

    Parameters
    ----------
    size : pair of int
        Height and width of the input.
    kernel, stride, padding, dilation
        As :func:`ttfs_fast.spiking_conv2d`.

    Returns
    -------
    mean, least : float
        Between 0 and 1; 1 without padding.
    """
    size, kernels, steps, holes = pair(size), pair(kernel), pair(stride), pair(dilation)
    pads: tuple[int | str, int | str]
    pads = (padding, padding) if isinstance(padding, str) else pair(padding)
    inside = [
        taps_inside(size[axis], kernels[axis], steps[axis], pads[axis], holes[axis])
        for axis in range(2)
    ]
    counts = [len(axis) for axis in inside]
    if 0 in counts:
        raise ValueError(f"a kernel of {kernels} has no output on an input of {tuple(size)}")
    taps = math.prod(kernels)
    mean = math.prod(sum(axis) for axis in inside) / (math.prod(counts) * taps)
    return mean, math.prod(min(axis) for axis in inside) / taps
