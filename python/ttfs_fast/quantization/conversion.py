"""Conversion of a trained network to an integer network."""

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttfs_fast import _core
from ttfs_fast.encoding import Encoding, encoding_of
from ttfs_fast.geometry import checked_pair
from ttfs_fast.horizon import (
    HorizonConv2d,
    HorizonLinear,
    ReferenceSpikes,
    fold_horizons_,
    has_horizon_layers,
)
from ttfs_fast.layers import SpikeRecorder, watch_layers
from ttfs_fast.models.networks import FirstSpike
from ttfs_fast.nn import (
    Delay,
    SpikingConv2d,
    SpikingLinear,
    SpikingMaxPool2d,
    refuse_sisters,
    refuse_stale,
)
from ttfs_fast.quantization.config import BITS
from ttfs_fast.quantization.fake import (
    calibrate_thresholds,
    integer_weights,
    quantizer_of,
    refuse_large,
    weight_codes,
)
from ttfs_fast.quantization.horizons import (
    HORIZON_CODE,
    add_horizon_layer,
    folded_with_codes,
    horizon_steps,
    intensity_times,
    measure_leads,
    one_for_each_layer,
    widened,
    widened_encoders,
)
from ttfs_fast.quantization.network import IntegerNetwork
from ttfs_fast.quantization.window import Window, integers, window_of

LATEST_PIXEL = {16: 1 << 13, 8: 1 << 7}
"""The latest pixel's code is at most this, unless time scales are given."""
_LAYERS: tuple[type[nn.Module], ...] = (
    SpikingConv2d,
    SpikingMaxPool2d,
    FirstSpike,
    nn.Flatten,
    SpikingLinear,
    ReferenceSpikes,
)
"""Modules that have an integer form."""
MAX_RATIO = 1 << 23
MAX_SUM = 1 << 22
"""Largest sum of a channel's integer weights of one sign, with bias and threshold."""


def convert(
    model: nn.Module,
    bits: int | None = None,
    time_bits: int = 16,
    *,
    input_size: tuple[int, int, int] = (1, 28, 28),
    encoding: Encoding | None = None,
    time_scales: float | Sequence[float] | None = None,
    images: NDArray[np.uint8] | None = None,
    widening: float | Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
) -> IntegerNetwork:
    """Convert a trained network to an integer network, with or without quantization-aware training.

    Parameters
    ----------
    model : Module
        A chain (``nn.Sequential``, possibly nested) of SpikingConv2d, SpikingMaxPool2d,
        FirstSpike, nn.Flatten and SpikingLinear; nn.Identity and nn.Dropout are ignored. Or a
        network whose layers have horizons, folded by :func:`ttfs_fast.horizon.fold_horizons_`: a
        ReferenceSpikes before every layer of neurons.
    bits : {8, 4, 2}, optional
        Bits of a weight. By default those of :func:`~ttfs_fast.quantization.prepare_qat_`, or 8 if
        the network is not prepared.
    time_bits : {16, 8}
        Bits of a spike code.
    input_size : tuple of int
        Channels, rows and columns of an image.
    encoding : Encoding, optional
        How pixels become spikes; by default the network's own. Integer networks do not
        standardize images.
    time_scales : float or sequence of float, optional
        Spike value exp(t) of one step of a code: one number for all layers (equation (4) is
        homogeneous), or one for the input codes and one for the output codes of every layer of
        neurons. By default the power of two with which the latest pixel, exp(alpha), gets a code
        from 4096 to 8192 (8-bit codes: 64 to 128). The larger codes are for later spikes;
        :func:`calibrate_time_scales` gives more of them to networks that need them.
    images : uint8 array, shape (N, channels, rows, columns), optional
        A few hundred training images; only for a network with horizons, which needs them. The
        converter measures the leads on them, chooses the widening, and corrects the shift of each
        neuron by rounding through its bias.
    widening : float or sequence of float, optional
        Factor by which the leads of a network with horizons are enlarged, so that codes resolve
        them: one factor, or one for the input and one for the outputs of every layer of neurons. By
        default the root mean square of the leads becomes 0.01 of the horizon, with 8-bit codes 0.1.
    classes : sequence of str, optional
        Names of the classes, one per output, which the network and its file store.

    Returns
    -------
    network : IntegerNetwork

    Raises
    ------
    TypeError
        If the network contains another kind of layer.
    ValueError
        If bits, sizes, time scales, widening or the encoding are not allowed, a weight or bias is
        not finite, a horizon lies before the first spike code, horizons do not fit each other, or a
        layer could overflow.

    Examples
    --------
    >>> from ttfs_fast.models import mnist_scnn
    >>> from ttfs_fast.quantization import convert
    >>> convert(mnist_scnn(), bits=4).output_size
    (10, 1, 1)
    """
    _check_formats(bits, time_bits)
    refuse_sisters(model, "an integer network")
    silent = (1 << time_bits) - 1
    model, trained = folded_with_codes(model)
    if trained and bits not in (None, trained[0].bits):
        raise ValueError(
            f"the network was trained with weights of {trained[0].bits} bits; leave bits out, or "
            f"prepare it with prepare_qat_ for {bits}"
        )
    chain = _chain(model)
    encoding = _plain_encoding(model, encoding)
    horizons = horizon_steps(chain)
    _check_calibration(bool(horizons), images is not None, time_scales, widening)
    if images is not None:
        images = _some_images(images, input_size)
        values = encoding(torch.from_numpy(images))
        leads = measure_leads(horizons, model, values.to(horizons[0].layer.weight.dtype))
        factors, horizon = widened(leads, time_bits, widening), horizons[0].horizon
        unit = horizon / HORIZON_CODE[time_bits]
        encoders = widened_encoders(encoding, horizon, factors[0], time_bits)
    else:
        factors = _time_scales(chain, time_bits, encoding.alpha, time_scales)
        unit = factors[0]
        encoders = _encoders(encoding, unit, silent)
    scales = itertools.pairwise(factors)  # of each layer of neurons: before it, and after it
    network = _core.IntegerNetwork(time_bits, input_size, unit, encoders)
    for module in _without_flatten(chain, network):
        size = network.output_size
        if isinstance(module, FirstSpike):
            network.add_pooling(size[1:], size[1:], (0, 0), (1, 1), (1, 1))
        elif isinstance(module, SpikingMaxPool2d):
            _add_pooling(network, module, size)
        elif images is not None:
            step, scale, mean = horizons.pop(0), next(scales), leads.means.pop(0)
            window = window_of(module, size, step.padding, reference=1)
            codes = trained.pop(0) if trained else None
            width = codes.bits if codes else bits or 8
            add_horizon_layer(network, step, window, width, scale, mean, images, codes)
        else:
            padding = 0 if isinstance(module, SpikingLinear) else module.padding
            window = window_of(module, size, padding)
            _add_neurons(network, module, window, bits, *next(scales), silent)
    made = IntegerNetwork(network)
    if classes is not None:
        made.set_classes(classes)
    return made


