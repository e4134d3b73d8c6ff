"""Labelled images to train and test on.

:func:`load_digits` is embedded in the package; :func:`load_mnist` reads the published files from
a folder, and can fetch them.
"""

import os
from typing import Literal, get_args

from ttfs_fast.data.digits import load_digits
from ttfs_fast.data.idx import IdxError, read_idx, write_idx
from ttfs_fast.data.imageset import ImageSet
from ttfs_fast.data.mnist import DownloadError, download_mnist, find_data_root, load_mnist

__all__ = [
    "DatasetName",
    "DownloadError",
    "IdxError",
    "ImageSet",
    "download_mnist",
    "find_data_root",
    "load",
    "load_digits",
    "load_mnist",
    "read_idx",
    "write_idx",
]

DatasetName = Literal["mnist", "digits"]


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    train: bool = True,
    download: bool = False,
) -> ImageSet:
    """Load a data set of 28 x 28 images by its name.

    Parameters
    ----------
    name : {"mnist", "digits"}
        ``"digits"`` is embedded and needs neither ``root`` nor ``download``.
    root, train, download
        As for :func:`load_mnist`.

    Returns
    -------
    images : ImageSet
        Images (N, 1, 28, 28).

    Raises
    ------
    ValueError
        If there is no data set of that name.
    OSError, IdxError
        As for :func:`load_mnist`.
    """
    if name == "mnist":
        return load_mnist(root, train, download)
    if name == "digits":
        return load_digits(train)
    names = ", ".join(map(repr, get_args(DatasetName)))
    raise ValueError(f"there is no data set {name!r}; known are {names}")
