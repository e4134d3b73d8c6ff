"""Builds the network of a configuration, and loads the network of a weights file."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ttfs_fast._untrusted import parse_json, read_metadata
from ttfs_fast.analysis.horizons import set_horizons_
from ttfs_fast.conversion import is_converted, load_converted
from ttfs_fast.horizon import ReferenceSpikes, fold_horizons_
from ttfs_fast.models import (
    DecodeSpikes,
    HorizonNetwork,
    SpikingNetwork,
    cifar_airbench,
    cifar_scnn,
    cifar_vgg,
    mnist_scnn,
    relu_counterpart,
    spiking_googlenet,
    spiking_vgg16,
    vgg_stack,
)
from ttfs_fast.models.deep import Depth
from ttfs_fast.models.pretrained import (
    PRETRAINED,
    PretrainedName,
    pretrained_weights,
    read_encoding,
    read_weights,
    weights_file,
)
from ttfs_fast.optim.centering import center_weights_
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.export import read_config
from ttfs_fast.training.own_network import OwnModel, check_description, description_of, own_network


@dataclass(frozen=True)
class ImageShape:
    """Images as they come from a data set, and their classes.

    Attributes
    ----------
    channels, height, width : int
        Of the images, before they become spikes.
    classes : int
        Number of classes.
    """

    channels: int
    height: int
    width: int
    classes: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")

    def to_json(self) -> str:
        return json.dumps(asdict(self))


MNIST_SHAPE = ImageShape(1, 28, 28, 10)

NETWORKS: dict[str, Callable[..., SpikingNetwork]] = {
    "cifar_scnn": cifar_scnn,
    "cifar_vgg": cifar_vgg,
    "cifar_airbench": cifar_airbench,
    **{f"vgg{depth}": partial(vgg_stack, depth) for depth in get_args(Depth)},
    "spiking_vgg16": spiking_vgg16,
    "spiking_googlenet": spiking_googlenet,
}
"""What makes a network of ``config.model`` for any images; mnist_scnn takes those of MNIST only."""


def make_model(
    config: TrainConfig,
    shape: ImageShape,
    *,
    centered: bool = True,
    model: OwnModel | None = None,
) -> nn.Module:
    """A new network, initialized by torch's global generator.

    Parameters
    ----------
    config : TrainConfig
        Selects the network, its neurons and its initialization.
    shape : ImageShape
        The images it is for.
    centered : bool
        With false, leave out the parametrization of ``weight_sum`` and fold layers with a horizon,
        to load folded weights.
    model : Module, callable or str, optional
        Your own network, if it cannot be found by its name.

    Returns
    -------
    Module
        Maps spike values (N, C, H, W) to spike values (N, classes).

    Raises
    ------
    ValueError
        If the network does not take such images, or your own network cannot be made or trained.
    """
    if model is not None or config.own_network:
        return _own(config, shape, centered, model)
    encoding = config.encoding
    network = _network(config, shape)
    if config.neuron == "horizon":
        if not config.weight_sum:
            raise ValueError(
                'neuron="horizon" needs a weight_sum, the sum of every neuron\'s weights, such as 4'
            )
        assert isinstance(network, SpikingNetwork)
        unfolded = HorizonNetwork(
            network.description,
            encoding=encoding,
            weight_sum=config.weight_sum,
            spread=config.horizon_spread,
            whitening=config.whitening,
            dirac=config.dirac,
            average_pool=config.average_pool,
            mirrored_pairs=config.mirrored_pairs,
        )
        return unfolded if centered else unfolded.fold_()
    if config.neuron != "spiking":
        assert isinstance(network, SpikingNetwork)
        return DecodeSpikes(
            relu_counterpart(network, batch_norm=config.neuron == "relu-norm"), encoding
        )
    if config.horizons:
        set_horizons_(network, config.horizons)
    return _centered(config, network, shape) if centered else network


def _network(config: TrainConfig, shape: ImageShape) -> nn.Module:
    """The network that a configuration names, of plain spiking layers."""
    channels = shape.channels * config.encoding.copies
    if config.model != "mnist_scnn":
        extra = {"overlapping_pools": True} if config.overlapping_pools else {}
        return NETWORKS[config.model](
            width=config.width,
            in_channels=channels,
            image_size=(shape.height, shape.width),
            classes=shape.classes,
            t_max=config.t_max,
            encoding=config.encoding,
            **extra,
        )
    if (channels, shape.height, shape.width, shape.classes) != (1, 28, 28, 10):
        raise ValueError(
            "mnist_scnn takes images of one channel and 28 x 28 pixels, of ten classes, with "
            f"one polarity; these have {channels} input channels, {shape.height} x "
            f"{shape.width} pixels and {shape.classes} classes. Choose another model"
        )
    if config.width != 1 or config.neuron != "spiking":
        raise ValueError("mnist_scnn has width 1 and spiking neurons only. Choose another model")
    return mnist_scnn(t_max=config.t_max, encoding=config.encoding)


def _centered(config: TrainConfig, network: nn.Module, shape: ImageShape) -> nn.Module:
    """The network with weights of a fixed sum, if the configuration has a weight sum."""
    if not config.weight_sum or config.neuron == "horizon":
        return network
    return center_weights_(
        network,
        (shape.channels * config.encoding.copies, shape.height, shape.width),
        total=config.weight_sum,
        norm=config.weight_norm,
        relative=config.relative_lr,
    )


def _own(
    config: TrainConfig, shape: ImageShape, centered: bool, model: OwnModel | None
) -> nn.Module:
    """A network of the user's."""
    channels = shape.channels * config.encoding.copies
    network = own_network(config, channels, (shape.height, shape.width), shape.classes, model)
    return _centered(config, network, shape) if centered else fold_horizons_(network)


