"""The training loss of Zhou et al. (AAAI 2021), equation (5)."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from ttfs_fast._overrides import overridable
from ttfs_fast.encoding import check_spike_values, has_values

MAX_TIME = math.log(1e5)
"""Latest output spike that the loss distinguishes from silence, in units of tau: z = 1e5."""

CostReduction = Literal["sum", "mean"]
LossReduction = Literal["mean", "sum", "none"]
WeightAndBias: TypeAlias = tuple[Tensor, Tensor | None]
Layers: TypeAlias = nn.Module | Iterable[nn.Module | Tensor | WeightAndBias]


@overridable
def first_spike_cross_entropy(
    z: Tensor,
    target: Tensor,
    *,
    scale: float = 1.0,
    exclude_target: bool = False,
    label_smoothing: float = 0.0,
    max_time: float = MAX_TIME,
    reduction: LossReduction = "mean",
) -> Tensor:
    """Cross-entropy that makes the target's output neuron spike first.

    With output times t = ln z, the default is the softmax cross-entropy over -t: for a target c,
    -ln(z_c^-1 / sum_i z_i^-1). With ``exclude_target=True`` the sum leaves out i = c, as equation
    (5) is printed.

    Parameters
    ----------
    z : Tensor
        Spike values of the output neurons, float32 or float64, (N, C) or (C,); +inf where silent.
    target : Tensor
        Index of the class of each sample, int64, (N,) or ().
    scale : float
        Factor on the times, above 0: a larger one separates close spikes more sharply.
    exclude_target : bool
        Leave the target's class out of the sum.
    label_smoothing : float
        Fraction of the target that is spread evenly over all classes, from 0 to below 1, as in
        :func:`torch.nn.functional.cross_entropy`.
    max_time : float
        Horizon of the loss, in units of tau; finite. An output that is silent, or that spikes
        later than this, counts as spiking at ``max_time`` and gets no gradient.
    reduction : {"mean", "sum", "none"}
        Over the samples.

    Returns
    -------
    loss : Tensor
        Scalar, or (N,) or () for ``reduction="none"``; the dtype of ``z``.

    Raises
    ------
    TypeError
        If ``z`` is not floating point or ``target`` not int64.
    ValueError
        If the shapes do not fit, a spike value is 0 or negative, a target is not a class, or an
        option is out of its range.

    Notes
    -----
    By default the sum includes the target, as in the published codes. The loss is then at least 0,
    and its gradient vanishes once the target spikes clearly first. The printed log-ratio has no
    lower bound and rewards a larger lead without limit.

    With the two rules for late outputs the loss is continuous in z, and finite even if every output
    is silent (ln C, or ln(C - 1) without the target). A silent output never counts as earlier than
    one that spikes. The published codes have the same horizon, z = 1e5. Only the weight-sum cost
    can make a silent target spike; the loss still moves the other outputs later.

    NaN in ``z`` gives NaN.
    """
    logits = _logits(z, target, scale, max_time)
    target_logit = logits.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    if exclude_target:
        if z.shape[-1] < 2:
            raise ValueError("exclude_target=True needs at least two classes; z has one")
        logits = logits.scatter(-1, target.unsqueeze(-1), -math.inf)
    _check_smoothing(label_smoothing, exclude_target)
    if label_smoothing:
        target_logit = torch.lerp(target_logit, logits.mean(-1), label_smoothing)
    losses = logits.logsumexp(-1) - target_logit
    if reduction == "mean":
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    if reduction == "none":
        return losses
    raise _unknown_reduction(reduction, LossReduction)


def _check_smoothing(label_smoothing: float, exclude_target: bool) -> None:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1; got {label_smoothing}")
    if label_smoothing and exclude_target:
        raise ValueError("label_smoothing and exclude_target contradict each other; give one")


def weight_sum_cost(layers: Layers, beta: float = 1.0, reduction: CostReduction = "sum") -> Tensor:
    """Cost of neurons whose sum of weights is too small for a spike.

    Second term of equation (5): sum over layers and neurons j of max(0, beta - sum_i w_ji). The
    bias is the weight of one more input. A convolution's neuron is its output channel.

    Parameters
    ----------
    layers : Module, or iterable of Module, Tensor or (Tensor, Tensor or None)
        A model, of which SpikingLinear and SpikingConv2d layers count; or the layers themselves; or
        weights (out, ...), alone or each with its bias (out,) or None.
    beta : float
        Least sum of each neuron's weights without a cost. One whose weights are positive spikes
        only above 1.
    reduction : {"sum", "mean"}
        Within a layer: ``"sum"`` is the paper's, ``"mean"`` that of the published codes. Layers
        are always added up.

    Returns
    -------
    cost : Tensor
        Scalar, 0 or above.

    Raises
    ------
    TypeError, ValueError
        If ``layers`` has no weights of at least two dimensions.
    """
    _check_cost_reduction(reduction)
    return _added([_weight_sum(pair, beta, reduction) for pair in weights_and_biases(layers)])


def l2_cost(layers: Layers, reduction: CostReduction = "sum") -> Tensor:
    """Sum (or mean) of the squared weights, biases included: third term of equation (5).

    Parameters
    ----------
    layers : Module, or iterable of Module, Tensor or (Tensor, Tensor or None)
        As for :func:`weight_sum_cost`.
    reduction : {"sum", "mean"}
        Within a layer: ``"sum"`` is the paper's, ``"mean"`` that of the published codes. Layers
        are always added up.

    Returns
    -------
    cost : Tensor
        Scalar, 0 or above.

    Raises
    ------
    TypeError, ValueError
        If ``layers`` has no weights of at least two dimensions.
    """
    _check_cost_reduction(reduction)
    return _added([_l2(pair, reduction) for pair in weights_and_biases(layers)])


@dataclass(frozen=True)
class LossTerms:
    """The three terms of equation (5), each a scalar without its coefficient, and their sum.

    Attributes
    ----------
    cross_entropy, weight_sum, l2 : Tensor
        The terms.
    total : Tensor
        cross_entropy + K weight_sum + lambda l2.

    A cost whose coefficient is 0 is not computed; it counts as 0.
    """

    cross_entropy: Tensor
    weight_sum: Tensor
    l2: Tensor
    total: Tensor


class SpikingLoss(nn.Module):
    """The whole of equation (5): cross-entropy + K (weight-sum cost) + lambda (L2 cost).

    Parameters
    ----------
    weight_sum_cost : float
        Coefficient K of the weight-sum cost; 0 or above.
    l2_cost : float
        Coefficient lambda of the L2 cost; 0 or above.
    beta : float
        As for :func:`weight_sum_cost`.
    scale, exclude_target, label_smoothing, max_time
        As for :func:`first_spike_cross_entropy`.
    cost_reduction : {"sum", "mean"}
        Reduction of the two costs: the paper's sum or the published codes' mean.

    Raises
    ------
    ValueError
        If an option is out of its range.

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.loss import SpikingLoss
    >>> loss = SpikingLoss()
    >>> z, target = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([0])
    >>> weight = torch.full((3, 2), 0.75)
    >>> round(loss(z, target, [weight]).item(), 4)
    0.563
    """

    def __init__(
        self,
        weight_sum_cost: float = 100.0,
        l2_cost: float = 0.001,
        beta: float = 1.0,
        *,
        scale: float = 1.0,
        exclude_target: bool = False,
        label_smoothing: float = 0.0,
        max_time: float = MAX_TIME,
        cost_reduction: CostReduction = "sum",
    ) -> None:
        super().__init__()
        for name, coefficient in (("weight_sum_cost", weight_sum_cost), ("l2_cost", l2_cost)):
            if not (math.isfinite(coefficient) and coefficient >= 0):
                raise ValueError(f"{name} must be 0 or a finite number above; got {coefficient}")
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite; got {beta}")
        _check_scale_and_max_time(scale, max_time)
        _check_smoothing(label_smoothing, exclude_target)
        _check_cost_reduction(cost_reduction)
        self.weight_sum_cost = weight_sum_cost
        self.l2_cost = l2_cost
        self.beta = beta
        self.scale = scale
        self.exclude_target = exclude_target
        self.label_smoothing = label_smoothing
        self.max_time = max_time
        self.cost_reduction: CostReduction = cost_reduction

    def forward(self, z: Tensor, target: Tensor, layers: Layers) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        z, target : Tensor
            As for :func:`first_spike_cross_entropy`.
        layers
            The model, or its layers, as for :func:`weight_sum_cost`.

        Returns
        -------
        loss : Tensor
            Scalar.
        """
        return self.terms(z, target, layers).total

    def terms(self, z: Tensor, target: Tensor, layers: Layers) -> LossTerms:
        """Loss of a batch, with its terms; parameters as for :meth:`forward`."""
        cross_entropy = first_spike_cross_entropy(
            z,
            target,
            scale=self.scale,
            exclude_target=self.exclude_target,
            label_smoothing=self.label_smoothing,
            max_time=self.max_time,
        )
        weight_sum = l2 = cross_entropy.new_zeros(())
        pairs = weights_and_biases(layers) if self.weight_sum_cost or self.l2_cost else []
        if self.weight_sum_cost:
            weight_sum = weight_sum_cost(pairs, self.beta, self.cost_reduction)
        if self.l2_cost:
            l2 = l2_cost(pairs, self.cost_reduction)
        total = cross_entropy + self.weight_sum_cost * weight_sum + self.l2_cost * l2
        return LossTerms(cross_entropy, weight_sum, l2, total)

    def extra_repr(self) -> str:
        return (
            f"weight_sum_cost={self.weight_sum_cost}, l2_cost={self.l2_cost}, "
            f"beta={self.beta}, scale={self.scale}, "
            f"exclude_target={self.exclude_target}, label_smoothing={self.label_smoothing}, "
            f"max_time={self.max_time:g}, cost_reduction={self.cost_reduction!r}"
        )


