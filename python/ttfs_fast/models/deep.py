"""The paper's deep networks, the authors' small CIFAR network, and VGG-like stacks."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args, overload

import torch
from torch import nn

from ttfs_fast.encoding import MNIST_ENCODING, Encoding
from ttfs_fast.geometry import IntPair, pair
from ttfs_fast.models.authors import (
    AUTHORS_CIFAR_ENCODING,
    AUTHORS_CIFAR_FILES,
    AUTHORS_LATEST,
    CIFAR_SHAPES,
    read_authors,
)
from ttfs_fast.models.description import (
    Conv,
    Dense,
    Description,
    GlobalPool,
    Inception,
    Layer,
    Pool,
    numbered,
)
from ttfs_fast.models.networks import HorizonNetwork, SpikingNetwork
from ttfs_fast.models.pretrained import (
    PretrainedName,
    pretrained_encoding,
    pretrained_weights,
    read_weights,
)

Depth = Literal[4, 8, 13, 17]
Network = TypeVar("Network", bound=nn.Module)

_GOOGLENET: tuple[tuple[str, Layer], ...] = (
    ("conv1", Conv(7, 64, 2, 3)),
    ("pool1", Pool(3, 2, ceil_mode=True)),
    ("conv2", Conv(1, 64)),
    ("conv3", Conv(3, 192)),
    ("pool2", Pool(3, 2, ceil_mode=True)),
    ("inception3a", Inception(64, 96, 128, 16, 32, 32)),
    ("inception3b", Inception(128, 128, 192, 32, 96, 64)),
    ("pool3", Pool(3, 2, ceil_mode=True)),
    ("inception4a", Inception(192, 96, 208, 16, 48, 64)),
    ("inception4b", Inception(160, 112, 224, 24, 64, 64)),
    ("inception4c", Inception(128, 128, 256, 24, 64, 64)),
    ("inception4d", Inception(112, 144, 288, 32, 64, 64)),
    ("inception4e", Inception(256, 160, 320, 32, 128, 128)),
    ("pool4", Pool(3, 2, ceil_mode=True)),
    ("inception5a", Inception(256, 160, 320, 32, 128, 128)),
    ("inception5b", Inception(384, 192, 384, 48, 128, 128)),
    ("global_pool", GlobalPool()),
)

# The convolutions of each block, which a pool ends, and the fully connected layers but the last.
_STACKS: dict[int, tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]] = {
    4: (((16,), (32,), (64,)), ()),
    8: (((16, 16), (32, 32), (64, 64)), (256,)),
    13: (((16, 16), (32, 32), (64, 64, 64), (128, 128, 128)), (256, 256)),
    17: (
        ((16, 16), (32, 32), (64, 64, 64), (128, 128, 128), (256, 256, 256)),
        (1024, 1024, 128),
    ),
}


def spiking_vgg16(
    *,
    width: float = 1.0,
    in_channels: int = 3,
    image_size: IntPair = 32,
    classes: int = 10,
    bias: bool = True,
    t_max: float = math.inf,
    encoding: Encoding = MNIST_ENCODING,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpikingNetwork:
    """SpikingVGG16 of Table 1: thirteen convolutions, five pools, four fully connected layers.

    Parameters
    ----------
    width : float
        Factor on the channels of all layers but the last.
    in_channels : int
        Channels of the images; 6 with both polarities of a color image.
    image_size : int or pair of int
        Height and width of the images; at least 32, because five pools halve them.
    classes : int
        Neurons of the last layer.
    bias : bool
        Whether every neuron has one more input, which spikes at t = 0.
    t_max : float
        The horizon of every layer.
    encoding : Encoding
        How the network sees images; it carries it as its attribute. With both polarities
        ``in_channels`` is twice the number of channels of an image.
    device, dtype
        Of the parameters.

    Returns
    -------
    SpikingNetwork
        From spike values (N, in_channels, H, W) to spike values (N, classes).

    Raises
    ------
    ValueError
        If the images are too small or a number is out of its range.

    Notes
    -----
    As Table 1 lists them, the layers hold 54,299,328 weights. Table 2 gives the network 34
    million; its energy, 0.336 mJ, fits 54.3 million.

    Examples
    --------
    >>> from ttfs_fast.models import spiking_vgg16
    >>> spiking_vgg16(device="meta").description.weights
    54299328
    """
    blocks = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (1024,) * 3)
    layers = _vgg(blocks, (4096, 4096, 512), classes)
    return _network(
        "SpikingVGG16", layers, width, in_channels, image_size, bias, t_max, encoding, device, dtype
    )


def vgg_stack(
    depth: Depth = 8,
    *,
    width: float = 1.0,
    in_channels: int = 3,
    image_size: IntPair = 32,
    classes: int = 10,
    bias: bool = True,
    t_max: float = math.inf,
    encoding: Encoding = MNIST_ENCODING,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpikingNetwork:
    """VGG-like stack of 4, 8, 13 or 17 layers of neurons, small enough to compare depths with.

    All convolutions are 3 x 3, "P" is a pool of 2 x 2:

    ====== ===========================================================================
    depth  layers
    ====== ===========================================================================
    4      16 P 32 P 64 P, FC 10
    8      16 16 P 32 32 P 64 64 P, FC 256, FC 10
    13     16 16 P 32 32 P 64 64 64 P 128 128 128 P, FC 256, FC 256, FC 10
    17     SpikingVGG16 at a quarter of its width
    ====== ===========================================================================

    Parameters
    ----------
    depth : {4, 8, 13, 17}
        Layers of neurons.
    width, in_channels, image_size, classes, bias, t_max, encoding, device, dtype
        As :func:`spiking_vgg16`.

    Returns
    -------
    SpikingNetwork
        From spike values (N, in_channels, H, W) to spike values (N, classes).

    Raises
    ------
    ValueError
        If there is no such depth, the images are too small or a number is out of its range.
    """
    if depth not in get_args(Depth):
        raise ValueError(f"depth must be 4, 8, 13 or 17; got {depth}")
    blocks, dense = _STACKS[depth]
    layers = _vgg(blocks, dense, classes)
    name = f"VGG stack of {depth}"
    return _network(
        name, layers, width, in_channels, image_size, bias, t_max, encoding, device, dtype
    )


def cifar_scnn(
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    width: float = 1.0,
    in_channels: int | None = None,
    image_size: IntPair = 32,
    classes: int = 10,
    bias: bool = True,
    t_max: float | None = None,
    encoding: Encoding | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpikingNetwork:
    """The authors' small CIFAR-10 network, SCNN(5,64,2)-SCNN(5,32,2)-SCNN(5,16,2)-FC(64)-FC(10).

    Padding is "same", as in their code: 32 x 32 becomes 16, 8 and 4.

    Parameters
    ----------
    pretrained : bool
        Load the weights in the package, trained on CIFAR-10 from both polarities of the
        pixels (docs/results/deep.md says how).
    weights : path, optional
        The folder of the weights that the authors published, ``weight_CFAR1.npy`` to
        ``weight_CFAR5.npy``.
    in_channels : int, optional
        Channels of the images: by default 3, with `pretrained` 6.
    t_max : float, optional
        The horizon of every layer: by default none; for the authors' weights ln 1e5, as in their
        code.
    encoding : Encoding, optional
        How it sees images: by default as :func:`spiking_vgg16`, with `pretrained` as the weights
        were trained, ``Encoding(alpha=1.0, polarity="both")``; for the authors' weights as their
        code shows them, t = 3 p, ``Encoding(alpha=3.0, polarity="dark-first")``.
    width, image_size, classes, bias, device, dtype
        As :func:`spiking_vgg16`; any image size will do.

    Returns
    -------
    SpikingNetwork
        From spike values (N, in_channels, H, W) to spike values (N, classes).

    Raises
    ------
    FileNotFoundError, ValueError
        If `weights` is no folder with the authors' five arrays, or the weights are for other
        arguments.
    """
    if pretrained and weights is not None:
        raise ValueError("give either pretrained=True or weights, not both")
    layers: list[Layer] = [
        Conv(5, 64, 2),
        Conv(5, 32, 2),
        Conv(5, 16, 2),
        Dense(64),
        Dense(classes),
    ]
    channels = (6 if pretrained else 3) if in_channels is None else in_channels
    own, latest = encoding or MNIST_ENCODING, math.inf
    if pretrained:
        own = encoding or pretrained_encoding("cifar_scnn")
    if weights is not None:
        own, latest = encoding or AUTHORS_CIFAR_ENCODING, AUTHORS_LATEST
    if t_max is not None:
        latest = t_max
    model = _network(
        "CIFAR SCNN", layers, width, channels, image_size, bias, latest, own, device, dtype
    )
    if weights is not None:
        return _load_authors(model, Path(weights))
    return _load_pretrained(model, "cifar_scnn") if pretrained else model


def cifar_vgg(
    *,
    pretrained: bool = False,
    width: float = 1.0,
    in_channels: int | None = None,
    image_size: IntPair = 32,
    classes: int = 10,
    bias: bool = True,
    t_max: float = math.inf,
    encoding: Encoding | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpikingNetwork:
    """A network of six layers for CIFAR-10: 32 P 64 P 128 128 P, FC 256, FC 10.

    All convolutions are 3 x 3, "P" is a pool of 2 x 2. The pools follow the first convolutions at
    once, so that most channels are at low resolution, where they cost little: a step takes 1.4
    times as long as one of ``vgg_stack(8)``, with more than twice the weights.

    Parameters
    ----------
    pretrained : bool
        Load the weights in the package, trained on CIFAR-10 from both polarities of the
        pixels (docs/results/deep.md says how).
    in_channels : int, optional
        Channels of the images: by default 3, with `pretrained` 6.
    encoding : Encoding, optional
        How it sees images: by default as :func:`spiking_vgg16`, with `pretrained` as the weights
        were trained, ``Encoding(alpha=1.0, polarity="both")``.
    width, image_size, classes, bias, t_max, device, dtype
        As :func:`spiking_vgg16`, for images of at least 8 x 8.

    Returns
    -------
    SpikingNetwork
        From spike values (N, in_channels, H, W) to spike values (N, classes).

    Raises
    ------
    ValueError
        If the images are too small, a number is out of its range, or the trained weights are for
        other arguments.
    """
    layers = _vgg(((32,), (64,), (128, 128)), (256,), classes)
    channels = (6 if pretrained else 3) if in_channels is None else in_channels
    own = encoding or (pretrained_encoding("cifar_vgg") if pretrained else MNIST_ENCODING)
    model = _network(
        "CIFAR VGG", layers, width, channels, image_size, bias, t_max, own, device, dtype
    )
    return _load_pretrained(model, "cifar_vgg") if pretrained else model


@overload
def cifar_airbench(
    *,
    pretrained: Literal[False] = False,
    width: float = 1.0,
    overlapping_pools: bool = False,
    in_channels: int = 3,
    image_size: IntPair = 32,
    classes: int = 10,
    bias: bool = True,
    t_max: float = math.inf,
    encoding: Encoding | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpikingNetwork: ...


@overload
def cifar_airbench(
    *,
    pretrained: Literal[True],
    encoding: Encoding | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> HorizonNetwork: ...


def cifar_airbench(
    *,
    pretrained: bool = False,
    width: float = 1.0,
    overlapping_pools: bool = False,
    in_channels: int = 3,
    image_size: IntPair = 32,
    classes: int = 10,
    bias: bool = True,
    t_max: float = math.inf,
    encoding: Encoding | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpikingNetwork | HorizonNetwork:
    """The network of airbench94: 24 (2x2), 64 P 64, 256 P 256, 256 P 256, first spike, FC 10.

    All convolutions but the first are 3 x 3, "P" is a pool of 2 x 2, or of 3 x 3 with stride 2. The
    first one has room for the whitening filters of 2 x 2 patches, both signs
    (`ttfs_fast.horizon.whiten_`). Two million weights, 118 million multiply-adds an image.

    Parameters
    ----------
    pretrained : bool
        Load the weights in the package, trained on CIFAR-10 with layers that have horizons
        (docs/results/cifar10.md says how), and folded to plain layers. The network has 1.375 times
        the channels, and an average in place of the first spike before its last layer.
    width : float
        Factor on the channels of all layers but the first and the last; without `pretrained` only.
    overlapping_pools : bool
        Pools of 3 x 3 with stride 2, whose windows fit odd widths from end to end; without
        `pretrained` only.
    encoding : Encoding, optional
        How it sees images: by default as :func:`spiking_vgg16`; with `pretrained` only as the
        weights were trained, ``Encoding(alpha=0.01)``.
    in_channels, image_size, classes, bias, t_max, device, dtype
        As :func:`spiking_vgg16`, for images of at least 9 x 9, or 16 x 16 with overlapping pools.

    Returns
    -------
    SpikingNetwork, or with `pretrained` HorizonNetwork
        From spike values (N, in_channels, H, W) to spike values (N, classes).

    Raises
    ------
    ValueError
        If a number is out of its range, or the trained weights are for other arguments.

    References
    ----------
    K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498.
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(f"width must be a finite number above 0; got {width}")
    if pretrained:
        if width != 1:
            raise ValueError(
                f"the trained weights of cifar_airbench have a width of their own; leave width "
                f"out with pretrained=True, got {width}"
            )
        if overlapping_pools:
            raise ValueError(
                "the trained weights of cifar_airbench have pools of their own; leave "
                "overlapping_pools out with pretrained=True"
            )
        width = 1.375
    layers: list[Layer] = [Conv(2, 2 * 4 * in_channels, padding=0)]
    for channels in (64, 256, 256):
        inner = max(1, round(channels * width))
        layers += [Conv(3, inner), Pool(3 if overlapping_pools else 2, 2), Conv(3, inner)]
    layers += [GlobalPool(), Dense(_positive("classes", classes))]
    own = encoding or (pretrained_encoding("cifar_airbench") if pretrained else MNIST_ENCODING)
    # A trained network needs no first weights of its own.
    where = "meta" if pretrained else device
    model = _network(
        "CIFAR airbench", layers, 1.0, in_channels, image_size, bias, t_max, own, where, dtype
    )
    if not pretrained:
        return model
    if not bias or not math.isinf(t_max):
        raise ValueError(
            "the trained weights of cifar_airbench have a bias and horizons; leave "
            "bias and t_max out with pretrained=True"
        )
    trained = pretrained_encoding("cifar_airbench")
    if own != trained:
        raise ValueError(
            f"the trained weights of cifar_airbench have horizons that fit {trained}; leave "
            f"encoding out with pretrained=True, got {own}"
        )
    folded = HorizonNetwork(
        model.description,
        encoding=own,
        weight_sum=2.0,
        spread=0.0005,
        whitening=True,
        average_pool=True,
        device=device,
        dtype=dtype,
    ).fold_()
    return _load_pretrained(folded, "cifar_airbench", "3 channels", width)


