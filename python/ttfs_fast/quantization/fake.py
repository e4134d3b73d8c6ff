"""Quantized weights while training: forward with them, gradients to the full-precision ones."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, ReferenceSpikes
from ttfs_fast.layers import Neurons, find_neurons
from ttfs_fast.nn import is_computed, refuse_sisters
from ttfs_fast.optim.centering import own_class_
from ttfs_fast.quantization.config import BITS

MAX_THETA = 1 << 20
_LEVELS = {8: 127, 4: 112, 2: 96}  # the largest integer weight
_TRIES = {4: 40, 2: 60}

Model = TypeVar("Model", bound=nn.Module)


def check_bits(bits: int) -> int:
    """The number of bits of a weight, checked.

    Raises
    ------
    ValueError
        If it is not 8, 4 or 2.
    """
    if bits not in BITS:
        raise ValueError(f"bits must be one of 8, 4 and 2; got {bits}")
    return bits


class _OfBits(nn.Module):
    """The number of bits of quantized weights, as an entry of the state_dict."""

    bits: int

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.bits, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.bits = check_bits(int(state))


class FakeQuantize(_OfBits):
    """Rounds a weight to the levels of an integer network, as a parametrization.

    An output channel j has the threshold theta_j, an integer, and its weights the values
    W / theta_j, with the integers W of docs/integer.md: -127 to 127 for 8 bits, multiples of 16
    from -112 to 112 for 4 bits, and -96, -32, 32 and 96 for 2 bits. The gradient passes straight
    through the rounding.

    Parameters
    ----------
    bits : {8, 4, 2}
        Bits of a weight.
    outputs : int
        Output channels.

    Attributes
    ----------
    theta : Tensor
        Shape (outputs,), the thresholds, whole numbers.

    Notes
    -----
    The state_dict contains the number of bits. Loading it into a layer with another number changes
    that number.
    """

    theta: Tensor

    def __init__(self, bits: int, outputs: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("theta", torch.ones(outputs))

    def recalibrate(self, weight: Tensor) -> None:
        """Choose new thresholds for these full-precision weights."""
        self.theta.copy_(calibrate_thresholds(weight, self.bits))

    def forward(self, weight: Tensor) -> Tensor:
        theta = _by_channel(self.theta.to(weight.dtype), weight)
        rounded = integer_weights(weight.detach() * theta, self.bits) / theta
        return weight + (rounded - weight.detach())

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class FrozenCodes(_OfBits):
    """Keeps the integer weights of a layer fixed, and makes its thresholds trainable.

    :func:`freeze_codes_` replaces a :class:`FakeQuantize` by it. A weight is W / theta_j, as there,
    but W is constant and the logarithm of theta_j is a parameter. The forward pass rounds theta_j
    to an integer; the gradient passes straight through.

    Parameters
    ----------
    quantizer : FakeQuantize
        The layer's previous quantizer, with its bits and thresholds.
    weight : Tensor
        The full-precision weights.

    Attributes
    ----------
    codes : Tensor
        The weights' codes, int8, of the weight's shape.
    log_theta : Parameter
        Shape (outputs,).
    """

    codes: Tensor

    def __init__(self, quantizer: FakeQuantize, weight: Tensor) -> None:
        super().__init__()
        self.bits = quantizer.bits
        theta = quantizer.theta.to(weight)
        codes = weight_codes(weight.detach() * _by_channel(theta, weight), self.bits)
        self.register_buffer("codes", codes.to(torch.int8))
        self.weight_is_trained = weight.requires_grad  # once the codes are unfrozen
        self.log_theta = nn.Parameter(theta.log())

    @property
    def theta(self) -> Tensor:
        """The thresholds, whole numbers; shape (outputs,)."""
        return self.log_theta.detach().exp().round().clamp(1, MAX_THETA)

    def forward(self, weight: Tensor) -> Tensor:
        theta = self.log_theta.exp()
        theta = self.theta + (theta - theta.detach())
        integers = weight_of_code(self.codes.to(weight.dtype), self.bits)
        return integers / _by_channel(theta, weight)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def _by_channel(values: Tensor, weight: Tensor) -> Tensor:
    """Values of the output channels, shaped for broadcasting with the weights."""
    return values.view(-1, *[1] * (weight.dim() - 1))


def integer_weights(scaled: Tensor, bits: int) -> Tensor:
    """The nearest integer weights W of ``weight * theta``; see docs/integer.md."""
    return weight_of_code(weight_codes(scaled, bits), bits)


def weight_codes(scaled: Tensor, bits: int) -> Tensor:
    """Signed codes of ``bits`` bits whose integer weights are nearest to ``weight * theta``."""
    if bits == 8:
        return scaled.round().clamp(-127, 127)
    if bits == 4:
        return (scaled / 16).round().clamp(-7, 7)
    return (scaled / 64).floor().clamp(-2, 1)


def weight_of_code(codes: Tensor, bits: int) -> Tensor:
    """Integer weights W of codes."""
    return codes if bits == 8 else codes * 16 if bits == 4 else codes * 64 + 32


def refuse_large(weight: Tensor, bits: int, layer: int) -> None:
    """Raise ValueError if a layer has a weight above the largest code with a threshold of 1."""
    largest = weight.abs().amax() if weight.numel() else 0
    if largest > _LEVELS[bits]:
        raise ValueError(
            f"layer {layer} has a weight of size {float(largest):g}; with {bits} bits an integer "
            f"network holds weights up to {_LEVELS[bits]}, so give it smaller ones, or more bits"
        )


def calibrate_thresholds(weight: Tensor, bits: int) -> Tensor:
    """Thresholds theta, one per output channel, with which the quantized weights fit best.

    With 8 bits, theta = floor(127 / max |w|): the largest weight of a channel gets the largest
    integer weight, and theta is an integer, so that it has no rounding error. With 4 and 2 bits it
    can be better to clip a few large weights. There, theta is the one with the least squared error
    among a few dozen from that value upwards.

    Parameters
    ----------
    weight : Tensor
        Shape (outputs, ...).
    bits : {8, 4, 2}
        Bits of a weight.

    Returns
    -------
    theta : Tensor
        Shape (outputs,), of the weight's dtype: whole numbers from 1 to 2**20.

    Raises
    ------
    ValueError
        If a weight is not finite.
    """
    flat = weight.detach().flatten(1)
    if not bool(flat.isfinite().all()):
        raise ValueError("the weights hold NaN or infinity; there is nothing to quantize them to")
    largest = flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(flat.shape[0])
    least = (_LEVELS[bits] / largest.clamp(min=1e-30)).clamp(1, MAX_THETA).floor()
    if bits == 8:
        return least
    best, error = least.clone(), torch.full_like(least, torch.inf)
    top = 8 if bits == 2 else 4
    for i in range(_TRIES[bits] + 1):
        theta = (least * (1 + (top - 1) * i / _TRIES[bits])).floor().clamp(1, MAX_THETA)
        rounded = integer_weights(flat * theta[:, None], bits) / theta[:, None]
        here = (rounded - flat).square().sum(1)
        best = torch.where(here < error, theta, best)
        error = torch.minimum(error, here)
    return best


def spiking_layers_of(model: nn.Module) -> list[Neurons]:
    """The layers whose weights are quantized."""
    return list(find_neurons(model, required=True).values())


def quantizer_of(layer: nn.Module) -> FakeQuantize | FrozenCodes | None:
    """The quantizer of a layer that :func:`prepare_qat_` prepared; None for other layers.

    Raises
    ------
    ValueError
        If the weight has another parametrization as well.
    """
    steps = _parametrizations(layer)
    found = [module for module in steps if isinstance(module, FakeQuantize | FrozenCodes)]
    if found and len(steps) > 1:
        raise ValueError(
            f"the weight of a layer is parametrized by {_names(steps)}: thresholds and codes are "
            "those of weights that are quantized and nothing else; remove the other "
            "parametrization (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    return found[0] if found else None


def _parametrizations(layer: nn.Module) -> list[nn.Module]:
    if not parametrize.is_parametrized(layer, "weight"):
        return []
    return list(layer.parametrizations["weight"])  # type: ignore[index]


def _names(modules: list[nn.Module]) -> str:
    return ", ".join(type(module).__name__ for module in modules)


def _refuse_what_cannot_be_quantized(model: nn.Module) -> None:
    """Raise an error for computed weights, and for layers whose sum rounding would change."""
    refuse_sisters(model, "a network for integers")
    for name, layer in model.named_modules():
        if isinstance(layer, ReferenceSpikes):
            raise ValueError(
                f"{name or type(layer).__name__} belongs to a folded layer with a horizon: rounded "
                "weights would lose the sum that its reference input completes; call "
                "ttfs_fast.horizon.unfold_horizons_ on the network first"
            )
        if isinstance(layer, HorizonConv2d | HorizonLinear) and layer.normalization != "none":
            raise ValueError(
                f"{name or type(layer).__name__} normalizes over batches: call "
                "ttfs_fast.horizon.fold_horizons_ and unfold_horizons_ on the network first, which "
                "make the statistics part of the weights"
            )
        if isinstance(layer, HorizonConv2d | HorizonLinear) and layer.shares_weights:
            raise ValueError(
                f"{name or type(layer).__name__} ties weights (mirror or positions), and their "
                "codes would not fit the folded layer: call ttfs_fast.horizon.fold_horizons_ and "
                "unfold_horizons_ on the network first; after that every weight is trained "
                "separately"
            )
    for name, layer in find_neurons(model).items():
        if quantizer_of(layer) is None and is_computed(layer, "weight"):
            how = _names(_parametrizations(layer)) or "a hook"
            raise ValueError(
                f"the weight of {name or type(layer).__name__} is computed by {how}: make it a "
                "plain one first, by ttfs_fast.optim.centering.fold_ where it is centered, else by "
                "torch.nn.utils.parametrize.remove_parametrizations or prune.remove; then quantize"
            )


def _freeze(layer: nn.Module, quantizer: FakeQuantize) -> None:
    weight = full_precision(layer)
    _replace_quantizer(layer, quantizer, FrozenCodes(quantizer, weight))
    weight.requires_grad_(False)
    weight.grad = None  # of the last step; clipping would include it in every later step


def _unfreeze(layer: nn.Module, frozen: FrozenCodes) -> FakeQuantize:
    weight = full_precision(layer)
    quantizer = FakeQuantize(frozen.bits, weight.shape[0]).to(weight)
    _replace_quantizer(layer, frozen, quantizer)
    weight.requires_grad_(frozen.weight_is_trained)
    return quantizer


def _replace_quantizer(layer: nn.Module, old: nn.Module, new: nn.Module) -> None:
    modules = layer.parametrizations["weight"]  # type: ignore[index]
    assert isinstance(modules, parametrize.ParametrizationList)
    modules[list(modules).index(old)] = new


def full_precision(layer: nn.Module) -> Tensor:
    """The full-precision weight of a prepared layer."""
    weight = layer.parametrizations["weight"].original  # type: ignore[index,union-attr]
    assert isinstance(weight, Tensor)
    return weight


def prepare_qat_(model: Model, bits: int = 8) -> Model:
    """Prepare a network for quantization-aware training, in place.

    Every :class:`~ttfs_fast.nn.SpikingLinear` and :class:`~ttfs_fast.nn.SpikingConv2d`, and every
    layer with a horizon, then computes with quantized weights, and training changes the
    full-precision weights. Another call with other bits changes the bits; the paper reduces them
    from 32 to 8, 4 and 2 during training. Biases stay as they are:
    :func:`~ttfs_fast.quantization.convert` rounds them to multiples of 1 / theta.

    Parameters
    ----------
    model : Module
        Contains the spiking layers.
    bits : {8, 4, 2}
        Bits of a weight.

    Returns
    -------
    model : Module
        The same.

    Raises
    ------
    ValueError
        If ``bits`` is another number, the model has no spiking layer, a weight is not finite, or it
        is computed from other tensors, such as a centered one; if a layer with a horizon normalizes
        over batches, or ties weights.

    Notes
    -----
    Zhou et al., AAAI 2021, section 4.2. Thresholds are calibrated here and by :func:`recalibrate_`,
    not at every step.
    """
    check_bits(bits)
    _refuse_what_cannot_be_quantized(model)
    layers = spiking_layers_of(model)
    for layer in layers:
        quantizer = quantizer_of(layer)
        if quantizer is None:
            quantizer = FakeQuantize(bits, layer.weight.shape[0]).to(layer.weight)
            quantizer.recalibrate(layer.weight)
            parametrize.register_parametrization(layer, "weight", quantizer)
            continue
        if isinstance(quantizer, FrozenCodes):
            quantizer = _unfreeze(layer, quantizer)
        quantizer.bits = bits
        quantizer.recalibrate(full_precision(layer))
    return model


def recalibrate_(model: Model) -> Model:
    """Recalibrate the thresholds of a prepared network for its current weights, in place.

    Layers with frozen codes (:func:`freeze_codes_`) keep their thresholds, because these are
    trained.
    """
    for layer in spiking_layers_of(model):
        quantizer = _prepared(layer)
        if isinstance(quantizer, FakeQuantize):
            quantizer.recalibrate(full_precision(layer))
    return model


def freeze_codes_(model: Model) -> Model:
    """Freeze the weight codes of a prepared network in place; thresholds and biases stay trainable.

    At the end of quantization-aware training some weights still change codes at every step, so that
    a network with few bits changes a little after each step. With frozen codes the thresholds
    theta, one per output channel, and the biases are trained like any other parameter. The
    thresholds are recalibrated once before. An earlier optimizer does not contain the new
    parameters: make a new one with ``[p for p in model.parameters() if p.requires_grad]``.
    :func:`prepare_qat_` unfreezes the codes.

    Parameters
    ----------
    model : Module
        A network that :func:`prepare_qat_` prepared.

    Returns
    -------
    model : Module
        The same.

    Raises
    ------
    ValueError
        If the network is not prepared.
    """
    recalibrate_(model)
    for layer in spiking_layers_of(model):
        quantizer = _prepared(layer)
        if isinstance(quantizer, FakeQuantize):
            _freeze(layer, quantizer)
    return model


def _prepared(layer: nn.Module) -> FakeQuantize | FrozenCodes:
    quantizer = quantizer_of(layer)
    if quantizer is None:
        raise ValueError("the network is not prepared; call prepare_qat_(model, bits) first")
    return quantizer


def dequantize_(model: Model, *, keep_quantized: bool = False) -> Model:
    """Undo :func:`prepare_qat_`, in place.

    Parameters
    ----------
    model : Module
        A prepared network.
    keep_quantized : bool
        Keep the quantized weights, instead of the full-precision ones.

    Returns
    -------
    model : Module
        The same.
    """
    for layer in spiking_layers_of(model):
        quantizer = quantizer_of(layer)
        if quantizer is not None:
            if isinstance(quantizer, FrozenCodes):
                full_precision(layer).requires_grad_(quantizer.weight_is_trained)
            own_class_(layer)
            parametrize.remove_parametrizations(layer, "weight", keep_quantized)
    return model