def check_chain(model: nn.Module) -> None:
    """Raise `TypeError` if a network's modules have no integer form; name the module."""
    refuse_sisters(model, "an integer network")
    if has_horizon_layers(model):
        model = fold_horizons_(copy.deepcopy(model))
    _chain(model)


def _check_formats(bits: int | None, time_bits: int) -> None:
    if bits is not None and bits not in BITS:
        raise ValueError(f"bits must be one of 8, 4 and 2; got {bits}")
    if time_bits not in LATEST_PIXEL:
        raise ValueError(f"time_bits must be 16 or 8; got {time_bits}")


def _check_calibration(
    has_horizons: bool, has_images: bool, time_scales: object, widening: object
) -> None:
    """Refuse what only networks of the other kind are calibrated with."""
    if has_horizons and (time_scales is not None or not has_images):
        raise ValueError(
            "a network with horizons is calibrated on images: give convert some hundred, and no "
            "time_scales"
        )
    if not has_horizons and (has_images or widening is not None):
        raise ValueError("images and widening are for networks with horizons; this one has none")


def _without_flatten(chain: list[Any], network: _core.IntegerNetwork) -> Iterator[Any]:
    """The layers that an integer network holds, each as the network has come to it.

    Raises
    ------
    TypeError
        If a fully connected layer would see a map that is not flattened.
    """
    flat = False
    for module in chain:
        if isinstance(module, nn.Flatten):
            if module.start_dim != 1 or module.end_dim != -1:
                raise TypeError("an integer network flattens all of an image: nn.Flatten()")
            flat = True
        elif not isinstance(module, ReferenceSpikes):
            is_linear = isinstance(module, SpikingLinear)
            if is_linear and not flat and network.output_size[1:] != (1, 1):
                raise TypeError("a SpikingLinear behind an image needs an nn.Flatten before it")
            yield module
            flat = flat and not isinstance(module, SpikingConv2d)


