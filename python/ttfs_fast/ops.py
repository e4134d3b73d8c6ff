"""Registration of the operators in torch.

For each operator, side by side: the allocation of its results and the call into the core, its fake
version (shapes and strides only, for torch.compile and torch.export), its backward, and its rules
for autocast and vmap. What users call is in :mod:`ttfs_fast.functional`, which checks arguments.

CPU tensors run through the compiled core, those on a GPU through the Triton kernels of
:mod:`ttfs_fast.gpu`; tensors on any other device run through :mod:`ttfs_fast.reference` in chunks
of bounded memory.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ttfs_fast import _core, reference
from ttfs_fast.gpu import dispatch
from ttfs_fast.neurons import NEURONS, NeuronName

Size = Sequence[int]


def _array(tensor: Tensor | None) -> Any:
    """The tensor's memory as a numpy array: no copy, and no silent change of type."""
    if tensor is None:
        return None
    tensor = tensor.detach()
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).numpy()


def _start(neuron: str) -> tuple[float, ...]:
    """The last arguments of the core, slope and threshold of F; none for its default, n-LIF."""
    kind = NEURONS[neuron]
    return (kind.slope, kind.threshold) if kind.on_times else ()


Walk = tuple[Size, Size, Size, int]
"""Stride, padding, dilation and groups."""
ONE_FIELD: Walk = ((1, 1), (0, 0), (1, 1), 1)
"""The geometry of a fully connected layer: a convolution with one receptive field."""
Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


def _run_forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, walk: Walk, t_max: float, z: Tensor,
    slope: Tensor, neuron: str,
) -> None:  # fmt: skip
    """Fill `z` (N, M, H, W) and `slope` (N, H, W, M) by the core."""
    _core.conv2d_forward(
        _array(input), _array(weight.contiguous()),
        _array(None if bias is None else bias.contiguous()), *walk, t_max, _array(z), _array(slope),
        torch.get_num_threads(), *_start(neuron),
    )  # fmt: skip


def _run_backward(
    grad: Tensor, input: Tensor, weight: Tensor, z: Tensor, slope: Tensor, walk: Walk,
    grads: Grads, neuron: str,
) -> None:  # fmt: skip
    """Fill the gradients of input, weight and bias that are given by the core."""
    by_input, by_weight, by_bias = grads
    _core.conv2d_backward(
        _array(input), _array(weight.contiguous()), _array(z), _array(slope), _array(grad), *walk,
        _array(by_input), _array(by_weight), _array(by_bias), torch.get_num_threads(),
        *_start(neuron),
    )  # fmt: skip


def _pixel(tensor: Tensor) -> Tensor:
    """Rows and columns of one pixel for features (N, K)."""
    return tensor[:, :, None, None]


def _memory_format(input: Tensor) -> torch.memory_format:
    """The layout of the output: channels_last for an input that is channels_last only."""
    if input.is_contiguous():
        return torch.contiguous_format
    if input.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


# --- spiking_conv2d ------------------------------------------------------------------------------


@torch.library.custom_op("ttfs_fast::spiking_conv2d", mutates_args=())
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    t_max: float,
    output_size: Size,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor]:
    """Spike values (N, M, H, W) and slopes D (N, H, W, M); `padding` is at the top and left."""
    if input.device.type != "cpu":
        return reference.conv2d_forward(
            input, weight, bias, stride, padding, dilation, groups, t_max, output_size, neuron
        )
    z, slope = _conv2d_outputs(input, weight, output_size)
    walk = (stride, padding, dilation, groups)
    _run_forward(input, weight, bias, walk, t_max, z, slope, neuron)
    return z, slope


def _conv2d_outputs(input: Tensor, weight: Tensor, output_size: Size) -> tuple[Tensor, Tensor]:
    shape = (input.shape[0], weight.shape[0], *output_size)
    z = input.new_empty(shape).contiguous(memory_format=_memory_format(input))
    return z, input.new_empty((shape[0], *output_size, shape[1]))


@conv2d.register_fake
def _(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    t_max: float,
    output_size: Size,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor]:
    return _conv2d_outputs(input, weight, output_size)


