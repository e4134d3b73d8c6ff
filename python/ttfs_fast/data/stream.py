"""Images read from disk while the network trains, by worker processes."""

import multiprocessing
import multiprocessing.process
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ttfs_fast.data.augment import Augmentation
from ttfs_fast.data.folders import (
    Corrupt,
    ImageError,
    ImageFolder,
    center_square,
    check_classes,
    check_corrupt,
)

WAIT = 300.0
"""Timeout in seconds for a worker that delivers nothing."""

GUARD = 'if __name__ == "__main__":'


@dataclass(frozen=True)
class _Broken:
    """An image that cannot be read, and the error."""

    index: int
    error: str


Item = tuple[Tensor, int] | _Broken


def refuse_in_starting_worker() -> None:
    """Raise an error in a worker process that runs the work of its script while it starts.

    Raises
    ------
    RuntimeError
        If this process has been started to read images and is still importing the script.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        raise RuntimeError(
            "this process was started to read images, and on its way there it runs the script "
            f"that started it again: put what the script does under {GUARD}"
        )


class StreamedImages:
    """Batches of an image folder, decoded and cut by worker processes.

    Worker processes start afresh (not as copies of this process, whose threads and locks a copy
    would inherit), compute with one thread each, and are given up with an error if they die or
    deliver nothing for some minutes. What an image looks like depends on the seed, the
    epoch and its index alone, so any number of workers gives the same batches.

    Parameters
    ----------
    folder : ImageFolder
        The images.
    batch_size : int
        Images in a batch; the last batch of an epoch may hold fewer.
    size : int
        Height and width that the images are brought to: the middle square, scaled.
    augmentation : Augmentation, optional
        Random change of each image, for training, with results of this size. It gets the scaled
        square; one with a ``resized_crop`` gets the whole image, which it cuts and scales itself.
    shuffle : bool
        A new order in each epoch.
    seed : int
        Decides order and changes.
    workers : int
        Processes that read; 0 reads in this one.
    corrupt : {"refuse", "skip"}
        What to do about an image that cannot be read: raise, or leave it out and count it.
    rank, ranks : int
        Of several processes that train together, which one this is: each takes its share of every
        batch.

    Attributes
    ----------
    folder : ImageFolder
        The images.
    name : str
        Where they are, for people.
    classes : tuple of str
        Names of the classes.
    images : int
        Images of the folder, unreadable ones too.
    batch_size, size : int
        As given.
    skipped : list of str
        Images left out so far, with what was wrong with each.

    Raises
    ------
    ValueError
        If a number is out of range, or the augmentation gives images of another size.
    """

    def __init__(
        self,
        folder: ImageFolder,
        batch_size: int,
        size: int,
        *,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        corrupt: Corrupt = "refuse",
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_corrupt(corrupt)
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank must be 0..{ranks - 1}; got {rank}")
        if augmentation is not None and augmentation.size != (size, size):
            raise ValueError(
                f"the augmentation must give images of {(size, size)}, as size says; it gives "
                f"{augmentation.size}"
            )
        self.name = f"{folder.path.name}{'/' + folder.split if folder.split else ''}"
        self.classes, self.images = folder.classes, len(folder)
        self.batch_size, self.size = batch_size, size
        self.folder = folder
        self.skipped: list[str] = []
        self._broken: set[int] = set()
        self._open = False  # whether a pass is under way
        self._items = _Items(folder, size, augmentation, seed, corrupt == "skip")
        self._order = _Order(len(folder), batch_size, shuffle, seed, rank, ranks)
        self._seen: set[int] = set()
        worker_settings: dict[str, Any] = {}
        if workers:
            refuse_in_starting_worker()
            # Not "fork": a copied process inherits locks that other threads hold at that moment.
            # Not "forkserver": torch notices at once only its own children's death.
            worker_settings = {
                "multiprocessing_context": multiprocessing.get_context("spawn"),
                "persistent_workers": True,
                "prefetch_factor": 2,
                "timeout": WAIT,
            }
        self._loader: DataLoader[Any] = DataLoader(
            self._items,
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=_joined,
            generator=torch.Generator().manual_seed(seed),  # not the global one
            **worker_settings,
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the images.

        Parameters
        ----------
        number : int
            Decides order and changes, together with the seed.

        Yields
        ------
        pixels, labels : Tensor
            Intensities (b, 3, size, size) in [0, 1], of what was torch's default dtype when this
            object was made, and classes (b,), int64. A batch all of whose images are unreadable is
            left out, but with several processes it comes empty.

        Raises
        ------
        ImageError
            If an image cannot be read and ``corrupt`` is ``"refuse"``, or no image of a class can.
        ChildProcessError
            If a worker process dies or hangs.
        RuntimeError
            If another pass is under way, with worker processes, which serve one at a time.
        """
        if self._open and self._loader.num_workers:
            raise RuntimeError(
                f"another pass over the images of {self._items.path} is under way, and its worker "
                "processes serve one at a time: end it first, or use a second StreamedImages"
            )
        self._open = True
        try:
            yield from self._pass(number)
        finally:
            self._open = False

    def _pass(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        self._order.epoch = number
        before = len(self.skipped)
        for pixels, labels, broken in self._batches():
            if broken:
                self.skipped += [item.error for item in broken]
                self._broken |= {item.index for item in broken}
                check_classes(self.folder, self._broken)
            if len(labels):
                yield pixels, labels
            elif self._order.ranks > 1:  # the other processes may have some, and wait for this one
                yield torch.empty(0, 3, self.size, self.size, dtype=self._items.dtype), labels
        new = len(self.skipped) - before
        if new and number not in self._seen:
            self._seen.add(number)
            warnings.warn(
                f"left out {new} images that cannot be read, the first of them: "
                f"{self.skipped[before]}",
                stacklevel=2,
            )

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, list[_Broken]]]:
        try:
            yield from self._loader
        except ImageError:
            raise
        except (RuntimeError, OSError, EOFError) as error:
            # The symptom of a dead worker depends on what it was doing.
            started = self._loader._iterator
            codes = [worker.exitcode for worker in getattr(started, "_workers", ())]
            self._loader._iterator = None  # the next epoch starts new ones
            # Python ends so on an error outside our code, which a worker only meets as it starts.
            if 1 in codes or isinstance(error, BrokenPipeError):
                raise ChildProcessError(
                    f"a process that reads the images of {self._items.path} ended as it started, "
                    "with the error above: each imports the script that starts it, so that what a "
                    f"script does must stand under {GUARD} Or give workers=0, which reads in this "
                    "process"
                ) from error
            raise ChildProcessError(
                f"a process that reads the images of {self._items.path} died or hangs ({error}); "
                "is there enough memory? workers=0 reads in this process"
            ) from error


