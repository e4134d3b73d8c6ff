"""The trained networks that the report evaluates, and the missing ones."""

import dataclasses
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ttfs_fast.analysis import evaluate
from ttfs_fast.analysis.robustness import signal_to_noise
from ttfs_fast.conversion import refuse_converted
from ttfs_fast.data import ImageError, ImageFolder, ImageSet, StreamedImages, load
from ttfs_fast.data.folders import center_square
from ttfs_fast.data.sources import data_folders, folder_path
from ttfs_fast.encoding import encoding_of
from ttfs_fast.gpu.device import placed, resolve_device
from ttfs_fast.layers import has_reference_spikes, spiking_layers
from ttfs_fast.models import mnist_scnn
from ttfs_fast.models.pretrained import PretrainedName
from ttfs_fast.nn import refuse_sisters
from ttfs_fast.paper.sections import finite
from ttfs_fast.paper.store import digest
from ttfs_fast.training import (
    TrainConfig,
    load_model,
    load_pretrained,
    read_classes,
    read_recipe,
)
from ttfs_fast.training.build import read_image_shape
from ttfs_fast.training.callback import Callback
from ttfs_fast.training.datasets import check_shape, count
from ttfs_fast.training.datasets import digest as digest_of
from ttfs_fast.training.export import weights_digest
from ttfs_fast.training.own_network import description_of
from ttfs_fast.training.run_folder import RunFolder
from ttfs_fast.training.trainer import ensure_trained

AUTHORS = "authors-mnist"
"""Folder, within the data folder, of the weights that the paper's authors published."""

PAPER_DATA = {"mnist": "mnist", "digits": "mnist", "cifar10": "cifar10", "folder": "imagenet"}
"""Data set of a network to that of the paper's tables which it is set beside."""
DIGITS = "digits-network"
"""Folder in the report's of the network that a quick report trains."""

TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10", "digits": "Digits", "folder": "Images"}
IMAGENET_CLASSES = 1000

CALIBRATION_IMAGES = 500
"""Training images on which the conversion of a network with horizons measures its leads."""


class NoNetworksError(FileNotFoundError):
    """No network can be evaluated: the data of every one is missing."""


class EvaluatedNetwork:
    """A trained network with the images to test it on.

    Parameters
    ----------
    key : str
        Short name, for files.
    title, origin : str
        What it is, and where its weights come from, for people.
    model : Module
        The network; it carries its encoding.
    config : TrainConfig
        The settings that it was trained with.
    data_root : Path, optional
        Folder of the data set; for ``dataset="folder"`` the folder or zip file of the images.
    log : Path, optional
        The log of its training.
    weights : Path, optional
        The file of its weights, which may say what images it takes, and the names of its classes.

    Attributes
    ----------
    device : torch.device
        Where it is tested and retrained; between units of work it is on the CPU.
    """

    def __init__(
        self,
        key: str,
        title: str,
        origin: str,
        model: nn.Module,
        config: TrainConfig,
        data_root: Path | None = None,
        log: Path | None = None,
        weights: Path | None = None,
    ) -> None:
        self.key, self.title, self.origin = key, title, origin
        self._read: dict[int, ImageSet] = {}
        self.model, self.encoding, self.log = model, encoding_of(model), log
        self.device = torch.device("cpu")
        self._shape = None if weights is None else read_image_shape(weights)
        self._classes = None if weights is None else read_classes(weights)
        self.config = dataclasses.replace(
            config, data_root=None if data_root is None else str(data_root)
        )

    @cached_property
    def test_set(self) -> ImageSet | StreamedImages:
        """The test images, of the classes of the network; of a folder, those of ``val``.

        Raises
        ------
        OSError, ValueError
            If they are not there, are of another shape than the network's or of other classes.
        """
        images = self._load()
        if self._shape is not None:
            check_shape(images, self._shape, self.title)
        return images

    def _load(self) -> ImageSet | StreamedImages:
        if self.config.dataset != "folder":
            image_set = load(self.config.dataset, self.config.data_root, train=False)
            return image_set if self._classes is None else image_set.with_classes(self._classes)
        if self.config.data_root is None:
            raise ValueError(f"{self.title} needs a folder or zip file of images")
        return StreamedImages(
            ImageFolder(self.config.data_root, "val", self._classes),
            50,
            self.config.image_size,
            workers=self.config.workers,
            corrupt="skip",
        )

    @property
    def images(self) -> int:
        """Number of test images; of a folder, unreadable ones too."""
        return count(self.test_set)

    def some(self, images: int) -> ImageSet:
        """A number of test images in memory, evenly spaced over all.

        MNIST's first half is easier than its second: the first images would
        give too high an accuracy.
        """
        whole = self.test_set
        if isinstance(whole, ImageSet):
            return whole.some(images)
        chosen = np.linspace(0, self.images, min(images, self.images), endpoint=False)
        places = chosen.astype(np.int64)
        if images not in self._read:
            self._read[images] = _read(whole, places)
        return self._read[images]

    def accuracy_on(self, images: int) -> dict[str, Any]:
        """Right answers on a number of test images."""
        with placed(self.model, self.device) as model:
            found = evaluate(model, self.some(images))
        return {"correct": found.correct, "images": found.images, "accuracy": found.accuracy}

    def signal_to_noise(self, changed: nn.Module) -> float | None:
        """Ratio of the weights to their change in another network, in dB; None without any."""
        before, after = (
            torch.cat([layer.weight.flatten() for layer in spiking_layers(model).values()])
            for model in (self.model, changed)
        )
        return finite(signal_to_noise(before, after))

    @property
    def paper_key(self) -> str:
        """The data set of the paper's tables that it is set beside."""
        return PAPER_DATA[self.config.dataset]

    @property
    def comparable(self) -> bool:
        """Whether the paper has figures for its data set.

        The digits stand beside MNIST, and a folder beside ImageNet if it has a thousand classes.
        """
        if self.config.dataset == "folder":
            return len(self.test_set.classes) == IMAGENET_CLASSES
        return self.config.dataset != "digits"

    @property
    def paper_title(self) -> str:
        """Heading of the paper's figures beside it."""
        if self.comparable:
            return "paper"
        return f"paper ({'MNIST' if self.paper_key == 'mnist' else 'ImageNet'})"

    @property
    def data_title(self) -> str:
        """Its data set, for people."""
        return "the digits" if self.config.dataset == "digits" else TITLES[self.config.dataset]

    @property
    def is_small(self) -> bool:
        """Whether it runs thousands of images per second."""
        return self.config.model == "mnist_scnn"

    @property
    def has_horizons(self) -> bool:
        """Whether its layers have horizons, at which late neurons are made to spike."""
        return has_reference_spikes(self.model)

    def calibration_images(self) -> NDArray[np.uint8]:
        """Training images on which a network with horizons is converted to integers."""
        image_set = load(self.config.dataset, self.config.data_root, train=True)
        return image_set.some(CALIBRATION_IMAGES).images

    @cached_property
    def stem(self) -> str:
        """Begins the keys of its units: another network of the same name has others."""
        return f"{self.key}:{digest(self.identity)[:12]}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides its results: weights, encoding and images."""
        return {
            "key": self.key,
            "weights_sha256": weights_digest(self.model),
            "horizons": [str(layer.t_max) for layer in spiking_layers(self.model).values()],
            "images_sha256": digest_of(self.test_set),
            "dataset": self.config.dataset,
            "encoding": self.encoding.to_dict(),
            **({"network": description_of(self.model)} if self.config.own_network else {}),
        }


