"""Training and evaluation on images in class folders: names, shapes, settings."""

import dataclasses
import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from support.command import run_command
from support.runs import DEEP, assert_same_run
from ttfs_fast.data import StreamedImages, cifar
from ttfs_fast.training import (
    TrainConfig,
    TrainResult,
    export_weights,
    load_pretrained,
    read_classes,
    read_metadata,
    train,
)
from ttfs_fast.training.build import ImageShape, load_model
from ttfs_fast.training.datasets import load_data
from ttfs_fast.training.distillation import load_teachers


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose class is their color, in class folders."""
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")
    root = tmp_path_factory.mktemp("folders")
    generator = np.random.default_rng(3)
    for split, count in (("train", 11), ("val", 4)):
        for label, name in enumerate(("blue", "green", "red")):
            for number in range(count):
                pixels = generator.integers(0, 120, (40, 50, 3), np.uint8)
                pixels[:, :, 2 - label] += 120
                content = io.BytesIO()
                pillow.fromarray(pixels).save(content, "png")
                path = root / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.getvalue())
    (root / "train" / "red" / "0.png").write_bytes(b"no image")
    return root


def folder_config(root: Path, **more: object) -> TrainConfig:
    return dataclasses.replace(
        DEEP,
        dataset="folder",
        data_root=str(root),
        image_size=32,
        resized_crop=0.3,
        hflip=True,
        workers=0,
        batch_size=8,
        epochs=4,
        train_images=None,
        test_images=None,
        **more,
    )


def test_images_in_class_folders(class_folders: Path, tmp_path: Path) -> None:
    config = folder_config(class_folders)
    with pytest.warns(UserWarning, match="left out 1 images"):
        result = train(config, tmp_path / "a")
    assert result.evaluation.images == 12
    assert result.evaluation.accuracy > 0.6
    model, _ = load_model(result.weights_path)
    assert model(torch.rand(2, 6, 32, 32).exp()).shape == (2, 3)
    # Worker processes give the same bits, and so does a resumed run.
    with pytest.warns(UserWarning, match="left out 1 images"):
        assert_same_run(train(dataclasses.replace(config, workers=1), tmp_path / "b"), result)
    assert_same_run(train(config, tmp_path / "a", resume=True), result)


def test_eval_of_class_folders(class_folders: Path, tmp_path: Path) -> None:
    config = folder_config(class_folders)
    with pytest.warns(UserWarning, match="left out 1 images"):
        result = train(dataclasses.replace(config, epochs=1), tmp_path)
    arguments = ["eval", "--weights", str(result.weights_path), "--json", "--threads", "1"]
    done = run_command(*arguments, "--data-root", str(class_folders))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["correct"] == result.evaluation.correct
    without = run_command(*arguments)
    assert without.exit_code == 2
    assert "needs --data-root" in without.stderr


@pytest.fixture(scope="module")
def colors(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A network that tells blue, green and red apart."""
    config = dataclasses.replace(folder_config(class_folders), epochs=1)
    with pytest.warns(UserWarning, match="left out 1 images"):
        return train(config, tmp_path_factory.mktemp("colors"))


def copied(class_folders: Path, root: Path, **names: str) -> Path:
    """The test images of some classes under other names: ``old="new"``."""
    for old, new in names.items():
        shutil.copytree(class_folders / "val" / old, root / "val" / new)
    return root


def test_weights_name_their_classes(colors: TrainResult, tmp_path: Path) -> None:
    assert read_classes(colors.weights_path) == ("blue", "green", "red")
    tensors, metadata = {"a": torch.ones(1)}, {"format": "pt"}
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "w.safetensors"
    for classes, message in (
        ("[", "name no classes: "),
        ('"blue"', "must be a list of strings"),
        ("[1, 2]", "must be a list of strings"),
        ('["a", "b", "a"]', "name a class twice"),
    ):
        path.write_bytes(safetensors.save(tensors, metadata | {"classes": classes}))
        with pytest.raises(ValueError, match=f"{path.name}: its metadata .*{message}"):
            read_classes(path)
    # Files of older versions do not say; some data sets have the same classes always.
    for dataset, expected in (
        ("cifar10", cifar.CIFAR10_CLASSES),
        ("digits", tuple("0123456789")),
        ("folder", None),
    ):
        config = TrainConfig(dataset=dataset, data_root=".").to_json()
        path.write_bytes(safetensors.save(tensors, metadata | {"config": config}))
        assert read_classes(path) == expected


def test_eval_compares_classes_by_name(
    colors: TrainResult, class_folders: Path, tmp_path: Path
) -> None:
    """Not by their numbers, which those of other class folders shift."""
    test = ("eval", "--weights", colors.weights_path, "--json", "--threads", 1, "--data-root")
    without_blue = copied(class_folders, tmp_path / "some", green="green", red="red")
    done = run_command(*test, without_blue)
    assert done.exit_code == 0, done.output
    expected = colors.evaluation.confusion.copy()
    expected[0] = 0
    assert json.loads(done.stdout)["confusion"] == expected.tolist()
    with_more = copied(class_folders, tmp_path / "more", blue="azure", green="green", red="white")
    refused = run_command(*test, with_more)
    assert refused.exit_code == 2
    assert "the classes azure, white are not among the 3 that are known, blue, g" in refused.stderr
    # A file that does not name its classes: a word says what they are taken for.
    old = tmp_path / "old.safetensors"
    metadata = read_metadata(colors.weights_path)
    del metadata["classes"]
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(colors.model.state_dict(), old, metadata)
    by_order = run_command(*("eval", "--weights", old, "--json", "--data-root"), class_folders)
    assert json.loads(by_order.stdout)["correct"] == colors.evaluation.correct
    assert "does not name its classes" in by_order.stderr


