"""Tables of results as CSV: a row a dataclass, written whole."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from ttfs_fast._files import replace_file

Row = TypeVar("Row")


def read_rows(path: str | Path, kind: type[Row]) -> list[Row]:
    """Read a table that `write_rows` wrote.

    Raises
    ------
    ValueError
        If it is not such a table; names the file and the line.
    """
    kinds: dict[str, Callable[[str], object]] = {
        field.name: {int: int, float: float, str: str}[field.type]  # type: ignore[index]
        for field in fields(kind)  # type: ignore[arg-type]
    }
    rows = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != list(kinds):
            raise ValueError(f"{path} is not a table of this study: its first line is another")
        for line in reader:
            try:
                rows.append(kind(**{name: make(line[name]) for name, make in kinds.items()}))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def write_rows(path: Path, kind: type[Any], rows: Sequence[Any]) -> None:
    """Write the table of a study, whole and in one step."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    replace_file(path, text.getvalue().encode())
