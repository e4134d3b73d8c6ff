"""``ttfs-fast predict``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttfs_fast.cli._common import (
    Debug,
    Threads,
    app,
    flag,
    friendly_errors,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
        times = [None if c == net.silent else float(np.log(c * net.time_scales[-1])) for c in first]
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
