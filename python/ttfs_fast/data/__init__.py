"""Labeled images to train and test on.

:func:`load_digits` is embedded in the package; :func:`load_mnist` and :func:`load_cifar10` read
the published files from a folder, and can fetch them; :func:`load_idx_set` reads Fashion-MNIST,
KMNIST and EMNIST, :func:`load_cifar100` CIFAR-100; :class:`ImageFolder` reads class folders;
:func:`from_dataset` reads any map-style data set of torch.
"""

import os
from typing import Literal, get_args

from ttfs_fast.data.augment import Augmentation
from ttfs_fast.data.cifar import CIFAR10_CLASSES, CifarError, download_cifar10, load_cifar10
from ttfs_fast.data.cifar100 import CIFAR100_CLASSES, CIFAR100_COARSE_CLASSES, load_cifar100
from ttfs_fast.data.digits import load_digits
from ttfs_fast.data.folders import ImageError, ImageFolder, load_images
from ttfs_fast.data.idx import IdxError, read_idx, write_idx
from ttfs_fast.data.idx_sets import IDX_SETS, load_idx_set
from ttfs_fast.data.imageset import ImageSet
from ttfs_fast.data.mapped import ExampleError, from_dataset
from ttfs_fast.data.mnist import download_mnist, load_mnist
from ttfs_fast.data.pictures import find_pictures, read_picture
from ttfs_fast.data.sources import DownloadError, find_data_root
from ttfs_fast.data.stream import StreamedImages

__all__ = [
    "Augmentation",
    "CifarError",
    "DatasetName",
    "DownloadError",
    "ExampleError",
    "IdxError",
    "ImageError",
    "ImageFolder",
    "ImageSet",
    "StreamedImages",
    "download_cifar10",
    "download_mnist",
    "find_data_root",
    "find_pictures",
    "from_dataset",
    "load",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_idx_set",
    "load_images",
    "load_mnist",
    "read_idx",
    "read_picture",
    "write_idx",
]

DatasetName = Literal[
    "mnist",
    "digits",
    "cifar10",
    "folder",
    "fashion-mnist",
    "kmnist",
    "emnist-balanced",
    "emnist-byclass",
    "emnist-bymerge",
    "emnist-digits",
    "emnist-letters",
    "emnist-mnist",
    "cifar100",
    "cifar100-coarse",
]

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "digits": tuple("0123456789"),
    "cifar10": CIFAR10_CLASSES,
    "cifar100": CIFAR100_CLASSES,
    "cifar100-coarse": CIFAR100_COARSE_CLASSES,
    **{name: known.classes for name, known in IDX_SETS.items()},
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
    name : str
        ``"mnist"``; ``"digits"``, which is embedded and needs no ``root``; ``"cifar10"``,
        ``"cifar100"``, ``"cifar100-coarse"``; or one that :func:`load_idx_set` knows, such as
        ``"fashion-mnist"``.
    root, train
        As for :func:`load_mnist` and the others.
    download : bool
        Fetch the files if they are not found; MNIST and CIFAR-10 only.

    Returns
    -------
    images : ImageSet
        Images (N, 1, 28, 28), or (N, 3, 32, 32) of CIFAR-10 and CIFAR-100.

    Raises
    ------
    ValueError
        If there is no data set of that name, or it is to be fetched and cannot be.
    OSError, IdxError, CifarError
        As for :func:`load_mnist`, :func:`load_cifar10` and the others.
    """
    if download and name not in ("mnist", "cifar10", "digits"):
        raise ValueError(
            f"{name} is not fetched: put its published files into a folder and give that as root"
        )
    if name == "mnist":
        return load_mnist(root, train, download)
    if name == "cifar10":
        return load_cifar10(root, train, download)
    if name in IDX_SETS:
        return load_idx_set(name, root, train)
    if name in ("cifar100", "cifar100-coarse"):
        return load_cifar100(root, train, coarse=name == "cifar100-coarse")
    if name == "digits":
        return load_digits(train)
    if name == "folder":
        raise ValueError(
            "load does not read class folders; use load_images(ImageFolder(root, split), "
            "size=...), or StreamedImages, which reads them as they are needed"
        )
    names = ", ".join(map(repr, get_args(DatasetName)))
    raise ValueError(f"there is no data set {name!r}; known are {names}")
