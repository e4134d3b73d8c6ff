"""The command ``ttfs-fast``: parse, call, print."""

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
except ModuleNotFoundError as error:
    if error.name != "typer":
        raise
    sys.exit(
        "ttfs-fast: the command line needs the package 'typer'; "
        'install it with: pip install "ttfs_fast[train]"'
    )

from ttfs_fast.training.config import TrainConfig

if TYPE_CHECKING:
    from ttfs_fast.training import EvaluationResult

app = typer.Typer(
    name="ttfs-fast",
    help="Train and examine spiking networks that compute with the time of the first spike.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Dataset(StrEnum):
    """Data sets that the commands know."""

    MNIST = "mnist"
    DIGITS = "digits"


class Reduction(StrEnum):
    """Reductions of the weight costs."""

    SUM = "sum"
    MEAN = "mean"


def _option(text: str, field: str | None = None, **more: Any) -> Any:
    """An option; with ``field``, one whose default is that field's of `TrainConfig`."""
    if field is not None:
        text += f" Default: {getattr(TrainConfig(), field)}."
        more["show_default"] = False
    return typer.Option(help=text, **more)


def _flag(name: str, text: str, **more: Any) -> Any:
    """A switch that is off unless given."""
    return typer.Option(name, help=text, show_default=False, **more)


DataRoot = Annotated[
    Path | None,
    _option(
        "Folder with MNIST's four files, gzipped or not. Without it, the folder that "
        "TTFS_FAST_DATA names is searched. The digits come with the package and need none.",
        show_default=False,
        rich_help_panel="Data",
    ),
]
Download = Annotated[
    bool, _flag("--download", "Fetch MNIST first if it is not there.", rich_help_panel="Data")
]
Threads = Annotated[
    int | None,
    _option("Number of threads; without it, torch's choice.", min=1, show_default=False),
]
Debug = Annotated[bool, _flag("--debug", "On an error, show where in the code it happened.")]


@app.command()
def train(
    dataset: Annotated[
        Dataset | None,
        _option(
            "mnist: 60,000 handwritten digits, from files. digits: 1,437 small ones that come "
            "with the package.",
            "dataset",
            rich_help_panel="Data",
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    train_images: Annotated[
        int | None,
        _option(
            "Train on the first so many images only.", show_default=False, rich_help_panel="Data"
        ),
    ] = None,
    test_images: Annotated[
        int | None,
        _option(
            "Test on the first so many images only.", show_default=False, rich_help_panel="Data"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        _option(
            "Folder of the run: settings, log.csv, checkpoint and, at the end, "
            "model.safetensors. Default: runs/DATASET.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        _flag(
            "--resume",
            "Continue the run in the folder of the run, with its settings, after its newest "
            "checkpoint. It ends with the same weights as if it had never stopped.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, _flag("--overwrite", "Remove the run that is in the folder and start anew.")
    ] = False,
    seed: Annotated[
        int | None, _option("Decides first weights, order of the images and noise.", "seed")
    ] = None,
    threads: Threads = None,
    epochs: Annotated[
        int | None,
        _option("Passes over the training images.", "epochs", rich_help_panel="Learning"),
    ] = None,
    batch_size: Annotated[
        int | None, _option("Images per step.", "batch_size", rich_help_panel="Learning")
    ] = None,
    lr_start: Annotated[
        float | None,
        _option("Learning rate of Adam at the start.", "lr_start", rich_help_panel="Learning"),
    ] = None,
    lr_end: Annotated[
        float | None,
        _option(
            "Learning rate that it falls to, in equal steps, one an epoch.",
            "lr_end",
            rich_help_panel="Learning",
        ),
    ] = None,
    max_gradient: Annotated[
        float | None,
        _option(
            "Limit of the gradient of each weight matrix: its norm over its rows.",
            "max_gradient",
            rich_help_panel="Learning",
        ),
    ] = None,
    jitter: Annotated[
        float | None,
        _option(
            "Noise on the input spike times: standard deviation in units of tau.",
            "jitter",
            rich_help_panel="Learning",
        ),
    ] = None,
    shift: Annotated[
        int | None,
        _option(
            "Move each training image at random by up to so many pixels.",
            "shift",
            rich_help_panel="Learning",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        _option(
            "Time between the brightest pixel's spike and the darkest's, in units of tau.",
            "alpha",
            rich_help_panel="Learning",
        ),
    ] = None,
    t_max: Annotated[
        float | None,
        _option(
            "A neuron that would spike later than this is silent, in units of tau.",
            "t_max",
            rich_help_panel="Learning",
        ),
    ] = None,
    weight_sum_cost: Annotated[
        float | None,
        _option(
            "Factor K of the cost of neurons whose weights sum to less than beta.",
            "K",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    beta: Annotated[
        float | None,
        _option(
            "Sum that the weights of a neuron should reach.",
            "beta",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    l2_cost: Annotated[
        float | None,
        _option(
            "Factor lambda of the squared weights.",
            "lambda_",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    cost_reduction: Annotated[
        Reduction | None,
        _option(
            "Sum these two costs over neurons and weights, as the paper writes, or average them.",
            "cost_reduction",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    scale: Annotated[
        float | None,
        _option(
            "Factor on the output times in the classification term.",
            "scale",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    exclude_target: Annotated[
        bool | None,
        _flag(
            "--exclude-target",
            "Leave the target class out of the classification term's sum, as printed.",
            rich_help_panel="Loss, equation (5)",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Train the MNIST network: two spiking convolutions and a spiking output layer.

    A run can be stopped at any moment, even by a power cut, and continued with --resume.
    """
    given: dict[str, Any] = {
        "dataset": None if dataset is None else str(dataset),
        "data_root": None if data_root is None else str(data_root),
        "train_images": train_images,
        "test_images": test_images,
        "seed": seed,
        "threads": threads,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr_start": lr_start,
        "lr_end": lr_end,
        "max_gradient": max_gradient,
        "jitter": jitter,
        "shift": shift,
        "alpha": alpha,
        "t_max": t_max,
        "K": weight_sum_cost,
        "beta": beta,
        "lambda_": l2_cost,
        "cost_reduction": None if cost_reduction is None else str(cost_reduction),
        "scale": scale,
        "exclude_target": exclude_target,
    }
    with _friendly_errors(debug):
        from ttfs_fast import training

        folder = out if out is not None else Path("runs") / str(dataset or TrainConfig.dataset)
        saved = folder / training.loop.CONFIG
        base = TrainConfig()
        if resume and saved.is_file():
            base = TrainConfig.from_json(saved.read_text())
        config = dataclasses.replace(
            base, **{name: given[name] for name in given if given[name] is not None}
        )
        if download:
            _download(config.dataset, config.data_root)
        training.train(config, folder, resume=resume, overwrite=overwrite)


@app.command(name="eval")
def evaluate(
    weights: Annotated[
        Path | None,
        _option("A model.safetensors that training wrote.", show_default=False),
    ] = None,
    pretrained: Annotated[
        bool, _flag("--pretrained", "Use the trained network that comes with the package.")
    ] = False,
    authors: Annotated[
        Path | None,
        _option(
            "Folder with the weights that the paper's authors published: "
            "weight_scnn1.npy, weight_scnn2.npy and weight_scnn3.npy.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        Dataset | None,
        _option(
            "Data set to test on. Default: what the weights were trained on, else mnist.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    train_split: Annotated[
        bool,
        _flag(
            "--train-split",
            "Use the training images instead of the test images.",
            rich_help_panel="Data",
        ),
    ] = False,
    batch_size: Annotated[int, _option("Images run at a time.", min=1)] = 200,
    seed: Annotated[int, _option("Seed of the noise that --jitter adds.")] = 0,
    jitter: Annotated[
        float,
        _option("Noise on the input spike times: standard deviation in units of tau.", min=0.0),
    ] = 0.0,
    threads: Threads = None,
    as_json: Annotated[bool, _flag("--json", "Print the results as JSON only.")] = False,
    debug: Debug = False,
) -> None:
    """Test a trained network: accuracy, confusion, sparsity, spike times, energy.

    Give the network with one of --weights, --pretrained and --authors.
    """
    with _friendly_errors(debug):
        chosen = [weights is not None, pretrained, authors is not None]
        if sum(chosen) != 1:
            raise ValueError("give exactly one of --weights FILE, --pretrained and --authors DIR")
        import torch

        import ttfs_fast
        from ttfs_fast import training
        from ttfs_fast.data import load
        from ttfs_fast.models import mnist_scnn

        _set_threads(threads)
        if weights is not None:
            config = training.read_config(weights) or TrainConfig()
            model = mnist_scnn(weights=weights, t_max=config.t_max)
            source = str(weights)
        elif authors is not None:
            config, model, source = TrainConfig(), mnist_scnn(weights=authors), str(authors)
        else:
            config, model = TrainConfig(), mnist_scnn(pretrained=True)
            source = "the pretrained weights"
        name = str(dataset or config.dataset)
        root = None if data_root is None else str(data_root)
        if download:
            _download(name, root)
        image_set = load(name, root, train=train_split)
        if not as_json:
            print(
                f"testing {source} on {len(image_set):,} images of {image_set.name}: cpu, "
                f"threads: {torch.get_num_threads()}, {ttfs_fast.instruction_set()} instructions"
            )
        with _counting_bar(len(image_set), show=not as_json) as advance:
            result = training.evaluate(
                model,
                image_set,
                alpha=config.alpha,
                polarity=config.polarity,
                batch_size=batch_size,
                jitter=jitter,
                generator=torch.Generator().manual_seed(seed),
                on_progress=advance,
            )
        if as_json:
            print(json.dumps(result.to_dict(), indent=2))
        else:
            _print_result(result)
            _print_confusion(result, image_set.classes)


@app.command()
def info(
    data_root: DataRoot = None,
    debug: Debug = False,
) -> None:
    """Show what runs here: versions, instruction set, threads, OpenMP runtime, data."""
    with _friendly_errors(debug):
        import numpy
        import torch

        import ttfs_fast

        forced = os.environ.get("TTFS_FAST_ISA")
        rows = {
            "ttfs_fast": str(ttfs_fast.__version__),
            "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            "torch": str(torch.__version__),
            "numpy": numpy.__version__,
            "instruction set": ttfs_fast.instruction_set()
            + (f" (TTFS_FAST_ISA={forced})" if forced else ""),
            "available": ", ".join(ttfs_fast.instruction_sets()),
            "threads": f"{torch.get_num_threads()} (of {os.cpu_count()} processors)",
            "OpenMP runtime": "\n".join(openmp_runtimes()) or "none found in this process",
            "data": _data_found(data_root),
        }
        for name, value in rows.items():
            for number, line in enumerate(value.splitlines()):
                print(f"{'' if number else name:<16} {line}")


@app.command()
def demo(
    out: Annotated[Path, _option("Folder for the run and the picture; replaced.")] = Path(
        "runs/demo"
    ),
    epochs: Annotated[int, _option("Passes over the training images.", min=1)] = 20,
    seed: Annotated[int, _option("Decides first weights, order of the images and noise.")] = 0,
    threads: Annotated[int, _option("Number of threads.", min=1)] = 1,
    debug: Debug = False,
) -> None:
    """Train on the small digits that come with the package, and draw one image's spikes.

    Takes a minute or two, and needs neither a network nor other files.
    """
    with _friendly_errors(debug):
        from ttfs_fast import training
        from ttfs_fast.data import load
        from ttfs_fast.plotting import spike_raster

        # The paper's settings are for MNIST's 300,000 steps. These learn within 3,000; they were
        # chosen on the last fifth of the training digits.
        config = TrainConfig(
            dataset="digits",
            epochs=epochs,
            seed=seed,
            threads=threads,
            lr_start=3e-3,
            lr_end=1e-4,
            scale=10.0,
            cost_reduction="mean",
            jitter=0.1,
            shift=1,
        )
        result = training.train(config, out, overwrite=True)
        _print_result(result.evaluation)
        test_set = load("digits", train=False)
        picture = out / "demo.png"
        figure = spike_raster(
            result.model,
            test_set.images[0],
            label=int(test_set.labels[0]),
            classes=test_set.classes,
            alpha=config.alpha,
            polarity=config.polarity,
        )
        figure.savefig(picture)
        print(f"\nThe spikes of one test image, layer by layer: {picture.resolve()}\n")
        print("Next:")
        for purpose, command in (
            ("test these weights again", f"ttfs-fast eval --weights {result.weights_path}"),
            ("train on MNIST itself", "ttfs-fast train --help"),
            ("test the network that comes with the package", "ttfs-fast eval --pretrained"),
        ):
            print(f"  {purpose}: {command}")


def openmp_runtimes() -> list[str]:
    """Paths of the OpenMP libraries loaded into this process (Linux; empty elsewhere)."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    paths = (line.split(maxsplit=5)[5:] for line in maps.read_text().splitlines())
    names = ("libgomp", "libiomp", "libomp")
    return sorted({p[0] for p in paths if p and Path(p[0]).name.startswith(names)})


def main() -> None:
    """Run the command ``ttfs-fast``."""
    app()


@contextmanager
def _friendly_errors(debug: bool) -> Iterator[None]:
    """Turn what a user can mend into one line on standard error and exit status 2."""
    try:
        yield
    except KeyboardInterrupt:
        if debug:
            raise
        raise typer.Exit(130) from None
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"ttfs-fast: {text}", file=sys.stderr)
        raise typer.Exit(2) from None


@contextmanager
def _counting_bar(total: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, and nothing elsewhere."""
    console = _console()
    if not (show and console.is_terminal):
        yield lambda done: None
        return
    with _rich("progress").Progress(console=console, transient=True) as progress:
        task = progress.add_task("testing", total=total)
        yield lambda done: progress.update(task, completed=done)


def _print_result(result: "EvaluationResult") -> None:
    table = _rich("table").Table(title=f"{result.dataset}: {result.images:,} images")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("meaning", overflow="fold")
    rows = [
        ("accuracy", f"{result.accuracy:.2%}", f"{result.correct:,} correct"),
        ("silent images", f"{result.silent_share:.2%}", "no output spike, counted as wrong"),
        ("first spike", f"{result.first_spike_time:.3f} tau", "mean time of the decision"),
        ("sparsity", f"{result.sparsity:.1%}", f"share of {result.neurons:,} neurons that spike"),
    ]
    for name, share in result.sparsity_by_layer.items():
        rows.append((f"  {name}", f"{share:.1%}", "the same in this layer"))
    rows += [
        (
            "energy by weights",
            f"{result.energy_by_weights * 1e9:.1f} nJ",
            f"an image: {result.weights:,} weights x sparsity x 10 pJ (the paper's count)",
        ),
        (
            "energy by spikes",
            f"{result.energy_by_spikes * 1e9:.1f} nJ",
            f"an image: {result.spikes_per_image:,.0f} neuron spikes x 10 pJ",
        ),
        ("speed", f"{result.images_per_second:,.0f} /s", "images, encoding included"),
    ]
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _print_confusion(result: "EvaluationResult", classes: tuple[str, ...]) -> None:
    table = _rich("table").Table(title="true class (row), answer (column)")
    table.add_column("")
    for name in (*classes, "silent"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in zip(classes, result.confusion.tolist(), strict=True):
        table.add_row(name, *(str(count) if count else "." for count in row))
    _console().print(table)


def _data_found(data_root: Path | None) -> str:
    from ttfs_fast.data import load_digits, load_mnist

    found = [f"digits: {len(load_digits(train=True)):,} + {len(load_digits(train=False)):,} images"]
    try:
        sizes = [len(load_mnist(data_root, train=train)) for train in (True, False)]
        found.append(f"mnist: {sizes[0]:,} + {sizes[1]:,} images")
    except (OSError, ValueError) as error:
        found.append(f"mnist: {error}")
    return "\n".join(found)


def _download(dataset: str, data_root: str | None) -> None:
    if dataset == "mnist":
        from ttfs_fast.data import load_mnist

        for train_split in (True, False):
            load_mnist(data_root, train=train_split, download=True)


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _console() -> Any:
    return _rich("console").Console(highlight=False)


def _rich(name: str) -> Any:
    from ttfs_fast._extras import require

    return require(f"rich.{name}", "train")
