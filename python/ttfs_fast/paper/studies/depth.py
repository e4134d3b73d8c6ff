"""Accuracy against depth on CIFAR-10: spiking networks by their start, and ReLU networks."""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ttfs_fast._csv import read_rows, write_rows
from ttfs_fast._files import use_folder
from ttfs_fast.analysis import EvaluationResult, evaluate
from ttfs_fast.analysis.style import (
    FAINT,
    add_legend,
    new_figure,
    save_figure,
    series_color,
    style_axes,
)
from ttfs_fast.data import ImageSet, load
from ttfs_fast.encoding import Encoding
from ttfs_fast.gpu.device import describe_device, resolve_device, same_bits, use_threads
from ttfs_fast.horizon import renormalize_horizons_
from ttfs_fast.layers import spiking_layers
from ttfs_fast.loss import SpikingLoss
from ttfs_fast.models import DecodeSpikes, HorizonNetwork, relu_counterpart, vgg_stack
from ttfs_fast.models.deep import Depth
from ttfs_fast.optim.centering import center_weights_, renormalize_weights_
from ttfs_fast.optim.muon import Muon
from ttfs_fast.optim.schedule import cosine
from ttfs_fast.training.batches import EpochBatches, on_device
from ttfs_fast.training.step import TrainingStep, equation_5
from ttfs_fast.training.trainer import muon_groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")

DEPTHS: tuple[Depth, ...] = (4, 8, 13, 17)

VariantName = Literal[
    "uniform",
    "normal",
    "centered",
    "centered-muon",
    "fixed-norm-muon",
    "relu",
    "relu-muon",
    "relu-norm",
    "relu-norm-muon",
    "horizon",
]


BOTH_POLARITIES = Encoding(1.5, "both")
HORIZON_SPREAD = 0.0005


@dataclass(frozen=True)
class Variant:
    """One way to make a network and to train it.

    Attributes
    ----------
    label : str
        For people.
    learning_rate : float
        At the start; it falls to 0 as a cosine.
    muon : bool
        Steps by `ttfs_fast.optim.muon.Muon` in place of Adam's.
    momentum : float
        Of Muon.
    adam_classifier : bool
        With Muon: Adam's steps for the last layer.
    fixed_norm : bool
        Bring the weights of each neuron back to their norm after each step.
    encoding : Encoding
        How the network sees images.
    scale : float
        Factor on the spike times in the classification term.
    weight_sum_cost : float
        K of equation (5), on the mean over neurons.
    clip_grad : float
        Limit of the row-normalized gradient norm; inf for none.
    """

    label: str
    learning_rate: float
    muon: bool = False
    momentum: float = 0.95
    adam_classifier: bool = False
    fixed_norm: bool = False
    encoding: Encoding = BOTH_POLARITIES
    scale: float = 16.0
    weight_sum_cost: float = 0.0
    clip_grad: float = math.inf


VARIANTS: dict[VariantName, Variant] = {
    "uniform": Variant(
        "spiking, uniform [0, 8/N] (published)", 1e-3, weight_sum_cost=100.0, clip_grad=10.0
    ),
    "normal": Variant(
        "spiking, N(0, 15/N) (published)", 1e-3, weight_sum_cost=100.0, clip_grad=10.0
    ),
    "centered": Variant("spiking, centered", 2e-2),
    "centered-muon": Variant("spiking, centered, Muon", 1e-2, muon=True),
    "fixed-norm-muon": Variant(
        "spiking, centered, fixed norm, Muon",
        1e-2,
        muon=True,
        fixed_norm=True,
        encoding=Encoding(0.7, "both"),
    ),
    "relu": Variant("ReLU", 1e-3, encoding=Encoding(1.5), scale=1.0),
    "relu-muon": Variant("ReLU, Muon", 1e-3, muon=True, encoding=Encoding(1.5), scale=1.0),
    "relu-norm": Variant("ReLU, batch norm", 1e-3, encoding=Encoding(1.5), scale=1.0),
    "relu-norm-muon": Variant(
        "ReLU, batch norm, Muon",
        2e-3,
        muon=True,
        adam_classifier=True,
        encoding=Encoding(1.5),
        scale=1.0,
    ),
    "horizon": Variant(
        "spiking, horizons, Muon",
        3e-2,
        muon=True,
        adam_classifier=True,
        fixed_norm=True,
        encoding=Encoding(0.01),
        scale=1 / HORIZON_SPREAD,
    ),
}


