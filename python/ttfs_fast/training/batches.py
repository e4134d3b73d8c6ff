"""Batches of encoded images, from a data set held in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Polarity, encode
from ttfs_fast.training.augment import distort

CHUNK_IMAGES = 1000
"""Images encoded at a time: few torch calls a batch, and a few MB of memory."""


@dataclass(frozen=True)
class Chunk:
    """Some hundred images of an epoch, encoded together.

    Attributes
    ----------
    labels : int64 Tensor, shape (n,)
        Classes of the images, in the order of the batches.
    batches : list of (Tensor, Tensor)
        Spike values, float32 of shape (b, C, H, W), and labels, shape (b,), of each batch.
    """

    labels: Tensor
    batches: list[tuple[Tensor, Tensor]]


class EpochBatches:
    """Shuffled, distorted and jittered batches of a data set, by one explicit generator.

    Parameters
    ----------
    images : ImageSet
        The data set; it stays in memory as bytes.
    batch_size : int
        Images in a batch; the last batch of an epoch may hold fewer.
    generator : torch.Generator
        Source of the order, the distortions and the noise. Its state decides the next epoch.
    alpha, polarity, jitter
        As in `ttfs_fast.encoding.encode`.
    distortion : mapping of str to float
        Limits for `ttfs_fast.training.augment.distort`, by its parameters' names. If all are 0,
        the images stay as they are.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        generator: torch.Generator,
        *,
        alpha: float = 3.0,
        polarity: Polarity = "bright-first",
        jitter: float = 0.0,
        distortion: Mapping[str, float] | None = None,
    ) -> None:
        self._images = images.images_as_tensor()
        self._labels = images.labels_as_tensor()
        self._batch_size = batch_size
        self._generator = generator
        self._alpha = alpha
        self._polarity = polarity
        self._jitter = jitter
        self._distortion = dict(distortion or {})

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._labels) // self._batch_size)

    @property
    def images(self) -> int:
        """Images in an epoch."""
        return len(self._labels)

    def epoch(self) -> Iterator[Chunk]:
        """Yield one epoch: every image once, in a new order."""
        order = torch.randperm(len(self._labels), generator=self._generator)
        whole_batches = max(1, CHUNK_IMAGES // self._batch_size) * self._batch_size
        for index in torch.split(order, whole_batches):
            pixels = self._images.index_select(0, index)
            if any(self._distortion.values()):
                pixels = distort(pixels, self._generator, **self._distortion)
            values = encode(
                pixels,
                alpha=self._alpha,
                polarity=self._polarity,
                jitter=self._jitter,
                generator=self._generator,
            )
            labels = self._labels.index_select(0, index)
            batches = zip(
                torch.split(values, self._batch_size),
                torch.split(labels, self._batch_size),
                strict=True,
            )
            yield Chunk(labels, list(batches))