def weights_and_biases(layers: Layers) -> list[WeightAndBias]:
    """Weights, each with its bias or None, of a model's spiking layers or of given layers.

    Parameters
    ----------
    layers
        As for :func:`weight_sum_cost`.

    Returns
    -------
    pairs : list of (Tensor, Tensor or None)
        In the order of the layers.

    Raises
    ------
    TypeError, ValueError
        If ``layers`` has no weights of at least two dimensions.
    """
    if isinstance(layers, nn.Module):
        from ttfs_fast.layers import find_spiking_layers

        found = find_spiking_layers(layers, required=True).values()
        return [(layer.weight, layer.bias) for layer in found]
    if isinstance(layers, Tensor):
        raise TypeError("layers must be a module or a list; put a single weight in a list")
    pairs = [_pair(layer) for layer in layers]
    if not pairs:
        raise ValueError("layers is empty; pass at least one layer or weight")
    return pairs


def _pair(layer: nn.Module | Tensor | WeightAndBias) -> WeightAndBias:
    if isinstance(layer, nn.Module):
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    elif isinstance(layer, Tensor):
        weight, bias = layer, None
    else:
        weight, bias = layer
    if not isinstance(weight, Tensor) or weight.dim() < 2:
        raise TypeError(
            f"a layer needs a weight tensor of two dimensions or more; {type(layer).__name__} "
            f"has {tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"a bias for weights of shape {tuple(weight.shape)} must have shape "
            f"({weight.shape[0]},); got {tuple(bias.shape)}"
        )
    return weight, bias


