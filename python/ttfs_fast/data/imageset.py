"""Labelled images in memory."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with the class of each.

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
        If shapes do not fit or a label is no class.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    name: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
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

    def images_as_tensor(self) -> Tensor:
        """The images as a uint8 tensor (N, C, H, W) that shares their memory."""
        return torch.from_numpy(self.images)

    def labels_as_tensor(self) -> Tensor:
        """The labels as an int64 tensor (N,) that shares their memory."""
        return torch.from_numpy(self.labels)
