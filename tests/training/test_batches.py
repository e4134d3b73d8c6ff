import numpy as np
import pytest
import torch

from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import encode
from ttfs_fast.training.augment import distort
from ttfs_fast.training.batches import EpochBatches


def some_images(count: int) -> ImageSet:
    """Images that can be told apart: the first pixel and the next hold the number."""
    pixels = np.random.default_rng(7).integers(0, 256, (count, 1, 6, 5), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count) // 256
    pixels[:, 0, 0, 1] = np.arange(count) % 256
    labels = np.arange(count, dtype=np.int64) % 10
    return ImageSet(pixels, labels, "numbered", tuple("0123456789"))


def batches_of(images: ImageSet, seed: int, size: int = 10, **more: object) -> EpochBatches:
    generator = torch.Generator().manual_seed(seed)
    return EpochBatches(images, size, generator, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "size"), [(2345, 10), (2345, 128), (30, 50), (1001, 1000)])
def test_every_image_once_and_with_its_label(count: int, size: int) -> None:
    images = some_images(count)
    batches = batches_of(images, 0, size)
    values, labels = [], []
    for chunk in batches.epoch():
        assert torch.equal(torch.cat([label for _, label in chunk.batches]), chunk.labels)
        for value, label in chunk.batches:
            assert len(value) == len(label) <= size
            values.append(value)
            labels.append(label)
    assert len(values) == len(batches)
    assert all(len(value) == size for value in values[:-1])
    expected = encode(images.images_as_tensor())
    key = torch.cat(values).flatten(1)
    order = sorted(range(count), key=lambda i: (-key[i, 0].item(), -key[i, 1].item()))
    assert torch.equal(torch.cat(values)[order], expected)
    assert torch.equal(torch.cat(labels)[order], images.labels_as_tensor())


def test_epochs_differ_and_the_generator_state_decides_them() -> None:
    images = some_images(50)
    generator = torch.Generator().manual_seed(3)
    batches = EpochBatches(images, 10, generator, jitter=0.2, distortion={"shift": 2.0})
    first = [value for chunk in batches.epoch() for value, _ in chunk.batches]
    state = generator.get_state()
    second = [value for chunk in batches.epoch() for value, _ in chunk.batches]
    generator.set_state(state)
    again = [value for chunk in batches.epoch() for value, _ in chunk.batches]
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.cat(second), torch.cat(again))


def test_jitter_is_noise_on_the_times_of_the_stated_size() -> None:
    images = some_images(400)
    plain = [v for chunk in batches_of(images, 5).epoch() for v, _ in chunk.batches]
    noisy = [v for chunk in batches_of(images, 5, jitter=0.25).epoch() for v, _ in chunk.batches]
    noise = torch.cat(noisy).log() - torch.cat(plain).log()
    assert noise.std().item() == pytest.approx(0.25, rel=0.03)
    assert abs(noise.mean().item()) < 0.01


def test_images_are_distorted_before_they_are_encoded() -> None:
    images = some_images(30)
    limits = {"rotate": 10.0, "shift": 1.0}
    values = [
        v for chunk in batches_of(images, 9, distortion=limits).epoch() for v, _ in chunk.batches
    ]
    generator = torch.Generator().manual_seed(9)
    order = torch.randperm(30, generator=generator)
    pixels = distort(images.images_as_tensor()[order], generator, **limits)
    assert torch.equal(torch.cat(values), encode(pixels))
    assert not torch.equal(torch.cat(values), encode(images.images_as_tensor()[order]))