def load_model(path: str | Path, *, model: OwnModel | None = None) -> tuple[nn.Module, TrainConfig]:
    """Load the network in a file that `train` exported, with its settings.

    The network has the encoding that the file names. A file without settings counts as weights of
    mnist_scnn with the paper's encoding (``Encoding()``). The name of a pretrained network, such as
    ``"cifar_vgg"``, selects its file, unless another file has that name.

    A file contains no code. The file of your own network names its factory, package.module:factory,
    which is imported if Python finds it. Modules of Python's standard library are never imported
    this way.

    Parameters
    ----------
    path : str or Path
        The file, the folder of a run, or the name of a pretrained network.
    model : Module, callable or str, optional
        Your own network: needed if it was passed to :func:`~ttfs_fast.training.train` as an object.
        A module is copied.

    Returns
    -------
    model : Module
        The network.
    config : TrainConfig
        The settings of its training.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it does not hold the weights of the network it names.
    """
    with weights_file(path) as file:
        return _load(file, model)


def _load(path: Path, given: OwnModel | None) -> tuple[nn.Module, TrainConfig]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: give a .safetensors file, the folder of a training run, or the "
            f"name of a pretrained network: {', '.join(PRETRAINED)}"
        )
    if is_converted(path):
        return _load_converted(path)
    config, shape = read_config(path) or TrainConfig(), read_image_shape(path)
    state = read_weights(path)
    encoding = read_encoding(path) or config.encoding
    if encoding != config.encoding:
        raise ValueError(
            f"{path}: its metadata contradict each other: the encoding is {encoding}, that of the "
            f"training {config.encoding}"
        )
    if given is not None and not config.own_network:
        raise ValueError(
            f"{path} holds the weights of {config.model}, which comes with ttfs_fast; leave model "
            "out"
        )
    if config.own_network:
        return _load_own(path, config, shape, state, given), config
    # Made without memory: a file may name a network larger than any machine's.
    try:
        with torch.device("meta"):
            model = make_model(config, shape, centered=False)
        model.load_state_dict(state, assign=True)
    except (RuntimeError, OverflowError, ValueError) as error:
        raise ValueError(f"{path}: not the weights of {config.model}: {error}") from error
    # Horizons keep all their digits; a layer rounds them to the type that it computes in.
    exact = {m: m.reference for m in model.modules() if isinstance(m, ReferenceSpikes)}
    model.to(torch.get_default_dtype())
    for module, reference in exact.items():
        module.reference = reference
    return model, config


def _load_converted(path: Path) -> tuple[nn.Module, TrainConfig]:
    """A network that ``ttfs-fast convert`` wrote, folded; its settings name its data set only."""
    encoding = read_encoding(path)
    if encoding is None:
        raise ValueError(
            f"{path} holds a converted network that takes real numbers, not spikes of pixels; "
            "read it with ttfs_fast.conversion.load_converted"
        )
    model: Any = fold_horizons_(load_converted(path))
    model.encoding = encoding
    dataset = read_metadata(path).get("dataset", "mnist")
    config = TrainConfig.from_json(json.dumps({"dataset": dataset} | encoding.to_dict()))
    return model, config


def _load_own(
    path: Path,
    config: TrainConfig,
    shape: ImageShape,
    state: dict[str, Tensor],
    given: OwnModel | None,
) -> nn.Module:
    """A network of the user's, with the weights of a file."""
    try:
        with torch.random.fork_rng(devices=[]):
            channels = shape.channels * config.encoding.copies
            size = (shape.height, shape.width)
            model = own_network(config, channels, size, shape.classes, given)
        check_description(description_of(model), read_metadata(path).get("network"), "the file")
        fold_horizons_(model).load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return model


def read_image_shape(path: str | Path) -> ImageShape:
    """The images that the network in a file takes; those of MNIST if the file does not say.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or its shape of images is not valid.
    """
    text = read_metadata(path).get("images")
    if text is None:
        return MNIST_SHAPE
    try:
        return ImageShape(**parse_json(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: its metadata name no shape of images: {error}") from error


def load_pretrained(name: PretrainedName = "mnist_scnn") -> tuple[nn.Module, TrainConfig]:
    """A pretrained network of the package, with the settings that made it."""
    with pretrained_weights(name) as path:
        return load_model(path)
