"""What a run reports to its callbacks. The library itself prints nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Callback:
    """Receives reports of a run and ignores them; derive a class from it to show or store them.

    With several processes only the main one reports.
    """

    def log(self, text: str) -> None:
        """A line: the end of an epoch, or another event."""

    def log_facts(self, title: str, facts: Mapping[str, str]) -> None:
        """The beginning or end of a part of the run, with names and values about it."""
        self.log(title)
        width = max(map(len, facts))
        for name, value in facts.items():
            self.log(f"  {name:<{width}}  {value}")

    @contextmanager
    def progress(self, total: int, done: int) -> Iterator[None]:
        """Surrounds a run of ``total`` steps, of which ``done`` were done before."""
        yield

    def step(self, title: str, done: int, figures: str) -> None:
        """The number of steps done, with the figures of the last ones; many times per epoch."""


class LogLines(Callback):
    """Passes the lines on, and leaves out the steps.

    Parameters
    ----------
    log : callable
        Gets each line, such as ``print`` or ``logging.getLogger("mine").info``.

    Examples
    --------
    >>> from ttfs_fast.training import LogLines
    >>> lines = []
    >>> LogLines(lines.append).log_facts("training", {"seed": "0", "rate": "0.1"})
    >>> lines
    ['training', '  seed  0', '  rate  0.1']
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def log(self, text: str) -> None:
        """Pass a line on."""
        self._log(text)


def skipped_text(steps: int) -> str:
    """What the line of an epoch says of steps that were skipped; nothing if there are none."""
    return f"  {steps} {'step' if steps == 1 else 'steps'} skipped" if steps else ""
