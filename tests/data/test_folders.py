import copy
import io
import multiprocessing
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ttfs_fast.data import ImageError, ImageFolder, load_images
from ttfs_fast.data.folders import centre_square

pillow = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")


def picture(size: tuple[int, int] = (8, 6), value: int = 0, kind: str = "png") -> bytes:
    """An image file of (width, height) pixels."""
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[: size[1] // 2] += 3
    content = io.BytesIO()
    pillow.fromarray(pixels).save(content, kind)
    return content.getvalue()


def tree(root: Path, size: tuple[int, int] = (8, 6)) -> dict[str, bytes]:
    files = {
        f"val/{name}/{number}.{ending}": picture(size, 40 * label + number, kind)
        for label, name in enumerate(("ape", "bee", "cow"))
        for number, (ending, kind) in enumerate((("png", "png"), ("JPEG", "jpeg")))
    }
    extra = {"val/readme.txt": b"no image", "val/bee/.hidden.png": b"", "top.png": picture()}
    for name, content in (files | extra).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return files


def packed(root: Path) -> Path:
    path = root.parent / "packed.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(root))
        archive.writestr("__MACOSX/val/bee/._1.png", b"")
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_class_folders(tmp_path: Path, zipped: bool) -> None:
    root = tmp_path / "images"
    files = tree(root)
    folder = ImageFolder(packed(root) if zipped else root, "val")
    assert folder.classes == ("ape", "bee", "cow")
    assert sorted(folder.files) == sorted(files)
    assert folder.labels.tolist() == [0, 0, 1, 1, 2, 2]
    images = load_images(folder)
    assert images.images.shape == (6, 3, 6, 8)
    index = folder.files.index("val/cow/0.png")
    assert images.labels[index] == 2
    assert images.images[index, :, 0, 0].tolist() == [83, 83, 83]
    assert images.images[index, :, 5, 0].tolist() == [80, 80, 80]


def test_folder_without_split_and_grey_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        grey = pillow.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
        grey.save(tmp_path / name / "1.png")
    images = load_images(ImageFolder(tmp_path))
    assert images.images.shape == (2, 3, 3, 4)
    assert np.array_equal(images.images[0, 0], images.images[0, 2])


def test_corrupt_images_are_refused_or_counted(tmp_path: Path) -> None:
    tree(tmp_path)
    whole = (tmp_path / "val/ape/1.JPEG").read_bytes()
    (tmp_path / "val/ape/1.JPEG").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "val/bee/0.png").write_bytes(b"")
    folder = ImageFolder(tmp_path, "val")
    with pytest.raises(ImageError, match=r"val/ape/1.JPEG is not a readable image"):
        load_images(folder)
    with pytest.warns(UserWarning, match=r"left out 2 of 6 images .*val/ape/1.JPEG"):
        images = load_images(folder, corrupt="skip")
    assert images.labels.tolist() == [0, 1, 2, 2]
    with pytest.raises(ValueError, match='corrupt must be "skip" or "refuse"'):
        load_images(folder, corrupt="repair")  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", range(12))
def test_damage_anywhere_is_an_image_error(tmp_path: Path, damage: int) -> None:
    """Bytes overwritten at random: either the image is read, or ImageError names it."""
    generator = np.random.default_rng(damage)
    (tmp_path / "a").mkdir()
    refused = 0
    for kind in ("png", "jpeg", "bmp", "webp"):
        content = bytearray(picture((40, 30), 7, kind))
        for _ in range(1 + damage):
            content[generator.integers(len(content))] = generator.integers(256)
        (tmp_path / "a" / f"1.{kind}").write_bytes(content)
    folder = ImageFolder(tmp_path)
    for index in range(len(folder)):
        try:
            channels = folder.read(index).shape[0]
        except ImageError as error:
            message, refused = str(error), refused + 1
        else:
            assert channels == 3
            continue
        assert folder.files[index] in message
    if damage > 8:
        assert refused > 0


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    """A few bytes that announce ten thousand million pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(bomb)
    with pytest.raises(ImageError, match="DecompressionBomb"):
        ImageFolder(tmp_path).read(0)


def test_sizes(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "val/ape/2.png").write_bytes(picture((20, 30), 9))
    folder = ImageFolder(tmp_path, "val")
    with pytest.raises(ImageError, match=r"differ in size, such as \(6, 8\) and \(30, 20\)"):
        load_images(folder)
    assert load_images(folder, size=5).images.shape == (7, 3, 5, 5)
    wide = np.zeros((3, 4, 8), np.uint8)
    wide[:, :, 2:6] = 200  # the middle square
    assert (centre_square(wide, 4) == 200).all()
    with pytest.raises(ValueError, match="size must be at least 1"):
        centre_square(wide, 0)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder and no zip file"):
        ImageFolder(tmp_path / "none.zip")
    with pytest.raises(FileNotFoundError, match=r"no folder .*train"):
        ImageFolder(tmp_path, "train")
    with pytest.raises(ImageError, match="holds no images as CLASS/NAME"):
        ImageFolder(tmp_path)
    (tmp_path / "broken.zip").write_bytes(b"PK and no more")
    with pytest.raises(ImageError, match="not a readable zip file"):
        ImageFolder(tmp_path / "broken.zip")


def test_damaged_member_of_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "one.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", picture((40, 30)))
    content = bytearray(path.read_bytes())
    content[60:70] = b"0123456789"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a/1.png is not a readable image: .*CRC"):
        ImageFolder(path).read(0)


def _read(folder: ImageFolder, index: int) -> int:
    return int(folder.read(index).sum())


def test_each_process_opens_the_zip_for_itself(tmp_path: Path) -> None:
    root = tmp_path / "images"
    tree(root, (64, 48))
    folder = ImageFolder(packed(root), "val")
    here = [_read(folder, index) for index in range(6)]
    assert [_read(copy.deepcopy(folder), index) for index in range(6)] == here
    tasks = [(folder, index % 6) for index in range(60)]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.starmap(_read, tasks) == [here[index] for _, index in tasks]


def test_imagenet_samples(imagenet_zip: Path) -> None:
    folder = ImageFolder(imagenet_zip, "val")
    assert len(folder) == 92 == len(folder.classes)
    assert folder.classes[0].startswith("n0")
    image = folder.read(0)
    assert image.shape[0] == 3
    assert min(image.shape[1:]) > 100
    assert centre_square(image, 224).shape == (3, 224, 224)
