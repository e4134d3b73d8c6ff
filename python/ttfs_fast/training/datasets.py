"""The images of a configuration, in memory or streamed, and their batches."""

import dataclasses
import hashlib
from typing import Any

import torch
from torch.utils.data import Dataset

from ttfs_fast.data import (
    Augmentation,
    ImageFolder,
    ImageSet,
    StreamedImages,
    from_dataset,
    load,
)
from ttfs_fast.training.batches import EpochBatches, StreamBatches
from ttfs_fast.training.build import ImageShape
from ttfs_fast.training.config import GIVEN, TrainConfig, is_given

DataSet = ImageSet | StreamedImages
OwnData = Dataset[Any] | tuple[Dataset[Any], Dataset[Any]]
"""A map-style data set to train on, or one to train on and one to test on."""


def name_of_data(data: OwnData) -> str:
    """What a configuration calls a data set of the user's."""
    first = data[0] if isinstance(data, tuple) else data
    return f"{GIVEN}{type(first).__module__}.{type(first).__qualname__}"


def load_data(
    config: TrainConfig, rank: int = 0, data: OwnData | None = None
) -> tuple[DataSet, DataSet]:
    """Load the training and test images of a configuration.

    Parameters
    ----------
    config : TrainConfig
        The settings.
    rank : int
        Number of this process among ``config.processes``, for streamed images.
    data : Dataset, or pair of Dataset, optional
        Your own data sets for training and test, instead of the one that ``config`` names.
    """
    if data is not None:
        train_set, test_set = _own_sets(data, config.val_images)
        return _held_out(config, train_set, test_set)
    if is_given(config.dataset):
        raise ValueError(
            f"the data set, {config.dataset.removeprefix(GIVEN)}, was given to train() as an "
            "object, and no name finds it again: give it as data=, or name another with dataset"
        )
    if config.dataset == "folder":
        return _stream(config, rank)
    train_set = load(config.dataset, config.data_root, train=True)
    test_set = None
    if not config.val_images:
        test_set = load(config.dataset, config.data_root, train=False)
    return _held_out(config, train_set, test_set)


def _own_sets(data: OwnData, val_images: int) -> tuple[ImageSet, ImageSet | None]:
    if not isinstance(data, tuple):
        if not val_images:
            raise ValueError(
                "data is one data set, so there is none to test on: give a pair, (train, test), or "
                "hold some of the images out with val_images"
            )
        return from_dataset(data), None
    if len(data) != 2:
        raise ValueError(f"data must be a data set or a pair, (train, test); got {len(data)}")
    train_set, test_set = (from_dataset(each) for each in data)
    if train_set.classes != test_set.classes:
        longer = max(train_set.classes, test_set.classes, key=len)
        numbers = tuple(map(str, range(len(longer))))
        if longer == numbers and all(
            s.classes == numbers[: len(s.classes)] for s in (train_set, test_set)
        ):
            train_set = dataclasses.replace(train_set, classes=numbers)
            test_set = dataclasses.replace(test_set, classes=numbers)
        else:
            test_set = test_set.with_classes(train_set.classes)
    if train_set.images.shape[1:] != test_set.images.shape[1:]:
        raise ValueError(
            f"images to train on are {train_set.images.shape[1:]}, those to test on "
            f"{test_set.images.shape[1:]}: give images of one size"
        )
    return train_set, test_set


def _held_out(
    config: TrainConfig, train_set: ImageSet, test_set: ImageSet | None
) -> tuple[ImageSet, ImageSet]:
    """The training and test images, as many of them as the configuration says."""
    if config.val_images:
        last = len(train_set) - config.val_images
        if last < 1:
            raise ValueError(
                f"val_images must leave at least one of {len(train_set):,} training images; "
                f"got {config.val_images}"
            )
        missing = set(train_set.labels[last:].tolist()) - set(train_set.labels[:last].tolist())
        if missing:
            raise ValueError(
                f"val_images holds the last {config.val_images} images out, and with them all of "
                f"class {train_set.classes[min(missing)]}: shuffle the images first"
            )
        test_set = _part(train_set, slice(last, None))
        train_set = _part(train_set, slice(last))
    assert test_set is not None  # without val_images
    return (
        _part(train_set, slice(config.train_images)),
        _part(test_set, slice(config.test_images)),
    )


def load_in_memory(config: TrainConfig, data: OwnData | None = None) -> tuple[ImageSet, ImageSet]:
    """`load_data` where the images must be in memory; a folder of images is refused."""
    train_set, test_set = load_data(config, data=data)
    if not (isinstance(train_set, ImageSet) and isinstance(test_set, ImageSet)):
        raise ValueError(
            f"dataset {config.dataset} is read as it is needed; this needs a data set in memory, "
            "such as mnist or digits"
        )
    return train_set, test_set


