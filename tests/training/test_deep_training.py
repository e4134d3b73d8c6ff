"""Training of other networks than the paper's for MNIST, and by several processes."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import divisions
import numpy as np
import pytest
import torch

from support.command import run_command
from support.runs import assert_same_run, interrupted
from ttfs_fast.analysis import evaluate
from ttfs_fast.data import StreamedImages, cifar, load
from ttfs_fast.models import MnistSCNN
from ttfs_fast.training import (
    LogLines,
    TrainConfig,
    TrainResult,
    export_weights,
    load_pretrained,
    read_classes,
    read_log,
    read_metadata,
    recipes,
    step,
    train,
)
from ttfs_fast.training import trainer as loop
from ttfs_fast.training.build import ImageShape, load_model, make_model
from ttfs_fast.training.datasets import load_data
from ttfs_fast.training.distillation import load_teacher

DEEP = TrainConfig(
    dataset="digits",
    model="vgg4",
    width=0.25,
    weight_sum=4.0,
    weight_norm=3.0,
    relative_lr=True,
    polarity="both",
    alpha=1.5,
    logit_scale=16.0,
    weight_sum_cost=0.0,
    l2_cost=0.0,
    epochs=2,
    batch_size=30,
    lr=0.02,
    min_lr=1e-5,
    schedule="cosine",
    train_images=120,
    test_images=60,
    seed=5,
    threads=1,
)


def test_a_centered_network_learns_and_folds(tmp_path: Path) -> None:
    config = dataclasses.replace(DEEP, epochs=12, train_images=1000, test_images=300, width=0.5)
    result = train(config, tmp_path)
    assert result.evaluation.accuracy > 0.6
    assert result.evaluation.spikes_per_neuron > 0.9
    assert result.records[-1].loss < 0.7 * result.records[0].loss
    names = set(result.model.state_dict())
    assert "conv1.weight" in names
    assert not any("parametrizations" in name for name in names)
    model, loaded = load_model(result.weights_path)
    assert loaded == dataclasses.replace(config, processes=1)
    test_set = load("digits", train=False)
    test_set = dataclasses.replace(
        test_set, images=test_set.images[:300], labels=test_set.labels[:300]
    )
    again = evaluate(model, test_set)
    assert again.correct == result.evaluation.correct


@pytest.mark.parametrize("model", ["cifar_scnn", "vgg8"])
@pytest.mark.parametrize("neuron", ["spiking", "relu", "relu-norm"])
def test_every_kind_of_network_trains(model: str, neuron: str, tmp_path: Path) -> None:
    config = dataclasses.replace(
        DEEP,
        model=model,
        neuron=neuron,
        weight_sum=4.0 if neuron == "spiking" else 0.0,
        relative_lr=neuron == "spiking",
        epochs=2,
        polarity="bright-first",
        logit_scale=16.0 if neuron == "spiking" else 1.0,
        lr=0.01,
    )
    lines: list[str] = []
    result = train(config, tmp_path, callback=LogLines(lines.append))
    assert result.records[-1].loss < result.records[0].loss
    assert (result.evaluation.neurons > 0) == (neuron == "spiking")
    printed = "\n".join(lines)
    assert "epoch 2/2" in printed
    assert "nan" not in printed
    assert ("first spike" in printed) == (neuron == "spiking")
    network, _ = load_model(result.weights_path)
    assert evaluate(network, load("digits", train=False)).accuracy >= 0


def test_batch_normalization_skips_a_single_image(tmp_path: Path) -> None:
    """The last batch of an epoch; its answer counts, and nothing is learned from it."""
    config = dataclasses.replace(
        DEEP,
        neuron="relu-norm",
        polarity="bright-first",
        weight_sum=0.0,
        relative_lr=False,
        epochs=2,
        train_images=61,
    )
    told: list[str] = []
    result = train(config, tmp_path / "a", callback=LogLines(told.append))
    assert [record.skipped_steps for record in result.records] == [1, 1]
    assert sum(line.endswith("  1 step skipped") for line in told) == 2
    share = result.records[0].train_accuracy * 61
    assert share == pytest.approx(round(share))
    relu = train(dataclasses.replace(config, neuron="relu"), tmp_path / "b")
    assert [record.skipped_steps for record in relu.records] == [0, 0]


def test_sgd_with_momentum(tmp_path: Path) -> None:
    config = dataclasses.replace(DEEP, optimizer="sgd", momentum=0.9, lr=0.5, epochs=3)
    result = train(config, tmp_path / "a")
    assert result.records[-1].loss < result.records[0].loss
    other = train(dataclasses.replace(config, momentum=0.0), tmp_path / "b")
    assert other.records[-1].loss != result.records[-1].loss


@pytest.mark.parametrize("pieces", [3, 30, 100])
def test_accumulated_gradients_are_those_of_the_whole_batch(pieces: int, tmp_path: Path) -> None:
    config = dataclasses.replace(
        DEEP, weight_sum=0.0, relative_lr=False, weight_sum_cost=1.0, l2_cost=1e-3, train_images=100
    )
    whole = train(config, tmp_path / "whole")
    parts = train(dataclasses.replace(config, grad_accum_steps=pieces), tmp_path / "parts")
    for one, other in zip(whole.records, parts.records, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-4)
        assert other.loss_l2 == pytest.approx(one.loss_l2, rel=1e-4)
    assert whole.records[0].loss_weight_sum >= 0


def test_no_division_of_a_batch_changes_the_step() -> None:
    """Loss terms, gradients and weights are those of the whole batch, but for rounding."""
    assert divisions.compare_with_whole_batches() == len(divisions.SIZES) * 16


def test_resumed_with_everything_switched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Centered weights, averages, early stopping, crops, flips, noise: the same bits."""
    pytest.importorskip("kornia", reason="needs the extra ttfs_fast[train]")
    config = dataclasses.replace(
        DEEP,
        epochs=4,
        ema_decay=0.9,
        patience_epochs=2,
        val_images=100,
        crop=2,
        hflip=True,
        standardize=True,
        jitter=0.1,
        grad_accum_steps=2,
        warmup_epochs=1.0,
        optimizer="sgd",
        lr=0.3,
    )
    whole = train(config, tmp_path / "whole")
    with interrupted(step, "clip_gradient_", 4 * 2 + 2):
        train(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-0002"]
    resumed = train(config, tmp_path / "run", resume=True)
    assert_same_run(resumed, whole)
    assert_same_run(train(config, tmp_path / "run", resume=True), whole)


def test_early_stopping_ends_with_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test accuracies as if the second of many epochs had been the best."""
    accuracies = iter([0.3, 0.6, 0.5, 0.4, 0.6, 0.2, 0.1])
    states = []
    real = loop.evaluate

    def scripted(model: torch.nn.Module, *args: object, **more: object) -> object:
        result = real(model, *args, **more)  # type: ignore[arg-type]
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        share = next(accuracies, None)
        if share is None:
            return result
        return dataclasses.replace(result, correct=round(share * result.images))

    monkeypatch.setattr(loop, "evaluate", scripted)
    config = dataclasses.replace(
        DEEP, weight_sum=0.0, relative_lr=False, epochs=50, patience_epochs=3, train_images=60
    )
    result = train(config, tmp_path)
    assert len(result.records) == 5  # three epochs no better than the second
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, states[1][name])
    assert not torch.equal(states[4]["conv1.weight"], states[1]["conv1.weight"])


def test_tensorboard_has_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra ttfs_fast[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(dataclasses.replace(DEEP, epochs=1), tmp_path, tensorboard=True)
    config = dataclasses.replace(DEEP, epochs=1)
    result = train(config, tmp_path, tensorboard=True, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    curve = events.Scalars("loss/loss")
    assert [event.step for event in curve] == [1]
    assert curve[0].value == pytest.approx(result.records[0].loss, rel=1e-5)
    assert "test/test_accuracy" in events.Tags()["scalars"]
    train(config, tmp_path, overwrite=True)
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_refuses_paths_it_cannot_write_to_before_a_run_is_replaced(
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra ttfs_fast[tensorboard]")
    run = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run-\xff"))
    run.mkdir()
    (run / "config.json").write_text("a run of before")
    with pytest.raises(ValueError, match=r"run-\\udcff/tensorboard is not: choose another"):
        train(DEEP, run, tensorboard=True, overwrite=True)
    assert (run / "config.json").read_text() == "a run of before"
    assert [path.name for path in run.iterdir()] == ["config.json"]


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
    assert load_teacher(config, load_data(config)[0]) is not None
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


def test_diagnose_command(tmp_path: Path, no_data_folders: None) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text('dataset = "digits"\nmodel = "vgg13"\nwidth = 0.25\nalpha = 1.5\n')
    picture = tmp_path / "layers.png"
    arguments = ["diagnose", "--images", "4", "--threads", "1", "--plot", str(picture)]
    done = run_command(*arguments, "--config", str(recipe))
    assert done.exit_code == 0, done.output
    assert "conv10" in done.output
    assert "fc3" in done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = train(dataclasses.replace(DEEP, epochs=1), tmp_path / "run")
    arguments = ["diagnose", "--images", "4", "--weights", str(result.weights_path)]
    trained = run_command(*arguments)
    assert trained.exit_code == 0, trained.output
    assert "conv3" in trained.output
    arguments = ["diagnose", "--weights", "cifar_scnn", "--data-root", str(tmp_path)]
    pretrained = run_command(*arguments)
    assert pretrained.exit_code == 2
    assert "CIFAR-10's" in pretrained.stderr  # what is not in that folder
    neither = run_command("diagnose")
    assert neither.exit_code == 2
    assert "give one of --config RECIPE and --weights WEIGHTS" in neither.stderr


@pytest.mark.parametrize("optimizer", ["muon", "adam"])
def test_weight_norm_stays_fixed_while_training(optimizer: str, tmp_path: Path) -> None:
    norms = {}
    for hold in (False, True):
        config = dataclasses.replace(DEEP, optimizer=optimizer, lr=0.1, fixed_norm=hold)
        result = train(config, tmp_path / str(hold))
        assert all(record.test_spikes_per_neuron > 0.9 for record in result.records)
        rows = result.model.fc1.weight.detach()
        norms[hold] = (rows - rows.mean(1, keepdim=True)).norm(dim=1)
    assert norms[True] == pytest.approx(torch.full_like(norms[True], DEEP.weight_norm), rel=1e-4)
    assert (norms[False] - DEEP.weight_norm).abs().mean() > 0.02


def test_folder_settings_that_do_not_fit(class_folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs data_root"):
        train(dataclasses.replace(folder_config(class_folders), data_root=None), tmp_path)
    with pytest.raises(ValueError, match="val_images is for data sets in memory"):
        train(folder_config(class_folders, val_images=3), tmp_path)
    with pytest.raises(ValueError, match="are for data sets in memory; for a folder"):
        train(folder_config(class_folders, rotate=3.0), tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "lion"}, "optimizer must be one of adam, muon, sgd"),
        ({"model": "resnet"}, "model must be one of mnist_scnn"),
        ({"momentum": 1.0}, "momentum must be finite and at least 0 and below 1"),
        ({"crop": 4, "resized_crop": 0.5}, "two ways to cut"),
        ({"resized_crop": 1.5}, "resized_crop must be finite and at least 0 and at most 1"),
        ({"neuron": "relu", "polarity": "both"}, "sees each pixel once"),
        ({"neuron": "relu-norm", "processes": 2}, "batch normalization counts on one process"),
        (
            {"neuron": "relu-norm", "grad_accum_steps": 2},
            "over whole batches; grad_accum_steps must be 1",
        ),
        ({"neuron": "relu-norm", "batch_size": 1}, "needs a batch_size of at least 2"),
        ({"relative_lr": True}, "relative_lr needs a weight_sum"),
        ({"weight_sum": 4.0, "fixed_norm": True}, "fixed_norm needs relative_lr"),
        ({"weight_sum": 4.0, "neuron": "relu"}, "weight_sum is for spiking neurons"),
        ({"grad_accum_steps": 0}, "grad_accum_steps must be at least 1"),
        ({"clip_grad": 0.0}, "clip_grad must be above 0"),
        ({"width": 0.0}, "width must be finite and above 0"),
    ],
)
def test_settings_that_are_not_allowed(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)  # type: ignore[arg-type]


def test_networks_and_images_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"mnist_scnn takes images of one channel.*3 input"):
        make_model(TrainConfig(), ImageShape(3, 32, 32, 10))
    with pytest.raises(ValueError, match="width 1 and spiking neurons only"):
        make_model(TrainConfig(width=2.0), ImageShape(1, 28, 28, 10))
    assert isinstance(make_model(TrainConfig(), ImageShape(1, 28, 28, 10)), MnistSCNN)
    with pytest.raises(ValueError, match="too small"):
        make_model(TrainConfig(model="spiking_vgg16"), ImageShape(3, 16, 16, 10))


def test_infinite_limit_survives_json() -> None:
    config = TrainConfig(clip_grad=float("inf"), t_max=float("inf"))
    assert TrainConfig.from_json(config.to_json()) == config


def test_every_recipe_builds_its_network() -> None:
    """Each published experiment's settings are valid, and name a network for its images."""
    shapes = {
        "mnist": ImageShape(1, 28, 28, 10),
        "digits": ImageShape(1, 28, 28, 10),
        "cifar10": ImageShape(3, 32, 32, 10),
        "folder": ImageShape(3, 224, 224, 1000),
    }
    names = recipes.names()
    assert {"mnist", "paper-mnist", "paper-cifar10", "paper-imagenet"} <= set(names)
    for name in names:
        config = TrainConfig(**recipes.read_recipe(name))
        with torch.device("meta"):
            model = make_model(config, shapes[config.dataset], centered=False)
        assert sum(p.numel() for p in model.parameters()) > 1000


def torchrun(processes: int, run: Path, config: TrainConfig, *more: str) -> list[str]:
    """The command; the settings go through a file, as a recipe."""
    recipe = run.parent / f"{run.name}.toml"
    default = TrainConfig()
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            text = str(value).lower() if isinstance(value, bool) else repr(value)
            lines.append(f"{field.name} = {text}\n")
    recipe.write_text("".join(lines))
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return [*start, "ttfs_fast", "train", "--config", str(recipe), "--out", str(run), *more]


def in_shell(command: list[str], limit: float = 900) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=limit, env=environment, check=False
    )


