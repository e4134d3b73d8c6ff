import dataclasses
from pathlib import Path

import pytest

from support.runs import LEARNING, digits
from ttfs_fast.paper.studies import SilenceStudy, silence_study
from ttfs_fast.training import TrainResult, train


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    config = digits(500, 100, epochs=8, **LEARNING)
    result = train(config, tmp_path_factory.mktemp("runs") / "network")
    assert result.evaluation.accuracy > 0.75
    return result


def test_table_plot_and_resume(network: TrainResult, tmp_path: Path) -> None:
    study = SilenceStudy(network.weights_path, fractions=(1.0, 0.5), epochs=1, lr=0.002)
    said: list[str] = []
    full, half = silence_study(study, tmp_path, log=said.append)
    assert full.at_once_accuracy == network.evaluation.accuracy
    assert full.firing > 0.95
    assert 0.4 < half.firing < 0.6
    assert 0.4 < half.at_once < 0.6
    assert half.accuracy > 0.6  # the images can still be told
    assert half.spikes_per_image < 0.65 * full.spikes_per_image
    assert (tmp_path / "silence.png").read_bytes().startswith(b"\x89PNG")
    assert "2 fractions to do" in said[0]
    assert silence_study(study, tmp_path, log=said.append) == [full, half]
    assert "0 fractions to do, each 1 epochs; 2 are in" in said[-1]


def test_another_network_in_the_same_folder_has_rows_of_its_own(
    network: TrainResult, tmp_path: Path
) -> None:
    study = SilenceStudy(network.weights_path, fractions=(1.0,), epochs=1, lr=0.002)
    (first,) = silence_study(study, tmp_path, log=lambda text: None)
    config = digits(60, 100)
    other = train(config, tmp_path / "other")
    (second,) = silence_study(
        dataclasses.replace(study, weights=other.weights_path), tmp_path, log=lambda text: None
    )
    assert second.at_once_accuracy == other.evaluation.accuracy
    assert second.accuracy != first.accuracy
    assert silence_study(study, tmp_path, log=lambda text: None) == [first]


def test_a_network_with_a_latest_time_is_silenced_too(network: TrainResult, tmp_path: Path) -> None:
    trained = dataclasses.replace(digits(60, 100, **LEARNING), t_max=8.0)
    weights = train(trained, tmp_path / "trained").weights_path
    study = SilenceStudy(weights, fractions=(0.5,), epochs=1)
    (row,) = silence_study(study, tmp_path / "study", log=lambda text: None)
    assert 0.3 < row.at_once < 0.6


def test_an_interrupted_study_ends_with_the_same_numbers(
    network: TrainResult, tmp_path: Path
) -> None:
    study = SilenceStudy(network.weights_path, fractions=(0.6,), epochs=2)
    (whole,) = silence_study(study, tmp_path / "whole", log=lambda text: None)
    interrupted = tmp_path / "interrupted"
    said = 0

    class Stop(Exception): ...

    from ttfs_fast.training import trainer as loop

    save = loop.save_checkpoint

    def save_and_stop(*args: object) -> object:
        nonlocal said
        save(*args)  # type: ignore[arg-type]
        said += 1
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_and_stop)
        with pytest.raises(Stop):
            silence_study(study, interrupted, log=lambda text: None)
    assert said == 1
    assert not (interrupted / "silence.csv").exists()
    (resumed,) = silence_study(study, interrupted, log=lambda text: None)
    assert dataclasses.replace(resumed, seconds=0) == dataclasses.replace(whole, seconds=0)


def test_silence_study_rejects_invalid_settings() -> None:
    with pytest.raises(ValueError, match="fractions must be above 0"):
        SilenceStudy(Path("x"), fractions=(0.0,))
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        SilenceStudy(Path("x"), epochs=0)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        silence_study(SilenceStudy(Path("none.safetensors")), "unused", log=lambda text: None)


def test_networks_with_horizons_are_refused(tmp_path: Path) -> None:
    study = SilenceStudy(Path("cifar_airbench"), fractions=(0.5,), epochs=1)
    with pytest.raises(ValueError, match="cifar_airbench holds a network with neuron=horizon"):
        silence_study(study, tmp_path, log=lambda text: None)
