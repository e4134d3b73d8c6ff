"""The spiking network and the ReLU network that a description stands for."""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast._overrides import overridable
from ttfs_fast.encoding import MNIST_ENCODING, Encoding
from ttfs_fast.functional import spiking_max_pool2d
from ttfs_fast.geometry import conv_axis
from ttfs_fast.horizon import (
    HorizonConv2d,
    HorizonLinear,
    Mirror,
    dirac_,
    fold_horizons_,
)
from ttfs_fast.models.description import (
    Conv,
    Dense,
    Description,
    GlobalPool,
    Inception,
    Layer,
    Pool,
    count_layer,
)
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d


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
    encoding : Encoding
        How it sees images; kept as its attribute. ``in_channels`` counts channels of spikes: with
        both polarities, twice those of the images.
    device, dtype
        Of the parameters.
    """

    def __init__(
        self,
        description: Description,
        *,
        bias: bool = True,
        t_max: float = math.inf,
        encoding: Encoding = MNIST_ENCODING,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.description = description
        self.encoding = encoding
        self.t_max = t_max
        _fill(self, description, _Spiking(bias=bias, t_max=t_max, device=device, dtype=dtype))


class ReluNetwork(nn.Sequential):
    """The ordinary network of the same shape: convolutions, ReLU, max-pooling.

    Input: images, shape (N, in_channels, height, width). Output: logits, shape (N, classes).
    He's initialization, bias 0.

    Parameters
    ----------
    description : Description
        Its layers.
    batch_norm : bool
        Normalize each layer but the last over the batch, before its ReLU.
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
        _fill(self, description, _Relu(batch_norm, device=device, dtype=dtype))


