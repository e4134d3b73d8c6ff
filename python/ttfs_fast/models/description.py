"""Networks as lists of layers, from which the spiking network and its ReLU twin are both built."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ttfs_fast.geometry import conv_axis, pool_axis, taps_inside
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d


@dataclass(frozen=True)
class Conv:
    """SCNN(kernel, channels, stride); padding as :func:`ttfs_fast.spiking_conv2d`."""

    kernel: int
    channels: int
    stride: int = 1
    padding: int | str = "same"


@dataclass(frozen=True)
class Pool:
    """First spike of a window; the ReLU twin takes the largest value."""

    kernel: int
    stride: int
    padding: int = 0
    ceil_mode: bool = False


@dataclass(frozen=True)
class GlobalPool:
    """First spike of each channel's whole map; the ReLU twin takes the mean, as GoogLeNet does."""


@dataclass(frozen=True)
class Dense:
    """FC(outputs)."""

    outputs: int


@dataclass(frozen=True)
class Inception:
    """GoogLeNet's module: four branches side by side, joined along the channels.

    1x1; 1x1 then 3x3; 1x1 then 5x5; a 3x3 pool of stride 1, then 1x1.
    """

    one: int
    three_reduce: int
    three: int
    five_reduce: int
    five: int
    pooled: int

    @property
    def branches(self) -> dict[str, tuple["Conv | Pool", ...]]:
        return {
            "one": (Conv(1, self.one),),
            "three": (Conv(1, self.three_reduce), Conv(3, self.three)),
            "five": (Conv(1, self.five_reduce), Conv(5, self.five)),
            "pooled": (Pool(3, 1, padding=1), Conv(1, self.pooled)),
        }


Layer: TypeAlias = Conv | Pool | GlobalPool | Dense | Inception


@dataclass(frozen=True)
class LayerCount:
    """What one layer of neurons holds.

    Attributes
    ----------
    name : str
        Name of the module.
    text : str
        The layer as Table 1 writes it.
    output : tuple of int
        Shape of its output for one image.
    neurons : int
        Outputs for one image.
    weights : int
        Weights, biases not counted.
    synapses : int
        Pairs of an input and an output that it reaches, padding not counted.
    events_per_spike : float
        Synapses that one input spike drives, mean over the inputs.
    """

    name: str
    text: str
    output: tuple[int, ...]
    neurons: int
    weights: int
    synapses: int
    events_per_spike: float


@dataclass(frozen=True)
class Description:
    """A network, layer by layer, for images of one size.

    Parameters
    ----------
    name : str
        What it is called.
    layers : tuple of (str, layer)
        Names of the modules, and what they are.
    in_channels : int
        Channels of the images.
    image_size : tuple of int
        Height and width of the images.

    Raises
    ------
    ValueError
        If a size is not positive, or the images are too small for the pools; names the layer.
    """

    name: str
    layers: tuple[tuple[str, Layer], ...]
    in_channels: int
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        if self.in_channels < 1 or min(self.image_size) < 1:
            raise ValueError(
                f"{self.name} needs images of at least one channel and pixel; got "
                f"{self.in_channels} channels of {self.image_size}"
            )
        self.counts()

    @property
    def classes(self) -> int:
        """Neurons of the last layer."""
        last = self.layers[-1][1]
        if not isinstance(last, Dense):
            raise ValueError(f"{self.name} does not end with a fully connected layer")
        return last.outputs

    def scaled(self, width: float) -> "Description":
        """All layers but the last with ``width`` times as many channels, at least one each."""
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"width must be a finite number above 0; got {width}")
        inner = tuple((name, _scaled(layer, width)) for name, layer in self.layers[:-1])
        return replace(self, layers=(*inner, self.layers[-1]))

    def counts(self) -> list[LayerCount]:
        """Neurons, weights and synapses of each layer that has any."""
        rows: list[LayerCount] = []
        shape: tuple[int, ...] = (self.in_channels, *self.image_size)
        for name, layer in self.layers:
            shape = _count(rows, self.name, name, layer, shape)
        return rows

    @property
    def weights(self) -> int:
        """Weights of all layers, biases not counted."""
        return sum(row.weights for row in self.counts())

    @property
    def neurons(self) -> int:
        """Neurons of all layers."""
        return sum(row.neurons for row in self.counts())


