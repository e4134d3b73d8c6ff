"""``ttfs-fast convert``: converts ReLU networks to first-spike networks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from ttfs_fast.cli._common import (
    DataRoot,
    Debug,
    Download,
    Threads,
    allow_current_folder,
    app,
    download_data,
    flag,
    friendly_errors,
    option,
    refuse_integers,
    set_threads,
    split_numbers,
)
from ttfs_fast.data import DatasetName

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ttfs_fast.data import ImageSet
    from ttfs_fast.encoding import Encoding


@app.command()
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="The ReLU network: the folder or model.safetensors of a run with --neuron relu or "
            "relu-norm; or with --model any safetensors file of its state_dict. Nothing is "
            "unpickled.",
            show_default=False,
        ),
    ],
    to: Annotated[
        Path | None, option("File to write, NAME.safetensors; --weights takes it.")
    ] = None,
    model: Annotated[
        str | None,
        option(
            "What makes the network that FILE holds the weights of; it is imported and called.",
            metavar="PACKAGE.MODULE:FACTORY",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        DatasetName | None,
        option(
            "Data set whose images set the scale of every layer, and are compared. Default: what "
            "the network was trained on.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    train_images: Annotated[
        int, option("Training images that set the scales.", min=1, rich_help_panel="Data")
    ] = 500,
    test_images: Annotated[
        int,
        option("Test images on which decisions are compared.", min=1, rich_help_panel="Data"),
    ] = 1000,
    mean: Annotated[
        str | None,
        option(
            "Means of the pixel intensities in [0, 1] that the network expects to be taken off: "
            "one number, or one for each channel. Default: those of the run; with --model 0.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    deviation: Annotated[
        str | None,
        option(
            "Deviations by which they are divided. Default: those of the run; with --model 1.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    weight_sum: Annotated[float, option("m, the sum of every neuron's weights.")] = 2.0,
    spread: Annotated[
        float | None,
        option(
            "Longest lead over the horizon. Default: half of what is safe, at most 0.02.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float64"],
        option("Numbers of the converted network; float64 decides as the ReLU network does."),
    ] = "float32",
    threads: Threads = None,
    as_json: Annotated[bool, flag("--json", "Print the comparison as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Convert a trained ReLU network to first spikes, exact to rounding, and compare decisions.

    eval, diagnose, predict, circuit layer and export read the file that it writes.
    docs/conversion.md says what converts.
    """
    with friendly_errors(debug):
        import torch

        from ttfs_fast import conversion
        from ttfs_fast.data import load

        set_threads(threads)
        if to is None or to.suffix != ".safetensors":
            raise ValueError(f"give --to NAME.safetensors; got {to}")
        relu = _relu_network(file, model, dataset)
        front = conversion.IntensitiesOfSpikes(
            relu.mean if mean is None else split_numbers(mean, "--mean"),
            relu.deviation if deviation is None else split_numbers(deviation, "--deviation"),
        )
        if download:
            download_data(relu.dataset, data_root)
        train_set, test_set = (load(relu.dataset, data_root, train=part) for part in (True, False))
        wanted = getattr(torch, dtype)
        known = _inputs(train_set, train_images, front, relu.encoding, wanted)
        unknown = _inputs(test_set, test_images, front, relu.encoding, wanted)
        network = relu.network.to(wanted).eval()
        _check_network(network, known, file, train_set)
        spiking = conversion.from_relu(network, known, weight_sum=weight_sum, spread=spread)
        compared = conversion.compare_decisions(network, spiking, unknown)
        metadata = _metadata(train_set, relu, file)
        conversion.save_converted(conversion.with_intensities(spiking, front), to, metadata)
        accuracy = _accuracy(spiking, unknown, test_set)
        if as_json:
            print(json.dumps(compared.to_dict() | {"accuracy": accuracy}, indent=2))
            return
        print(f"{to}: {to.stat().st_size:,} bytes, {dtype}")
        print(f"{compared}; {accuracy:.2%} are right")


class _Relu(NamedTuple):
    """A ReLU network, the name of its data set, and how pixels become its inputs."""

    network: "nn.Module"
    dataset: str
    mean: Sequence[float] | float
    deviation: Sequence[float] | float
    encoding: "Encoding"


def _relu_network(file: Path, model: str | None, dataset: str | None) -> _Relu:
    if file.suffix in (".pt2", ".pt", ".pth", ".bin", ".pkl", ".onnx"):
        raise ValueError(
            f"{file}: reading such a file can run code that it holds (torch.load, torch.export.load"
            "); save the weights with safetensors.torch.save_file(model.state_dict(), "
            '"weights.safetensors") and name what makes the network with --model'
        )
    refuse_integers(file)
    if model is None:
        found = _network_of_run(file, dataset)
    else:
        found = _network_of_factory(file, model, dataset)
    if found.dataset == "folder":
        raise ValueError(
            "convert compares on a data set that fits into memory; with images in class "
            "folders use ttfs_fast.conversion.from_relu (docs/conversion.md)"
        )
    return found


