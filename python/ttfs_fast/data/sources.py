"""Folders of data sets, and downloads of their files."""

import http.client
import os
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ttfs_fast._terminal import Unfailing, progress

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
    return folder_path(value) if value else None


def folder_path(path: str | os.PathLike[str]) -> Path:
    """The path, with ``~`` replaced by the user's home folder, if there is one."""
    return Path(os.path.expanduser(path))


def cache_folder() -> Path | None:
    """The user's cache folder of this package; it need not be there. None without a home folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    if cache:
        return Path(cache) / "ttfs_fast"
    home = folder_path("~")
    return home / ".cache" / "ttfs_fast" if home.is_absolute() else None


def data_folders(root: str | os.PathLike[str] | None, *, download: bool = False) -> list[Path]:
    """Folders to search for a data set, in order; a given folder is the only one.

    Parameters
    ----------
    root : path or None
        The folder that is given.
    download : bool
        Files are to be fetched into it, so it need not be there.

    Raises
    ------
    FileNotFoundError
        If the folder that is given, or that TTFS_FAST_DATA names, is not there.
    """
    given = None if root is None else folder_path(root)
    named = find_data_root() if given is None else None
    for folder, source in ((given, ""), (named, f", which {DATA_ROOT_VARIABLE} names")):
        if folder is not None and not download and not folder.is_dir():
            raise FileNotFoundError(
                f"there is no folder {folder}{source}: name the folder that holds the data sets, "
                "or none to look in the default places"
            )
    if given is not None:
        return [given]
    return [folder for folder in (named, cache_folder()) if folder is not None]


def places(folders: Sequence[Path]) -> str:
    """The folders that were looked in, for an error message."""
    return ", ".join(map(str, folders)) or "no folder (none is named, and this user has no home)"


def download_folder(root: str | os.PathLike[str] | None) -> Path:
    """Folder that fetched data sets go to.

    Raises
    ------
    DownloadError
        If none is named, and this user has no home folder.
    """
    folder = folder_path(root) if root is not None else find_data_root() or cache_folder()
    if folder is None:
        raise DownloadError(
            "there is no home folder to keep the data in: pass a folder as root, or set "
            f"{DATA_ROOT_VARIABLE} to one"
        )
    return folder


def fetch(url: str, limit: int) -> bytes:
    """Download the content at an address, with a progress bar on standard error.

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


def fetch_any(
    urls: Iterable[str], limit: int, check: Callable[[bytes], None], what: str, folder: Path
) -> bytes:
    """The content at the first address that delivers what ``check`` accepts.

    Raises
    ------
    DownloadError
        If none does; says what was tried to fetch ``what`` into ``folder``.
    """
    failures = []
    for url in urls:
        try:
            content = fetch(url, limit)
            check(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url} ({error})")
        else:
            return content
    raise DownloadError(
        f"{what} could not be fetched into {folder}; tried {'; '.join(failures)}. Check the "
        "network, or fetch it elsewhere, put the files into a folder and pass that as root or set "
        f"{DATA_ROOT_VARIABLE} to it. The digits data set needs no network"
    )


@contextmanager
def _progress(url: str, total: int | None) -> Iterator[Progress]:
    """A progress bar on a terminal, elsewhere a line of text before and after."""
    with progress(sys.stderr, "title", "bar", "bytes", "speed", transient=False) as bars:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bars.update(url.rsplit("/", 1)[-1], done, total)

        if not bars.shown:
            size = f" ({total} bytes)" if total is not None else ""
            print(f"fetching {url}{size}", file=Unfailing(sys.stderr))
        yield advance
        if not bars.shown:
            print(f"fetched {url}", file=Unfailing(sys.stderr))
