"""``ttfs-fast predict``."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttfs_fast.cli._common import (
    WEIGHTS_HELP,
    Debug,
    OwnNetwork,
    Threads,
    app,
    choose_spiking_network,
    flag,
    friendly_errors,
    images_of_network,
    set_threads,
    show_table,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ttfs_fast.analysis.decisions import Decisions

Size = tuple[int, int, int]
ARRAYS = (".npy", ".gz", "-ubyte")
"""Endings of files that hold many images; others may be pictures, or IDX files by their content."""


@app.command()
def predict(
    network: Annotated[
        Path,
        typer.Argument(help=f"The network: {WEIGHTS_HELP}, or an integer network, NAME.ttfs."),
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Pictures (PNG, JPEG, ...), folders of them, patterns in quotes such as "
            "'scans/*.png'; IDX files, gzipped or not, and .npy arrays of uint8 images."
        ),
    ],
    own: OwnNetwork = None,
    invert: Annotated[
        bool,
        flag("--invert", "Exchange dark and bright in pictures: MNIST's are bright on dark."),
    ] = False,
    threads: Threads = None,
    as_json: Annotated[bool, flag("--json", "Print the decisions as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Print what a network decides about pictures: class, time, and the runner-up.

    Example: ttfs-fast predict mnist_scnn scan.png. Pictures are cut to the middle piece of the
    network's aspect ratio and scaled to its size; for one channel they become gray (docs/data.md).
    Times are in units of tau, from the earliest possible spike on. Where no output spikes, there is
    no class.
    """
    with friendly_errors(debug):
        import numpy as np

        from ttfs_fast.data.pictures import find_pictures

        set_threads(threads)
        size, classes, decide = _network(network, own, threads)
        names: list[tuple[str, int | None]] = []
        parts: list[NDArray[np.uint8]] = []
        for file in find_pictures(images):
            for name, index, image in _images(file, size, invert):
                names.append((name, index))
                parts.append(image)
        found = decide(np.concatenate(parts) if parts else np.empty((0, *size), np.uint8))
        rows = list(_rows(names, found, classes))
        if as_json:
            print(json.dumps({"network": str(network), "predictions": rows}, indent=2))
        else:
            _show(rows)


def _network(
    path: Path, own: str | None, threads: int | None
) -> tuple[Size, tuple[str, ...] | None, "Callable[[NDArray[np.uint8]], Decisions]"]:
    """Size of the images, class names, and what decides."""
    from ttfs_fast import analysis, quantization
    from ttfs_fast.horizon import unfold_where_possible_

    if quantization.is_integer_file(path):
        if own is not None:
            raise ValueError("the file of an integer network needs no --model: leave it out")
        net = quantization.load(path)
        return (
            net.input_size,
            net.classes,
            lambda images: quantization.decide(net, images, threads=threads),
        )
    if path.suffix == ".ttfs":
        quantization.load(path)  # says what is wrong with it
    several = sorted(path.glob("*.ttfs")) if path.is_dir() else []
    if several and not list(path.glob("*.safetensors")):
        raise ValueError(
            f"{path} holds integer networks; give one of {', '.join(map(str, several))}"
        )
    model, _, _ = choose_spiking_network(path, own)
    model = unfold_where_possible_(model)  # faster; layers with horizons only
    shape, classes = images_of_network(path)
    size = (shape.channels, shape.height, shape.width)
    return size, classes, lambda images: analysis.decide(model, images)


def _images(
    path: Path, size: Size, invert: bool
) -> "Iterator[tuple[str, int | None, NDArray[np.uint8]]]":
    """Each image of a file as (1, C, H, W), with the file's name and its place in an array."""
    from ttfs_fast.data.idx import is_idx
    from ttfs_fast.data.pictures import read_picture

    with open(path, "rb") as file:
        start = file.read(4)
    if path.name.endswith(ARRAYS) or is_idx(start):
        for index, image in enumerate(read_images(path, size)):
            yield str(path), index, 255 - image[None] if invert else image[None]
    else:
        yield str(path), None, read_picture(path, size, invert=invert)[None]


def _rows(
    names: list[tuple[str, int | None]], found: "Decisions", classes: tuple[str, ...] | None
) -> Iterator[dict[str, Any]]:
    """The JSON values of each image; missing ones are None."""

    def answer(number: int, time: float) -> dict[str, Any] | None:
        if number < 0:
            return None
        name = None if classes is None or number >= len(classes) else classes[number]
        return {"class": number, "name": name, "time": time if math.isfinite(time) else None}

    for place, (file, index) in enumerate(names):
        yield {
            "file": file,
            "index": index,
            "decision": answer(int(found.classes[place]), float(found.times[place])),
            "runner_up": answer(int(found.runners_up[place]), float(found.runner_up_times[place])),
        }


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _show(rows: list[dict[str, Any]]) -> None:
    from ttfs_fast._tables import Column, Table

    def text(answer: dict[str, Any] | None) -> str | None:
        if answer is None:
            return None
        return _printable(str(answer["class"] if answer["name"] is None else answer["name"]))

    def time(answer: dict[str, Any] | None) -> float | None:
        return None if answer is None else answer["time"]

    times = [(time(row["decision"]), time(row["runner_up"])) for row in rows]
    written = f"{{:.{_decimals(times)}f}}".format
    columns = (
        Column("file", numeric=False),
        Column("class", numeric=False, wrap=False),
        Column("time (tau)", written, wrap=False),
        Column("runner-up", numeric=False, wrap=False),
        Column("time (tau)", written, wrap=False),
    )
    cells = [
        (
            _printable(row["file"]) + ("" if row["index"] is None else f" [{row['index']}]"),
            text(row["decision"]),
            first,
            text(row["runner_up"]),
            second,
        )
        for row, (first, second) in zip(rows, times, strict=True)
    ]
    show_table(Table("predictions", f"{len(rows):,} images", columns, cells))


def _decimals(times: list[tuple[float | None, float | None]]) -> int:
    """Decimals that tell each decision's time from the runner-up's: 3 to 9."""
    gaps = [second - first for first, second in times if first is not None and second is not None]
    least = min((gap for gap in gaps if gap > 0), default=1.0)
    return min(max(3, math.ceil(-math.log10(least)) + 1), 9)


def read_images(path: Path, size: Size) -> "NDArray[np.uint8]":
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
