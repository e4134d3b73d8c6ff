"""Networks as lists of layers, with their shapes and counts; networks.py builds them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ttfs_fast.geometry import conv_axis, pool_axis, taps_inside


@dataclass(frozen=True)
class Conv:
    """SCNN(kernel, channels, stride); padding as :func:`ttfs_fast.spiking_conv2d`."""

    kernel: int
    channels: int
    stride: int = 1
    padding: int | str = "same"


@dataclass(frozen=True)
class Pool:
    """First spike of a window; the ReLU counterpart takes the largest value."""

    kernel: int
    stride: int
    padding: int = 0
    ceil_mode: bool = False


@dataclass(frozen=True)
class GlobalPool:
    """First spike of each channel's map; the ReLU counterpart takes the mean, as GoogLeNet does."""


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
            shape = count_layer(rows, self.name, name, layer, shape)
        return rows

    @property
    def weights(self) -> int:
        """Weights of all layers, biases not counted."""
        return sum(row.weights for row in self.counts())

    @property
    def neurons(self) -> int:
        """Neurons of all layers."""
        return sum(row.neurons for row in self.counts())


def count_layer(
    rows: list[LayerCount], network: str, name: str, layer: Layer, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Adds the layer's rows and returns the shape of its output for one image."""
    if isinstance(layer, Inception):
        outputs = []
        for branch, steps in layer.branches.items():
            inner = shape
            for index, step in enumerate(steps):
                inner = count_layer(rows, network, f"{name}.{branch}.{index}", step, inner)
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
