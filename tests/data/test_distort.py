import math

import pytest
import torch
from torch import Tensor

from support.spikes import generator
from ttfs_fast.data.distort import distort


def blob(count: int, row: float, column: float, height: int = 29, width: int = 23) -> Tensor:
    """Images of one smooth spot, at (row, column) from the center."""
    y = torch.arange(height, dtype=torch.float64).view(-1, 1) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    spot = (-((y - row) ** 2 + (x - column) ** 2) / 8).exp()
    return spot.expand(count, 1, height, width).clone()


def centers(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Center of the intensity of each image, in pixels from the middle."""
    _, _, height, width = pixels.shape
    y = torch.arange(height, dtype=pixels.dtype).view(-1, 1) - (height - 1) / 2
    x = torch.arange(width, dtype=pixels.dtype) - (width - 1) / 2
    total = pixels.sum((1, 2, 3))
    return (pixels * y).sum((1, 2, 3)) / total, (pixels * x).sum((1, 2, 3)) / total


def test_distort_without_limits_changes_nothing() -> None:
    pixels = torch.rand(5, 3, 9, 12, generator=generator(0), dtype=torch.float64)
    torch.testing.assert_close(distort(pixels, generator(0)), pixels)
    raw = torch.randint(0, 256, (5, 1, 28, 28), generator=generator(0), dtype=torch.uint8)
    torch.testing.assert_close(distort(raw, generator(0)), raw / 255, atol=1e-5, rtol=0)


def test_shift_moves_by_at_most_the_limit_both_ways() -> None:
    rows, columns = centers(distort(blob(400, 0, 0), generator(0), shift=3.0))
    for moved in (rows, columns):
        assert moved.abs().max() <= 3.01
        assert moved.max() > 2.8
        assert moved.min() < -2.8
        assert moved.mean().abs() < 0.3
    assert (rows - columns).abs().max() > 2  # each way on its own


def test_rotation_keeps_the_distance_from_the_center() -> None:
    rows, columns = centers(distort(blob(400, 0, 6), generator(0), rotate=30.0))
    distance = (rows**2 + columns**2).sqrt()
    torch.testing.assert_close(distance, torch.full_like(distance, 6.0), atol=0.1, rtol=0)
    angle = torch.atan2(rows, columns).rad2deg()
    assert 28 < angle.max() <= 30.5
    assert -30.5 <= angle.min() < -28


def test_zoom_changes_height_and_width_each_on_its_own() -> None:
    rows, columns = centers(distort(blob(400, 5, 4), generator(0), zoom=0.2))
    for moved, start in ((rows, 5.0), (columns, 4.0)):
        assert moved.max() == pytest.approx(1.2 * start, abs=0.1)
        assert moved.min() == pytest.approx(0.8 * start, abs=0.1)
    assert (rows / 5 - columns / 4).abs().max() > 0.2


def test_shear_moves_rows_against_each_other() -> None:
    rows, columns = centers(distort(blob(400, 6, 0), generator(0), shear=0.4))
    torch.testing.assert_close(rows, torch.full_like(rows, 6.0), atol=0.1, rtol=0)
    assert columns.max() == pytest.approx(2.4, abs=0.1)
    assert columns.min() == pytest.approx(-2.4, abs=0.1)


def test_elastic_moves_places_differently_by_the_stated_size() -> None:
    one = distort(blob(500, -8, -5), generator(0), elastic=1.0)
    other = distort(blob(500, 8, 5), generator(0), elastic=1.0)
    up, down = centers(one)[0] + 8, centers(other)[0] - 8
    assert 0.4 < up.std() < 1.2
    assert 0.4 < down.std() < 1.2
    assert torch.corrcoef(torch.stack((up, down)))[0, 1].abs() < 0.2


def test_every_image_has_its_own_amounts_and_channels_move_together() -> None:
    pixels = blob(2, 0, 0).repeat(1, 2, 1, 1)
    moved = distort(pixels, generator(0), rotate=5.0, zoom=0.1, shift=2.0, elastic=0.5)
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert not torch.allclose(moved[0], moved[1], atol=0.01)


def test_the_generator_decides() -> None:
    pixels, limits = blob(3, 1, 2), {"rotate": 9.0, "elastic": 0.4}
    one = distort(pixels, generator(4), **limits)
    assert torch.equal(one, distort(pixels, generator(4), **limits))
    assert not torch.equal(one, distort(pixels, generator(5), **limits))


@pytest.mark.parametrize("background", [0.0, 0.25, 1.0])
def test_distortion_fills_edges_with_background(background: float) -> None:
    flat = torch.full((20, 1, 8, 8), background)
    limits = {"rotate": 45.0, "shift": 6.0, "zoom": 0.5}
    torch.testing.assert_close(distort(flat, generator(0), background=background, **limits), flat)
    white = distort(torch.ones(20, 1, 8, 8), generator(0), background=background, **limits)
    assert white.min() == pytest.approx(background, abs=1e-6)
    assert white.max() == pytest.approx(1.0, abs=1e-6)


def test_distort_dtypes_and_empty_batches() -> None:
    for dtype in (torch.float32, torch.float64):
        assert distort(torch.rand(2, 1, 6, 6, dtype=dtype), generator(0), rotate=3).dtype == dtype
    raw = torch.zeros(2, 1, 6, 6, dtype=torch.uint8)
    assert distort(raw, generator(0), elastic=1.0).dtype == torch.float32
    assert distort(torch.rand(0, 1, 28, 28), generator(0), shift=2, elastic=1).shape == (
        0,
        1,
        28,
        28,
    )


@pytest.mark.parametrize("limits", [{"zoom": 1.0}, {"rotate": -1.0}, {"shift": math.nan}])
def test_limits_out_of_their_range_are_refused(limits: dict[str, float]) -> None:
    (name,) = limits
    with pytest.raises(ValueError, match=f"{name} must be 0 or above"):
        distort(torch.rand(2, 1, 8, 8), torch.Generator(), **limits)
