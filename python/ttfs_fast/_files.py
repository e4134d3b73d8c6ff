"""Writes that a crash, a full disk or a power cut leaves either undone or complete."""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL_PREFIX = ".partial-"


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
    """Put ``content`` at ``path``: whoever reads it sees the old content or the new, whole."""
    partial = path.parent / f"{PARTIAL_PREFIX}{os.getpid()}-{path.name}"
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_durably(partial, content)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def save_figure(path: Path, figure: Any, **options: Any) -> None:
    """Draw a figure of matplotlib into a file of the kind that its name says, a PNG if none."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:] or "png", **options)
    replace_file(path, content.getvalue())


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