def relu_counterpart(
    network: SpikingNetwork | Description,
    *,
    batch_norm: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ReluNetwork:
    """The ReLU network of the same shape as a spiking network, newly initialized.

    Parameters
    ----------
    network : SpikingNetwork or Description
        As the functions of :mod:`ttfs_fast.models` make it.
    batch_norm : bool
        Normalize each layer but the last over the batch, before its ReLU.
    device, dtype
        Of the parameters.

    Returns
    -------
    ReluNetwork
        From images (N, C, H, W) to logits (N, classes).

    Examples
    --------
    >>> from ttfs_fast.models import relu_counterpart, vgg_stack
    >>> counterpart = relu_counterpart(vgg_stack(8), batch_norm=True)
    >>> counterpart(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    description = network if isinstance(network, Description) else network.description
    return ReluNetwork(description, batch_norm=batch_norm, device=device, dtype=dtype)


class HorizonNetwork(nn.Sequential):
    """The network of the same shape whose layers have horizons; see `ttfs_fast.horizon`.

    Input: spike values of images, shape (N, in_channels, height, width), none later than
    ``encoding.alpha``. Output: spike values of the classes, shape (N, classes); the class is the
    output that spikes first.

    Parameters
    ----------
    description : Description
        Its layers; Inception modules, whose branches have horizons of their own, are refused.
    encoding : Encoding
        How it sees images; kept as its attribute.
    weight_sum, spread : float
        Of every layer; see `ttfs_fast.horizon.HorizonConv2d`.
    whitening : bool
        The first convolution does not normalize its outputs, for `ttfs_fast.horizon.whiten_`.
    dirac : bool
        Every later convolution with an odd kernel starts with neurons that pass its inputs on; see
        `ttfs_fast.horizon.dirac_`.
    mirrored_pairs : bool
        Tie the weights so that an image and its mirror image get the same answer: the neurons of
        every convolution form mirrored pairs; see `ttfs_fast.horizon.HorizonConv2d`.
    average_pool : bool
        The global pool averages the leads of a map, as that of a ReLU network does, instead of
        taking its first spike. The fully connected layer behind it has it in its weights; see
        `ttfs_fast.horizon.HorizonLinear`.
    device, dtype
        Of the parameters.

    Raises
    ------
    ValueError
        If a layer has no counterpart with a horizon; if ``whitening`` is asked for and the first
        layer is not a convolution; if ``average_pool`` or ``mirrored_pairs`` is, and no fully
        connected layer follows a global pool; or if with ``mirrored_pairs`` the windows of a layer
        do not fit the width from end to end, or its number of channels is odd. The message names
        it.
    """

    def __init__(
        self,
        description: Description,
        *,
        encoding: Encoding = MNIST_ENCODING,
        weight_sum: float = 4.0,
        spread: float = 0.002,
        whitening: bool = False,
        dirac: bool = False,
        average_pool: bool = False,
        mirrored_pairs: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.description = description
        self.encoding = encoding
        _check_horizons(description, whitening, average_pool, mirrored_pairs)
        options: dict[str, Any] = {
            "weight_sum": weight_sum,
            "spread": spread,
            "device": device,
            "dtype": dtype,
        }
        shape: tuple[int, ...] = (description.in_channels, *description.image_size)
        t_in = encoding.alpha
        positions, pairs = 1, False
        before: Layer | None = None
        followers = [layer for _, layer in description.layers[1:]] + [None]
        for (name, layer), after in zip(description.layers, followers, strict=True):
            made: nn.Module | None = None
            if mirrored_pairs and isinstance(layer, Conv | Pool):
                _check_symmetry(description.name, name, layer, shape)
            if isinstance(layer, Conv):
                mirrored: Mirror = "pairs" if pairs else "image"
                window, distance = _window(after)
                made = HorizonConv2d(
                    shape[0],
                    layer.channels,
                    layer.kernel,
                    layer.stride,
                    _half_kernel(name, layer),
                    pool=window,
                    pool_stride=distance,
                    mirror=mirrored if mirrored_pairs else None,
                    t_in=t_in,
                    normalization="none" if whitening and before is None else "batch",
                    **options,
                )
                if dirac and before is not None and min(size % 2 for size in made.kernel_size):
                    dirac_(made)
                t_in, pairs = made.t_out, mirrored_pairs
            elif isinstance(layer, Dense):
                if len(shape) > 1:
                    self.add_module("flatten", nn.Flatten())
                made = HorizonLinear(
                    math.prod(shape),
                    layer.outputs,
                    positions=positions,
                    mirror="pairs" if pairs else None,
                    t_in=t_in,
                    normalization="none" if after is None else "batch",
                    **options,
                )
                if after is None:
                    # Answers that hardly differ: the loss of a new network is that of a guess.
                    nn.init.normal_(made.weight, std=0.1)
                t_in, positions, pairs = made.t_out, 1, False
            elif isinstance(layer, GlobalPool):
                if average_pool and isinstance(after, Dense):
                    positions = math.prod(shape[1:])
                else:
                    made = FirstSpike()
            elif isinstance(layer, Pool) and not (_is_fused(layer) and isinstance(before, Conv)):
                made = _pool(layer)
            if made is not None:
                self.add_module(name, made)
            shape = count_layer([], description.name, name, layer, shape)
            before = layer

    def fold_(self) -> "HorizonNetwork":
        """Make every layer one of plain modules, in place; see `fold_horizons_`."""
        return fold_horizons_(self)


def _check_horizons(
    description: Description, whitening: bool, average_pool: bool, mirrored_pairs: bool
) -> None:
    """Raise ValueError for what a network whose layers have horizons cannot have."""
    for name, layer in description.layers:
        if isinstance(layer, Inception):
            raise ValueError(
                f"{description.name}: {name} is an Inception module, which has no counterpart "
                "with a horizon: the branches differ in depth, so their spikes would meet with "
                "different horizons"
            )
    if whitening and not isinstance(description.layers[0][1], Conv):
        raise ValueError(
            f"{description.name}: whitening is for a network that begins with a convolution"
        )
    pooled = any(
        isinstance(layer, GlobalPool) and isinstance(after, Dense)
        for (_, layer), (_, after) in itertools.pairwise(description.layers)
    )
    for name, asked in (("average_pool", average_pool), ("mirrored_pairs", mirrored_pairs)):
        if asked and not pooled:
            raise ValueError(
                f"{description.name}: {name} is for a network whose global pool is followed by a "
                "fully connected layer; choose one, such as cifar_airbench, or leave it out"
            )


def _check_symmetry(network: str, name: str, layer: Conv | Pool, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless mirrored inputs of a layer give mirrored outputs."""
    padding = _half_kernel(name, layer) if isinstance(layer, Conv) else layer.padding
    width = shape[-1] + 2 * padding
    if (width - layer.kernel) % layer.stride:
        padded = " with its padding" if padding else ""
        ours = isinstance(layer, Pool) and (layer.kernel, layer.stride) == (2, 2)
        raise ValueError(
            f"{network}: with mirrored_pairs, the windows of {name} must fit its input from end to "
            f"end, or a mirrored image gives other outputs; windows of {layer.kernel} with stride "
            f"{layer.stride} do not fit {width} columns{padded}. Choose another window, stride or "
            f"image size" + ("; for cifar_airbench give overlapping_pools" if ours else "")
        )
    if isinstance(layer, Conv) and layer.channels % 2:
        raise ValueError(
            f"{network}: {name} has {layer.channels} channels, and mirrored_pairs need an even "
            "number: choose another width"
        )


def _pool(layer: Pool) -> SpikingMaxPool2d:
    return SpikingMaxPool2d(layer.kernel, layer.stride, layer.padding, 1, layer.ceil_mode)


def _is_fused(layer: Layer | None) -> bool:
    """Whether the convolution before it does the pooling."""
    return isinstance(layer, Pool) and not layer.padding and not layer.ceil_mode


def _window(layer: Layer | None) -> tuple[int, int]:
    """Window and stride of a pool that the convolution before it does; else (1, 1)."""
    if isinstance(layer, Pool) and _is_fused(layer):
        return layer.kernel, layer.stride
    return 1, 1


def _half_kernel(name: str, layer: Conv) -> int:
    """Padding "same" as a number, where all sides have the same."""
    if not isinstance(layer.padding, str):
        return layer.padding
    if layer.padding == "valid":
        return 0
    if layer.stride != 1 or layer.kernel % 2 == 0:
        raise ValueError(
            f'{name}: a layer with a horizon takes padding "same" with stride 1 and an odd kernel '
            f"only; this one has stride {layer.stride} and a kernel of {layer.kernel}: give the "
            "padding as a number"
        )
    return layer.kernel // 2


class Concatenation(nn.ModuleDict):
    """Branches that see the same input, their outputs joined along the channels."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([branch(input) for branch in self.values()], dim=1)


class FirstSpike(nn.Module):
    """First spike of each channel's whole map: (N, C, H, W) to (N, C, 1, 1)."""

    def forward(self, input: Tensor) -> Tensor:
        return _first_spike(input)


@overridable
def _first_spike(input: Tensor) -> Tensor:
    return spiking_max_pool2d(input, tuple(input.shape[-2:]))


class _Spiking:
    """Makes the modules of a spiking network."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def conv(self, channels: int, layer: Conv) -> nn.Module:
        size = (layer.kernel, layer.stride, layer.padding)
        return SpikingConv2d(channels, layer.channels, *size, **self._options)

    def dense(self, inputs: int, layer: Dense, last: bool) -> nn.Module:
        return SpikingLinear(inputs, layer.outputs, **self._options)

    def pool(self, layer: Pool) -> nn.Module:
        return _pool(layer)

    def global_pool(self) -> nn.Module:
        return FirstSpike()


class _Relu:
    """Makes the modules of a ReLU network."""

    def __init__(self, batch_norm: bool, **factory: Any) -> None:
        self._batch_norm, self._factory = batch_norm, factory

    def conv(self, channels: int, layer: Conv) -> nn.Module:
        padding: int | str = layer.padding
        pads: list[nn.Module] = []
        if padding == "same" and layer.stride > 1:
            padding = 0
            pads = [_SamePadding(layer.kernel, layer.stride)]
        size = (layer.kernel, layer.stride, padding)
        bias = not self._batch_norm
        conv = nn.Conv2d(channels, layer.channels, *size, bias=bias, **self._factory)
        _he(conv)
        norm = nn.BatchNorm2d(layer.channels, **self._factory)
        norms: list[nn.Module] = [norm] if self._batch_norm else []
        return nn.Sequential(*pads, conv, *norms, nn.ReLU())

    def dense(self, inputs: int, layer: Dense, last: bool) -> nn.Module:
        normed = self._batch_norm and not last
        linear = nn.Linear(inputs, layer.outputs, bias=not normed, **self._factory)
        _he(linear)
        if last:
            return linear
        norm = nn.BatchNorm1d(layer.outputs, **self._factory)
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
        return _pad_same(input, self.kernel, self.stride)


@overridable
def _pad_same(input: Tensor, kernel: int, stride: int) -> Tensor:
    pads = []
    for size in reversed(input.shape[-2:]):
        out, before = conv_axis(size, kernel, stride, "same")
        total = max((out - 1) * stride + kernel - size, 0)
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
        shape = count_layer([], description.name, name, layer, shape)


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
            inner = count_layer([], "", name, step, inner)
        branches[name] = nn.Sequential(*parts)
    return Concatenation(branches)