def _network_of_run(file: Path, dataset: str | None) -> _Relu:
    from ttfs_fast import training
    from ttfs_fast.conversion import is_converted
    from ttfs_fast.models import DecodeSpikes
    from ttfs_fast.models.pretrained import weights_file

    with weights_file(file) as path:
        if path.is_file() and is_converted(path):
            raise ValueError(f"{file} is converted already; --weights takes it")
    loaded, config = training.load_model(file)
    if not isinstance(loaded, DecodeSpikes):
        raise ValueError(
            f"{file} holds {config.model} of {config.neuron} neurons, no ReLU network: give a "
            "run with --neuron relu or relu-norm, or name what makes the network with --model"
        )
    mean, deviation = (t.flatten().tolist() for t in (loaded.mean, loaded.deviation))
    # The converted network sees z = exp(1 - p), whatever the run's alpha and polarity were.
    encoding = config.encoding.of_unit_times
    return _Relu(loaded.network, dataset or config.dataset, mean, deviation, encoding)


def _network_of_factory(file: Path, model: str, dataset: str | None) -> _Relu:
    """The network that package.module:factory makes, with the weights of a file."""
    import torch

    from ttfs_fast._untrusted import read_safetensors
    from ttfs_fast.encoding import Encoding
    from ttfs_fast.models.pretrained import weights_file

    if dataset is None:
        raise ValueError("with --model give the images, too, such as --dataset cifar10")
    made = _call_factory(model)
    if not isinstance(made, torch.nn.Module):
        raise ValueError(f"{model} gave a {type(made).__name__}; it must give a torch.nn.Module")
    with weights_file(file) as path:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {file}")
        state = read_safetensors(path)
    try:
        made.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{file} does not hold the weights of {model}: {error}") from error
    return _Relu(made, dataset, 0.0, 1.0, Encoding(1.0))


def _call_factory(name: str) -> Any:
    """What package.module:factory makes; the current folder counts, as the user names it."""
    from ttfs_fast.training.own_network import find_factory, name_of

    allow_current_folder()
    factory = find_factory(name_of(name))
    try:
        return factory()
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"the network {name} cannot be made: {type(error).__name__}: {error}"
        ) from error


def _inputs(
    images: "ImageSet", count: int, front: Any, encoding: "Encoding", dtype: "torch.dtype"
) -> "Tensor":
    """The first N images in the form that the network takes."""
    import torch

    pixels = encoding.shown(torch.from_numpy(images.images[:count]).to(dtype) / 255)
    channels = {1, pixels.shape[1]}
    for name, values in (("mean", front.mean), ("deviation", front.deviation)):
        if len(values) not in channels:
            raise ValueError(
                f"--{name} has {len(values)} numbers; the images have {pixels.shape[1]} channels"
            )
    mean, deviation = (
        torch.tensor(values, dtype=dtype).view(-1, 1, 1) for values in (front.mean, front.deviation)
    )
    return (pixels - mean) / deviation


def _check_network(network: "nn.Module", known: "Tensor", file: Path, images: "ImageSet") -> None:
    """Raise ValueError unless a network takes images of a data set and gives their classes."""
    import torch

    try:
        with torch.no_grad():
            output = network(known[:1])
    except Exception as error:  # whatever the user's network raises
        raise ValueError(
            f"the network of {file} does not take images of {images.name}, "
            f"{tuple(known.shape[1:])}: {error}"
        ) from error
    # What is no tensor, from_relu refuses by name.
    if isinstance(output, torch.Tensor) and output.shape[1:] != (len(images.classes),):
        raise ValueError(
            f"the network gives {tuple(output.shape[1:])} for an image; {images.name} has "
            f"{len(images.classes)} classes"
        )


def _accuracy(spiking: "nn.Module", inputs: "Tensor", images: "ImageSet") -> float:
    """Fraction of the images whose class is the output that spikes first."""
    import torch

    with torch.no_grad():
        classes = torch.cat([spiking(some).argmin(1) for some in torch.split(inputs, 256)])
    return float((classes == images.labels_as_tensor()[: len(inputs)]).double().mean())


def _metadata(images: "ImageSet", relu: _Relu, file: Path) -> dict[str, str]:
    import ttfs_fast
    from ttfs_fast.training.build import ImageShape

    channels, height, width = images.images.shape[1:]
    shape = ImageShape(channels, height, width, len(images.classes))
    return {
        "encoding": relu.encoding.to_json(),
        "images": shape.to_json(),
        "classes": json.dumps(list(images.classes)),
        "dataset": relu.dataset,
        "converted_from": file.name,
        "ttfs_fast_version": str(ttfs_fast.__version__),
    }
