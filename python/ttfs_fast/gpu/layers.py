"""Spiking convolutions and linear layers through the Triton kernels: scratch memory, launches.

The same plan as the C++ core: a tile of output pixels collects the spikes that any of them sees and
sorts them once (torch.sort), each pixel filters its own, and a sweep follows the membrane of a
block of outputs from event to event. Backward needs no order: z_in < z_out is the causal set.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ttfs_fast.gpu import kernels, plan
from ttfs_fast.gpu.plan import Geometry

Size = Sequence[int]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

FLAT_SLOPE = 1e-3
"""Which slopes are small against float32 rounding, as in the C++ core (cpp/kernels/sweep.h)."""


_OTHERS = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
"""Not errors of a kernel: lack of memory, and a GPU in an error state after an earlier kernel."""


class KernelError(RuntimeError):
    """A kernel that cannot be compiled, or not be run on this GPU."""


class SizeError(KernelError):
    """Tensors too large for a kernel; others of the same type may fit."""


WIDEST = 2**31
"""Elements between the first and the last of an image."""
MOST_IN_GRID = 65535
"""Blocks along the second and third axis of a grid."""


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Start a kernel with its rounding fixed.

    Raises
    ------
    KernelError
        If Triton cannot compile it, or the driver not load it.
    """
    try:
        kernel[grid](*args, **options, **kernels.FIXED)
    except _OTHERS:
        raise
    except Exception as error:
        raise KernelError(f"{kernel.__name__}: {type(error).__name__}: {error}") from error


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one: Triton starts kernels there."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def wide(size: int, block: int) -> bool:
    """Whether places need 64 bits."""
    return size >= 2**31 - block


def blocks(size: int, block: int) -> int:
    return -(-size // block)


def require_positive(input: Tensor) -> None:
    """Refuse spike values that are zero or negative.

    Waits for the GPU; left out while a CUDA graph is recorded, which cannot wait.

    Raises
    ------
    ValueError
        If there is one.
    """
    if input.numel() == 0 or (input.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    size = (1,) * (4 - input.dim())
    block = 1024
    view = input.reshape(*input.shape, *size) if size else input
    flags = torch.empty(blocks(input.numel(), block), dtype=torch.int32, device=input.device)
    launch(
        kernels.check_positive, (len(flags),),
        view, flags, input.numel(), *view.shape[1:], *view.stride(),
        WIDE=wide(input.numel(), block), BLOCK=block,
    )  # fmt: skip
    if flags.any().item():
        raise ValueError(
            "input holds a value that is not positive; spike values are z = exp(t) > 0 with t the "
            "spike time, and inf for silence"
        )


def geometry_of(
    input: Tensor,
    weight: Tensor,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    output_size: Size,
) -> Geometry:
    def pair(values: Size) -> tuple[int, int]:
        return int(values[0]), int(values[1])

    return Geometry(
        images=input.shape[0],
        groups=groups,
        channels=weight.shape[1],
        outputs=weight.shape[0] // groups,
        size=pair(input.shape[2:]),
        output_size=pair(output_size),
        kernel=pair(weight.shape[2:]),
        stride=pair(stride),
        padding=pair(padding),
        dilation=pair(dilation),
    )


def linear_geometry(input: Tensor, weight: Tensor) -> Geometry:
    one = (1, 1)
    return Geometry(
        len(input), 1, weight.shape[1], weight.shape[0], one, one, one, one, (0, 0), one
    )


# --- forward -------------------------------------------------------------------------------------


def conv2d_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    t_max: float,
    z: Tensor,
    slope: Tensor,
) -> None:
    """Fill `z` (N, M, H, W), any strides, and `slope` (N, H, W, M), contiguous.

    Raises
    ------
    ValueError
        If a spike value is zero or negative.
    KernelError
        If a kernel does not run.
    """
    g = geometry
    with on_device(input):
        require_narrow(input, z)
        require_positive(input)
        if g.empty:
            return
        if g.inputs == 0 and bias is None:
            z.fill_(math.inf)
            slope.zero_()
            return
        _forward(input, weight.contiguous(), bias, g, t_max, z, slope)


def _forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    g: Geometry,
    t_max: float,
    z: Tensor,
    slope: Tensor,
) -> None:
    dtype, item, has_bias = input.dtype, input.element_size(), bias is not None
    tiling = plan.tiling(g, bias=has_bias)
    start = _start(weight, bias, t_max)
    some = plan.outputs_each(g, item)
    each = plan.segments_each(tiling, item)
    lanes = plan.lanes(min(some, g.outputs))
    pixels = tiling.tile[0] * tiling.tile[1]
    where = (*tiling.count, *tiling.step)
    walk = (*g.stride, *g.padding, *g.dilation)
    tile = {"TILE_Y": tiling.tile[0], "TILE_X": tiling.tile[1]}
    kernel = {"KERNEL_Y": g.kernel[0], "KERNEL_X": g.kernel[1]}
    raw_bias = weight if bias is None else bias.contiguous()
    for first_output in range(0, g.outputs, some):
        slab = min(some, g.outputs - first_output)
        packed = _packed(weight, bias, g, first_output, slab)
        for first, count in _chunks(g.images * g.groups * tiling.tiles, each):
            keys = input.new_empty((count, tiling.length))
            block = plan.power_of_two(tiling.length, 32, 256)
            launch(
                kernels.collect, (count, blocks(tiling.length, block)),
                input, keys, first, g.groups, g.channels, *g.size, *input.stride(),
                *walk, *where, *tiling.window, tiling.length,
                HAS_BIAS=has_bias, **tile, BLOCK=block,
            )  # fmt: skip
            values, order = torch.sort(keys, dim=1, stable=True)
            del keys
            slots = count * pixels
            times = torch.empty((slots, tiling.capacity), dtype=dtype, device=input.device)
            rows = torch.empty((slots, tiling.capacity), dtype=torch.int32, device=input.device)
            counts = torch.empty(slots, dtype=torch.int32, device=input.device)
            launch(
                kernels.filter_events, (count, pixels),
                values, order, times, rows, counts, first, g.groups, g.channels, *g.output_size,
                *where, *tiling.sub, *tiling.window, tiling.length, tiling.capacity, g.inputs,
                start, g.outputs, **kernel, **tile, UNROLL=plan.UNROLL, BLOCK=block,
            )  # fmt: skip
            del values, order
            launch(
                kernels.sweep, (slots, blocks(slab, lanes)),
                times, rows, counts, packed, start, z, slope, input, weight, raw_bias,
                first, g.groups, g.channels, g.outputs, first_output, slab, packed.shape[2],
                *g.size, *g.output_size, tiling.capacity, g.inputs, *input.stride(), *z.stride(),
                *walk, *where, FLAT_SLOPE if dtype == torch.float32 else 0.0,
                HAS_BIAS=has_bias, FINITE_HORIZON=t_max < _latest(dtype), **kernel, **tile,
                UNROLL=plan.UNROLL, LANES=lanes, BLOCK=plan.power_of_two(g.inputs, 32, 128),
                num_warps=1,
            )  # fmt: skip


