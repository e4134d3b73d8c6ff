"""The report as files: one HTML page that needs nothing else, Markdown, CSV, pictures."""

import base64
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttfs_fast._csv import csv_text
from ttfs_fast._extras import require
from ttfs_fast._files import replace_file
from ttfs_fast._tables import Column, Table
from ttfs_fast.analysis import style
from ttfs_fast.paper import numbers
from ttfs_fast.paper.sections import Picture, Section, StatTile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HTML, MARKDOWN, TABLES, PICTURES = "report.html", "report.md", "tables", "pictures"
PIXELS_PER_INCH = 100

# What is drawn for white paper takes the page's colors, light or dark.
_THEME = {
    style.INK: "--ink",
    style.SOFT: "--soft",
    style.FAINT: "--faint",
    style.GRID: "--grid",
    "#ffffff": "--card",
    style.DECISION: "--decision",
    **{color: f"--c{number}" for number, color in enumerate(style.SERIES)},
}


@dataclass(frozen=True)
class Report:
    """What the files are made of.

    Attributes
    ----------
    title : str
    lead : list of str
        Opening paragraphs.
    sections : list of Section
    made : list of Table
        Command, machine, time.
    missing : list of str
        What was not done, and why.
    """

    title: str
    lead: list[str]
    sections: list[Section]
    made: list[Table]
    missing: list[str] = field(default_factory=list)

    @property
    def tiles(self) -> list[StatTile]:
        """The figures for the top of the page."""
        return [tile for section in self.sections for tile in section.tiles]

    @property
    def outcome(self) -> list[str]:
        """One sentence a section."""
        return [section.headline for section in self.sections if section.headline]


def write(report: Report, folder: Path) -> list[Path]:
    """Write the report; files that are there are replaced, each in one step.

    Parameters
    ----------
    report : Report
    folder : Path
        Gets ``report.html``, ``report.md``, ``tables/*.csv`` and ``pictures/*.png``.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ImportError
        If jinja2 or matplotlib is not installed.
    """
    pictures = [picture for section in report.sections for picture in section.pictures]
    pngs = {picture.name: png(picture.figure) for picture in pictures}
    contents = {folder / PICTURES / f"{name}.png": content for name, content in pngs.items()} | {
        folder / TABLES / f"{table.name}.csv": _utf8(as_csv(table))
        for section in report.sections
        for table in section.tables
    }
    contents[folder / MARKDOWN] = _utf8(as_markdown(report))
    contents[folder / HTML] = _utf8(as_html(report, pngs))
    for path, content in contents.items():
        replace_file(path, content)
    return list(contents)


def _utf8(text: str) -> bytes:
    """The text as a file has it; names of files that are not UTF-8 are escaped."""
    return text.encode(errors="backslashreplace")


def as_html(report: Report, pngs: dict[str, bytes]) -> str:
    """The page. Drawings are SVG in its own colors; pictures of pixels are embedded PNG."""
    jinja2 = require("jinja2", "plot")
    markup = require("markupsafe", "plot").Markup
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(
        (resources.files("ttfs_fast.paper") / "page.html.jinja").read_text()
    )
    drawn = {}
    for section in report.sections:
        for picture in section.pictures:
            if picture.photo:
                data = base64.b64encode(pngs[picture.name]).decode()
                alt = markup.escape(picture.caption)
                text = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
            else:
                text = svg(picture)
            drawn[picture.name] = markup(text)
    page: str = template.render(
        title=report.title,
        lead=report.lead,
        tiles=report.tiles,
        outcome=report.outcome,
        sections=report.sections,
        made=report.made,
        missing=report.missing,
        drawn=drawn,
        kind=_kind,
        theme=_THEME,
        link=numbers.LINK,
        citation=numbers.CITATION,
    )
    return page


def as_markdown(report: Report) -> str:
    """The same for reading as text; long tables are only linked."""
    parts = [f"# {report.title}", *report.lead]
    parts.append("\n".join(f"- {sentence}" for sentence in report.outcome))
    for section in report.sections:
        parts += [f"## {section.title}", *section.text]
        for table in section.tables:
            if table.folded:
                parts.append(f"{table.caption}: [{table.name}.csv]({TABLES}/{table.name}.csv)")
                continue
            parts += [f"**{table.caption}**", table.markdown()]
            if table.note:
                parts.append(table.note)
        parts += [f"![{p.caption}]({PICTURES}/{p.name}.png)" for p in section.pictures]
    parts.append("## How this was made")
    for table in report.made:
        parts += [f"**{table.caption}**", table.markdown()]
    if report.missing:
        parts += ["**What is missing, and why**", "\n".join(f"- {text}" for text in report.missing)]
    parts.append(f"The paper: [{numbers.CITATION}]({numbers.LINK}).")
    return "\n\n".join(part for part in parts if part) + "\n"


def as_csv(table: Table) -> str:
    """The values of a table, unrounded."""
    return csv_text([[column.title for column in table.columns], *table.rows])


def png(figure: "Figure") -> bytes:
    """A figure as pixels on white ground."""
    return style.image_bytes(figure, dpi=PIXELS_PER_INCH, metadata={"Software": None})


def svg(picture: Picture) -> str:
    """A figure as SVG to stand in the page: its colors and its font are the page's."""
    matplotlib = require("matplotlib", "plot")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}):
        content = style.image_bytes(picture.figure, "svg", metadata={"Date": None, "Creator": None})
    text = content.decode()
    text = text[text.index("<svg") :]
    for color, variable in {**_THEME, "#000000": "--ink", style.RULE: "--rule"}.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r"(font: [^';]*?[\d.]+px) '[^;]*?sans-serif", r"\1 var(--sans)", text)
    # Ids must differ from those of the page's other drawings.
    text = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{picture.name}-", text)
    label = require("markupsafe", "plot").escape(picture.caption)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _kind(column: Column) -> str:
    """The classes of a cell in the page."""
    kinds = ["number"] if column.numeric else []
    if column.title in ("weights, Table 2", "the paper says") or column.title.startswith("paper"):
        kinds.append("paper")
    if column.title.startswith("difference"):
        kinds.append("difference")
    return " ".join(kinds)


def table_of(name: str, caption: str, facts: dict[str, Any]) -> Table:
    """A table of two columns: names and values."""
    columns = [Column("", numeric=False), Column("", numeric=False)]
    return Table(name, caption, columns, [[key, str(value)] for key, value in facts.items()])
