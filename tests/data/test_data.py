import functools
import gzip
import hashlib
import http.server
import importlib.util
import os
import pwd
import struct
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ttfs_fast.data import (
    DownloadError,
    IdxError,
    ImageSet,
    download_cifar10,
    download_mnist,
    find_data_root,
    load,
    load_cifar10,
    load_digits,
    load_mnist,
    mnist,
    read_idx,
    write_idx,
)

DATA_ROOT = os.environ.get("TTFS_FAST_DATA", "")
needs_mnist = pytest.mark.skipif(
    not any(Path(DATA_ROOT, sub).glob("t10k-images*") for sub in ("", "mnist", "MNIST/raw"))
    if DATA_ROOT
    else True,
    reason="needs MNIST's IDX files in the folder that TTFS_FAST_DATA names",
)
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def small_images() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    return images, np.arange(12, dtype=np.uint8) % 10


def write_small_mnist(folder: Path, suffix: str = ".gz", dot: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = small_images()
    for name, array in zip(NAMES, (images, labels, images[:5], labels[:5]), strict=True):
        write_idx(folder / ((name.replace("-idx", ".idx") if dot else name) + suffix), array)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of a server on this machine."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def expect_small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the checksums be those of the small files."""
    write_small_mnist(tmp_path / "plain", suffix="")
    for table in (mnist._IMAGES, mnist._LABELS):
        for split, source in list(table.items()):
            content = (tmp_path / "plain" / source.name).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            small = mnist._Source(source.name, source.dimensions, len(content), digest)
            monkeypatch.setitem(table, split, small)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8", ">f4"])
def test_idx_round_trip(tmp_path: Path, suffix: str, dtype: str) -> None:
    array = np.arange(-60, 60).reshape(2, 3, 4, 5).astype(dtype)
    path = tmp_path / f"array{suffix}"
    write_idx(path, array)
    back = read_idx(path)
    assert back.dtype == np.dtype(dtype).newbyteorder("=")
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_idx_layout_is_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_idx(path, np.array([[1, -2]], np.int16))
    assert path.read_bytes() == bytes.fromhex("00000b02 00000001 00000002 0001 fffe")


def test_idx_file_without_values(tmp_path: Path) -> None:
    write_idx(tmp_path / "a.gz", np.empty((0, 28, 28), np.uint8))
    assert read_idx(tmp_path / "a.gz").shape == (0, 28, 28)


def test_idx_gzip_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    images, _ = small_images()
    write_idx(tmp_path / "a.gz", images)
    write_idx(tmp_path / "b.gz", images)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_idx_rejects_unsupported_arrays(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="int64"):
        write_idx(tmp_path / "a", np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="dimensions"):
        write_idx(tmp_path / "a", np.zeros((), np.uint8))
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_truncation_is_one_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    write_idx(path, np.random.default_rng(1).integers(0, 256, (3, 5, 7), dtype=np.uint8))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(IdxError, match=f"cut{suffix}: .*truncated"):
            read_idx(path)


def test_every_flipped_gzip_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "flipped.gz"
    array = np.random.default_rng(2).integers(0, 3, (4, 5, 6), dtype=np.uint8)
    write_idx(path, array)
    content = path.read_bytes()
    noticed = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            back = read_idx(path)
        except IdxError as error:
            assert str(path) in str(error)  # noqa: PT017
            noticed += 1
        else:  # gzip's time stamp, compression hint and system say nothing about the content
            assert 4 <= place < 10
            np.testing.assert_array_equal(back, array)
    assert noticed >= len(content) - 6


@pytest.mark.parametrize("place", range(4))
def test_wrong_magic_is_named(tmp_path: Path, place: int) -> None:
    path = tmp_path / "magic"
    write_idx(path, np.zeros((2, 2), np.uint8))
    content = bytearray(path.read_bytes())
    content[place] ^= 0xF0
    path.write_bytes(content)
    with pytest.raises(IdxError, match=r"magic: not an IDX file: it starts with"):
        read_idx(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_trailing_bytes_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"long{suffix}"
    write_idx(tmp_path / "long", np.zeros((2, 2), np.uint8))
    content = (tmp_path / "long").read_bytes() + b"\0"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(IdxError, match="bytes follow the 4 that its header declares"):
        read_idx(path)


def test_trailing_bytes_after_gzip_data_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "long.gz"
    write_idx(path, np.zeros((2, 2), np.uint8))
    path.write_bytes(path.read_bytes() + b"rubbish")
    with pytest.raises(IdxError, match=r"long\.gz: damaged gzip data"):
        read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(1 << 31,), (1 << 16, 1 << 15), (0xFFFFFFFF,) * 8])