@torch.library.custom_op("ttfs_fast::spiking_conv2d_backward", mutates_args=())
def conv2d_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    need_input: bool,
    need_weight: bool,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias; empty tensors for what is not needed."""
    if input.device.type != "cpu":
        grads = reference.conv2d_backward(
            grad, input, weight, z, slope, stride, padding, dilation, groups, neuron
        )
        return _drop_unneeded(grads, need_input, need_weight)
    grads = _gradients(input, weight, need_input, need_weight)
    needed = _needed(grads, need_input, need_weight)
    walk = (stride, padding, dilation, groups)
    _run_backward(grad, input, weight, z, slope, walk, needed, neuron)
    return grads


def _gradients(
    input: Tensor, weight: Tensor, need_input: bool, need_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(input) if need_input else input.new_empty(0),
        weight.new_empty(weight.shape) if need_weight else weight.new_empty(0),
        weight.new_empty(weight.shape[0] if need_weight else 0),
    )


def _needed(grads: tuple[Tensor, Tensor, Tensor], need_input: bool, need_weight: bool) -> Grads:
    by_input, by_weight, by_bias = grads
    return (
        by_input if need_input else None,
        *((by_weight, by_bias) if need_weight else (None, None)),
    )


def _drop_unneeded(
    grads: tuple[Tensor, Tensor, Tensor], need_input: bool, need_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kept = (need_input, need_weight, need_weight)
    a, b, c = (g if k else g.new_empty(0) for g, k in zip(grads, kept, strict=True))
    return a, b, c


@conv2d_backward.register_fake
def _(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    need_input: bool,
    need_weight: bool,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(input, weight, need_input, need_weight)


def _layer_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight, _, *others, neuron = inputs
    z, slope = output
    ctx.mark_non_differentiable(slope)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(input, weight, z, slope)
    ctx.walk = others[:-2]  # of a fully connected layer, which has t_max alone, none
    ctx.neuron, ctx.inputs = neuron, len(inputs)


def _layer_gradient(
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]], ctx: Any, grad: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * int(ctx.inputs)
    need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad_input, grad_weight, grad_bias = backward(
        grad, *ctx.saved_tensors, *ctx.walk, need_input, need_weight or need_bias, ctx.neuron
    )
    return (
        grad_input if need_input else None,
        grad_weight if need_weight else None,
        grad_bias if need_bias else None,
        *(None,) * (ctx.inputs - 3),
    )


conv2d.register_autograd(partial(_layer_gradient, conv2d_backward), setup_context=_layer_setup)


# --- spiking_linear ------------------------------------------------------------------------------


@torch.library.custom_op("ttfs_fast::spiking_linear", mutates_args=())
def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, t_max: float, neuron: str = "n-lif"
) -> tuple[Tensor, Tensor]:
    """Spike values and slopes D (N, M) of input (N, K), weight (M, K): one receptive field."""
    if input.device.type != "cpu":
        return reference.linear_forward(input, weight, bias, t_max, neuron)
    z, slope = _linear_outputs(input, weight)
    _run_forward(
        _pixel(input), _pixel(weight), bias, ONE_FIELD, t_max, _pixel(z), slope[:, None, None],
        neuron,
    )  # fmt: skip
    return z, slope


def _linear_outputs(input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    shape = (input.shape[0], weight.shape[0])
    return input.new_empty(shape), input.new_empty(shape)


@linear.register_fake
def _(
    input: Tensor, weight: Tensor, bias: Tensor | None, t_max: float, neuron: str = "n-lif"
) -> tuple[Tensor, Tensor]:
    return _linear_outputs(input, weight)


@torch.library.custom_op("ttfs_fast::spiking_linear_backward", mutates_args=())
def linear_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    need_input: bool,
    need_weight: bool,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias; empty tensors for what is not needed."""
    if input.device.type != "cpu":
        grads = reference.linear_backward(grad, input, weight, z, slope, neuron)
        return _drop_unneeded(grads, need_input, need_weight)
    grads = _gradients(input, weight, need_input, need_weight)
    by_input, by_weight, by_bias = _needed(grads, need_input, need_weight)
    needed = (
        None if by_input is None else _pixel(by_input),
        None if by_weight is None else _pixel(by_weight),
        by_bias,
    )
    _run_backward(
        _pixel(grad), _pixel(input), _pixel(weight), _pixel(z), slope[:, None, None], ONE_FIELD,
        needed, neuron,
    )  # fmt: skip
    return grads


