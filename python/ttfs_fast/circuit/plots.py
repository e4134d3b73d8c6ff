"""Pictures of the neuron circuit, in the look of `ttfs_fast.analysis.style`."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

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
from ttfs_fast.circuit.parameters import CircuitParameters
from ttfs_fast.circuit.simulation import SimulationResult
from ttfs_fast.circuit.sweeps import SweepPoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ttfs_fast.circuit.network import LayerResult


def waveform_figure(
    parameters: CircuitParameters,
    times: ArrayLike,
    weights: ArrayLike,
    results: dict[str, SimulationResult],
) -> "Figure":
    """Draw one neuron as the inset of the paper's Figure 1 does.

    From above: the input spikes; the synaptic current (the loop's phase error); the duty cycle of
    UP, for the switching model its mean over a ring period; and the membrane phase rising to the
    threshold, where the neuron fires.

    Parameters
    ----------
    parameters : CircuitParameters
    times, weights : array_like, shape (inputs,)
        Seconds, and weights.
    results : dict of str to SimulationResult
        Simulations of this neuron with recorded waveforms, by the name to show; one color each.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a result holds no waveforms.
    """
    t, w = np.asarray(times, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    figure = new_figure(9.0, 7.4)
    spikes, current, duty, membrane = figure.subplots(
        4, 1, sharex=True, gridspec_kw={"height_ratios": [0.8, 1.3, 1.0, 1.6]}
    )
    nano = 1e9
    for time, weight in zip(t, w, strict=True):
        if math.isfinite(time):
            spikes.annotate(
                "",
                (time * nano, weight),
                xytext=(time * nano, 0),
                arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.4},
            )
    shown = w[np.isfinite(t)]
    spikes.axhline(0, color=FAINT, linewidth=0.8)
    low, high = min(0.0, shown.min(initial=0.0)), max(0.0, shown.max(initial=0.0))
    spikes.set_ylim(low * 1.3 - 0.1, high * 1.3 + 0.1)
    end = 0.0
    for (name, result), color in zip(results.items(), SERIES, strict=False):
        waves = result.waveforms
        if waves is None:
            raise ValueError("the simulation recorded no waveforms: pass record_every")
        x = waves.time * nano
        end = max(end, float(x[-1]))
        width = 1.5 if len(results) == 1 or color == SERIES[0] else 0.8
        style = {"color": color, "linewidth": width, "label": name}
        current.plot(x, waves.phase_error[0], **style)
        period = round(1 / (parameters.ring_frequency * (waves.time[1] - waves.time[0])))
        period = min(max(1, period), len(x))
        mean = np.convolve(waves.duty[0], np.ones(period) / period, mode="valid")
        duty.plot(x[: len(mean)] + 0.5 * (x[period - 1] - x[0]), mean, **style)
        membrane.plot(x, waves.membrane_phase[0], **style)
        fire = result.fire_times[0]
        if math.isfinite(fire):
            for axis in (spikes, current, duty, membrane):
                axis.axvline(fire * nano, color=DECISION, linewidth=1.0, linestyle=(0, (4, 2)))
            membrane.annotate(
                f"fires at {fire * nano:.1f} ns",
                (fire * nano, parameters.threshold),
                xytext=(6, -12 - 12 * list(results).index(name)),
                textcoords="offset points",
                fontsize=9,
                color=color,
            )
    membrane.axhline(parameters.threshold, color=DECISION, linewidth=1.0)
    membrane.text(0.0, parameters.threshold, "threshold", va="bottom", fontsize=9, color=DECISION)
    membrane.margins(y=0.12)
    titles = {
        spikes: "Input spikes (weight)",
        current: "Synaptic current: phase error of the loop (rad)",
        duty: "Duty cycle of UP",
        membrane: "Membrane: phase of VCO4 over VCO3 (rad)",
    }
    for axis, title in titles.items():
        style_axes(axis, title)
    duty.margins(y=0.15)
    duty.axhline(0.5, color=FAINT, linewidth=0.8)
    membrane.set_xlim(0, end)
    membrane.set_xlabel("time (ns)", color=INK)
    if len(results) > 1:
        add_legend(current)
    figure.tight_layout()
    return figure


def sweep_figure(
    points: Sequence[SweepPoint],
    quantity: str,
    published: Mapping[float, float] | None = None,
    published_label: str = "published",
) -> "Figure":
    """Draw output jitter against the swept quantity, with 95 % confidence.

    Parameters
    ----------
    points : sequence of SweepPoint
    quantity : str
        Label of the x axis.
    published : mapping of float to float, optional
        Figures to compare with: output jitter in % by value of the swept quantity. Those at the
        values of ``points`` are drawn, with a band of a factor of two.
    published_label : str
        Their name in the legend.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    figure = new_figure(6.4, 4.2)
    axis: Any = figure.subplots()
    x = [point.value for point in points]
    known = [(value, published[value]) for value in x if published and value in published]
    if known:
        px, py = (np.array(column) for column in zip(*known, strict=True))
        axis.fill_between(
            px, py / 2, py * 2, color=FAINT, alpha=0.18, linewidth=0, label="a factor of two"
        )
        axis.plot(px, py, color=FAINT, marker="s", ms=5, linewidth=1.0, label=published_label)
    axis.fill_between(
        x,
        [max(p.low, 1e-6) for p in points],
        [p.high for p in points],
        color=SERIES[0],
        alpha=0.3,
        linewidth=0,
    )
    axis.plot(
        x,
        [p.jitter for p in points],
        color=SERIES[0],
        marker="o",
        ms=4,
        label=f"simulated, {points[0].trials:,} trials, 95 %",
    )
    axis.set_yscale("log")
    axis.set_xticks(x)
    style_axes(axis, x=quantity, y="output jitter (%)")
    add_legend(axis)
    figure.tight_layout()
    return figure


def convergence_figure(
    panels: dict[str, tuple[str, dict[str, tuple[ArrayLike, ArrayLike]]]],
) -> "Figure":
    """Draw errors against what makes them fall, on logarithmic axes, beside a line of slope 1.

    Parameters
    ----------
    panels : dict of str to (label of the x axis, dict of str to (x, error))
        A panel for each title, a curve for each name.

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    figure = new_figure(4.8 * len(panels), 4.0)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, (quantity, series)) in zip(axes, panels.items(), strict=True):
        for (name, (x, error)), color in zip(series.items(), SERIES, strict=False):
            axis.loglog(x, error, color=color, marker="o", ms=4, label=name)
        first_x, first = (np.asarray(a, dtype=np.float64) for a in next(iter(series.values())))
        axis.loglog(
            first_x,
            0.5 * first[0] * first_x[0] / first_x,
            color=FAINT,
            linestyle="--",
            linewidth=1.0,
            label="first order",
        )
        style_axes(axis, title, quantity, "error of the spike time (tau)")
        add_legend(axis)
    figure.tight_layout()
    return figure


def layer_figure(results: "dict[str, LayerResult]") -> "Figure":
    """Draw, layer by layer, circuit spike times against the closed form, and their differences.

    Parameters
    ----------
    results : dict of str to LayerResult

    Returns
    -------
    figure : matplotlib.figure.Figure
    """
    figure = new_figure(3.7 * max(len(results), 2), 6.2)
    axes = figure.subplots(2, len(results), squeeze=False)
    for column, (name, result) in enumerate(results.items()):
        above, below = axes[0, column], axes[1, column]
        chosen = np.flatnonzero(result.both)
        if len(chosen) > 3000:
            chosen = np.random.default_rng(0).choice(chosen, 3000, replace=False)
        ideal, circuit = result.ideal[chosen], result.circuit[chosen]
        color = series_color(column)
        above.plot([0, result.duration], [0, result.duration], color=FAINT, linewidth=0.8)
        above.scatter(ideal, circuit, s=3, c=color, linewidths=0, alpha=0.5, rasterized=True)
        title = f"{name}: {len(result.ideal):,} neurons, jitter {100 * result.jitter:.2g} %"
        style_axes(above, title, "closed form (tau)", "circuit (tau)")
        deviations = result.deviations
        if len(deviations):
            span = float(np.quantile(np.abs(deviations), 0.99)) or 1e-12
            below.hist(
                np.clip(deviations, -span, span), bins=60, color=color, log=True, linewidth=0
            )
        below.locator_params(axis="x", nbins=4)
        style_axes(below, x="circuit - closed form (tau)", y="neurons")
    figure.tight_layout()
    return figure
