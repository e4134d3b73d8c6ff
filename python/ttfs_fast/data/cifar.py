"""CIFAR-10, from its binary format or from class folders of images."""

import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttfs_fast._files import replace_file
from ttfs_fast.data.folders import ImageFolder, load_images
from ttfs_fast.data.imageset import ImageSet
from ttfs_fast.data.sources import (
    DATA_ROOT_VARIABLE,
    DownloadError,
    data_folders,
    download_folder,
    fetch_any,
    places,
)

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
ARCHIVES = ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",)
ARCHIVE_SIZE = 170_052_171
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
IMAGES_ZIP = "cifar10-images.zip"

_FILES = {
    True: tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    False: ("test_batch.bin",),
}
_NAMES = "batches.meta.txt"
_SUBFOLDERS = (".", "cifar10", "cifar-10-batches-bin")
_RECORD = 1 + 3 * 32 * 32


class CifarError(ValueError):
    """A file is not in CIFAR-10's binary format."""


def load_cifar10(
    root: str | os.PathLike[str] | None = None, train: bool = True, download: bool = False
) -> ImageSet:
    """Load CIFAR-10's training or test images.

    Parameters
    ----------
    root : path, optional
        Folder with the binary files (``data_batch_1.bin`` to ``data_batch_5.bin`` and
        ``test_batch.bin``): ``root``, ``root/cifar10`` or ``root/cifar-10-batches-bin``. Without it
        the same are looked for within TTFS_FAST_DATA and within the user's cache folder. If none of
        these holds them, a file ``cifar10-images.zip`` in ``root``, or in one of these two folders,
        with images as ``train/CLASS/NAME.jpg`` and ``test/CLASS/NAME.jpg``, is read instead; that
        needs Pillow.
    train : bool
        The 50,000 training images, or the 10,000 test images.
    download : bool
        Fetch the binary files if neither is found; see :func:`download_cifar10`.

    Returns
    -------
    cifar : ImageSet
        Images (N, 3, 32, 32), red, green and blue; the ten classes by name.

    Raises
    ------
    FileNotFoundError
        If nothing is found and ``download`` is false, or there is no folder ``root``; says where it
        looked.
    DownloadError
        As for :func:`download_cifar10`.
    CifarError
        If a binary file is damaged or not what its name says; names the file.
    ImageError
        If an image in the zip file cannot be read.
    """
    bases = data_folders(root, download=download)
    found = _find(train, bases)
    packed = next((base / IMAGES_ZIP for base in bases if (base / IMAGES_ZIP).is_file()), None)
    if found is None and packed is None and download:
        download_cifar10(root)
        found = _find(train, bases)
    name = f"CIFAR-10 ({'train' if train else 'test'})"
    if found is not None:
        parts = [_read(path) for path in found]
        images = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
        return ImageSet(images, labels, name, _class_names(found[0].parent))
    if packed is not None:
        folder = ImageFolder(packed, "train" if train else "test")
        if folder.classes != CIFAR10_CLASSES:
            raise CifarError(f"{packed}: holds the classes {folder.classes}, not CIFAR-10's")
        return _shuffled(load_images(folder, name=name, corrupt="refuse"), train)
    raise FileNotFoundError(
        f"CIFAR-10's {', '.join(_FILES[train])} were not found; looked in "
        f"{places(bases)}, each with its subfolders cifar10 and "
        f"cifar-10-batches-bin, and for a {IMAGES_ZIP} there. Pass download=True to fetch them, or "
        f"put the files into a folder and pass it as root or set {DATA_ROOT_VARIABLE} to it"
    )


def download_cifar10(
    root: str | os.PathLike[str] | None = None, *, archives: Sequence[str] = ARCHIVES
) -> Path:
    """Fetch CIFAR-10's binary archive (170 MB), check it, and unpack its files.

    Nothing is unpacked unless the archive's SHA-256 is right; a file appears under its name only
    once it is whole. Files that are there already are kept.

    Parameters
    ----------
    root : path, optional
        The files go to ``root/cifar10``; by default within TTFS_FAST_DATA, or else within the
        user's cache folder.
    archives : sequence of str
        Addresses of the archive, tried in turn.

    Returns
    -------
    folder : Path
        Where the files are.

    Raises
    ------
    DownloadError
        If the archive cannot be had or the files cannot be written; says what was tried and what to
        do.
    """
    folder = download_folder(root) / "cifar10"
    wanted = [*_FILES[True], *_FILES[False], _NAMES]
    missing = [name for name in wanted if not (folder / name).is_file()]
    if not missing:
        return folder
    content = fetch_any(archives, ARCHIVE_SIZE, _check, "CIFAR-10's archive", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            for name in missing:
                member = archive.extractfile(f"cifar-10-batches-bin/{name}")
                if member is None:
                    raise DownloadError(f"the archive of CIFAR-10 holds no file {name}")
                replace_file(folder / name, member.read())
    except DownloadError:
        raise
    except (OSError, KeyError, tarfile.TarError, EOFError, zlib.error) as error:
        raise DownloadError(f"CIFAR-10 cannot be unpacked into {folder} ({error})") from error
    return folder


def _check(content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise ValueError(f"SHA-256 is {digest}, not {ARCHIVE_SHA256}")


def _find(train: bool, bases: Sequence[Path]) -> list[Path] | None:
    for folder in (base / subfolder for base in bases for subfolder in _SUBFOLDERS):
        paths = [folder / name for name in _FILES[train]]
        if all(path.is_file() for path in paths):
            return paths
    return None


def read_records(path: Path, length: int, title: str) -> NDArray[np.uint8]:
    """The records of a binary file, (N, length).

    Raises
    ------
    CifarError
        If it does not hold whole ones.
    """
    size = path.stat().st_size
    if size == 0 or size % length:
        raise CifarError(
            f"{path}: has {size} bytes; {title}'s binary files hold records of {length} bytes, "
            "so it is truncated or something else; fetch it again"
        )
    return np.fromfile(path, np.uint8).reshape(-1, length)


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    records = read_records(path, _RECORD, "CIFAR-10")
    labels = records[:, 0].astype(np.int64)
    if labels.max() > 9:
        raise CifarError(f"{path}: holds the label {labels.max()}; CIFAR-10's are 0..9")
    return records[:, 1:].reshape(-1, 3, 32, 32), labels


def _shuffled(images: ImageSet, train: bool) -> ImageSet:
    """The images of class folders in a fixed random order: the first few are of all classes.

    The same order as that of the binary files which the data set's own conversion script writes.
    """
    generator = np.random.default_rng(0)
    order = generator.permutation(len(images) if train else 50_000)
    if not train:
        order = generator.permutation(len(images))
    return ImageSet(images.images[order], images.labels[order], images.name, images.classes)


def _class_names(folder: Path) -> tuple[str, ...]:
    try:
        names = tuple((folder / _NAMES).read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError):
        return CIFAR10_CLASSES
    return names if len(names) == 10 else CIFAR10_CLASSES
