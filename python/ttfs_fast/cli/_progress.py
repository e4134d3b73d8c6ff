"""Shows the reports of a run in a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ttfs_fast._terminal import Bars, console, progress
from ttfs_fast.cli._common import as_options
from ttfs_fast.training.callback import Callback


class ShowProgress(Callback):
    """Prints a progress bar to a terminal, and one line per epoch to anything else.

    Text that cannot be shown is escaped or omitted; it never ends the training.
    """

    def __init__(self) -> None:
        self._console = console(sys.stdout, soft_wrap=True)
        self._bars: Bars | None = None
        self._total = 0

    def log(self, text: str) -> None:
        """Print a line, with options in place of arguments."""
        self._console.print(as_options(text), markup=False)

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[None]:
        """Show a bar of the steps, on a terminal."""
        columns = ("title", "short bar", "percent", "figures", "remaining")
        with progress(self._console, *columns) as self._bars:
            self._total = total
            self.step("", done, "")
            yield
        self._bars = None

    def step(self, title: str, done: int, figures: str) -> None:
        """Move the bar; does nothing where there is no bar."""
        if self._bars is not None:
            fields = {"description": title, "figures": figures}
            self._bars.update("steps", done, self._total, **fields)
