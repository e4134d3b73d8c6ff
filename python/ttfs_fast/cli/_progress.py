"""What a run tells, shown in a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ttfs_fast import _terminal
from ttfs_fast.cli._common import as_options
from ttfs_fast.training.callback import Callback


class ShowProgress(Callback):
    """Prints to a terminal with a progress bar, and to anything else a line an epoch.

    What cannot be shown is escaped or left out; it never ends the training.
    """

    def __init__(self) -> None:
        self._bars, self._total = _terminal.Bars(None), 0

    def log(self, text: str) -> None:
        """Print a line, with options in place of arguments."""
        _terminal.print_line(as_options(text))

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[None]:
        """Show a bar of the steps, on a terminal."""
        columns = ("title", "short bar", "percent", "figures", "remaining")
        with _terminal.progress(sys.stdout, *columns) as self._bars:
            self._total = total
            yield

    def step(self, title: str, done: int, figures: str) -> None:
        """Move the bar; does nothing where there is no bar."""
        self._bars.update("steps", done, self._total, description=title, figures=figures)
