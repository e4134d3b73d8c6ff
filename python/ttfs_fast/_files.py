"""Atomic writes: after a crash, a full disk or a power cut a write is complete or has no effect."""

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL_PREFIX = ".partial-"
LOCK = ".lock"


def sync_directory(folder: Path) -> None:
    """Make the names inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let an error of the system say which file could not be written.

    What the system says names no file for a full disk, and otherwise a partial one.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"{path} cannot be written ({reason}); what was there before is kept"
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``: a reader sees either the old content or the new.

    Of a link, what it points to is replaced. The file keeps its permissions. A device or a pipe
    receives the bytes, and so does what is open as /dev/stdout.
    """
    is_open = str(path.absolute().parent) in ("/dev", "/dev/fd", "/proc/self/fd")
    if path.exists() and not path.is_dir() and (is_open or not path.is_file()):
        with open(path, "ab") as file:
            file.write(content)
        return
    with named_errors(path):
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its own for each thread, and for processes of equal number on other machines.
        partial = path.parent / f"{PARTIAL_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}"
        try:
            write_durably(partial, content)
            with suppress(FileNotFoundError):
                partial.chmod(stat.S_IMODE(path.stat().st_mode))
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside ``path`` that takes its name once the block ends without an error."""
    partial = path.parent / (PARTIAL_PREFIX + path.name)
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partials(path.parent)
        try:
            partial.mkdir()
            yield partial
            sync_directory(partial)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_directory(path.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write ``content`` to a new file and flush it to the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def use_folder(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads, from using a folder until the block ends.

    The folder is made if it does not exist, and if it is empty at the end, it is removed again. The
    lock is one of the system's, on an open file: it ends with the process, however it ends, and
    the file that a killed process leaves does no harm.

    Raises
    ------
    BlockingIOError
        If the folder is in use.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with named_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with _locked_file(folder):
            yield
    finally:
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


@contextmanager
def _locked_file(folder: Path) -> Iterator[None]:
    path = folder / LOCK
    while True:
        with named_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(
                f"{folder} is in use by another run: wait until that has ended, or give another "
                "folder"
            ) from None
        except FileNotFoundError:
            pass
        except OSError:  # a file system without locks, where nothing can be told
            break
        os.close(descriptor)  # of a file that its last user has removed meanwhile
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder that must never be seen half removed: it loses its name first."""
    doomed = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}removed-", dir=folder.parent))
    os.replace(folder, doomed)
    sync_directory(folder.parent)
    shutil.rmtree(doomed)


def remove_partials(folder: Path) -> None:
    """Clear away what an interrupted write or removal left in ``folder``."""
    for path in folder.glob(f"{PARTIAL_PREFIX}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
