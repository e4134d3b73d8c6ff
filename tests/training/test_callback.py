"""What a run tells, and that the library alone prints nothing."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.runs import TINY
from ttfs_fast import quantization
from ttfs_fast.models import mnist_scnn
from ttfs_fast.training import Callback, LogLines, train

CONFIG = dataclasses.replace(TINY, epochs=2)


class Steps(Callback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.ranges: list[tuple[int, int]] = []
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[None]:
        self.ranges.append((total, done))
        yield

    def step(self, title: str, done: int, figures: str) -> None:
        assert "loss" in figures
        self.steps.append((title, done))


def test_callbacks_receive_epochs_and_steps(tmp_path: Path) -> None:
    told = Steps()
    train(dataclasses.replace(CONFIG, epochs=1), tmp_path / "run", callback=told)
    assert told.ranges == [(2, 0)]
    assert told.steps == [("epoch 1/1", 2)]
    (line,) = (line for line in told.lines if line.startswith("epoch 1/1"))
    assert "test " in line


def test_training_and_quantization_print_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(CONFIG, tmp_path / "run")
    settings = quantization.QuantizeConfig(bits=8, epochs=1, training=CONFIG)
    quantization.quantize(mnist_scnn(pretrained=True), settings, tmp_path / "qat")
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_lines_are_passed_on_in_columns() -> None:
    lines: list[str] = []
    LogLines(lines.append).log_facts("title", {"a": "1", "long": "2"})
    assert lines == ["title", "  a     1", "  long  2"]