def test_classes_of_training_and_testing_are_compared_by_name(
    class_folders: Path, tmp_path: Path
) -> None:
    root = copied(class_folders, tmp_path / "images", red="red")
    shutil.copytree(class_folders / "train", root / "train")
    train_set, test_set = load_data(folder_config(root))
    assert train_set.classes == test_set.classes == ("blue", "green", "red")
    assert isinstance(test_set, StreamedImages)
    assert set(test_set.folder.labels.tolist()) == {2}
    copied(class_folders, root, blue="white")
    with pytest.raises(ValueError, match=r"val: the classes white are not among the 3"):
        train(folder_config(root), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_or_images_is_refused(
    colors: TrainResult, class_folders: Path, tmp_path: Path
) -> None:
    config = folder_config(class_folders, teacher=str(colors.weights_path))
    assert load_teachers(config, load_data(config)[0]) is not None
    root = copied(class_folders, tmp_path / "images", blue="blue", green="gray", red="red")
    shutil.copytree(root / "val", root / "train")
    other = dataclasses.replace(config, data_root=str(root))
    with pytest.raises(ValueError, match=r"knows the classes blue, green, red, and .* blue, gray"):
        train(other, tmp_path / "run")
    smaller = dataclasses.replace(config, image_size=16)
    with pytest.raises(ValueError, match=r"teacher .* takes images of 3 x 32 x 32 .* 3 x 16 x 16"):
        train(smaller, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_eval_brings_a_folder_to_the_size_of_the_network(tmp_path: Path) -> None:
    """Whatever the size of folders in the settings that it was trained with."""
    pillow = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")
    generator = np.random.default_rng(3)
    for name in ("airplane", "truck"):
        (tmp_path / "val" / name).mkdir(parents=True)
        picture = pillow.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8))
        picture.save(tmp_path / "val" / name / "1.png")
    model, config = load_pretrained("cifar_scnn")
    config = dataclasses.replace(config, workers=0)
    shape = ImageShape(3, 32, 32, 10).to_json()
    weights = tmp_path / "w.safetensors"
    export_weights(model, weights, config, test_accuracy=0.7, images=shape)
    test = ("eval", "--dataset", "folder", "--data-root", tmp_path, "--json", "--threads", 1)
    done = run_command(*test, "--weights", weights)
    assert done.exit_code == 0, done.output
    rows = [sum(row) for row in json.loads(done.stdout)["confusion"]]
    assert rows == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    (tmp_path / "val" / "truck").rename(tmp_path / "val" / "1")
    (tmp_path / "val" / "airplane").rename(tmp_path / "val" / "0")
    gray = run_command(*test, "--weights", "mnist_scnn")
    assert gray.exit_code == 2
    assert "takes images of 1 x 28 x 28 (channels, rows, columns), and those of" in gray.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "--json"),
        ("quantize", "--epochs", 0, "--bits", 8, "--out", "run"),
        ("diagnose",),
    ],
)
def test_images_of_another_shape_are_refused(
    arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how: tuple[object, ...] = ("--weights", "cifar_scnn", "--dataset", "digits")
    if arguments[0] == "diagnose":  # its data set is the one that the weights name
        model, config = load_pretrained("cifar_scnn")
        config = dataclasses.replace(config, dataset="digits", data_root=None)
        shape = ImageShape(3, 32, 32, 10).to_json()
        export_weights(model, "w.safetensors", config, test_accuracy=0.7, images=shape)
        how = ("--weights", "w.safetensors")
    refused = run_command(*arguments, *how)
    assert refused.exit_code == 2, refused.output
    assert "takes images of 3 x 32 x 32 (channels, rows, columns), and those of digits have" in (
        refused.stderr
    )
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "eval", "quantize", "diagnose", "reproduce"])
def test_missing_data_root_is_rejected(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how = {
        "train": ("--dataset", "mnist", "--out", "run"),
        "eval": (
            "--weights",
            "mnist_scnn",
        ),
        "quantize": ("--weights", "mnist_scnn", "--out", "run"),
        "diagnose": ("--weights", "mnist_scnn"),
        "reproduce": ("--out", "run"),
    }
    refused = run_command(command, *how[command], "--data-root", tmp_path / "dtaa")
    assert refused.exit_code == 2
    assert f"there is no folder {tmp_path / 'dtaa'}: name the folder" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_training_in_float64(class_folders: Path, tmp_path: Path) -> None:
    """Crop, flip and folders follow torch's default dtype, as the weights do."""
    digits = dataclasses.replace(DEEP, crop=2, hflip=True, epochs=1, train_images=60)
    folder = folder_config(class_folders)
    folder = dataclasses.replace(folder, resized_crop=0.0, crop=2, epochs=1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for name, config in (("digits", digits), ("folder", folder)):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "left out 1 images")
                result = train(config, tmp_path / name)
            assert result.model.fc1.weight.dtype == torch.float64
            assert np.isfinite(result.records[0].loss)
    finally:
        torch.set_default_dtype(before)


def test_folder_settings_that_do_not_fit(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs data_root"):
        train(dataclasses.replace(folder_config(class_folders), data_root=None), tmp_path)
    with pytest.raises(ValueError, match="val_images is for data sets in memory"):
        train(folder_config(class_folders, val_images=3), tmp_path)
    with pytest.raises(ValueError, match="are for data sets in memory; for a folder"):
        train(folder_config(class_folders, rotate=3.0), tmp_path)