@dataclass(frozen=True)
class DepthStudy:
    """What to train, and how long.

    Attributes
    ----------
    depths, seeds, variants : tuple
        Every combination is one run.
    width : float
        Factor on the channels of :func:`ttfs_fast.models.vgg_stack`.
    train_images, test_images : int
        The first that many of CIFAR-10.
    epochs, batch_size : int
        Passes over the training images, and images per step.
    """

    depths: tuple[Depth, ...] = DEPTHS
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[VariantName, ...] = tuple(VARIANTS)
    width: float = 1.0
    train_images: int = 5000
    test_images: int = 5000
    epochs: int = 2
    batch_size: int = 32

    def __post_init__(self) -> None:
        for variant in self.variants:
            if variant not in VARIANTS:
                raise ValueError(
                    f"there is no variant {variant!r}; known are {', '.join(VARIANTS)}"
                )
        for depth in self.depths:
            if depth not in DEPTHS:
                raise ValueError(f"depth must be 4, 8, 13 or 17; got {depth}")
        for name in ("train_images", "test_images", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    def combinations(self) -> list[tuple[int, Depth, VariantName]]:
        """(seed, depth, variant) of each run, in the order in which they run."""
        return [(s, d, a) for s in self.seeds for d in self.depths for a in self.variants]


@dataclass(frozen=True)
class Run:
    """A row of the table: one trained network.

    Attributes
    ----------
    variant, depth, seed
        Which.
    train_images, test_images, epochs, batch_size, width, learning_rate
        The budget and the settings.
    losses : str
        Mean of the classification term over each twentieth of the steps, separated by spaces.
    accuracy : float
        Fraction of the test images classified correctly at the end.
    half_accuracy : float
        The same after half of the steps.
    firing : float
        Fraction of the neurons that spike on test images at the end; nan for a ReLU network.
    seconds : float
        Duration, tests included.
    """

    variant: str
    depth: int
    seed: int
    train_images: int
    test_images: int
    epochs: int
    batch_size: int
    width: float
    learning_rate: float
    losses: str
    half_accuracy: float
    accuracy: float
    firing: float
    seconds: float


def depth_study(
    study: DepthStudy,
    out: str | Path,
    *,
    data_root: str | Path | None = None,
    threads: int | None = None,
    device: str = "auto",
    log: Callable[[str], None] = logger.info,
) -> list[Run]:
    """Train every network of a study, or those that its table does not hold yet.

    The folder receives ``depth.csv``, with one row per network and rewritten after each, and
    ``depth.png``, which shows every network of the table that was trained alike, of this study or
    an earlier one. An interrupted study continues with the first missing network.

    Parameters
    ----------
    study : DepthStudy
        What to train.
    out : path
        Folder of table and plot.
    data_root : path, optional
        Folder of CIFAR-10; see :func:`ttfs_fast.data.load_cifar10`.
    threads : int, optional
        Threads of torch and of the operators.
    device : str
        Where to compute; see :func:`ttfs_fast.gpu.resolve_device`.
    log : callable
        Gets a line about each network; by default this module's logger.

    Returns
    -------
    runs : list of Run
        The rows of the table that belong to the study.
    """
    folder = Path(out)
    with use_folder(folder), use_threads(threads):
        return _depth_study(study, folder, data_root, resolve_device(device), log)


def _depth_study(
    study: DepthStudy,
    folder: Path,
    data_root: str | Path | None,
    device: torch.device,
    log: Callable[[str], None],
) -> list[Run]:
    path = folder / "depth.csv"
    runs = read_rows(path, Run, missing_ok=True)
    train_set = _first(load("cifar10", data_root, train=True), study.train_images)
    test_set = _first(load("cifar10", data_root, train=False), study.test_images)
    study = replace(study, train_images=len(train_set), test_images=len(test_set))
    normalizes = [v for v in study.variants if v.startswith(("relu-norm", "horizon"))]
    if normalizes and study.batch_size == 1:
        raise ValueError("batch normalization needs a batch_size of at least 2; got 1")
    if normalizes and len(train_set) % study.batch_size == 1:
        raise ValueError(
            f"{len(train_set):,} images in batches of {study.batch_size} leave one over, which "
            f"batch normalization ({normalizes[0]}) cannot learn from; give another number of "
            "either"
        )
    missing = [key for key in study.combinations() if _find(runs, study, *key) is None]
    log(
        f"depth study on {describe_device(device)}: {len(missing)} networks to "
        f"train, {len(study.combinations()) - len(missing)} are in {path}"
    )
    for number, (seed, depth, variant) in enumerate(missing, start=1):
        with same_bits(device):
            run = train_one(study, variant, depth, seed, train_set, test_set, device)
        runs.append(run)
        write_rows(path, Run, runs)
        firing = "" if math.isnan(run.firing) else f"  firing {run.firing:.0%}"
        log(
            f"{number}/{len(missing)}  {depth:2} layers  seed {seed}  "
            f"{VARIANTS[variant].label:40} loss {run.losses.split()[-1]}  "
            f"accuracy {run.accuracy:.2%}{firing}  {run.seconds:.0f} s"
        )
    found = (_find(runs, study, *key) for key in study.combinations())
    save_figure(folder / "depth.png", plot([r for r in runs if _alike(r, study)]))
    return [run for run in found if run is not None]


def train_one(
    study: DepthStudy,
    variant: VariantName,
    depth: Depth,
    seed: int,
    train_set: ImageSet,
    test_set: ImageSet,
    device: torch.device = CPU,
) -> Run:
    """Train and test one network; the same settings and number of threads give the same result."""
    begin = time.perf_counter()
    how = VARIANTS[variant]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_network(variant, depth, study.width, train_set).to(device)
    optimizer: torch.optim.Optimizer
    if how.muon:
        groups = muon_groups(model) if how.adam_classifier else model.parameters()
        optimizer = Muon(groups, how.learning_rate, momentum=how.momentum)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=how.learning_rate)
    batches = EpochBatches(
        train_set,
        study.batch_size,
        torch.Generator().manual_seed(seed),
        encoding=how.encoding,
    )
    steps = len(batches) * study.epochs
    loss = SpikingLoss(
        how.weight_sum_cost, 0.0, scale=how.scale, max_time=50.0, cost_reduction="mean"
    )
    step = TrainingStep(
        model,
        optimizer,
        equation_5(loss, model),
        clip_grad=how.clip_grad if isinstance(model, nn.Sequential) else math.inf,
        constrain=_renormalize_ if how.fixed_norm else None,
    )

    def evaluation() -> EvaluationResult:
        return evaluate(model, test_set, encoding=how.encoding, batch_size=250)

    losses: list[float] = []
    half, skipped = math.nan, 0
    for _ in range(study.epochs):
        for chunk in on_device(batches.epoch(), device):
            for batch in chunk.batches:
                result = step(batch, cosine(how.learning_rate, 0.0, len(losses), steps))
                skipped += result.skipped
                losses.append(result.data)
                if len(losses) == steps // 2:
                    half = evaluation().accuracy
    if skipped:
        warnings.warn(
            f"{variant}, {depth} layers, seed {seed}: {skipped} of {steps} steps were left out, "
            "whose gradients were not finite",
            stacklevel=2,
        )
    final = evaluation()
    return Run(
        variant=variant,
        depth=depth,
        seed=seed,
        train_images=len(train_set),
        test_images=len(test_set),
        epochs=study.epochs,
        batch_size=study.batch_size,
        width=study.width,
        learning_rate=how.learning_rate,
        losses=_twentieths(losses),
        half_accuracy=half,
        accuracy=final.accuracy,
        firing=final.spikes_per_neuron,
        seconds=time.perf_counter() - begin,
    )


