"""``ttfs-fast study``: the experiments that docs/ reports."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from ttfs_fast._tables import Column, Table
from ttfs_fast._terminal import print_line
from ttfs_fast.cli._common import (
    WEIGHTS_HELP,
    DataRoot,
    Debug,
    Device,
    Threads,
    Weights,
    friendly_errors,
    group,
    option,
    set_threads,
    show_table,
    split_integers,
    split_list,
    split_numbers,
)

study = group(
    "study", "Train many networks to answer one question; resumable, with a table and a plot."
)


@study.command()
def depth(
    out: Annotated[
        Path,
        option(
            "Folder to write: depth.csv, depth.png. Networks in the table are not trained again."
        ),
    ] = Path("runs/depth"),
    depths: Annotated[str, option("Numbers of layers, of 4, 8, 13 and 17.")] = "4,8,13,17",
    variants: Annotated[
        str | None,
        option(
            "List of uniform, normal, centered, centered-muon, fixed-norm-muon, relu, relu-muon, "
            "relu-norm, relu-norm-muon, horizon. Default: all."
        ),
    ] = None,
    seeds: Annotated[int, option("Number of seeds.", min=1)] = 3,
    train_images: Annotated[int, option("Training images.", min=1)] = 5000,
    test_images: Annotated[int, option("Test images.", min=1)] = 5000,
    epochs: Annotated[int, option("Passes over the training images.", min=1)] = 2,
    width: Annotated[float, option("Factor on the channels.")] = 1.0,
    data_root: DataRoot = None,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """CIFAR-10 accuracy by depth of VGG-like stacks: spiking, with several starts, and ReLU.

    All networks have the same images, epochs, batches of 32, and a cosine schedule to 0.
    """
    with friendly_errors(debug):
        from ttfs_fast.paper.studies import depth as study_of
        from ttfs_fast.paper.studies import depth_study

        chosen = study_of.DepthStudy(
            depths=tuple(split_integers(depths, "--depths")),  # type: ignore[arg-type]
            seeds=tuple(range(seeds)),
            variants=tuple(split_list(variants) or study_of.VARIANTS),  # type: ignore[arg-type]
            width=width,
            train_images=train_images,
            test_images=test_images,
            epochs=epochs,
        )
        runs = depth_study(
            chosen, out, data_root=data_root, threads=threads, device=device, log=print_line
        )
        found = {(row[0], row[1]): row[2:] for row in study_of.summary(runs)}
        layers = sorted({run.depth for run in runs})
        heads = [Column("network", numeric=False)]
        heads += [Column(f"{depth} layers", _mean_and_deviation) for depth in layers]
        rows = [
            [how.label, *(found.get((variant, depth)) for depth in layers)]
            for variant, how in study_of.VARIANTS.items()
            if any(variant == named for named, _ in found)
        ]
        show_table(Table("depth", "test accuracy: mean and deviation over the seeds", heads, rows))


def _mean_and_deviation(found: tuple[float, float, int]) -> str:
    mean, deviation, runs = found
    return f"{mean:.1%}" + (f" +- {deviation:.1%}" if runs > 1 else "")


@study.command()
def settings(
    changes: Annotated[
        Path,
        option(
            "TOML file with the changes: a recipe as config, the number of seeds, a table base, "
            "and a table changes.NAME for each change (docs/training.md)."
        ),
    ],
    out: Annotated[
        Path, option("Folder to write: settings.csv, runs. Finished runs are not repeated.")
    ] = Path("runs/settings"),
    data_root: DataRoot = None,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """What single settings contribute: trains with one change at a time, over several seeds."""
    with friendly_errors(debug):
        import torch

        from ttfs_fast.paper.studies import settings as study_of
        from ttfs_fast.paper.studies import settings_study
        from ttfs_fast.training.config import TrainConfig

        given: dict[str, Any] = {}
        if data_root is not None:
            given["data_root"] = str(data_root)
        if threads is not None:
            given["threads"] = threads
        if device != TrainConfig.device:
            given["device"] = device
        chosen = study_of.read_study(changes, **given)
        if chosen.base.threads is None:
            base = dataclasses.replace(chosen.base, threads=torch.get_num_threads())
            chosen = dataclasses.replace(chosen, base=base)
        rows = study_of.summary(settings_study(chosen, out, log=print_line))
        columns = [
            Column("change", numeric=False, of="change"),
            Column("training images", "{:.1%}".format, of="train"),
            Column("test or validation images", "{:.1%}".format, of="test"),
            Column("deviation", "{:.1%}".format, of="deviation"),
            Column("seeds", of="seeds"),
        ]
        show_table(Table.of("settings", "accuracy: means over the seeds", columns, rows))


@study.command()
def silence(
    weights: Weights = None,
    out: Annotated[
        Path,
        option("Folder to write: silence.csv, silence.png, runs. Finished runs are not repeated."),
    ] = Path("runs/silence"),
    fractions: Annotated[
        str | None,
        option(
            "Fractions of each layer's neurons that may spike, such as 1,0.5. Default: 1 down to "
            "0.3."
        ),
    ] = None,
    epochs: Annotated[int, option("Epochs of further training.", min=1)] = 3,
    lr: Annotated[
        float | None,
        option("Its first learning rate. Default: a fifth of the network's.", show_default=False),
    ] = None,
    teacher: Annotated[
        Path | None,
        option(
            f"Teacher for knowledge distillation: {WEIGHTS_HELP}.",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Accuracy against the fraction of neurons that spike: horizons, and training with them."""
    with friendly_errors(debug):
        from ttfs_fast.paper.studies import silence as study_of
        from ttfs_fast.paper.studies import silence_study

        if weights is None:
            raise ValueError(f"give a network with --weights: {WEIGHTS_HELP}")
        given = () if fractions is None else tuple(split_numbers(fractions, "--fractions"))
        chosen = study_of.SilenceStudy(weights, given or study_of.FRACTIONS, epochs, lr, teacher)
        rows = silence_study(
            chosen,
            out,
            data_root=None if data_root is None else str(data_root),
            threads=threads,
            device=device,
            log=print_line,
        )
        columns = [
            Column("may spike", "{:.0%}".format, of="fraction"),
            Column("spike", "{:.1%}".format, of="firing"),
            Column("accuracy", "{:.2%}".format, of="accuracy"),
            Column("not trained: spike", "{:.1%}".format, of="at_once"),
            Column("accuracy, not trained", "{:.2%}".format, of="at_once_accuracy"),
            Column("answer", "{:.2f} tau".format, of="first_spike_time"),
        ]
        show_table(Table.of("silence", "accuracy against spikes per neuron", columns, rows))


