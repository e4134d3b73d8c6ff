import io
import multiprocessing
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from support.machine import run_python
from support.spikes import generator
from ttfs_fast.data import Augmentation, ImageError, ImageFolder, StreamedImages
from ttfs_fast.training.batches import StreamBatches

pillow = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")
pytest.importorskip("kornia", reason="needs the extra ttfs_fast[train]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """Twenty images of different sizes in two classes; the number of each is its color."""
    root = tmp_path_factory.mktemp("images")
    for number in range(20):
        pixels = np.full((20 + number, 30, 3), 10 * number, np.uint8)
        pixels[:, :, 1] = np.arange(30) * 8
        path = root / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        content = io.BytesIO()
        pillow.fromarray(pixels).save(content, "png")
        path.write_bytes(content.getvalue())
    return ImageFolder(root)


def everything(stream: StreamedImages, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(stream.epoch(epoch))
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])


def test_whole_images_in_order(folder: ImageFolder) -> None:
    stream = StreamedImages(folder, 6, 16)
    assert len(stream) == 4
    sizes = [len(labels) for _, labels in stream.epoch(0)]
    assert sizes == [6, 6, 6, 2]
    pixels, labels = everything(stream, 0)
    assert pixels.shape == (20, 3, 16, 16)
    assert labels.tolist() == folder.labels.tolist()
    numbers = [int(name.split("/")[1][:2]) for name in folder.files]
    assert torch.allclose(pixels[:, 0, 0, 0] * 25.5, torch.tensor(numbers).float(), atol=0.01)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_gives_the_same(folder: ImageFolder, workers: int) -> None:
    """After a parallel region in this process, too: the workers are no copies of it."""
    torch.rand(1000, 1000) @ torch.rand(1000, 1000)
    augmentation = Augmentation((16, 16), flip=True, resized_crop=(0.2, 1.0))
    alone, helped = (
        StreamedImages(
            folder, 6, 16, augmentation=augmentation, shuffle=True, seed=3, workers=count
        )
        for count in (0, workers)
    )
    state = torch.random.get_rng_state()
    for epoch in (0, 1):
        one, other = everything(alone, epoch), everything(helped, epoch)
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        assert one[0].std() > 0.1
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(everything(alone, 0)[0], everything(alone, 1)[0])
    assert torch.equal(everything(alone, 1)[0], everything(helped, 1)[0])  # again


def test_ranks_share_each_batch(folder: ImageFolder) -> None:
    whole = StreamedImages(folder, 6, 16, shuffle=True, seed=1)
    parts = [
        StreamedImages(folder, 6, 16, shuffle=True, seed=1, rank=rank, ranks=2) for rank in range(2)
    ]
    for joint, first, second in zip(*(s.epoch(2) for s in (whole, *parts)), strict=True):
        assert torch.equal(joint[1][0::2], first[1])
        assert torch.equal(joint[1][1::2], second[1])
        assert torch.equal(joint[0][1::2], second[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images(tmp_path: Path, folder: ImageFolder, workers: int) -> None:
    for name in folder.files:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((folder.path / name).read_bytes())
    for name in folder.files[:4]:
        (tmp_path / name).write_bytes(b"no image")
    broken = ImageFolder(tmp_path)
    refusing = StreamedImages(broken, 3, 16, workers=workers)
    with pytest.raises(ImageError, match=r"00.png is not a readable image"):
        everything(refusing, 0)
    skipping = StreamedImages(broken, 3, 16, workers=workers, corrupt="skip")
    with pytest.warns(UserWarning, match="left out 4 images .*00.png"):
        pixels, labels = everything(skipping, 0)
    assert len(pixels) == len(labels) == 16
    assert len(skipping.skipped) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        skipping_again = StreamedImages(folder, 3, 16, corrupt="skip")
        assert len(everything(skipping_again, 0)[1]) == 20


def test_a_class_without_readable_images_is_an_error(tmp_path: Path, folder: ImageFolder) -> None:
    for name, label in zip(folder.files, folder.labels, strict=True):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"no image" if label else (folder.path / name).read_bytes())
    stream = StreamedImages(ImageFolder(tmp_path), 3, 16, corrupt="skip")
    with pytest.raises(ImageError, match="no image of the classes b can be read"):
        everything(stream, 0)


def test_crop_and_flip_change_the_scaled_image(folder: ImageFolder) -> None:
    """Trained on and tested on, an image has the same size."""
    plain, _ = everything(StreamedImages(folder, 6, 16), 0)
    flip, crop = (Augmentation((16, 16), **how) for how in ({"flip": True}, {"crop": 3}))
    flipped, _ = everything(StreamedImages(folder, 6, 16, augmentation=flip), 0)
    mirrored = [torch.equal(one, other.flip(2)) for one, other in zip(flipped, plain, strict=True)]
    assert 0 < sum(mirrored) < 20
    assert all(
        torch.equal(one, other) or turned
        for one, other, turned in zip(flipped, plain, mirrored, strict=True)
    )
    moved, _ = everything(StreamedImages(folder, 6, 16, augmentation=crop), 0)
    assert moved.shape == plain.shape
    for one, other in zip(moved, plain, strict=True):
        padded = torch.nn.functional.pad(other, (3, 3, 3, 3))
        places = [(row, column) for row in range(7) for column in range(7)]
        assert any(torch.equal(one, padded[:, r : r + 16, c : c + 16]) for r, c in places)
    with pytest.raises(ValueError, match=r"must give images of \(16, 16\).*it gives \(8, 8\)"):
        StreamedImages(folder, 6, 16, augmentation=Augmentation((8, 8), flip=True))


@pytest.mark.parametrize("how", [{}, {"crop": 2, "flip": True}, {"resized_crop": (0.3, 1.0)}])
@pytest.mark.parametrize("workers", [0, 1])
def test_images_have_the_default_dtype(
    folder: ImageFolder, how: dict[str, object], workers: int
) -> None:
    change = Augmentation((16, 16), **how) if how else None  # type: ignore[arg-type]
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        stream = StreamedImages(folder, 20, 16, augmentation=change, workers=workers)
        pixels, _ = everything(stream, 0)
        shares = Augmentation((2, 2), flip=True)(
            torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2), generator(0)
        )
    finally:
        torch.set_default_dtype(before)
    assert pixels.dtype == shares.dtype == torch.float64
    assert sorted((shares * 255).flatten().tolist()) == [0, 1, 2, 3]
    assert pixels.std() > 0.1


def test_a_killed_worker_is_an_error(folder: ImageFolder) -> None:
    """The program ends with a message and does not hang."""
    program = textwrap.dedent(
        """
        import os, signal, sys, multiprocessing
        from ttfs_fast.data import ImageFolder, StreamedImages

        if __name__ == "__main__":
            stream = StreamedImages(ImageFolder(sys.argv[1]), 1, 16, workers=1)
            for number, _ in enumerate(stream.epoch(0)):
                if number == 0:
                    worker, = [
                        p.pid for p in stream._loader._iterator._workers
                    ]
                    os.kill(worker, signal.SIGKILL)
        """
    )
    path = folder.path.parent / "program.py"
    path.write_text(program)
    done = run_python(path, folder.path, timeout=600, OMP_NUM_THREADS="1")
    assert done.returncode == 1
    # (torch's own handler of a child's death may cut into the printing of the traceback.)
    assert f"a process that reads the images of {folder.path} died or hangs" in done.stderr
    assert "ChildProcessError" in done.stderr


def test_a_script_without_main_guard_gets_a_clear_error(
    folder: ImageFolder, tmp_path: Path
) -> None:
    """Worker processes import the script of the process that starts them."""
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(folder.path)
    script = tmp_path / "script.py"
    script.write_text(
        "from ttfs_fast.training import TrainConfig, train\n"
        "config = TrainConfig(\n"
        f"    dataset='folder', data_root={str(tmp_path)!r}, model='vgg4', width=0.25,\n"
        "    image_size=32, epochs=1, workers=1, threads=1,\n"
        ")\n"
        f"train(config, {str(tmp_path / 'run')!r}, overwrite=True)\n"
    )
    done = run_python(script)
    assert done.returncode == 1
    assert "this process was started to read images" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "ended as it started, with the error above" in last
    assert 'must stand under if __name__ == "__main__":' in last
    assert "memory" not in done.stderr


def test_starting_worker_starts_no_workers(
    folder: ImageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match='put what the script does under if __name__ == "__m'):
        StreamedImages(folder, 4, 16, workers=1)


def test_wrong_settings_are_rejected(folder: ImageFolder) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        StreamedImages(folder, 0, 16)
    with pytest.raises(ValueError, match="workers must be at least 0"):
        StreamedImages(folder, 1, 16, workers=-1)
    with pytest.raises(ValueError, match=r"rank must be 0..1; got 2"):
        StreamedImages(folder, 1, 16, rank=2, ranks=2)
    for settings, message in (
        ({"crop": -1}, "crop must be"),
        ({"crop": 1, "resized_crop": (0.1, 1.0)}, "two ways to cut"),
        ({"resized_crop": (0.0, 1.0)}, "two fractions of the area"),
        ({"resized_crop": (0.5, 1.0), "aspect": (2.0, 1.0)}, "aspect must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Augmentation((16, 16), **settings)


def test_crop_and_flip() -> None:
    """A gradient image shows by its values where each piece was cut and whether it is mirrored."""
    row = torch.arange(1, 9, dtype=torch.uint8)
    images = (row[:, None] * 16 + row).expand(200, 3, 8, 8).contiguous()
    moved = Augmentation((8, 8), crop=2, flip=True)(images, generator(0))
    assert moved.shape == images.shape
    assert moved.dtype == torch.float32
    offsets, mirrored = set(), 0
    for image in (moved[:, 0] * 255).round().int():
        inner = image[2:6, 2:6]  # never black: it lies inside for every offset
        assert (inner > 0).all()
        step = int(inner[0, 1] - inner[0, 0])
        assert abs(step) == 1
        mirrored += step < 0
        if step > 0:
            offsets.add((int(inner[0, 0]) // 16 - 3, int(inner[0, 0]) % 16 - 3))
    assert 60 < mirrored < 140
    assert all(abs(a) <= 2 and abs(b) <= 2 for a, b in offsets)
    assert len(offsets) > 15


def test_same_generator_same_images() -> None:
    images = torch.randint(0, 256, (8, 3, 40, 30), dtype=torch.uint8)
    change = Augmentation((16, 12), flip=True, resized_crop=(0.1, 1.0))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = change(images, generator(7))
    assert one.shape == (8, 3, 16, 12)
    assert 0 <= one.min() <= one.max() <= 1
    torch.manual_seed(6)
    assert torch.equal(change(images, generator(7)), one)
    assert not torch.equal(change(images, generator(8)), one)
    torch.random.set_rng_state(state)
    same = generator(7)
    change(images, same)
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is untouched
    assert not torch.equal(change(images, same), one)  # this one moves on


def test_empty_augmentation_changes_nothing() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    same = generator(1)
    assert torch.equal(Augmentation((8, 8))(images, same), images.float() / 255)
    assert torch.equal(same.get_state(), generator(1).get_state())


def test_crop_and_flip_reject_images_of_another_size() -> None:
    images = torch.zeros(1, 3, 40, 30, dtype=torch.uint8)
    for how in ({"crop": 4}, {"flip": True}, {}):
        with pytest.raises(ValueError, match=r"keep the size.* \(16, 16\); got .* \(40, 30\)"):
            Augmentation((16, 16), **how)(images, generator(0))


def test_imagenet_samples_stream(imagenet_zip: Path) -> None:
    augmentation = Augmentation((64, 64), flip=True, resized_crop=(0.08, 1.0))
    stream = StreamedImages(
        ImageFolder(imagenet_zip, "val"), 32, 64, augmentation=augmentation, shuffle=True, workers=2
    )
    pixels, labels = everything(stream, 0)
    assert pixels.shape == (92, 3, 64, 64)
    assert sorted(labels.tolist()) == list(range(92))
    assert pixels.std() > 0.2


def test_processes_with_other_numbers_of_images_leave_their_generators_alike(
    folder: ImageFolder,
) -> None:
    """A checkpoint holds the first one's state for all; yet each draws noise of its own."""
    states, sizes, noise = [], [], []
    for rank in range(2):
        generator = torch.Generator().manual_seed(1)
        stream = StreamedImages(folder, 7, 16, rank=rank, ranks=2)
        noisy, still = (
            [
                chunk.batches[0].values
                for chunk in StreamBatches(stream, generator, rank=rank, jitter=jitter).epoch(0)
            ]
            for jitter in (0.1, 0.0)
        )
        states.append(generator.get_state())
        sizes.append([len(values) for values in noisy])
        noise.append((noisy[0].log() - still[0].log())[:3])
    assert sizes == [[4, 4, 3], [3, 3, 3]]
    assert torch.equal(*states)
    assert 0.05 < noise[0].std() < 0.15
    assert 0.05 < noise[1].std() < 0.15
    assert (noise[0] - noise[1]).abs().mean() > 0.05


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_within_a_pass(folder: ImageFolder, workers: int) -> None:
    augmentation = Augmentation((16, 16), flip=True, resized_crop=(0.2, 1.0))
    how = {"augmentation": augmentation, "shuffle": True, "seed": 3}
    expected = everything(StreamedImages(folder, 6, 16, **how), 3)
    stream = StreamedImages(folder, 6, 16, workers=workers, **how)
    outer = stream.epoch(3)
    batches = [next(outer)]
    if workers:
        with pytest.raises(RuntimeError, match=r"another pass .* is under way"):
            next(stream.epoch(0))
    else:
        assert len(list(stream.epoch(0))) == 4
    batches += list(outer)
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), expected[0])
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected[1])
    assert len(list(stream.epoch(0))) == 4
