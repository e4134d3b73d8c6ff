"""``ttfs-fast quantize`` and ``predict``, and ``eval`` of integer networks."""

import dataclasses
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttfs_fast.cli._common import (
    OR_SHIPPED,
    DataRoot,
    Debug,
    Threads,
    app,
    choose_network,
    counting_bar,
    fit_to_network,
    flag,
    friendly_errors,
    option,
    set_threads,
)
from ttfs_fast.cli.evaluation import print_confusion, print_counts, print_result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttfs_fast.quantization import Comparison


class Bits(StrEnum):
    """Bits of a weight."""

    EIGHT = "8"
    FOUR = "4"
    TWO = "2"


class TimeBits(StrEnum):
    """Bits of a spike code."""

    SIXTEEN = "16"
    EIGHT = "8"


@app.command()
def quantize(
    weights: Annotated[
        Path | None,
        option(f"A model.safetensors that training wrote, {OR_SHIPPED}.", show_default=False),
    ] = None,
    pretrained: Annotated[
        bool, flag("--pretrained", "Use the trained network that comes with the package.")
    ] = False,
    authors: Annotated[
        Path | None,
        option("Folder with the weights that the paper's authors published.", show_default=False),
    ] = None,
    bits: Annotated[
        Bits, option("Bits of a weight at the end; training passes through those above.")
    ] = Bits.TWO,
    time_bits: Annotated[TimeBits, option("Bits of a spike code.")] = TimeBits.SIXTEEN,
    out: Annotated[Path, option("Folder of the run: settings, checkpoint, networks.")] = Path(
        "runs/quantized"
    ),
    resume: Annotated[
        bool, flag("--resume", "Continue the run in the folder after its newest checkpoint.")
    ] = False,
    epochs: Annotated[
        int,
        option(
            "Passes over the training images with each number of bits; 0: no retraining.", min=0
        ),
    ] = 4,
    last_epochs: Annotated[
        int | None,
        option(
            "Passes with the last number of bits, which is the hardest to train, in place of "
            "--epochs.",
            min=0,
            show_default=False,
        ),
    ] = None,
    tune_epochs: Annotated[
        int,
        option(
            "Passes after all others with the weights' codes held, which train thresholds and "
            "biases only.",
            min=0,
        ),
    ] = 0,
    lr_start: Annotated[float, option("Learning rate at the start of each number of bits.")] = 1e-3,
    lr_end: Annotated[float, option("Learning rate at its end.")] = 1e-5,
    config: Annotated[
        str | None,
        option(
            "Settings of the training: a recipe of the package, or a TOML file. Default: those "
            "that the weights were trained with.",
            show_default=False,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        option("In place of the weight decay of these settings.", show_default=False),
    ] = None,
    scale: Annotated[
        float | None,
        option("In place of their factor on the spike times in the loss.", show_default=False),
    ] = None,
    teacher: Annotated[
        Path | None,
        option(
            "Weights of a trained network whose answers are learned besides the classes, "
            f"{OR_SHIPPED}.",
            show_default=False,
        ),
    ] = None,
    float_teacher: Annotated[
        bool,
        flag("--float-teacher", "Learn the network's own answers in float, too."),
    ] = False,
    train_images: Annotated[
        int | None, option("Train on the first so many images only.", show_default=False)
    ] = None,
    test_images: Annotated[
        int | None, option("Test on the first so many images only.", show_default=False)
    ] = None,
    dataset: Annotated[
        str | None, option("Data set: mnist, digits or cifar10.", show_default=False)
    ] = None,
    data_root: DataRoot = None,
    seed: Annotated[
        int | None, option("Decides order, distortion and noise.", show_default=False)
    ] = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Retrain a network with few-bit weights, and write it as an integer network.

    Give the network with one of --weights, --pretrained and --authors. The folder receives
    model-8bit.ttfs and so on; ttfs-fast eval --weights takes such a file.
    """
    with friendly_errors(debug):
        from ttfs_fast import quantization, training
        from ttfs_fast.training.datasets import load_in_memory

        model, base, source = choose_network(weights, pretrained, authors)
        base = dataclasses.replace(base, teacher=None, start=None)
        settings: dict[str, Any] = training.read_recipe(config) if config is not None else {}
        given = {
            "data_root": None if data_root is None else str(data_root),
            "dataset": dataset,
            "seed": seed,
            "threads": threads,
            "weight_decay": weight_decay,
            "scale": scale,
            "teacher": None if teacher is None else str(teacher),
            "train_images": train_images,
            "test_images": test_images,
        }
        settings |= {name: value for name, value in given.items() if value is not None}
        known = base.spike_settings
        base = dataclasses.replace(base, **settings)
        for name, its in known.items():
            if (asked := base.spike_settings[name]) != its:
                raise ValueError(
                    f"the network was trained with {name} {its}, {config} says {asked}: it is "
                    f"retrained for the spikes that it knows, so leave {name} out of the settings"
                )
        test_set = fit_to_network(load_in_memory(base)[1], weights, source)
        networks = quantization.quantize(
            model,
            quantization.QuantizeConfig(
                int(bits),
                int(time_bits),
                epochs,
                lr_start,
                lr_end,
                training=base,
                last_epochs=last_epochs,
                tune_epochs=tune_epochs,
                float_teacher=float_teacher,
            ),
            out,
            resume=resume,
        )
        set_threads(threads)
        for number, network in networks.items():
            comparison = quantization.compare(
                model, network, test_set, alpha=base.alpha, polarity=base.polarity
            )
            print(
                f"{number} bits: {comparison.integer_correct / comparison.images:.2%} correct, "
                f"float {comparison.float_correct / comparison.images:.2%}; the same decision on "
                f"{comparison.agreement:.2%}"
            )
        print_comparison(comparison, test_set.classes)


DATASETS = {(1, 28, 28): "mnist", (3, 32, 32): "cifar10"}
"""Data set of each size of an image."""


def evaluate_file(
    path: Path,
    dataset: str | None,
    data_root: str | None,
    *,
    train_split: bool,
    batch_size: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """What ``ttfs-fast eval --weights`` does with an integer network."""
    import ttfs_fast
    from ttfs_fast import quantization
    from ttfs_fast.data import load
    from ttfs_fast.quantization.network import default_threads

    network = quantization.load(path)
    if dataset is None and network.input_size not in DATASETS:
        raise ValueError(
            f"{path} takes images of size {network.input_size}, which no data set has: those of "
            "mnist and digits are (1, 28, 28), those of cifar10 (3, 32, 32)"
        )
    image_set = load(dataset or DATASETS[network.input_size], data_root, train=train_split)
    if not as_json:
        print(
            f"testing {path} on {len(image_set):,} images of {image_set.name}: cpu, threads: "
            f"{default_threads(threads)}, {ttfs_fast.instruction_set()} instructions"
        )
        print(network)
    with counting_bar(len(image_set), show=not as_json) as advance:
        result = quantization.evaluate(
            network, image_set, batch_size=batch_size, threads=threads, on_progress=advance
        )
    size = path.stat().st_size
    if as_json:
        print(json.dumps(result.to_dict() | {"file_bytes": size}, indent=2))
        return
    print_result(result)
    parameters = result.weights + sum(
        0 if info.bias is None else info.bias.size for info in network.layer_infos()
    )
    print(f"size: {size:,} bytes, 1/{4 * parameters / size:.1f} of float32")
    print_confusion(result, image_set.classes)


@app.command()
def predict(
    network: Annotated[Path, typer.Argument(help="A file that ttfs-fast quantize wrote.")],
    images: Annotated[
        Path, typer.Argument(help="An IDX file, gzipped or not, or a .npy array, of uint8 images.")
    ],
    threads: Threads = None,
    as_json: Annotated[
        bool, flag("--json", "Print classes, spike codes and times as JSON.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print the class of each image, -1 where no output spikes, by an integer network."""
    with friendly_errors(debug):
        import numpy as np

        from ttfs_fast import quantization
        from ttfs_fast.quantization.network import first_spikes

        net = quantization.load(network)
        pixels = read_images(images, net.input_size)
        classes: list[int] = []
        codes: list[list[int]] = []
        for start in range(0, len(pixels), 200):
            output = net(pixels[start : start + 200], threads=threads)
            if output.ndim != 2:
                raise ValueError(f"{network} gives images, not classes: {net.output_size}")
            classes += first_spikes(output, net.silent).tolist()
            codes += output.tolist()
        if not as_json:
            print(*classes, sep="\n")
            return
        first = [min(row) for row in codes]
        times = [None if c == net.silent else float(np.log(c * net.units[-1])) for c in first]
        print(json.dumps({"classes": classes, "codes": codes, "first_spike_times": times}))


def read_images(path: Path, size: tuple[int, int, int]) -> "NDArray[np.uint8]":
    """Images (N, C, H, W) from an IDX file or a numpy array."""
    import numpy as np

    from ttfs_fast._untrusted import read_npy
    from ttfs_fast.data import read_idx

    pixels = read_npy(path) if path.suffix == ".npy" else read_idx(path)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{path} holds {pixels.dtype} values; images are uint8")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4 or pixels.shape[1:] != size:
        raise ValueError(
            f"{path} holds an array of shape {pixels.shape}; the network takes (N, "
            f"{', '.join(map(str, size))})"
        )
    images: NDArray[np.uint8] = pixels
    return images


def print_comparison(comparison: "Comparison", classes: tuple[str, ...]) -> None:
    names = (*classes, "silent")
    print_counts("answer in float (row), in integers (column)", names, names, comparison.counts)
