"""A disk without room, a folder that is read-only: one clear error, and the old file whole."""

import os
import re
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from ttfs_fast._csv import write_rows
from ttfs_fast._files import replace_file
from ttfs_fast.analysis.style import save_figure
from ttfs_fast.cli.circuit import _write_csv
from ttfs_fast.data import write_idx
from ttfs_fast.encoding import Encoding
from ttfs_fast.nn import SpikingLinear
from ttfs_fast.paper.studies.depth import Run
from ttfs_fast.quantization import convert
from ttfs_fast.training import EpochRecord, TrainConfig, export_weights
from ttfs_fast.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ttfs_fast.training.log import write_log

ROOM = 96 << 10  # bytes that the small disk has
SMALL, LARGE = 50, 30_000  # numbers to write: what fits, and what does not

Writer = Callable[[Path, int], None]


def checkpoint(folder: Path, count: int) -> None:
    tensors = {"weight": torch.arange(count, dtype=torch.float32)}
    epoch = 6 if count == SMALL else 7
    generator = torch.zeros(4, dtype=torch.uint8)
    save_checkpoint(folder, Checkpoint(epoch, tensors, {}, {}, {}, generator, {}))


def weights(folder: Path, count: int) -> None:
    export_weights(
        nn.Linear(count, 1), folder / "model.safetensors", TrainConfig(), test_accuracy=0.5
    )


def log(folder: Path, count: int) -> None:
    record = EpochRecord(1, 1e-3, 2.5, 1.5, 0.01, 4.0, 0.5, 0.25, 0.9, 0.8, 1.5, 0, 2.25)
    write_log(folder / "log.csv", [record] * count)


def integers(folder: Path, count: int) -> None:
    outputs = max(2, count // 200)
    model = nn.Sequential(nn.Flatten(), SpikingLinear(900, outputs))
    convert(model, 8, input_size=(1, 30, 30), encoding=Encoding()).save(folder / "model.ttfs")


def idx(folder: Path, count: int) -> None:
    write_idx(folder / "images", np.arange(count, dtype=np.int32))


def table(folder: Path, count: int) -> None:
    run = Run("relu", 4, 0, *(0 for _ in range(len(Run.__dataclass_fields__) - 3)))  # type: ignore[arg-type]
    write_rows(folder / "depth.csv", Run, [run] * count)


def csv(folder: Path, count: int) -> None:
    _write_csv(folder / "sweep.csv", [("a", "b", "c")] * count)


def picture(folder: Path, count: int) -> None:
    side = 5 if count == SMALL else 500
    figure = Figure(figsize=(5, 5))
    figure.figimage(np.random.default_rng(0).random((side, side)))
    save_figure(folder / "picture.png", figure)


def settings(folder: Path, count: int) -> None:
    replace_file(folder / "config.json", b"{}" * count * 3)


WRITERS: dict[str, Writer] = {
    "checkpoint": checkpoint,
    "weights": weights,
    "log": log,
    "integer network": integers,
    "idx": idx,
    "table": table,
    "csv": csv,
    "picture": picture,
    "settings": settings,
}


@contextmanager
def limited() -> Iterator[None]:
    """No file of more than so many bytes: what every user can set, and meets like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM // 2, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, very small."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("to mount a small disk takes root and the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_refusal(folder: Path, name: str, reason: str, before: dict[str, bytes]) -> None:
    named = re.escape(str(folder)) + r"/\S+ cannot be written \(" + reason + r"\); what was there"
    with pytest.raises(OSError, match=named):
        WRITERS[name](folder, LARGE)
    assert content(folder) == before
    assert before
    if name == "checkpoint":
        found = load_checkpoint(folder)
        assert found is not None
        assert found.epoch == 6
    assert [path for path in folder.rglob("*") if ".partial" in path.name] == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_larger_than_the_system_allows_is_reported(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    WRITERS[name](folder, SMALL)
    before = content(folder)
    with limited():
        check_refusal(folder, name, "File too large", before)
    WRITERS[name](folder, LARGE)
    assert content(folder) != before


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_reported(disk: Path, name: str) -> None:
    folder = disk / "run"
    WRITERS[name](folder, SMALL)
    check_refusal(folder, name, "No space left on device", content(folder))


@pytest.mark.parametrize("name", WRITERS)
def test_read_only_disk_is_reported(disk: Path, name: str) -> None:
    folder = disk / "run"
    WRITERS[name](folder, SMALL)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    check_refusal(folder, name, "Read-only file system", content(folder))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("name", WRITERS)
def test_read_only_folder_is_reported(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    WRITERS[name](folder, SMALL)
    before = content(folder)
    folder.chmod(0o555)
    try:
        check_refusal(folder, name, "Permission denied", before)
    finally:
        folder.chmod(0o755)


def test_training_on_a_full_disk_fails_clearly_and_resumes(disk: Path, tmp_path: Path) -> None:
    folder = disk / "run"
    command = [sys.executable, "-m", "ttfs_fast", "train", "--out", str(folder), "--threads", "1"]
    options = [
        "--dataset",
        "digits",
        "--train-images",
        "40",
        "--test-images",
        "20",
        "--epochs",
        "2",
    ]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        r"ttfs-fast: \[Errno 28\] \S+/checkpoint-0001 cannot be written "
        r"\(No space left on device\); what was there before is kept\n",
        done.stderr,
    )
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    again = subprocess.run(
        [*command, "--resume"], capture_output=True, text=True, timeout=120, check=False
    )
    assert again.returncode == 0, again.stderr
    assert (folder / "model.safetensors").exists()


def test_links_pipes_and_permissions_stay(tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    replace_file(real, b"old")
    real.chmod(0o600)
    link.symlink_to(real)
    replace_file(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o600
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace_file(pipe, b"bytes")
    assert os.read(reader, 10) == b"bytes"
    os.close(reader)
    assert pipe.is_fifo()


def test_threads_that_write_one_file_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, both, durable = tmp_path / "file", threading.Barrier(2, timeout=30), os.fsync

    def fsync(descriptor: int) -> None:
        durable(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            both.wait()  # both have written, neither has renamed

    monkeypatch.setattr(os, "fsync", fsync)
    contents = [b"a" * 1000, b"b" * 2000]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(replace_file, (path, path), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]