def spiking_googlenet(
    *,
    width: float = 1.0,
    in_channels: int = 3,
    image_size: IntPair = 224,
    classes: int = 1000,
    bias: bool = True,
    t_max: float = math.inf,
    encoding: Encoding = MNIST_ENCODING,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> SpikingNetwork:
    """SpikingGoogleNet: GoogLeNet with its convolutions and its last layer made of neurons.

    Inception modules join their branches along the channels, which needs nothing new: spike times
    stand side by side. Pools take the first spike. Left out are what has no counterpart in spike
    times: the two local response normalizations, the dropout, and the two auxiliary classifiers
    (they are not part of GoogLeNet's 6.8 million weights either).

    Parameters
    ----------
    width, in_channels, image_size, classes, bias, t_max, encoding, device, dtype
        As :func:`spiking_vgg16`; images of 224 x 224 in the paper, any size will do.

    Returns
    -------
    SpikingNetwork
        From spike values (N, in_channels, H, W) to spike values (N, classes).

    Notes
    -----
    *The last pool.* GoogLeNet averages each 7 x 7 map; the paper does not say what it did instead.
    Here it is the first spike of the map. The paper rules averages out ("Average-Pooling does not
    have this advantage", section 3.2), a mean of spike times could only be had after the last of
    them, and a fully connected layer on the 7 x 7 x 1024 spikes would add 50 million weights to a
    network that has 6.8.

    *Weights.* 6,990,272 without biases. Szegedy et al. list them layer by layer in thousands that
    are 1,024: 6,797 of these thousands, and 6,827 here (some of their rows do not follow from the
    layers; inception 4c is given as 463 and has 497.5). Both are the 6.8 million of Table 2.

    References
    ----------
    C. Szegedy et al., "Going deeper with convolutions", CVPR 2015, table 1.

    Examples
    --------
    >>> from ttfs_fast.models import spiking_googlenet
    >>> spiking_googlenet(device="meta").description.weights
    6990272
    """
    description = Description(
        "SpikingGoogleNet",
        (*_GOOGLENET, ("fc", Dense(_positive("classes", classes)))),
        in_channels,
        pair(image_size),
    ).scaled(width)
    return SpikingNetwork(
        description, bias=bias, t_max=t_max, encoding=encoding, device=device, dtype=dtype
    )


def _vgg(blocks: Sequence[Sequence[int]], dense: Sequence[int], classes: int) -> list[Layer]:
    layers: list[Layer] = []
    for block in blocks:
        layers += [Conv(3, channels, padding=1) for channels in block]
        layers.append(Pool(2, 2))
    return [*layers, *(Dense(outputs) for outputs in dense), Dense(classes)]


def _network(
    name: str,
    layers: Sequence[Layer],
    width: float,
    in_channels: int,
    image_size: IntPair,
    bias: bool,
    t_max: float,
    encoding: Encoding,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> SpikingNetwork:
    last = layers[-1]
    if isinstance(last, Dense):
        _positive("classes", last.outputs)
    description = Description(name, tuple(numbered(layers)), in_channels, pair(image_size))
    scaled = description.scaled(width)
    return SpikingNetwork(
        scaled, bias=bias, t_max=t_max, encoding=encoding, device=device, dtype=dtype
    )


def _load_pretrained(
    model: Network,
    name: PretrainedName,
    channels: str = "6 channels (both polarities)",
    width: float = 1.0,
) -> Network:
    with pretrained_weights(name) as file:
        state = read_weights(file)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the trained weights of {name} are for width {width:g}, {channels}, images of 32 x "
            "32, 10 classes and a bias; leave these arguments out with pretrained=True: "
            f"{error}"
        ) from error
    return model


def _load_authors(model: SpikingNetwork, folder: Path) -> SpikingNetwork:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder} of the authors' weights, which would hold "
            f"{', '.join(AUTHORS_CIFAR_FILES)}; ttfs_fast.training.load_model reads a .safetensors "
            "file"
        )
    state = read_authors(folder, AUTHORS_CIFAR_FILES, CIFAR_SHAPES)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the authors' weights in {folder} are for width 1, 3 channels, images of 32 x 32, 10 "
            f"classes and a bias; leave these arguments out with weights: {error}"
        ) from error
    return model


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}")
    return value
