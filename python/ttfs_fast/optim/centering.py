"""Weights with a fixed sum: the reparametrization with which deep networks train.

For every input that spikes before neuron j, the derivative of z_j with respect to the weight, (z_i
- z_j) / D_j, is negative. The common part of a neuron's gradient is therefore larger than the
differences between its weights. An optimizer that scales each step to unit size then mainly changes
the sum of the weights, which only moves the spike in time. Here the sum is fixed:

    w = g center(v) + m / N,

with v trained; docs/deep.md derives it. It folds into plain weights after training.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ttfs_fast import ops
from ttfs_fast.geometry import tap_fractions
from ttfs_fast.layers import evaluating, find_spiking_layers
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, is_computed, refuse_sisters

Model = TypeVar("Model", bound=nn.Module)


class CenteredWeight(nn.Module):
    """w = gain center(v) + total / N, for N inputs of each neuron.

    ``center`` subtracts from each neuron's weights their mean over the input channels, for each
    tap of a kernel apart; over all inputs in a fully connected layer or one with a single channel.
    So the weights of a neuron always sum to ``total``.

    Parameters
    ----------
    total : float
        Sum of each neuron's weights, m; above 1, or no neuron can spike.
    gain : float
        Factor g on the trained part; above 0.
    norm : float
        Norm of each neuron's ``gain center(v)``, which :func:`renormalize_weights_` restores; above
        0.

    Notes
    -----
    All three are buffers, so that a state_dict contains everything that determines the weights.
    """

    total: Tensor
    gain: Tensor
    norm: Tensor

    def __init__(self, total: float, gain: float = 1.0, norm: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(total) and total > 1):
            raise ValueError(
                f"total is {total}; it must be finite and above 1, or the neurons stay silent"
            )
        _check_positive("gain", gain)
        _check_positive("norm", norm)
        self.register_buffer("total", torch.tensor(total, dtype=torch.float64))
        self.register_buffer("gain", torch.tensor(gain, dtype=torch.float64))
        self.register_buffer("norm", torch.tensor(norm, dtype=torch.float64))

    def forward(self, v: Tensor) -> Tensor:
        """Weights of the shape of ``v``, (outputs, inputs, ...)."""
        if ops.in_trace():
            return ops.traced_centered(v, self.gain, self.total)
        return centered(v, self.gain, self.total)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """v that gives ``weight``, or if its sums differ, the nearest weights that have them."""
        return center(weight) / self.gain.to(weight.dtype)


class ScaledBias(nn.Module):
    """b = gain u: a bias whose learning rate has the same units as that of the weights."""

    gain: Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        _check_positive("gain", gain)
        self.register_buffer("gain", torch.tensor(gain, dtype=torch.float64))

    def forward(self, u: Tensor) -> Tensor:
        return self.gain.to(u.dtype) * u

    def right_inverse(self, bias: Tensor) -> Tensor:
        return bias / self.gain.to(bias.dtype)


class _Centered(torch.autograd.Function):
    """gain center(v) + mean in two passes over v, and its gradient in two.

    Most numbers of a deep network are its weights. Written with torch's operators, this
    would take a quarter of a training step of SpikingVGG16 in batches of 32.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, gain: Tensor, mean: Tensor) -> Tensor:
        means = _means(v)
        return torch.mul(v, gain).add_(means.mul_(-gain).add_(mean))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gain,) = ctx.saved_tensors
        nothing = torch.zeros_like(gain)
        grad_v: Tensor = _Centered.apply(grad, gain, nothing)  # type: ignore[no-untyped-call]
        return grad_v, None, None


def centered(v: Tensor, gain: Tensor, total: Tensor) -> Tensor:
    """gain center(v) + total / N, for N inputs of each neuron."""
    mean = total / max(math.prod(v.shape[1:]), 1)
    weight: Tensor = _Centered.apply(v, gain, mean)  # type: ignore[no-untyped-call]
    return weight


def _means(v: Tensor) -> Tensor:
    if v.dim() > 2 and v.shape[1] == 1:
        return v.mean(dim=tuple(range(1, v.dim())), keepdim=True)
    return v.mean(dim=1, keepdim=True)


def center(v: Tensor) -> Tensor:
    """Subtract from each neuron's weights their mean over the input channels.

    Parameters
    ----------
    v : Tensor
        Shape (outputs, inputs) or (outputs, channels, kernel height, kernel width).

    Returns
    -------
    Tensor
        Of the same shape. In a convolution of several channels the mean is taken for each tap of
        the kernel apart, else over all inputs of a neuron.
    """
    return v - _means(v)