def _stream(config: TrainConfig, rank: int) -> tuple[StreamedImages, StreamedImages]:
    if config.data_root is None:
        raise ValueError("dataset folder needs data_root: the folder or zip file of the images")
    for name in ("val_images", "train_images", "test_images"):
        if getattr(config, name):
            raise ValueError(f"{name} is for data sets in memory; leave it out for a folder")
    train = ImageFolder(config.data_root, "train")
    splits = [train, ImageFolder(config.data_root, "val", train.classes)]
    batch_size = min(config.batch_size, 64)
    return (
        StreamedImages(
            splits[0],
            config.batch_size,
            config.image_size,
            augmentation=augmentation_of(config, (config.image_size, config.image_size)),
            shuffle=True,
            seed=config.seed,
            workers=config.workers,
            corrupt="skip",
            rank=rank,
            ranks=config.processes,
        ),
        StreamedImages(
            splits[1], batch_size, config.image_size, workers=config.workers, corrupt="skip"
        ),
    )


def augmentation_of(config: TrainConfig, size: tuple[int, int]) -> Augmentation | None:
    flip = config.hflip and not config.alternating_hflip
    if not (config.crop or flip or config.resized_crop or config.cutout):
        return None
    piece = (config.resized_crop, 1.0) if config.resized_crop else None
    return Augmentation(
        size,
        crop=config.crop,
        crop_padding=config.crop_padding,
        flip=flip,
        resized_crop=piece,
        cutout=config.cutout,
    )


def make_batches(
    config: TrainConfig, images: DataSet, generator: torch.Generator, rank: int = 0
) -> EpochBatches | StreamBatches:
    """Batches of the training images, changed and encoded as the configuration says.

    Parameters
    ----------
    config : TrainConfig
        The settings.
    images : ImageSet or StreamedImages
        The training images, as `load_data` gives them.
    generator : torch.Generator
        Source of all randomness; for streamed images, of the noise on the spike times only.
    rank : int
        Which of ``config.processes`` this is.
    """
    how: dict[str, Any] = {"encoding": config.encoding, "jitter": config.jitter}
    if isinstance(images, StreamedImages):
        if any(config.distortion.values()):
            raise ValueError(
                f"{', '.join(config.distortion)} are for data sets in memory; for a folder give "
                "resized_crop and flip"
            )
        if config.alternating_hflip:
            raise ValueError("alternating_hflip is for data sets in memory; leave it out")
        return StreamBatches(images, generator, rank=rank, **how)
    shape = image_shape(images)
    return EpochBatches(
        images,
        config.batch_size,
        generator,
        distortion=config.distortion,
        augmentation=augmentation_of(config, (shape.height, shape.width)),
        alternating_hflip=config.seed if config.alternating_hflip else None,
        rank=rank,
        ranks=config.processes,
        **how,
    )


def image_shape(images: DataSet) -> ImageShape:
    """The image shape and classes of a data set, for `make_model`."""
    if isinstance(images, StreamedImages):
        return ImageShape(3, images.size, images.size, len(images.classes))
    channels, height, width = images.images.shape[1:]
    return ImageShape(channels, height, width, len(images.classes))


def check_shape(images: DataSet, shape: ImageShape, network: str) -> None:
    """Raise ValueError if a network, called ``network``, takes images of another shape."""
    found = image_shape(images)
    own, wanted = (f"{s.channels} x {s.height} x {s.width}" for s in (found, shape))
    if own != wanted:
        raise ValueError(
            f"{network} takes images of {wanted} (channels, rows, columns), and those of "
            f"{images.name} have {own}: choose another data set, or another network"
        )


def count(images: DataSet) -> int:
    """Images of a data set; of a folder, unreadable ones too."""
    return images.images if isinstance(images, StreamedImages) else len(images)


def _part(image_set: ImageSet, part: slice) -> ImageSet:
    return dataclasses.replace(
        image_set, images=image_set.images[part], labels=image_set.labels[part]
    )


def digest(*image_sets: DataSet) -> str:
    """A digest of all images and labels; of a folder, of the names."""
    sha = hashlib.sha256()
    for image_set in image_sets:
        if isinstance(image_set, StreamedImages):
            sha.update("\n".join(image_set.folder.files).encode(errors="surrogateescape"))
            continue
        sha.update(image_set.images.data)
        sha.update(image_set.labels.data)
    return sha.hexdigest()
