"""The operators in plain torch: slow, simple, differentiable by torch itself.

Everything here follows equations (3) and (4) of Zhou et al., "Temporal-Coded Deep Spiking Neural
Network with Easy Training and Robust Performance" (AAAI 2021), by sorting each receptive field,
summing its weights and looking for the first crossing. The kernels are tested against these
functions, and tensors on devices that have no kernel run through :func:`linear_forward` and
:func:`linear_backward` in chunks of bounded memory.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ttfs_fast.neurons import NEURONS, Neuron

MAX_ELEMENTS = 2**24
"""Most synapses (rows x inputs x outputs) of one chunk."""


def spiking_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    t_max: float = math.inf,
    neuron: str = "n-lif",
) -> Tensor:
    """Spike values of a fully connected layer; see :func:`ttfs_fast.spiking_linear`.

    Memory grows with rows x inputs x outputs. Differentiable as often as torch allows.
    """
    kind = NEURONS[neuron]
    rows = input.reshape(input.shape[:-1].numel(), input.shape[-1])  # -1 needs an element
    if bias is not None:
        rows = torch.cat([rows, rows.new_full((rows.shape[0], 1), kind.origin)], dim=1)
        weight = torch.cat([weight, bias[:, None]], dim=1)
    z, _ = _spike(rows, weight, t_max, kind)
    return z.reshape(*input.shape[:-1], weight.shape[0])


def fire(z_in: Tensor, weight: Tensor, t_max: float = math.inf) -> tuple[Tensor, Tensor]:
    """Spike values and slopes D of the outputs, by the definition.

    Parameters
    ----------
    z_in : Tensor
        Spike values of the inputs, shape (rows, inputs).
    weight : Tensor
        Shape (outputs, inputs).
    t_max : float
        The horizon: spikes later than this are treated as no spike (inf).

    Returns
    -------
    tuple of Tensor
        ``z`` (rows, outputs), ``inf`` where silent, and ``slope``, the sum of the causal set's
        weights less one, 0 where silent.
    """
    rows, outputs = z_in.shape[0], weight.shape[0]
    horizon = torch.tensor(t_max, dtype=torch.float64).exp().to(z_in.dtype).item()
    if z_in.shape[1] == 0:
        silent = z_in.new_full((rows, outputs), math.inf)
        return silent, torch.zeros_like(silent)

    time, order = torch.sort(z_in, dim=1, stable=True)  # (rows, inputs)
    arrives = time < horizon
    next_time = torch.cat([time[:, 1:], time.new_full((rows, 1), math.inf)], dim=1)
    next_time = next_time.clamp(max=horizon)

    # F(z) = slope * z - moment between one input spike and the next; (rows, inputs, outputs).
    w = torch.where(arrives[..., None], weight.t()[order], 0)
    slope = torch.cumsum(w, dim=1) - 1
    moment = torch.cumsum(w * torch.where(arrives, time, 0)[..., None], dim=1)
    rises = slope > 0
    crosses = arrives[..., None] & rises & (slope * next_time[..., None] - moment >= 0)

    spikes = crosses.any(dim=1)  # (rows, outputs)
    last = crosses.to(torch.uint8).argmax(dim=1, keepdim=True)  # last input of the causal set
    slope = slope.gather(1, last).squeeze(1)
    moment = moment.gather(1, last).squeeze(1)
    z = torch.where(spikes, moment / torch.where(spikes, slope, 1), math.inf)
    slope = torch.where(spikes, slope, 0)

    undefined = z_in.isnan().any(dim=1)[:, None] | ~weight.isfinite().all(dim=1)[None, :]
    return torch.where(undefined, math.nan, z), torch.where(undefined, math.nan, slope)


def _spike(x_in: Tensor, weight: Tensor, t_max: float, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """:func:`fire`, or its sister for neurons on spike times."""
    if not neuron.on_times:
        return fire(x_in, weight, t_max)
    return first_crossing(
        x_in, weight, slope=neuron.slope, threshold=neuron.threshold, latest=t_max
    )


def first_crossing(
    x_in: Tensor,
    weight: Tensor,
    *,
    slope: float = -1.0,
    threshold: float = 0.0,
    latest: float = math.inf,
) -> tuple[Tensor, Tensor]:
    """Spikes of a family of neurons: this package's default neuron and its sister neurons.

    Neuron j spikes at the first zero from below of the piecewise linear function ::

        F_j(x) = sum_{i: x_i < x} w_ji (x - x_i) + slope x - threshold,

    that is at ``x_j = (threshold + sum_{i in C} w_ji x_i) / D_j`` with the causal set C and
    ``D_j = sum_{i in C} w_ji + slope``.

    =====  =========  ==========  ==============================================================
    slope  threshold  x           neuron
    =====  =========  ==========  ==============================================================
    -1     0          z = exp(t)  non-leaky integrate-and-fire, exponential synapses: :func:`fire`
    0      1          t           each spike adds a ramp to the membrane: the rectified linear
                                  postsynaptic potential (ReL-PSP)
    above  theta      t           the same with a threshold that falls, theta - slope t, and
    0                             reaches every neuron at theta / slope
    =====  =========  ==========  ==============================================================

    Parameters
    ----------
    x_in : Tensor
        When the inputs spike, shape (rows, inputs); ``inf`` is silence.
    weight : Tensor
        Shape (outputs, inputs).
    slope, threshold : float
        They define F before any input; finite. With a slope of 0 or more the threshold must be
        above 0. With a slope below 0 it must be 0, and every input above 0.
    latest : float
        The horizon: spikes later than this are treated as no spike (inf).

    Returns
    -------
    tuple of Tensor
        ``x`` (rows, outputs), ``inf`` where silent, and D, 0 where silent.

    Raises
    ------
    ValueError
        If slope, threshold or an input is outside these ranges.

    Notes
    -----
    The rules for ties, silence, horizon and NaN are those of :func:`fire`, as are the gradients
    ``dx_j / dx_i = w_ji / D_j`` and ``dx_j / dw_ji = (x_i - x_j) / D_j``. The kernels compute those
    of :data:`ttfs_fast.neurons.NEURONS`. Memory grows with rows x inputs x outputs.

    References
    ----------
    M. Zhang et al., "Rectified Linear Postsynaptic Potential Function for Backpropagation in Deep
    Spiking Neural Networks", IEEE TNNLS, 2021 (arXiv 2003.11837).
    W. Wei et al., "Temporal-Coded Spiking Neural Networks with Dynamic Firing Threshold: Learning
    with Event-Driven Backpropagation", ICCV 2023.

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.reference import first_crossing
    >>> times, weight = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 1.5]])
    >>> x, d = first_crossing(times, weight, slope=0, threshold=1)  # 0.5 t + 1.5 (t - 1) = 1
    >>> x.item(), d.item()
    (1.25, 2.0)
    """
    if not (math.isfinite(slope) and math.isfinite(threshold)):
        raise ValueError(f"slope and threshold must be finite; got {slope} and {threshold}")
    if (slope < 0 and threshold != 0) or (slope >= 0 and threshold <= 0):
        raise ValueError(
            f"with slope={slope} the threshold must be "
            f"{'0' if slope < 0 else 'above 0'}, or neurons would spike before any input; got "
            f"{threshold}"
        )
    if bool((x_in == -math.inf).any()) or (slope < 0 and bool((x_in <= 0).any())):
        raise ValueError(
            f"inputs must be {'above 0' if slope < 0 else 'finite'} (inf where silent); got "
            f"{x_in.min().item():g}"
        )
    time, order = torch.sort(x_in, dim=1, stable=True)  # (rows, inputs)
    arrives = time < latest
    # The stretch before the first input, then one behind each; (rows, 1 + inputs, outputs).
    end = torch.cat([time, time.new_full((len(time), 1), math.inf)], dim=1).clamp(max=latest)
    w = torch.where(arrives[..., None], weight.t()[order], 0)
    before = w.new_zeros(len(time), 1, len(weight))
    d = torch.cat([before, torch.cumsum(w, dim=1)], dim=1) + slope
    moment = torch.cumsum(w * torch.where(arrives, time, 0)[..., None], dim=1)
    moment = torch.cat([before, moment], dim=1) + threshold
    begun = torch.cat([arrives.new_ones(len(time), 1), arrives], dim=1)
    crosses = begun[..., None] & (d > 0) & (d * end[..., None] - moment >= 0)

    spikes = crosses.any(dim=1)  # (rows, outputs)
    last = crosses.to(torch.uint8).argmax(dim=1, keepdim=True)
    d, moment = d.gather(1, last).squeeze(1), moment.gather(1, last).squeeze(1)
    x = torch.where(spikes, moment / torch.where(spikes, d, 1), math.inf)
    d = torch.where(spikes, d, 0)
    undefined = x_in.isnan().any(dim=1)[:, None] | ~weight.isfinite().all(dim=1)[None, :]
    return torch.where(undefined, math.nan, x), torch.where(undefined, math.nan, d)


def spiking_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    *,
    t_max: float = math.inf,
    neuron: str = "n-lif",
) -> Tensor:
    """Spike values of a convolution layer; see :func:`ttfs_fast.spiking_conv2d`.

    Takes a batched input and pairs of integers; one image at a time, each receptive field a row
    of a fully connected layer.
    """
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(
            input.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    )
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]), value=math.inf)
    images = []
    for image in padded:
        parts = []
        for x, w, b in _groups(image[None], weight, bias, groups):
            fields = x.new_empty(height * width, 0)  # (pixels, inputs)
            if x.shape[1] > 0:
                fields = F.unfold(x, w.shape[2:], dilation, 0, stride)[0].t()
            parts.append(spiking_linear(fields, w.flatten(1), b, t_max=t_max, neuron=neuron))
        images.append(torch.cat(parts, dim=1).t().reshape(-1, height, width))
    if not images:
        return input.new_empty((0, weight.shape[0], height, width))
    return torch.stack(images)


def spiking_max_pool2d(
    input: Tensor,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """First spike of each window; see :func:`ttfs_fast.spiking_max_pool2d`."""
    z = -F.max_pool2d(-input, kernel_size, stride, padding, dilation, ceil_mode)
    return torch.where(z == math.inf, math.inf, z)  # a silent window passes no gradient


def linear_forward(
    z_in: Tensor, weight: Tensor, bias: Tensor | None, t_max: float, neuron: str = "n-lif"
) -> tuple[Tensor, Tensor]:
    """:func:`fire` for any size, in chunks of at most ``MAX_ELEMENTS`` synapses."""
    kind = NEURONS[neuron]
    if bias is not None:
        z_in = torch.cat([z_in, z_in.new_full((z_in.shape[0], 1), kind.origin)], dim=1)
        weight = torch.cat([weight, bias[:, None]], dim=1)
    z = z_in.new_empty(z_in.shape[0], weight.shape[0])
    slope = torch.empty_like(z)
    for rows, outputs in _chunks(z_in.shape[0], *weight.shape):
        z[rows, outputs], slope[rows, outputs] = _spike(z_in[rows], weight[outputs], t_max, kind)
    return z, slope


def linear_backward(
    grad: Tensor,
    z_in: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the inputs (rows, inputs), weights (outputs, inputs) and bias (outputs).

    With D the slope and only for neurons that spike and inputs in their causal set,
    ``dz_j/dz_i = w_ji / D_j`` and ``dz_j/dw_ji = (z_i - z_j) / D_j``; for the bias ``z_i`` is 1,
    or the time 0.
    """
    silent = z == math.inf
    g = torch.where(silent, 0, torch.where(z.isnan(), z, grad / torch.where(silent, 1, slope)))
    z = torch.where(silent, -math.inf, z)  # before any input
    grad_in, grad_weight = torch.zeros_like(z_in), torch.zeros_like(weight)
    for rows, outputs in _chunks(z_in.shape[0], *weight.shape):
        ahead = z[rows, outputs, None] - z_in[rows, None, :]  # (rows, outputs, inputs)
        some = g[rows, outputs]
        causal = ~(ahead <= 0)  # a NaN spreads
        passed = torch.where(causal, some[:, :, None] * weight[outputs], 0)
        grad_in[rows] += passed.sum(dim=1)
        grad_weight[outputs] -= torch.einsum("ro,roi->oi", some, ahead.clamp(min=0))
    grad_bias = -(g * (z - NEURONS[neuron].origin).clamp(min=0)).sum(dim=0)
    return grad_in, grad_weight, grad_bias


