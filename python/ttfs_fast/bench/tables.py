"""Groups of measurements, and the tables that they become."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ttfs_fast._tables import Column, Table

if TYPE_CHECKING:
    from ttfs_fast.bench.measure import Settings

Row = dict[str, str | float | list[float] | None]
"""One line of a table: times in seconds, memory in bytes, fractions and ratios as they are."""


def number(row: Row, key: str) -> float:
    """A number of a row."""
    value = row[key]
    assert isinstance(value, (int, float)), (key, value)
    return value


@dataclass(frozen=True)
class Group:
    """Rows that belong together.

    Attributes
    ----------
    title, note : str
        Heading of the table, and how to read it.
    columns : dict of str to Column
        Of the table, by the keys of rows; rows may hold more.
    rows : callable
        Measures, row by row.
    """

    title: str
    note: str
    columns: dict[str, Column]
    rows: Callable[["Settings"], Iterator[Row]]

    def table(self, rows: Sequence[Row]) -> Table:
        """What was measured."""
        values = [[row.get(key) for key in self.columns] for row in rows]
        return Table(self.title, self.title, list(self.columns.values()), values, self.note)


def numbers(title: str, unit: float = 1.0, form: str = ".2f") -> Column:
    """A column of numbers, or of lists of them, in a unit."""

    def show(value: float | list[float]) -> str:
        listed = value if isinstance(value, list) else [value]
        return " ".join(format(one / unit, form) for one in listed)

    return Column(title, show)


def milliseconds(title: str) -> Column:
    return numbers(f"{title}, ms", 1e-3)


def mebibytes(title: str) -> Column:
    return numbers(f"{title}, MiB", 2**20, ".0f")
