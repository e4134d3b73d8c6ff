"""A folder that a run works in: a second one is refused, and what is killed leaves no obstacle."""

import dataclasses
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from support.runs import digits
from ttfs_fast._csv import read_rows
from ttfs_fast._files import LOCK, use_folder
from ttfs_fast.models import mnist_scnn
from ttfs_fast.paper import Plan, reproduce
from ttfs_fast.paper.networks import Networks
from ttfs_fast.paper.studies import (
    DepthStudy,
    SilenceStudy,
    depth_study,
    silence_study,
    start_study,
)
from ttfs_fast.quantization import QuantizeConfig, quantize
from ttfs_fast.training import train
from ttfs_fast.training.trainer import ensure_trained

SMALL = digits(30, 10)
RETRAINED = QuantizeConfig(bits=8, epochs=1, training=SMALL)

WORK: dict[str, Callable[[Path], object]] = {
    "train": lambda folder: train(SMALL, folder),
    "train --resume": lambda folder: train(SMALL, folder, resume=True),
    "train --overwrite": lambda folder: train(SMALL, folder, overwrite=True),
    "train if need be": lambda folder: ensure_trained(SMALL, folder),
    "quantize": lambda folder: quantize(nn.Identity(), RETRAINED, folder),
    "quantize --resume": lambda folder: quantize(nn.Identity(), RETRAINED, folder, resume=True),
    "reproduce": lambda folder: reproduce(Plan.quick(0), Networks([], []), folder),
    "study depth": lambda folder: depth_study(DepthStudy(), folder),
    "study start": lambda folder: start_study(folder),
    "study silence": lambda folder: silence_study(SilenceStudy(Path("none")), folder),
}


@pytest.mark.parametrize("name", WORK)
def test_a_second_run_in_a_folder_in_use_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(SMALL.to_json())
    with use_folder(tmp_path):
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(BlockingIOError, match=r"is in use by another run: wait until .* ended"):
            WORK[name](tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_is_in_use_in_other_processes_until_its_user_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from ttfs_fast._files import use_folder\n"
        "with use_folder(pathlib.Path(sys.argv[1])):\n"
        "    print('using', flush=True); time.sleep(60)"
    )
    folder = tmp_path / "run"
    user = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    assert user.stdout.readline() == "using\n"
    with pytest.raises(BlockingIOError, match="in use"), use_folder(folder):
        pass
    user.send_signal(signal.SIGKILL)
    user.communicate()
    assert (folder / LOCK).exists()
    with use_folder(folder), pytest.raises(BlockingIOError, match="in use"), use_folder(folder):
        pass
    assert list(folder.iterdir()) == []


def test_rejected_run_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "several" / "folders" / "deep"
    with pytest.raises(FileNotFoundError), use_folder(folder):
        raise FileNotFoundError
    assert list(tmp_path.iterdir()) == []
    with use_folder(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_file_system_without_locks_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_locks(descriptor: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", without_locks)
    with use_folder(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_the_checkpoint_of_another_training_run_is_not_continued(tmp_path: Path) -> None:
    train(SMALL, tmp_path / "one")
    train(dataclasses.replace(SMALL, seed=5, jitter=0.1), tmp_path / "other")
    shutil.rmtree(tmp_path / "one" / "checkpoint-0001")
    shutil.copytree(tmp_path / "other" / "checkpoint-0001", tmp_path / "one" / "checkpoint-0001")
    weights = (tmp_path / "one" / "model.safetensors").read_bytes()
    with pytest.raises(
        ValueError,
        match=r"is of a run with other settings than its config.json: "
        r"jitter was 0\.1, now 0\.0; seed was 5, now 0\. Start again with overwrite=True",
    ):
        train(SMALL, tmp_path / "one", resume=True)
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == weights


def test_the_checkpoint_of_another_retraining_is_not_continued(tmp_path: Path) -> None:
    network = mnist_scnn(pretrained=True)
    one, other = tmp_path / "one", tmp_path / "other"
    quantize(network, RETRAINED, one)
    seed = dataclasses.replace(SMALL, seed=5)
    quantize(network, dataclasses.replace(RETRAINED, training=seed), other)
    shutil.copytree(one / "checkpoint-0001", other / "checkpoint-0001", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"with other settings than its checkpoint holds"):
        quantize(network, dataclasses.replace(RETRAINED, training=seed), other, resume=True)
    # Nor is one whose settings are gone, nor that of a training, with --resume or without.
    (other / "quantize.json").unlink()
    with pytest.raises(FileExistsError, match="already holds a run"):
        quantize(network, RETRAINED, other)
    train(SMALL, tmp_path / "trained")
    names = {path.name for path in (tmp_path / "trained").iterdir()}
    with pytest.raises(ValueError, match="with other settings"):
        quantize(network, RETRAINED, tmp_path / "trained", resume=True)
    assert {path.name for path in (tmp_path / "trained").iterdir()} == names


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"name,size\n\xe9,1\n", "not a table in UTF-8"), (b"name,size\na,1,2\n", "too many cells")],
)
def test_tables_of_other_programs_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    @dataclasses.dataclass
    class Row:
        name: str
        size: int

    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"table.csv, .*{message}"):
        read_rows(path, Row)
