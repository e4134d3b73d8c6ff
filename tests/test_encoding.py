import math

import numpy as np
import pytest
import torch

from ttfs_fast.encoding import (
    encode,
    pixels_to_times,
    standardise,
    times_to_values,
    values_to_times,
)


def test_bright_first_is_the_papers_mnist_code() -> None:
    times = pixels_to_times(torch.tensor([0.0, 0.25, 1.0]), alpha=3.0)
    assert times.tolist() == [3.0, 2.25, 0.0]


def test_dark_first_is_the_papers_cifar_code() -> None:
    times = pixels_to_times(torch.tensor([0.0, 0.25, 1.0]), alpha=8.0, polarity="dark-first")
    assert times.tolist() == [0.0, 2.0, 8.0]


def test_uint8_is_divided_by_255() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    expected = pixels_to_times(pixels.to(torch.float32) / 255)
    times = pixels_to_times(pixels)
    assert times.dtype == torch.float32
    assert torch.equal(times, expected)
    assert times.min() == 0
    assert times.max() == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_exponentials_of_times_and_back(dtype: torch.dtype) -> None:
    times = torch.linspace(-5, 20, 101, dtype=dtype)
    values = times_to_values(times)
    assert values.dtype == dtype
    torch.testing.assert_close(values, torch.from_numpy(np.exp(times.numpy())))
    torch.testing.assert_close(values_to_times(values), times)


def test_silence_and_nan_pass_through() -> None:
    marks = torch.tensor([math.inf, math.nan])
    assert times_to_values(marks)[0] == math.inf
    assert times_to_values(marks)[1].isnan()
    assert values_to_times(marks)[0] == math.inf
    assert values_to_times(marks)[1].isnan()


def test_encode_without_jitter_is_exact_and_leaves_the_generator_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    pixels = torch.rand(3, 1, 4, 5, dtype=torch.float64)
    z = encode(pixels, alpha=2.0, generator=generator)
    assert torch.equal(z, (2.0 * (1 - pixels)).exp())
    assert torch.equal(generator.get_state(), before)


def test_jitter_has_the_asked_deviation_and_keeps_values_positive() -> None:
    pixels = torch.full((100_000,), 0.9)
    z = encode(pixels, jitter=0.5, generator=torch.Generator().manual_seed(2))
    times = z.log()
    assert (z > 0).all()
    assert (times < 0).any()
    assert times.mean().item() == pytest.approx(0.3, abs=0.01)
    assert times.std().item() == pytest.approx(0.5, abs=0.01)


def test_jitter_repeats_with_its_seed() -> None:
    pixels = torch.rand(2, 7)
    first, again = (
        encode(pixels, jitter=0.1, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    other = encode(pixels, jitter=0.1, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_empty_batch() -> None:
    assert encode(torch.empty(0, 1, 28, 28)).shape == (0, 1, 28, 28)
    assert encode(torch.empty(0, 3, dtype=torch.uint8), jitter=0.1).shape == (0, 3)


@pytest.mark.parametrize("bad", [-0.01, 1.01, 255.0, math.nan, math.inf])
def test_float_pixels_outside_the_unit_interval_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        pixels_to_times(torch.tensor([0.5, bad]))


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_must_be_positive_and_finite(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        pixels_to_times(torch.zeros(1), alpha=alpha)


@pytest.mark.parametrize("jitter", [-0.1, math.nan, math.inf])
def test_jitter_must_not_be_negative(jitter: float) -> None:
    with pytest.raises(ValueError, match="jitter"):
        encode(torch.zeros(1), jitter=jitter)


def test_alpha_beyond_the_dtype_is_refused() -> None:
    assert encode(torch.zeros(1), alpha=88.0).isfinite().all()
    with pytest.raises(ValueError, match="alpha must be at most 88"):
        encode(torch.zeros(1), alpha=90.0)
    assert encode(torch.zeros(1, dtype=torch.float64), alpha=90.0).isfinite().all()


def test_other_types_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="ndarray"):
        pixels_to_times(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int64"):
        pixels_to_times(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="float16"):
        times_to_values(torch.zeros(3, dtype=torch.float16))
    with pytest.raises(TypeError, match="values"):
        values_to_times([1.0])  # type: ignore[arg-type]


def test_unknown_polarity_is_refused() -> None:
    with pytest.raises(ValueError, match="'bright-first', 'dark-first', 'both'; got 'dim'"):
        pixels_to_times(torch.zeros(1), polarity="dim")  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.0, -1.0, -math.inf])
def test_values_without_a_time_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        values_to_times(torch.tensor([1.0, bad]))


def test_times_too_early_for_the_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match="too early"):
        times_to_values(torch.tensor([-200.0]))
    assert times_to_values(torch.tensor([-200.0], dtype=torch.float64)) > 0


def test_both_polarities_side_by_side() -> None:
    pixels = torch.rand(2, 3, 4, 5)
    times = pixels_to_times(pixels, 1.5, "both")
    assert times.shape == (2, 6, 4, 5)
    assert torch.equal(times[:, :3], pixels_to_times(pixels, 1.5, "bright-first"))
    assert torch.equal(times[:, 3:], pixels_to_times(pixels, 1.5, "dark-first"))
    assert encode(pixels[0], 1.5, "both").shape == (6, 4, 5)
    with pytest.raises(ValueError, match="needs images of shape"):
        pixels_to_times(pixels[0, 0], 1.5, "both")


def test_standardise_each_image() -> None:
    pixels = torch.rand(3, 3, 16, 16) * torch.tensor([0.1, 0.5, 1.0])[:, None, None, None]
    out = standardise(pixels, reach=5.0)
    assert out.min() > 0  # nothing clipped
    assert out.max() < 1
    assert torch.allclose(out.mean((1, 2, 3)), torch.tensor(0.5), atol=1e-5)
    assert torch.allclose(out.flatten(1).std(1, unbiased=False), torch.tensor(0.1), atol=1e-4)
    clipped = standardise(pixels, reach=1.0)
    assert clipped.min() == 0
    assert clipped.max() == 1
    even = standardise(torch.full((1, 3, 2, 2), 0.7))
    assert torch.allclose(even, torch.tensor(0.5), atol=1e-4)


def test_standardise_by_channel() -> None:
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    out = standardise(pixels, mean, deviation, reach=2.0)
    by_hand = (pixels[:, 1].float() / 255 - 0.5) / (4 * 0.3) + 0.5
    assert torch.allclose(out[:, 1], by_hand.clamp(0, 1))
    assert out.dtype == torch.get_default_dtype()
    for arguments, message in (
        ((mean, None), "give both"),
        ((mean[:2], deviation[:2]), r"must have shape \(3,\)"),
        ((mean, 0 * deviation), "must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            standardise(pixels, *arguments)
    with pytest.raises(ValueError, match="reach must be"):
        standardise(pixels, reach=0)
    with pytest.raises(ValueError, match="must be"):
        standardise(pixels[0, 0])


def test_encoding_of_the_meta_device_has_shapes_only() -> None:
    pixels = torch.empty(2, 3, 4, 4, device="meta")
    colours = torch.empty(3, device="meta")
    z = encode(standardise(standardise(pixels, colours, colours)), polarity="both")
    assert z.is_meta
    assert values_to_times(z).shape == (2, 6, 4, 4)
    assert times_to_values(z).shape == (2, 6, 4, 4)
