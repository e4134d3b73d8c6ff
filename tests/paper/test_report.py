import csv
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from support.reproduction import Report
from ttfs_fast._tables import Column, Table
from ttfs_fast.paper import numbers, render
from ttfs_fast.paper.run import PARTS, duration
from ttfs_fast.paper.sections import joules, percent, points, signed

VOID = {
    "meta",
    "img",
    "br",
    "link",
    "input",
    "hr",
    "path",
    "use",
    "rect",
    "circle",
    "image",
    "line",
}


class Page(HTMLParser):
    """Reads a page; raises an error for tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.outside: list[str] = []
        self.words: list[str] = []
        self.tags: dict[str, int] = {}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)
        self._look(tag, attributes)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._look(tag, attributes)

    def _look(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            text = value or ""
            if name == "id":
                self.ids.append(text)
            if name in ("src", "href", "xlink:href"):
                if text.startswith("#"):
                    self.references.append(text[1:])
                elif not text.startswith("data:"):
                    self.outside.append(text)
            self.references += re.findall(r"url\(#(.+?)\)", text)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return (report.folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    found = Page()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


def test_the_page_is_self_contained(page: Page, html: str) -> None:
    assert page.outside == [numbers.LINK]
    assert not re.search(r"@import|url\((?!#)|<script|<link", html)
    assert len(html) < 3_000_000
    assert "prefers-color-scheme: dark" in html


def test_every_reference_leads_somewhere_and_no_id_is_there_twice(page: Page) -> None:
    assert len(page.references) > 50
    assert set(page.references) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_drawings_use_the_colors_of_the_page(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) >= 8
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert not re.search(r"(fill|stroke): #(ffffff|000000|22262b)", drawing)
        assert "<text" in drawing
        assert "aria-label" in drawing


def test_the_page_begins_with_a_summary(html: str, report: Report) -> None:
    start = html.index("<h1>")
    head = unescape(html[start : html.index("</header>")])
    own = report.results["table2"]["digits-demo"]["evaluation"]
    assert f"{100 * own['accuracy']:.2f} %" in head
    assert "the paper" in head
    assert head.count("<li>") == len(PARTS)
    for part in PARTS.values():
        assert part.title in head


def test_the_page_names_command_and_machine(page: Page) -> None:
    words = " ".join(page.words)
    assert "ttfs-fast reproduce --quick" in words
    for text in ("seed", "cpu, threads: 1", "torch", "Time, over all sessions"):
        assert text in words


def read(report: Report, name: str) -> list[dict[str, str]]:
    with open(report.folder / f"tables/{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_values_are_in_the_csv_unrounded(report: Report) -> None:
    rows = read(report, "table2-accuracy")
    own = report.results["table2"]["digits-demo"]["evaluation"]
    assert float(rows[0]["accuracy"]) == own["accuracy"]
    noise = read(report, "figure2-digits-demo-weights")
    assert [float(row["SNR (dB)"]) for row in noise] == [5.0, 25.0]


def test_markdown_has_every_table_and_picture(report: Report) -> None:
    text = (report.folder / "report.md").read_text()
    for link in re.findall(r"\]\((?!https:)(.+?)\)", text):
        assert (report.folder / link).is_file(), link
    pictures = {path.name for path in (report.folder / "pictures").iterdir()}
    assert {name for name in pictures if name not in text} == set()
    assert len(pictures) >= 9
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_table_cells_are_escaped() -> None:
    table = Table(
        "t", "<b>", [Column("a|b", numeric=False), Column("n")], [["<i>|x", None], ["", 2]]
    )
    report = render.Report("T & <T>", ["<script>"], [], [table])
    found = Page()
    text = render.as_html(report, {})
    found.feed(text)
    assert found.open == []
    assert "<script>" not in text
    assert "&lt;i&gt;|x" in text
    assert "<i>/x" in render.as_markdown(report)


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    report = render.Report("T", ["the run \udcff"], [], [])
    written = render.write(report, tmp_path)
    assert {path.suffix for path in written} == {".md", ".html"}
    for path in written:
        assert "the run \\udcff" in path.read_text(encoding="utf-8")


def test_empty_columns_are_omitted() -> None:
    columns = [Column("a"), Column("nothing"), Column("b")]
    table = Table("t", "", columns, [[1, None, None], [2, None, 3]])
    assert [column.title for column in table.shown] == ["a", "b"]
    assert table.cells() == [["1", "\N{EN DASH}"], ["2", "3"]]
    assert render.as_csv(table) == "a,nothing,b\n1,,\n2,,3\n"


def test_numbers_are_formatted() -> None:
    assert percent()(0.99094) == "99.09 %"
    assert points(-0.00236) == "\N{MINUS SIGN}0.24"
    assert points(0.0) == points(-1e-9) == "0.00"
    assert signed(0.25, 1) == "+0.2"
    assert joules(205e-9) == "205 nJ"
    assert joules(0.336e-3) == "336 \N{GREEK SMALL LETTER MU}J"
    assert joules(9.94e-12) == "9.94 pJ"
    assert joules(1e-9) == "1 nJ"
    assert duration(3.04) == "3.0 s"
    assert duration(600) == "10.0 min"
    assert duration(7200) == "2.0 h"
