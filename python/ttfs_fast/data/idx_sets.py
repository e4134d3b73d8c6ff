"""Fashion-MNIST, KMNIST and EMNIST, from the IDX files that they are published as."""

import os
import string
from dataclasses import dataclass

import numpy as np

from ttfs_fast.data.idx import IdxError, read_idx
from ttfs_fast.data.imageset import ImageSet
from ttfs_fast.data.mnist import file_variants
from ttfs_fast.data.sources import DATA_ROOT_VARIABLE, data_folders, places

_DIGITS = tuple(string.digits)
_CAPITALS = tuple(string.ascii_uppercase)
# EMNIST's 47 classes: lower-case letters that look like their capitals count as these.
_MERGED = (*_DIGITS, *_CAPITALS, *"abdefghnqrt")


@dataclass(frozen=True)
class _IdxSet:
    """A data set of the format of MNIST.

    Attributes
    ----------
    title : str
        What it is called.
    classes : tuple of str
        Their names.
    folders : tuple of str
        Subfolders in which its files lie.
    prefix : str
        What the names of its files begin with.
    first_label : int
        The label of the first class.
    transposed : bool
        Whether rows and columns are exchanged in its files.
    """

    title: str
    classes: tuple[str, ...]
    folders: tuple[str, ...]
    prefix: str = ""
    first_label: int = 0
    transposed: bool = False


def _emnist(part: str, classes: tuple[str, ...], first_label: int = 0) -> _IdxSet:
    folders = ("emnist", "emnist/gzip", "EMNIST/raw")
    return _IdxSet(f"EMNIST {part}", classes, folders, f"emnist-{part}-", first_label, True)


IDX_SETS = {
    "fashion-mnist": _IdxSet(
        "Fashion-MNIST",
        (
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        ("fashion-mnist", "FashionMNIST/raw"),
    ),
    "kmnist": _IdxSet(
        "KMNIST",
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        ("kmnist", "KMNIST/raw"),
    ),
    "emnist-balanced": _emnist("balanced", _MERGED),
    "emnist-byclass": _emnist("byclass", (*_DIGITS, *_CAPITALS, *string.ascii_lowercase)),
    "emnist-bymerge": _emnist("bymerge", _MERGED),
    "emnist-digits": _emnist("digits", _DIGITS),
    "emnist-letters": _emnist("letters", _CAPITALS, 1),
    "emnist-mnist": _emnist("mnist", _DIGITS),
}
"""By the names under which :func:`ttfs_fast.data.load` knows them."""


def load_idx_set(
    name: str, root: str | os.PathLike[str] | None = None, train: bool = True
) -> ImageSet:
    """Load Fashion-MNIST, KMNIST or a part of EMNIST.

    Parameters
    ----------
    name : str
        ``"fashion-mnist"``, ``"kmnist"``, or ``"emnist-"`` and the part: balanced, byclass,
        bymerge, digits, letters or mnist.
    root : path, optional
        Folder in which a folder of that name holds the published IDX files (``fashion-mnist``,
        ``kmnist``, ``emnist``; also as torchvision lays them out, ``FashionMNIST/raw``), or that
        folder itself. By default TTFS_FAST_DATA, and then the user's cache folder.
    train : bool
        The training or the test images.

    Returns
    -------
    images : ImageSet
        Images (N, 1, 28, 28), bright on dark. EMNIST's, which are transposed in the files, stand
        upright, and the letters' labels count from 0.

    Raises
    ------
    ValueError
        If there is no such data set.
    FileNotFoundError
        If the files are not found; says where it looked.
    IdxError
        If a file is damaged or is not what its name says; names the file.

    Notes
    -----
    H. Xiao and others, arXiv 1708.07747; T. Clanuwat and others, arXiv 1812.01718; G. Cohen and
    others, arXiv 1702.05373.
    """
    if name not in IDX_SETS:
        raise ValueError(f"there is no data set {name!r}; choose one of {', '.join(IDX_SETS)}")
    known = IDX_SETS[name]
    bases = data_folders(root)
    split = "train" if train else ("test" if known.prefix else "t10k")
    wanted = [
        f"{known.prefix}{split}-images-idx3-ubyte",
        f"{known.prefix}{split}-labels-idx1-ubyte",
    ]
    folders = [base / folder for base in bases for folder in known.folders]
    # A folder that is given may be the set's own; one of another name may hold MNIST's files.
    own = {folder.split("/")[0] for folder in known.folders}
    folders += [
        b for b in bases if known.prefix or own & {(real := b.absolute()).name, real.parent.name}
    ]
    for folder in folders:
        found = [next((p for p in file_variants(folder, n) if p.is_file()), None) for n in wanted]
        if found[0] is not None and found[1] is not None:
            break
    else:
        raise FileNotFoundError(
            f"{known.title}'s {wanted[0]} and {wanted[1]} (with or without .gz) were not found; "
            f"looked in {places(bases)}, each with its subfolders {', '.join(known.folders)}. Put "
            f"the published files into such a folder, and pass the one that holds it as root or "
            f"set {DATA_ROOT_VARIABLE} to it; they are not fetched"
        )
    pixels, labels = read_idx(found[0]), read_idx(found[1])
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != (28, 28):
        raise IdxError(
            f"{found[0]}: holds {pixels.dtype} values of shape {pixels.shape}; {known.title} has "
            "uint8 images of 28 x 28"
        )
    if labels.dtype != np.uint8 or labels.shape != pixels.shape[:1]:
        raise IdxError(
            f"{found[1]}: holds {labels.dtype} values of shape {labels.shape} for the "
            f"{len(pixels)} images of {found[0]}"
        )
    numbers = labels.astype(np.int64) - known.first_label
    last = len(known.classes) - 1
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= last:
        raise IdxError(
            f"{found[1]}: holds the labels {labels.min()} to {labels.max()}; those of "
            f"{known.title} are {known.first_label}..{last + known.first_label}"
        )
    if known.transposed:
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 1))
    title = f"{known.title} ({'train' if train else 'test'})"
    return ImageSet(pixels[:, None], numbers, title, known.classes)