class _Items(Dataset[Item]):
    """One image at a time; the index contains the epoch."""

    def __init__(
        self,
        folder: ImageFolder,
        size: int,
        augmentation: Augmentation | None,
        seed: int,
        skip: bool,
    ) -> None:
        self._folder, self._size, self._augmentation = folder, size, augmentation
        self._seed, self._skip = seed, skip
        self.path = folder.path
        self.dtype = torch.get_default_dtype()  # worker processes start with another one

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        try:
            image = self._folder.read(index)
        except ImageError as error:
            if self._skip:
                return _Broken(index, str(error))
            raise
        label = int(self._folder.labels[index])
        change = self._augmentation
        if change is None or change.resized_crop is None:
            image = center_square(image, self._size)
        pixels = torch.from_numpy(image).to(self.dtype) / 255
        if change is None:
            return pixels, label
        generator = torch.Generator()
        generator.manual_seed(_mixed(self._seed, epoch, index))
        return change(pixels[None], generator)[0], label


class _Order:
    """Which images stand in which batch."""

    def __init__(
        self, images: int, batch_size: int, shuffle: bool, seed: int, rank: int, ranks: int
    ) -> None:
        self.epoch = 0
        self._images, self._batch_size, self._shuffle = images, batch_size, shuffle
        self._seed, self._rank, self.ranks = seed, rank, ranks

    def __len__(self) -> int:
        return -(-self._images // self._batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch  # another pass may begin before this one ends
        order = torch.arange(self._images)
        if self._shuffle:
            generator = torch.Generator().manual_seed(_mixed(self._seed, epoch, -1))
            order = torch.randperm(self._images, generator=generator)
        for batch in torch.split(order, self._batch_size):
            yield [(epoch, int(i)) for i in batch[self._rank :: self.ranks]]


def _joined(items: list[Item]) -> tuple[Tensor, Tensor, list[_Broken]]:
    good = [item for item in items if not isinstance(item, _Broken)]
    labels = torch.tensor([label for _, label in good], dtype=torch.int64)
    pixels = torch.stack([image for image, _ in good]) if good else torch.empty(0)
    return pixels, labels, [item for item in items if isinstance(item, _Broken)]


def _mixed(seed: int, epoch: int, index: int) -> int:
    """A seed for each image of each epoch (the mixing step of splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03 + index + 1) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) % 2**64
    return (value ^ (value >> 31)) % 2**63
