"""Text about a computation, shown so that nothing about showing it ends the computation."""

import codecs
import sys
from contextlib import suppress
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
    """Print a line about a computation that goes on."""
    print(text, file=Unfailing(sys.stdout), flush=True)


def console(stream: TextIO | None, **options: Any) -> Any:
    """A rich.console.Console that shows the course of a computation."""
    return require("rich.console", "train").Console(
        file=Unfailing(stream), highlight=False, **options
    )


def escape_unknown_characters() -> None:
    """Make whatever this process prints go through, whatever characters its terminal has."""
    if hasattr(sys.stdout, "reconfigure"):  # not None, and not a test's stand-in
        sys.stdout.reconfigure(errors=ESCAPE)
