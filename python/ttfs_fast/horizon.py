"""Layers with a horizon: first-spike layers that compute exactly what ReLU layers compute.

Let every input of a layer spike no later than the input horizon T (a spike value). The *lead* of
input i, how much earlier than the horizon it spikes, is

    x_i = 1 - z_i / T  >= 0

Give each neuron one more input, the *reference*, which spikes at T, and choose its weight so that
all weights of the neuron sum to m. If the neuron spikes after T, all its inputs are causal, and
equation (4) becomes

    z_j = (m T - T sum_i w_ji x_i) / (m - 1) = T' (1 - sum_i w_ji x_i / m),    T' = T m / (m - 1),

so its own lead, relative to the next horizon T', is ``x'_j = sum_i w_ji x_i / m``. A neuron that
has not spiked by T' is made to spike then by an input with a large weight, which spikes at T'.
Hence

    x'_j = max(0, sum_i w_ji x_i) / m :

a ReLU. The reference adds nothing to the sum, because its own lead is 0; padding also spikes at the
horizon. docs/horizon.md derives this in detail.

A neuron can spike before T only if the sum of its positive ``w_ji x_i`` is near 1. Leads are
therefore kept small (``spread`` of `HorizonConv2d`), and every call checks a bound that rules such
early spikes out. If the bound holds, a dense product computes the spike times of equation (4). If
not, the layer runs the ordinary spiking operator. Both give the same values.
"""

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Literal, TypeVar, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn

from ttfs_fast import ops
from ttfs_fast._modes import keep_modes
from ttfs_fast.functional import spiking_conv2d, spiking_max_pool2d
from ttfs_fast.geometry import IntPair, pair
from ttfs_fast.nn import (
    Delay,
    SpikingConv2d,
    SpikingLinear,
    SpikingMaxPool2d,
    refuse_sisters,
    refuse_stale,
)

Model = TypeVar("Model", bound=nn.Module)
Normalization = Literal["batch", "mean", "none"]
Mirror = Literal["image", "pairs"]

_LATEST = {dtype: math.log(torch.finfo(dtype).max) for dtype in (torch.float32, torch.float64)}
"""The time whose spike value is the largest number of a type."""


class ReferenceSpikes(nn.Module):
    """Add spikes at a fixed time: for late inputs, for padding, and for one more input.

    An input that has not spiked by the time ``t`` spikes then. A map is padded with ``padding``
    rows and columns of such spikes, and one more channel (or feature) of them is appended: the
    reference input of the next layer.

    Parameters
    ----------
    t : float
        The time, in units of tau.
    padding : int or pair of int
        Rows and columns on either side of a map.
    groups : int
        Groups of the next convolution: each group of channels gets its own reference channel, after
        its last one.

    Attributes
    ----------
    reference : float64 Tensor, shape ()
        exp(t).

    Raises
    ------
    ValueError
        If `t` is not finite or beyond what float64 holds, or `padding` or `groups` is too small.

    Notes
    -----
    Input (N, C, H, W) gives (N, C + groups, H + 2 p, W + 2 q); input (N, F) gives (N, F + 1). NaN
    stays NaN.

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.horizon import ReferenceSpikes
    >>> ReferenceSpikes(0.0)(torch.tensor([[0.5, 2.0, torch.inf]]))
    tensor([[0.5000, 1.0000, 1.0000, 1.0000]])
    """

    reference: Tensor

    def __init__(self, t: float, padding: IntPair = 0, groups: int = 1) -> None:
        super().__init__()
        if not (math.isfinite(t) and t < _LATEST[torch.float64]):
            raise ValueError(
                f"t must be a finite time, in units of tau, below "
                f"{_LATEST[torch.float64]:.1f}; got {t}"
            )
        self.padding = pair(padding)
        if min(self.padding) < 0:
            raise ValueError(f"padding must not be negative; got {padding}")
        if groups < 1:
            raise ValueError(f"groups must be at least 1; got {groups}")
        self.groups = groups
        self.register_buffer("reference", torch.tensor(math.exp(t), dtype=torch.float64))

    def forward(self, input: Tensor) -> Tensor:
        """Spike values with the added spikes; shapes as in the notes of the class."""
        if input.dim() == 2:
            padded = F.pad(input, (0, 1), value=math.inf)
        else:
            rows, columns = self.padding
            sides = (columns, columns, rows, rows, 0, 1)
            if self.groups == 1:
                padded = F.pad(input, sides, value=math.inf)
            else:
                each = torch.unflatten(input, 1, (self.groups, -1))
                padded = F.pad(each, sides, value=math.inf).flatten(1, 2)
        reference = self.reference.to(padded.dtype)
        # Not torch.minimum: an input at the very time of the reference gets no gradient.
        return torch.where(padded >= reference, reference, padded)

    def extra_repr(self) -> str:
        text = f"t={math.log(self.reference.item()):g}" if not self.reference.is_meta else ""
        text += f", padding={self.padding}" if self.padding != (0, 0) else ""
        return text + (f", groups={self.groups}" if self.groups != 1 else "")


