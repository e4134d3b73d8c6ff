"""Fashion-MNIST, KMNIST, EMNIST and CIFAR-100 from tiny files in their formats."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ttfs_fast.cli.evaluate import dataset_of
from ttfs_fast.data import CLASS_NAMES, CifarError, IdxError, load, load_cifar100, write_idx
from ttfs_fast.data.cifar100 import CIFAR100_CLASSES, CIFAR100_COARSE_CLASSES
from ttfs_fast.data.idx_sets import IDX_SETS, load_idx_set
from ttfs_fast.training import TrainConfig, train

IMAGES = np.random.default_rng(3).integers(0, 256, (30, 28, 28), dtype=np.uint8)


def write(folder: Path, name: str, *, ending: str = "", count: int = 30) -> None:
    known = IDX_SETS[name]
    labels = np.arange(30, dtype=np.uint8) % len(known.classes) + known.first_label
    for split in ("train", "test" if known.prefix else "t10k"):
        start = f"{known.prefix}{split}"
        write_idx(folder / f"{start}-images-idx3-ubyte{ending}", IMAGES)
        write_idx(folder / f"{start}-labels-idx1-ubyte{ending}", labels[:count])


@pytest.mark.parametrize("name", IDX_SETS)
@pytest.mark.parametrize("train_split", [True, False])
def test_sets_are_read_by_the_name_of_their_folder(
    name: str, train_split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = IDX_SETS[name]
    for place, folder in enumerate(known.folders):
        root = tmp_path / str(place)
        write(root / folder, name, ending=".gz" if place else "")
        found = load(name, root, train=train_split)
        upright = IMAGES.transpose(0, 2, 1) if name.startswith("emnist") else IMAGES
        assert np.array_equal(found.images[:, 0], upright)
        assert found.images.flags.c_contiguous
        assert found.labels.tolist() == [k % len(known.classes) for k in range(30)]
        assert found.classes == CLASS_NAMES[name] == known.classes
        assert known.title in found.name
        assert load(name, root / folder, train=train_split).labels.tolist() == found.labels.tolist()
        monkeypatch.setenv("TTFS_FAST_DATA", str(root))
        assert len(load(name, train=train_split)) == 30


def test_numbers_of_classes() -> None:
    sizes = {name: len(known.classes) for name, known in IDX_SETS.items()}
    assert sizes == {
        "fashion-mnist": 10,
        "kmnist": 10,
        "emnist-balanced": 47,
        "emnist-byclass": 62,
        "emnist-bymerge": 47,
        "emnist-digits": 10,
        "emnist-letters": 26,
        "emnist-mnist": 10,
    }
    for classes in (*CLASS_NAMES.values(), CIFAR100_CLASSES, CIFAR100_COARSE_CLASSES):
        assert len(set(classes)) == len(classes)
    assert (len(CIFAR100_CLASSES), len(CIFAR100_COARSE_CLASSES)) == (100, 20)
    assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)
    assert IDX_SETS["emnist-balanced"].classes[36:] == tuple("abdefghnqrt")


def test_files_of_mnist_do_not_pass_for_another_set(tmp_path: Path) -> None:
    write(tmp_path / "mnist", "fashion-mnist")
    for root in (tmp_path, tmp_path / "mnist"):
        with pytest.raises(FileNotFoundError, match=r"Fashion-MNIST's .* not fetched"):
            load("fashion-mnist", root)


@pytest.mark.parametrize("name", ["fashion-mnist", "emnist-letters"])
def test_bad_files_are_refused(name: str, tmp_path: Path) -> None:
    known = IDX_SETS[name]
    folder = tmp_path / known.folders[0]
    write(folder, name, count=29)
    with pytest.raises(IdxError, match=r"labels-idx1-ubyte: holds uint8 .*\(29,\) for the 30 im"):
        load(name, tmp_path)
    write(folder, name)
    labels = folder / f"{known.prefix}train-labels-idx1-ubyte"
    write_idx(labels, np.full(30, len(known.classes) + known.first_label, np.uint8))
    with pytest.raises(IdxError, match=r"labels-idx1-ubyte: holds the labels .* are [01]\.\."):
        load(name, tmp_path)
    write(folder, name)
    images = folder / f"{known.prefix}train-images-idx3-ubyte"
    content = images.read_bytes()
    images.write_bytes(content[:-5])
    with pytest.raises(IdxError, match=r"images-idx3-ubyte: truncated"):
        load(name, tmp_path)
    write_idx(images, IMAGES[:, :14])
    with pytest.raises(IdxError, match=r"has uint8 images of 28 x 28"):
        load(name, tmp_path)
    images.unlink()
    with pytest.raises(FileNotFoundError, match=f"{known.title}'s .*images-idx3-ubyte"):
        load(name, tmp_path)
    with pytest.raises(ValueError, match=f"{name} is not fetched"):
        load(name, tmp_path, download=True)


def test_letters_of_emnist_count_from_1(tmp_path: Path) -> None:
    write(tmp_path / "emnist", "emnist-letters")
    write_idx(tmp_path / "emnist/emnist-letters-train-labels-idx1-ubyte", np.zeros(30, np.uint8))
    with pytest.raises(
        IdxError, match=r"holds the labels 0 to 0; those of EMNIST letters are 1\.\.26"
    ):
        load("emnist-letters", tmp_path)


def cifar100(count: int = 20) -> np.ndarray:
    records = np.random.default_rng(4).integers(0, 256, (count, 3074), dtype=np.uint8)
    records[:, 0], records[:, 1] = np.arange(count) % 20, 5 * np.arange(count) % 100
    return records


@pytest.mark.parametrize("folder", ["cifar100", "cifar-100-binary", "."])
def test_cifar100(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    records = cifar100()
    for name, part in (("train.bin", records), ("test.bin", records[:7])):
        part.tofile(tmp_path / folder / name)
    fine, coarse = load("cifar100", tmp_path), load("cifar100-coarse", tmp_path)
    assert fine.images.shape == (20, 3, 32, 32)
    assert np.array_equal(fine.images.reshape(20, -1), records[:, 2:])
    assert np.array_equal(coarse.images, fine.images)
    assert fine.labels.tolist() == records[:, 1].tolist()
    assert coarse.labels.tolist() == records[:, 0].tolist()
    assert (len(fine.classes), len(coarse.classes)) == (100, 20)
    assert len(load("cifar100", tmp_path, train=False)) == 7


def test_bad_files_of_cifar100_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"CIFAR-100's test.bin was not found; looked in"):
        load_cifar100(tmp_path, train=False)
    path = tmp_path / "train.bin"
    for content in (b"", cifar100().tobytes()[:-1], cifar100(2).tobytes()[:3073]):
        path.write_bytes(content)
        with pytest.raises(CifarError, match=r"train.bin: has \d+ bytes; .* of 3074 bytes"):
            load_cifar100(tmp_path)
    for column, last in ((0, 19), (1, 99)):
        records = cifar100()
        records[3, column] = last + 1
        records.tofile(path)
        with pytest.raises(
            CifarError, match=rf"the label {last + 1} where CIFAR-100 has 0\.\.{last}"
        ):
            load_cifar100(tmp_path)


def test_train_on_a_set_by_its_name(tmp_path: Path) -> None:
    write(tmp_path / "emnist", "emnist-letters")
    config = TrainConfig(
        dataset="emnist-letters", data_root=str(tmp_path), model="vgg4", width=0.25, epochs=1
    )
    result = train(dataclasses.replace(config, threads=1), tmp_path / "run")
    assert result.evaluation.confusion.shape == (26, 27)


def test_an_integer_network_finds_its_data_by_size_and_classes() -> None:
    assert dataset_of((1, 28, 28), None) == "mnist"
    assert dataset_of((1, 28, 28), tuple("0123456789")) == "mnist"
    assert dataset_of((3, 32, 32), CIFAR100_CLASSES) == "cifar100"
    assert dataset_of((1, 28, 28), IDX_SETS["kmnist"].classes) == "kmnist"
    assert dataset_of((1, 28, 28), ("a", "b")) is None
    assert dataset_of((3, 224, 224), None) is None


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no data set 'fashion'; choose one of"):
        load_idx_set("fashion")  # type: ignore[arg-type]


def test_the_current_folder_may_be_the_set_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "fashion-mnist"
    own.mkdir()
    write_idx(own / "t10k-images-idx3-ubyte", np.zeros((3, 28, 28), np.uint8))
    write_idx(own / "t10k-labels-idx1-ubyte", np.arange(3, dtype=np.uint8))
    monkeypatch.chdir(own)
    assert load_idx_set("fashion-mnist", ".", train=False).labels.tolist() == [0, 1, 2]
