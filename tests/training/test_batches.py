import numpy as np
import pytest
import torch

from ttfs_fast.data import Augmentation, ImageSet
from ttfs_fast.data.distort import distort
from ttfs_fast.encoding import Encoding, encode, standardize
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
        assert torch.equal(torch.cat([batch.labels for batch in chunk.batches]), chunk.labels)
        for batch in chunk.batches:
            assert len(batch.values) == len(batch.labels) == batch.global_batch_size <= size
            values.append(batch.values)
            labels.append(batch.labels)
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
    first = [batch.values for chunk in batches.epoch() for batch in chunk.batches]
    state = generator.get_state()
    second = [batch.values for chunk in batches.epoch() for batch in chunk.batches]
    generator.set_state(state)
    again = [batch.values for chunk in batches.epoch() for batch in chunk.batches]
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.cat(second), torch.cat(again))


def test_jitter_is_noise_on_the_times_of_the_stated_size() -> None:
    images = some_images(400)
    plain = [b.values for chunk in batches_of(images, 5).epoch() for b in chunk.batches]
    noisy = [
        b.values for chunk in batches_of(images, 5, jitter=0.25).epoch() for b in chunk.batches
    ]
    noise = torch.cat(noisy).log() - torch.cat(plain).log()
    assert noise.std().item() == pytest.approx(0.25, rel=0.03)
    assert abs(noise.mean().item()) < 0.01


def test_images_are_distorted_before_they_are_encoded() -> None:
    images = some_images(30)
    limits = {"rotate": 10.0, "shift": 1.0}
    values = [
        b.values
        for chunk in batches_of(images, 9, distortion=limits).epoch()
        for b in chunk.batches
    ]
    generator = torch.Generator().manual_seed(9)
    order = torch.randperm(30, generator=generator)
    pixels = distort(images.images_as_tensor()[order], generator, **limits)
    assert torch.equal(torch.cat(values), encode(pixels))
    assert not torch.equal(torch.cat(values), encode(images.images_as_tensor()[order]))


def test_processes_share_every_batch() -> None:
    """All draw the same images and noise; the shares together are the whole batch."""
    images = some_images(45)
    settings = {"jitter": 0.2, "distortion": {"shift": 1.0}}
    whole, *shares = (
        list(batches_of(images, 4, 10, rank=rank, ranks=ranks, **settings).epoch())
        for rank, ranks in ((0, 1), (0, 3), (1, 3), (2, 3))
    )
    for index, batch in enumerate(whole[0].batches):
        parts = [share[0].batches[index] for share in shares]
        assert {part.global_batch_size for part in parts} == {len(batch.labels)}
        for rank, part in enumerate(parts):
            assert torch.equal(part.values, batch.values[rank::3])
            assert torch.equal(part.labels, batch.labels[rank::3])


def test_mirrored_borders_are_smaller_than_the_image() -> None:
    pytest.importorskip("kornia", reason="needs the extra ttfs_fast[train]")
    pixels, generator = torch.rand(2, 1, 6, 5), torch.Generator()
    assert Augmentation((6, 5), crop=4, crop_padding="reflect")(pixels, generator).shape[2] == 6
    with pytest.raises(ValueError, match=r"mirrors crop=5 pixels, .* an image of \(6, 5\) has"):
        Augmentation((6, 5), crop=5, crop_padding="reflect")(pixels, generator)


def test_augmentation_leaves_every_generator_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    before = torch.get_rng_state()
    changed = Augmentation((9, 7), cutout=4)(torch.rand(4, 3, 9, 7), torch.Generator())
    assert changed.shape == (4, 3, 9, 7)
    torch.manual_seed(3)
    assert seeds == [3]  # of this line only
    torch.set_rng_state(before)


def test_cutout_erases_one_square_of_each_image(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.rand(400, 3, 9, 7, generator=generator)
    changed = Augmentation((9, 7), cutout=4)(pixels, generator)
    erased = changed != pixels
    assert torch.equal(erased[:, 0], erased[:, 1])
    assert torch.equal(erased[:, 0], erased[:, 2])
    heights, widths = erased[:, 0].any(2).sum(1), erased[:, 0].any(1).sum(1)
    assert torch.equal(erased[:, 0].sum((1, 2)), heights * widths)  # a rectangle
    assert heights.max() == widths.max() == 4
    assert (heights * widths == 16).float().mean() > 0.1
    assert erased.any(0).all()  # every pixel is erased in some image
    mean = pixels.mean((2, 3), keepdim=True).expand_as(pixels)
    assert torch.allclose(changed[erased], mean[erased])
    with pytest.raises(ValueError, match="cutout must be a number of pixels, 0 or more; got -1"):
        Augmentation((9, 7), cutout=-1)


def test_crop_flip_and_standardization_come_before_the_encoding() -> None:
    pytest.importorskip("kornia", reason="needs the extra ttfs_fast[train]")
    images = some_images(30)
    augmentation = Augmentation((6, 5), crop=2, flip=True)
    plain, changed, standardized = (
        torch.cat([b.values for chunk in made.epoch() for b in chunk.batches])
        for made in (
            batches_of(images, 6),
            batches_of(images, 6, augmentation=augmentation),
            batches_of(images, 6, encoding=Encoding(standardize=True)),
        )
    )
    assert plain.shape == changed.shape == standardized.shape
    assert not torch.equal(plain, changed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(6))
    pixels = images.images_as_tensor()[order]
    assert torch.equal(standardized, encode(standardize(pixels)))


def test_alternating_flips_mirror_each_image_in_every_second_epoch() -> None:
    images = some_images(300)
    upright = encode(images.images_as_tensor())
    batches = batches_of(images, 0, 50, alternating_hflip=4)

    def flipped(epoch: int) -> set[int]:
        """Numbers of the mirrored images; each of the others must be as it was."""
        numbers, count = set(), 0
        for chunk in batches.epoch(epoch):
            for value in torch.cat([batch.values for batch in chunk.batches]):
                count += 1
                mirrored = (value.flip(-1) == upright).flatten(1).all(1)
                if bool(mirrored.any()):
                    numbers.add(int(mirrored.int().argmax()))
                else:
                    assert bool((value == upright).flatten(1).all(1).any())
        assert count == 300
        return numbers

    first, second, third = (flipped(epoch) for epoch in range(3))
    assert 100 < len(first) < 200
    assert second == set(range(300)) - first
    assert third == first
    other = batches_of(images, 0, 50, alternating_hflip=5)
    assert not torch.equal(other._flipped_first, batches._flipped_first)