@linear_backward.register_fake
def _(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    need_input: bool,
    need_weight: bool,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients(input, weight, need_input, need_weight)


linear.register_autograd(partial(_layer_gradient, linear_backward), setup_context=_layer_setup)


# --- spiking_max_pool2d --------------------------------------------------------------------------


@torch.library.custom_op("ttfs_fast::spiking_max_pool2d", mutates_args=())
def max_pool2d(
    input: Tensor, kernel: Size, stride: Size, padding: Size, dilation: Size, output_size: Size
) -> tuple[Tensor, Tensor]:
    """First spikes (N, C, H, W) and their places in the windows, -1 where silent."""
    z, index = _pool_outputs(input, output_size)
    if input.device.type != "cpu":
        return _pool_reference(input, kernel, stride, padding, dilation, output_size)
    _core.max_pool2d_forward(
        _array(input),
        kernel,
        stride,
        padding,
        dilation,
        _array(z),
        _array(index),
        torch.get_num_threads(),
    )
    return z, index


def _pool_outputs(input: Tensor, output_size: Size) -> tuple[Tensor, Tensor]:
    shape = (*input.shape[:2], *output_size)
    z = input.new_empty(shape).contiguous(memory_format=_memory_format(input))
    return z, input.new_empty(shape, dtype=torch.int32)


def _window_position(
    size: Size, kernel: Size, stride: Size, padding: Size, dilation: Size, place: Tensor
) -> tuple[Tensor, Tensor]:
    """Input row and column of a place in each output's window."""
    row = torch.arange(size[0], device=place.device)[:, None] * stride[0] - padding[0]
    column = torch.arange(size[1], device=place.device) * stride[1] - padding[1]
    return row + place // kernel[1] * dilation[0], column + place % kernel[1] * dilation[1]


def _pool_reference(
    input: Tensor, kernel: Size, stride: Size, padding: Size, dilation: Size, output_size: Size
) -> tuple[Tensor, Tensor]:
    z, index = _pool_outputs(input, output_size)
    z.fill_(torch.inf)
    index.fill_(-1)
    for place in range(kernel[0] * kernel[1]):
        y, x = _window_position(
            output_size, kernel, stride, padding, dilation, torch.tensor(place, device=z.device)
        )
        inside = (y >= 0) & (y < input.shape[2]) & (x >= 0) & (x < input.shape[3])
        value = input[:, :, y.clamp(0, input.shape[2] - 1), x.clamp(0, input.shape[3] - 1)]
        better = inside & ((value < z) | (value.isnan() & ~z.isnan()))
        z.copy_(torch.where(better, value, z))
        index.masked_fill_(better, place)
    return z, index


@max_pool2d.register_fake
def _(
    input: Tensor, kernel: Size, stride: Size, padding: Size, dilation: Size, output_size: Size
) -> tuple[Tensor, Tensor]:
    return _pool_outputs(input, output_size)


@torch.library.custom_op("ttfs_fast::spiking_max_pool2d_backward", mutates_args=())
def max_pool2d_backward(
    grad: Tensor,
    index: Tensor,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    input_size: Size,
) -> Tensor:
    """Gradient of the input: each output's, at the input that spiked first."""
    grad_input = _pool_gradient(grad, input_size)
    if grad.device.type != "cpu":
        return _pool_reference_backward(grad, index, kernel, stride, padding, dilation, input_size)
    _core.max_pool2d_backward(
        _array(grad),
        _array(index),
        kernel,
        stride,
        padding,
        dilation,
        _array(grad_input),
        torch.get_num_threads(),
    )
    return grad_input


def _pool_reference_backward(
    grad: Tensor,
    index: Tensor,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    input_size: Size,
) -> Tensor:
    grad_input = _pool_gradient(grad, input_size)
    y, x = _window_position(grad.shape[2:], kernel, stride, padding, dilation, index.long())
    flat = torch.where(index >= 0, y * input_size[1] + x, 0).flatten(2)
    passed = torch.where(index >= 0, grad, 0).flatten(2)
    return grad_input.zero_().flatten(2).scatter_add_(2, flat, passed).reshape_as(grad_input)


def _pool_gradient(grad: Tensor, input_size: Size) -> Tensor:
    return grad.new_empty((*grad.shape[:2], *input_size))


@max_pool2d_backward.register_fake
def _(
    grad: Tensor,
    index: Tensor,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    input_size: Size,
) -> Tensor:
    return _pool_gradient(grad, input_size)


def _pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, kernel, stride, padding, dilation, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.geometry = (kernel, stride, padding, dilation, input.shape[2:])


def _pool_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    return max_pool2d_backward(grad, *ctx.saved_tensors, *ctx.geometry), *(None,) * 5


max_pool2d.register_autograd(_pool_backward, setup_context=_pool_setup)


# --- GPUs ----------------------------------------------------------------------------------------


def _conv2d_on_gpu(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    t_max: float,
    output_size: Size,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor]:
    if neuron != "n-lif":
        dispatch.warn_of_plain_torch(neuron)
        return reference.conv2d_forward(
            input, weight, bias, stride, padding, dilation, groups, t_max, output_size, neuron
        )
    z, slope = _conv2d_outputs(input, weight, output_size)
    dispatch.conv2d_forward(input, weight, bias, stride, padding, dilation, groups, t_max, z, slope)
    return z, slope


def _conv2d_backward_on_gpu(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    stride: Size,
    padding: Size,
    dilation: Size,
    groups: int,
    need_input: bool,
    need_weight: bool,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor, Tensor]:
    if neuron != "n-lif":
        found = reference.conv2d_backward(
            grad, input, weight, z, slope, stride, padding, dilation, groups, neuron
        )
        return _drop_unneeded(found, need_input, need_weight)
    grads = _gradients(input, weight, need_input, need_weight)
    needed = _needed(grads, need_input, need_weight)
    dispatch.conv2d_backward(
        grad, input, weight, z, slope, stride, padding, dilation, groups, needed
    )
    return grads


def _linear_on_gpu(
    input: Tensor, weight: Tensor, bias: Tensor | None, t_max: float, neuron: str = "n-lif"
) -> tuple[Tensor, Tensor]:
    if neuron != "n-lif":
        dispatch.warn_of_plain_torch(neuron)
        return reference.linear_forward(input, weight, bias, t_max, neuron)
    z, slope = _linear_outputs(input, weight)
    dispatch.linear_forward(input, weight, bias, t_max, z, slope)
    return z, slope


def _linear_backward_on_gpu(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    need_input: bool,
    need_weight: bool,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor, Tensor]:
    if neuron != "n-lif":
        found = reference.linear_backward(grad, input, weight, z, slope, neuron)
        return _drop_unneeded(found, need_input, need_weight)
    grads = _gradients(input, weight, need_input, need_weight)
    needed = _needed(grads, need_input, need_weight)
    dispatch.linear_backward(grad, input, weight, z, slope, needed)
    return grads


def _max_pool2d_on_gpu(
    input: Tensor, kernel: Size, stride: Size, padding: Size, dilation: Size, output_size: Size
) -> tuple[Tensor, Tensor]:
    z, index = _pool_outputs(input, output_size)
    walk = (kernel, stride, padding, dilation)
    plain = partial(_pool_reference, input, *walk, output_size)
    dispatch.max_pool2d_forward(input, *walk, z, index, plain)
    return z, index


def _max_pool2d_backward_on_gpu(
    grad: Tensor,
    index: Tensor,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: Size,
    input_size: Size,
) -> Tensor:
    grad_input = _pool_gradient(grad, input_size)
    walk = (kernel, stride, padding, dilation)
    plain = partial(_pool_reference_backward, grad, index, *walk, input_size)
    dispatch.max_pool2d_backward(grad, index, *walk, grad_input, plain)
    return grad_input


GPU_IMPLEMENTATIONS = (
    (conv2d, _conv2d_on_gpu),
    (conv2d_backward, _conv2d_backward_on_gpu),
    (linear, _linear_on_gpu),
    (linear_backward, _linear_backward_on_gpu),
    (max_pool2d, _max_pool2d_on_gpu),
    (max_pool2d_backward, _max_pool2d_backward_on_gpu),
)
"""Each operator and what runs it on a GPU: the Triton kernels, or the reference without them."""

for _operator, _implementation in GPU_IMPLEMENTATIONS:
    _operator.register_kernel("cuda")(_implementation)


# --- rules that all share ------------------------------------------------------------------------


def _no_double_backward(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "the spiking operators have no second derivative: double backward (create_graph=True, "
        "hessians, gradient penalties) is not supported; ttfs_fast.reference holds the same "
        "operators in plain torch, which can be differentiated twice"
    )


def _fold_input(op: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    """vmap over the input alone: its dimension joins the batch; other arguments are refused."""

    def rule(info: Any, in_dims: tuple[int | None, ...], input: Tensor, *rest: Any) -> Any:
        # A list of numbers has a list of None here; only a tensor's dimension is a number.
        if in_dims[0] is None or any(isinstance(d, int) for d in in_dims[1:]):
            raise NotImplementedError(
                "vmap over a spiking operator's weight or bias is not supported: call it once "
                "for each set of weights, or use groups; vmap over the input alone works"
            )
        moved = input.movedim(in_dims[0], 0)
        outputs = op(moved.flatten(0, 1), *rest)
        return tuple(o.reshape(*moved.shape[:2], *o.shape[1:]) for o in outputs), (0, 0)

    return rule


def _one_by_one(op: Callable[..., Any]) -> Callable[..., Any]:
    """vmap of a backward: every element has a gradient of the weights of its own."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        results = [
            op(
                *(
                    a.select(d, i) if isinstance(d, int) else a
                    for a, d in zip(args, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])

    return rule


for _forward, _backward in (
    (conv2d, conv2d_backward),
    (linear, linear_backward),
    (max_pool2d, max_pool2d_backward),
):
    _forward.register_vmap(_fold_input(_forward))
    _backward.register_vmap(_one_by_one(_backward))
    _backward.register_autograd(_no_double_backward)
    for _device in ("cpu", "cuda"):
        # Spike times need float32: half precision has three decimal digits.
        _forward.register_autocast(_device, torch.float32)


# --- torch.jit.trace -----------------------------------------------------------------------------

# The tracer records sizes as numbers and fails on operators that take symbolic ones, as those above
# do for torch.export. A trace holds the operators below in their place: each is a whole function of
# another module, which computes the sizes again whenever the trace runs.

_TRACED = torch.library.Library("ttfs_fast", "FRAGMENT")  # type: ignore[no-untyped-call]


def in_trace() -> bool:
    """Whether torch.jit.trace is recording.

    Raises
    ------
    NotImplementedError
        If it records for ONNX.
    """
    if not torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return False
    if torch.onnx.is_in_onnx_export():
        raise NotImplementedError(
            "ONNX has no operators for spiking layers; write the network with torch.export or "
            "ttfs_fast.nir (docs/torch.md, docs/nir.md)"
        )
    return True


def _traced(schema: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An operator that a trace can hold, made of operators that torch can differentiate."""
    name = schema.partition("(")[0]
    _TRACED.define(f"{schema} -> Tensor")  # type: ignore[no-untyped-call]
    _TRACED.impl(name, run, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
    operator: Callable[..., Tensor] = getattr(torch.ops.ttfs_fast, name)
    return operator


def _run_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, t_max: float, neuron: NeuronName = "n-lif"
) -> Tensor:
    from ttfs_fast.functional import spiking_linear

    return spiking_linear(input, weight, bias, t_max=t_max, neuron=neuron)


traced_linear = _traced(
    "traced_linear(Tensor input, Tensor weight, Tensor? bias, float t_max, str neuron='n-lif')",
    _run_linear,
)


def _run_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    padding_mode: str,
    dilation: Size,
    groups: int,
    t_max: float,
    neuron: NeuronName = "n-lif",
) -> Tensor:
    from ttfs_fast.functional import spiking_conv2d

    pads = padding_mode or padding
    return spiking_conv2d(
        input, weight, bias, stride, pads, dilation, groups, t_max=t_max, neuron=neuron
    )


traced_conv2d = _traced(
    "traced_conv2d(Tensor input, Tensor weight, Tensor? bias, int[2] stride, int[2] padding, "
    "str padding_mode, int[2] dilation, int groups, float t_max, str neuron='n-lif')",
    _run_conv2d,
)


def _run_max_pool2d(
    input: Tensor, kernel: Size, stride: Size, padding: Size, dilation: Size, ceil_mode: bool
) -> Tensor:
    from ttfs_fast.functional import spiking_max_pool2d

    return spiking_max_pool2d(input, kernel, stride, padding, dilation, ceil_mode)


traced_max_pool2d = _traced(
    "traced_max_pool2d(Tensor input, int[2] kernel, int[2] stride, int[2] padding, "
    "int[2] dilation, bool ceil_mode)",
    _run_max_pool2d,
)


def _run_delay(input: Tensor, delay: Tensor, neuron: NeuronName) -> Tensor:
    from ttfs_fast.functional import spiking_delay

    return spiking_delay(input, delay, neuron=neuron)


traced_delay = _traced("traced_delay(Tensor input, Tensor delay, str neuron)", _run_delay)


def _run_centered(v: Tensor, gain: Tensor, total: Tensor) -> Tensor:
    from ttfs_fast.optim.centering import centered

    return centered(v, gain, total)


traced_centered = _traced("traced_centered(Tensor v, Tensor gain, Tensor total)", _run_centered)
