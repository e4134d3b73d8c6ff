"""Quantization-aware training of networks whose layers have horizons."""

import dataclasses
from pathlib import Path

import pytest
from torch import nn

from support.horizons import SMALL
from support.runs import assert_same_weights, copy_of_weights, interrupted
from ttfs_fast import quantization
from ttfs_fast.data import load
from ttfs_fast.quantization import IntegerNetwork, QuantizeConfig, convert, training
from ttfs_fast.training import TrainConfig, TrainResult, train

SETTINGS = QuantizeConfig(bits=2, epochs=1, last_epochs=6, lr=2e-2, training=SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(SMALL, tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def model(trained: TrainResult) -> nn.Module:
    return trained.model


@pytest.fixture(scope="module")
def run(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few-bits") / "run"
    before = copy_of_weights(model)
    quantization.quantize(model, SETTINGS, folder)
    assert_same_weights(model, before)
    return folder


def accuracy(network: IntegerNetwork) -> float:
    test_set = load("digits", train=False)
    return quantization.evaluate(network, test_set).accuracy


def test_training_with_few_bits_recovers_the_accuracy(
    trained: TrainResult, model: nn.Module, run: Path
) -> None:
    images = load("digits").images[:300]
    size = images.shape[1:]
    plain = convert(model, 2, input_size=size, encoding=SMALL.encoding, images=images)
    found = {bits: accuracy(quantization.load(run / f"model-{bits}bit.ttfs")) for bits in (8, 4, 2)}
    in_float = trained.evaluation.accuracy
    assert in_float > 0.85
    assert found[8] > in_float - 0.03
    assert found[4] > in_float - 0.03
    assert found[2] > accuracy(plain) + 0.03
    assert found[2] > 0.8


def test_networks_of_mirrored_pairs_are_retrained_with_flips(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their weights are no longer tied."""

    def stop(config: TrainConfig, *_: object) -> None:
        raise InterruptedError(f"hflip={config.hflip}")

    monkeypatch.setattr(training, "make_batches", stop)
    for mirrored in (True, False):
        changed = dataclasses.replace(SMALL, mirrored_pairs=mirrored)
        settings = dataclasses.replace(SETTINGS, training=changed)
        with pytest.raises(InterruptedError, match=f"hflip={mirrored}"):
            quantization.quantize(model, settings, tmp_path / str(mirrored))


def test_a_stopped_run_continues_with_the_same_bits(
    model: nn.Module, run: Path, tmp_path: Path
) -> None:
    with interrupted(training, "save_checkpoint", calls=5):
        quantization.quantize(model, SETTINGS, tmp_path)
    again = quantization.quantize(model, SETTINGS, tmp_path, resume=True)
    assert again[2].to_bytes() == (run / "model-2bit.ttfs").read_bytes()