def calibrate_time_scales(
    model: nn.Module,
    images: NDArray[np.uint8],
    time_bits: int = 16,
    *,
    encoding: Encoding | None = None,
    fraction: float = 0.95,
) -> list[float]:
    """Time scales with which nearly all of a network's spikes have a code.

    Each layer gets the default time scale of :func:`convert`, or the least power of two times it
    with which at least ``fraction`` of the layer's spikes come no later than the latest code.

    Parameters
    ----------
    model : Module
        As for :func:`convert`.
    images : uint8 array, shape (N, channels, rows, columns)
        A few hundred training images.
    time_bits, encoding
        As for :func:`convert`.
    fraction : float
        Above 0 and at most 1.

    Returns
    -------
    time_scales : list of float
        For :func:`convert`: one for the input codes, and one for every layer of neurons.

    Raises
    ------
    ValueError
        If `fraction` is not in (0, 1], or the layers of the network have horizons.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1; got {fraction}")
    chain = _chain(model)
    encoding = _plain_encoding(model, encoding)
    if horizon_steps(chain):
        raise ValueError(
            "a network with horizons has no time scales to choose; convert calibrates it from "
            "images"
        )
    time_scales = _time_scales(chain, time_bits, encoding.alpha, None)
    latest = (1 << time_bits) - 2
    recorder = SpikeRecorder()
    weight = next(model.parameters())
    with torch.no_grad(), watch_layers(model, recorder):
        values = encoding(torch.from_numpy(images))
        model(values.to(weight.dtype))
    for place, outputs in enumerate(recorder.values.values(), start=1):
        spikes = outputs[outputs.isfinite()]
        if len(spikes):
            late = spikes.kthvalue(math.ceil(fraction * len(spikes))).values.item()
            time_scales[place] *= 2.0 ** max(
                0, math.ceil(math.log2(late / (latest * time_scales[place])))
            )
    return time_scales


def _plain_encoding(model: nn.Module, given: Encoding | None) -> Encoding:
    """The encoding, checked: a table must turn each pixel into its code."""
    encoding = encoding_of(model, given)
    if encoding.standardize:
        raise ValueError(
            "an integer network gives every pixel its code by a table, and does not standardize "
            "images: take a network that was trained without"
        )
    return encoding


def _some_images(images: NDArray[np.uint8], size: tuple[int, int, int]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.shape[1:] != tuple(size) or len(images) == 0:
        raise ValueError(
            f"images are {images.dtype} of shape {images.shape}; they must be uint8 pixels, (N, "
            f"{', '.join(map(str, size))}), at least one image"
        )
    return np.ascontiguousarray(images)


def _chain(model: nn.Module, name: str = "") -> list[Any]:
    """The layers in the order in which they run; ``name`` is that of the module within its network.

    Raises
    ------
    TypeError
        If a module's computation does not follow from its layers, or has no integer form; the
        message names the module.
    """
    kind = f"{name or 'the network itself'}, a {type(model).__name__},"
    if isinstance(model, HorizonConv2d | HorizonLinear):
        raise TypeError(
            f"an integer network is made of a network's plain form; {kind} is a layer with a "
            "horizon in its training form: call ttfs_fast.horizon.fold_horizons_ on the network "
            "first"
        )
    if isinstance(model, Delay):
        raise TypeError(
            "an integer network has no Delay: put the neurons in its place that delay as much, "
            f"Delay.to_neurons, before the conversion ({name or 'the network itself'})"
        )
    known: Any
    for known in (nn.Sequential, nn.Identity, nn.Dropout, *_LAYERS):
        if not isinstance(model, known):
            continue
        if type(model).forward is not known.forward or "forward" in vars(model):
            raise TypeError(
                f"{kind} has a forward method of its own: what it computes does not follow from "
                f"its being a {known.__name__}. Give a network whose modules run one after the "
                "other, nn.Sequential, possibly nested"
            )
        if known in (nn.Identity, nn.Dropout):
            return []
        if known is not nn.Sequential:
            return [model]
        prefix = f"{name}." if name else ""
        return [
            layer
            for place, child in model._modules.items()
            if child is not None
            for layer in _chain(child, f"{prefix}{place}")
        ]
    raise TypeError(
        f"an integer network is a chain of {', '.join(layer.__name__ for layer in _LAYERS)} in "
        f"nn.Sequential, possibly nested; {kind} is not one of these, and how its forward "
        "method uses its modules cannot be followed"
    )


def _add_neurons(
    network: _core.IntegerNetwork,
    layer: SpikingConv2d | SpikingLinear,
    window: Window,
    bits: int | None,
    unit_in: float,
    unit_out: float,
    silent: int,
) -> None:
    refuse_stale(layer, f"layer {network.layer_count}")
    quantizer = quantizer_of(layer)
    weight = layer.weight.detach().double()
    given = None if layer.bias is None else layer.bias.detach().double()
    for what, values in (("weight", weight), ("bias", given)):
        if values is not None and not bool(values.isfinite().all()):
            raise ValueError(
                f"layer {network.layer_count} has a {what} that is NaN or infinite; there is no "
                "integer for it"
            )
    if given is not None and bool((given.abs() > MAX_SUM).any()):
        raise ValueError(
            f"layer {network.layer_count} has a bias of {given[given.abs().argmax()]:g}; an "
            "integer network holds at most 2^22, so give it a smaller one"
        )
    if quantizer is not None and bits in (None, quantizer.bits):
        bits, theta = quantizer.bits, quantizer.theta.double()
    else:
        bits = bits or 8
        refuse_large(weight, bits, network.layer_count)
        theta = calibrate_thresholds(weight, bits)
    if given is not None:
        theta = _with_room(theta, weight, given, bits)
    codes = weight_codes(weight * theta.view(-1, *[1] * (weight.dim() - 1)), bits)
    bias = None
    if given is not None and bool((given != 0).any()):
        bias = integers((given * theta).clamp(-2 * MAX_SUM, 2 * MAX_SUM), np.int32)
    latest = silent - 1
    if layer.t_max < math.log(latest * unit_out):
        latest = math.floor(math.exp(layer.t_max) / unit_out)
        if latest < 1:
            raise ValueError(
                f"the horizon of layer {network.layer_count}, t_max={layer.t_max:g}, comes before "
                f"the first spike code, z = {unit_out:g}; give the layer a smaller time scale"
            )
    network.add_neurons(
        integers(codes.reshape(-1, *window.inputs), np.int8),
        bits,
        integers(theta, np.int32),
        bias,
        _code(1.0, unit_in, silent),
        _ratio(unit_in, unit_out),
        latest,
        window.stride,
        window.padding,
        window.dilation,
        1 if isinstance(layer, SpikingLinear) else layer.groups,
        window.output,
    )


def _with_room(theta: Tensor, weight: Tensor, bias: Tensor, bits: int) -> Tensor:
    """Lower the thresholds of channels whose weights and bias would exceed the bounds.

    The finer a channel's steps 1 / theta, the larger the integer of its bias. A channel whose
    weights are small, or 0, has the finest steps, and allows a bias of up to 4.
    """
    weight = weight.flatten(1)
    while True:
        integers = integer_weights(weight * theta[:, None], bits)
        positive = integers.clamp(min=0).sum(1)
        negative = theta - integers.clamp(max=0).sum(1)
        added = (bias * theta).round()
        sums = torch.maximum(positive + added.clamp(min=0), negative - added.clamp(max=0))
        # Without its bias a channel must fit unchanged; the core checks this.
        fits = torch.maximum(positive, negative) <= MAX_SUM
        over = fits & (sums > MAX_SUM) & (theta > 1)
        if not bool(over.any()):
            return theta
        theta = torch.where(over, (theta * (MAX_SUM / sums)).floor().clamp(min=1), theta)


def _add_pooling(
    network: _core.IntegerNetwork, layer: SpikingMaxPool2d, size: tuple[int, int, int]
) -> None:
    name = "SpikingMaxPool2d"
    pairs = [
        checked_pair(name, what, value, least)
        for what, value, least in (
            ("kernel_size", layer.kernel_size, 1),
            ("stride", layer.stride, 1),
            ("padding", layer.padding, 0),
            ("dilation", layer.dilation, 1),
        )
    ]
    # The output size of the float operator, found by running it on a silent input.
    out = layer(torch.full((1, 1, *size[1:]), math.inf))
    kernel, stride, padding, dilation = pairs
    network.add_pooling(kernel, stride, padding, dilation, tuple(out.shape[2:]))


def _time_scales(
    chain: list[Any], time_bits: int, latest: float, time_scales: float | Sequence[float] | None
) -> list[float]:
    """The time scale of the input codes, and of the output codes of every layer of neurons.

    ``latest`` is the latest time of an input spike.
    """
    layers = sum(isinstance(module, SpikingConv2d | SpikingLinear) for module in chain)
    if time_scales is None:
        time_scales = 2.0 ** math.ceil(
            latest * math.log2(math.e) - math.log2(LATEST_PIXEL[time_bits])
        )
    return one_for_each_layer(time_scales, layers, "time_scales", "codes")


def _ratio(unit_in: float, unit_out: float) -> int:
    ratio = round(unit_in / unit_out * 2**16)
    if not 1 <= ratio <= MAX_RATIO:
        raise ValueError(
            f"time scales of {unit_in:g} and {unit_out:g} are too far apart: 2^-16 to 2^7"
        )
    return ratio


def _encoders(encoding: Encoding, unit: float, silent: int) -> NDArray[np.uint16]:
    """Spike code of each pixel intensity, (1, 256), or (2, 256) for both polarities."""
    times = intensity_times(encoding)
    codes = torch.round(times.exp() / unit).clamp(min=1)
    if float(codes.max()) >= silent:
        raise ValueError(
            f"the latest pixel, z = {math.exp(encoding.alpha):g}, has no spike code below {silent} "
            f"in units of {unit:g}; give a larger time scale, or leave it out"
        )
    return codes.numpy().astype(np.uint16)


def _code(value: float, unit: float, silent: int) -> int:
    return min(max(round(value / unit), 1), silent - 1)
