"""Code that commands share: the application, common options, errors, tables."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    import typer.core
except ModuleNotFoundError as error:
    if error.name != "typer":
        raise
    sys.exit(
        "ttfs-fast: the command line needs the package 'typer'; "
        'install it with: pip install "ttfs_fast[train]"'
    )

from ttfs_fast import _terminal
from ttfs_fast._tables import Table
from ttfs_fast.models.authors import AUTHORS_CIFAR_FILES, AUTHORS_FILES
from ttfs_fast.models.pretrained import PRETRAINED, PretrainedName, pretrained_name, weights_file
from ttfs_fast.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import nn

    from ttfs_fast.data import ImageSet
    from ttfs_fast.training.build import ImageShape

COMMANDS = (
    "demo",
    "train",
    "eval",
    "predict",
    "diagnose",
    "quantize",
    "convert",
    "export",
    "reproduce",
    "study",
    "circuit",
    "bench",
    "info",
)
"""All commands, in the order of ``ttfs-fast --help``."""


class Commands(typer.core.TyperGroup):
    """All commands, listed in the order of `COMMANDS`, not in that in which they were added."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return sorted(super().list_commands(ctx), key=COMMANDS.index)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of any command."""
        return super().parse_args(ctx, [with_home(argument) for argument in args])


def with_home(argument: str) -> str:
    """Put the home folder for a ~ after an option's equals sign, where shells leave it alone."""
    name, equals, value = argument.partition("=")
    if not (name.startswith("--") and value.startswith("~")):
        return argument
    found = os.path.expanduser(value)
    if found.partition("/")[0] == "~":
        raise typer.BadParameter(
            f"{argument}: this user has no home folder; write the folder in place of ~"
        )
    return f"{name}{equals}{found}"


app = typer.Typer(
    name="ttfs-fast",
    cls=Commands,
    help="Train and examine spiking networks that compute with the time of the first spike.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def option(text: str, **more: Any) -> Any:
    """An option."""
    return typer.Option(help=text, **more)


def flag(name: str, text: str, **more: Any) -> Any:
    """A switch that is off unless given."""
    return typer.Option(name, help=text, show_default=False, **more)


WEIGHTS_HELP = (
    f"a pretrained network by its name ({', '.join(PRETRAINED)}), a file such as "
    "model.safetensors, or the folder of a run"
)
Weights = Annotated[
    Path | None,
    typer.Option(
        help=f"The network: {WEIGHTS_HELP}; also the folder of the weights that the paper's "
        "authors published.",
        show_default=False,
        metavar="WEIGHTS",
    ),
]
"""--weights means this in every command."""


OwnNetwork = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="With weights of a network of your own: its package.module:factory, where Python "
        "does not find it by itself, as in the current folder.",
        show_default=False,
        metavar="PACKAGE.MODULE:FACTORY",
    ),
]
"""--model means this where weights are read."""


def allow_current_folder() -> None:
    """Let Python import from the current folder, where --model may name a network."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def choose_network(
    weights: Path | None, own: str | None = None
) -> tuple["nn.Module", TrainConfig, str]:
    """The network of --weights, its settings, and its origin."""
    if weights is None:
        raise ValueError(f"give a network with --weights: {WEIGHTS_HELP}")
    refuse_integers(weights)
    from ttfs_fast import training
    from ttfs_fast.models import cifar_scnn, mnist_scnn

    if own is not None:
        allow_current_folder()
        return *training.load_model(weights, model=own), str(weights)
    authors = _network_of_the_authors(weights)
    if authors == "mnist_scnn":
        return mnist_scnn(weights=weights), TrainConfig(), str(weights)
    if authors == "cifar_scnn":
        model = cifar_scnn(weights=weights)
        config = TrainConfig(dataset="cifar10", model="cifar_scnn", t_max=model.t_max)
        return model, config.with_encoding(model.encoding), str(weights)
    if (name := pretrained_name(weights)) is not None:
        return *training.load_pretrained(name), f"the pretrained {name}"
    return *training.load_model(weights), str(weights)


def choose_spiking_network(
    weights: Path | None, own: str | None = None
) -> tuple["nn.Module", TrainConfig, str]:
    """The same for commands that look at spikes; runs of ReLU networks are refused."""
    model, config, source = choose_network(weights, own)
    refuse_relu(model, source)
    return model, config, source


def refuse_relu(model: "nn.Module", source: str) -> None:
    """Raise ValueError if a network is a ReLU network."""
    from ttfs_fast.models import DecodeSpikes

    if isinstance(model, DecodeSpikes):
        raise ValueError(
            f"{source} holds a ReLU network, whose neurons do not spike; ttfs-fast convert makes "
            "one of first spikes of it"
        )


def refuse_integers(weights: Path) -> None:
    """Raise ValueError if a file holds an integer network, of which a command can make nothing."""
    from ttfs_fast.quantization import is_integer_file

    if is_integer_file(weights):
        raise ValueError(
            f"{weights} holds an integer network, which eval and predict take; give the network "
            "in float that it was made of"
        )


def _network_of_the_authors(weights: Path) -> PretrainedName | None:
    """Which of the authors' networks a folder holds the arrays of; one file of them decides."""
    if any((weights / file).is_file() for file in AUTHORS_FILES):
        return "mnist_scnn"
    return "cifar_scnn" if any((weights / f).is_file() for f in AUTHORS_CIFAR_FILES) else None


