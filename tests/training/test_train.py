import dataclasses
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.machine import run_python
from support.runs import MANY_SETTINGS, assert_same_run, digits, interrupted
from ttfs_fast.analysis import evaluate
from ttfs_fast.data import load
from ttfs_fast.layers import spiking_layers
from ttfs_fast.models import mnist_scnn
from ttfs_fast.training import (
    LogLines,
    TrainConfig,
    TrainResult,
    datasets,
    read_config,
    read_log,
    read_metadata,
    step,
    train,
)
from ttfs_fast.training.checkpoint import load_checkpoint

SMALL = dataclasses.replace(MANY_SETTINGS, adam_beta2=0.99)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(SMALL, tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_writes_the_documented_files(uninterrupted: TrainResult) -> None:
    run = uninterrupted.log_path.parent
    names = {path.name for path in run.iterdir()}
    assert names == {"config.json", "log.csv", "model.safetensors", "checkpoint-0003"}
    assert read_log(run / "log.csv") == uninterrupted.records
    assert [record.epoch for record in uninterrupted.records] == [1, 2, 3]
    for record in uninterrupted.records:
        assert record.learning_rate == SMALL.learning_rate(record.epoch - 1)
        total = record.loss_class + SMALL.weight_sum_cost * record.loss_weight_sum
        assert record.loss == pytest.approx(total + SMALL.l2_cost * record.loss_l2, rel=1e-4)
        assert record.train_spikes_per_neuron > 0.5
        assert record.test_spikes_per_neuron > 0.5
        assert record.skipped_steps == 0


def test_exported_weights_have_metadata(uninterrupted: TrainResult) -> None:
    path = uninterrupted.weights_path
    assert read_config(path) == SMALL
    assert float(read_metadata(path)["test_accuracy"]) == uninterrupted.evaluation.accuracy
    loaded = mnist_scnn(weights=path).state_dict()
    for name, value in uninterrupted.model.state_dict().items():
        assert torch.equal(loaded[name], value)


def test_same_settings_same_bits_and_other_seed_other_bits(
    uninterrupted: TrainResult, tmp_path: Path
) -> None:
    torch.rand(5)
    assert_same_run(train(SMALL, tmp_path / "again"), uninterrupted)
    other = train(dataclasses.replace(SMALL, seed=12, epochs=1), tmp_path / "other")
    first = next(iter(uninterrupted.model.state_dict()))
    assert not torch.equal(other.model.state_dict()[first], uninterrupted.model.state_dict()[first])


def test_training_restores_generator_and_threads(tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(dataclasses.replace(SMALL, epochs=1, threads=2), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_resumed_run_has_the_same_bits(
    uninterrupted: TrainResult, tmp_path: Path, stop_after: int
) -> None:
    told: list[str] = []
    with interrupted(step, "clip_gradient_", 9 * stop_after + 5):
        train(SMALL, tmp_path / "run", callback=LogLines(told.append))
    run = tmp_path / "run"
    assert told[-1] == (
        f"stopped. {stop_after} of 3 epochs are saved in {run}; continue with resume=True"
    )
    assert_same_run(train(SMALL, tmp_path / "run", resume=True), uninterrupted)
    assert_same_run(train(SMALL, tmp_path / "run", resume=True), uninterrupted)


def test_ctrl_c_prints_how_to_continue(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = "--dataset digits --train-images 50 --test-images 20 --epochs 500 --threads 1"
    # A shell that starts the tests in the background makes every process ignore the signal.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from ttfs_fast.cli import main; main()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, "train", *arguments.split(), "--out", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    seen = []
    for line in child.stdout:
        seen.append(line)
        if line.startswith("epoch "):
            break
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert errors == ""
    assert f"epochs are saved in {run}; continue with --resume" in output
    assert not any(ord(c) < 32 and c != "\n" for c in "".join(seen) + output)


def test_other_settings_are_not_resumed(uninterrupted: TrainResult) -> None:
    run = uninterrupted.log_path.parent
    other = dataclasses.replace(SMALL, jitter=0.2, epochs=9)
    with pytest.raises(ValueError, match=r"epochs was 3, now 9; jitter was 0\.1, now 0\.2"):
        train(other, run, resume=True)


def test_other_images_are_not_resumed(
    uninterrupted: TrainResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def darker(*args: object, **more: object) -> object:
        images = load("digits", train=bool(more["train"]))
        return dataclasses.replace(images, images=images.images // 2)

    monkeypatch.setattr(datasets, "load", darker)
    with pytest.raises(ValueError, match="its images are not those"):
        train(SMALL, uninterrupted.log_path.parent, resume=True)


def test_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, epochs=1)
    train(config, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        FileExistsError, match="resume=True to continue it, overwrite=True to remove it"
    ):
        train(config, tmp_path)
    with pytest.raises(ValueError, match="one of the two"):
        train(config, tmp_path, resume=True, overwrite=True)
    result = train(dataclasses.replace(config, seed=1), tmp_path, overwrite=True)
    assert read_config(result.weights_path) == dataclasses.replace(config, seed=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no training run to resume"):
        train(SMALL, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, lr=1e30, min_lr=1e30)
    with pytest.raises(FloatingPointError, match=r"the loss became (inf|nan) in epoch 1"):
        train(config, tmp_path / "run")


def test_the_average_of_the_weights_is_tested_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(SMALL, epochs=1, ema_decay=0.8, weight_sum=0.0)
    history: list[dict[str, torch.Tensor]] = []
    real = step.clip_gradient_

    def spy(model: torch.nn.Module, *args: object, **more: object) -> float:
        history.append({name: value.clone() for name, value in model.state_dict().items()})
        return real(model, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "clip_gradient_", spy)
    result = train(config, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert len(history) == 9
    after_each_step = [*history[1:], checkpoint.model]
    loaded = mnist_scnn(weights=result.weights_path).state_dict()
    for name, value in result.model.state_dict().items():
        expected = after_each_step[0][name]
        for weights in after_each_step[1:]:
            expected = 0.8 * expected + 0.2 * weights[name]
        torch.testing.assert_close(value, expected)
        assert torch.equal(loaded[name], value)
        assert not torch.allclose(value, checkpoint.model[name], rtol=1e-3)
    images = load("digits", train=False)
    images = dataclasses.replace(images, images=images.images[:40], labels=images.labels[:40])
    assert result.evaluation.accuracy == evaluate(result.model, images).accuracy


def test_resuming_removes_partial_files(uninterrupted: TrainResult, tmp_path: Path) -> None:
    """Killed once the last checkpoint had its name, before the one before it was gone."""
    run = tmp_path / "run"
    shutil.copytree(uninterrupted.log_path.parent, run)
    names = {path.name for path in run.iterdir()}
    shutil.copytree(run / "checkpoint-0003", run / "checkpoint-0002")
    shutil.copytree(run / "checkpoint-0003", run / ".partial-removed-1234")
    train(SMALL, run, resume=True)
    assert {path.name for path in run.iterdir()} == names


def test_fixed_sums_stay_fixed_to_the_end(uninterrupted: TrainResult) -> None:
    for name, layer in spiking_layers(uninterrupted.model).items():
        sums = layer.weight.flatten(1).sum(1)
        assert sums.max() - sums.min() < 1e-4
        # Padding leaves taps of the convolutions without input, for which their sums make up.
        assert sums.mean().item() == pytest.approx(4.0, abs=1e-4 if name == "fc" else 1.0)
        assert (sums.mean() > 4.01) == (name != "fc")
    free = [p for name, p in mnist_scnn().named_parameters() if name.endswith("weight")]
    assert all((p.flatten(1).sum(1) - 4.0).abs().max() > 1e-2 for p in free)


def test_held_out_training_images_are_tested_and_not_trained_on() -> None:
    everything = load("digits", train=True)
    config = TrainConfig(dataset="digits", val_images=237, train_images=100)
    train_set, test_set = datasets.load_data(config)
    assert (len(train_set), len(test_set)) == (100, 237)
    assert (train_set.images == everything.images[:100]).all()
    assert (test_set.images == everything.images[-237:]).all()
    assert (test_set.labels == everything.labels[-237:]).all()
    all_but_held_out, _ = datasets.load_data(TrainConfig(dataset="digits", val_images=237))
    assert len(all_but_held_out) == len(everything) - 237
    with pytest.raises(ValueError, match="val_images must leave at least one of 1,437"):
        datasets.load_data(TrainConfig(dataset="digits", val_images=1437))


def test_network_learns(tmp_path: Path) -> None:
    config = digits(800, 200, epochs=4, seed=1)
    result = train(config, tmp_path / "run")
    assert math.isfinite(result.records[-1].loss)
    assert result.evaluation.accuracy > 0.5
    assert result.evaluation.spikes_per_neuron > 0.5


def test_a_run_without_a_callback_is_silent(tmp_path: Path) -> None:
    """In a fresh process neither we nor a library we use prints or warns."""
    code = (
        "import sys; from ttfs_fast.training import TrainConfig, train; "
        "train(TrainConfig.from_json(sys.argv[1]), sys.argv[2])"
    )
    done = run_python("-c", code, dataclasses.replace(SMALL, epochs=1).to_json(), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "model.safetensors").exists()


def test_steps_without_a_finite_gradient_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "clip_gradient_", lambda *arguments, **more: math.nan)
    told: list[str] = []
    result = train(dataclasses.replace(SMALL, epochs=1), tmp_path, callback=LogLines(told.append))
    assert result.records[0].skipped_steps == 9
    (line,) = (line for line in told if "epoch 1/1" in line)
    assert line.endswith("  9 steps skipped")
