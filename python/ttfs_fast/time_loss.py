"""Losses on spike times: outputs that should spike at given times, and the values of these times.

In classification the output that spikes first is the class (:mod:`ttfs_fast.loss`); in regression
the time of an output spike is the value. This module has the squared error of first-spike times, a
readout that converts times to values and back, and a cost that makes silent neurons spike, which no
loss on their outputs can do.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttfs_fast._overrides import overridable
from ttfs_fast.encoding import check_spike_values, has_values
from ttfs_fast.geometry import conv_axis
from ttfs_fast.neurons import neuron_of
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

MAX_TIME = 10.0
"""Default time, in units of tau, that replaces silence."""

Reduction = Literal["mean", "sum", "none"]


@overridable
def first_spike_mse(
    z: Tensor,
    target: Tensor,
    *,
    tolerance: float = 0.0,
    max_time: float = MAX_TIME,
    reduction: Reduction = "mean",
) -> Tensor:
    """Squared error of first-spike times against target times.

    The error of an output is the distance of its time t = ln z from the target minus `tolerance`,
    and 0 within the tolerance. The loss is its square.

    Parameters
    ----------
    z : Tensor
        Spike values of the outputs, float32 or float64, any shape; ``inf`` where silent.
    target : Tensor
        Spike times in units of tau, of the same shape and type; ``inf`` for an output that should
        stay silent.
    tolerance : float
        0 or above, in units of tau.
    max_time : float
        Time that replaces silence, in units of tau; finite. See the notes.
    reduction : {"mean", "sum", "none"}
        Over all outputs.

    Returns
    -------
    loss : Tensor
        Scalar, or of the shape of `z` for ``reduction="none"``; in units of tau squared.

    Raises
    ------
    TypeError
        If a tensor is not float32 or float64, or the types differ.
    ValueError
        If the shapes differ, a spike value is 0 or negative, a target is NaN, -inf, or finite and
        later than `max_time`, or an option is out of its range.

    Notes
    -----
    ==================  =====================================================================
    case                rule
    ==================  =====================================================================
    spike, target       ``max(0, abs(t - target) - tolerance) ** 2``
    silent, target      counts as a spike at ``max_time``: a loss, but no gradient, since a
                        silent neuron has no time that its weights could move
    spike, no target    ``max(0, max_time - tolerance - t) ** 2``: pushed later
    silent, no target   0
    ==================  =====================================================================

    A spike later than ``max_time`` keeps its own time and gradient, and may cost more than silence.
    To make silent outputs spike, use :func:`silence_cost`, or the weight-sum cost of equation (5),
    :func:`ttfs_fast.loss.weight_sum_cost`.

    NaN in ``z`` gives NaN.

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.time_loss import first_spike_mse
    >>> z = torch.tensor([1.0, 2.0, torch.inf]).exp()
    >>> first_spike_mse(z, torch.tensor([1.5, 2.0, 9.0]), tolerance=0.5, reduction="none")
    tensor([0.0000, 0.0000, 0.2500])
    """
    for name, tensor in (("z", z), ("target", target)):
        if tensor.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64; got {tensor.dtype}")
    if z.dtype != target.dtype:
        raise TypeError(f"z is {z.dtype} and target is {target.dtype}; convert one of them")
    if z.shape != target.shape:
        raise ValueError(
            f"z and target must have one shape; got {tuple(z.shape)} and {tuple(target.shape)}"
        )
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be finite and 0 or above; got {tolerance}")
    if not math.isfinite(max_time):
        raise ValueError(f"max_time must be finite; got {max_time}")
    if reduction not in get_args(Reduction):
        names = ", ".join(repr(name) for name in get_args(Reduction))
        raise ValueError(f"reduction must be one of {names}; got {reduction!r}")
    if has_values(z) and has_values(target):
        check_spike_values(z)
        late = target.isfinite() & (target > max_time)
        if bool((target.isnan() | (target == -math.inf) | late).any()):
            raise ValueError(
                f"targets must be times up to max_time={max_time:g}, or inf for an output "
                "that is to stay silent; got "
                f"{target[target.isnan() | (target == -math.inf) | late][0].item():g}"
            )
    silent, wanted = z == math.inf, target < math.inf
    # inf meets neither the logarithm nor the difference, whose gradients would be NaN.
    times = torch.where(silent, 1, z).log()
    times = torch.where(silent, max_time, times)
    from_target = times - torch.where(wanted, target, 0)
    error = torch.where(wanted, from_target.abs(), (max_time - times).clamp(min=0))
    losses = (error - tolerance).clamp(min=0).square()
    if reduction == "mean":
        return losses.mean()
    return losses.sum() if reduction == "sum" else losses


def silence_cost(
    layer: SpikingLinear | SpikingConv2d,
    inputs: Tensor,
    outputs: Tensor,
    target: Tensor | None = None,
    *,
    margin: float = 0.1,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cost of silent neurons, whose gradient makes them spike.

    A neuron without a horizon certainly spikes if the weights of *all* inputs that spike sum to
    more than 1. (It may spike earlier, if those of the first inputs do so for long enough.) For a
    silent neuron the cost is ``max(0, 1 + margin - sum_i w_ji)`` over the inputs i that spike, its
    bias included; for one that spikes it is 0. (For neurons on spike times 0 takes the place of 1,
    with a falling threshold -1.)

    Parameters
    ----------
    layer : SpikingLinear or SpikingConv2d
        The layer whose outputs are silent.
    inputs, outputs : Tensor
        Spike values (or times) of its inputs and outputs.
    target : Tensor, optional
        Spike times as for :func:`first_spike_mse`: outputs whose target is ``inf`` may be silent.
    margin : float
        By how much the sum should exceed 1; 0 or above.
    reduction : {"mean", "sum", "none"}
        Over all outputs.

    Returns
    -------
    cost : Tensor
        Scalar, or of the shape of `outputs`. Its gradient reaches the weights of the inputs that
        spiked, and the bias; the inputs get none.

    Raises
    ------
    TypeError
        If the layer is of another kind.
    ValueError
        If `outputs` or `target` does not have the shape of the layer's output, or an option is out
        of its range.

    Notes
    -----
    The weight-sum cost of equation (5) applies to all weights of all neurons, for any input. This
    cost applies only to silent neurons, and to the weights of inputs that spike. A horizon may
    silence a neuron whose weights are large enough; such a neuron has no cost.
    """
    if not isinstance(layer, SpikingLinear | SpikingConv2d):
        raise TypeError(
            f"layer must be a SpikingLinear or SpikingConv2d; got {type(layer).__name__}"
        )
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin must be finite and 0 or above; got {margin}")
    if reduction not in get_args(Reduction):
        names = ", ".join(repr(name) for name in get_args(Reduction))
        raise ValueError(f"reduction must be one of {names}; got {reduction!r}")
    place = 1 if isinstance(layer, SpikingLinear) else 3
    channels = layer.in_features if isinstance(layer, SpikingLinear) else layer.in_channels
    if inputs.dim() < place or inputs.shape[-place] != channels:
        raise ValueError(
            f"inputs must be what {layer} takes, with {channels} "
            f"{'features' if place == 1 else 'channels'}; got {tuple(inputs.shape)}"
        )
    heard = inputs.detach().isfinite().to(layer.weight.dtype)
    if isinstance(layer, SpikingLinear):
        sums = F.linear(heard, layer.weight, layer.bias)
    else:
        sums = _convolved(layer, heard)
    if sums.shape != outputs.shape or (target is not None and target.shape != sums.shape):
        raise ValueError(
            f"the layer gives {tuple(sums.shape)} for these inputs; outputs (and target) must have "
            f"that shape; got {tuple(outputs.shape)}"
            + ("" if target is None else f" and {tuple(target.shape)}")
        )
    lacking = outputs.detach() == math.inf
    if target is not None:
        lacking = lacking & (target < math.inf)
    least = -neuron_of(layer.neuron).slope
    costs = torch.where(lacking, (least + margin - sums).clamp(min=0), 0)
    if reduction == "mean":
        return costs.mean()
    return costs.sum() if reduction == "sum" else costs


