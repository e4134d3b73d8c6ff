"""Terminal output that never ends a computation when it fails."""

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ttfs_fast._extras import require


def _escape(error: UnicodeError) -> tuple[str, int]:
    """What stands for a character that a terminal does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start]
    # rich ends what it cuts short with an ellipsis: one column for one, or the lines would wrap.
    shown = "~" if missing == "…" else missing.encode("ascii", "backslashreplace").decode()
    return shown, error.start + 1


ESCAPE = "ttfs_fast.escape"
codecs.register_error(ESCAPE, _escape)


class Unfailing:
    """A stream that takes any text, and drops what its other end no longer takes.

    A terminal may lack characters, and it may be gone long before a computation ends.

    Parameters
    ----------
    stream : text stream or None
        Where the text goes; ``sys.stdout`` is None in a process without one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text``, with escapes for the characters that the stream does not have."""
        if self._stream is not None:
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            with suppress(OSError, ValueError):  # ValueError: it is closed
                self._stream.write(text.encode(encoding, ESCAPE).decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it still can be."""
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()


def print_line(text: str) -> None:
    """Print a line about a running computation."""
    print(text, file=Unfailing(sys.stdout), flush=True)


def console(stream: TextIO | None, **options: Any) -> Any:
    """A rich.console.Console that shows the course of a computation."""
    return require("rich.console", "train").Console(
        file=Unfailing(stream), highlight=False, **options
    )


class Bars:
    """Progress bars by their titles; `progress` makes them.

    Attributes
    ----------
    shown : bool
        Whether there is a terminal that shows them; if not, `update` does nothing.
    """

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        self.shown = progress is not None

    def update(self, title: str, done: int, total: int | None, **fields: str) -> None:
        """Move the bar of this title to ``done`` of ``total``; the first call draws it.

        ``description`` in ``fields`` is shown in place of the title; the column ``"figures"`` shows
        the field ``figures``.
        """
        if self._progress is None:
            return
        fields = {"description": title} | fields
        if title not in self._tasks:
            self._tasks[title] = self._progress.add_task(total=total, completed=done, **fields)
        self._progress.update(self._tasks[title], completed=done, **fields)

    def refresh(self) -> None:
        """Draw the bars now."""
        if self._progress is not None:
            self._progress.refresh()


@contextmanager
def progress(
    stream: Any, *columns: str, show: bool = True, transient: bool = True
) -> Iterator[Bars]:
    """Progress bars on a terminal, and nothing on another stream or without the package rich.

    Parameters
    ----------
    stream : text stream, rich.console.Console or None
        Where they are drawn.
    *columns : str
        What a line shows: ``"title"``, ``"bar"``, ``"short bar"``, ``"percent"``, ``"count"``,
        ``"bytes"``, ``"speed"``, ``"figures"``, ``"remaining"``; by default title, bar, percent
        and remaining.
    show : bool
        With false, draw none.
    transient : bool
        Remove the bars at the end.
    """
    terminal = None
    with suppress(ImportError):
        if show:
            terminal = stream if hasattr(stream, "is_terminal") else console(stream)
    if terminal is None or not terminal.is_terminal:
        yield Bars(None)
        return
    rich = require("rich.progress", "train")
    made = {
        "title": lambda: rich.TextColumn("{task.description}", markup=False),
        "bar": rich.BarColumn,
        "short bar": lambda: rich.BarColumn(bar_width=8),
        "percent": rich.TaskProgressColumn,
        "count": rich.MofNCompleteColumn,
        "bytes": rich.DownloadColumn,
        "speed": rich.TransferSpeedColumn,
        "figures": lambda: rich.TextColumn("{task.fields[figures]}", markup=False),
        "remaining": rich.TimeRemainingColumn,
    }
    chosen = [made[name]() for name in columns or ("title", "bar", "percent", "remaining")]
    with rich.Progress(
        *chosen, console=terminal, transient=transient, refresh_per_second=4
    ) as bars:
        yield Bars(bars)


def escape_unknown_characters() -> None:
    """Escape the characters that this process's terminal cannot print."""
    if hasattr(sys.stdout, "reconfigure"):  # not None, and not a test's stand-in
        sys.stdout.reconfigure(errors=ESCAPE)
