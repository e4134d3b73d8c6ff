"""Layers with a horizon in integers; docs/integer.md derives the method.

The leads of a network with horizons are too small for spike codes. But a layer is homogeneous in
them: if all leads and biases are larger by a factor, so are the leads of the outputs. So the leads
of every layer are widened until codes resolve them, but not so far that neurons spike early.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ttfs_fast import _core
from ttfs_fast.encoding import Encoding, pixels_to_times
from ttfs_fast.horizon import ReferenceSpikes, fold_horizons_, horizon_layers
from ttfs_fast.layers import evaluating, hook_runs
from ttfs_fast.nn import SpikingConv2d, SpikingLinear
from ttfs_fast.quantization.fake import (
    calibrate_thresholds,
    quantizer_of,
    refuse_large,
    weight_codes,
    weight_of_code,
)
from ttfs_fast.quantization.window import Window, integers

HORIZON_CODE = {16: 49152, 8: 192}
"""The code of every horizon. Later codes are for late outputs of the last layer."""
SPREAD = {16: 0.01, 8: 0.1}
"""Root mean square of widened leads: hundreds of codes of 16 bits, twenty of 8."""
MAX_THETA = 1 << 14
"""Largest threshold: its product with a horizon stays within the kernels' 32 bits."""
MAX_BIAS = 1 << 15
"""Bound on biases, so that long groups of events stay within the kernels' 32 bits."""
SAME = 1e-5
"""Largest relative difference of horizons, and of sums of weights, that counts as rounding."""


@dataclass(frozen=True)
class HorizonStep:
    """A layer of neurons with the `ReferenceSpikes` before it.

    Attributes
    ----------
    layer : SpikingConv2d or SpikingLinear
        Its last input channel is the reference.
    horizon : float
        T, a spike value.
    weight_sum : float
        m, the sum of the weights of every neuron.
    padding : pair of int
        Rows and columns that spike at the horizon.
    """

    layer: SpikingConv2d | SpikingLinear
    horizon: float
    weight_sum: float
    padding: tuple[int, int]

    @property
    def horizon_out(self) -> float:
        """T', a spike value."""
        return self.horizon * self.weight_sum / (self.weight_sum - 1)


def horizon_steps(chain: Sequence[nn.Module]) -> list[HorizonStep]:
    """The layers of neurons of a chain, all with horizons; empty if none has one.

    Raises
    ------
    ValueError
        If only some have one, or the horizons do not fit each other.
    """
    if not any(isinstance(module, ReferenceSpikes) for module in chain):
        return []
    steps: list[HorizonStep] = []
    places = [i for i, m in enumerate(chain) if isinstance(m, SpikingConv2d | SpikingLinear)]
    references = [i for i, m in enumerate(chain) if isinstance(m, ReferenceSpikes)]
    if references != [i - 1 for i in places]:
        raise ValueError(
            "an integer network has a ReferenceSpikes directly before every layer of neurons, or "
            f"none at all; this one has {len(references)} for {len(places)} layers, or elsewhere"
        )
    for number, place in enumerate(places):
        steps.append(_step(number, chain[place], chain[place - 1]))
    for number, (step, after) in enumerate(itertools.pairwise(steps)):
        if not math.isclose(step.horizon_out, after.horizon, rel_tol=SAME):
            raise ValueError(
                f"the output horizon of layer {number} is z = {step.horizon_out:.7g}, as its "
                f"weights' sum {step.weight_sum:.7g} makes it; the ReferenceSpikes of the next "
                f"layer spike at z = {after.horizon:.7g}: they must be the same"
            )
    return steps


def _step(number: int, layer: Any, reference: Any) -> HorizonStep:
    for what, values in (("weight", layer.weight), ("bias", layer.bias)):
        if values is not None and not bool(values.isfinite().all()):
            raise ValueError(
                f"layer {number} has a {what} that is NaN or infinite; there is no integer for it"
            )
    if isinstance(layer, SpikingConv2d) and (layer.groups != 1 or layer.padding not in (0, (0, 0))):
        raise ValueError(
            f"layer {number} has a horizon and groups={layer.groups}, padding={layer.padding}: its "
            "ReferenceSpikes must pad it, and reach every output, so groups=1 and padding=0"
        )
    if len(layer.weight) == 0:
        raise ValueError(f"layer {number} has no neurons")
    sums = layer.weight.detach().double().flatten(1).sum(1)
    if layer.bias is not None:
        sums = sums + layer.bias.detach().double()
    weight_sum = float(sums.mean())
    sizes = layer.weight.detach().double().abs().flatten(1).sum(1)
    if not (weight_sum > 1 and bool(((sums - weight_sum).abs() <= SAME * (1 + sizes)).all())):
        raise ValueError(
            f"the weights of the neurons of layer {number} sum to {sums.min():.7g} to "
            f"{sums.max():.7g}; in a layer with a horizon they have one sum, above 1"
        )
    horizon = float(reference.reference)
    return HorizonStep(layer, horizon, weight_sum, reference.padding)


