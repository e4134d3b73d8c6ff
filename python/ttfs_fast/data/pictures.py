"""Conversion of single pictures to images for a network."""

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttfs_fast._extras import require
from ttfs_fast.data.folders import LARGEST_FILE, SUFFIXES, ImageError, decode_picture
from ttfs_fast.data.sources import folder_path


def find_pictures(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Find the files of paths, folders and patterns.

    Parameters
    ----------
    paths : iterable of path
        A path that is there means itself; a folder every picture in it and below, in the order of
        their names, hidden ones passed over; another path with ``*``, ``?`` or ``[...]`` the files
        and folders that match, ``**`` those below, too.

    Returns
    -------
    files : list of Path
        In the order of ``paths``; files that are given are not opened yet.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or nothing matches a pattern.
    ImageError
        If a folder holds no picture.
    """
    return [file for path in paths for file in _files(path)]


def read_picture(
    path: str | os.PathLike[str], size: tuple[int, int, int], *, invert: bool = False
) -> NDArray[np.uint8]:
    """A picture as an image of a network's size.

    The picture is decoded as :class:`~ttfs_fast.data.ImageFolder` does it: upright, without alpha.
    For one channel, red, green and blue become (299 R + 587 G + 114 B) / 1000, as in ITU-R BT.601.
    The largest middle piece with the network's aspect ratio is cut out, and scaled by Pillow's
    bilinear filter, which averages over the pixels that it merges. A picture that has the network's
    size already stays as it is.

    Parameters
    ----------
    path : path
        A file of Pillow's: PNG, JPEG and others.
    size : tuple of int
        Channels (1 or 3), rows and columns.
    invert : bool
        Exchange dark and bright: MNIST's digits are bright on dark, scanned ones mostly not.

    Returns
    -------
    image : uint8 array, shape ``size``

    Raises
    ------
    FileNotFoundError, ImportError
        If there is no such file; if Pillow, of the extra ``train``, is not installed.
    ImageError
        If it cannot be read as a picture; names it.
    ValueError
        If the network takes another number of channels.
    """
    channels, height, width = size
    if channels not in (1, 3):
        raise ValueError(
            f"pictures have 1 or 3 channels, and the network takes {channels}: give an array"
        )
    file = Path(path)
    pillow = require("PIL.Image", "train")
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has {file.stat().st_size} bytes")
        pixels = decode_picture(file.read_bytes())
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:  # the decompressors and Pillow have errors of their own
        what = f"{type(error).__name__}: {error}"
        raise ImageError(
            f"{file} is not a readable picture: {what}. Give PNG, JPEG or another format of "
            "Pillow, an IDX file, or a .npy array"
        ) from error
    picture = pillow.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if channels == 1:
        picture = picture.convert("L")
    if picture.size != (width, height):
        scale = min(picture.width / width, picture.height / height)
        left, top = (picture.width - scale * width) / 2, (picture.height - scale * height) / 2
        box = (left, top, left + scale * width, top + scale * height)
        picture = picture.resize((width, height), pillow.Resampling.BILINEAR, box=box)
    image = np.asarray(picture)
    image = image[None] if channels == 1 else image.transpose(2, 0, 1)
    return np.array(255 - image if invert else image, order="C")


def _files(given: str | os.PathLike[str]) -> Iterator[Path]:
    path = folder_path(given)
    if path.is_dir():
        found = [
            Path(folder) / name
            for folder, _, names in os.walk(path)
            for name in names
            if name.lower().endswith(SUFFIXES)
        ]
        found = [p for p in found if not any(q.startswith(".") for q in p.relative_to(path).parts)]
        if not found:
            raise ImageError(
                f"the folder {path} holds no pictures: their names end in {', '.join(SUFFIXES)}"
            )
        yield from sorted(found)
    elif path.exists():
        yield path
    elif any(character in str(path) for character in "*?["):
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise FileNotFoundError(f"no file matches {path}")
        for match in matches:
            if not (os.path.isdir(match) and _has_match_below(match, matches)):
                yield from _files(glob.escape(match) if not os.path.exists(match) else match)
    else:
        raise FileNotFoundError(
            f"there is no file {path}: give pictures, folders of them, patterns such as "
            "'scans/*.png', an IDX file or a .npy array"
        )


def _has_match_below(folder: str, matches: list[str]) -> bool:
    """Whether a pattern matched files of a folder as well, as ** does: they count once."""
    return any(match.startswith(os.path.join(folder, "")) and match != folder for match in matches)
