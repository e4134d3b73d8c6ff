"""Terminals and streams that cannot show some text, or are closed: the computation continues."""

import errno
import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="needs the extra ttfs_fast[train]")

import ttfs_fast
from support.runs import digits
from ttfs_fast import _terminal
from ttfs_fast.cli import bench, reproduce
from ttfs_fast.cli._common import counting_bar
from ttfs_fast.cli._progress import ShowProgress
from ttfs_fast.training import train

COLUMNS = (1, 20, 50, 60, 200)
ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8")


class Terminal(io.TextIOWrapper):
    """A terminal that supports the characters of one encoding only."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


class Gone(io.StringIO):
    """A terminal whose other end is closed."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Terminal]:
    """Puts a terminal in place of standard output."""

    def attached(encoding: str, columns: int) -> Terminal:
        stream = Terminal(encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        return stream

    return attached


Attach = Callable[[str, int], Terminal]
every_terminal = pytest.mark.parametrize(
    ("encoding", "columns"), [(e, c) for e in ENCODINGS for c in COLUMNS]
)


@every_terminal
def test_training_bar_fits_every_terminal(encoding: str, columns: int, attach: Attach) -> None:
    terminal = attach(encoding, columns)
    shown = ShowProgress()
    shown.log("run in runs/é→\udcff")
    with shown.progress(total=10, done=0):
        for step in range(10):
            shown.step("epoch 10/10", step, "loss 9.1978  accuracy 15.50%  spikes/neuron 100.0%")
        assert shown._bars is not None
        shown._bars.refresh()
    assert "run in runs/" in terminal.text()
    assert "\\udcff" in terminal.text()
    assert "epoch" in terminal.text() or columns < 60


@every_terminal
def test_every_other_bar_fits_every_terminal(encoding: str, columns: int, attach: Attach) -> None:
    terminal = attach(encoding, columns)
    with counting_bar(4, show=True) as advance:
        advance(2)
    with reproduce._progress() as progress:
        progress("a long name of a part of the report, with é and …", 1, 3)
    with _terminal.console(sys.stdout).status("layers: …", spinner=bench.SPINNER) as status:
        status.update("a long name of a layer, with é and …")
    assert "\x1b[?25l" in terminal.text()  # a bar was drawn


def test_truncated_lines_keep_their_width() -> None:
    stream = Terminal("ascii")
    _terminal.Unfailing(stream).write("12345… é \udcff")
    assert stream.text() == "12345~ \\xe9 \\udcff"


@pytest.mark.parametrize("stream", [Gone(), None], ids=["gone", "none"])
def test_training_continues_without_a_terminal(
    stream: Gone | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", stream)
    config = digits(40, 20)
    result = train(config, tmp_path / "run", callback=ShowProgress())
    assert result.weights_path.is_file()
    _terminal.print_line("a line")


def test_closed_stream_is_ignored() -> None:
    stream = io.StringIO()
    stream.close()
    unfailing = _terminal.Unfailing(stream)
    assert unfailing.write("text") == 4
    unfailing.flush()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pseudo-terminals")
def test_command_trains_in_an_ascii_terminal_of_50_columns(tmp_path: Path) -> None:
    main, side = pty.openpty()
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        with open(main, "rb", buffering=0) as file:
            try:
                while part := file.read(4096):
                    shown.append(part)
            except OSError:  # the other end is closed
                pass

    reader = threading.Thread(target=read)
    reader.start()
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    source = str(Path(ttfs_fast.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    run = tmp_path / "é" / "run"
    done = subprocess.run(
        [sys.executable, "-m", "ttfs_fast", "train", "--dataset", "digits", "--threads", "1",
         "--train-images", "40", "--test-images", "20", "--epochs", "10", "--out", str(run)],
        env=environment | {"PYTHONIOENCODING": "ascii", "TERM": "xterm", "PYTHONPATH": path},
        stdout=side,
        stderr=side,
        timeout=120,
        check=False,
    )  # fmt: skip
    os.close(side)
    reader.join(20)
    text = b"".join(shown).decode("ascii")
    assert done.returncode == 0, text
    assert "epoch 10/10" in text
    assert "~" in text  # the bar was cut short
    assert (run / "model.safetensors").is_file()