def _renormalize_(model: nn.Module) -> None:
    """Whichever of the two a network has: centered weights, or layers with a horizon."""
    renormalize_weights_(model)
    renormalize_horizons_(model)


def make_network(variant: VariantName, depth: Depth, width: float, images: ImageSet) -> nn.Module:
    """The network of a variant, newly initialized by torch's global generator."""
    how = VARIANTS[variant]
    channels, height, wide = images.images.shape[1:]
    model = vgg_stack(
        depth,
        width=width,
        in_channels=channels * how.encoding.copies,
        image_size=(height, wide),
        classes=len(images.classes),
        encoding=how.encoding,
    )
    if variant == "horizon":
        return HorizonNetwork(
            model.description,
            encoding=how.encoding,
            weight_sum=2.0,
            spread=HORIZON_SPREAD,
            dirac=True,
        )
    if variant.startswith("relu"):
        intensity = images.images_as_tensor()[:1000].float() / 255
        counterpart = relu_counterpart(model, batch_norm=variant.startswith("relu-norm"))
        return DecodeSpikes(
            counterpart,
            how.encoding,
            intensity.mean((0, 2, 3)).tolist(),
            intensity.std((0, 2, 3)).clamp(min=1e-3).tolist(),
        )
    if variant.startswith(("centered", "fixed-norm")):
        return center_weights_(model)
    if variant == "normal":
        for layer in spiking_layers(model).values():
            nn.init.normal_(layer.weight, std=math.sqrt(15 / layer.weight[0].numel()))
    return model