def _read(whole: StreamedImages, places: NDArray[np.int64]) -> ImageSet:
    """These images of a folder, without those that cannot be read."""
    images, labels = [], []
    for place in places.tolist():
        try:
            images.append(center_square(whole.folder.read(place), whole.size))
        except ImageError:
            continue
        labels.append(whole.folder.labels[place])
    if not images:
        raise ImageError(f"{whole.folder.path}: none of {len(places)} images can be read")
    return ImageSet(np.stack(images), np.array(labels, np.int64), whole.name, whole.classes)


@dataclass(frozen=True)
class Networks:
    """The networks that were found, and what is missing.

    Attributes
    ----------
    evaluated : list of EvaluatedNetwork
        The first is the one that long work is done with.
    missing : list of str
        A sentence about each missing network, and its remedy.
    """

    evaluated: list[EvaluatedNetwork]
    missing: list[str]


def find_networks(
    *,
    quick: bool,
    out: Path,
    seed: int,
    data_root: Path | None = None,
    runs: tuple[Path, ...] = (),
    images: Path | None = None,
    callback: Callback | None = None,
    device: str = "auto",
) -> Networks:
    """Gather the networks.

    Parameters
    ----------
    quick : bool
        Embedded digits only; without a run, a network is trained on them, into `DIGITS` in ``out``.
    out : Path
        Folder of the report.
    seed : int
        Of that training.
    data_root : Path, optional
        Folder of the data sets; the authors' weights are looked for in its ``authors-mnist``.
    runs : tuple of Path
        Folders that ``ttfs-fast train`` wrote, or files of weights.
    images : Path, optional
        Folder or zip file with ``val/CLASS/NAME``, for networks trained on such a folder.
    callback : Callback, optional
        Receives reports of that training; see `ttfs_fast.training.train`.
    device : str
        Where they are trained and tested; see :func:`ttfs_fast.gpu.resolve_device`. Circuits and
        integers are computed on the CPU.

    Raises
    ------
    NoNetworksError
        If no network can be evaluated, because no data are there.
    FileNotFoundError, ValueError
        If a run or a folder that was named does not exist, or is not one.
    """
    where = resolve_device(device)
    found = _gathered(quick, out, seed, data_root, runs, images, callback, device)
    for network in _distinct(found.evaluated):
        network.device = where
    return found


