import copy
import functools
import io
import multiprocessing
import os
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ttfs_fast.data import ImageError, ImageFolder, StreamedImages, load_images
from ttfs_fast.data.folders import center_square
from ttfs_fast.training.datasets import digest

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


def test_folder_without_split_and_gray_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        gray = pillow.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
        gray.save(tmp_path / name / "1.png")
    images = load_images(ImageFolder(tmp_path))
    assert images.images.shape == (2, 3, 3, 4)
    assert np.array_equal(images.images[0, 0], images.images[0, 2])


def tiff(bits: int, photometric: int, width: int, content: bytes) -> bytes:
    """A gray TIFF of one row."""
    entries = [(256, width), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 122)]
    entries += [(277, 1), (278, 1), (279, len(content))]
    header = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    table = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries)
    return header + table + struct.pack("<I", 0) + content


def stored(root: Path, picture: Any, name: str = "1.png", **how: Any) -> np.ndarray[Any, Any]:
    """The picture, written into a class folder and read back."""
    (root / "a").mkdir(exist_ok=True)
    content = io.BytesIO()
    picture.save(content, Path(name).suffix[1:].replace("tif", "tiff"), **how)
    for file in (root / "a").iterdir():
        file.unlink()
    (root / "a" / name).write_bytes(content.getvalue())
    return ImageFolder(root).read(0)


SHADES = [0, 1, 127, 128, 254, 255]


@pytest.mark.parametrize("name", ["1.png", "1.tif", "1.ppm"])
def test_16_bits_are_scaled_by_their_own_range(tmp_path: Path, name: str) -> None:
    wide = pillow.fromarray((np.array([SHADES]) * 257).astype(np.uint16))
    assert wide.mode == "I;16"
    image = stored(tmp_path, wide, name)
    assert image.shape == (3, 1, 6)
    assert image.tolist() == [[SHADES]] * 3