def conv2d_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    t_max: float,
    output_size: Sequence[int],
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor]:
    """Spike values (batch, outputs, height, width) and slopes (batch, height, width, outputs)."""
    shape = (weight.shape[0], *output_size)
    z = input.new_empty((input.shape[0], *shape))
    slope = input.new_empty((input.shape[0], *output_size, weight.shape[0]))
    for n, image in enumerate(input):
        x_all = pad_input(image[None], weight, stride, padding, dilation, output_size)
        parts = []
        for x, w, b in _groups(x_all, weight, bias, groups):
            fields = F.unfold(x, w.shape[2:], tuple(dilation), 0, tuple(stride))[0].t()
            parts.append(linear_forward(fields, w.flatten(1), b, t_max, neuron))
        z[n] = torch.cat([part[0] for part in parts], dim=1).t().reshape(shape)
        slope[n] = torch.cat([part[1] for part in parts], dim=1).reshape(slope.shape[1:])
    return z, slope


def conv2d_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    z: Tensor,
    slope: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    neuron: str = "n-lif",
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, the weights and the bias of :func:`conv2d_forward`."""
    grad_in, grad_weight = torch.zeros_like(input), torch.zeros_like(weight)
    grad_bias = weight.new_zeros(weight.shape[0])
    outputs = weight.shape[0] // groups
    height, width = input.shape[2:]
    kernel, steps = tuple(weight.shape[2:]), (tuple(dilation), 0, tuple(stride))
    for n, image in enumerate(input):
        x_all = pad_input(image[None], weight, stride, padding, dilation, z.shape[2:])
        parts = []
        for g, (x, w, _) in enumerate(_groups(x_all, weight, None, groups)):
            some = slice(g * outputs, (g + 1) * outputs)
            fields = F.unfold(x, kernel, *steps)[0].t()
            flat = [t[n, some].flatten(1).t() for t in (grad, z)]
            d_in, d_weight, d_bias = linear_backward(
                flat[0], fields, w.flatten(1), flat[1], slope[n, :, :, some].flatten(0, 1), neuron
            )
            parts.append(F.fold(d_in.t()[None], x.shape[2:], kernel, *steps)[0])
            grad_weight[some] += d_weight.reshape(w.shape)
            grad_bias[some] += d_bias
        whole = torch.cat(parts)
        whole = whole[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
        grad_in[n, :, : whole.shape[1], : whole.shape[2]] = whole
    return grad_in, grad_weight, grad_bias


def pad_input(
    image: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_size: Sequence[int],
) -> Tensor:
    """Silent padding of the image, exactly as far as the receptive fields of the output extend."""
    after = [
        (out - 1) * s + d * (k - 1) + 1 - p - n
        for out, s, d, k, p, n in zip(
            output_size, stride, dilation, weight.shape[2:], padding, image.shape[2:], strict=True
        )
    ]
    return F.pad(image, (padding[1], after[1], padding[0], after[0]), value=math.inf)


def _groups(
    input: Tensor, weight: Tensor, bias: Tensor | None, groups: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    biases = [None] * groups if bias is None else bias.chunk(groups)
    yield from zip(input.chunk(groups, dim=1), weight.chunk(groups), biases, strict=True)


def _chunks(rows: int, outputs: int, inputs: int) -> Iterator[tuple[slice, slice]]:
    some = min(outputs, max(1, MAX_ELEMENTS // max(inputs, 1)))
    step = max(1, MAX_ELEMENTS // max(inputs * some, 1))
    for row in range(0, rows, step):
        for output in range(0, outputs, max(some, 1)):
            yield slice(row, row + step), slice(output, output + some)
