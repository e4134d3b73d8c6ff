"""Images in class folders, or in a zip file of them: the layout of ImageNet."""

import io
import operator
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ttfs_fast import _terminal
from ttfs_fast._extras import require
from ttfs_fast.data.imageset import ImageSet, class_numbers, listed
from ttfs_fast.data.sources import folder_path

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".webp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
)
LARGEST_FILE = 1 << 28
"""Largest size of an image file, in bytes; larger files count as damaged."""

Corrupt = Literal["skip", "refuse"]


class ImageError(ValueError):
    """An image cannot be read, or a folder is not laid out in classes; names it."""


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """Names of the images in class folders: ``PATH/[SPLIT/]CLASS/NAME.jpg``.

    Every folder there is a class, and every file in it, or below, whose ending is that of an image
    is one of its images; hidden files and folders are passed over. Symbolic links are followed, but
    not to a folder that the link lies in, and each class holds no folder twice.

    The images themselves are read one at a time, when they are asked for. Objects can be sent to
    worker processes; each process opens a zip file for itself.

    It is a map-style data set of torch: ``folder[index]`` is an image, as a uint8 tensor
    (3, height, width), and its class. For ``torch.utils.data.DataLoader`` to make batches of them
    they need one size: give ``size``.

    Parameters
    ----------
    path : path
        A folder, or a zip file with the same layout inside.
    split : str, optional
        Folder inside it that holds the classes, such as ``"train"``.
    classes : sequence of str, optional
        Names that decide the labels, such as those that a network was trained on; not all of them
        need a folder. By default the names of the class folders, sorted.
    size : int, optional
        Pixels of the sides of the images that ``folder[index]`` gives: their middle squares,
        scaled. By default they have their own sizes.

    Attributes
    ----------
    path : Path
        Where the images are.
    classes : tuple of str
        Names of the classes, in the order of the labels.
    files : list of str
        The images in order of their names, class folder by class folder; relative to ``path``.
    labels : ndarray of int64, (N,)
        Class of each.
    split, size
        As given.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or zip file.
    ImageError
        If the zip file is damaged, there are no class folders, or one of them holds no images.
    ValueError
        If a class folder is not among ``classes``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | None = None,
    ) -> None:
        check_size(size)
        self.path = folder_path(path)
        self.split, self.size = split, size
        self._zip: zipfile.ZipFile | None = None
        self._process = -1
        prefix = f"{split.strip('/')}/" if split else ""
        by_class: dict[str, list[str]] = {}
        for name in self._names(prefix):
            first, *rest = parts = name[len(prefix) :].split("/")
            if rest and not _hidden(parts):
                images = by_class.setdefault(first, [])
                if name.lower().endswith(SUFFIXES):
                    images.append(name)
        found = sorted(by_class)
        layout = f"{prefix}CLASS/NAME with an ending of {', '.join(SUFFIXES)}"
        if not found:
            raise ImageError(f"{self.path}: holds no images as {layout}")
        if empty := [name for name in found if not by_class[name]]:
            raise ImageError(
                f"{self.path / prefix}: the class folders {listed(empty)} hold no images as "
                f"{layout}: add some, or remove a folder that is no class"
            )
        self.classes = tuple(found if classes is None else classes)
        self.files = [name for key in found for name in sorted(by_class[key])]
        numbers = class_numbers(found, self.classes, str(self.path / prefix))
        self.labels: NDArray[np.int64] = np.repeat(numbers, [len(by_class[key]) for key in found])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = operator.index(index)
        label = int(self.labels[place])
        image = self.read(place)
        return torch.from_numpy(
            image if self.size is None else center_square(image, self.size)
        ), label

    def read(self, index: int) -> NDArray[np.uint8]:
        """One image as (3, height, width), red, green and blue; gray ones are repeated.

        Raises
        ------
        ImageError
            If it cannot be read.
        """
        name = self.files[index]
        try:
            return decode_picture(self._content(name))
        except Exception as error:  # the decompressors and Pillow have errors of their own
            what = f"{type(error).__name__}: {error}"
            raise ImageError(f"{self.path}: {name} is not a readable image: {what}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_zip": None, "_process": -1}

    def _names(self, prefix: str) -> Iterator[str]:
        """Names of files, and of class folders with a slash at the end."""
        if self.path.is_dir():
            start = self.path / prefix
            if not start.is_dir():
                raise FileNotFoundError(f"there is no folder {start} of images")
            for name in sorted(os.listdir(start)):
                path = start / name
                if _hidden([name]) or path.is_file():
                    continue
                if not path.exists():
                    raise ImageError(f"{path} is a broken link: repair or remove it")
                yield f"{prefix}{name}/"
                yield from _files_below(path, f"{prefix}{name}")
            return
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no folder and no zip file of images at {self.path}")
        try:
            archive = self._archive()
        except Exception as error:  # of several kinds, for versions and codings it does not know
            raise ImageError(f"{self.path} is not a readable zip file: {error}") from error
        # A name that was written twice counts once, with what was written last.
        yield from (name for name in dict.fromkeys(archive.namelist()) if name.startswith(prefix))

    def _archive(self) -> zipfile.ZipFile:
        """The zip file, opened by this very process: its position in the file is its own."""
        if self._zip is None or self._process != os.getpid():
            self._zip, self._process = zipfile.ZipFile(self.path), os.getpid()
        return self._zip

    def _content(self, name: str) -> bytes:
        if self.path.is_dir():
            path = self.path / name
            size = path.stat().st_size
            if size > LARGEST_FILE:
                raise ValueError(f"it has {size} bytes")
            return path.read_bytes()
        archive = self._archive()
        entry = archive.getinfo(name)
        if entry.file_size > LARGEST_FILE:
            raise ValueError(f"it has {entry.file_size} bytes")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # Others unpack all that they hold, whatever size they say.
            raise ValueError("it is compressed otherwise than by deflate")
        with archive.open(entry) as file:
            return b"".join(iter(lambda: file.read(1 << 16), b""))


def load_images(
    folder: ImageFolder,
    *,
    name: str | None = None,
    size: int | None = None,
    corrupt: Corrupt = "refuse",
    progress: bool = False,
) -> ImageSet:
    """Read all images of a folder into memory.

    Parameters
    ----------
    folder : ImageFolder
        The images.
    name : str, optional
        What the set is called; by default the name of the folder.
    size : int, optional
        Scale the shorter side of each image to this many pixels, and cut out the middle square.
        Without it all images must have one size.
    corrupt : {"refuse", "skip"}
        What to do about an image that cannot be read: raise, or leave it out and warn with a count.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    images : ImageSet
        Images (N, 3, H, W).

    Raises
    ------
    ImageError
        If an image cannot be read, sizes differ, or none of a class is left.
    """
    check_corrupt(corrupt)
    images, kept, skipped = [], [], []
    with _terminal.progress(sys.stderr, show=progress) as bars:
        for index in range(len(folder)):
            try:
                image = folder.read(index)
                images.append(center_square(image, size) if size is not None else image)
                kept.append(index)
            except ImageError as error:
                if corrupt == "refuse":
                    raise
                skipped.append(str(error))
            bars.update(folder.path.name, index + 1, len(folder))
    check_classes(folder, set(range(len(folder))) - set(kept))
    if skipped:
        warnings.warn(
            f"{folder.path}: left out {len(skipped)} of {len(folder)} images that cannot be read, "
            f"the first of them: {skipped[0]}",
            stacklevel=2,
        )
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ImageError(
            f"{folder.path}: its images differ in size, such as {min(shapes)[1:]} and "
            f"{max(shapes)[1:]}; give size= to scale and crop them"
        )
    return ImageSet(np.stack(images), folder.labels[kept], name or folder.path.name, folder.classes)


def center_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square of an image, its shorter side scaled to ``size`` pixels.

    Parameters
    ----------
    image : ndarray of uint8, (3, H, W)
        Red, green and blue.
    size : int
        Pixels of the result's sides.

    Returns
    -------
    ndarray of uint8, (3, size, size)
    """
    check_size(size)
    pillow = require("PIL.Image", "train")
    height, width = image.shape[1:]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    picture = pillow.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    small = picture.resize(
        (size, size), pillow.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.array(np.asarray(small).transpose(2, 0, 1), order="C")


def check_classes(folder: ImageFolder, broken: set[int]) -> None:
    """Raise ImageError if all images of a class are among the broken ones."""
    left = np.bincount(folder.labels, minlength=len(folder.classes))
    gone = np.bincount(folder.labels[sorted(broken)], minlength=len(folder.classes))
    if empty := [folder.classes[i] for i in np.flatnonzero((gone > 0) & (gone == left))]:
        raise ImageError(
            f"{folder.path}: no image of the classes {listed(empty)} can be read: replace them, or "
            "remove the class folders"
        )


def check_size(size: int | None) -> None:
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1; got {size}")


def check_corrupt(corrupt: str) -> None:
    if corrupt not in get_args(Corrupt):
        raise ValueError(f'corrupt must be "skip" or "refuse"; got {corrupt!r}')


def _hidden(parts: Sequence[str]) -> bool:
    """Whether a file is of the kind that archivers add, such as __MACOSX/._name.jpg."""
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def _files_below(folder: Path, name: str) -> Iterator[str]:
    """Names of the files in a class folder and below; ``name`` is that of the folder.

    Links are followed, but none to a folder that it lies in itself, which may hold other classes,
    and no folder is read twice: links in a circle end.
    """
    seen: set[Path] = set()
    left = [(folder, name)]
    while left:
        folder, name = left.pop()
        real, holder = folder.resolve(), folder.parent.resolve()
        if real in seen or real in (holder, *holder.parents):
            continue
        seen.add(real)
        for entry in sorted(os.listdir(folder)):
            if os.path.isdir(folder / entry):
                left.append((folder / entry, f"{name}/{entry}"))
            else:
                yield f"{name}/{entry}"


TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""The transposition that brings each EXIF orientation upright; 1 is upright."""
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC = 0x112, 0x102, 0x106
"""Tags of EXIF and TIFF."""


def decode_picture(content: bytes) -> NDArray[np.uint8]:
    """Red, green and blue of a picture in its correct orientation, (3, height, width).

    Of a file with several pictures it is the first. Alpha is left out.
    """
    pillow = require("PIL.Image", "train")
    with warnings.catch_warnings():
        # Pillow only warns above 89 million pixels, and raises above twice as many.
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # odd metadata, which nothing here needs
        with pillow.open(io.BytesIO(content)) as picture:
            picture.load()
            upright = picture
            if turn := TURNS.get(_orientation(picture)):
                upright = picture.transpose(getattr(pillow.Transpose, turn))
            if picture.mode.startswith("I") or picture.mode == "F":
                pixels = _bytes_of(np.asarray(upright), picture)
            else:
                pixels = np.asarray(upright.convert("RGB"))
    return np.array(pixels.transpose(2, 0, 1), order="C")


def _orientation(picture: Any) -> int:
    try:
        return int(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # metadata that cannot be read turn nothing
        return 1


def _bytes_of(gray: NDArray[Any], picture: Any) -> NDArray[np.uint8]:
    """Gray of more than 8 bits, scaled by its own range, as (height, width, 3)."""
    # Pillow reads 16 bits of a PGM, and older versions those of a PNG, into 32.
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in ("PNG", "PPM")):
        raise ValueError(
            f"its pixels are of mode {picture.mode}, whose range from dark to bright is not known; "
            "convert it to 8 or 16 bits without sign"
        )
    tags = picture.tag_v2 if picture.format == "TIFF" else {}
    largest = 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    scaled = (gray.astype(np.uint32) * 255 + largest // 2) // largest
    if tags.get(PHOTOMETRIC) == 0:  # 0 is white, and Pillow leaves that to its callers
        scaled = 255 - scaled
    return np.repeat(scaled.astype(np.uint8)[:, :, None], 3, axis=2)
