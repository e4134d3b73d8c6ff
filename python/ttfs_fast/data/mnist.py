"""MNIST, from the four IDX files it is published as."""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttfs_fast._files import replace_file
from ttfs_fast.data.idx import IdxError, read_idx
from ttfs_fast.data.imageset import ImageSet
from ttfs_fast.data.sources import (
    DATA_ROOT_VARIABLE,
    DownloadError,
    data_folders,
    download_folder,
    fetch_any,
    places,
)

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_SLACK = 1 << 16  # bytes that gzip may add
_SUBFOLDERS = (".", "mnist", "MNIST/raw")


@dataclass(frozen=True)
class _Source:
    """One of the four files: its name, its size in bytes and its SHA-256, all without gzip.

    The checksum leaves compression out, because mirrors compress again.
    """

    name: str
    dimensions: int
    size: int
    sha256: str


_IMAGES = {
    True: _Source(
        "train-images-idx3-ubyte",
        3,
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    False: _Source(
        "t10k-images-idx3-ubyte",
        3,
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
}
_LABELS = {
    True: _Source(
        "train-labels-idx1-ubyte",
        1,
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    False: _Source(
        "t10k-labels-idx1-ubyte",
        1,
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}


def load_mnist(
    root: str | os.PathLike[str] | None = None, train: bool = True, download: bool = False
) -> ImageSet:
    """Load MNIST's training or test images.

    Parameters
    ----------
    root : path, optional
        Folder with the IDX files: ``root``, ``root/mnist`` or ``root/MNIST/raw``. Without it the
        same are looked for within TTFS_FAST_DATA and within the user's cache folder. File names
        are the published ones, with or without ``.gz``, also with a dot before ``idx``.
    train : bool
        The 60,000 training images, or the 10,000 test images.
    download : bool
        Fetch the files if they are not found; see :func:`download_mnist`.

    Returns
    -------
    mnist : ImageSet
        Images (N, 1, 28, 28), digits bright on dark; the ten classes "0" to "9".

    Raises
    ------
    FileNotFoundError
        If the files are not found and ``download`` is false, or there is no folder ``root``; says
        where it looked.
    DownloadError
        As for :func:`download_mnist`.
    IdxError
        If a file is damaged or is not what its name says; names the file.
    """
    bases = data_folders(root, download=download)
    sources = (_IMAGES[train], _LABELS[train])
    found = _find(sources, bases)
    if found is None and download:
        download_mnist(root, train=train, mirrors=MIRRORS)
        found = _find(sources, bases)
    if found is None:
        raise FileNotFoundError(
            f"MNIST's {sources[0].name} and {sources[1].name} (with or without .gz) were not "
            f"found; looked in {places(bases)}, each with its subfolders mnist and "
            "MNIST/raw. Pass download=True to fetch them, or put the files into a folder and pass "
            f"it as root or set {DATA_ROOT_VARIABLE} to it. The digits data set needs no files."
        )
    images = _values(found[0], sources[0])
    labels = _values(found[1], sources[1])
    if len(images) != len(labels):
        raise IdxError(
            f"{found[1]}: holds {len(labels)} labels for the {len(images)} images of {found[0]}"
        )
    if len(labels) and labels.max() > 9:
        raise IdxError(f"{found[1]}: holds the label {labels.max()}; digits are 0..9")
    name = f"MNIST ({'train' if train else 'test'})"
    return ImageSet(images[:, None], labels.astype(np.int64), name, tuple("0123456789"))


def download_mnist(
    root: str | os.PathLike[str] | None = None,
    *,
    train: bool | None = None,
    mirrors: Sequence[str] = MIRRORS,
) -> Path:
    """Fetch MNIST's files, with a progress bar on standard error, and check their content.

    A file appears under its name only once it is whole and its SHA-256 is right. Files that are
    there already are kept.

    Parameters
    ----------
    root : path, optional
        The files go to ``root/mnist``; by default within TTFS_FAST_DATA, or else within the
        user's cache folder ($XDG_CACHE_HOME/ttfs_fast, usually ~/.cache/ttfs_fast).
    train : bool, optional
        Only the training or only the test files; both by default.
    mirrors : sequence of str
        Addresses that the file names are appended to, tried in turn.

    Returns
    -------
    folder : Path
        Where the files are.

    Raises
    ------
    DownloadError
        If a file cannot be had from any mirror, or cannot be written; says what was tried and
        what to do.
    """
    folder = download_folder(root) / "mnist"
    splits = (True, False) if train is None else (train,)
    try:
        for source in (files[split] for split in splits for files in (_IMAGES, _LABELS)):
            target = folder / f"{source.name}.gz"
            if not target.exists():
                _fetch(source, target, mirrors)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"MNIST cannot be written to {folder} ({error}); pass a folder that can be written to "
            "as root"
        ) from error
    return folder


def _find(sources: Sequence[_Source], bases: Sequence[Path]) -> list[Path] | None:
    """The first folder's files, one for each source: images and labels never mix folders."""
    for folder in (base / subfolder for base in bases for subfolder in _SUBFOLDERS):
        paths = [
            next((path for path in file_variants(folder, source.name) if path.is_file()), None)
            for source in sources
        ]
        if None not in paths:
            return [path for path in paths if path is not None]
    return None


def file_variants(folder: Path, name: str) -> list[Path]:
    """The paths that an IDX file of this published name may have in a folder."""
    names = (name, name.replace("-idx", ".idx"))
    return [folder / (name + suffix) for name in names for suffix in ("", ".gz")]


def _values(path: Path, source: _Source) -> NDArray[np.uint8]:
    values = read_idx(path)
    if values.dtype != np.uint8 or values.ndim != source.dimensions:
        raise IdxError(
            f"{path}: holds {values.dtype} values of shape {values.shape}; expected are uint8 "
            f"values of {source.dimensions} dimension{'s' if source.dimensions > 1 else ''}"
        )
    return values


def _fetch(source: _Source, target: Path, mirrors: Sequence[str]) -> None:
    urls = [f"{mirror.rstrip('/')}/{target.name}" for mirror in mirrors]
    check, what = partial(_check, source=source), f"MNIST's {target.name}"
    content = fetch_any(urls, source.size + _SLACK, check, what, target.parent)
    replace_file(target, content)


def _check(content: bytes, source: _Source) -> None:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(source.size + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"sent damaged gzip data: {error}") from error
    digest = hashlib.sha256(unpacked).hexdigest()
    if digest != source.sha256:
        raise ValueError(f"SHA-256 without gzip is {digest}, not {source.sha256}")
