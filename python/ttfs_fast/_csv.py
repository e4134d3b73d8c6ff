"""Tables as CSV files: rows of cells, or one row per dataclass, written in one step."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeVar

from ttfs_fast._files import replace_file

Row = TypeVar("Row")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of cells as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_csv(path: str | Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows of cells; a reader sees either the new table or the old one."""
    replace_file(Path(path), csv_text(rows).encode())


def write_rows(path: str | Path, kind: type[Any], rows: Sequence[Any]) -> None:
    """Write dataclasses of one kind, below a line with the names of their fields."""
    write_csv(path, [[field.name for field in fields(kind)], *map(astuple, rows)])


def read_rows(
    path: str | Path,
    kind: type[Row],
    what: str = "a table of this study",
    renamed: Mapping[str, str] | None = None,
    missing_ok: bool = False,
) -> list[Row]:
    """Read what `write_rows` wrote.

    Parameters
    ----------
    path : str or Path
        The file.
    kind : type
        The dataclass, with fields of int, float and str.
    what : str
        What the file should be, for the message of an error.
    renamed : mapping of str to str, optional
        Former names of columns, and their names.
    missing_ok : bool
        Whether to return no rows if there is no such file, in place of an error.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a table; the message names the file and the line.
    """
    kinds: dict[str, Callable[[str], object]] = {
        field.name: {int: int, float: float, str: str}[field.type]  # type: ignore[index]
        for field in fields(kind)  # type: ignore[arg-type]
    }
    if missing_ok and not Path(path).is_file():
        return []
    rows = []
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            reader.fieldnames = [
                (renamed or {}).get(name, name) for name in reader.fieldnames or ()
            ]
            if reader.fieldnames != list(kinds):
                raise ValueError(f"{path} is not {what}: its first line names other columns")
            for line in reader:
                if None in line:
                    raise ValueError(f"{path}, line {reader.line_num}: it has too many cells")
                try:
                    rows.append(kind(**{name: make(line[name]) for name, make in kinds.items()}))
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"{path}, after line {reader.line_num}: not a table in UTF-8: {error}"
            ) from error
    return rows