def summary(runs: Sequence[Run]) -> Iterator[tuple[str, int, float, float, int]]:
    """(variant, depth, mean accuracy, its deviation over seeds, number of seeds), row by row."""
    for variant in VARIANTS:
        for depth in DEPTHS:
            values = [run.accuracy for run in runs if run.variant == variant and run.depth == depth]
            if values:
                spread = stdev(values) if len(values) > 1 else math.nan
                yield variant, depth, mean(values), spread, len(values)


def plot(runs: Sequence[Run]) -> "Figure":
    """Left: test accuracy against depth, a dot for each network. Right: loss of the deepest."""
    figure = new_figure(11, 4.5, dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    deepest = max((run.depth for run in runs), default=0)
    for number, (variant, how) in enumerate(VARIANTS.items()):
        rows = [row for row in summary(runs) if row[0] == variant]
        if not rows:
            continue
        own = [run for run in runs if run.variant == variant]
        color, style = series_color(number), "--" if variant.startswith("relu") else "-"
        depths, means = [row[1] for row in rows], [100 * row[2] for row in rows]
        left.plot(depths, means, style, color=color, label=how.label)
        left.plot([run.depth for run in own], [100 * run.accuracy for run in own], ".", color=color)
        for run in own:
            if run.depth == deepest:
                values = [float(value) for value in run.losses.split()]
                at = [run.epochs * (i + 0.5) / len(values) for i in range(len(values))]
                right.plot(at, values, style, color=color)
    left.axhline(10, color=FAINT, linewidth=0.8)
    left.set_xticks(DEPTHS)
    title = ""
    if runs:
        one = runs[0]
        title = f"CIFAR-10, {one.train_images:,} images x {one.epochs} epochs, "
        title += f"batches of {one.batch_size}"
        add_legend(left)
    style_axes(left, title, "layers of neurons", "test accuracy in %", grid="y")
    y = f"cross-entropy in training, {deepest} layers"
    style_axes(right, "", "epoch", y, grid="y")
    return figure


def _find(
    runs: Sequence[Run], study: DepthStudy, seed: int, depth: Depth, variant: VariantName
) -> Run | None:
    for run in runs:
        if (run.seed, run.depth, run.variant) == (seed, depth, variant) and _alike(run, study):
            return run
    return None


def _alike(run: Run, study: DepthStudy) -> bool:
    """Whether a row of the table was trained and tested like the networks of the study."""
    fields = ("train_images", "test_images", "epochs", "batch_size", "width")
    same = all(getattr(run, field) == getattr(study, field) for field in fields)
    return (
        same
        and run.variant in VARIANTS
        and run.learning_rate == VARIANTS[run.variant].learning_rate
    )


def _twentieths(losses: Sequence[float]) -> str:
    bounds = [len(losses) * part // 20 for part in range(21)]
    parts = [losses[a:b] for a, b in pairwise(bounds) if b > a]
    return " ".join(f"{mean(part):.4f}" for part in parts)


def _first(images: ImageSet, count: int) -> ImageSet:
    if count >= len(images):
        return images
    return replace(images, images=images.images[:count], labels=images.labels[:count])
