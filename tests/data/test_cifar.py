import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ttfs_fast.data import (
    CifarError,
    DownloadError,
    ImageError,
    cifar,
    download_cifar10,
    load,
    load_cifar10,
)
from ttfs_fast.data.cifar import CIFAR10_CLASSES

pytestmark = pytest.mark.usefixtures("no_data_folders")

BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]


def records(count: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    content = generator.integers(0, 256, (count, 3073), np.uint8)
    content[:, 0] = generator.integers(0, 10, count)
    return content


def write_binary(folder: Path, count: int = 4) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        name: records(count, index) for index, name in enumerate([*BATCHES, "test_batch.bin"])
    }
    for name, content in written.items():
        content.tofile(folder / name)
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_CLASSES) + "\n\n")
    return written


@pytest.mark.parametrize("subfolder", ["", "cifar10", "cifar-10-batches-bin"])
def test_binary_format(tmp_path: Path, subfolder: str) -> None:
    written = write_binary(tmp_path / subfolder)
    train, test = load_cifar10(tmp_path), load("cifar10", tmp_path, train=False)
    assert train.images.shape == (20, 3, 32, 32)
    assert test.images.shape == (4, 3, 32, 32)
    assert train.classes == CIFAR10_CLASSES
    second = written["data_batch_2.bin"][1]
    assert train.labels[5] == second[0]
    # A record is its label, then red, green and blue, each row by row.
    assert train.images[5, 0, 0, 1] == second[2]
    assert train.images[5, 1, 0, 0] == second[1 + 1024]
    assert train.images[5, 2, 31, 31] == second[3072]
    assert np.array_equal(test.labels, written["test_batch.bin"][:, 0])


def test_found_through_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_binary(tmp_path / "sets" / "cifar10")
    monkeypatch.setenv("TTFS_FAST_DATA", str(tmp_path / "sets"))
    assert len(load_cifar10(train=False)) == 4


def test_missing_cifar_names_the_folders_searched(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_batch_1.bin.*were not found; looked in"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 3072, 3074, 9000])
def test_truncated_files_are_rejected(tmp_path: Path, kept: int) -> None:
    write_binary(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CifarError, match=rf"data_batch_3.bin: has {kept} bytes; .*3073"):
        load_cifar10(tmp_path)


def test_wrong_label_is_rejected(tmp_path: Path) -> None:
    content = write_binary(tmp_path)["test_batch.bin"]
    content[2, 0] = 10
    content.tofile(tmp_path / "test_batch.bin")
    with pytest.raises(CifarError, match=r"holds the label 10; CIFAR-10's are 0..9"):
        load_cifar10(tmp_path, train=False)


def archive_of(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, "cifar-10-batches-bin")
    return packed.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """An archive in CIFAR-10's layout, served by this machine."""
    write_binary(tmp_path / "source")
    content = archive_of(tmp_path / "source")
    served = tmp_path / "served"
    served.mkdir()
    (served / "cifar.tar.gz").write_bytes(content)
    monkeypatch.setattr(cifar, "ARCHIVE_SIZE", len(content))
    monkeypatch.setattr(cifar, "ARCHIVE_SHA256", hashlib.sha256(content).hexdigest())
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_port}", served
        http_server.shutdown()
        thread.join()


def test_download(server: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = server
    root = tmp_path / "root"
    archives = [f"{address}/none.tar.gz", f"{address}/cifar.tar.gz"]
    folder = download_cifar10(root, archives=archives)
    assert folder == root / "cifar10"
    assert {path.name for path in folder.iterdir()} == {
        *BATCHES,
        "test_batch.bin",
        "batches.meta.txt",
    }
    assert len(load_cifar10(root)) == 20
    # Whole already: nothing is fetched.
    assert download_cifar10(root, archives=[]) == folder
    (folder / "test_batch.bin").unlink()
    download_cifar10(root, archives=archives)
    assert len(load_cifar10(root, train=False)) == 4


def test_wrong_archives_leave_no_files(server: tuple[str, Path], tmp_path: Path) -> None:
    address, served = server
    whole = (served / "cifar.tar.gz").read_bytes()
    root = tmp_path / "root"
    for content in (whole[:-1], whole[:-1] + b"x", whole + b"more", b""):
        (served / "cifar.tar.gz").write_bytes(content)
        with pytest.raises(DownloadError, match=r"could not be fetched.*(SHA-256|more than)"):
            download_cifar10(root, archives=[f"{address}/cifar.tar.gz"])
        assert not (root / "cifar10").exists()


def test_archive_without_a_file_is_rejected(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, served = server
    (tmp_path / "source" / "test_batch.bin").unlink()
    content = archive_of(tmp_path / "source")
    (served / "cifar.tar.gz").write_bytes(content)
    monkeypatch.setattr(cifar, "ARCHIVE_SIZE", len(content))
    monkeypatch.setattr(cifar, "ARCHIVE_SHA256", hashlib.sha256(content).hexdigest())
    with pytest.raises(DownloadError, match=r"cannot be unpacked into .*test_batch.bin"):
        download_cifar10(tmp_path / "root", archives=[f"{address}/cifar.tar.gz"])


def test_published_checksum_is_well_formed() -> None:
    assert len(cifar.ARCHIVE_SHA256) == 64
    assert int(cifar.ARCHIVE_SHA256, 16) > 0
    assert cifar.ARCHIVES[0].startswith("https://")


def test_zip_of_images(tmp_path: Path) -> None:
    """Images in class folders inside cifar10-images.zip replace the binary files."""
    image = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")
    with zipfile.ZipFile(tmp_path / "cifar10-images.zip", "w") as archive:
        for split in ("train", "test"):
            for label, name in enumerate(CIFAR10_CLASSES):
                for number in range(3):
                    content = io.BytesIO()
                    picture = np.full((32, 32, 3), 20 * label + number, np.uint8)
                    image.fromarray(picture).save(content, "png")
                    archive.writestr(f"{split}/{name}/{number:04}.png", content.getvalue())
    for split in (True, False):
        images = load_cifar10(tmp_path, train=split)
        assert images.images.shape == (30, 3, 32, 32)
        assert len(set(images.labels[:10].tolist())) > 3  # mixed
        assert np.array_equal(images.images[:, 0, 0, 0] // 20, images.labels)
    write_binary(tmp_path)  # the binary files come first
    assert len(load_cifar10(tmp_path)) == 20


def test_other_zip_files_are_rejected(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "cifar10-images.zip", "w") as archive:
        archive.writestr("train/cat/1.png", b"")
    with pytest.raises(CifarError, match="holds the classes"):
        load_cifar10(tmp_path)
    with pytest.raises(ImageError, match="holds no images as test/CLASS/NAME"):
        load_cifar10(tmp_path, train=False)


def test_real_images_zip(cifar10_zip: Path) -> None:
    """The file as it is shared: number and shape of the images, classes, spread of the pixels."""
    test = load_cifar10(cifar10_zip.parent, train=False)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert np.array_equal(np.bincount(test.labels), [1000] * 10)
    assert test.images.std() > 50
