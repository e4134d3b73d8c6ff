"""Accuracy against the fraction of neurons that spike."""

import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ttfs_fast._csv import read_rows, write_rows
from ttfs_fast._files import use_folder
from ttfs_fast.analysis import evaluate
from ttfs_fast.analysis.horizons import find_horizons, set_horizons_
from ttfs_fast.analysis.style import (
    FAINT,
    add_legend,
    new_figure,
    save_figure,
    series_color,
    style_axes,
)
from ttfs_fast.conversion import refuse_converted
from ttfs_fast.gpu.device import describe_device, resolve_device, use_threads
from ttfs_fast.models.pretrained import weights_file
from ttfs_fast.training import TrainConfig, load_model
from ttfs_fast.training.datasets import digest, load_in_memory
from ttfs_fast.training.trainer import ensure_trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ttfs_fast.data import ImageSet

logger = logging.getLogger(__name__)

FRACTIONS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
CALIBRATION_IMAGES = 500
"""Training images on whose spike times the horizons are found."""


@dataclass(frozen=True)
class SilenceStudy:
    """What to silence, and how long to train after it.

    Attributes
    ----------
    weights : path
        The trained network, as `train` exported it, or the name of a pretrained one.
    fractions : tuple of float
        Fractions of each layer's neurons that may spike, the last layer apart.
    epochs : int
        Epochs of further training with the horizons.
    lr : float
        Learning rate at their start; by default a fifth of the network's own.
    teacher : path, optional
        A network whose answers are learned then, see `ttfs_fast.training.distillation`.
    """

    weights: Path
    fractions: tuple[float, ...] = FRACTIONS
    epochs: int = 3
    lr: float | None = None
    teacher: Path | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1; got {self.epochs}")
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ValueError(f"fractions must be above 0 and at most 1; got {fraction}")


@dataclass(frozen=True)
class Silenced:
    """A row of the table.

    Attributes
    ----------
    settings : str
        Digest of what decides the row beyond the fraction: the network's file and the further
        training.
    fraction : float
        Fraction of each layer's neurons that may spike on the training images.
    at_once, at_once_accuracy : float
        Fraction of all neurons that spike on the test images, and accuracy, with the horizons set
        and nothing trained.
    firing, accuracy : float
        The same after the further training.
    first_spike_time : float
        Mean time of the answer then, in tau.
    spikes_per_image : float
        Mean number of neuron spikes per image then.
    epochs : int
        Of further training.
    lr : float
        Its first learning rate.
    seconds : float
        Duration.
    """

    settings: str
    fraction: float
    at_once: float
    at_once_accuracy: float
    firing: float
    accuracy: float
    first_spike_time: float
    spikes_per_image: float
    epochs: int
    lr: float
    seconds: float


def silence_study(
    study: SilenceStudy,
    out: str | Path,
    *,
    data_root: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    log: Callable[[str], None] = logger.info,
) -> list[Silenced]:
    """Give a trained network horizons, train it further, and test it, for each fraction.

    The folder receives ``silence.csv``, rewritten after each fraction, ``silence.png`` and the
    folder of each training run. An interrupted study continues where it stopped.

    Parameters
    ----------
    study : SilenceStudy
        What to do.
    out : path
        Folder of the results.
    data_root : str, optional
        Folder of the images; by default as for the training of the network.
    threads : int, optional
        Threads of torch and of the operators; by default the network's.
    device : str
        Where to compute; see :func:`ttfs_fast.gpu.resolve_device`.
    log : callable
        Gets a line about each fraction; by default this module's logger.

    Returns
    -------
    rows : list of Silenced
        One for each fraction.
    """
    folder = Path(out)
    with use_folder(folder):
        return _silence_study(study, folder, data_root, threads, device, log)


