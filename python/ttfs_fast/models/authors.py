"""The weights that the paper's authors published, as arrays of numpy."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ttfs_fast._untrusted import read_npy
from ttfs_fast.encoding import Encoding

AUTHORS_FILES = ("weight_scnn1.npy", "weight_scnn2.npy", "weight_scnn3.npy")
"""Of their network for MNIST."""
AUTHORS_CIFAR_FILES = tuple(f"weight_CFAR{number}.npy" for number in range(1, 6))
"""Of their small network for CIFAR-10."""
AUTHORS_CIFAR_ENCODING = Encoding(3.0, "dark-first")
"""t = 3 p, as their code encodes CIFAR-10."""
AUTHORS_LATEST = math.log(1e5)
"""In the authors' networks a spike later than z = 1e5 counts as no spike."""

Shape = tuple[int, int, int, int]
"""Rows, columns and channels of what a neuron sees, and the number of neurons (or channels)."""

MNIST_SHAPES: dict[str, Shape] = {
    "conv1": (5, 5, 1, 32),
    "conv2": (5, 5, 32, 16),
    "fc": (7, 7, 16, 10),
}
CIFAR_SHAPES: dict[str, Shape] = {
    "conv1": (5, 5, 3, 64),
    "conv2": (5, 5, 64, 32),
    "conv3": (5, 5, 32, 16),
    "fc1": (4, 4, 16, 64),
    "fc2": (1, 1, 64, 10),
}


def read_authors(
    folder: Path, files: tuple[str, ...], shapes: Mapping[str, Shape]
) -> dict[str, Tensor]:
    """A network's ``state_dict`` from the authors' arrays of shape (inputs + 1, outputs).

    The last row is the bias neuron. A convolution's inputs are ordered (kernel row, kernel column,
    channel), those of a fully connected layer behind an image (row, column, channel).

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing, or does not hold the array that the layer needs; names it.
    """
    state = {}
    for file, (layer, shape) in zip(files, shapes.items(), strict=True):
        path = folder / file
        try:
            array = read_npy(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} is missing; the folder must hold {', '.join(files)}"
            ) from error
        expected = (math.prod(shape[:3]) + 1, shape[3])
        if array.shape != expected or array.dtype.kind != "f":
            raise ValueError(
                f"{path} holds a {array.dtype} array of shape {array.shape}; "
                f"expected floats of shape {expected}"
            )
        weight = torch.from_numpy(array[:-1].astype(np.float32)).reshape(shape).permute(3, 2, 0, 1)
        connected = layer.startswith("fc")
        state[f"{layer}.weight"] = (weight.flatten(1) if connected else weight).contiguous()
        state[f"{layer}.bias"] = torch.from_numpy(array[-1].astype(np.float32))
    return state
