"""Random distortions of training images."""

import math

import torch
from torch import Tensor

KNOT_PIXELS = 7
"""Distance between the points at which elastic displacements are drawn, in pixels."""


def distort(
    pixels: Tensor,
    generator: torch.Generator,
    *,
    rotate: float = 0.0,
    zoom: float = 0.0,
    shear: float = 0.0,
    shift: float = 0.0,
    elastic: float = 0.0,
    background: float = 0.0,
) -> Tensor:
    """Turn, zoom, shear, move and bend every image by its own random amounts.

    Each amount is uniform between minus and plus the limit given; each limit is 0 or above.

    Parameters
    ----------
    pixels : Tensor, shape (N, C, H, W)
        Intensities: uint8 (divided by 255), or float32 or float64 in [0, 1].
    generator : torch.Generator
        Source of the amounts.
    rotate : float
        Largest rotation about the center, in degrees.
    zoom : float
        Largest relative change of height and of width, each on its own; below 1.
    shear : float
        Largest shear: the columns that a row moves by for each row from the center.
    shift : float
        Largest displacement, in pixels, down and across; not only whole numbers.
    elastic : float
        Standard deviation of a smooth random displacement field, in pixels: it is drawn about
        every seventh pixel and interpolated in between.
    background : float
        Intensity that comes in at the edges.

    Returns
    -------
    distorted : Tensor, shape (N, C, H, W)
        Intensities in [0, 1]; torch's default dtype for uint8, else the dtype of ``pixels``.

    Raises
    ------
    ValueError
        If a limit is outside its range.

    Notes
    -----
    Pixels are interpolated bilinearly. P. Simard, D. Steinkraus, J. Platt, "Best Practices for
    Convolutional Neural Networks Applied to Visual Document Analysis" (ICDAR 2003) found affine
    and elastic distortions decisive for MNIST.
    """
    limits = {"rotate": rotate, "zoom": zoom, "shear": shear, "shift": shift, "elastic": elastic}
    for name, limit in limits.items():
        if not 0 <= limit < (1 if name == "zoom" else math.inf):
            below = " and below 1" if name == "zoom" else ""
            raise ValueError(f"{name} must be 0 or above{below}; got {limit}")
    if pixels.dtype == torch.uint8:
        pixels = pixels.to(torch.get_default_dtype()) / 255
    count, _, height, width = pixels.shape

    def uniform(limit: float) -> Tensor:
        drawn = torch.rand(count, 1, 1, generator=generator, dtype=pixels.dtype)
        return limit * (2 * drawn - 1)

    angle = uniform(math.radians(rotate))
    taller, wider = 1 + uniform(zoom), 1 + uniform(zoom)
    slant, down, across = uniform(shear), uniform(shift), uniform(shift)

    # Where each pixel of the result comes from, in pixels from the center: the inverse of
    # zooming, then shearing, then turning, then moving.
    row = torch.arange(height, dtype=pixels.dtype).view(-1, 1) - (height - 1) / 2 - down
    column = torch.arange(width, dtype=pixels.dtype) - (width - 1) / 2 - across
    from_row = angle.cos() * row - angle.sin() * column
    from_column = angle.sin() * row + angle.cos() * column - slant * from_row
    source = torch.stack((from_column / wider, from_row / taller), dim=-1)
    if elastic > 0:
        knots = (count, 2, height // KNOT_PIXELS + 1, width // KNOT_PIXELS + 1)
        field = elastic * torch.randn(knots, generator=generator, dtype=pixels.dtype)
        field = torch.nn.functional.interpolate(
            field, size=(height, width), mode="bicubic", align_corners=True
        )
        source += field.permute(0, 2, 3, 1)
    source *= 2 / torch.tensor((width, height), dtype=pixels.dtype)
    moved = torch.nn.functional.grid_sample(
        pixels - background, source, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved.add_(background).clamp_(0, 1)