@dataclass(frozen=True)
class Leads:
    """Leads of a network, measured on some images.

    Attributes
    ----------
    sizes : list of float
        Root mean square over the spikes of the input, over the spikes of every layer of neurons,
        and over all outputs of the last.
    means : list of Tensor
        Mean over the images of the inputs of each layer of neurons, with padding and without the
        reference; shape (1, channels, rows, columns) or (1, features), float64.
    """

    sizes: list[float]
    means: list[Tensor]


def measure_leads(steps: list[HorizonStep], model: nn.Module, values: Tensor) -> Leads:
    """Run a network and measure its leads; `values` are spike values of images."""
    sizes = [_size(1 - values.double() / steps[0].horizon)]
    means: list[Tensor] = []

    def measure(name: str, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        step = steps[len(means)]
        means.append(1 - inputs[0][:, :-1].double().mean(0, keepdim=True) / step.horizon)
        leads = 1 - output.double() / step.horizon_out
        sizes.append(_size(leads if len(means) < len(steps) else leads.abs()))

    with evaluating(model), hook_runs(model, measure):
        model(values)
    return Leads(sizes, means)


def _size(leads: Tensor) -> float:
    early = leads[(leads > 0) & leads.isfinite()]
    return float(early.square().mean().sqrt()) if len(early) else 0.0


def widened(leads: Leads, time_bits: int, widening: float | Sequence[float] | None) -> list[float]:
    """Widening factors for the leads of the input, and of the outputs of every layer."""
    if widening is None:
        return [SPREAD[time_bits] / size if size > 0 else 1.0 for size in leads.sizes]
    return one_for_each_layer(widening, len(leads.means), "widening", "leads")


def one_for_each_layer(
    values: float | Sequence[float], layers: int, name: str, what: str
) -> list[float]:
    """A number for a network's input and one for the outputs of every layer, from one or all."""
    given = [float(value) for value in np.atleast_1d(values).tolist()]
    if len(given) == 1:
        given *= layers + 1
    if len(given) != layers + 1:
        raise ValueError(
            f"{name} holds {len(given)} numbers; give one, or {layers + 1}: for the {what} of the "
            f"input and of the outputs of each of the {layers} layers of neurons"
        )
    for value in given:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a positive number; got {value}")
    return given


def intensity_times(encoding: Encoding) -> Tensor:
    """Spike time of each of a byte's 256 intensities, (1, 256), or (2, 256) for both polarities."""
    pixels = torch.arange(256, dtype=torch.float64) / 255
    return pixels_to_times(pixels.view(1, 1, 256), encoding.alpha, encoding.polarity).view(-1, 256)


def widened_encoders(
    encoding: Encoding, horizon: float, widening: float, time_bits: int
) -> NDArray[np.uint16]:
    """Spike code of each pixel intensity, (1, 256), or (2, 256) for both polarities."""
    times = intensity_times(encoding)
    leads = widening * (1 - times.exp() / horizon).clamp(min=0)
    codes = torch.round(HORIZON_CODE[time_bits] * (1 - leads))
    if float(codes.min()) < 1:
        raise ValueError(
            f"the brightest pixel leads the horizon by {float(leads.max()) / widening:g} of it; "
            f"widened {widening:g} times, it has no spike code: give a smaller widening"
        )
    return codes.numpy().astype(np.uint16)


@dataclass(frozen=True)
class TrainedCodes:
    """The weights of a layer as codes chosen by quantization-aware training.

    Attributes
    ----------
    codes : Tensor
        Signed codes, of the shape of the layer's weights without the reference.
    bits : int
        Bits of a code.
    """

    codes: Tensor
    bits: int

    def thresholds(self, weight: Tensor) -> Tensor:
        """The real thresholds with which the codes represent these weights; shape (outputs,)."""
        integer = weight_of_code(self.codes.double(), self.bits).flatten(1)
        flat = weight.flatten(1)
        return (integer * integer).sum(1) / (integer * flat).sum(1).clamp(min=1e-30)


def folded_with_codes(model: nn.Module) -> tuple[nn.Module, list[TrainedCodes]]:
    """A folded copy of a network with horizons that `prepare_qat_` prepared, and its codes.

    The list is empty, and the model the same, if no layer with a horizon is prepared.

    Raises
    ------
    ValueError
        If only some of the layers are prepared.
    """
    layers = horizon_layers(model)
    quantizers = {name: quantizer_of(layer) for name, layer in layers.items()}
    if not any(quantizers.values()):
        return model, []
    codes = []
    for name, layer in layers.items():
        quantizer = quantizers[name]
        if quantizer is None:
            raise ValueError(
                f"{name} is not prepared for few bits, and other layers are; call prepare_qat_ "
                "on the whole network"
            )
        theta = quantizer.theta.to(layer.weight)
        scaled = layer.weight.detach() * theta.view(-1, *[1] * (layer.weight.dim() - 1))
        codes.append(TrainedCodes(weight_codes(scaled, quantizer.bits), quantizer.bits))
    return fold_horizons_(copy.deepcopy(model)), codes


def add_horizon_layer(
    network: _core.IntegerNetwork,
    step: HorizonStep,
    window: Window,
    bits: int,
    widening: tuple[float, float],
    mean: Tensor,
    images: NDArray[np.uint8],
    trained: TrainedCodes | None = None,
) -> None:
    """Append a layer.

    `widening` has the factors for its inputs and its outputs. `mean` is the mean over the images of
    its input leads in the float network. `trained` are the codes of its weights, if training has
    chosen them.
    """
    layer, m, horizon = step.layer, step.weight_sum, HORIZON_CODE[network.time_bits]
    before, behind = widening
    # Without the reference, whose effect is the slope.
    weight = layer.weight.detach().double()[:, :-1] * (behind / before)
    limit = max(1, MAX_THETA // math.ceil(m - 1))
    sizes = (-1, *[1] * (weight.dim() - 1))
    if trained is None:
        refuse_large(weight, bits, network.layer_count)
        theta = calibrate_thresholds(weight, bits).clamp(max=limit)
        slope = ((m - 1) * theta).floor().clamp(min=1)
    else:
        theta = trained.thresholds(weight)
        slope = ((m - 1) * theta.clamp(max=limit)).round().clamp(min=1)
    # The scale of the weights follows from the rounded slope, so the slope has no rounding error.
    scale = slope / (m - 1)
    codes = weight_codes(weight * scale.view(sizes), bits)
    if trained is not None:
        # Rounding the slope must not change codes; they change only if the slope is at its limit.
        codes = torch.where((theta <= limit).view(sizes), trained.codes.double(), codes)
    theta = scale.round().clamp(min=1)
    ratio = round((m - 1) / m * 2**16)
    # F at the horizon, without the weights' part, for a spike at the output horizon.
    needed = theta * horizon - slope * (horizon * 2**16 / ratio - horizon)
    if layer.bias is not None:
        lead = behind * (1 - 1 / step.horizon)
        needed = needed + scale * horizon * lead * layer.bias.detach().double()
    # Leads are positive, so rounding shifts a neuron's mean far more than it adds noise.
    rounded = weight_of_code(codes, bits)
    is_so = _mean_sum(step, rounded, _seen(network, step, images))
    should_be = _mean_sum(step, weight, before * mean) * scale
    needed = needed - (is_so - should_be) * horizon
    # The closer to the horizon a bias spikes, the finer its steps.
    early = math.ceil(max(1.0, float(needed.abs().max()) / MAX_BIAS))
    if early >= horizon:
        raise ValueError(
            f"layer {network.layer_count} has a bias too large for an integer network; give a "
            "smaller widening"
        )
    bias = integers(needed / early, np.int32)
    silent = (1 << network.time_bits) - 1
    latest = silent - 1
    if layer.t_max < math.log(4 * step.horizon_out):
        lead = behind * (1 - math.exp(layer.t_max) / step.horizon_out)
        latest = min(round(horizon * (1 - lead)), latest)
    if latest < 1:
        raise ValueError(
            f"the horizon of layer {network.layer_count}, t_max={layer.t_max:g}, comes before the "
            "first spike code; leave it at the output horizon, or give a smaller widening"
        )
    network.add_neurons(
        integers(codes.reshape(-1, *window.inputs), np.int8),
        bits,
        integers(theta, np.int32),
        bias,
        horizon - early,
        ratio,
        latest,
        window.stride,
        window.padding,
        window.dilation,
        1,
        window.output,
        horizon,
        integers(slope, np.int32),
    )


def _seen(network: _core.IntegerNetwork, step: HorizonStep, images: NDArray[np.uint8]) -> Tensor:
    """Mean over the images of the input leads of the next layer of an integer network."""
    if network.layer_count > 0:
        codes = network.run_pixels(images, False, torch.get_num_threads())[0]
    else:
        codes = np.concatenate([encoder[images] for encoder in network.encoders], axis=1)
    leads = np.maximum(1 - codes / HORIZON_CODE[network.time_bits], 0)
    mean = torch.from_numpy(leads.mean(axis=0, keepdims=True))
    if isinstance(step.layer, SpikingLinear):
        return mean.flatten(1)
    rows, columns = step.padding
    return F.pad(mean, (columns, columns, rows, rows))


def _mean_sum(step: HorizonStep, weight: Tensor, leads: Tensor) -> Tensor:
    """The weighted sum of each output channel, mean over its map."""
    layer = step.layer
    if isinstance(layer, SpikingLinear):
        return F.linear(leads, weight)[0]
    return F.conv2d(leads, weight, None, layer.stride, 0, layer.dilation).mean((2, 3))[0]