def center_weights_(
    model: Model,
    image_shape: Sequence[int] | None = None,
    *,
    total: float = 4.0,
    norm: float = 3.0,
    relative: bool = True,
    generator: torch.Generator | None = None,
) -> Model:
    """Give a network new weights of a fixed sum, which stays fixed during training.

    Each spiking layer gets the parametrization ``w = g center(v) + m / N`` of
    :class:`CenteredWeight`. ``v`` starts as independent normal values, centered, each neuron's
    scaled so that ``g v`` has the norm ``norm``; biases start at 0.

    Parameters
    ----------
    model : Module
        Holds SpikingConv2d and SpikingLinear layers.
    image_shape : (channels, height, width), optional
        Shape of one input, from which the layers' borders follow. Networks of
        :mod:`ttfs_fast.models` that carry a description know it.
    total : float
        Sum m of each neuron's weights. Where padding leaves taps of a convolution without input,
        m is divided by the fraction of the taps that have one, on average over the layer's outputs.
    norm : float
        Norm s of what is left of a neuron's weights without their mean, divided likewise by the
        root of that fraction. The spread of spike times over the neurons of a layer is about s / m
        times that of its inputs.
    relative : bool
        With true, g = s / sqrt(N), so that v starts with deviation 1: the learning rate of Adam
        then counts in units of the deviation that the layer's weights have at the start. With
        false, g = 1.
    generator : torch.Generator, optional
        Source of the start, on the device of the weights; torch's global one by default.

    Returns
    -------
    Module
        ``model``; :func:`fold_` makes its weights plain again.

    Raises
    ------
    ValueError
        If the model has no spiking layer, has parametrized ones already, a number is out of its
        range, or the corners of a layer would be silent: there ``total`` times the fraction of the
        taps that have an input must exceed 1.

    Notes
    -----
    The sum of a neuron's weights is constant, so the weight-sum cost of equation (5) is constant
    and has no effect.

    Examples
    --------
    >>> from ttfs_fast.optim.centering import center_weights_, fold_
    >>> from ttfs_fast.models import vgg_stack
    >>> model = center_weights_(vgg_stack(8))
    >>> sums = model.fc1.weight.sum(1)
    >>> bool(((sums - 4).abs() < 1e-5).all())
    True
    >>> sorted(fold_(model).fc1.state_dict())
    ['bias', 'weight']
    """
    _check_positive("norm", norm)
    layers = _plain_layers(model)
    fractions = _tap_fractions(model, layers, image_shape)
    totals = {}
    for name in layers:
        mean, least = fractions[name]
        totals[name] = total / mean
        if not totals[name] * least > 1:
            raise ValueError(
                f"with total={total}, outputs of {name} at the corners, where only {least:.0%} of "
                f"the taps have an input, would stay silent; total must exceed {mean / least:.2f}"
            )
    for name, layer in layers.items():
        inputs = max(math.prod(layer.weight.shape[1:]), 1)
        own_norm = norm / math.sqrt(fractions[name][0])
        gain = own_norm / math.sqrt(inputs) if relative else 1.0
        module = CenteredWeight(totals[name], gain, own_norm)
        start = center(
            torch.randn(
                layer.weight.shape,
                generator=generator,
                dtype=layer.weight.dtype,
                device=layer.weight.device,
            )
        )
        # (The deviation of a single input is 0, and stays so.)
        rows = start.flatten(1).norm(dim=1).clamp(min=math.sqrt(torch.finfo(start.dtype).tiny))
        start *= (own_norm / rows).reshape(-1, *[1] * (start.dim() - 1))
        parametrize.register_parametrization(layer, "weight", module.to(start.device))
        with torch.no_grad():
            layer.weight = start  # type: ignore  # goes through right_inverse
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
            if relative:
                scaled = ScaledBias(gain).to(start.device)
                parametrize.register_parametrization(layer, "bias", scaled)
    return model


@torch.no_grad()
def renormalize_weights_(model: Model) -> Model:
    """Bring every neuron's weights back to the norm that they started with, in place.

    Training increases the deviations of a neuron's weights from their mean. With large deviations
    it fires after its first few inputs, and noise grows from layer to layer (docs/deep.md). Called
    after each step of the optimizer, this function fixes their norm and leaves their direction
    free.

    Parameters
    ----------
    model : Module
        As :func:`center_weights_` made it; layers without a parametrization are left alone.

    Returns
    -------
    Module
        ``model``, where the deviations of each neuron's weights from their mean have the norm that
        :func:`center_weights_` gave them.

    Examples
    --------
    >>> import torch
    >>> from ttfs_fast.optim.centering import center_weights_, renormalize_weights_
    >>> from ttfs_fast.nn import SpikingLinear
    >>> layer = center_weights_(SpikingLinear(20, 5), total=4.0, norm=3.0)
    >>> optimizer = torch.optim.SGD(layer.parameters(), lr=10.0)
    >>> layer(torch.rand(8, 20).exp()).log().sum().backward()
    >>> optimizer.step()
    >>> deviations = renormalize_weights_(layer).weight - 4 / 20
    >>> bool(((deviations.norm(dim=1) - 3).abs() < 1e-5).all())
    True
    """
    for module in model.modules():
        if _is_ours(module, "weight"):
            weight: Any = module.parametrizations["weight"]  # type: ignore[index]
            v, fixed = weight.original, weight[0]
            rest = center(v)
            sizes = rest.flatten(1).square().mean(1).sqrt_().clamp_(min=torch.finfo(v.dtype).tiny)
            size = fixed.norm / fixed.gain / math.sqrt(max(v[0].numel(), 1))
            v.copy_(rest.div_(sizes.div_(size).reshape(-1, *[1] * (v.dim() - 1))))
    return model


