"""Batches of encoded images, from a data set in memory or streamed from disk."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from ttfs_fast.data import Augmentation, ImageSet, StreamedImages
from ttfs_fast.data.distort import distort
from ttfs_fast.encoding import MNIST_ENCODING, Encoding

CHUNK_IMAGES = 1000
"""Images encoded at a time: few torch calls per batch, and a few MB of memory."""


@dataclass(frozen=True)
class Batch:
    """One process's part of a batch.

    Attributes
    ----------
    values : Tensor, shape (b, C, H, W)
        Spike values, float32. With several processes b may be 0.
    labels : int64 Tensor, shape (b,)
        Classes of the images.
    global_batch_size : int
        Images in the whole batch, of all processes.
    """

    values: Tensor
    labels: Tensor
    global_batch_size: int

    def to(self, device: torch.device) -> "Batch":
        """The same on a device; a copy from pinned memory does not wait."""
        values, labels = (t.to(device, non_blocking=True) for t in (self.values, self.labels))
        return Batch(values, labels, self.global_batch_size)

    def pinned(self) -> "Batch":
        """The same in memory from which a GPU reads by itself."""
        return Batch(self.values.pin_memory(), self.labels.pin_memory(), self.global_batch_size)


@dataclass(frozen=True)
class Chunk:
    """Some hundred images of an epoch, encoded together.

    Attributes
    ----------
    labels : int64 Tensor, shape (n,)
        Classes of the images, in the order of the batches.
    batches : list of Batch
        The batches, whole: none is cut by the end of a chunk.
    """

    labels: Tensor
    batches: list[Batch]

    def to(self, device: torch.device) -> "Chunk":
        """The same on a device."""
        labels = self.labels.to(device, non_blocking=True)
        return Chunk(labels, [batch.to(device) for batch in self.batches])

    def pinned(self) -> "Chunk":
        """The same in memory from which a GPU reads by itself."""
        return Chunk(self.labels.pin_memory(), [batch.pinned() for batch in self.batches])


def on_device(chunks: Iterator[Chunk], device: torch.device) -> Iterator[Chunk]:
    """Chunks of an epoch on the device of the network.

    For a GPU a thread reads, changes and encodes the next chunk while the GPU learns from this one:
    by the CPU, so that images and noise are the same bits on every device.

    Parameters
    ----------
    chunks : iterator of Chunk
        From `EpochBatches.epoch` or `StreamBatches.epoch`.
    device : torch.device
        Where to.
    """
    if device.type != "cuda":
        yield from chunks
        return
    for chunk in one_ahead(chunk.pinned() for chunk in chunks):
        yield chunk.to(device)


def one_ahead(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The same chunks, each made by a thread while the one before it is used.

    The thread draws from torch's global generator inside ``fork_rng``, so the user of the chunks
    must not draw from it at the same time.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ttfs_fast-batches") as thread:
        following = thread.submit(next, chunks, None)
        while (chunk := following.result()) is not None:
            following = thread.submit(next, chunks, None)
            yield chunk


class EpochBatches:
    """Shuffled, augmented and jittered batches of a data set, by one explicit generator.

    Parameters
    ----------
    images : ImageSet
        The data set; it stays in memory as bytes.
    batch_size : int
        Images in a batch; the last batch of an epoch may hold fewer.
    generator : torch.Generator
        Source of the order, the changes and the noise. Its state decides the next epoch.
    encoding : Encoding
        How pixels become spikes, after they were changed.
    jitter : float
        As in `ttfs_fast.encoding.encode`.
    distortion : mapping of str to float
        Limits for `ttfs_fast.data.distort.distort`, by its parameters' names. If all are 0,
        the images stay as they are.
    augmentation : Augmentation, optional
        Random crop and flip, before the distortion.
    alternating_hflip : int, optional
        Seed by which half of the images are chosen. These are mirrored, left to right, in even
        epochs, the others in odd ones. Source: K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a
        single GPU", arXiv 2404.00498, section 3.6.
    rank, ranks : int
        Of several processes that train together, which one this is. All draw the same numbers and
        each keeps its share of every batch.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        generator: torch.Generator,
        *,
        encoding: Encoding = MNIST_ENCODING,
        jitter: float = 0.0,
        distortion: Mapping[str, float] | None = None,
        augmentation: Augmentation | None = None,
        alternating_hflip: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._images = images.images_as_tensor()
        self._labels = images.labels_as_tensor()
        self._batch_size = batch_size
        self._generator = generator
        self._encoding, self._jitter = encoding, jitter
        self._distortion = dict(distortion or {})
        self._augmentation = augmentation
        self._flipped_first: Tensor | None = None
        if alternating_hflip is not None:
            own = torch.Generator().manual_seed(alternating_hflip)
            self._flipped_first = torch.rand(len(self._labels), generator=own) < 0.5
        self._rank, self._ranks = rank, ranks

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._labels) // self._batch_size)

    @property
    def images(self) -> int:
        """Images in an epoch."""
        return len(self._labels)

    def epoch(self, number: int = 0) -> Iterator[Chunk]:
        """Yield one epoch: every image once, in a new order.

        Parameters
        ----------
        number : int
            The epoch, from 0. Only ``alternating_hflip`` depends on it, all else on the generator.
        """
        order = torch.randperm(len(self._labels), generator=self._generator)
        whole_batches = max(1, CHUNK_IMAGES // self._batch_size) * self._batch_size
        for index in torch.split(order, whole_batches):
            pixels = self._images.index_select(0, index)
            if self._flipped_first is not None:
                flipped = self._flipped_first[index] ^ bool(number % 2)
                pixels[flipped] = pixels[flipped].flip(-1)
            if self._augmentation is not None:
                pixels = self._augmentation(pixels, self._generator)
            if any(self._distortion.values()):
                pixels = distort(pixels, self._generator, **self._distortion)
            values = self._encoding(pixels, jitter=self._jitter, generator=self._generator)
            labels = self._labels.index_select(0, index)
            own = slice(self._rank, None, self._ranks)
            batches = [
                Batch(some[own], classes[own], len(classes))
                for some, classes in zip(
                    torch.split(values, self._batch_size),
                    torch.split(labels, self._batch_size),
                    strict=True,
                )
            ]
            yield Chunk(torch.cat([batch.labels for batch in batches]), batches)


class StreamBatches:
    """Batches of images that worker processes read from disk.

    Parameters
    ----------
    stream : StreamedImages
        The images, already changed, of this process's share.
    generator : torch.Generator
        Source of the noise on the spike times.
    rank : int
        This process among those that train together; each has other noise.
    encoding, jitter
        As for `EpochBatches`.
    """

    def __init__(
        self,
        stream: StreamedImages,
        generator: torch.Generator,
        *,
        rank: int = 0,
        encoding: Encoding = MNIST_ENCODING,
        jitter: float = 0.0,
    ) -> None:
        self._stream, self._generator, self._rank = stream, generator, rank
        self._encoding, self._jitter = encoding, jitter

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._stream)

    @property
    def images(self) -> int:
        """Images in an epoch."""
        return self._stream.images

    def epoch(self, number: int = 0) -> Iterator[Chunk]:
        """Yield one epoch; its number decides order and changes of the images."""
        left = self._stream.images
        # The processes see different numbers of images. So that a checkpoint of one generator is
        # right for all of them, an epoch takes one number from it.
        seed = int(torch.randint(2**62, (), generator=self._generator)) + self._rank
        noise = torch.Generator().manual_seed(seed)
        for pixels, labels in self._stream.epoch(number):
            values = self._encoding(pixels, jitter=self._jitter, generator=noise)
            whole = min(left, self._stream.batch_size)
            left -= whole
            yield Chunk(labels, [Batch(values, labels, whole)])