def _convolved(layer: SpikingConv2d, heard: Tensor) -> Tensor:
    pads: list[int] = []
    for axis in (1, 0):  # F.pad wants the last dimension first
        size, kernel = heard.shape[heard.dim() - 2 + axis], layer.kernel_size[axis]
        stride, hole = layer.stride[axis], layer.dilation[axis]
        given = layer.padding if isinstance(layer.padding, str) else layer.padding[axis]
        out, before = conv_axis(size, kernel, stride, given, hole)
        pads += [before, (out - 1) * stride + hole * (kernel - 1) + 1 - before - size]
    padded = F.pad(heard, pads)
    return F.conv2d(padded, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


class TimeReadout(nn.Module):
    """Linear map between spike times and values.

    Parameters
    ----------
    first, last : float
        The values of spikes at `first_time` and at `last_time`; they differ.
    first_time, last_time : float
        Times in units of tau, the first before the last.
    silent : float
        The value of a silent output; NaN by default.

    Raises
    ------
    ValueError
        If a value or time is not finite, both values are equal, or the times are not in order.

    Notes
    -----
    Spikes before and after the two times get values beyond the two, on the same line. The encoding
    of pixels is the line from (0, intensity 1) to (alpha, intensity 0).

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.time_loss import TimeReadout
    >>> readout = TimeReadout(first=1.0, last=-1.0, first_time=2.0, last_time=4.0)
    >>> readout.times(torch.tensor([1.0, 0.0, -1.0]))
    tensor([2., 3., 4.])
    >>> readout(torch.tensor([2.0, 3.0, torch.inf]).exp())
    tensor([1., 0., nan])
    """

    def __init__(
        self,
        first: float,
        last: float,
        first_time: float,
        last_time: float,
        *,
        silent: float = math.nan,
    ) -> None:
        super().__init__()
        if not all(map(math.isfinite, (first, last, first_time, last_time))):
            raise ValueError(
                f"values and times must be finite; got first={first}, last={last}, "
                f"first_time={first_time}, last_time={last_time}"
            )
        if first == last:
            raise ValueError(f"first and last must differ; both are {first}")
        if not first_time < last_time:
            raise ValueError(
                f"first_time must be before last_time; got {first_time} and {last_time}"
            )
        self.first, self.last = float(first), float(last)
        self.first_time, self.last_time = float(first_time), float(last_time)
        self.silent = float(silent)

    @property
    def slope(self) -> float:
        """Value per tau."""
        return (self.last - self.first) / (self.last_time - self.first_time)

    def forward(self, z: Tensor) -> Tensor:
        """Values of spike values of any shape; differentiable where there is a spike."""
        check_spike_values(z)
        silent = z == math.inf
        times = torch.where(silent, 1, z).log()
        values = self.first + (times - self.first_time) * self.slope
        return torch.where(silent, self.silent, values)

    def times(self, values: Tensor) -> Tensor:
        """Spike times, in units of tau, of values of any shape."""
        return self.first_time + (values - self.first) / self.slope

    def extra_repr(self) -> str:
        text = f"{self.first:g} at {self.first_time:g} tau, {self.last:g} at {self.last_time:g} tau"
        return f"{text}, silent={self.silent:g}"