def test_gray_of_12_bits_and_of_dark_zeros(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / "a" / "1.tif"
    folder_of = {
        tiff(12, 1, 2, b"\x80\x0f\xff"): [128, 255],  # 0x800, 0xfff
        tiff(16, 0, 2, struct.pack("<2H", 0, 65535)): [255, 0],
        tiff(8, 0, 2, bytes([0, 255])): [255, 0],
        tiff(4, 1, 2, bytes([0x1F])): [17, 255],
        tiff(1, 1, 2, bytes([0x40])): [0, 255],
    }
    for content, expected in folder_of.items():
        path.write_bytes(content)
        assert ImageFolder(tmp_path).read(0).tolist() == [[expected]] * 3


def test_each_pillow_mode_keeps_its_gray_levels(tmp_path: Path) -> None:
    gray = pillow.fromarray(np.array([SHADES], np.uint8))
    for mode in ("L", "LA", "P", "RGB", "RGBA"):
        assert stored(tmp_path, gray.convert(mode)).tolist() == [[SHADES]] * 3, mode
    black = gray.point(lambda shade: 255 * (shade > 127), "1")
    assert stored(tmp_path, black).tolist() == [[[0, 0, 0, 255, 255, 255]]] * 3
    # Alpha is left out; inks are mixed as Pillow mixes them, without a color profile.
    clear = pillow.fromarray(np.array([[[10, 20, 30, 0], [40, 50, 60, 255]]], np.uint8))
    assert stored(tmp_path, clear)[:, 0].tolist() == [[10, 40], [20, 50], [30, 60]]
    inks = pillow.fromarray(np.array([[[255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), "CMYK")
    assert stored(tmp_path, inks, "1.tif")[:, 0].tolist() == [[0, 0], [255, 0], [255, 0]]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_images_of_unknown_range_are_refused(tmp_path: Path, kind: type) -> None:
    with pytest.raises(ImageError, match=r"1.tif .* mode [FI], whose range .* 8 or 16 bits"):
        stored(tmp_path, pillow.fromarray(np.ones((2, 3), kind)), "1.tif")


@pytest.mark.parametrize("name", ["1.png", "1.tif", "1.webp"])
def test_orientation_is_applied(tmp_path: Path, name: str) -> None:
    upright = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    on_file = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in on_file.items():
        exif = pillow.Exif()
        exif[0x112] = orientation
        how = {"lossless": True} if name == "1.webp" else {}
        rgb = pillow.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
        found = stored(tmp_path, rgb, name, exif=exif, **how)
        assert found.tolist() == [upright.tolist()] * 3, orientation
    # Of 16 bits, too; and metadata that cannot be read turn nothing.
    wide = pillow.fromarray(upright[::-1, ::-1].astype(np.uint16) * 257)
    if name == "1.png":
        exif[0x112] = 3
        assert stored(tmp_path, wide, name, exif=exif).tolist() == [upright.tolist()] * 3
        rgb = pillow.fromarray(upright).convert("RGB")
        found = stored(tmp_path, rgb, name, exif=b"Exif\0\0no such thing")
        assert found.tolist() == [upright.tolist()] * 3


@pytest.mark.parametrize("zipped", [False, True])
def test_a_class_without_images_is_refused(tmp_path: Path, zipped: bool) -> None:
    """Left out, it would shift the numbers of the classes after it."""
    root = tmp_path / "images"
    tree(root)
    (root / "val" / "bat").mkdir()
    (root / "val" / "bat" / "1.heic").write_bytes(b"another ending")
    (root / "val" / ".cache").mkdir()
    with pytest.raises(ImageError, match=r"val: the class folders bat hold no images as val/CLASS"):
        ImageFolder(packed(root) if zipped else root, "val")
    (root / "val" / "bat" / "1.heic").unlink()
    if not zipped:
        with pytest.raises(ImageError, match="the class folders bat hold no images"):
            ImageFolder(root, "val")


@pytest.mark.parametrize("ending", ["tif", "TIFF", "ppm", "gif", "webp", "pgm"])
def test_image_file_extensions(tmp_path: Path, ending: str) -> None:
    tree(tmp_path)
    kind = {"tif": "tiff", "pgm": "ppm"}.get(ending, ending.lower())
    (tmp_path / "val" / "bat").mkdir()
    (tmp_path / "val" / "bat" / f"1.{ending}").write_bytes(picture(value=90, kind=kind))
    folder = ImageFolder(tmp_path, "val")
    assert folder.classes == ("ape", "bat", "bee", "cow")
    image = folder.read(folder.files.index(f"val/bat/1.{ending}"))
    assert abs(int(image[0, -1, 0]) - 90) <= 2


def test_class_folders_that_are_links(tmp_path: Path) -> None:
    root = tmp_path / "images"
    files = tree(tmp_path / "store")
    (root / "val").mkdir(parents=True)
    for name in ("ape", "bee", "cow"):
        (root / "val" / name).symlink_to(tmp_path / "store" / "val" / name)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "9.png").write_bytes(picture(value=9))
    (tmp_path / "store" / "val" / "bee" / "more").symlink_to("../../../more")
    folder = ImageFolder(root, "val")
    assert folder.classes == ("ape", "bee", "cow")
    assert sorted(folder.files) == sorted([*files, "val/bee/more/9.png"])
    assert folder.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert folder.read(folder.files.index("val/bee/more/9.png"))[0, -1, 0] == 9


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    root = tmp_path / "images"
    files = tree(root)
    for place, target in (
        ("val/ape/again", "."),
        ("val/ape/up", ".."),  # holds other classes
        ("val/ape/top", "../.."),
        ("val/ape/inner", "deep"),
        ("val/ape/deep/back", "../../ape"),
    ):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).symlink_to(target)
    (tmp_path / "elsewhere" / "dog").mkdir(parents=True)
    (tmp_path / "elsewhere" / "dog" / "1.png").write_bytes(picture())
    (tmp_path / "elsewhere" / "dog" / "up").symlink_to("..")
    (tmp_path / "elsewhere" / "other.png").write_bytes(picture())
    (root / "val" / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    folder = ImageFolder(root, "val")
    assert sorted(folder.files) == sorted([*files, "val/dog/1.png"])
    (root / "val" / "eel").symlink_to(root)
    with pytest.raises(ImageError, match="class folders eel hold no images"):
        ImageFolder(root, "val")
    (root / "val" / "eel").unlink()
    (root / "val" / "eel").symlink_to("eel")
    with pytest.raises(ImageError, match=r"val/eel is a broken link"):
        ImageFolder(root, "val")


def test_unreadable_class_folder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    scanned = {"listdir": os.listdir, "scandir": os.scandir}

    def refuse(name: str, path: Path) -> Any:
        if Path(path).name == "bee":
            raise PermissionError(13, "Permission denied", str(path))
        return scanned[name](path)

    for name in scanned:  # root may read every folder: the error is made here
        monkeypatch.setattr(os, name, functools.partial(refuse, name))
    with pytest.raises(PermissionError, match="bee"):
        ImageFolder(tmp_path, "val")


@pytest.mark.parametrize("zipped", [False, True])
def test_labels_follow_the_names_that_are_given(tmp_path: Path, zipped: bool) -> None:
    root = tmp_path / "images"
    tree(root)
    path = packed(root) if zipped else root
    folder = ImageFolder(path, "val", ("fox", "cow", "ape", "bee"))
    assert folder.classes == ("fox", "cow", "ape", "bee")
    assert folder.labels.tolist() == [2, 2, 3, 3, 1, 1]
    assert load_images(folder).labels.tolist() == folder.labels.tolist()
    with pytest.raises(ValueError, match=r"val: the classes bee are not among the 2 .* ape, cow"):
        ImageFolder(path, "val", ("ape", "cow"))


def test_a_folder_feeds_torchs_loader(tmp_path: Path) -> None:
    tree(tmp_path)
    folder = ImageFolder(tmp_path, "val", size=4)
    assert isinstance(folder, torch.utils.data.Dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as torch's, of memory that may not be written
        (images, labels), last = torch.utils.data.DataLoader(folder, batch_size=5)
    assert images.shape == (5, 3, 4, 4)
    assert images.dtype == torch.uint8
    assert [*labels.tolist(), *last[1].tolist()] == folder.labels.tolist()
    assert images[0].numpy().tolist() == center_square(folder.read(0), 4).tolist()
    whole, label = ImageFolder(tmp_path, "val")[-1]
    assert whole.shape == (3, 6, 8)
    assert label == 2
    assert sum(1 for _ in folder) == 6
    with pytest.raises(ValueError, match="size must be at least 1; got 0"):
        ImageFolder(tmp_path, "val", size=0)


def test_a_class_without_readable_images_is_an_error(tmp_path: Path) -> None:
    tree(tmp_path)
    for name in ("0.png", "1.JPEG"):
        (tmp_path / "val" / "bee" / name).write_bytes(b"no image")
    with pytest.raises(ImageError, match="no image of the classes bee can be read: replace them"):
        load_images(ImageFolder(tmp_path, "val"), corrupt="skip")


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "images")
    digests = []
    for name in (b"\xff.png", b"\xfe.png"):
        path = Path(os.fsdecode(root + name + b"/val/ape/" + name))
        path.parent.mkdir(parents=True)
        path.write_bytes(picture((8, 6), 7))
        folder = ImageFolder(path.parents[2], "val")
        assert folder.read(0).shape == (3, 6, 8)
        digests.append(digest(StreamedImages(folder, 1, 8)))
    assert digests[0] != digests[1]


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


def test_a_decompression_bomb_is_rejected(tmp_path: Path) -> None:
    """A few bytes that declare ten thousand million pixels."""
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
    assert (center_square(wide, 4) == 200).all()
    with pytest.raises(ValueError, match="size must be at least 1"):
        center_square(wide, 0)


def test_missing_folders_are_named(tmp_path: Path) -> None:
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
    assert center_square(image, 224).shape == (3, 224, 224)


def test_a_name_twice_in_a_zip_file_counts_once(tmp_path: Path) -> None:
    """Python's zipfile writes a second entry when a file is added again."""
    tree(tmp_path / "images")
    path = packed(tmp_path / "images")
    before = ImageFolder(path, "val")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("val/ape/0.png", picture(value=9))
    assert ImageFolder(path, "val").files == before.files


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_entries_that_unpack_without_a_limit_are_refused(tmp_path: Path, method: int) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("val/cat/a.png", bytes(1 << 20))
    with pytest.raises(ImageError, match=r"a\.png.* compressed otherwise than by deflate"):
        load_images(ImageFolder(path, "val"), size=8)