def _latest(dtype: torch.dtype) -> float:
    """Times from here on have a spike value of inf."""
    return math.log(torch.finfo(dtype).max)


def _start(weight: Tensor, bias: Tensor | None, t_max: float) -> Tensor:
    """B of every output before the first event, -1, or NaN by a weight that is not finite.

    The last element is the horizon's spike value.
    """
    horizon = torch.tensor(t_max, dtype=torch.float64).exp().to(weight.dtype).item()
    start = weight.new_full((len(weight) + 1,), horizon)
    largest = bias if bias is not None else weight.new_zeros(len(weight))
    start[:-1] = torch.where(largest.isfinite(), -1.0, math.nan)
    if weight[0].numel():
        # The largest size of a row's weights: NaN or inf if one of them is.
        largest = torch.linalg.vector_norm(weight.flatten(1), math.inf, dim=1)
        start[:-1].masked_fill_(~largest.isfinite(), math.nan)
    return start


def _packed(weight: Tensor, bias: Tensor | None, g: Geometry, first: int, slab: int) -> Tensor:
    """Weights of some outputs (groups, inputs + 2, slab): outputs side by side; bias, and zeros."""
    packed = weight.new_zeros((g.groups, g.inputs + 2, slab))
    some = slice(first, first + slab)
    grouped = weight.reshape(g.groups, g.outputs, g.inputs)[:, some]
    packed[:, :-2].copy_(grouped.transpose(1, 2))
    if bias is not None:
        packed[:, -2] = bias.reshape(g.groups, g.outputs)[:, some]
    return packed


def _chunks(whole: int, each: int) -> Iterator[tuple[int, int]]:
    for first in range(0, whole, each):
        yield first, min(each, whole - first)


# --- gradients -----------------------------------------------------------------------------------


def conv2d_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    geometry: Geometry,
    grad_input: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
) -> None:
    """Fill the gradients that are given; those of weight and bias contiguous, and both or none.

    Raises
    ------
    KernelError
        If a kernel does not run.
    """
    given = [t for t in (grad_input, grad_weight, grad_bias) if t is not None]
    if geometry.empty or geometry.inputs == 0:
        for tensor in given:
            tensor.zero_()
        if geometry.empty or grad_bias is None:
            return
    with on_device(input):
        _backward(
            grad, input, weight, z, slope.contiguous(), geometry,
            grad_input if geometry.inputs else None, grad_weight, grad_bias,
        )  # fmt: skip


