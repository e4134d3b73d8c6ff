"""Tables: values with columns that format them, for terminals and pages."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ttfs_fast._extras import require

NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    title : str
        Its heading.
    show : callable
        A value of it as people read it.
    numeric : bool
        Whether to align it to the right.
    wrap : bool
        Whether a narrow terminal may break its cells into lines.
    of : str or callable
        What `Table.of` puts into it from an item: a key or an attribute, or several with dots
        between them, such as ``"timing.decision.mean"``; or a function of the item.
    """

    title: str
    show: Callable[[Any], str] = str
    numeric: bool = True
    wrap: bool = True
    of: str | Callable[[Any], Any] = ""

    def value(self, item: Any) -> Any:
        """What it holds of an item."""
        if callable(self.of):
            return self.of(item)
        for name in self.of.split("."):
            item = item[name] if isinstance(item, Mapping) else getattr(item, name)
        return item

    def text(self, value: Any, nothing: str = NOTHING) -> str:
        """The cell for a value; a dash where there is none."""
        return nothing if value is None else self.show(value)


@dataclass(frozen=True)
class Table:
    """Rows of values with what they mean.

    Attributes
    ----------
    name : str
        For a file of its values.
    caption : str
        One line above it.
    columns : sequence of Column
    rows : sequence of sequence
        Values as they are, unrounded; None where there is none.
    note : str
        What to know about it, below.
    folded : bool
        Whether a page shows it only when asked.
    red : collection of int
        Numbers of the rows that a terminal shows in red.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    folded: bool = False
    red: Collection[int] = ()

    @classmethod
    def of(
        cls, name: str, caption: str, columns: Sequence[Column], items: Iterable[Any], **more: Any
    ) -> Self:
        """A table with a row for each item; `Column.of` says what a column holds of it."""
        rows = [[column.value(item) for column in columns] for item in items]
        return cls(name, caption, columns, rows, **more)

    @property
    def shown(self) -> list[Column]:
        """The columns that hold a value in some row."""
        return [self.columns[place] for place in self._places()]

    def cells(self, nothing: str = NOTHING) -> list[list[str]]:
        """The formatted rows of these columns."""
        places = self._places()
        return [
            [self.columns[place].text(row[place], nothing) for place in places] for row in self.rows
        ]

    def _places(self) -> list[int]:
        return [
            place
            for place in range(len(self.columns))
            if any(row[place] is not None for row in self.rows)
        ]

    def markdown(self) -> str:
        """The table for a page; a bar in a cell becomes a slash."""

        def line(cells: list[str]) -> str:
            return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"

        rule = ["---:" if column.numeric else "---" for column in self.shown]
        heads = [column.title for column in self.shown]
        return "\n".join(map(line, [heads, rule, *self.cells()]))

    def rich(self) -> Any:
        """The table as a rich.table.Table, for a terminal."""
        table = require("rich.table", "train").Table(title=self.caption, caption=self.note or None)
        for column in self.shown:
            # In a narrow terminal numbers go on in the next line.
            table.add_column(
                column.title,
                justify="right" if column.numeric else "left",
                no_wrap=not column.wrap,
                overflow="fold" if column.wrap else "ellipsis",
            )
        for number, cells in enumerate(self.cells("-")):
            table.add_row(*cells, style="red" if number in self.red else "")
        return table


def as_text(table: Any, width: int = 120) -> str:
    """A rich table as a terminal of this width shows it."""
    console = require("rich.console", "train").Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return str(capture.get())