def images_of_network(weights: Path) -> tuple["ImageShape", tuple[str, ...] | None]:
    """The images that the network of `choose_network` takes, and its class names, if known."""
    from ttfs_fast.training import read_classes
    from ttfs_fast.training.build import read_image_shape

    with weights_file(_network_of_the_authors(weights) or weights) as path:
        return read_image_shape(path), read_classes(path)


def fit_to_network(images: "ImageSet", weights: Path, source: str) -> "ImageSet":
    """The images with their classes counted as the network of `choose_network` counts them.

    Raises
    ------
    ValueError
        If it takes images of another shape, or does not know a class.
    """
    from ttfs_fast.training.datasets import check_shape

    shape, classes = images_of_network(weights)
    check_shape(images, shape, source)
    return images if classes is None else images.with_classes(classes)


def group(name: str, text: str) -> typer.Typer:
    """Commands under a name of their own: ``ttfs-fast NAME COMMAND``."""
    commands = typer.Typer(help=text, no_args_is_help=True)
    app.add_typer(commands, name=name)
    return commands


DataRoot = Annotated[
    Path | None,
    option(
        "Folder that holds the data set's published files; for dataset folder, the folder or zip "
        "file of class folders. Default: the folder that the environment variable TTFS_FAST_DATA "
        "names, then ~/.cache/ttfs_fast. The digits need none.",
        show_default=False,
        rich_help_panel="Data",
    ),
]
Download = Annotated[
    bool,
    flag("--download", "Fetch MNIST or CIFAR-10 first if it is not there.", rich_help_panel="Data"),
]
Threads = Annotated[
    int | None,
    option("Number of threads; without it, torch's choice.", min=1, show_default=False),
]
Device = Annotated[
    str,
    option(
        "Where to compute: auto (a GPU where there is one), cpu, cuda or cuda:N (docs/gpu.md).",
        metavar="DEVICE",
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(help="Draw a picture into this file (.png, .svg, .pdf).", show_default=False),
]
Debug = Annotated[bool, flag("--debug", "On an error, show where in the code it happened.")]


@contextmanager
def friendly_errors(debug: bool) -> Iterator[None]:
    """Turn an error that a user can correct into one line on standard error and exit status 2."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # who read the output, such as head, has gone: click ends without a word
    except KeyboardInterrupt:
        if debug:
            raise
        raise typer.Exit(130) from None
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError) as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"ttfs-fast: {as_options(text)}", file=sys.stderr)
        raise typer.Exit(2) from None
    except RuntimeError as error:
        # torch's own, which `import torch` would cost every command to name.
        if debug or type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"ttfs-fast: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(2) from None


_OPTIONS = {
    "download": "--download to ttfs-fast eval",
    "float_teacher": "--float-teacher",
    "overwrite": "--overwrite",
    "quick": "--quick",
    "resume": "--resume",
    "tensorboard": "--tensorboard",
}
"""What the commands have in place of arguments that the library's messages name."""


def as_options(text: str) -> str:
    """The library's text with options instead of arguments: --resume for resume=True."""
    return re.sub(r"\b([a-z][a-z_]*)=True\b", lambda found: _OPTIONS.get(found[1], found[0]), text)


@contextmanager
def counting_bar(total: int, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar of a test on a terminal, and nothing elsewhere."""
    with _terminal.progress(sys.stdout, show=show) as bars:
        yield lambda done: bars.update("testing", done, total)


def draw(path: Path, figure: Any) -> None:
    """Write the picture of --plot."""
    from ttfs_fast.analysis.style import save_figure

    save_figure(path, figure)
    print(f"drew {path}")


def check_picture(plot: Path | None) -> None:
    """Refuse a --plot that is not a picture, before the work."""
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot must name a .png, .svg or .pdf file; got {plot}")


def split_list(text: str | None) -> list[str]:
    """A list as every option takes it: values with commas between them."""
    return [part.strip() for part in text.split(",")] if text else []


def split_numbers(text: str, name: str) -> list[float]:
    """The numbers of a list."""
    try:
        return [float(part) for part in split_list(text)]
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas; got {text!r}") from None


def split_integers(text: str, name: str) -> list[int]:
    """The whole numbers of a list."""
    try:
        return [int(part) for part in split_list(text)]
    except ValueError:
        raise ValueError(
            f"{name} must be whole numbers separated by commas; got {text!r}"
        ) from None


def download_data(dataset: str, data_root: str | Path | None) -> None:
    from ttfs_fast.data import load_cifar10, load_mnist

    loaders = {"mnist": load_mnist, "cifar10": load_cifar10}
    if dataset in loaders:
        for train_split in (True, False):
            loaders[dataset](data_root, train=train_split, download=True)
    elif dataset != "digits":
        raise ValueError(
            f"--download fetches mnist and cifar10; put the published files of {dataset} into a "
            "folder and give that with --data-root"
        )


def set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def console() -> Any:
    return rich("console").Console(highlight=False)


def show_table(table: Any) -> None:
    """Print a table, where no terminal sets the width as wide as it needs, up to 160 columns."""
    if isinstance(table, Table):
        table = table.rich()
    terminal = console()
    if not terminal.is_terminal:
        terminal.width = 160
        terminal.width = terminal.measure(table).maximum
    terminal.print(table)


def rich(name: str) -> Any:
    from ttfs_fast._extras import require

    return require(f"rich.{name}", "train")
