"""Spiking layers as functions, with the signatures of torch.nn.functional.

They work on spike values ``z = exp(t) > 0``, where ``t`` is the spike time in units of the synaptic
time constant; a neuron that never spikes has ``z = inf``. With the `neuron` "rel-psp" or
"falling-threshold" they work on spike times ``t`` instead.
:func:`ttfs_fast.encoding.times_to_values` converts times to values.

References
----------
S. Zhou, X. Li, Y. Chen, S. T. Chandrasekaran, A. Sanyal, "Temporal-Coded Deep Spiking Neural
Network with Easy Training and Robust Performance", AAAI 2021, equations (1), (3), (4).
H. Mostafa, "Supervised learning based on temporal coding in spiking neural networks", IEEE TNNLS
29 (7), 2017.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ttfs_fast import ops
from ttfs_fast._overrides import overridable
from ttfs_fast.encoding import check_spike_values, has_values, in_transform
from ttfs_fast.geometry import IntPair, checked_pair, conv_sizes, whole_numbers
from ttfs_fast.neurons import NeuronName, neuron_of

LONG_DELAY = 80.0
"""Delays, in tau, above which exp(delay) may exceed float32."""


@overridable
def spiking_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    t_max: float = math.inf,
    neuron: NeuronName = "n-lif",
) -> Tensor:
    """Spike values of a fully connected layer of non-leaky integrate-and-fire neurons.

    Neuron j spikes at ::

        z_j = sum_{i in C} w_ji z_i / (sum_{i in C} w_ji - 1),

    where the causal set C contains the inputs that spike before it (equation 4).

    Other neurons take and return spike times t. They spike at the first t at which, from below, ::

        sum_{i: t_i < t} w_ji (t - t_i) + slope t - threshold = 0,

    that is ``t_j = (threshold + sum_{i in C} w_ji t_i) / (sum_{i in C} w_ji + slope)``.

    Parameters
    ----------
    input : Tensor
        Spike values, shape (..., N), float32 or float64, positive; ``inf`` is silence. A NaN makes
        every output of its row NaN.
    weight : Tensor
        Shape (M, N), same type. An output is NaN if one of its weights is not finite.
    bias : Tensor, optional
        Shape (M,): the weights of one more input, which spikes at t = 0 (z = 1).
    t_max : float
        The horizon: spikes later than this time are treated as no spike (inf).
    neuron : {"n-lif", "rel-psp", "falling-threshold"}
        ``"rel-psp"`` has slope 0 and threshold 1, ``"falling-threshold"`` slope 1 and threshold 2.
        Both take spike times, which may be negative, with ``inf`` for silence, and return spike
        times.

    Returns
    -------
    Tensor
        Spike values, or spike times, shape (..., M), ``inf`` where a neuron does not spike.

    Raises
    ------
    ValueError
        If some input is zero or negative (for spike times: -inf), `t_max` is NaN, or there is no
        such neuron.
    TypeError
        If a tensor is not float32 or float64, or the types differ.
    RuntimeError
        If the shapes do not fit, as :func:`torch.nn.functional.linear`.

    Notes
    -----
    Differentiable once in `input`, `weight` and `bias`: ``dz_j / dz_i = w_ji / D_j`` and
    ``dz_j / dw_ji = (z_i - z_j) / D_j`` for i in C, with ``D_j = sum_{i in C} w_ji - 1``; silent
    neurons and silent inputs get no gradient. With spike times the same holds for t instead of z
    and ``D_j = sum_{i in C} w_ji + slope``.

    References
    ----------
    M. Zhang et al., "Rectified Linear Postsynaptic Potential Function for Backpropagation in Deep
    Spiking Neural Networks", IEEE TNNLS, 2021 (arXiv 2003.11837): ``"rel-psp"``.
    W. Wei et al., "Temporal-Coded Spiking Neural Networks with Dynamic Firing Threshold: Learning
    with Event-Driven Backpropagation", ICCV 2023: the threshold 2 - t. (Its neurons also wait for
    t = 1.)

    Examples
    --------
    >>> import torch, ttfs_fast
    >>> z = torch.tensor([1.0, 2.0])
    >>> ttfs_fast.spiking_linear(z, torch.tensor([[2.0, 1.0], [0.5, 0.25]]))
    tensor([2., inf])
    >>> t = torch.tensor([0.0, 1.0])
    >>> ttfs_fast.spiking_linear(t, torch.tensor([[0.5, 1.5]]), neuron="rel-psp")
    tensor([1.2500])
    """
    if ops.in_trace():
        return ops.traced_linear(input, weight, bias, t_max, neuron)
    input, weight, bias, t_max = _checked("spiking_linear", input, weight, bias, t_max, neuron)
    if input.dim() == 0 or weight.dim() != 2:
        raise RuntimeError(
            "spiking_linear takes an input of shape (..., N) and a weight of shape (M, N); got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    if input.shape[-1] != weight.shape[1]:
        raise RuntimeError(
            f"spiking_linear got an input with {input.shape[-1]} features (shape "
            f"{tuple(input.shape)}) and a weight for {weight.shape[1]} (shape "
            f"{tuple(weight.shape)}); the input's last size and the weight's must be equal"
        )
    _check_bias("spiking_linear", bias, weight)
    rows = input
    if input.dim() != 2:
        rows = input.reshape(math.prod(input.shape[:-1]), input.shape[-1])
    z: Tensor = ops.linear(rows, weight, bias, t_max, neuron)[0]
    return z if input.dim() == 2 else z.reshape(*input.shape[:-1], weight.shape[0])


@overridable
def spiking_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    t_max: float = math.inf,
    neuron: NeuronName = "n-lif",
) -> Tensor:
    """Spike values of a convolution layer of non-leaky integrate-and-fire neurons.

    Replaces :func:`torch.nn.functional.conv2d`: it has the same signature and shapes, and the
    memory format of its input. Each output is the neuron of :func:`spiking_linear` on its receptive
    field (equation 4); padding is silent input.

    Parameters
    ----------
    input : Tensor
        Spike values, shape (N, C, H, W) or (C, H, W), float32 or float64, positive; ``inf`` is
        silence.
    weight : Tensor
        Shape (M, C / groups, kernel height, kernel width), same type.
    bias : Tensor, optional
        Shape (M,): the weights of one more input, which spikes at t = 0 (z = 1).
    stride, dilation : int or pair of int
        As torch.
    padding : int, pair of int, "valid" or "same"
        Rows and columns of silence on either side. ``"same"`` gives outputs of size
        ceil(size / stride) for any stride, the odd row or column of padding at the end.
    groups : int
        As torch.
    t_max : float
        The horizon: spikes later than this time are treated as no spike (inf).
    neuron : {"n-lif", "rel-psp", "falling-threshold"}
        As :func:`spiking_linear`.

    Returns
    -------
    Tensor
        Spike values, shape (N, M, H', W') or (M, H', W'), ``inf`` where silent.

    Raises
    ------
    ValueError, TypeError
        As :func:`spiking_linear`.
    RuntimeError
        If shapes, stride, padding, dilation or groups do not fit, as torch.

    Examples
    --------
    >>> import torch, ttfs_fast
    >>> z = torch.rand(8, 3, 32, 32).exp()
    >>> weight = torch.rand(64, 3, 3, 3) * 8 / 27
    >>> ttfs_fast.spiking_conv2d(z, weight, padding=1).shape
    torch.Size([8, 64, 32, 32])
    """
    if ops.in_trace():
        mode, pads = (padding, 0) if isinstance(padding, str) else ("", padding)
        return ops.traced_conv2d(
            input, weight, bias, stride, pads, mode, dilation, groups, t_max, neuron
        )
    name = "spiking_conv2d"
    input, weight, bias, t_max = _checked(name, input, weight, bias, t_max, neuron)
    if input.dim() not in (3, 4) or weight.dim() != 4:
        raise RuntimeError(
            f"{name} takes a 3-D (unbatched) or 4-D (batched) input and a 4-D weight; got shapes "
            f"{tuple(input.shape)} and {tuple(weight.shape)}"
        )
    steps, holes = (
        checked_pair(name, "stride", stride, 1),
        checked_pair(name, "dilation", dilation, 1),
    )
    (groups,) = whole_numbers(groups)
    if groups < 1:
        raise RuntimeError(f"{name}: groups is {groups}; it must be at least 1")
    channels, outputs = input.shape[-3], weight.shape[0]
    if channels != weight.shape[1] * groups or outputs % groups:
        raise RuntimeError(
            f"{name}: given groups={groups} and a weight of shape {tuple(weight.shape)}, expected "
            f"an input with {weight.shape[1] * groups} channels and a number of outputs that "
            f"groups divides; got an input of shape {tuple(input.shape)}"
        )
    _check_bias(name, bias, weight)
    kernel = tuple(weight.shape[2:])
    if min(kernel) < 1:
        raise RuntimeError(f"{name}: the kernel must not be empty; got {kernel}")
    before, output_size = conv_sizes(name, tuple(input.shape[-2:]), kernel, steps, padding, holes)
    batch = input if input.dim() == 4 else input[None]
    z: Tensor = ops.conv2d(
        batch, weight, bias, steps, before, holes, groups, t_max, output_size, neuron
    )[0]
    return z if input.dim() == 4 else z[0]


@overridable
def spiking_max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """First spike of each window.

    Replaces :func:`torch.nn.functional.max_pool2d`: the strongest input is the one that spikes
    first, so the pool takes the *least* spike value (section 3.2 of the paper: "the output is just
    the first arrived input").

    Parameters
    ----------
    input : Tensor
        Spike values, shape (N, C, H, W) or (C, H, W), float32 or float64.
    kernel_size, stride, padding, dilation : int or pair of int
        As torch; the stride defaults to the kernel size, padding is silent.
    ceil_mode : bool
        As torch.

    Returns
    -------
    Tensor
        Shape (N, C, H', W') or (C, H', W'), ``inf`` for a silent window. The gradient goes to the
        first of the inputs that attain the minimum; a silent window passes none.

    Raises
    ------
    TypeError
        If `input` is not float32 or float64.
    RuntimeError
        If the sizes do not fit, as torch.

    Examples
    --------
    >>> import torch, ttfs_fast
    >>> ttfs_fast.spiking_max_pool2d(torch.tensor([[[3.0, 2.0], [float("inf"), 5.0]]]), 2)
    tensor([[[2.]]])
    """
    if ops.in_trace():
        steps = kernel_size if stride is None else stride
        return ops.traced_max_pool2d(input, kernel_size, steps, padding, dilation, ceil_mode)
    name = "spiking_max_pool2d"
    _check_types(name, input=input)
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"{name} takes an input of shape (N, C, H, W) or (C, H, W); got {tuple(input.shape)}"
        )
    kernel = checked_pair(name, "kernel_size", kernel_size, 1)
    given = [] if stride is None else whole_numbers(stride)
    steps = checked_pair(name, "stride", given, 1) if given else kernel
    before, holes = (
        checked_pair(name, "padding", padding, 0),
        checked_pair(name, "dilation", dilation, 1),
    )
    if any(2 * p > d * (k - 1) + 1 for p, k, d in zip(before, kernel, holes, strict=True)):
        raise RuntimeError(f"{name}: padding {before} must be at most half of the window {kernel}")
    output_size = []
    for n, k, s, p, d in zip(input.shape[-2:], kernel, steps, before, holes, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        out = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (out - 1) * s >= n + p:  # the last window must start inside
            out -= 1
        if out < 1:
            raise RuntimeError(
                f"{name}: an input of shape {tuple(input.shape)} is smaller than the window "
                f"{kernel} with dilation {holes} and padding {before}"
            )
        output_size.append(out)
    batch = input if input.dim() == 4 else input[None]
    z: Tensor = ops.max_pool2d(batch, kernel, steps, before, holes, output_size)[0]
    return z if input.dim() == 4 else z[0]


@overridable
def spiking_delay(input: Tensor, delay: Tensor, *, neuron: NeuronName = "n-lif") -> Tensor:
    """Delay spikes: multiply each channel's spike values by exp(delay).

    Parameters
    ----------
    input : Tensor
        Spike values of features, shape (F,) or (N, F), or of maps, shape (C, H, W) or
        (N, C, H, W); float32 or float64, positive. ``inf`` is silence and stays silent.
    delay : Tensor
        Delay of each channel or feature, shape (C,) or (F,), of the same type, in units of the
        synaptic time constant. A negative one counts as 0.
    neuron : {"n-lif", "rel-psp", "falling-threshold"}
        The neuron that sends the spikes. With the last two `input` contains spike times, and the
        delay is added.

    Returns
    -------
    Tensor
        Of the shape of `input`. A value above the largest number of its type is ``inf``: silent.

    Raises
    ------
    ValueError
        If some input is zero or negative (for spike times: -inf), or there is no such neuron.
    TypeError
        If a tensor is not float32 or float64, or the types differ.
    RuntimeError
        If the shapes do not fit.

    Notes
    -----
    With z = exp(t), the spike time t + d is the spike value z exp(d). Gradients are
    ``dz_out / dz_in = exp(d)`` and ``dz_out / dd = z_out``, hence ``dt_out / dd = 1``. Silent
    inputs get no gradient and give none to the delay. A delay at or below 0 gets only gradients
    that increase it.

    Examples
    --------
    >>> import torch, ttfs_fast
    >>> z = torch.tensor([[1.0, 1.0, torch.inf]])
    >>> ttfs_fast.spiking_delay(z, torch.tensor([0.0, 1.0, 1.0]))
    tensor([[1.0000, 2.7183,    inf]])
    """
    name = "spiking_delay"
    _check_types(name, input=input, delay=delay)
    if input.dtype not in (torch.float32, torch.float64):  # under autocast
        input, delay = input.float(), delay.float()
    channels_at = {1: 0, 2: 1, 3: 0, 4: 1}
    if input.dim() not in channels_at:
        raise RuntimeError(
            f"{name} takes an input of shape (F,), (N, F), (C, H, W) or (N, C, H, W); got "
            f"{tuple(input.shape)}"
        )
    axis = channels_at[input.dim()]
    if not ops.in_trace() and tuple(delay.shape) != (input.shape[axis],):
        raise RuntimeError(
            f"{name}: delay has shape {tuple(delay.shape)}; for an input of shape "
            f"{tuple(input.shape)} it must be ({input.shape[axis]},), one for each "
            f"{'feature' if input.dim() < 3 else 'channel'}"
        )
    on_times = neuron_of(neuron).on_times
    if ops.in_trace():
        return ops.traced_delay(input, delay, neuron)
    kept: Tensor = _NotNegative.apply(delay)  # type: ignore[no-untyped-call]
    kept = kept.view(-1, *[1] * (input.dim() - 1 - axis))
    if on_times:
        if has_values(input) and bool((input == -math.inf).any()):
            raise ValueError(f"{name}: a spike time is -inf; it must be a number, inf where silent")
        return input + torch.where(input == math.inf, 0, kept)
    check_spike_values(input)
    # inf never meets the factor: its gradient, 0 times inf, would be NaN.
    silent = input == math.inf
    # exp, or the product, may overflow.
    if in_transform(kept) or (has_values(kept) and bool((kept > LONG_DELAY).any())):
        late = input.detach().log() + kept.detach() > math.log(torch.finfo(input.dtype).max)
        silent = silent | late
        kept = torch.where(silent, 0, kept)
        half = (kept / 2).exp()
        return torch.where(silent, math.inf, torch.where(silent, 1, input) * half * half)
    return torch.where(silent, input, torch.where(silent, 1, input) * kept.exp())


class _NotNegative(torch.autograd.Function):
    """max(0, d), whose gradient is 0 only where a step would make a delay of 0 negative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(delay: Tensor) -> Tensor:
        return delay.clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (delay,) = ctx.saved_tensors
        return torch.where((delay <= 0) & (grad > 0), 0, grad)


def _checked(
    name: str, input: Tensor, weight: Tensor, bias: Tensor | None, t_max: float, neuron: str
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    _check_types(name, input=input, weight=weight, bias=bias)
    if math.isnan(t_max):
        raise ValueError(f"{name}: t_max is NaN; it must be a time, or inf for no horizon")
    neuron_of(neuron)
    return input, weight, bias, float(t_max)


def _check_types(name: str, **tensors: Tensor | None) -> None:
    """Refuses types and devices that differ or have no kernel."""
    given = {key: t for key, t in tensors.items() if t is not None}
    for key, t in given.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}: {key} must be a tensor, got {type(t).__name__}")
    first = given["input"]
    device = first.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    for key, t in given.items():
        if autocast and t.dtype in (torch.float16, torch.bfloat16):
            continue  # becomes float32
        if t.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{name} computes in float32 or float64; {key} is {t.dtype}: convert it with "
                ".float(); in half precision spike times would lose their meaning"
            )
    if len({t.dtype == torch.float64 for t in given.values()}) > 1:
        raise TypeError(
            f"{name}: "
            + ", ".join(f"{key} is {t.dtype}" for key, t in given.items())
            + "; all must be of one type: convert some of them"
        )
    for key, t in given.items():
        if t.device != first.device:
            raise RuntimeError(
                f"{name}: {key} is on {t.device} but input is on {first.device}; move one of them"
            )
    # Forward-mode derivatives through a custom operator would silently be zero.
    if (
        not torch.compiler.is_compiling()
        and forward_ad._current_level >= 0
        and any(_has_tangent(t) for t in given.values())
    ):
        raise NotImplementedError(
            f"{name} has no forward-mode derivative (torch.func.jvp, torch.autograd.forward_ad); "
            "use reverse mode, or ttfs_fast.reference, which is plain torch"
        )


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def _check_bias(name: str, bias: Tensor | None, weight: Tensor) -> None:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise RuntimeError(
            f"{name}: bias has shape {tuple(bias.shape)}; with a weight of shape "
            f"{tuple(weight.shape)} it must be ({weight.shape[0]},)"
        )
