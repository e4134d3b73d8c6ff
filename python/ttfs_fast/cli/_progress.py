"""What a run tells, shown in a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ttfs_fast._extras import require
from ttfs_fast._terminal import console
from ttfs_fast.cli._common import as_options
from ttfs_fast.training.callback import Callback


class ShowProgress(Callback):
    """Prints to a terminal with a progress bar, and to anything else a line an epoch.

    What cannot be shown is escaped or left out; it never ends the training.
    """

    def __init__(self) -> None:
        self._console = console(sys.stdout, soft_wrap=True)
        self._bar: Any = None
        self._task: Any = None

    def log(self, text: str) -> None:
        """Print a line, with options in place of arguments."""
        self._console.print(as_options(text), markup=False)

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[None]:
        """Show a bar of the steps, on a terminal."""
        if not self._console.is_terminal:
            yield
            return
        rich = require("rich.progress", "train")
        self._bar = rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(bar_width=8),
            rich.TaskProgressColumn(),
            rich.TextColumn("{task.fields[figures]}"),
            rich.TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=4,
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, completed=done, figures="")
        try:
            with self._bar:
                yield
        finally:
            self._bar = None

    def step(self, title: str, done: int, figures: str) -> None:
        """Move the bar; does nothing where there is no bar."""
        if self._bar is not None:
            self._bar.update(self._task, description=title, completed=done, figures=figures)
