"""Map-style data sets of torch, read into memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from ttfs_fast.data.imageset import ImageSet

MOST_CLASSES = 1 << 20
"""More classes than this are taken for a mistake, such as numbers of images as labels."""
READ_TWICE = 32
"""Number of images that are read twice, to check that they stay the same."""


class ExampleError(ValueError):
    """An example of a data set is no (image, label) that can be used; names it."""


def from_dataset(
    dataset: Dataset[Any], *, name: str | None = None, classes: Sequence[str] | None = None
) -> ImageSet:
    """Read a map-style data set of torch into memory, each example once.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        ``dataset[index]`` is (image, label) and ``len(dataset)`` their number. An image is a tensor
        or array (C, H, W) or (H, W), uint8 or floating point in [0, 1], which is rounded to the
        nearest of 256 levels, or a picture of Pillow. A label is a whole number from 0.
    name : str, optional
        What the set is called; by default the name of its class.
    classes : sequence of str, optional
        Names of the classes; by default the data set's attribute ``classes``, as those of
        torchvision have it, or else the numbers 0 to the largest label.

    Returns
    -------
    images : ImageSet
        Images (N, C, H, W), all of one size.

    Raises
    ------
    TypeError
        If it is no map-style data set.
    ExampleError
        If an example is something else, images differ in size, or an image is another one each time
        that it is asked for: random changes would be frozen. Give them as settings of training.
    """
    label_of = name or type(dataset).__name__
    if isinstance(dataset, ImageSet):
        return dataset
    if isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    ):
        raise TypeError(
            f"{label_of} must be a map-style data set, with dataset[index] and len(dataset), of "
            "(image, label)"
        )
    count = len(dataset)
    if count == 0:
        raise ExampleError(f"{label_of} holds no images")
    again = set(range(0, count, max(1, count // READ_TWICE)))
    images: NDArray[np.uint8] | None = None
    labels = np.zeros(count, np.int64)
    for index in range(count):
        what = f"{label_of}: example {index}"
        image, labels[index] = _example(dataset[index], what)
        if images is None:
            images = np.empty((count, *image.shape), np.uint8)
        if image.shape != images.shape[1:]:
            raise ExampleError(
                f"{what} has the shape {image.shape}, the first {images.shape[1:]}: give images of "
                "one size"
            )
        images[index] = image
        if index in again and not np.array_equal(_example(dataset[index], what)[0], images[index]):
            raise ExampleError(
                f"{what} is another image each time that it is asked for. Images are read once: "
                "leave random changes to the settings of training, such as crop, hflip, shift"
            )
    assert images is not None
    names = classes if classes is not None else _class_names(dataset)
    if names is None:
        names = [str(number) for number in range(int(labels.max()) + 1)]
    if labels.max() >= len(names):
        raise ExampleError(
            f"{label_of} has the label {labels.max()}, and {len(names)} classes: labels count "
            "from 0"
        )
    return ImageSet(images, labels, label_of, tuple(names))


def _class_names(dataset: Any) -> list[str] | None:
    """The names that a data set, or the one that it is a subset of, has."""
    while True:
        names = getattr(dataset, "classes", None)
        if isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names):
            return list(names)
        if not hasattr(dataset, "dataset"):
            return None
        dataset = dataset.dataset


def _example(example: Any, what: str) -> tuple[NDArray[np.uint8], int]:
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise ExampleError(f"{what} must be (image, label); got {type(example).__name__}")
    image, label = example
    return _image(image, what), _label(label, what)


def _image(image: Any, what: str) -> NDArray[np.uint8]:
    if hasattr(image, "getbands") and hasattr(image, "convert"):  # of Pillow
        if image.mode.startswith(("I", "F")):
            raise ExampleError(
                f"{what}: a picture of mode {image.mode}, whose pixels have more than 8 bits, says "
                "not what is white; give a uint8 array, or floats in [0, 1]"
            )
        grey = len(image.getbands()) == 1 and image.mode in ("1", "L")
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
        pixels = pixels if grey else pixels.transpose(2, 0, 1)
    elif isinstance(image, Tensor):
        plain = image.detach().cpu()
        pixels = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    elif isinstance(image, np.ndarray):
        pixels = image
    else:
        raise ExampleError(
            f"{what}: the image must be a tensor, an array or a picture of Pillow; got "
            f"{type(image).__name__}"
        )
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ExampleError(f"{what}: the image must be (C, H, W) or (H, W); got {image.shape}")
    if pixels.shape[0] > 4 and pixels.shape[2] in (1, 3, 4):
        raise ExampleError(
            f"{what}: the image, {tuple(pixels.shape)}, seems to have its channels last; they must "
            "come first, (C, H, W)"
        )
    if pixels.dtype == np.uint8:
        found: NDArray[np.uint8] = np.ascontiguousarray(pixels)
        return found
    if pixels.dtype.kind != "f":
        raise ExampleError(
            f"{what}: pixels must be uint8, or floating point in [0, 1]; got {pixels.dtype}"
        )
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ExampleError(
            f"{what}: pixels of floating point must lie in [0, 1]; got {pixels.min():g} to "
            f"{pixels.max():g}. Leave normalization out; the setting standardize brings images to "
            "one mean and deviation"
        )
    return np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)


def _label(label: Any, what: str) -> int:
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if (
        isinstance(label, bool)
        or not isinstance(label, int | np.integer)
        or not (0 <= label < MOST_CLASSES)
    ):
        raise ExampleError(
            f"{what}: the label must be a whole number from 0 to {MOST_CLASSES - 1}; got {label!r}"
        )
    return int(label)
