"""Random changes of training images, by kornia, each decided by one explicit generator."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ttfs_fast._extras import require

CropPadding = Literal["black", "reflect"]


class Augmentation:
    """Crops, flips, rescales and erases parts of images at random.

    Parameters
    ----------
    size : pair of int
        Height and width of the result; without ``resized_crop`` also those of the images given.
    crop : int
        Pixels of black that are put around the image before a piece of its own size is cut out at
        random; 0 for none.
    crop_padding : {"black", "reflect"}
        What is put around the image: black, or the image mirrored at its borders.
    flip : bool
        Mirror half of the images, left to right.
    resized_crop : pair of float, optional
        Least and largest fraction of the image's area that is cut out and scaled to ``size``:
        GoogLeNet's augmentation, (0.08, 1).
    aspect : pair of float
        Least and largest ratio of the piece's width to its height, for ``resized_crop``.
    cutout : int
        Side in pixels of a square that takes the mean color of its image, centered at a random
        pixel; what lies beyond the border is lost. 0 for none. Source: DeVries and Taylor,
        "Improved regularization of convolutional neural networks with Cutout", arXiv 1708.04552.

    Raises
    ------
    ValueError
        If a number is out of range, or `crop` and `resized_crop` are given together.

    Notes
    -----
    kornia draws from torch's global generator. Each call seeds that one from the generator that it
    is given, and puts it back: the same generator gives the same images.
    """

    def __init__(
        self,
        size: Sequence[int],
        *,
        crop: int = 0,
        crop_padding: CropPadding = "black",
        flip: bool = False,
        resized_crop: tuple[float, float] | None = None,
        aspect: tuple[float, float] = (3 / 4, 4 / 3),
        cutout: int = 0,
    ) -> None:
        for name, pixels in (("crop", crop), ("cutout", cutout)):
            if pixels < 0:
                raise ValueError(f"{name} must be a number of pixels, 0 or more; got {pixels}")
        if crop_padding not in get_args(CropPadding):
            raise ValueError(f'crop_padding must be "black" or "reflect"; got {crop_padding!r}')
        if crop and resized_crop is not None:
            raise ValueError("crop and resized_crop are two ways to cut; give one of them")
        if resized_crop is not None and not 0 < resized_crop[0] <= resized_crop[1] <= 1:
            raise ValueError(
                f"resized_crop must be two fractions of the area, 0 < least <= largest <= 1; got "
                f"{resized_crop}"
            )
        if not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"aspect must be two ratios, 0 < least <= largest; got {aspect}")
        self.size, self.resized_crop = (int(size[0]), int(size[1])), resized_crop
        self._mirrored = crop if crop_padding == "reflect" else 0
        steps: list[Any] = []
        if crop or flip or resized_crop is not None:
            kornia = require("kornia.augmentation", "train")
            if crop:
                mode = "constant" if crop_padding == "black" else "reflect"
                steps.append(
                    kornia.RandomCrop(
                        self.size, padding=crop, padding_mode=mode, cropping_mode="slice"
                    )
                )
            if resized_crop is not None:
                steps.append(
                    kornia.RandomResizedCrop(
                        self.size,
                        scale=tuple(resized_crop),
                        ratio=tuple(aspect),
                        cropping_mode="slice",
                    )
                )
            if flip:
                steps.append(kornia.RandomHorizontalFlip(p=0.5))
        if cutout:
            steps.append(functools.partial(_erase, side=cutout))
        self._steps = steps

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Changed images.

        Parameters
        ----------
        pixels : Tensor
            Images (N, C, H, W): uint8, or intensities in [0, 1].
        generator : torch.Generator
            Source of the randomness; moves on by one draw.

        Returns
        -------
        Tensor
            Images (N, C, *size), intensities in [0, 1]; torch's default dtype if ``pixels`` are
            uint8.

        Raises
        ------
        ValueError
            If the images have another size, and no ``resized_crop`` scales them.
        """
        if self.resized_crop is None and tuple(pixels.shape[-2:]) != self.size:
            raise ValueError(
                f"crop and flip keep the size of an image, {self.size}; got images of "
                f"{tuple(pixels.shape[-2:])}: scale them first, or give resized_crop"
            )
        if self._mirrored >= min(pixels.shape[-2:]):
            raise ValueError(
                f'crop_padding="reflect" mirrors crop={self._mirrored} pixels, which must be fewer '
                f"than an image of {tuple(pixels.shape[-2:])} has"
            )
        if pixels.dtype == torch.uint8:
            pixels = pixels.to(torch.get_default_dtype()) / 255
        if not self._steps:
            return pixels
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)  # and no GPU's
            for step in self._steps:
                pixels = step(pixels)
        return pixels.clamp(0, 1)  # the scaling rounds


def _erase(pixels: Tensor, side: int) -> Tensor:
    """Fill a square of each image with the image's mean color."""
    count, _, rows, columns = pixels.shape

    def inside(length: int) -> Tensor:
        start = torch.randint(length, (count, 1)) - side // 2
        place = torch.arange(length)
        return (place >= start) & (place < start + side)

    square = inside(rows)[:, None, :, None] & inside(columns)[:, None, None, :]
    return torch.where(square, pixels.mean((2, 3), keepdim=True), pixels)