def _gathered(
    quick: bool,
    out: Path,
    seed: int,
    data_root: Path | None,
    runs: tuple[Path, ...],
    images: Path | None,
    callback: Callback | None,
    device: str,
) -> Networks:
    if data_root is not None:
        data_folders(data_root)
    if images is not None and not folder_path(images).exists():
        raise FileNotFoundError(f"there is no folder and no zip file of images at {images}")
    named = [_run(path, data_root, images) for path in runs]
    if quick:
        wrong = [s.title for s in named if s.config.dataset != "digits"]
        if wrong:
            raise ValueError(
                f"with quick=True, runs must be of the digits; leave out {', '.join(wrong)}"
            )
        return Networks(named or [_trained_digits(out / DIGITS, seed, callback, device)], [])
    networks, missing = _mnist(data_root)
    cifar, without_cifar = _cifar(data_root)
    networks += cifar
    missing += without_cifar
    for network in named:
        try:
            _ = network.test_set
        except (OSError, ValueError) as error:
            missing.append(f"{network.title}: {error}.")
            continue
        networks.append(network)
    present = {network.paper_key for network in networks}
    if "imagenet" not in present:
        missing.append(
            "ImageNet: no trained network was given. Train one by the recipe paper-imagenet, and "
            "name the folder of its run and the folder of its images."
        )
    if not networks:
        raise NoNetworksError(f"no network to evaluate. {' '.join(missing)}")
    return Networks(networks, missing)


def _mnist(data_root: Path | None) -> tuple[list[EvaluatedNetwork], list[str]]:
    """The pretrained network of the package, and the authors', if MNIST is there."""
    pretrained = EvaluatedNetwork(
        "mnist",
        "MNIST (pretrained network)",
        "mnist_scnn(pretrained=True)",
        *load_pretrained(),
        data_root,
    )
    try:
        _ = pretrained.test_set
    except FileNotFoundError as error:
        return [], [f"MNIST: {error}."]
    folders = [base / AUTHORS for base in data_folders(data_root)]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return [pretrained], [
            f"The authors' MNIST weights: there is no folder {AUTHORS} in the data folder; it "
            "would hold weight_scnn1.npy, weight_scnn2.npy and weight_scnn3.npy."
        ]
    authors = EvaluatedNetwork(
        "mnist-authors",
        "MNIST (the authors' weights)",
        f"{AUTHORS}/weight_scnn1.npy, 2, 3",
        mnist_scnn(weights=folder),
        TrainConfig(),
        data_root,
    )
    return [pretrained, authors], []


def _distinct(networks: list[EvaluatedNetwork]) -> list[EvaluatedNetwork]:
    """The same, with a number appended to keys that are taken."""
    taken: set[str] = set()
    for network in networks:
        key, number = network.key, 2
        while network.key in taken:
            network.key, number = f"{key}-{number}", number + 1
        taken.add(network.key)
    return networks


def _cifar(data_root: Path | None) -> tuple[list[EvaluatedNetwork], list[str]]:
    """The pretrained networks for CIFAR-10, if its images are there."""
    names: tuple[PretrainedName, ...] = ("cifar_scnn", "cifar_vgg", "cifar_airbench")
    networks = [
        EvaluatedNetwork(
            f"pretrained-{name.replace('_', '-')}",
            f"CIFAR-10 (pretrained {name})",
            f"{name}(pretrained=True)",
            *load_pretrained(name),
            data_root,
        )
        for name in names
    ]
    try:
        _ = networks[0].test_set
    except (OSError, ValueError) as error:
        return [], [f"CIFAR-10: {error}."]
    return networks, []


def _run(path: Path, data_root: Path | None, images: Path | None) -> EvaluatedNetwork:
    """The network of a run's folder, or of a file of weights."""
    run = RunFolder(path)
    weights = run.weights if path.is_dir() else path
    if not weights.is_file():
        raise FileNotFoundError(
            f"no trained network at {path}: give the folder of a finished training run, or its "
            f"{run.weights.name}"
        )
    model, config = load_model(weights)
    refuse_sisters(model, "the report")
    refuse_converted(model, "stand in the report, which sets trained networks beside the paper's")
    if config.neuron not in ("spiking", "horizon"):
        raise ValueError(f"{path} holds a network of {config.neuron} neurons; these do not spike")
    if config.dataset not in TITLES:
        raise ValueError(
            f"{path} holds a network for {config.dataset}; the report has networks for "
            f"{', '.join(TITLES)}"
        )
    name = path.name if path.is_dir() else path.stem
    log = run.log
    has_log = path.is_dir() and log.is_file() and run.config.is_file()
    root = data_root
    if config.dataset == "folder":
        root = images or (Path(config.data_root) if config.data_root else None)
    return EvaluatedNetwork(
        f"{config.dataset}-{re.sub(r'[^A-Za-z0-9_-]', '-', name)}",
        f"{TITLES[config.dataset]} ({config.model}, {config.epochs} epochs)",
        str(path),
        model,
        config,
        root,
        log if has_log else None,
        weights,
    )


def _trained_digits(
    folder: Path, seed: int, callback: Callback | None, device: str
) -> EvaluatedNetwork:
    """A network of the embedded digits; trained now, or where an earlier training stopped."""
    config = dataclasses.replace(TrainConfig(**read_recipe("digits")), seed=seed, device=device)
    ensure_trained(config, folder, callback=callback)
    return _run(folder, None, None)