class _HorizonLayer(nn.Module):
    """Common part of convolution and fully connected layers with a horizon."""

    takes_values = True  # for OnTimes
    weight: nn.Parameter
    shift: nn.Parameter
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        t_in: float,
        weight_sum: float,
        spread: float,
        normalization: Normalization,
        momentum: float,
        eps: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        mirror: Mirror | None,
    ) -> None:
        super().__init__()
        self.mirror: Mirror | None = mirror
        if not (math.isfinite(t_in) and t_in > 0):
            raise ValueError(
                f"t_in must be a finite time above 0, when the bias spikes; got {t_in}"
            )
        if not (math.isfinite(weight_sum) and weight_sum > 1):
            raise ValueError(
                f"weight_sum must be finite and above 1, or no neuron spikes; got {weight_sum}"
            )
        if not 0 < spread < 1:
            raise ValueError(f"spread must be above 0 and below 1; got {spread}")
        if normalization not in get_args(Normalization):
            raise ValueError(
                f"normalization must be one of {', '.join(get_args(Normalization))}; "
                f"got {normalization!r}"
            )
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be above 0 and at most 1; got {momentum}")
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps must be finite and not negative; got {eps}")
        self.t_in, self.weight_sum, self.spread = float(t_in), float(weight_sum), float(spread)
        self._check_precision(torch.get_default_dtype() if dtype is None else dtype)
        self.normalization: Normalization = normalization
        self.momentum, self.eps = momentum, eps
        outputs = weight_shape[0]
        self.weight = nn.Parameter(torch.empty(weight_shape, device=device, dtype=dtype))
        self.shift = nn.Parameter(torch.empty(outputs, device=device, dtype=dtype))
        statistics = torch.empty(outputs, device=device, dtype=dtype)
        self.register_buffer("running_mean", torch.zeros_like(statistics))
        self.register_buffer("running_var", torch.ones_like(statistics))
        self.register_buffer(
            "num_batches_tracked", torch.zeros((), device=device, dtype=torch.int64)
        )
        self.fallbacks = 0
        self.synchronized = False
        self.reset_parameters()

    @property
    def t_out(self) -> float:
        """Horizon of the outputs, in units of tau: t_in + ln(m / (m - 1))."""
        return self.t_in + math.log(self.weight_sum / (self.weight_sum - 1))

    def _check_precision(self, dtype: torch.dtype) -> None:
        """Raise an error if a type cannot represent or resolve the layer's spike values."""
        if dtype not in _LATEST:
            raise TypeError(
                f"layers with a horizon compute in float32 or float64; got {dtype}: in half "
                "precision spike times would lose their meaning"
            )
        if self.t_out >= _LATEST[dtype]:
            raise ValueError(
                f"the outputs' horizon, t_in + ln(m / (m - 1)), must be below {_LATEST[dtype]:.1f} "
                f"in {dtype}; got {self.t_out:.1f} of t_in={self.t_in:g} and "
                f"weight_sum={self.weight_sum:g}"
            )
        least = 100 * torch.finfo(dtype).eps
        for name, value in (("t_in", self.t_in), ("spread", self.spread)):
            if value < least:
                raise ValueError(
                    f"{name} must be at least {least:.1g} in {dtype}, or rounding takes the "
                    f"spikes for simultaneous; got {value:g}"
                )

    @property
    def shares_weights(self) -> bool:
        """Whether ``mirror`` or ``positions`` ties several synapses to one weight."""
        return self.mirror is not None

    @property
    def fan_in(self) -> int:
        """Inputs of a neuron without the reference and the bias."""
        return max(math.prod(self.weight.shape[1:]), 1)

    def reset_parameters(self) -> None:
        """Initialize: normal weights of standard deviation 1, shift 0, new statistics."""
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.shift)
        self.running_mean.zero_()
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    @torch.no_grad()
    def set_weights_(self, weight: Tensor, shift: Tensor) -> None:
        """Set the layer to lead'_j / spread = sum_i weight_ji lead_i / spread + shift_j, in place.

        Only for ``normalization="none"``, because the others depend on the batch.

        Raises
        ------
        ValueError
            If the layer is normalized, or a shape does not fit.
        """
        if self.normalization != "none":
            raise ValueError(
                f'set_weights_ is for normalization="none"; this layer has {self.normalization!r}'
            )
        if weight.shape != self.weight.shape or shift.shape != self.shift.shape:
            raise ValueError(
                f"weight and shift must have the shapes {tuple(self.weight.shape)} and "
                f"{tuple(self.shift.shape)}; got {tuple(weight.shape)} and {tuple(shift.shape)}"
            )
        self.weight.copy_(weight / (self.spread * self._scale))
        self.shift.copy_(shift)

    def forward(self, input: Tensor) -> Tensor:
        """Spike values of the outputs; values later than ``t_out`` are late.

        Parameters
        ----------
        input : Tensor
            Spike values; a later or silent input counts as spiking at ``t_in``.

        Raises
        ------
        TypeError
            If the layer is not of float32 or float64, or the input not of the same type.
        RuntimeError
            If the shape does not fit.
        ValueError
            If an input is not above 0; or in training, if the batch is too small for its
            statistics: ``normalization="batch"`` needs two values per channel, ``"mean"`` one.
        NotImplementedError
            In :func:`torch.jit.trace`, which would not look for neurons that spike early.
        """
        if ops.in_trace():
            raise NotImplementedError(
                f"torch.jit.trace cannot record {type(self).__name__}, which decides by its inputs "
                "how it computes: trace the folded network (ttfs_fast.horizon.fold_horizons_)"
            )
        self._check_input(input)
        lead: Tensor = _Lead.apply(input, math.exp(self.t_in))  # type: ignore[no-untyped-call]
        product = self._product(lead)
        needed = {"batch": 2, "mean": 1, "none": 0}[self.normalization]
        joint = self._is_joint
        if self.training and not joint and product.numel() < needed * len(self.weight):
            raise ValueError(
                f'training with normalization="{self.normalization}" needs at least {needed} '
                f"value{'s' if needed > 1 else ''} of each channel; an input of shape "
                f"{tuple(input.shape)} gives fewer: give a larger batch, or call eval()"
            )
        values, gain, offset = self._spikes(self._fold_pairs(product))
        if joint:
            self._check_together(lead, gain, offset)
        elif not self._certified(lead, gain, offset):
            self.fallbacks += 1
            if self.training:
                gain, offset = self._affine(self._fold_pairs(product))
            return self._sweep(input, gain, offset)
        return self._unfold_pairs(values, product.shape)

    def _fold_pairs(self, product: Tensor) -> Tensor:
        """The sums with a channel for each element of ``shift``, which a pair shares."""
        return product

    def _unfold_pairs(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Undo `_fold_pairs`."""
        return values

    @property
    def _is_joint(self) -> bool:
        """Whether the statistics of this call are those of several processes."""
        return self.training and self.synchronized and self.normalization == "batch"

    @property
    def _inputs(self) -> int:
        """Input channels or features."""
        return self.weight.shape[1]

    def _check_input(self, input: Tensor) -> None:
        name, inputs = type(self).__name__, self._inputs
        if input.dtype != self.weight.dtype:
            raise TypeError(
                f"{name}: input is {input.dtype} and weight is {self.weight.dtype}; convert one of "
                "them"
            )
        if self.weight.dtype not in _LATEST:
            self._check_precision(self.weight.dtype)
        if input.dim() != self.weight.dim() or input.shape[1] != inputs:
            shape = f"(N, {inputs}, H, W)" if self.weight.dim() == 4 else f"(N, {inputs})"
            raise RuntimeError(f"{name} takes an input of shape {shape}; got {tuple(input.shape)}")

    @property
    def _scale(self) -> float:
        """Factor on the product that gives gain sqrt 2 for normal weights and leads of one spread.

        Used if the standard deviation is not normalized.
        """
        return math.sqrt(2 / self.fan_in) / self.spread

    def _spikes(self, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spike values if all inputs are causal; gain and offset of each channel."""
        last = math.exp(self.t_out)
        momentum = self.momentum
        if self.training:
            # The first batch sets the statistics: the initial 0 and 1 are far from those of small
            # leads.
            if not product.is_meta and int(self.num_batches_tracked) == 0:
                momentum = 1.0
            self.num_batches_tracked += 1
        if self.normalization == "batch":
            values, mean, inverse = _NormalizedSpikes.apply(  # type: ignore[no-untyped-call]
                product,
                self.shift,
                self.running_mean,
                self.running_var,
                self.training,
                self._is_joint,
                momentum,
                self.eps,
                last,
                self.spread,
            )
            if not self.training:
                mean, inverse = self.running_mean, (self.running_var + self.eps).rsqrt()
            return values, inverse, self.shift.detach() - mean * inverse
        product = product.to(self.weight.dtype)
        offset: Tensor = self.shift
        if self.normalization == "mean":
            mean = self.running_mean
            if self.training:
                mean = product.mean([0, *range(2, product.dim())])
                with torch.no_grad():
                    self.running_mean.lerp_(mean, momentum)
            offset = offset - self._scale * mean
        sizes = (-1, *[1] * (product.dim() - 2))
        normalized = torch.add(offset.view(sizes), product, alpha=self._scale)
        values = _spike_values(normalized, last, self.spread)
        return values, torch.full_like(offset, self._scale), offset.detach()

    def _affine(self, product: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gain and offset of each channel, with gradients; by default of the running statistics."""
        mean, variance = self.running_mean, self.running_var
        if product is not None:
            axes = [0, *range(2, product.dim())]
            variance, mean = torch.var_mean(product.to(self.weight.dtype), axes, correction=0)
        gain = torch.full_like(self.shift, self._scale)
        if self.normalization == "batch":
            gain = (variance + self.eps).rsqrt()
        return gain, self.shift if self.normalization == "none" else self.shift - gain * mean

    @torch.no_grad()
    def early_bound(self, input: Tensor) -> float:
        """A bound: below 1, no neuron spikes before the input horizon in evaluation.

        It is proportional to the leads of the inputs and to ``spread``.
        """
        lead: Tensor = _Lead.apply(input, math.exp(self.t_in))  # type: ignore[no-untyped-call]
        return float(self._bound(lead, *self._affine()))

    def _check_together(self, lead: Tensor, gain: Tensor, offset: Tensor) -> None:
        """Raise an error, in all processes, if a neuron of one could spike early."""
        bound = lead.new_zeros(())
        if lead.numel():
            bound = self._bound(lead, gain, offset)
        distributed.all_reduce(bound, distributed.ReduceOp.MAX)
        if not bool(bound < 1):
            raise RuntimeError(
                f"{type(self).__name__}: neurons could spike before the input horizon (bound "
                f"{bound:.3g}, it must be below 1). Then the layer would need the spiking "
                "operator, which takes statistics of one process only: reduce spread, or train "
                "with one process"
            )

    def _certified(self, lead: Tensor, gain: Tensor, offset: Tensor) -> bool:
        return lead.numel() == 0 or lead.is_meta or bool(self._bound(lead, gain, offset) < 1)

    @torch.no_grad()
    def _bound(self, lead: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        """A bound: below 1, no neuron can spike before the input horizon.

        For any lead x of an input, the membrane of neuron j at T (1 - x) minus the threshold is at
        most the sum of the positive ``w_ji x_i``, bias included, minus 1 - x. The sum is at most
        the norm of the positive weights times the norm of the leads.
        """
        positive = self.weight.clamp(min=0).flatten(1).norm(dim=1)
        scale = self.weight_sum * self.spread
        reach = positive * gain * self._largest_norm(lead) + offset.clamp(min=0)
        bound: Tensor = scale * reach.max() + lead.max()
        return bound

    def plain_weights(self) -> tuple[Tensor, Tensor]:
        """Weights and bias of the equivalent plain spiking layer, with the statistics folded in.

        Returns
        -------
        weight : Tensor
            Shape (outputs, inputs + 1, ...): the last input is the reference.
        bias : Tensor
            Shape (outputs,).

        Raises
        ------
        ValueError
            If the layer is pruned, so that its weight is renewed by a forward pass only.
        """
        refuse_stale(self, type(self).__name__)
        gain, offset = self._affine()
        return self._plain(gain, offset)

    def _plain(self, gain: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.weight_sum * self.spread
        sizes = (-1, *[1] * (self.weight.dim() - 1))
        weight = self._every_weight() * (scale * gain).view(sizes)
        # The bias spikes at z = 1: its lead is 1 - 1 / T.
        bias = offset * (scale / -math.expm1(-self.t_in))
        total = weight.double().flatten(1).sum(1) + bias.double()
        reference = torch.zeros_like(weight[:, :1])
        taps = reference.flatten(1)
        middle = taps.shape[1] // 2
        taps[:, middle] = (self.weight_sum - total).to(weight.dtype)
        return torch.cat([weight, reference], dim=1), bias

    def _every_weight(self) -> Tensor:
        """The weights of every neuron, with those that mirroring derives from others."""
        return self.weight

    def _product(self, lead: Tensor) -> Tensor:
        """Weighted sums of the leads, (N, C, ...)."""
        raise NotImplementedError

    def _largest_norm(self, lead: Tensor) -> Tensor:
        raise NotImplementedError

    def _sweep(self, input: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        raise NotImplementedError

    def to_plain(self, *, last: bool = False) -> nn.Sequential:
        """The equivalent plain modules: `ReferenceSpikes` and a spiking layer.

        Parameters
        ----------
        last : bool
            Omit the output horizon, so that every output spikes, as the last layer of a network
            needs.
        """
        raise NotImplementedError

    def _describe(self) -> str:
        return (
            f"t_in={self.t_in:g}, weight_sum={self.weight_sum:g}, spread={self.spread:g}, "
            f"normalization={self.normalization!r}"
        )


def _spike_values(normalized: Tensor, last: float, spread: float) -> Tensor:
    """last (1 - spread normalized), in one pass."""
    # Not torch.rsub: torch.compile takes its number for a constant, that of another layer.
    horizon = torch.tensor(last, dtype=normalized.dtype, device=normalized.device)
    return torch.sub(horizon, normalized, alpha=last * spread)


class _Lead(torch.autograd.Function):
    """max(0, 1 - z / T), which saves one tensor for its gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, horizon: float) -> Tensor:
        lead = torch.rsub(z, 1, alpha=1 / horizon).clamp_(min=0)
        ctx.save_for_backward(lead)
        ctx.horizon = horizon
        return lead

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (lead,) = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(grad, lead, 0)
        return passed.mul_(-1 / ctx.horizon), None


class _NormalizedSpikes(torch.autograd.Function):
    """T' (1 - spread u) of the batch-normalized u, in the layout and precision of the product.

    The gradient of a first-spike pool is not channels_last, and batch normalization of mixed
    layouts takes many times as long.
    """

    @staticmethod
    def forward(
        ctx: Any,
        product: Tensor,
        shift: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        training: bool,
        joint: bool,
        momentum: float,
        eps: float,
        last: float,
        spread: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.count = 0
        if joint:
            mean, variance, ctx.count = _joint_statistics(product, shift.dtype)
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (ctx.count / (ctx.count - 1)), momentum)
            normalized, *_ = torch.native_batch_norm(
                product, None, shift, mean, variance, False, 0.0, eps
            )
            inverse = (variance + eps).rsqrt()
        else:
            normalized, mean, inverse = torch.native_batch_norm(
                product, None, shift, running_mean, running_var, training, momentum, eps
            )
        # Saved, they could not change until backward, as a second run of the layer changes them.
        running = (None, None) if joint else (running_mean, running_var)
        ctx.save_for_backward(product, *running, mean, inverse)
        ctx.options = training, eps, -last * spread
        ctx.mark_non_differentiable(mean, inverse)
        values = _spike_values(normalized.to(shift.dtype), last, spread)
        return values, mean, inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        product, running_mean, running_var, mean, inverse = ctx.saved_tensors
        training, eps, factor = ctx.options
        alike = torch.empty_like(product)
        torch.mul(grad, factor, out=alike)
        if ctx.count:
            return *_joint_gradient(alike, product, mean, inverse, ctx.count), *(None,) * 8
        grad_product, _, grad_shift = torch.ops.aten.native_batch_norm_backward(
            alike,
            product,
            None,
            running_mean,
            running_var,
            mean,
            inverse,
            training,
            eps,
            [True, False, True],
        )
        return grad_product, grad_shift.to(running_mean.dtype), *(None,) * 8


def _joint_statistics(product: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Mean and variance of each channel over all processes, and how many values it has there.

    The processes exchange counts, means and sums of squared deviations, so nothing cancels.
    """
    channels = product.shape[1]
    count = product.numel() // channels
    own = product.new_zeros(1 + 2 * channels, dtype=torch.float64)
    if count:
        axes = [0, *range(2, product.dim())]
        variance, mean = torch.var_mean(product.to(dtype), axes, correction=0)
        own[0], own[1 : 1 + channels], own[1 + channels :] = count, mean, variance.double() * count
    all_of_them = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(all_of_them, own)
    counts, means, squares = torch.split(torch.stack(all_of_them), [1, channels, channels], dim=1)
    total = int(counts.sum())
    if total < 2:
        raise ValueError(
            f"training over several processes needs at least 2 values of each channel in all; got "
            f"{total}: give a larger batch"
        )
    joint = (counts * means).sum(0) / total
    spread = (squares + counts * (means - joint).square()).sum(0) / total
    return joint.to(dtype), spread.to(dtype), total


def _joint_gradient(
    grad: Tensor, product: Tensor, mean: Tensor, inverse: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Gradients of a product and of the shift, with the statistics of all processes."""
    axes, sizes = [0, *range(2, product.dim())], (-1, *[1] * (product.dim() - 2))
    wide = grad.to(mean.dtype)
    centered = product.to(mean.dtype) - mean.view(sizes)
    sums = torch.stack([wide.sum(axes), (wide * centered).sum(axes)])
    total = sums.double()
    distributed.all_reduce(total)
    average, slope = (total / count).to(mean.dtype)
    slope = slope * inverse.square()
    own = wide - average.view(sizes) - centered * slope.view(sizes)
    return (own * inverse.view(sizes)).to(product.dtype), sums[0]


class HorizonConv2d(_HorizonLayer):
    """Convolution of first-spike neurons with a horizon: exactly a normalized ReLU convolution.

    The leads of the outputs, relative to their horizon and in units of ``spread``, are

        u_j = (y_j - mean_j) / deviation_j + shift_j,      y_j = sum_i v_ji x_i,

    with the trained weights v. Mean and standard deviation are those of the batch in training and
    running ones in evaluation, as in :class:`torch.nn.BatchNorm2d`. In equation (4) the neuron has
    the weights ``w_ji = m spread v_ji / deviation_j``, a bias, and a reference input; see
    :meth:`to_plain`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation
        As :class:`torch.nn.Conv2d`, padding as one or two numbers; it spikes at the input horizon.
    pool : int or pair of int
        Size of a first-spike pool of the outputs; 1 for none. The statistics are those of the
        pooled maps, which costs less than a separate pool after the layer.
    pool_stride : int or pair of int, optional
        Distance of the pool's windows; by default they stand side by side.
    mirror : {"image", "pairs"}, optional
        Tie the weights so that a mirrored input gives mirrored outputs. Channels j and
        j + out_channels / 2 form a pair; the second has the weights of the first, mirrored from
        left to right. ``"image"``: the input is an image. ``"pairs"``: it is the output of such a
        layer, in which the mirror image of a channel is the other channel of its pair. With
        ``stride`` or ``pool_stride`` 2, the window must be odd for odd widths and even for even
        ones; the layer does not check this.
    t_in : float
        Input horizon, in units of tau, above 0: ``t_out`` of the layer before, or the latest input
        spike of the network. Later and silent inputs count as spiking then.
    weight_sum : float
        m, the sum of each neuron's weights, reference and bias included; above 1. The outputs'
        horizon ``t_out`` is t_in + ln(m / (m - 1)).
    spread : float
        Lead of an output that is one standard deviation above its channel's mean, as a fraction of
        the horizon; between 0 and 1. With small leads the layer is a dense product. With leads
        around 0.1 some neurons spike before their last inputs, and the layer runs the spiking
        operator.
    normalization : {"batch", "mean", "none"}
        Bring each channel's sums to mean 0 and standard deviation 1 over the batch; to mean 0 only;
        or leave them unchanged, as in a last layer. With ``"mean"`` and ``"none"`` they are scaled
        by sqrt(2 / inputs of a neuron) / ``spread``.
    momentum, eps
        As :class:`torch.nn.BatchNorm2d`, except that the first batch in training sets the running
        statistics.
    groups
        As :class:`torch.nn.Conv2d`; each group has its own reference input.
    device, dtype
        As :class:`torch.nn.Conv2d`.

    Attributes
    ----------
    weight : Parameter
        v, shape (out_channels, in_channels / groups, kernel height, kernel width), with `mirror`
        of the first half of the neurons only; its scale does not matter with
        ``normalization="batch"``.
    shift : Parameter
        Shape (out_channels,), in units of ``spread``; with `mirror` half of it. The two neurons of
        a pair share their statistics as well.
    t_out : float
        Horizon of the outputs: ``t_in`` of the next layer.
    fallbacks : int
        Number of calls that ran the spiking operator because the bound was exceeded.

    Raises
    ------
    ValueError
        If a size is below 1, `groups` does not divide both numbers of channels, `mirror` does not
        fit them, or a horizon, sum or spread is out of range.

    Notes
    -----
    Input (N, C, H, W) and output are spike values. Outputs later than ``t_out`` are late: in the
    next layer they count as spiking at its ``t_in``. A first-spike pool passes them on.

    Source: equation (4) of Zhou et al. (AAAI 2021); a first-spike neuron as a ReLU: Rueckauer and
    Liu (2018), Stanojevic et al. (2023).

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.horizon import HorizonConv2d
    >>> z = torch.rand(8, 3, 32, 32).mul(0.01).exp()
    >>> layer = HorizonConv2d(3, 16, 3, padding=1, t_in=0.01)
    >>> out = layer(z)
    >>> out.shape, round((out.log() < layer.t_out).float().mean().item(), 1)
    (torch.Size([8, 16, 32, 32]), 0.5)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        *,
        pool: IntPair = 1,
        pool_stride: IntPair | None = None,
        mirror: Mirror | None = None,
        t_in: float,
        weight_sum: float = 4.0,
        spread: float = 0.002,
        normalization: Normalization = "batch",
        momentum: float = 0.1,
        eps: float = 1e-12,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding, self.dilation, self.pool = pair(padding), pair(dilation), pair(pool)
        self.pool_stride = self.pool if pool_stride is None else pair(pool_stride)
        for name, numbers in (("pool", self.pool), ("pool_stride", self.pool_stride)):
            if min(numbers) < 1:
                raise ValueError(f"{name} must be at least 1 in both directions; got {numbers}")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"in_channels ({in_channels}) and out_channels ({out_channels}) must be divisible "
                f"by groups ({groups})"
            )
        self.groups = groups
        if mirror is not None:
            _check_mirror(mirror, in_channels, out_channels, groups)
        super().__init__(
            (out_channels // (2 if mirror else 1), in_channels // groups, *self.kernel_size),
            t_in,
            weight_sum,
            spread,
            normalization,
            momentum,
            eps,
            device,
            dtype,
            mirror,
        )

    @property
    def _pools(self) -> bool:
        return (self.pool, self.pool_stride) != ((1, 1), (1, 1))

    def _every_weight(self) -> Tensor:
        if self.mirror is None:
            return self.weight
        mirrored = self.weight.flip(-1)
        if self.mirror == "pairs":
            mirrored = mirrored.roll(self.in_channels // 2, 1)
        both = torch.cat([self.weight, mirrored])
        return both.contiguous(memory_format=_format(self.weight))

    def _product(self, lead: Tensor) -> Tensor:
        weight = self._every_weight()
        product = F.conv2d(
            lead, weight, None, self.stride, self.padding, self.dilation, self.groups
        )
        if not self._pools:
            return product
        # The largest value is the first spike, because every gain is positive.
        return F.max_pool2d(product, self.pool, self.pool_stride)

    def _plain(self, gain: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        if self.mirror is not None:
            gain, offset = gain.repeat(2), offset.repeat(2)
        return super()._plain(gain, offset)

    def _fold_pairs(self, product: Tensor) -> Tensor:
        return product if self.mirror is None else _fold_pairs(product)

    def _unfold_pairs(self, values: Tensor, shape: torch.Size) -> Tensor:
        return values if self.mirror is None else _unfold_pairs(values, shape)

    @property
    def _inputs(self) -> int:
        return self.in_channels

    def _largest_norm(self, lead: Tensor) -> Tensor:
        if self.groups == 1:
            squares = torch.linalg.vector_norm(lead, dim=1, keepdim=True).square_()
        else:
            each = torch.unflatten(lead, 1, (self.groups, -1))
            squares = torch.linalg.vector_norm(each, dim=2).square_()
        area = math.prod(self.kernel_size)
        if self.dilation == (1, 1):
            # Windows extend beyond the map by at most half of the kernel, as pools require.
            rows, columns = self.padding
            squares = F.pad(squares, (columns, columns, rows, rows))
            largest: Tensor = F.avg_pool2d(squares, self.kernel_size, 1).max()
        else:
            largest = squares.max()
        return (largest * area).sqrt()

    def _sweep(self, input: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        weight, bias = self._plain(gain, offset)
        reference = ReferenceSpikes(self.t_in, self.padding, self.groups)
        prepared = reference.to(input.device)(input)
        values = spiking_conv2d(prepared, weight, bias, self.stride, 0, self.dilation, self.groups)
        if not self._pools:
            return values
        return spiking_max_pool2d(values, self.pool, self.pool_stride)

    def to_plain(self, *, last: bool = False) -> nn.Sequential:
        weight, bias = self.plain_weights()
        layer = SpikingConv2d(
            self.in_channels + self.groups,
            self.out_channels,
            self.kernel_size,
            self.stride,
            0,
            self.dilation,
            self.groups,
            t_max=math.inf if last else self.t_out,
            device=weight.device,
            dtype=weight.dtype,
        )
        _fill(layer, weight, bias, self.weight.requires_grad)
        reference = ReferenceSpikes(self.t_in, self.padding, self.groups).to(weight.device)
        pools = [] if not self._pools else [SpikingMaxPool2d(self.pool, self.pool_stride)]
        return nn.Sequential(reference, layer, *pools)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}, padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self._pools:
            text += f", pool={self.pool}"
        if self.pool_stride != self.pool:
            text += f", pool_stride={self.pool_stride}"
        if self.mirror is not None:
            text += f", mirror={self.mirror!r}"
        return f"{text}, {self._describe()}"


class HorizonLinear(_HorizonLayer):
    """Fully connected layer of first-spike neurons with a horizon.

    Parameters
    ----------
    in_features, out_features : int
        As :class:`torch.nn.Linear`.
    positions : int
        Spikes of each feature, side by side in the input, as :class:`torch.nn.Flatten` puts the
        map of a channel. The layer averages their leads: all of them have the feature's weight,
        divided by their number.
    mirror : {"pairs"}, optional
        The input is the output of a :class:`HorizonConv2d` with ``mirror``. The layer averages the
        leads of a pair, too, so each of the two channels has half of the pair's weight, and a
        mirrored image gives the same output. This holds if each channel is one spike, behind a
        global pool, or its whole map, as ``positions``.
    t_in, weight_sum, spread, normalization, momentum, eps, device, dtype
        As :class:`HorizonConv2d`.

    Attributes
    ----------
    weight : Parameter
        v, shape (out_features, in_features); with `mirror` half as many columns.
    shift : Parameter
        Shape (out_features,), in units of ``spread``.

    Raises
    ------
    ValueError
        If `positions` is below 1, `mirror` does not fit `in_features`, or a horizon, sum or spread
        is out of range.

    Notes
    -----
    Input (N, in_features * positions) and output (N, out_features) are spike values; see
    :class:`HorizonConv2d`. With several positions it is an average pool and a fully connected
    layer in one: the leads are linear in the spike values, so no neurons are needed in between.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        positions: int = 1,
        mirror: Literal["pairs"] | None = None,
        t_in: float,
        weight_sum: float = 4.0,
        spread: float = 0.002,
        normalization: Normalization = "batch",
        momentum: float = 0.1,
        eps: float = 1e-12,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if positions < 1:
            raise ValueError(f"positions must be at least 1; got {positions}")
        if mirror not in (None, "pairs") or (mirror and in_features % 2):
            raise ValueError(
                f'mirror is "pairs" or None, and pairs need an even number of in_features; got '
                f"{mirror!r} and {in_features}"
            )
        self.in_features, self.out_features = in_features, out_features
        self.positions = positions
        super().__init__(
            (out_features, in_features // (2 if mirror else 1)),
            t_in,
            weight_sum,
            spread,
            normalization,
            momentum,
            eps,
            device,
            dtype,
            mirror,
        )

    def _product(self, lead: Tensor) -> Tensor:
        return F.linear(self._average(lead), self.weight)

    @property
    def _inputs(self) -> int:
        return self.in_features * self.positions

    @property
    def shares_weights(self) -> bool:
        return self.positions != 1 or super().shares_weights

    def _average(self, lead: Tensor) -> Tensor:
        """Mean lead of each feature, or of each pair."""
        if self.mirror:
            pairs = torch.unflatten(lead, 1, (2, self.in_features // 2, self.positions))
            return pairs.mean((1, 3))
        if self.positions == 1:
            return lead
        return torch.unflatten(lead, 1, (self.in_features, self.positions)).mean(2)

    def _largest_norm(self, lead: Tensor) -> Tensor:
        largest: Tensor = torch.linalg.vector_norm(self._average(lead), dim=1).max()
        return largest

    def _sweep(self, input: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        weight, bias = self._plain(gain, offset)
        prepared = ReferenceSpikes(self.t_in).to(input.device)(input)
        # A fully connected layer is a convolution with one receptive field.
        out = spiking_conv2d(prepared[:, :, None, None], weight[:, :, None, None], bias)
        return out.flatten(1)

    def _plain(self, gain: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = super()._plain(gain, offset)
        each = weight[:, :-1]
        if self.positions != 1:
            each = each.repeat_interleave(self.positions, dim=1) / self.positions
        if self.mirror:
            each = each.repeat(1, 2) / 2
        return torch.cat([each, weight[:, -1:]], dim=1), bias

    def to_plain(self, *, last: bool = False) -> nn.Sequential:
        weight, bias = self.plain_weights()
        layer = SpikingLinear(
            self._inputs + 1,
            self.out_features,
            t_max=math.inf if last else self.t_out,
            device=weight.device,
            dtype=weight.dtype,
        )
        _fill(layer, weight, bias, self.weight.requires_grad)
        return nn.Sequential(ReferenceSpikes(self.t_in).to(weight.device), layer)

    def extra_repr(self) -> str:
        text = f"{self.in_features}, {self.out_features}"
        if self.positions != 1:
            text += f", positions={self.positions}"
        if self.mirror is not None:
            text += f", mirror={self.mirror!r}"
        return f"{text}, {self._describe()}"


def _fill(
    layer: SpikingConv2d | SpikingLinear, weight: Tensor, bias: Tensor, trained: bool
) -> None:
    assert layer.bias is not None
    layer.weight.requires_grad_(trained)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def _check_mirror(mirror: str, in_channels: int, out_channels: int, groups: int) -> None:
    """Raise ValueError unless a convolution can have mirrored pairs of neurons."""
    if mirror not in get_args(Mirror):
        raise ValueError(f"mirror must be one of {', '.join(get_args(Mirror))}; got {mirror!r}")
    if groups != 1:
        raise ValueError(f"mirror is for a convolution of one group; got groups={groups}")
    if out_channels % 2 or (mirror == "pairs" and in_channels % 2):
        raise ValueError(
            f"mirror={mirror!r} needs an even number of channels, because they form pairs; got "
            f"in_channels={in_channels} and out_channels={out_channels}"
        )


def _format(tensor: Tensor) -> torch.memory_format:
    """The layout of a four-dimensional tensor."""
    last = torch.channels_last
    plain = tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last)
    return torch.contiguous_format if plain else last


def _fold_pairs(maps: Tensor) -> Tensor:
    """(N, 2 C, H, W) as twice as many values of C channels, without a copy.

    Two images of C channels, or in channels_last format an image of twice the width.
    """
    images, channels, rows, columns = maps.shape
    if _format(maps) == torch.contiguous_format:
        return maps.reshape(2 * images, channels // 2, rows, columns)
    pixels = maps.permute(0, 2, 3, 1).reshape(images, rows, 2 * columns, channels // 2)
    return pixels.permute(0, 3, 1, 2)


def _unfold_pairs(maps: Tensor, shape: torch.Size) -> Tensor:
    """Undo `_fold_pairs`."""
    images, channels, rows, columns = shape
    if maps.shape[3] == columns:
        return maps.reshape(shape)
    pixels = maps.permute(0, 2, 3, 1).reshape(images, rows, columns, channels)
    return pixels.permute(0, 3, 1, 2)


def horizon_layers(model: nn.Module) -> dict[str, _HorizonLayer]:
    """The layers with a horizon of a model, by name; empty if there are none."""
    return {n: m for n, m in model.named_modules() if isinstance(m, _HorizonLayer)}


def has_horizon_layers(model: nn.Module) -> bool:
    """Whether a layer of the model is a `HorizonConv2d` or `HorizonLinear`."""
    return bool(horizon_layers(model))


@torch.no_grad()
def fold_horizons_(model: Model) -> Model:
    """Replace every layer with a horizon by plain modules, in place.

    Statistics and shifts become weights and biases of :class:`~ttfs_fast.nn.SpikingConv2d` and
    :class:`~ttfs_fast.nn.SpikingLinear`, each behind a `ReferenceSpikes`. Late neurons stay silent;
    the next layer's `ReferenceSpikes` replaces their spikes. The layer with the latest ``t_out`` is
    the last one. It keeps all its spikes, because its first spike is the network's decision. In a
    network with a :class:`~ttfs_fast.nn.Delay` every layer keeps them: a spike that is delayed by
    less than the next layer expects still counts there.

    Parameters
    ----------
    model : Module
        Its running statistics are used, in training mode as well.

    Returns
    -------
    Module
        ``model``, the same object; if it is itself such a layer, its replacement.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, fold_horizons_
    >>> first = HorizonConv2d(1, 8, 3, t_in=0.01)
    >>> last = HorizonLinear(8 * 36, 10, t_in=first.t_out, normalization="none")
    >>> model = nn.Sequential(first, nn.Flatten(), last).eval()
    >>> z = torch.rand(4, 1, 8, 8).mul(0.01).exp()
    >>> before = model(z)
    >>> torch.allclose(fold_horizons_(model)(z), before, rtol=1e-6)
    True
    """
    layers = horizon_layers(model)
    replaced: dict[int, nn.Module] = {}
    latest = max((layer.t_out for layer in layers.values()), default=0.0)
    delayed = any(isinstance(module, Delay) for module in model.modules())
    for name, layer in layers.items():
        plain = layer.to_plain(last=delayed or layer.t_out == latest)
        plain.train(layer.training)
        if name == "":
            return cast(Model, plain)
        replaced[id(layer)] = plain
    _replace(model, replaced)
    return model


@torch.no_grad()
def unfold_horizons_(model: Model, spread: float = 0.002) -> Model:
    """Undo `fold_horizons_`, in place: layers that train by dense products again.

    The layers get ``normalization="none"``, because the statistics stay part of the weights. They
    do not tie weights: each neuron of a mirrored pair, and each position, has its own.

    Parameters
    ----------
    model : Module
        Contains layers that `fold_horizons_` made.
    spread : float
        Spread of the new layers. It is the unit of their parameters and does not change the
        outputs.

    Raises
    ------
    ValueError
        If no layer of the model is folded, the sums of its neurons' weights differ, or its `t_max`
        has been lowered.

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.horizon import HorizonConv2d, fold_horizons_, unfold_horizons_
    >>> model = torch.nn.Sequential(HorizonConv2d(1, 8, 3, t_in=0.01))
    >>> unfold_horizons_(fold_horizons_(model))[0].normalization
    'none'
    """
    replaced: dict[int, nn.Module] = {}
    for name, module in model.named_modules():
        layer = _unfolded(name, module, spread)
        if layer is not None:
            layer.train(module.training)
            if module is model:
                return cast(Model, layer)
            replaced[id(module)] = layer
    if not replaced:
        raise ValueError(
            f"{type(model).__name__} has no layer that fold_horizons_ made: a Sequential of "
            "ReferenceSpikes, a spiking layer, and a pool or none"
        )
    _replace(model, replaced)
    return model


def unfold_where_possible_(model: Model) -> Model:
    """Let folded layers compute by dense products if all have a counterpart, in place.

    The spike values are the same, up to rounding. A network with layers that `unfold_horizons_`
    refuses, such as neurons whose weights have no common sum, keeps the spiking operators.
    """
    with suppress(ValueError):
        return unfold_horizons_(model)
    return model


def _replace(model: nn.Module, replaced: dict[int, nn.Module]) -> None:
    """Put other modules in the places of these, which are known by their ids."""
    for module in list(model.modules()):
        # A layer used at two places is one object with two names; named_children gives one.
        for name, child in list(module._modules.items()):
            if id(child) in replaced:
                setattr(module, name, replaced[id(child)])


def _unfolded(name: str, module: nn.Module, spread: float) -> _HorizonLayer | None:
    """The layer from which `_HorizonLayer.to_plain` made a module; None for other modules."""
    parts = list(module.children()) if isinstance(module, nn.Sequential) else []
    if not 2 <= len(parts) <= 3:
        return None
    reference, plain, *pools = parts
    if not isinstance(reference, ReferenceSpikes) or not isinstance(
        plain, SpikingConv2d | SpikingLinear
    ):
        return None
    total = 0.0
    refuse_sisters(plain, "a layer with a horizon")
    if isinstance(plain, SpikingConv2d | SpikingLinear) and plain.bias is not None:
        sums = plain.weight.double().flatten(1).sum(1) + plain.bias.double()
        sizes = plain.weight.double().abs().flatten(1).sum(1)
        total = float(sums.mean())
        if not bool(((sums - total).abs() <= 1e-5 * (1 + sizes)).all()):
            raise ValueError(
                f"the weights of the neurons of {name or type(plain).__name__} sum to "
                f"{sums.min():.7g} to {sums.max():.7g}; in a layer with a horizon they have one sum"
            )
    options: dict[str, Any] = {
        "t_in": math.log(reference.reference.item()),
        "weight_sum": total,
        "spread": spread,
        "normalization": "none",
        "device": plain.weight.device,
        "dtype": plain.weight.dtype,
    }
    layer: _HorizonLayer
    if isinstance(plain, SpikingLinear) and plain.bias is not None and not pools:
        layer = HorizonLinear(plain.in_features - 1, plain.out_features, **options)
    elif isinstance(plain, SpikingConv2d) and plain.bias is not None and plain.padding == (0, 0):
        pool: IntPair = 1
        pool_stride: IntPair | None = None
        if pools:
            window = pools[0]
            if not isinstance(window, SpikingMaxPool2d):
                return None
            moved = pair(window.padding) != (0, 0) or pair(window.dilation) != (1, 1)
            if moved or window.ceil_mode:
                return None
            pool, pool_stride = pair(window.kernel_size), pair(window.stride)
        layer = HorizonConv2d(
            plain.in_channels - plain.groups,
            plain.out_channels,
            plain.kernel_size,
            plain.stride,
            reference.padding,
            plain.dilation,
            plain.groups,
            pool=pool,
            pool_stride=pool_stride,
            **options,
        )
    else:
        return None
    if plain.t_max < layer.t_out * (1 - 1e-6):
        raise ValueError(
            f"spikes of {name or type(plain).__name__} after t_max={plain.t_max:g} do not count; "
            f"in a layer with a horizon all up to {layer.t_out:g} do"
        )
    unit = layer.weight_sum * spread / -math.expm1(-layer.t_in)
    layer.set_weights_(plain.weight[:, :-1] / layer.weight_sum, plain.bias / unit)
    layer.weight.requires_grad_(plain.weight.requires_grad)
    return layer


@torch.no_grad()
def renormalize_horizons_(model: Model) -> Model:
    """Bring the weights of each normalized neuron back to standard deviation 1, in place.

    With ``normalization="batch"`` the scale of the weights does not change the outputs, but it
    changes the effect of a learning rate. With ``"mean"`` it changes the outputs too, so training
    keeps it fixed. Layers with ``"none"``, such as a last layer, are not changed. Call this after
    each step of the optimizer.
    """
    for layer in horizon_layers(model).values():
        if layer.weight.requires_grad and layer.normalization != "none":
            flat = layer.weight.flatten(1)
            sizes = flat.norm(dim=1).clamp_(min=torch.finfo(flat.dtype).tiny)
            sizes.mul_(1 / math.sqrt(layer.fan_in))
            layer.weight.div_(sizes.view(-1, *[1] * (layer.weight.dim() - 1)))
    return model


@torch.no_grad()
def estimate_statistics_(model: Model, batches: Iterable[Tensor]) -> Model:
    """Recompute the running statistics of layers with a horizon from batches, in place.

    Averaged weights need this, because the running statistics belong to the weights of earlier
    steps.

    Parameters
    ----------
    model : Module
        Contains layers with a horizon.
    batches : iterable of Tensor
        Inputs of ``model``; every batch has the same weight.

    Notes
    -----
    See :func:`torch.optim.swa_utils.update_bn` for batch normalization.
    """
    layers = horizon_layers(model).values()
    before = [(layer.momentum, layer.synchronized) for layer in layers]
    with keep_modes(model):
        model.train()
        try:
            for number, batch in enumerate(batches, start=1):
                for layer in layers:
                    layer.momentum, layer.synchronized = 1 / number, False
                model(batch)
        finally:
            for layer, (momentum, synchronized) in zip(layers, before, strict=True):
                layer.momentum, layer.synchronized = momentum, synchronized
    return model


def synchronize_statistics_(model: Model) -> Model:
    """Let layers with a horizon take their statistics from the batches of all processes, in place.

    Every process must then run the same layers in each training step, with an empty share of the
    batch if need be. The group is the default one of `torch.distributed`; CPUs and GPUs work.

    Parameters
    ----------
    model : Module
        Contains layers with a horizon.

    Raises
    ------
    RuntimeError
        If no process group is initialized; and in training if a neuron could spike before its input
        horizon, because the spiking operator takes statistics of one process only.
    ValueError
        If a layer has ``normalization="mean"``.

    Notes
    -----
    See :class:`torch.nn.SyncBatchNorm`, which is for GPUs only.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(
            "synchronize_statistics_ needs processes that know each other: start them with "
            "torchrun, and call torch.distributed.init_process_group first"
        )
    for name, layer in horizon_layers(model).items():
        if layer.normalization == "mean":
            raise ValueError(
                f'{name or type(layer).__name__} has normalization="mean"; statistics over several '
                'processes are for normalization="batch"'
            )
        layer.synchronized = True
    return model


@torch.no_grad()
def whiten_(layer: HorizonConv2d, images: Tensor, eps: float = 5e-4) -> HorizonConv2d:
    """Fill a first convolution with the whitening filters of image patches, and freeze it.

    The filters are the eigenvectors of the covariance of the patches' leads, each divided by the
    root of its eigenvalue, with both signs, so that a pair of ReLUs keeps all information.
    Directions whose variance is small compared with ``eps``, such as the quantization noise of a
    JPEG file, stay small. A layer with ``normalization="batch"`` would amplify them again, so use
    ``"none"``. With ``mirror``, the covariance is that of the images and their mirror images, and
    the filters are combined so that they form mirrored pairs.

    Parameters
    ----------
    layer : HorizonConv2d
        Has twice as many output channels as a patch has values: 24 for 2 x 2 patches of a color
        image.
    images : Tensor
        Training images, intensities in [0, 1], shape (N, C, H, W).
    eps : float
        Added to the eigenvalues, as a fraction of the variance of a pixel, so that noise is not
        amplified.

    Returns
    -------
    HorizonConv2d
        ``layer``, whose ``weight`` no longer requires a gradient. Without normalization its
        ``shift`` is set so that the outputs before the ReLU have mean 0 over ``images``.

    Raises
    ------
    ValueError
        If the layer's shape does not fit the patches, the images are not intensities, there are
        fewer than two patches, or with ``eps`` of 0 they do not vary in every direction; if the
        layer has ``mirror="pairs"``, or ``mirror="image"`` and a kernel of odd width.

    Notes
    -----
    Source: K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498.
    """
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            f"images must be intensities in [0, 1] of shape (N, C, H, W); got {images.dtype} of "
            f"shape {tuple(images.shape)}"
        )
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"images must be intensities in [0, 1]; got {float(images.min()):g} to "
            f"{float(images.max()):g}"
        )
    if layer.groups != 1:
        raise ValueError(f"whiten_ is for a convolution of one group; this one has {layer.groups}")
    if pair(layer.dilation) != (1, 1):
        raise ValueError(
            "whiten_ is for patches of neighboring pixels; this layer has dilation "
            f"{layer.dilation}"
        )
    outputs, (channels, *kernel) = layer.out_channels, layer.weight.shape[1:]
    pairs = layer.mirror is not None
    values = channels * math.prod(kernel)
    if outputs != 2 * values or images.shape[1] != channels:
        raise ValueError(
            f"whitening {kernel[0]} x {kernel[1]} patches of {images.shape[1]} channels takes a "
            f"convolution from {images.shape[1]} to {2 * images.shape[1] * math.prod(kernel)} "
            f"channels; this one has {channels} and {outputs}"
        )
    if layer.mirror == "pairs":
        raise ValueError('whiten_ is for a layer that sees images: mirror must be "image" or None')
    if pairs and kernel[1] % 2:
        raise ValueError(
            f"pairs of mirrored filters need a kernel of even width; this one is {kernel[0]} x "
            f"{kernel[1]}"
        )
    rows, columns = (n - k + 1 for n, k in zip(images.shape[2:], kernel, strict=True))
    if min(rows, columns) < 1 or len(images) * rows * columns < 2:
        raise ValueError(
            f"images of shape {tuple(images.shape)} hold fewer than two patches of {kernel[0]} x "
            f"{kernel[1]} pixels; give more, or larger ones"
        )
    leads = -torch.expm1(-layer.t_in * images.double())
    patches = leads.unfold(2, kernel[0], 1).unfold(3, kernel[1], 1)
    flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, values)
    covariance, mean = torch.cov(flat.T), flat.mean(0)
    if pairs:
        mirror = torch.arange(values, device=flat.device).view(channels, *kernel).flip(-1).flatten()
        apart, mean = (mean - mean[mirror]) / 2, (mean + mean[mirror]) / 2
        covariance = (covariance + covariance[mirror][:, mirror]) / 2
        covariance += apart.outer(apart) * (len(flat) / (len(flat) - 1))
    floor = eps * covariance.diagonal().mean()
    filters = (_paired_filters if pairs else _filters)(covariance, floor, (channels, *kernel))
    if not bool(filters.isfinite().all()):
        raise ValueError(
            "the filters are not finite: the images are not, or do not vary in every direction; "
            f"give others, or eps above {eps:g}"
        )
    filters = torch.cat([filters, -filters])
    layer.weight.requires_grad_(False)
    if layer.normalization == "none":
        layer.set_weights_(filters * layer.spread, -filters.flatten(1) @ mean)
    else:
        layer.weight.copy_(filters)
    return layer


def _filters(covariance: Tensor, floor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Eigenvectors, each divided by the root of its eigenvalue."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (eigenvalues.clamp(min=0) + floor).sqrt()).T
    # An eigenvector's sign is arbitrary. Fix it, so that every machine gets the same filters.
    signs = filters.gather(1, filters.abs().argmax(1, keepdim=True)).sign()
    scaled: Tensor = filters * signs
    return scaled.reshape(-1, *shape)


def _paired_filters(covariance: Tensor, floor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Filters that whiten together with their mirror images: half as many as inputs.

    The eigenvectors of a covariance that does not change by mirroring are even or odd. The sum and
    the difference of an even and an odd one, divided by the root of 2, whiten as well as they do,
    and are each other's mirror images.
    """
    channels, rows, columns = shape
    size, kind = math.prod(shape), covariance
    pixels = torch.eye(size, dtype=kind.dtype, device=kind.device).view(-1, *shape)
    left = pixels.view(*shape, -1)[..., : columns // 2, :].reshape(-1, len(pixels))
    right = left.view(-1, *shape).flip(-1).flatten(1)
    half = (channels, rows, columns // 2)
    even, odd = (
        _filters(basis @ covariance @ basis.T, floor, half).flatten(1) @ basis
        for basis in ((left + right) / math.sqrt(2), (left - right) / math.sqrt(2))
    )
    return ((even + odd) / math.sqrt(2)).reshape(-1, *shape)


@torch.no_grad()
def dirac_(layer: HorizonConv2d) -> HorizonConv2d:
    """Let the first neurons of a convolution pass on one input channel each, in place.

    Neuron j of the first ``in_channels`` neurons (or of all, if there are fewer) gets the weights
    of `torch.nn.init.dirac_`, scaled to the layer's weight norm. The others keep theirs. A network
    with this initialization passes the image on through all its layers. With ``mirror="pairs"``,
    each half of the neurons passes on a half of the channels; with ``"image"``, both pass on all.

    Raises
    ------
    ValueError
        If the kernel is not odd in both directions, or if the layer has groups.

    Notes
    -----
    Source: K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498,
    section 3.2.
    """
    if any(size % 2 == 0 for size in layer.kernel_size):
        raise ValueError(
            f"dirac_ needs a kernel that is odd in both directions; this one is "
            f"{layer.kernel_size[0]} x {layer.kernel_size[1]}"
        )
    if layer.groups != 1:
        raise ValueError(f"dirac_ is for a convolution of one group; this one has {layer.groups}")
    # Of pairs, the second half passes on what the first does not.
    passed = layer.in_channels // (2 if layer.mirror == "pairs" else 1)
    identity = layer.weight[:passed]
    nn.init.dirac_(identity)
    identity.mul_(math.sqrt(layer.fan_in))
    return layer