def require_narrow(*tensors: Tensor | None) -> None:
    """Kernels find elements of one image, and of a chunk, by 32 bits."""
    for t in tensors:
        if t is not None:
            span = sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True))
            if span >= WIDEST:
                raise SizeError(f"{span} elements between the first and the last of an image")


def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    g: Geometry,
    grad_input: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
) -> None:
    require_narrow(input, z, grad, grad_input)
    division = plan.backward(g, input.element_size())
    partial_weight = partial_bias = None
    if grad_weight is not None and grad_bias is not None:
        partial_weight, partial_bias = grad_weight[None], grad_bias[None]
        if division.splits > 1:
            partial_weight, partial_bias = (
                t.new_empty((division.splits, *t.shape)) for t in (grad_weight, grad_bias)
            )
    taps = weight
    if grad_input is not None and weight.nbytes <= plan.WEIGHTS:
        taps = weight.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for first_image, images in _chunks(g.images, division.images):
        for first_output, slab in _chunks(g.outputs, division.outputs):
            size = images * g.pixels * g.groups * slab
            block = 256

            def ready(
                by_pixel: bool,
                size: int = size,
                place: tuple[int, ...] = (first_image, g.groups, g.outputs, first_output, slab),
                block: int = block,
            ) -> tuple[Tensor, Tensor]:
                late, share = input.new_empty(size), input.new_empty(size)
                launch(
                    kernels.prepare, (blocks(size, block),),
                    z, grad, slope, late, share, size, *place, g.pixels, g.output_size[1],
                    *z.stride(), *grad.stride(), OUTPUTS_LAST=by_pixel, BLOCK=block,
                )  # fmt: skip
                return late, share

            if partial_weight is not None and partial_bias is not None:
                _weight_gradient(
                    input, ready, g, division, (first_image, images), (first_output, slab),
                    partial_weight, partial_bias,
                )  # fmt: skip
            if grad_input is not None:
                _input_gradient(
                    input, ready, g, division, (first_image, images), (first_output, slab),
                    taps, grad_input,
                )  # fmt: skip
    if division.splits > 1 and partial_weight is not None and partial_bias is not None:
        torch.sum(partial_weight, 0, out=grad_weight)
        torch.sum(partial_bias, 0, out=grad_bias)


Ready = Callable[[bool], tuple[Tensor, Tensor]]


def _weight_gradient(
    input: Tensor,
    ready: Ready,
    g: Geometry,
    division: plan.BackwardPlan,
    images: tuple[int, int],
    outputs: tuple[int, int],
    grad_weight: Tensor,
    grad_bias: Tensor,
) -> None:
    late, share = ready(True)
    chunk, first = input[images[0] : images[0] + images[1]], 0
    if chunk.nbytes <= plan.PARTIAL:
        chunk = chunk.contiguous(memory_format=torch.channels_last)
    else:
        chunk, first = input, images[0]
    terms = g.inputs + 1
    tiles = blocks(outputs[1], division.block_m) * blocks(terms, division.block_k)
    launch(
        kernels.weight_gradient, (tiles, g.groups, division.splits),
        chunk, late, share, grad_weight, grad_bias, first, images[1], g.groups,
        max(g.channels, 1), g.outputs, outputs[1], outputs[0], *g.output_size, *g.size, g.inputs,
        terms, *chunk.stride(), grad_weight.stride(0), grad_bias.stride(0),
        *g.stride, *g.padding, *g.dilation, blocks(images[1] * g.pixels, division.splits),
        KERNEL_Y=g.kernel[0], KERNEL_X=g.kernel[1], ACCUMULATE=images[0] > 0,
        BLOCK_M=division.block_m, BLOCK_K=division.block_k, UNROLL=2, num_warps=8,
    )  # fmt: skip


def _input_gradient(
    input: Tensor,
    ready: Ready,
    g: Geometry,
    division: plan.BackwardPlan,
    images: tuple[int, int],
    outputs: tuple[int, int],
    weight: Tensor,
    grad_input: Tensor,
) -> None:
    late, share = ready(False)
    each = [blocks(n, s) for n, s in zip(g.size, g.stride, strict=True)]
    grid = (
        blocks(images[1] * math.prod(each), division.block_p),
        blocks(g.channels, division.block_c),
        g.groups * math.prod(g.stride),
    )
    if max(grid[1:]) > MOST_IN_GRID:
        raise SizeError(f"{grid[1]} x {grid[2]} blocks of channels, groups and strides")
    launch(
        kernels.input_gradient, grid,
        input, late, share, weight, grad_input, *images, g.channels, g.outputs, outputs[1],
        outputs[0], *g.output_size, *g.size, *input.stride(), *grad_input.stride(),
        *weight.stride(), *g.stride, *g.padding, *g.dilation, *each, *g.kernel,
        ACCUMULATE=outputs[0] > 0,
        BLOCK_P=division.block_p, BLOCK_C=division.block_c, UNROLL=2, num_warps=8,
    )  # fmt: skip
