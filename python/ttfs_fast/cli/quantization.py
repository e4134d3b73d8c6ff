"""``ttfs-fast quantize`` and ``predict``, and ``eval`` of integer networks."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttfs_fast._settings import settings_of
from ttfs_fast.cli._common import (
    OR_SHIPPED,
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
from ttfs_fast.cli._options import Command, Given, settings_options
from ttfs_fast.cli.evaluation import print_confusion, print_counts, print_result
from ttfs_fast.quantization.config import QuantizeConfig
from ttfs_fast.training.config import INPUT, NETWORK, WEIGHTS, TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttfs_fast.quantization import Comparison


UNUSED = (
    *(
        name
        for name, (_, known) in settings_of(TrainConfig).items()
        if known.group in (NETWORK, WEIGHTS, INPUT) and name != "jitter"
    ),
    "accumulate",
    "image_size",
    "label_smoothing",
    "momentum",
    "optimizer",
    "patience",
    "schedule",
    "start",
    "warmup",
    "workers",
)
"""Settings of training that the network has already, or that retraining does without."""


@app.command(cls=Command)
@settings_options(QuantizeConfig, TrainConfig, leave_out=UNUSED, inherited=TrainConfig)
def quantize(
    given: Given,
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
    out: Annotated[Path, option("Folder of the run: settings, checkpoint, networks.")] = Path(
        "runs/quantized"
    ),
    resume: Annotated[
        bool, flag("--resume", "Continue the run in the folder after its newest checkpoint.")
    ] = False,
    config: Annotated[
        str | None,
        option(
            "Settings to start from, in place of those that the weights were trained with: a "
            "recipe that comes with the package, or a .toml file with fields of TrainConfig.",
            show_default=False,
        ),
    ] = None,
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
        known = base.spike_settings
        own = {name: given.pop(name) for name in settings_of(QuantizeConfig) if name in given}
        settings = training.read_recipe(config) if config is not None else {}
        base = dataclasses.replace(base, **settings | given)
        for name, its in known.items():
            if (asked := base.spike_settings[name]) != its:
                raise ValueError(
                    f"the network was trained with {name} {its}, {config} says {asked}: it is "
                    f"retrained for the spikes that it knows, so leave {name} out of the settings"
                )
        test_set = fit_to_network(load_in_memory(base)[1], weights, source)
        networks = quantization.quantize(
            model, QuantizeConfig(training=base, **own), out, resume=resume
        )
        set_threads(base.threads)
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
