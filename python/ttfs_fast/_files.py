"""Writes that a crash leaves either undone or complete."""

import os
import shutil
import tempfile
from pathlib import Path

PARTIAL_PREFIX = ".partial-"


def sync_directory(folder: Path) -> None:
    """Make the names inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Write ``content`` to a new file and flush it to the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path``: whoever reads it sees the old content or the new, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f"{PARTIAL_PREFIX}{os.getpid()}-{path.name}"
    try:
        write_durably(partial, content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


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
