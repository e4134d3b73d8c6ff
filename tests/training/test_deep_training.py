"""Training of other networks than the paper's for MNIST, and by several processes."""

import dataclasses
import os
from pathlib import Path
from typing import get_args

import divisions
import pytest
import torch

from support.command import run_command
from support.runs import DEEP, assert_same_run, interrupted
from ttfs_fast.analysis import evaluate
from ttfs_fast.data import load
from ttfs_fast.models import MnistSCNN
from ttfs_fast.training import (
    LogLines,
    TrainConfig,
    recipes,
    step,
    train,
)
from ttfs_fast.training import trainer as loop
from ttfs_fast.training.build import NETWORKS, ImageShape, load_model, make_model
from ttfs_fast.training.config import ModelName


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
    test_set = load("digits", train=False)
    count = config.test_images
    seen = dataclasses.replace(
        test_set, images=test_set.images[:count], labels=test_set.labels[:count]
    )
    assert evaluate(network, seen).correct == result.evaluation.correct


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
        assert other.loss_weight_sum == pytest.approx(one.loss_weight_sum, rel=1e-4)
    assert whole.records[0].loss_l2 > 0


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


def test_every_model_has_a_network() -> None:
    """Or is mnist_scnn, which takes no other images than MNIST's."""
    assert {"mnist_scnn", *NETWORKS} == {*get_args(ModelName)}
    config = TrainConfig(model="vgg8", width=0.25)
    network = make_model(config, ImageShape(3, 32, 32, 7))
    assert network.description.name == "VGG stack of 8"
    assert network.description.classes == 7


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
