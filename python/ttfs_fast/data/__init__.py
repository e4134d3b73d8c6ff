"""Labeled images to train and test on.

:func:`load_digits` is embedded in the package; :func:`load_mnist` and :func:`load_cifar10` read
the published files from a folder, and can fetch them; :class:`ImageFolder` reads class folders.
"""

import os
from typing import Literal, get_args

from ttfs_fast.data.augment import Augmentation
from ttfs_fast.data.cifar import CIFAR10_CLASSES, CifarError, download_cifar10, load_cifar10
from ttfs_fast.data.digits import load_digits
from ttfs_fast.data.folders import ImageError, ImageFolder, load_images
from ttfs_fast.data.idx import IdxError, read_idx, write_idx
from ttfs_fast.data.imageset import ImageSet
from ttfs_fast.data.mnist import download_mnist, load_mnist
from ttfs_fast.data.sources import DownloadError, find_data_root
from ttfs_fast.data.stream import StreamedImages

__all__ = [
    "Augmentation",
    "CifarError",
    "DatasetName",
    "DownloadError",
    "IdxError",
    "ImageError",
    "ImageFolder",
    "ImageSet",
    "StreamedImages",
    "download_cifar10",
    "download_mnist",
    "find_data_root",
    "load",
    "load_cifar10",
    "load_digits",
    "load_images",
    "load_mnist",
    "read_idx",
    "write_idx",
]

DatasetName = Literal["mnist", "digits", "cifar10", "folder"]

CLASS_NAMES: dict[DatasetName, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "digits": tuple("0123456789"),
    "cifar10": CIFAR10_CLASSES,
}
"""Classes of the data sets whose classes are always the same."""


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    train: bool = True,
    download: bool = False,
) -> ImageSet:
    """Load a data set by its name.

    Parameters
    ----------
    name : {"mnist", "digits", "cifar10"}
        ``"digits"`` is embedded and needs neither ``root`` nor ``download``.
    root, train, download
        As for :func:`load_mnist` and :func:`load_cifar10`.

    Returns
    -------
    images : ImageSet
        Images (N, 1, 28, 28), or (N, 3, 32, 32) of CIFAR-10.

    Raises
    ------
    ValueError
        If there is no data set of that name.
    OSError, IdxError, CifarError
        As for :func:`load_mnist` and :func:`load_cifar10`.
    """
    if name == "mnist":
        return load_mnist(root, train, download)
    if name == "cifar10":
        return load_cifar10(root, train, download)
    if name == "digits":
        return load_digits(train)
    if name == "folder":
        raise ValueError("images in class folders are not loaded whole; use StreamedImages")
    names = ", ".join(map(repr, get_args(DatasetName)))
    raise ValueError(f"there is no data set {name!r}; known are {names}")
