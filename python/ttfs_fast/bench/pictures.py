"""The picture of the results: ratios by layer, time against size, speed-ups by threads."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ttfs_fast.analysis.style import (
    DECISION,
    FAINT,
    INK,
    SERIES,
    add_legend,
    image_bytes,
    new_figure,
    style_axes,
)
from ttfs_fast.bench.tables import Row, number

if TYPE_CHECKING:
    from ttfs_fast.bench.results import GroupResult

GOAL = DECISION
FORWARD, TRAINING, DENSE = SERIES[0], SERIES[1], FAINT

LEGEND: dict[str, Any] = {
    "fontsize": 8,
    "loc": "upper right",
    "bbox_to_anchor": (1.0, -0.07),
    "ncols": 4,
}

Panel = Callable[[Any], None]


def draw(results: Sequence["GroupResult"]) -> bytes | None:
    """The results as a PNG picture; None if none of them is drawn or matplotlib is missing.

    Parameters
    ----------
    results : sequence of GroupResult
        What was measured.
    """
    panels = _panels({result.name: result.rows for result in results})
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    try:
        figure = new_figure(7.2 * columns, 4.2 * lines, dpi=110, layout="constrained")
    except ImportError:
        return None
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.remove()
    return image_bytes(figure)


def _panels(groups: dict[str, list[Row]]) -> list[Panel]:
    panels = []
    forward, training = ("forward", FORWARD), ("fwd + bwd", TRAINING)
    if "layers" in groups:
        bars = {"forward_ratio": forward, "training_ratio": training}
        panels.append(_bars("Layers: time in dense ones", groups["layers"], bars))
    networks = [
        {"layer": f"{row['layer']}: {what}", "ratio": row[key], "goal": row["goal"]}
        for name, what, key in (
            ("mnist", "training step", "training_ratio"),
            ("vgg", "inference", "forward_ratio"),
            ("memory", "peak memory", "added_ratio"),
        )
        for row in groups.get(name, [])
    ]
    if networks:
        bars = {"ratio": ("spiking / dense", TRAINING)}
        panels.append(_bars("Networks: time, or memory, in dense ones", networks, bars))
    rows = groups.get("scaling", [])
    for series in dict.fromkeys(str(row["series"]) for row in rows):
        panels.append(_growth(series, [row for row in rows if row["series"] == series]))
    if "threads" in groups:
        bars = {
            "forward_speedup": forward,
            "training_speedup": training,
            "dense_training_speedup": ("dense fwd + bwd", DENSE),
        }
        panels.append(_bars("Times faster on all threads than on one", groups["threads"], bars))
    if "isa" in groups:
        bars = {"forward_avx2_ratio": forward, "training_avx2_ratio": training}
        # Where AVX2 is the widest set, its times are the measure: nothing to see.
        rows = [row for row in groups["isa"] if row.get("forward_avx2_ratio", 1) != 1]
        if rows:
            panels.append(_bars("AVX2: time in that of the widest set", rows, bars))
    return panels


def _bars(title: str, rows: list[Row], bars: Mapping[str, tuple[str, str]]) -> Panel:
    """Horizontal bars, a group for each row, and the row's goal as a mark across them."""

    def panel(axis: Any) -> None:
        thickness = 0.8 / len(bars)
        for place, (key, (label, color)) in enumerate(bars.items()):
            places = [line + (place - (len(bars) - 1) / 2) * thickness for line in range(len(rows))]
            values = [row[key] for row in rows]
            drawn = axis.barh(places, values, thickness * 0.92, color=color, label=label)
            for text in axis.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8, color=INK):
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        goals = [(line, row["goal"]) for line, row in enumerate(rows) if row.get("goal")]
        for line, goal in goals:
            axis.plot([goal, goal], [line - 0.45, line + 0.45], color=GOAL, linewidth=1.5)
        if goals:
            axis.plot([], [], color=GOAL, linewidth=1.5, label="goal")
        axis.set_yticks(range(len(rows)), [str(row["layer"]) for row in rows])
        axis.invert_yaxis()
        axis.margins(x=0.12)
        style_axes(axis, title, grid="x", bold=True)
        add_legend(axis, **LEGEND)

    return panel


def _growth(series: str, rows: list[Row]) -> Panel:
    """Times against a size, with the straight line from 0 to the largest."""

    def panel(axis: Any) -> None:
        sizes = [number(row, "size") for row in rows]
        lines = (
            ("training", "forward + backward", TRAINING),
            ("forward", "forward", FORWARD),
            ("dense_training", "dense forward + backward", DENSE),
        )
        for key, label, color in lines:
            times = [1e3 * number(row, key) for row in rows]
            axis.plot([0, sizes[-1]], [0, times[-1]], color=color, linewidth=1, alpha=0.4)
            axis.plot(sizes, times, "o", color=color, label=label, markersize=5)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        style_axes(axis, f"Time against {series}", y="ms", grid="both", bold=True)
        note = f"last: {rows[-1]['layer']}; lines: proportional"
        axis.text(0.02, 0.96, note, transform=axis.transAxes, va="top", fontsize=8, color=INK)
        add_legend(axis, **LEGEND)

    return panel
