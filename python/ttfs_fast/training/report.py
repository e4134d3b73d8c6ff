"""What a training run tells the person who watches it."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ttfs_fast._extras import require
from ttfs_fast._terminal import console


class Reporter:
    """Prints to a terminal with a progress bar, and to anything else a line an epoch.

    What cannot be shown is escaped or left out; it never ends the training.

    Parameters
    ----------
    quiet : bool
        Print nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = console(sys.stdout, quiet=quiet, soft_wrap=True)
        self._progress: Any = None
        self._task: Any = None

    def say(self, text: str) -> None:
        """Print a line, as it is."""
        self._console.print(text, markup=False)

    def say_facts(self, title: str, facts: Mapping[str, str]) -> None:
        """Print a title and, below it, names and values in two columns."""
        width = max(map(len, facts))
        self.say(title)
        for name, value in facts.items():
            self.say(f"  {name:<{width}}  {value}")

    def start_bar(self, total: int, done: int) -> Self:
        """Prepare the progress bar that shows while the reporter is entered as a context."""
        if self._console.is_terminal and not self._console.quiet:
            rich = require("rich.progress", "train")
            self._progress = rich.Progress(
                rich.TextColumn("{task.description}"),
                rich.BarColumn(bar_width=8),
                rich.TaskProgressColumn(),
                rich.TextColumn("{task.fields[figures]}"),
                rich.TimeRemainingColumn(),
                console=self._console,
                refresh_per_second=4,
                transient=True,
            )
            self._task = self._progress.add_task("", total=total, completed=done, figures="")
        return self

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def step(self, title: str, done: int, figures: str) -> None:
        """Move the bar to ``done`` steps; does nothing where there is no bar."""
        if self._progress is not None:
            self._progress.update(self._task, description=title, completed=done, figures=figures)


def left_out(steps: int) -> str:
    """What the line of an epoch says of steps that were not made; nothing if there are none."""
    return f"  {steps} {'step' if steps == 1 else 'steps'} left out" if steps else ""