def _silence_study(
    study: SilenceStudy,
    folder: Path,
    data_root: str | None,
    threads: int | None,
    device: str,
    log: Callable[[str], None],
) -> list[Silenced]:
    path = folder / "silence.csv"
    model, config = load_model(study.weights)
    purpose = "be trained further with horizons that silence some of its neurons"
    refuse_converted(model, purpose)
    if config.neuron != "spiking":
        raise ValueError(
            f"{study.weights} holds a network with neuron={config.neuron}, which cannot {purpose}; "
            "give one of spiking neurons, such as mnist_scnn"
        )
    config = dataclasses.replace(
        config,
        initial_checkpoint=str(study.weights),
        teacher=None if study.teacher is None else str(study.teacher),
        teacher_hflip=config.teacher_hflip and study.teacher is not None,
        generations=1,
        processes=1,
        data_root=data_root,
        epochs=study.epochs,
        lr=config.lr / 5 if study.lr is None else study.lr,
        warmup_epochs=min(config.warmup_epochs, study.epochs / 10),
        threads=threads or config.threads or torch.get_num_threads(),
        horizons=(),
        patience_epochs=0,
        device=device,
    )
    where = resolve_device(device)
    train_set, test_set = load_in_memory(config)
    rows = read_rows(path, Silenced, missing_ok=True)
    settings = _digest(config, digest(train_set, test_set))
    done = {row.fraction for row in rows if row.settings == settings}
    missing = [fraction for fraction in study.fractions if fraction not in done]
    with use_threads(config.threads):
        log(
            f"silence study of {study.weights} on {describe_device(where)}: {len(missing)} "
            f"fractions to do, each {study.epochs} epochs; {len(done)} are in {path}"
        )
        for fraction in missing:
            row = _silence(config, settings, fraction, train_set, test_set, folder)
            rows.append(row)
            write_rows(path, Silenced, rows)
            log(
                f"fraction {fraction:.2f}: firing {row.at_once:.1%}, accuracy "
                f"{row.at_once_accuracy:.2%} at once; after training firing {row.firing:.1%}, "
                f"accuracy {row.accuracy:.2%}, answer after {row.first_spike_time:.2f} tau"
            )
    chosen = sorted(
        (row for row in rows if row.settings == settings and row.fraction in study.fractions),
        key=lambda row: -row.fraction,
    )
    save_figure(folder / "silence.png", plot(chosen, config.dataset))
    return chosen


def _digest(config: TrainConfig, images: str) -> str:
    """Of the settings, with the contents of the files and images in place of their names."""
    sha = hashlib.sha256(images.encode())
    for source in (config.initial_checkpoint, *(config.teachers or (None,))):
        if source is None:
            sha.update(b"-")
            continue
        with weights_file(source) as path:
            sha.update(path.read_bytes())
    nameless = dataclasses.replace(
        config, initial_checkpoint=None, teacher=None, data_root=None, device=TrainConfig.device
    )
    sha.update(nameless.to_json().encode())
    return sha.hexdigest()[:12]


def _silence(
    config: TrainConfig,
    settings: str,
    fraction: float,
    train_set: "ImageSet",
    test_set: "ImageSet",
    folder: Path,
) -> Silenced:
    begin = time.perf_counter()
    assert config.initial_checkpoint is not None
    device = resolve_device(config.device)
    model = load_model(config.initial_checkpoint)[0].to(device)
    values = config.encoding(train_set.some(CALIBRATION_IMAGES).images_as_tensor()).to(device)
    horizons = find_horizons(model, values, fraction)
    set_horizons_(model, horizons)
    at_once = evaluate(model, test_set, encoding=config.encoding)
    # They are no later than the t_max of each layer.
    limited = dataclasses.replace(config, horizons=tuple(horizons), t_max=math.inf)
    weights = ensure_trained(limited, folder / f"fraction-{fraction:g}-{settings}")
    after = evaluate(load_model(weights)[0].to(device), test_set)
    return Silenced(
        settings=settings,
        fraction=fraction,
        at_once=at_once.spikes_per_neuron,
        at_once_accuracy=at_once.accuracy,
        firing=after.spikes_per_neuron,
        accuracy=after.accuracy,
        first_spike_time=after.first_spike_time,
        spikes_per_image=after.spikes_per_image,
        epochs=config.epochs,
        lr=config.lr,
        seconds=time.perf_counter() - begin,
    )


def plot(rows: Sequence[Silenced], dataset: str) -> "Figure":
    """Accuracy against the fraction of neurons that spike, with and without further training."""
    figure: Figure = new_figure(7, 4.5, dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [100 * row.firing for row in rows],
        [100 * row.accuracy for row in rows],
        "o-",
        color=series_color(0),
        label=f"trained {rows[0].epochs} epochs further" if rows else None,
    )
    axes.plot(
        [100 * row.at_once for row in rows],
        [100 * row.at_once_accuracy for row in rows],
        "o--",
        color=FAINT,
        label="horizons set, not trained",
    )
    top = max((100 * row.accuracy for row in rows), default=100.0)
    low = min((100 * row.accuracy for row in rows), default=0.0)
    axes.set_ylim(max(low, top - 5) - 1, top + 0.5)  # what failed outright is in the table
    title = f"{dataset}: accuracy against spikes per neuron"
    style_axes(axes, title, "neurons that spike, in %", "test accuracy in %", grid="both")
    add_legend(axes)
    return figure