def own_class_(module: nn.Module) -> None:
    """Give a parametrized module a class of its own, before a parametrization is removed.

    A deep copy shares its class with the original, and torch takes the parameters out of the class:
    without this, removing that of the copy would break the original.
    """
    own = type(module)
    module.__class__ = type(own.__name__, own.__bases__, dict(own.__dict__))


def fold_(model: Model) -> Model:
    """Replace every centered weight by a plain parameter of the same value, in place.

    Parameters
    ----------
    model : Module
        As :func:`center_weights_` made it; layers without a parametrization are left alone.

    Returns
    -------
    Module
        ``model``, with the same outputs bit for bit and the state_dict of a plain network.
    """
    for module in model.modules():
        if parametrize.is_parametrized(module):
            own_class_(module)
        for name in ("weight", "bias"):
            if _is_ours(module, name):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


def is_centered(model: nn.Module) -> bool:
    """Whether a layer of the model has a weight of :func:`center_weights_`."""
    return any(_is_ours(module, "weight") for module in model.modules())


def _is_ours(module: nn.Module, name: str) -> bool:
    if not parametrize.is_parametrized(module, name):
        return False
    steps = module.parametrizations[name]  # type: ignore[index]
    return any(isinstance(step, CenteredWeight | ScaledBias) for step in steps)


def _plain_layers(model: nn.Module) -> dict[str, SpikingConv2d | SpikingLinear]:
    layers = find_spiking_layers(model, required=True)
    refuse_sisters(model, "a network of weights with a fixed sum")
    for name, layer in layers.items():
        if is_computed(layer, "weight") or is_computed(layer, "bias"):
            raise ValueError(f"the weights of {name} are parametrized already; call fold_ first")
    return layers


def _tap_fractions(
    model: nn.Module,
    layers: dict[str, SpikingConv2d | SpikingLinear],
    image_shape: Sequence[int] | None,
) -> dict[str, tuple[float, float]]:
    """For each layer, the fraction of its taps that have an input: mean and least."""
    convolutions = {n: layer for n, layer in layers.items() if isinstance(layer, SpikingConv2d)}
    fractions = dict.fromkeys(layers, (1.0, 1.0))
    padded = [layer for layer in convolutions.values() if layer.padding not in ((0, 0), "valid")]
    if not padded:
        return fractions
    sizes = _input_sizes(model, convolutions, image_shape)
    for name, layer in convolutions.items():
        if name not in sizes:
            raise ValueError(f"{name} is not used when the model runs; its borders are not known")
        fractions[name] = _tap_fraction(layer, sizes[name])
    return fractions


def _tap_fraction(layer: SpikingConv2d, sizes: dict[tuple[int, int], int]) -> tuple[float, float]:
    """Fraction of the taps that have an input, over the outputs at all places of a convolution."""
    found = {
        size: tap_fractions(size, layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        for size in sizes
    }
    least = min(fraction[1] for fraction in found.values())
    if len(found) == 1:
        return next(iter(found.values()))[0], least
    means = sum(sizes[size] * fraction[0] for size, fraction in found.items())
    return means / sum(sizes.values()), least


def _input_sizes(
    model: nn.Module, convolutions: dict[str, SpikingConv2d], image_shape: Sequence[int] | None
) -> dict[str, dict[tuple[int, int], int]]:
    """For each convolution the height and width of its inputs, and how many outputs it has there.

    From a run on one silent image, in which a layer may run at several places.
    """
    if image_shape is None:
        description = getattr(model, "description", None)
        if description is None:
            raise ValueError(
                f"{type(model).__name__} does not say how large its images are; give image_shape="
                "(channels, height, width)"
            )
        image_shape = (description.in_channels, *description.image_size)
    if len(image_shape) != 3:
        raise ValueError(f"image_shape must be (channels, height, width); got {image_shape}")
    sizes: dict[str, dict[tuple[int, int], int]] = {}

    def hook_for(name: str) -> "_Hook":
        return _Hook(name, sizes)

    handles = [layer.register_forward_hook(hook_for(n)) for n, layer in convolutions.items()]
    weight = next(iter(convolutions.values())).weight
    silence = torch.full((1, *image_shape), math.inf, dtype=weight.dtype, device=weight.device)
    try:
        with torch.no_grad(), evaluating(model):
            model(silence)
    finally:
        for handle in handles:
            handle.remove()
    return sizes


class _Hook:
    """Records the size of a module's input, and its number of outputs."""

    def __init__(self, name: str, sizes: dict[str, dict[tuple[int, int], int]]) -> None:
        self._name, self._sizes = name, sizes

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        height, width = inputs[0].shape[-2:]
        outputs = self._sizes.setdefault(self._name, {})
        outputs[height, width] = outputs.get((height, width), 0) + math.prod(output.shape[-2:])


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be positive and finite")