@study.command()
def start(
    out: Annotated[Path, option("Folder to write: start.csv, start.png.")] = Path("runs/start"),
    depth: Annotated[int, option("Layers: 4, 8, 13 or 17.")] = 17,
    spreads: Annotated[
        str, option("Norms of the deviations of a neuron's first weights from their mean.")
    ] = "2,3,4,5",
    data_root: DataRoot = None,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Spread, noise and gradient by layer in untrained stacks, on CIFAR-10 images."""
    with friendly_errors(debug):
        from ttfs_fast.paper.studies import start_study

        set_threads(threads)
        rows = start_study(
            out,
            depth=depth,  # type: ignore[arg-type]
            spreads=split_numbers(spreads, "--spreads"),
            device=device,
            data_root=data_root,
        )
        names = dict.fromkeys(row.start for row in rows)
        columns = [
            Column("start", of=lambda own: own[0].start),
            Column("spread in tau", "{:.1e}".format, of=lambda own: own[-1].spread),
            Column("noise / spread", "{:.2g}".format, of=lambda own: own[-1].noise),
            Column(
                "gradient, first layer / last",
                "{:.1e}".format,
                of=lambda own: own[0].gradient / own[-1].gradient,
            ),
        ]
        networks = [[row for row in rows if row.start == name] for name in names]
        show_table(Table.of("start", "untrained networks, last layer", columns, networks))
