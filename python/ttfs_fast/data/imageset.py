"""Labeled images in memory."""

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

MOST_NAMES = 5
"""Class names that an error message lists."""


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images with the class of each.

    It is a map-style data set of torch: ``images[index]`` is an image, as a uint8 tensor (C, H, W)
    that shares this memory, and its class; ``torch.utils.data.DataLoader`` makes batches of them.

    Attributes
    ----------
    images : ndarray of uint8, (N, C, H, W)
        Pixel intensities, 0 (dark) to 255 (bright).
    labels : ndarray of int64, (N,)
        Index into ``classes``.
    name : str
        What the set is, for people.
    classes : tuple of str
        Name of each class.

    Raises
    ------
    TypeError
        If an array has another dtype.
    ValueError
        If shapes do not fit or a label is not a class.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("images", "labels"):  # a view in another order becomes a copy
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name)))
        if self.images.dtype != np.uint8:
            raise TypeError(f"{self.name}: images must be uint8; got {self.images.dtype}")
        if self.labels.dtype != np.int64:
            raise TypeError(f"{self.name}: labels must be int64; got {self.labels.dtype}")
        if self.images.ndim != 4:
            raise ValueError(
                f"{self.name}: images must be (N, C, H, W); got shape {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"{self.name}: {len(self.images)} images need labels of shape "
                f"({len(self.images)},); got {self.labels.shape}"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(
                f"{self.name}: labels must lie in 0..{len(self.classes) - 1}; got "
                f"{self.labels.min()}..{self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = operator.index(index)
        return torch.from_numpy(self.images[place]), int(self.labels[place])

    def some(self, count: int) -> "ImageSet":
        """A number of images, evenly spaced over all; all, if there are no more.

        The first images of a set that is sorted by class are of one class.
        """
        if count >= len(self):
            return self
        places = np.linspace(0, len(self), count, endpoint=False).astype(np.int64)
        return dataclasses.replace(self, images=self.images[places], labels=self.labels[places])

    def with_classes(self, classes: Sequence[str]) -> "ImageSet":
        """The same images, their classes found by name among others and counted in their order.

        Parameters
        ----------
        classes : sequence of str
            The names, such as those that a network was trained on.

        Returns
        -------
        images : ImageSet

        Raises
        ------
        ValueError
            If a class of this set is not among them; names it.
        """
        numbers = class_numbers(self.classes, classes, self.name)
        return dataclasses.replace(self, labels=numbers[self.labels], classes=tuple(classes))

    def images_as_tensor(self) -> Tensor:
        """The images as a uint8 tensor (N, C, H, W) that shares their memory."""
        return torch.from_numpy(self.images)

    def labels_as_tensor(self) -> Tensor:
        """The labels as an int64 tensor (N,) that shares their memory."""
        return torch.from_numpy(self.labels)


def class_numbers(names: Sequence[str], known: Sequence[str], source: str) -> NDArray[np.int64]:
    """The place of each class name among those that are known; an error names the others."""
    places = {name: place for place, name in enumerate(known)}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise ValueError(
            f"{source}: the classes {listed(unknown)} are not among the {len(known)} that are "
            f"known, {listed(known)}: leave these images out, or take a network that knows them"
        )
    return np.array([places[name] for name in names], np.int64)


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
