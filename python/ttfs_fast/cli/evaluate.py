"""``ttfs-fast eval``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ttfs_fast.cli._common import (
    DataRoot,
    Debug,
    Device,
    Download,
    OwnNetwork,
    Threads,
    Weights,
    app,
    choose_network,
    counting_bar,
    download_data,
    fit_to_network,
    flag,
    friendly_errors,
    images_of_network,
    option,
    refuse_relu,
    set_threads,
)
from ttfs_fast.cli._results import (
    MOST_COLUMNS,
    print_confusion,
    print_operations,
    print_result,
)
from ttfs_fast.data import CLASS_NAMES, DatasetName
from ttfs_fast.training.config import TrainConfig

if TYPE_CHECKING:
    from ttfs_fast.data import StreamedImages


@app.command(name="eval")
def evaluate(
    weights: Weights = None,
    own: OwnNetwork = None,
    dataset: Annotated[
        DatasetName | None,
        option(
            "Data set to test on. Default: the one of the training; for an integer network, the "
            "one whose images have its size.",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    data_root: DataRoot = None,
    download: Download = False,
    train_split: Annotated[
        bool,
        flag(
            "--train-split",
            "Use the training images instead of the test images.",
            rich_help_panel="Data",
        ),
    ] = False,
    batch_size: Annotated[int, option("Images run at a time.", min=1)] = 200,
    seed: Annotated[int, option("Seed of the noise that --jitter adds.")] = 0,
    jitter: Annotated[
        float,
        option("Noise on the input spike times: standard deviation in units of tau.", min=0.0),
    ] = 0.0,
    mirror: Annotated[
        bool,
        flag(
            "--mirror",
            "Show each image and its mirror image, and take the class by the mean of their output "
            "spikes.",
        ),
    ] = False,
    count_operations: Annotated[
        int,
        option(
            "Count synaptic operations and energy on the first N images (docs/hardware.md).",
            min=0,
            metavar="N",
        ),
    ] = 0,
    energy: Annotated[
        Path | None,
        option(
            "A TOML file of energy models, which replace those of the package.", show_default=False
        ),
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    as_json: Annotated[bool, flag("--json", "Print the results as JSON only.")] = False,
    debug: Debug = False,
) -> None:
    """Test a trained network: accuracy, confusion, spikes per neuron, spike times, energy.

    Example: ttfs-fast eval --weights mnist_scnn. --weights also takes an integer network that
    ttfs-fast quantize wrote, such as model-4bit.ttfs.
    """
    with friendly_errors(debug):
        from ttfs_fast.quantization import is_integer_file

        if energy is not None and not count_operations:
            raise ValueError("--energy is for --count-operations N; give both")
        if count_operations and (mirror or jitter):
            raise ValueError(
                "operations are counted for one view of each image, without noise: leave out "
                "--count-operations, or --mirror and --jitter"
            )
        if weights is not None and is_integer_file(weights):
            _refuse_for_integers(own, device, jitter, mirror, count_operations)
            evaluate_file(
                weights,
                dataset,
                data_root,
                download=download,
                train_split=train_split,
                batch_size=batch_size,
                threads=threads,
                as_json=as_json,
            )
            return
        import torch

        from ttfs_fast import analysis
        from ttfs_fast.data import load
        from ttfs_fast.gpu.device import describe_device, resolve_device
        from ttfs_fast.training.datasets import count

        set_threads(threads)
        where = resolve_device(device)
        energy_models = analysis.read_energy_models(energy)
        model, config, source = choose_network(weights, own)
        if count_operations:
            refuse_relu(model, source)
        name = dataset or config.dataset
        if download:
            download_data(name, data_root)
        assert weights is not None  # choose_network has refused it
        image_set = (
            _class_folders(weights, data_root, source, config, batch_size, train_split=train_split)
            if name == "folder"
            else fit_to_network(load(name, data_root, train=train_split), weights, source)
        )
        images = count(image_set)
        if not as_json:
            print(
                f"testing {source} on {images:,} images of {image_set.name}: "
                f"{describe_device(where)}"
            )
        with counting_bar(images, show=not as_json) as advance:
            result = analysis.evaluate(
                model.to(where),
                image_set,
                batch_size=batch_size,
                jitter=jitter,
                generator=torch.Generator().manual_seed(seed),
                mirror=mirror,
                on_progress=advance,
            )
        counts = None
        if count_operations:
            counts = analysis.count_on_images(model, image_set, count_operations)
        if as_json:
            more = {} if counts is None else {"operations": counts.to_dict(energy_models)}
            print(json.dumps(result.to_dict() | more, indent=2))
            return
        print_result(result)
        if counts is not None:
            print_operations(counts, energy_models)
        if len(image_set.classes) <= MOST_COLUMNS:
            print_confusion(result, image_set.classes)


def _refuse_for_integers(
    own: str | None, device: str, jitter: float, mirror: bool, count_operations: int
) -> None:
    """Raise ValueError for an option that integer networks have no use for."""
    if own is not None:
        raise ValueError("the file of an integer network needs no --model: leave it out")
    if device not in ("auto", "cpu"):
        raise ValueError(f"integer networks run on the CPU, without --device {device}")
    if jitter:
        raise ValueError("an integer network encodes pixels itself, without --jitter")
    if mirror:
        raise ValueError("--mirror is for networks in float; leave it out")
    if count_operations:
        raise ValueError(
            "operations are counted on float networks; count those of the network that this "
            "integer network was made of"
        )


def _class_folders(
    weights: Path,
    root: Path | None,
    source: str,
    config: TrainConfig,
    batch_size: int,
    *,
    train_split: bool,
) -> "StreamedImages":
    """The images of class folders, read while they are tested, as the network takes them."""
    from ttfs_fast.data import ImageFolder, StreamedImages
    from ttfs_fast.training.datasets import check_shape

    if root is None:
        raise ValueError("dataset folder needs --data-root: the folder or zip file")
    shape, classes = images_of_network(weights)
    if classes is None:
        print(
            f"{source} does not name its classes: they are taken for the class folders, in the "
            "order of their names",
            file=sys.stderr,
        )
    images = StreamedImages(
        ImageFolder(root, "train" if train_split else "val", classes),
        batch_size,
        shape.height,
        workers=config.workers,
        corrupt="skip",
    )
    check_shape(images, shape, source)
    return images


DATASETS = {(1, 28, 28): "mnist", (3, 32, 32): "cifar10"}
"""Data set of each size of an image, for integer networks that do not name their classes."""


def dataset_of(size: tuple[int, int, int], classes: tuple[str, ...] | None) -> str | None:
    """The data set whose images have this size, and these classes if they are known."""
    usual = DATASETS.get(size)
    if classes is None or usual is None or CLASS_NAMES[usual] == classes:
        return usual
    channels = {name: 3 if name.startswith("cifar") else 1 for name in CLASS_NAMES}
    same = [n for n, names in CLASS_NAMES.items() if names == classes and channels[n] == size[0]]
    return same[0] if same else None


def evaluate_file(
    path: Path,
    dataset: str | None,
    data_root: Path | None,
    *,
    download: bool,
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
    name = dataset or dataset_of(network.input_size, network.classes)
    if name is None:
        raise ValueError(
            f"{path} takes images of size {network.input_size} of its own classes, which no data "
            "set has that is known by name: those of mnist and digits are (1, 28, 28), those of "
            "cifar10 (3, 32, 32); give --dataset"
        )
    if download:
        download_data(name, data_root)
    image_set = load(name, data_root, train=train_split)
    if network.classes is not None:
        image_set = image_set.with_classes(network.classes)
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
