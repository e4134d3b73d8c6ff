"""Real handwriting that needs neither a network nor a folder: 1797 digits of 8 x 8 pixels."""

import io
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate, pad

from ttfs_fast.data.idx import read_idx_stream
from ttfs_fast.data.imageset import ImageSet

_TRAIN_COUNT = 1437
_SIZE = 8
_BRIGHTEST = 16


def load_digits(train: bool = True, size: int = 28, margin: int | None = None) -> ImageSet:
    """Load scikit-learn's handwritten digits, scaled up to a network's input.

    Parameters
    ----------
    train : bool
        The first 1437 digits, or the last 360.
    size : int
        Height and width of the images, in pixels; at least 8.
    margin : int, optional
        Dark pixels on each side, within ``size``, which must leave at least 8 x 8 pixels for the
        digit. By default a seventh of ``size``, or less where that leaves too little.

    Returns
    -------
    digits : ImageSet
        Images (N, 1, size, size); the ten classes "0" to "9".

    Raises
    ------
    ValueError
        If ``size`` is below 8 or ``margin`` does not fit.

    Notes
    -----
    Intensities 0..16 become 0..255 and the digit is enlarged with bilinear interpolation. A margin
    of 4 puts it in a box of 20 x 20 pixels within 28 x 28, as MNIST does, and brings the mean
    intensity near MNIST's. ``size=8`` gives the original pixels.

    The split is that of an unshuffled 80 : 20 division, as scikit-learn's users make it. Which of
    its 13 writers wrote which digit is not recorded, but the labels repeat one sequence, as if
    form followed form. Shuffling would put the same hands on both sides: the nearest training
    image then has the right label for about 99 % of the test images, unshuffled for 95.6 %.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, 1998 (CC BY 4.0), of which scikit-learn distributes the test part.
    """
    if size < _SIZE:
        raise ValueError(f"size must be at least {_SIZE}, the size of the originals; got {size}")
    widest = (size - _SIZE) // 2
    if margin is None:
        margin = min(size // 7, widest)
    if not 0 <= margin <= widest:
        raise ValueError(f"margin must be 0 to {widest} for size {size}; got {margin}")
    part = slice(None, _TRAIN_COUNT) if train else slice(_TRAIN_COUNT, None)
    pixels = torch.from_numpy(_embedded("digits-images-idx3-ubyte.gz")[part])
    labels = _embedded("digits-labels-idx1-ubyte.gz")[part].astype(np.int64)
    # float64, so that rounding to whole intensities does not depend on the processor.
    intensity = pixels.unsqueeze(1).double() * (255 / _BRIGHTEST)
    box = size - 2 * margin
    if box != _SIZE:
        intensity = interpolate(intensity, size=(box, box), mode="bilinear", align_corners=False)
    images = pad(intensity.round().to(torch.uint8), (margin,) * 4).numpy()
    return ImageSet(images, labels, "digits", tuple("0123456789"))


def _embedded(name: str) -> NDArray[np.uint8]:
    file = resources.files("ttfs_fast.data") / "embedded" / name
    # A wheel imported from a zip file gives a stream that cannot seek.
    return read_idx_stream(io.BytesIO(file.read_bytes()), name)
