"""Results on disk, unit by unit: what is there is not computed again, whatever stopped the work."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttfs_fast._files import remove_partials, replace_file

FLUSH_EVERY = 1.0
"""Seconds of work that a kill may cost, beyond the unit under way."""


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work that is kept.

    Attributes
    ----------
    key : str
        Its name within its part. Equal settings and an equal key give equal results.
    compute : callable
        Returns the result, made of JSON's types; nan and inf are not among them.
    """

    key: str
    compute: Callable[[], Any]


def canonical(value: Any) -> str:
    """JSON of a value, the same for equal values."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


class PartStore:
    """The units of one part, in one file that is replaced whole.

    Parameters
    ----------
    path : Path
        The file. Units that it holds for other settings are put aside when the first unit of these
        settings is kept.
    settings : mapping
        Everything that decides the results but the units' keys; JSON's types.

    Raises
    ------
    ValueError
        If the file is there and is not one of this class.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings = json.loads(canonical(settings))
        self.sha256 = digest(self.settings)
        self.units: dict[str, Any] = {}
        self._dirty = False
        self._flushed = time.monotonic()
        if path.is_file():
            found = _read(path)
            if found["sha256"] == self.sha256:
                self.units = found["units"]

    def missing(self, units: list[Unit]) -> list[Unit]:
        """Those units that have no result yet."""
        return [unit for unit in units if unit.key not in self.units]

    def keep(self, unit: Unit) -> None:
        """Compute a unit and keep its result; it is on the disk a second later at the latest."""
        # What is used now is what a later run will read: JSON's types, to the last bit.
        self.units[unit.key] = json.loads(json.dumps(unit.compute(), allow_nan=False))
        self._dirty = True
        if time.monotonic() - self._flushed >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._dirty:
            units = {key: self.units[key] for key in sorted(self.units)}
            content = {"settings": self.settings, "sha256": self.sha256, "units": units}
            text = json.dumps(content, allow_nan=False, indent=1)
            replace_file(self.path, f"{text}\n".encode())
            self._dirty = False
        self._flushed = time.monotonic()

    def values(self, units: list[Unit]) -> dict[str, Any]:
        """The results of these units, all of which are there."""
        return {unit.key: self.units[unit.key] for unit in units}


def clear_partials(*folders: Path) -> None:
    """Remove what a killed process was about to write."""
    for folder in folders:
        if folder.is_dir():
            remove_partials(folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        if not (isinstance(found["sha256"], str) and isinstance(found["units"], dict)):
            raise TypeError("it has other fields")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold results of ttfs-fast reproduce ({error}); remove it, or name "
            "another folder"
        ) from error
    return dict(found)
