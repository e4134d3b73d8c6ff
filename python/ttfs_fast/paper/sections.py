"""Parts of the report: sentences, tables and pictures."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ttfs_fast._tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its caption.

    Attributes
    ----------
    name : str
        For its file.
    caption : str
        What one sees.
    figure : Figure
        matplotlib's.
    photo : bool
        Whether it keeps its white ground in the dark: for images, and dots drawn as pixels.
    """

    name: str
    caption: str
    figure: "Figure"
    photo: bool = False

    @property
    def wide(self) -> bool:
        """Whether it needs the whole width of the page."""
        return bool(self.figure.get_figwidth() > 8)


@dataclass(frozen=True)
class StatTile:
    """One figure for the top of the page.

    Attributes
    ----------
    label : str
        What it is.
    ours : str
        The figure.
    paper : str
        The paper's; empty if it has none.
    """

    label: str
    ours: str
    paper: str = ""


@dataclass
class Section:
    """One part of the report.

    Attributes
    ----------
    name, title : str
        For links and files; for people.
    headline : str
        The outcome in one sentence, also for the top of the page; empty for none.
    tiles : list of StatTile
        Figures for the top of the page.
    text : list of str
        Paragraphs.
    tables, pictures : list
    """

    name: str
    title: str
    headline: str = ""
    tiles: list[StatTile] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def percent(digits: int = 2) -> Callable[[float], str]:
    """Shows a fraction in per cent."""
    return lambda value: f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    """Shows a difference of two fractions in percentage points, with its sign."""
    return signed(100 * value, 2)


def signed(value: float, digits: int) -> str:
    """A number with its sign, a real minus."""
    text = f"{abs(value):.{digits}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def relative(value: float) -> str:
    """Shows a relative difference in per cent, with its sign."""
    return f"{signed(100 * value, 1)} %"


def whole(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def joules(value: float) -> str:
    """An energy in a suitable unit."""
    for factor, unit in ((1e-3, "mJ"), (1e-6, "\N{GREEK SMALL LETTER MU}J"), (1e-9, "nJ")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e-12:.3g} pJ"


def kilobytes(value: float) -> str:
    """Bytes in thousands."""
    return f"{value / 1000:,.1f} kB"


def tau(value: float) -> str:
    """A time in units of tau; with two digits where it is short."""
    return f"{value:.2f}" if not 0 < abs(value) < 0.01 else f"{value:.2g}"


def finite(value: float) -> float | None:
    """A number for JSON: None for what is not finite."""
    return value if math.isfinite(value) else None


def wilson(correct: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a fraction."""
    z, fraction = 1.959964, correct / images
    middle = (fraction + z * z / (2 * images)) / (1 + z * z / images)
    half = (
        z
        * math.sqrt(fraction * (1 - fraction) / images + z * z / (4 * images**2))
        / (1 + z * z / images)
    )
    return middle - half, middle + half
