"""Groups of measurements, and the tables that they become."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
class Column:
    """A column of a group's table: what it holds, and how a number of it is written.

    Attributes
    ----------
    key, heading : str
        In the rows, and above the table.
    unit : float
        What numbers are divided by.
    form : str
        Format of the quotient.
    """

    key: str
    heading: str
    unit: float = 1.0
    form: str = ".2f"

    def text(self, row: Row) -> str:
        """The row's value, or nothing if it has none."""
        value = row.get(self.key)
        if value is None or isinstance(value, str):
            return value or ""
        numbers = value if isinstance(value, list) else [value]
        return " ".join(format(number / self.unit, self.form) for number in numbers)


@dataclass(frozen=True)
class Group:
    """Rows that belong together.

    Attributes
    ----------
    title, note : str
        Heading of the table, and how to read it.
    columns : tuple of Column
        Of the table; rows may hold more.
    rows : callable
        Measures, row by row.
    """

    title: str
    note: str
    columns: tuple[Column, ...]
    rows: Callable[["Settings"], Iterator[Row]]

    def filled(self, rows: Sequence[Row]) -> list[Column]:
        """The columns of which some row has a value."""
        return [c for c in self.columns if any(row.get(c.key) is not None for row in rows)]


def milliseconds(key: str, heading: str) -> Column:
    return Column(key, f"{heading}, ms", 1e-3)


def mebibytes(key: str, heading: str) -> Column:
    return Column(key, f"{heading}, MiB", 2**20, ".0f")