def _logits(z: Tensor, target: Tensor, scale: float, max_time: float) -> Tensor:
    if not z.is_floating_point():
        raise TypeError(f"z must hold floating point spike values; got {z.dtype}")
    if target.dtype != torch.int64:
        raise TypeError(f"target must hold int64 class indices; got {target.dtype}")
    if z.dim() not in (1, 2) or z.shape[-1] == 0 or target.shape != z.shape[:-1]:
        raise ValueError(
            "z must be (N, C) with target (N,), or (C,) with target (), C above 0; got "
            f"{tuple(z.shape)} and {tuple(target.shape)}"
        )
    _check_scale_and_max_time(scale, max_time)
    if has_values(z) and has_values(target) and target.numel() > 0:
        check_spike_values(z)
        low, high = (bound.item() for bound in target.aminmax())
        if low < 0 or high >= z.shape[-1]:
            raise ValueError(
                f"targets must be classes 0..{z.shape[-1] - 1}; got {low if low < 0 else high}"
            )
    # clamp passes no gradient to what it changes, and log's 0 / inf is 0 for silent outputs.
    return z.log().clamp(max=max_time) * -scale


def _check_scale_and_max_time(scale: float, max_time: float) -> None:
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a finite number above 0; got {scale}")
    if not math.isfinite(max_time):
        raise ValueError(f"max_time must be finite; got {max_time}")


def _check_cost_reduction(reduction: str) -> None:
    if reduction not in get_args(CostReduction):
        raise _unknown_reduction(reduction, CostReduction)


def _unknown_reduction(reduction: str, allowed: object) -> ValueError:
    names = ", ".join(repr(name) for name in get_args(allowed))
    return ValueError(f"reduction must be one of {names}; got {reduction!r}")


def _weight_sum(pair: WeightAndBias, beta: float, reduction: CostReduction) -> Tensor:
    weight, bias = pair
    sums = weight.flatten(1).sum(1)
    if bias is not None:
        sums = sums + bias
    shortfall = (beta - sums).relu()
    return shortfall.sum() if reduction == "sum" else shortfall.mean()


def _l2(pair: WeightAndBias, reduction: CostReduction) -> Tensor:
    weight, bias = pair
    total = weight.square().sum()
    count = weight.numel()
    if bias is not None:
        total = total + bias.square().sum()
        count += bias.numel()
    return total if reduction == "sum" else total / count


def _added(costs: list[Tensor]) -> Tensor:
    total = costs[0]
    for cost in costs[1:]:
        total = total + cost
    return total
