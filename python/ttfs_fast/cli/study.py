"""``ttfs-fast study``: the experiments that docs/ reports."""

from pathlib import Path
from typing import Annotated

from ttfs_fast._terminal import print_line
from ttfs_fast.cli._common import (
    WEIGHTS_HELP,
    DataRoot,
    Debug,
    Threads,
    Weights,
    friendly_errors,
    group,
    option,
    rich,
    set_threads,
    show_table,
    split_list,
    split_numbers,
)

study = group(
    "study", "Train many networks to answer one question; resumable, with a table and a plot."
)


@study.command()
def depth(
    out: Annotated[
        Path, option("Folder to write: depth.csv, depth.png; networks in the table are kept.")
    ] = Path("runs/depth"),
    depths: Annotated[str, option("Numbers of layers, of 4, 8, 13 and 17.")] = "4,8,13,17",
    variants: Annotated[
        str | None,
        option(
            "List of uniform, normal, centered, centered-muon, fixed-norm-muon, relu, relu-muon, "
            "relu-norm. Default: all."
        ),
    ] = None,
    seeds: Annotated[int, option("Number of seeds.", min=1)] = 3,
    train_images: Annotated[int, option("Training images.", min=1)] = 5000,
    test_images: Annotated[int, option("Test images.", min=1)] = 5000,
    epochs: Annotated[int, option("Passes over the training images.", min=1)] = 2,
    width: Annotated[float, option("Factor on the channels.")] = 1.0,
    data_root: DataRoot = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """CIFAR-10 accuracy of VGG-like stacks by depth: spiking by their start, and ReLU.

    Every network is trained alike: same images, epochs, batches of 32, and a cosine to 0.
    """
    with friendly_errors(debug):
        from ttfs_fast.paper.studies import depth as study_of
        from ttfs_fast.paper.studies import depth_study

        chosen = study_of.DepthStudy(
            depths=tuple(map(int, split_numbers(depths, "--depths"))),  # type: ignore[arg-type]
            seeds=tuple(range(seeds)),
            variants=tuple(split_list(variants) or study_of.VARIANTS),  # type: ignore[arg-type]
            width=width,
            train_images=train_images,
            test_images=test_images,
            epochs=epochs,
        )
        root = None if data_root is None else str(data_root)
        runs = depth_study(chosen, out, data_root=root, threads=threads, log=print_line)
        table = rich("table").Table(title="test accuracy: mean and deviation over the seeds")
        table.add_column("network")
        columns = sorted({run.depth for run in runs})
        for column in columns:
            table.add_column(f"{column} layers", justify="right")
        rows = list(study_of.summary(runs))
        for variant, how in study_of.VARIANTS.items():
            cells = {
                row[1]: f"{row[2]:.1%}" + (f" +- {row[3]:.1%}" if row[4] > 1 else "")
                for row in rows
                if row[0] == variant
            }
            if cells:
                table.add_row(how.label, *(cells.get(column, "") for column in columns))
        show_table(table)


@study.command()
def silence(
    weights: Weights = None,
    out: Annotated[
        Path, option("Folder to write: silence.csv, silence.png, runs; what is there is kept.")
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
            log=print_line,
        )
        table = rich("table").Table(title="accuracy against spikes per neuron")
        for head in ("may spike", "spike", "accuracy", "not trained: spike", "accuracy", "answer"):
            table.add_column(head, justify="right")
        for row in rows:
            table.add_row(
                f"{row.fraction:.0%}",
                f"{row.firing:.1%}",
                f"{row.accuracy:.2%}",
                f"{row.at_once:.1%}",
                f"{row.at_once_accuracy:.2%}",
                f"{row.first_spike_time:.2f} tau",
            )
        show_table(table)


@study.command()
def start(
    out: Annotated[Path, option("Folder to write: start.csv, start.png.")] = Path("runs/start"),
    depth: Annotated[int, option("Layers: 4, 8, 13 or 17.")] = 17,
    spreads: Annotated[
        str, option("Norms of the deviations of a neuron's first weights from their mean.")
    ] = "2,3,4,5",
    data_root: DataRoot = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """What an untrained stack does to CIFAR-10 images: spread, noise and gradient by layer."""
    with friendly_errors(debug):
        from ttfs_fast.paper.studies import start_study

        set_threads(threads)
        rows = start_study(
            out,
            depth=depth,  # type: ignore[arg-type]
            spreads=split_numbers(spreads, "--spreads"),
            data_root=None if data_root is None else str(data_root),
        )
        table = rich("table").Table(title="untrained networks, last layer")
        for head in ("start", "spread in tau", "noise / spread", "gradient, first layer / last"):
            table.add_column(head, justify="right")
        for name in dict.fromkeys(row.start for row in rows):
            own = [row for row in rows if row.start == name]
            ratio = own[0].gradient / own[-1].gradient
            table.add_row(name, f"{own[-1].spread:.1e}", f"{own[-1].noise:.2g}", f"{ratio:.1e}")
        show_table(table)
