"""Where data sets lie, and how their files are fetched."""

import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DATA_ROOT_VARIABLE = "TTFS_FAST_DATA"
_TIMEOUT = 30.0
_CHUNK = 1 << 16

Progress = Callable[[int], None]


class DownloadError(OSError):
    """No mirror delivered a file."""


def find_data_root() -> Path | None:
    """Folder of data sets that the environment variable TTFS_FAST_DATA names.

    Returns
    -------
    root : Path or None
        The folder, which may be MNIST's own or hold it as ``mnist``, and is not checked to be
        there; None if the variable is not set.
    """
    value = os.environ.get(DATA_ROOT_VARIABLE)
    return Path(value).expanduser() if value else None


def cache_folder() -> Path:
    """The user's cache folder of this package; it need not be there."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ttfs_fast"


def data_folders(root: str | os.PathLike[str] | None) -> list[Path]:
    """Folders to look for a data set in, first to last."""
    given = Path(root).expanduser() if root is not None else None
    return [base for base in (given, find_data_root(), cache_folder()) if base is not None]


def fetch(url: str, limit: int) -> bytes:
    """The content at an address, with a progress bar on standard error.

    Raises
    ------
    OSError, http.client.HTTPException
        If it cannot be had.
    ValueError
        If it has more than ``limit`` bytes, or fewer than announced.
    """
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        content = bytearray()
        with _progress(url, total) as advance:
            while chunk := response.read(_CHUNK):
                content += chunk
                if len(content) > limit:
                    raise ValueError(f"sends more than the {limit} bytes the file can have")
                advance(len(chunk))
    if total is not None and len(content) < total:
        raise ValueError(f"sent {len(content)} of {total} bytes")
    return bytes(content)


@contextmanager
def _progress(url: str, total: int | None) -> Iterator[Progress]:
    """A progress bar if rich is installed, else a line of text."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar
    except ImportError:
        size = f" ({total} bytes)" if total is not None else ""
        print(f"fetching {url}{size}", file=sys.stderr)
        yield lambda count: None
        print(f"fetched {url}", file=sys.stderr)
        return
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(url.rsplit("/", 1)[-1], total=total)
        yield lambda count: bar.update(task, advance=count)