class SpikingNetwork(nn.Sequential):
    """A spiking network built from its description.

    Input: spike values of images, shape (N, in_channels, height, width). Output: spike values of
    the classes, shape (N, classes); the class is the output that spikes first.

    Parameters
    ----------
    description : Description
        Its layers.
    bias : bool
        Whether every neuron has one more input, which spikes at t = 0.
    t_max : float
        The horizon of every layer.
    device, dtype
        Of the parameters.
    """

    def __init__(
        self,
        description: Description,
        *,
        bias: bool = True,
        t_max: float = math.inf,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.description = description
        self.t_max = t_max
        _fill(self, description, _Spiking(bias, t_max, device, dtype))


class ReluNetwork(nn.Sequential):
    """The ordinary network of the same shape: convolutions, ReLU, max-pooling.

    Input: images, shape (N, in_channels, height, width). Output: logits, shape (N, classes).
    He's initialisation, bias 0.

    Parameters
    ----------
    description : Description
        Its layers.
    batch_norm : bool
        Normalise each layer but the last over the batch, before its ReLU.
    device, dtype
        Of the parameters.
    """

    def __init__(
        self,
        description: Description,
        *,
        batch_norm: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.description = description
        _fill(self, description, _Relu(batch_norm, device, dtype))


def relu_twin(
    network: SpikingNetwork | Description,
    *,
    batch_norm: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ReluNetwork:
    """The ReLU network of the same shape as a spiking network, newly initialised.

    Parameters
    ----------
    network : SpikingNetwork or Description
        As the functions of :mod:`ttfs_fast.models` make it.
    batch_norm : bool
        Normalise each layer but the last over the batch, before its ReLU.
    device, dtype
        Of the parameters.

    Returns
    -------
    ReluNetwork
        From images (N, C, H, W) to logits (N, classes).

    Examples
    --------
    >>> from ttfs_fast.models import relu_twin, vgg_stack
    >>> twin = relu_twin(vgg_stack(8), batch_norm=True)
    >>> twin(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    description = network if isinstance(network, Description) else network.description
    return ReluNetwork(description, batch_norm=batch_norm, device=device, dtype=dtype)


class Concatenation(nn.ModuleDict):
    """Branches that see the same input, their outputs joined along the channels."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([branch(input) for branch in self.values()], dim=1)


class FirstSpike(nn.Module):
    """First spike of each channel's whole map: (N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, input: Tensor) -> Tensor:
        from ttfs_fast.functional import spiking_max_pool2d

        return spiking_max_pool2d(input, tuple(input.shape[-2:]))


class _Spiking:
    """Makes the modules of a spiking network."""

    def __init__(
        self,
        bias: bool,
        t_max: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        self._bias, self._t_max, self._device, self._dtype = bias, t_max, device, dtype

    def conv(self, channels: int, layer: Conv) -> nn.Module:
        return SpikingConv2d(
            channels,
            layer.channels,
            layer.kernel,
            layer.stride,
            layer.padding,
            bias=self._bias,
            t_max=self._t_max,
            device=self._device,
            dtype=self._dtype,
        )

    def dense(self, inputs: int, layer: Dense, last: bool) -> nn.Module:
        return SpikingLinear(
            inputs,
            layer.outputs,
            self._bias,
            t_max=self._t_max,
            device=self._device,
            dtype=self._dtype,
        )

    def pool(self, layer: Pool) -> nn.Module:
        return SpikingMaxPool2d(layer.kernel, layer.stride, layer.padding, 1, layer.ceil_mode)

    def global_pool(self) -> nn.Module:
        return FirstSpike()


class _Relu:
    """Makes the modules of a ReLU network."""

    def __init__(
        self, batch_norm: bool, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        self._batch_norm = batch_norm
        self._device, self._dtype = device, dtype

    def conv(self, channels: int, layer: Conv) -> nn.Module:
        padding: int | str = layer.padding
        pads: list[nn.Module] = []
        if padding == "same" and layer.stride > 1:
            padding = 0
            pads = [_SamePadding(layer.kernel, layer.stride)]
        conv = nn.Conv2d(
            channels,
            layer.channels,
            layer.kernel,
            layer.stride,
            padding,
            bias=not self._batch_norm,
            device=self._device,
            dtype=self._dtype,
        )
        _he(conv)
        norm = nn.BatchNorm2d(layer.channels, device=self._device, dtype=self._dtype)
        norms: list[nn.Module] = [norm] if self._batch_norm else []
        return nn.Sequential(*pads, conv, *norms, nn.ReLU())

    def dense(self, inputs: int, layer: Dense, last: bool) -> nn.Module:
        normed = self._batch_norm and not last
        linear = nn.Linear(
            inputs, layer.outputs, bias=not normed, device=self._device, dtype=self._dtype
        )
        _he(linear)
        if last:
            return linear
        norm = nn.BatchNorm1d(layer.outputs, device=self._device, dtype=self._dtype)
        norms: list[nn.Module] = [norm] if normed else []
        return nn.Sequential(linear, *norms, nn.ReLU())

    def pool(self, layer: Pool) -> nn.Module:
        return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)

    def global_pool(self) -> nn.Module:
        return nn.AdaptiveAvgPool2d(1)


class _SamePadding(nn.Module):
    """Zeros around an image as ``padding="same"`` puts silence; torch refuses it with a stride."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for size in reversed(input.shape[-2:]):
            out, before = conv_axis(size, self.kernel, self.stride, "same")
            total = max((out - 1) * self.stride + self.kernel - size, 0)
            pads += [before, total - before]
        return nn.functional.pad(input, pads)


def _he(module: nn.Conv2d | nn.Linear) -> None:
    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _fill(network: nn.Sequential, description: Description, make: _Spiking | _Relu) -> None:
    shape: tuple[int, ...] = (description.in_channels, *description.image_size)
    last = description.layers[-1][0]
    for name, layer in description.layers:
        if isinstance(layer, Dense) and len(shape) > 1:
            network.add_module("flatten", nn.Flatten())
            shape = (math.prod(shape),)
        network.add_module(name, _module(layer, shape, make, name == last))
        shape = _count([], description.name, name, layer, shape)


def _module(
    layer: Layer, shape: tuple[int, ...], make: _Spiking | _Relu, last: bool = False
) -> nn.Module:
    if isinstance(layer, Conv):
        return make.conv(shape[0], layer)
    if isinstance(layer, Pool):
        return make.pool(layer)
    if isinstance(layer, GlobalPool):
        return make.global_pool()
    if isinstance(layer, Dense):
        return make.dense(shape[0], layer, last)
    branches = {}
    for name, steps in layer.branches.items():
        parts, inner = [], shape
        for step in steps:
            parts.append(_module(step, inner, make))
            inner = _count([], "", name, step, inner)
        branches[name] = nn.Sequential(*parts)
    return Concatenation(branches)


def _count(
    rows: list[LayerCount], network: str, name: str, layer: Layer, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Adds the layer's rows and returns the shape of its output for one image."""
    if isinstance(layer, Inception):
        outputs = []
        for branch, steps in layer.branches.items():
            inner = shape
            for index, step in enumerate(steps):
                inner = _count(rows, network, f"{name}.{branch}.{index}", step, inner)
            outputs.append(inner)
        return (sum(output[0] for output in outputs), *shape[1:])
    if isinstance(layer, GlobalPool):
        return (shape[0], 1, 1)
    if isinstance(layer, Dense):
        inputs = math.prod(shape)
        weights = inputs * layer.outputs
        text = f"FC({layer.outputs})"
        rows.append(
            LayerCount(name, text, (layer.outputs,), layer.outputs, weights, weights, layer.outputs)
        )
        return (layer.outputs,)
    size: Sequence[int] = shape[1:]
    if isinstance(layer, Pool):
        out = [
            pool_axis(n, layer.kernel, layer.stride, layer.padding, layer.ceil_mode) for n in size
        ]
    else:
        out = [conv_axis(n, layer.kernel, layer.stride, layer.padding)[0] for n in size]
    if min(out) < 1:
        raise ValueError(
            f"{network}: the images are too small: {name} gets a map of {size[0]} x {size[1]} for "
            f"a window of {layer.kernel} x {layer.kernel}"
        )
    if isinstance(layer, Pool):
        return (shape[0], *out)
    output = (layer.channels, *out)
    taps = math.prod(sum(taps_inside(n, layer.kernel, layer.stride, layer.padding)) for n in size)
    synapses = taps * shape[0] * layer.channels
    rows.append(
        LayerCount(
            name,
            f"SCNN({layer.kernel},{layer.channels},{layer.stride})",
            output,
            math.prod(output),
            shape[0] * layer.channels * layer.kernel**2,
            synapses,
            synapses / math.prod(shape),
        )
    )
    return output


def _scaled(layer: Layer, width: float) -> Layer:
    def times(channels: int) -> int:
        return max(1, round(channels * width))

    if isinstance(layer, Conv):
        return replace(layer, channels=times(layer.channels))
    if isinstance(layer, Dense):
        return Dense(times(layer.outputs))
    if isinstance(layer, Inception):
        return Inception(
            *(
                times(value)
                for value in (
                    layer.one,
                    layer.three_reduce,
                    layer.three,
                    layer.five_reduce,
                    layer.five,
                    layer.pooled,
                )
            )
        )
    return layer


def numbered(layers: Sequence[Layer]) -> Iterator[tuple[str, Layer]]:
    """Names for layers: conv1, conv2, pool1, ..., fc1, counting each kind."""
    kinds: dict[type, str] = {Conv: "conv", Pool: "pool", GlobalPool: "global_pool", Dense: "fc"}
    seen: dict[str, int] = {}
    for layer in layers:
        kind = kinds.get(type(layer), "inception")
        seen[kind] = seen.get(kind, 0) + 1
        yield f"{kind}{seen[kind]}", layer
