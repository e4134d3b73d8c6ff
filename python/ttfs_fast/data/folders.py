"""Images in class folders, or in a zip file of them: the layout of ImageNet."""

import io
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ttfs_fast._extras import require
from ttfs_fast.data.imageset import ImageSet

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LARGEST_FILE = 1 << 28
"""Bytes of one image file beyond which it is taken for damaged."""

Corrupt = Literal["skip", "refuse"]


class ImageError(ValueError):
    """An image cannot be read, or a folder is not laid out in classes; names it."""


class ImageFolder:
    """Names of the images in class folders: ``PATH/[SPLIT/]CLASS/NAME.jpg``.

    The images themselves are read one at a time, when they are asked for. Objects can be sent to
    worker processes; each process opens a zip file for itself.

    Parameters
    ----------
    path : path
        A folder, or a zip file with the same layout inside.
    split : str, optional
        Folder inside it that holds the classes, such as ``"train"``.

    Attributes
    ----------
    path : Path
        Where the images are.
    classes : tuple of str
        Names of the class folders, sorted.
    files : list of str
        The images in order of their names, class by class; relative to ``path``.
    labels : ndarray of int64, (N,)
        Class of each.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or zip file.
    ImageError
        If the zip file is damaged, or there are no images in class folders.
    """

    def __init__(self, path: str | os.PathLike[str], split: str | None = None) -> None:
        self.path = Path(path).expanduser()
        self.split = split
        self._zip: zipfile.ZipFile | None = None
        self._process = -1
        prefix = f"{split.strip('/')}/" if split else ""
        by_class: dict[str, list[str]] = {}
        for name in self._names(prefix):
            parts = name[len(prefix) :].split("/")
            if len(parts) >= 2 and name.lower().endswith(SUFFIXES) and not _hidden(parts):
                by_class.setdefault(parts[0], []).append(name)
        if not by_class:
            raise ImageError(
                f"{self.path}: holds no images as {prefix}CLASS/NAME with an ending of "
                f"{', '.join(SUFFIXES)}"
            )
        self.classes = tuple(sorted(by_class))
        self.files = [name for key in self.classes for name in sorted(by_class[key])]
        counts = [len(by_class[key]) for key in self.classes]
        self.labels: NDArray[np.int64] = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> NDArray[np.uint8]:
        """One image as (3, height, width), red, green and blue; grey ones are repeated.

        Raises
        ------
        ImageError
            If it cannot be read.
        """
        name = self.files[index]
        try:
            return _decode(self._content(name))
        except Exception as error:  # the decompressors and Pillow have errors of their own
            what = f"{type(error).__name__}: {error}"
            raise ImageError(f"{self.path}: {name} is not a readable image: {what}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_zip": None, "_process": -1}

    def _names(self, prefix: str) -> Iterator[str]:
        if self.path.is_dir():
            start = self.path / prefix
            if not start.is_dir():
                raise FileNotFoundError(f"there is no folder {start} of images")
            for folder, folders, names in os.walk(start):
                folders.sort()
                where = Path(folder).relative_to(self.path)
                yield from ((where / name).as_posix() for name in names)
            return
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no folder and no zip file of images at {self.path}")
        try:
            archive = self._archive()
        except Exception as error:  # of several kinds, for versions and codings it does not know
            raise ImageError(f"{self.path} is not a readable zip file: {error}") from error
        yield from (name for name in archive.namelist() if name.startswith(prefix))

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
        size = archive.getinfo(name).file_size
        if size > LARGEST_FILE:
            raise ValueError(f"it has {size} bytes")
        return archive.read(name)


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
        If an image cannot be read, sizes differ, or none is left.
    """
    check_corrupt(corrupt)
    images, labels, skipped = [], [], []
    with _bar(len(folder), folder.path.name, show=progress) as advance:
        for index, label in enumerate(folder.labels):
            try:
                image = folder.read(index)
                images.append(centre_square(image, size) if size is not None else image)
                labels.append(label)
            except ImageError as error:
                if corrupt == "refuse":
                    raise
                skipped.append(str(error))
            advance()
    if skipped:
        warnings.warn(
            f"{folder.path}: left out {len(skipped)} of {len(folder)} images that cannot be read, "
            f"the first of them: {skipped[0]}",
            stacklevel=2,
        )
    if not images:
        raise ImageError(f"{folder.path}: none of its {len(folder)} images can be read")
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise ImageError(
            f"{folder.path}: its images differ in size, such as {min(shapes)[1:]} and "
            f"{max(shapes)[1:]}; give size= to scale and crop them"
        )
    return ImageSet(
        np.stack(images), np.array(labels, np.int64), name or folder.path.name, folder.classes
    )


def centre_square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
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
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}")
    pillow = require("PIL.Image", "train")
    height, width = image.shape[1:]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    picture = pillow.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    small = picture.resize(
        (size, size), pillow.Resampling.BILINEAR, box=(left, top, left + side, top + side)
    )
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def check_corrupt(corrupt: str) -> None:
    if corrupt not in get_args(Corrupt):
        raise ValueError(f'corrupt must be "skip" or "refuse"; got {corrupt!r}')


def _hidden(parts: list[str]) -> bool:
    """Whether a file is of the kind that archivers add, such as __MACOSX/._name.jpg."""
    return any(part.startswith((".", "__MACOSX")) for part in parts)


def _decode(content: bytes) -> NDArray[np.uint8]:
    pillow = require("PIL.Image", "train")
    with warnings.catch_warnings():
        # Pillow only warns above 89 million pixels, and raises above twice as many.
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # odd metadata, which nothing here reads
        with pillow.open(io.BytesIO(content)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class _bar:
    """A progress bar of images on standard error, if rich is installed."""

    def __init__(self, total: int, title: str, *, show: bool) -> None:
        self._progress: Any = None
        if show:
            rich = require("rich.progress", "train")
            console = require("rich.console", "train").Console(stderr=True)
            self._progress = rich.Progress(console=console, transient=True)
            self._task = self._progress.add_task(title, total=total)

    def __enter__(self) -> Any:
        if self._progress is None:
            return lambda: None
        self._progress.start()
        return lambda: self._progress.advance(self._task)

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()
