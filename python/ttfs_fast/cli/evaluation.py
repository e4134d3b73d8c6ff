"""``ttfs-fast eval`` and ``diagnose``; how results are printed."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ttfs_fast.cli._common import (
    OR_SHIPPED,
    DataRoot,
    Dataset,
    Debug,
    Download,
    Threads,
    app,
    choose_network,
    counting_bar,
    download_data,
    fit_to_network,
    flag,
    friendly_errors,
    images_of_network,
    option,
    rich,
    set_threads,
    show_table,
)
from ttfs_fast.training.config import TrainConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttfs_fast.analysis import EvaluationResult

MOST_COLUMNS = 20
"""Classes up to which a confusion table can be read."""

MOST_CHARACTERS = 4
"""Of class names that head its columns."""


@app.command(name="eval")
def evaluate(
    weights: Annotated[
        Path | None,
        option(
            "A model.safetensors that training wrote, an integer network that ttfs-fast quantize "
            f"wrote, {OR_SHIPPED}.",
            show_default=False,
        ),
    ] = None,
    pretrained: Annotated[
        bool, flag("--pretrained", "Use the trained network that comes with the package.")
    ] = False,
    authors: Annotated[
        Path | None,
        option(
            "Folder with the weights that the paper's authors published: "
            "weight_scnn1.npy, weight_scnn2.npy and weight_scnn3.npy.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        Dataset | None,
        option(
            "Data set to test on. Default: what the weights were trained on; for an integer "
            "network, the one whose images have its size.",
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
    threads: Threads = None,
    as_json: Annotated[bool, flag("--json", "Print the results as JSON only.")] = False,
    debug: Debug = False,
) -> None:
    """Test a trained network: accuracy, confusion, sparsity, spike times, energy.

    Give the network with one of --weights, --pretrained and --authors.
    """
    with friendly_errors(debug):
        from ttfs_fast.quantization import is_integer_file

        alone = not pretrained and authors is None
        if alone and weights is not None and is_integer_file(weights):
            if jitter:
                raise ValueError("an integer network encodes pixels itself, without --jitter")
            from ttfs_fast.cli.quantization import evaluate_file

            evaluate_file(
                weights,
                None if dataset is None else str(dataset),
                None if data_root is None else str(data_root),
                train_split=train_split,
                batch_size=batch_size,
                threads=threads,
                as_json=as_json,
            )
            return
        import torch

        import ttfs_fast
        from ttfs_fast import analysis
        from ttfs_fast.data import ImageFolder, ImageSet, StreamedImages, load
        from ttfs_fast.training.datasets import check_shape

        set_threads(threads)
        model, config, source = choose_network(weights, pretrained, authors)
        name = str(dataset or config.dataset)
        root = None if data_root is None else str(data_root)
        if download:
            download_data(name, root)
        image_set: ImageSet | StreamedImages
        if name == "folder":
            if root is None:
                raise ValueError("dataset folder needs --data-root: the folder or zip file")
            shape, classes = images_of_network(weights)
            if classes is None:
                print(
                    f"{source} does not name its classes: they are taken for the class folders, in "
                    "the order of their names",
                    file=sys.stderr,
                )
            image_set = StreamedImages(
                ImageFolder(root, "train" if train_split else "val", classes),
                batch_size,
                shape.height,
                workers=config.workers,
                corrupt="skip",
            )
            check_shape(image_set, shape, source)
            count = image_set.images
        else:
            image_set = fit_to_network(load(name, root, train=train_split), weights, source)
            count = len(image_set)
        if not as_json:
            print(
                f"testing {source} on {count:,} images of {image_set.name}: cpu, "
                f"threads: {torch.get_num_threads()}, {ttfs_fast.instruction_set()} instructions"
            )
        with counting_bar(count, show=not as_json) as advance:
            result = analysis.evaluate(
                model,
                image_set,
                **config.encoding,
                batch_size=batch_size,
                jitter=jitter,
                generator=torch.Generator().manual_seed(seed),
                on_progress=advance,
            )
        if as_json:
            print(json.dumps(result.to_dict(), indent=2))
        else:
            print_result(result)
            if len(image_set.classes) <= MOST_COLUMNS:
                print_confusion(result, image_set.classes)


@app.command()
def diagnose(
    config: Annotated[
        str | None,
        option("Settings: a recipe of the package, or a .toml file.", show_default=False),
    ] = None,
    weights: Annotated[
        Path | None,
        option(
            f"A model.safetensors that training wrote, {OR_SHIPPED}; else a new network.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[int, option("Training images to look at.", min=2)] = 32,
    out: Annotated[
        Path | None, option("Draw the layers into this file, such as layers.png.")
    ] = None,
    data_root: DataRoot = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Say what happens in each layer of a network, trained or new, and which one is sick."""
    with friendly_errors(debug):
        import torch

        from ttfs_fast import analysis, training
        from ttfs_fast._files import save_figure
        from ttfs_fast.data import load
        from ttfs_fast.encoding import encode, standardise
        from ttfs_fast.training.datasets import image_shape

        if (config is None) == (weights is None):
            raise ValueError("give one of --config RECIPE and --weights FILE")
        set_threads(threads)
        if weights is not None:
            model, chosen, source = choose_network(weights, False, None)
        else:
            chosen = TrainConfig(**training.read_recipe(str(config)))
        root = chosen.data_root if data_root is None else str(data_root)
        image_set = load(chosen.dataset, root, train=True)
        if weights is not None:
            image_set = fit_to_network(image_set, weights, source)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(chosen.seed)
                model = training.make_model(chosen, image_shape(image_set))
        pixels = image_set.images_as_tensor()[:images]
        values = encode(
            standardise(pixels) if chosen.whiten else pixels, chosen.alpha, chosen.polarity
        )
        found = analysis.diagnose(
            model, (values, image_set.labels_as_tensor()[:images]), scale=chosen.scale
        )
        print(found)
        if out is not None:
            save_figure(out, found.plot(), dpi=120)


def print_result(result: "EvaluationResult") -> None:
    table = rich("table").Table(title=f"{result.dataset}: {result.images:,} images")
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
    show_table(table)


def print_confusion(result: "EvaluationResult", classes: tuple[str, ...]) -> None:
    print_counts(
        "true class (row), answer (column)", classes, (*classes, "silent"), result.confusion
    )


def print_counts(
    title: str, rows: Sequence[str], columns: Sequence[str], counts: "NDArray[np.int64]"
) -> None:
    """A table of counts; where names would make its columns wide, they are numbered instead."""
    if max(map(len, columns[:-1])) > MOST_CHARACTERS:
        rows = [f"{number} {name}" for number, name in enumerate(rows)]
        columns = [*map(str, range(len(columns) - 1)), columns[-1]]
    table = rich("table").Table(title=title)
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in zip(rows, counts.tolist(), strict=True):
        table.add_row(name, *(str(count) if count else "." for count in row))
    show_table(table)
