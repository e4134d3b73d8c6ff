"""Pictures of the report; `ttfs_fast.analysis.plotting` has those of single networks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ttfs_fast.analysis.style import (
    DECISION,
    FAINT,
    INK,
    SERIES,
    add_legend,
    new_figure,
    series_color,
    style_axes,
)
from ttfs_fast.layers import spiking_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def decision_curve(
    grid: Sequence[float], decided: Sequence[float], right: Sequence[float]
) -> "Figure":
    """Fraction of the images that are decided, and decided rightly, by each time."""
    figure = new_figure(5.8, 3.4)
    axis: Any = figure.subplots()
    fractions = 100 * np.asarray(decided)
    axis.fill_between(grid, 100 * np.asarray(right), color=SERIES[1], alpha=0.18, linewidth=0)
    axis.plot(grid, fractions, color=FAINT, linewidth=1.6, label="decided")
    axis.plot(
        grid, 100 * np.asarray(right), color=SERIES[1], linewidth=1.8, label="decided rightly"
    )
    end = next(
        (t for t, fraction in zip(grid, fractions, strict=True) if fraction >= 99.5), grid[-1]
    )
    axis.set_xlim(0, min(grid[-1], 1.25 * end + 0.2))
    axis.set_ylim(0, 103)
    style_axes(axis, x="time (tau)", y="images (%)")
    _finish(figure, axis)
    return figure


def spike_histograms(
    edges: Sequence[float], histograms: Mapping[str, Sequence[int]], silent: Mapping[str, int]
) -> "Figure":
    """Distribution of the spike times of the input and of every layer."""
    figure = new_figure(5.8, max(3.0, 0.55 + 0.72 * len(histograms)))
    axes = figure.subplots(len(histograms), 1, sharex=True, squeeze=False)[:, 0]
    for number, (axis, (name, counts)) in enumerate(zip(axes, histograms.items(), strict=True)):
        color = INK if number == 0 else series_color(number - 1)
        total = sum(counts) + silent[name]
        axis.stairs([100 * c / total for c in counts], edges, fill=True, color=color, alpha=0.75)
        axis.set_title(
            f"{name}: {100 * sum(counts) / total:.1f} % spike",
            loc="left",
            fontsize=10,
            color=color,
        )
        axis.set_yticks([])
        style_axes(axis)
        axis.spines["left"].set_visible(False)
    used = [i for counts in histograms.values() for i, c in enumerate(counts) if c]
    axes[-1].set_xlim(0, edges[min(max(used, default=0) + 2, len(edges) - 1)])
    axes[-1].set_xlabel("spike time (tau)", color=INK)
    figure.tight_layout()
    return figure


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> "Figure":
    """Wrong answers by true class (row) and answer (column); right ones are left blank."""
    matrix = np.array(counts)
    names = [*classes, "silent"] if matrix[:, -1].any() else list(classes)
    matrix = matrix[:, : len(names)]
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    size = 1.4 + 0.33 * len(classes)
    figure = new_figure(size + 1.1, size)
    axis: Any = figure.subplots()
    most = max(int(wrong.max()), 1)
    for (row, column), count in np.ndenumerate(matrix):
        if row == column:
            axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=FAINT)
        elif count:
            axis.scatter(
                column, row, s=230 * count / most + 12, color=DECISION, alpha=0.35, linewidths=0
            )
            axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color=INK)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(len(classes) - 0.4, -0.6)
    axis.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 45)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_aspect("equal")
    style_axes(axis, x="answer", y="true class")
    figure.tight_layout()
    return figure


def first_filters(model: nn.Module) -> "Figure":
    """The weights of the first layer, a small image for each output channel."""
    layer = next(iter(spiking_layers(model).values()))
    weight = layer.weight.detach().cpu().double()
    images = weight.mean(dim=1) if weight.ndim == 4 else weight[:, None]
    shown = images[:64].numpy()
    columns = min(8, len(shown))
    lines = -(-len(shown) // columns)
    figure = new_figure(0.66 * columns + 0.3, 0.66 * lines + 0.3)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    most = float(np.abs(shown).max()) or 1.0
    for axis, image in zip(axes, shown, strict=False):
        axis.imshow(image, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    for axis in axes:
        axis.set_axis_off()
    figure.subplots_adjust(0.01, 0.02, 0.99, 0.98, 0.08, 0.08)
    return figure


def bits_curve(curves: Mapping[str, Mapping[int, float]]) -> "Figure":
    """Accuracy against bits of the weights, a curve for each way."""
    figure = new_figure(5.8, 3.6)
    axis: Any = figure.subplots()
    places = {bits: place for place, bits in enumerate((2, 4, 8, 32))}
    for (name, curve), color in zip(curves.items(), SERIES, strict=False):
        paper = name.startswith("paper")
        ordered = sorted(curve.items())
        axis.plot(
            [places[bits] for bits, _ in ordered],
            [100 * accuracy for _, accuracy in ordered],
            color=FAINT if paper else color,
            marker="s" if paper else "o",
            ms=5,
            linestyle="--" if paper else "-",
            label=name,
        )
    axis.set_xticks(list(places.values()), [f"{bits} bits" for bits in places])
    style_axes(axis, y="accuracy (%)", grid="y")
    _finish(figure, axis)
    return figure


def noise_curve(
    rows: Rows,
    undisturbed: float,
    rounded: Mapping[str, Mapping[str, Any]],
    paper: Mapping[str, Mapping[float, float]],
) -> "Figure":
    """Figure 2: accuracy against the signal-to-noise ratio of the weights, with quantization."""
    figure = new_figure(9.4, 4.4)
    axis: Any = figure.subplots()
    _band(axis, rows, SERIES[0], f"N, mean and 5 - 95 % of {rows[0]['draws']} draws")
    axis.axhline(
        100 * undisturbed, color=SERIES[0], linestyle="--", linewidth=1.0, label="without noise"
    )
    shown = [100 * row["low"] for row in rows] + [100 * undisturbed]
    shown += [100 * accuracy for points in paper.values() for accuracy in points.values()]
    floor = min(shown) - 0.5 * (max(shown) - min(shown)) - 0.1
    known = [(bits, row) for bits, row in rounded.items() if row["weight_snr"] is not None]
    inside = [(row["weight_snr"], 100 * row["accuracy"]) for _, row in known]
    inside = [(snr, accuracy) for snr, accuracy in inside if accuracy >= floor]
    if inside:
        axis.plot(
            *zip(*inside, strict=True),
            color=SERIES[3],
            marker="D",
            ms=6,
            linestyle=":",
            label="Q, at the error that rounding makes",
        )
    for bits, row in known:
        accuracy = 100 * row["accuracy"]
        below = accuracy < floor  # it would flatten all the rest
        if below:
            axis.plot(row["weight_snr"], floor, color=SERIES[3], marker="v", ms=8)
        axis.annotate(
            f"{bits} bits: {accuracy:.1f} %" if below else f"{bits} bits",
            (row["weight_snr"], max(accuracy, floor)),
            xytext=(0, 10),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=SERIES[3],
        )
    for name, points in paper.items():
        axis.plot(
            list(points),
            [100 * accuracy for accuracy in points.values()],
            color=FAINT,
            marker="s",
            ms=5,
            linestyle="--" if len(points) > 1 else "none",
            label=name,
        )
    axis.margins(x=0.08)
    style_axes(axis, x="signal-to-noise ratio of the weights (dB)", y="accuracy (%)", grid="y")
    _finish(figure, axis)
    return figure


def disturbance_curves(kinds: Mapping[str, tuple[str, str, Rows, float]]) -> "Figure":
    """Accuracy against each disturbance, a panel for each."""
    lines = -(-len(kinds) // 3)
    figure = new_figure(10.4, 3.0 * lines)
    axes = figure.subplots(lines, 3, squeeze=False, sharey=True).ravel()
    for number, (axis, (kind, (what, unit, rows, undisturbed))) in enumerate(
        zip(axes, kinds.items(), strict=False)
    ):
        scale = 100.0 if unit.startswith("%") else 1.0
        shown = [{**row, "level": scale * row["level"]} for row in rows]
        _band(axis, shown, series_color(number), None)
        axis.axhline(100 * undisturbed, color=FAINT, linestyle="--", linewidth=1.0)
        if kind != "t_max":
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter("{x:g}")
        style_axes(axis, what, unit, grid="y")
    for axis in axes[len(kinds) :]:
        axis.remove()
    for axis in axes[::3][:lines]:
        axis.set_ylabel("accuracy (%)", color=INK)
    figure.tight_layout()
    return figure


def _band(axis: Any, rows: Rows, color: str, label: str | None) -> None:
    """Means as a line, draws from the fifth to the 95th percentile as a band."""
    x = [row["level"] for row in rows]
    low, high = ([100 * row[name] for row in rows] for name in ("low", "high"))
    axis.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0)
    axis.plot(x, [100 * row["mean"] for row in rows], color=color, marker="o", ms=3.5, label=label)


def _finish(figure: "Figure", axis: Any) -> None:
    add_legend(axis)
    figure.tight_layout()
