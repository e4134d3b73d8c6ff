"""The style of all pictures: colors, axes, files.

Figures are of `matplotlib.figure.Figure`, each on its own: no global state of pyplot is touched,
and no display is needed. The HTML page of the report replaces these colors by its own, light or
dark.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ttfs_fast._extras import require
from ttfs_fast._files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#22262b"
"""Text, and the first curve."""
SOFT = "#5b636c"
"""Notes."""
FAINT = "#8a929b"
"""Curves for comparison."""
LATE = "#b9c0c8"
"""Spikes after the decision."""
RULE, GRID = "#c9ced4", "#e6e8eb"
"""Lines of the axes, and lines behind the curves."""
DECISION = "#d1342f"
"""Output spikes and thresholds; also limits, and weights that excite."""
SERIES = (
    "#3b6fb6",
    "#2a9d8f",
    "#8d5fb0",
    "#c9832b",
    "#5f7d3a",
    "#b0567b",
    "#4a9cc2",
    "#7d6a58",
)
"""Colors of curves that stand side by side."""


def series_color(number: int) -> str:
    """The color of a curve; after the last one they repeat."""
    return SERIES[number % len(SERIES)]


def new_figure(
    width: float, height: float, *, dpi: int = 150, layout: Literal["constrained"] | None = None
) -> "Figure":
    """An empty figure.

    Parameters
    ----------
    width, height : float
        Inches.
    dpi : int
        Pixels per inch of files that name no other.
    layout : {"constrained"}, optional
        matplotlib's layout engine; without it, call ``figure.tight_layout()`` at the end.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    figure: Figure = require("matplotlib.figure", "plot").Figure(
        figsize=(width, height), dpi=dpi, facecolor="white", layout=layout
    )
    require("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(figure)
    return figure


def style_axes(
    axis: Any, title: str = "", x: str = "", y: str = "", *, grid: str = "", bold: bool = False
) -> None:
    """Give axes the package's look: no frame but left and bottom, quiet ticks.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
    title, x, y : str
        Title, which stands on the left, and labels of the axes; empty ones change nothing.
    grid : {"", "x", "y", "both"}
        Lines behind the curves.
    bold : bool
        For titles of panels that stand alone.
    """
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(RULE)
    axis.tick_params(which="both", labelcolor=INK, labelsize=9, color=RULE)
    if title:
        size, weight = (11, "bold") if bold else (10, "normal")
        axis.set_title(title, loc="left", fontsize=size, fontweight=weight, color=INK)
    if x:
        axis.set_xlabel(x, color=INK)
    if y:
        axis.set_ylabel(y, color=INK)
    if grid:
        axis.grid(axis=grid, color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)


def add_legend(axis: Any, **options: Any) -> None:
    """A legend without a frame."""
    axis.legend(**({"frameon": False, "fontsize": 9} | options))


def image_bytes(figure: "Figure", kind: str = "png", **options: Any) -> bytes:
    """A figure as the content of a file: ``kind`` is matplotlib's name of its format."""
    content = io.BytesIO()
    figure.savefig(content, format=kind, **options)
    return content.getvalue()


def save_figure(path: Path, figure: "Figure", **options: Any) -> None:
    """Draw a figure into a file of the kind that its name says, a PNG if none, in one step."""
    replace_file(path, image_bytes(figure, path.suffix[1:] or "png", **options))