def test_huge_declared_sizes_allocate_nothing(
    tmp_path: Path, shape: tuple[int, ...], packed: bool
) -> None:
    header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    path = tmp_path / "absurd"
    path.write_bytes(gzip.compress(header + bytes(100)) if packed else header + bytes(100))
    tracemalloc.start()
    try:
        with pytest.raises(IdxError, match=r"absurd: truncated or damaged: its header declares"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_unpacking_stops_at_the_declared_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    header = bytes([0, 0, 8, 1]) + struct.pack(">I", 10)
    path.write_bytes(gzip.compress(header + bytes(200_000_000), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(IdxError, match="bytes follow the 10"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_image_set_shares_its_memory_with_tensors() -> None:
    images = np.zeros((2, 1, 3, 3), np.uint8)
    images_set = ImageSet(images, np.array([0, 1]), "two", ("a", "b"))
    assert len(images_set) == 2
    images[1, 0, 2, 2] = 7
    assert images_set.images_as_tensor()[1, 0, 2, 2] == 7
    assert images_set.labels_as_tensor().dtype == torch.int64


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (np.zeros((2, 1, 3, 3)), np.zeros(2, np.int64), TypeError, "uint8; got float64"),
        (np.zeros((2, 1, 3, 3), "u1"), np.zeros(2, "u1"), TypeError, "int64; got uint8"),
        (np.zeros((2, 3, 3), "u1"), np.zeros(2, np.int64), ValueError, r"\(N, C, H, W\)"),
        (np.zeros((2, 1, 3, 3), "u1"), np.zeros(3, np.int64), ValueError, r"\(2,\)"),
        (np.zeros((2, 1, 3, 3), "u1"), np.array([0, 2]), ValueError, r"0\.\.1; got 0\.\.2"),
        (np.zeros((2, 1, 3, 3), "u1"), np.array([-1, 0]), ValueError, r"got -1\.\.0"),
    ],
)
def test_image_set_rejects_invalid_arrays(
    images: Any, labels: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"toy: .*{message}"):
        ImageSet(images, labels, "toy", ("a", "b"))


def test_digits_are_the_1797_of_scikit_learn() -> None:
    train, test = load_digits(train=True, size=8), load_digits(train=False, size=8)
    assert (len(train), len(test)) == (1437, 360)
    images = np.concatenate([train.images, test.images])
    labels = np.concatenate([train.labels, test.labels])
    assert images.shape == (1797, 1, 8, 8)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert labels[:12].tolist() == [*range(10), 0, 1]
    original = np.rint(images / (255 / 16)).astype(np.int64)
    np.testing.assert_array_equal(np.rint(original * (255 / 16)), images)
    assert original[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert original.sum() == 561718


def test_digits_are_enlarged_within_a_margin() -> None:
    digits = load_digits(train=False)
    assert digits.images.shape == (360, 1, 28, 28)
    assert digits.classes == tuple("0123456789")
    border = digits.images.copy()
    border[:, :, 4:24, 4:24] = 0
    assert border.max() == 0
    assert digits.images.max() == 255
    center = digits.images[:, 0, 4:24, 4:24].astype(float).mean()
    assert center == pytest.approx(load_digits(train=False, size=8).images.mean(), rel=0.01)
    full = load_digits(train=False, margin=0).images
    assert full[:, :, 0].max() > 0


@pytest.mark.parametrize(("size", "margin"), [(8, 0), (12, 1), (16, 2), (28, 4), (32, 4)])
def test_default_margin(size: int, margin: int) -> None:
    default, given = load_digits(False, size), load_digits(False, size, margin)
    assert default.images.shape == (360, 1, size, size)
    np.testing.assert_array_equal(default.images, given.images)


@pytest.mark.parametrize(("size", "margin"), [(7, None), (28, 11), (28, -1), (8, 1)])
def test_digits_refuse_sizes_below_the_original(size: int, margin: int | None) -> None:
    with pytest.raises(ValueError, match="must be"):
        load_digits(size=size, margin=margin)


@pytest.mark.usefixtures("no_data_folders")
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("subfolder", [".", "mnist", "MNIST/raw"])
def test_mnist_is_found_under_each_name(
    tmp_path: Path, subfolder: str, suffix: str, dot: bool
) -> None:
    write_small_mnist(tmp_path / subfolder, suffix, dot)
    images, labels = small_images()
    train, test = load_mnist(tmp_path, train=True), load("mnist", tmp_path, train=False)
    np.testing.assert_array_equal(train.images[:, 0], images)
    np.testing.assert_array_equal(train.labels, labels)
    np.testing.assert_array_equal(test.images[:, 0], images[:5])
    assert test.labels.dtype == np.int64


@pytest.mark.usefixtures("no_data_folders")
def test_mnist_is_found_through_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_data_root() is None
    write_small_mnist(tmp_path / "sets" / "mnist")
    for folder in (tmp_path / "sets", tmp_path / "sets" / "mnist"):
        monkeypatch.setenv("TTFS_FAST_DATA", str(folder))
        assert find_data_root() == folder
        assert len(load_mnist()) == 12


@pytest.mark.usefixtures("no_data_folders")
def test_a_given_folder_is_the_only_one_looked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped folder is an error; no other folder is used instead."""
    write_small_mnist(tmp_path / "sets" / "mnist")
    write_small_mnist(tmp_path / "cache" / "ttfs_fast" / "mnist")
    assert len(load_mnist()) == 12
    monkeypatch.setenv("TTFS_FAST_DATA", str(tmp_path / "sets"))
    (tmp_path / "empty").mkdir()
    for load_set in (load_mnist, load_cifar10):
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*/stes: name the folder"):
            load_set(tmp_path / "stes")
        with pytest.raises(FileNotFoundError, match=r"looked in [^,]*/empty, each"):
            load_set(tmp_path / "empty")
    monkeypatch.setenv("TTFS_FAST_DATA", str(tmp_path / "stes"))
    with pytest.raises(FileNotFoundError, match=r"no folder .*/stes, which TTFS_FAST_DATA names"):
        load_mnist()
    assert len(load_mnist(tmp_path / "sets")) == 12


@pytest.mark.usefixtures("no_data_folders")
def test_a_user_without_a_home_reads_data_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs as a number which no account has."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    write_small_mnist(tmp_path / "sets" / "mnist")
    assert len(load_mnist(tmp_path / "sets")) == 12
    with pytest.raises(FileNotFoundError, match="looked in no folder"):
        load_mnist()
    with pytest.raises(FileNotFoundError, match="no folder ~/sets"):
        load_mnist("~/sets")
    for download in (download_mnist, download_cifar10):
        with pytest.raises(DownloadError, match=r"no home folder .* pass a folder as root, or set"):
            download()
    monkeypatch.setenv("TTFS_FAST_DATA", str(tmp_path / "sets"))
    assert len(load_mnist()) == 12


@pytest.mark.usefixtures("no_data_folders")
def test_missing_mnist_names_folders_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named").mkdir()
    monkeypatch.setenv("TTFS_FAST_DATA", str(tmp_path / "named"))
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist()
    for part in ("named", "cache", "MNIST/raw", "download=True", "TTFS_FAST_DATA"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("no_data_folders")
def test_mnist_refuses_files_that_do_not_belong_together(tmp_path: Path) -> None:
    write_small_mnist(tmp_path)
    images, labels = small_images()
    write_idx(tmp_path / f"{NAMES[1]}.gz", labels[:-1])
    with pytest.raises(IdxError, match=r"train-labels.*11 labels for the 12 images"):
        load_mnist(tmp_path)
    write_idx(tmp_path / f"{NAMES[1]}.gz", labels + np.uint8(1))
    with pytest.raises(IdxError, match="label 10"):
        load_mnist(tmp_path)
    write_idx(tmp_path / f"{NAMES[1]}.gz", images)
    with pytest.raises(IdxError, match=r"train-labels.*expected are uint8 values of 1 dimension$"):
        load_mnist(tmp_path)
    (tmp_path / f"{NAMES[0]}.gz").write_bytes(b"<html>")
    with pytest.raises(IdxError, match=r"train-images.*not an IDX file"):
        load_mnist(tmp_path)


@pytest.mark.usefixtures("no_data_folders", "expect_small_mnist")
def test_download_from_the_second_mirror(
    mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = mirror
    write_small_mnist(served / "good")
    monkeypatch.setattr(mnist, "MIRRORS", (address + "absent/", address + "good/"))
    train = load_mnist(tmp_path / "root", train=True, download=True)
    np.testing.assert_array_equal(train.images[:, 0], small_images()[0])
    stored = sorted(path.name for path in (tmp_path / "root" / "mnist").iterdir())
    assert stored == sorted(f"{name}.gz" for name in NAMES[:2])
    monkeypatch.setattr(mnist, "MIRRORS", ())
    assert len(load_mnist(tmp_path / "root", train=True, download=True)) == 12


@pytest.mark.usefixtures("no_data_folders", "expect_small_mnist")
def test_download_goes_to_the_cache_folder_by_default(
    mirror: tuple[str, Path], tmp_path: Path
) -> None:
    address, served = mirror
    write_small_mnist(served)
    folder = download_mnist(mirrors=[address])
    assert folder == tmp_path / "cache" / "ttfs_fast" / "mnist"
    assert (len(load_mnist()), len(load_mnist(train=False))) == (12, 5)


@pytest.mark.usefixtures("no_data_folders", "expect_small_mnist")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(b"something else"), "SHA-256"),
        (b"<html>no such file</html>", "Not a gzipped file"),
        (gzip.compress(bytes(1000))[:-4], "damaged gzip data"),
        (bytes(1 << 18), "sends more than"),
    ],
    # By name: gzip writes the time into its header, and no two workers may name a test differently.
    ids=["other-file", "not-gzip", "cut-short", "too-large"],
)
def test_wrong_downloads_leave_no_files(
    mirror: tuple[str, Path], tmp_path: Path, content: bytes, reason: str
) -> None:
    address, served = mirror
    (served / f"{NAMES[0]}.gz").write_bytes(content)
    with pytest.raises(DownloadError, match=reason) as caught:
        download_mnist(tmp_path / "root", train=True, mirrors=[address])
    assert address in str(caught.value)
    assert "TTFS_FAST_DATA" in str(caught.value)
    assert not (tmp_path / "root").exists()


@pytest.mark.usefixtures("no_data_folders")
def test_failed_download_names_the_mirrors(
    mirror: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = mirror
    monkeypatch.setattr(mnist, "MIRRORS", (address, "http://127.0.0.1:1/"))
    with pytest.raises(DownloadError) as caught:
        load_mnist(tmp_path / "root", download=True)
    for part in (address, "404", "http://127.0.0.1:1/", "refused", str(tmp_path / "root")):
        assert part in str(caught.value)


@pytest.mark.usefixtures("no_data_folders", "expect_small_mnist")
def test_a_folder_that_cannot_be_made_is_named(mirror: tuple[str, Path], tmp_path: Path) -> None:
    address, served = mirror
    write_small_mnist(served)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"cannot be written to .*file/mnist"):
        download_mnist(tmp_path / "file", mirrors=[address])


@pytest.mark.usefixtures("no_data_folders", "expect_small_mnist")
@pytest.mark.parametrize("with_rich", [False, True])
def test_download_progress_goes_to_standard_error(
    mirror: tuple[str, Path],
    tmp_path: Path,
    with_rich: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if with_rich and importlib.util.find_spec("rich") is None:
        pytest.skip("needs rich, from the extra ttfs_fast[train]")
    if not with_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    address, served = mirror
    write_small_mnist(served)
    download_mnist(tmp_path, train=False, mirrors=[address])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "t10k-images" in captured.err
    assert "fetching http" in captured.err  # which is no terminal here
    assert "fetched http" in captured.err


@needs_mnist
@pytest.mark.usefixtures("no_data_folders")
def test_real_mnist_has_its_published_counts() -> None:
    train, test = load_mnist(DATA_ROOT, train=True), load_mnist(DATA_ROOT, train=False)
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert np.bincount(test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)


@needs_mnist
@pytest.mark.usefixtures("no_data_folders")
def test_real_mnist_passes_the_download_checks(mirror: tuple[str, Path], tmp_path: Path) -> None:
    address, served = mirror
    for table in (mnist._IMAGES, mnist._LABELS):
        source = table[False]
        paths = mnist._find([source], mnist.data_folders(DATA_ROOT))
        assert paths is not None
        write_idx(served / f"{source.name}.gz", read_idx(paths[0]))
    download_mnist(tmp_path, train=False, mirrors=[address])
    assert len(load_mnist(tmp_path, train=False)) == 10_000


def test_an_image_set_feeds_torchs_loader() -> None:
    digits = load("digits")
    assert isinstance(digits, torch.utils.data.Dataset)
    loader = torch.utils.data.DataLoader(digits, batch_size=500)
    batches = list(loader)
    assert torch.equal(torch.cat([images for images, _ in batches]), digits.images_as_tensor())
    assert torch.equal(torch.cat([labels for _, labels in batches]), digits.labels_as_tensor())
    image, label = digits[np.int64(-1)]
    assert torch.equal(image, digits.images_as_tensor()[-1])
    assert label == digits.labels[-1]
    assert sum(1 for _ in digits) == len(digits)
    with pytest.raises(TypeError):
        digits[:3]  # type: ignore[index]


def test_classes_are_found_by_name() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    pets = ImageSet(images, np.array([0, 1, 2, 2, 1, 0]), "pets", ("cat", "dog", "eel"))
    known = ("ape", "eel", "cat", "fox", "dog")
    found = pets.with_classes(known)
    assert found.classes == known
    assert found.labels.tolist() == [2, 4, 1, 1, 4, 2]
    assert found.images is images
    with pytest.raises(ValueError, match=r"pets: the classes eel are not among the 2 .*, dog, cat"):
        pets.with_classes(("dog", "cat"))


def test_load_knows_its_names() -> None:
    assert len(load("digits")) == 1437
    assert len(load("digits", train=False)) == 360
    with pytest.raises(ValueError, match="'mnist', 'digits'"):
        load("letters")