def test_two_processes_are_one_with_the_joint_batch(tmp_path: Path) -> None:
    """The last batch holds a single image, so that one process has none of it."""
    config = dataclasses.replace(
        DEEP,
        weight_sum=0.0,
        relative_lr=False,
        weight_sum_cost=1.0,
        l2_cost=1e-3,
        train_images=91,
        jitter=0.1,
        grad_accum_steps=2,
    )
    logs = {}
    for processes in (1, 2):
        run = tmp_path / f"run{processes}"
        done = in_shell(torchrun(processes, run, config))
        assert done.returncode == 0, done.stderr
        assert ("processes: 2" in done.stdout) == (processes == 2)
        assert done.stdout.count("training vgg4") == 1  # only the first process prints
        logs[processes] = read_log(run / "log.csv")
    for one, two in zip(logs[1], logs[2], strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-4)
        assert two.loss_class == pytest.approx(one.loss_class, rel=1e-4)
        assert two.loss_l2 == pytest.approx(one.loss_l2, rel=1e-4)
        assert two.train_accuracy == pytest.approx(one.train_accuracy, abs=0.03)
        assert two.test_accuracy == pytest.approx(one.test_accuracy, abs=0.05)
    assert logs[2][-1].loss < logs[2][0].loss
    refused = in_shell(torchrun(1, tmp_path / "run2", config, "--resume"))
    assert refused.returncode == 2
    assert "processes was 2, now 1" in refused.stderr


def test_two_processes_divide_batches_without_changing_the_step() -> None:
    """Shares and pieces of different sizes, and more pieces than one process has images."""
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).with_name("divisions.py")
    done = in_shell([sys.executable, "-m", *start, str(script)], limit=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compared 72 divisions") == 2


def test_a_killed_process_ends_the_job_and_it_resumes(tmp_path: Path) -> None:
    config = dataclasses.replace(DEEP, epochs=12, train_images=200)
    run = tmp_path / "run"
    command = torchrun(2, run, config)
    job = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    limit = time.monotonic() + 900
    while not list(run.glob("checkpoint-*")):
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.2)
    children = subprocess.run(
        ["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    output, errors = job.communicate(timeout=900)
    assert job.returncode != 0
    assert "SIGKILL" in errors or "exitcode: -9" in errors or "has died" in errors
    done = len(list(run.glob("checkpoint-*")))
    assert done == 1, output
    resumed = in_shell(torchrun(2, run, config, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    whole = in_shell(torchrun(2, tmp_path / "whole", config))
    assert whole.returncode == 0, whole.stderr
    weights = [(folder / "model.safetensors") for folder in (run, tmp_path / "whole")]
    states = [load_model(path)[0].state_dict() for path in weights]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
