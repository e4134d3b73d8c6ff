"""Results on disk, unit by unit: after any interruption, finished units are not computed again."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttfs_fast._files import remove_partials, replace_file
from ttfs_fast._untrusted import parse_json

FLUSH_EVERY = 1.0
"""Seconds of work that a kill may cost, beyond the unit under way."""


@dataclass(frozen=True)
class WorkUnit:
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


class ResultStore:
    """The units of one part, in one file that is replaced whole.

    Parameters
    ----------
    folder : Path
        Where the file lies; its name ends with a digest of the settings, so that results of other
        settings stay beside it.
    part : str
        Name of the part.
    settings : mapping
        What decides the results of all units; JSON's types.

    Attributes
    ----------
    path : Path
        The file.
    units : dict
        Results by the units' keys.

    Raises
    ------
    ValueError
        If the file exists and this class did not write it.
    """

    def __init__(self, folder: Path, part: str, settings: Mapping[str, Any]) -> None:
        self.settings = json.loads(canonical(settings))
        self.path = folder / f"{part}-{digest(self.settings)[:8]}.json"
        self.units: dict[str, Any] = {}
        self._dirty = False
        self._flushed = time.monotonic()
        if self.path.is_file():
            self.units = _read(self.path, self.settings)

    def missing(self, units: list[WorkUnit]) -> list[WorkUnit]:
        """Those units that have no result yet."""
        return [unit for unit in units if unit.key not in self.units]

    def keep(self, unit: WorkUnit) -> None:
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
            content = {"settings": self.settings, "units": units}
            text = json.dumps(content, allow_nan=False, indent=1)
            replace_file(self.path, f"{text}\n".encode())
            self._dirty = False
        self._flushed = time.monotonic()

    def values(self, units: list[WorkUnit]) -> dict[str, Any]:
        """The results of these units, all of which are there."""
        return {unit.key: self.units[unit.key] for unit in units}


def clear_partials(*folders: Path) -> None:
    """Remove what a killed process was about to write."""
    for folder in folders:
        if folder.is_dir():
            remove_partials(folder)


def _read(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes())
        units = found["units"]
        if found["settings"] != settings or not isinstance(units, dict):
            raise TypeError("its settings are others than its name says")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold results of ttfs-fast reproduce ({error}); remove it, or name "
            "another folder"
        ) from error
    return units
