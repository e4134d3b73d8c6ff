"""Pictures of spikes, drawn with matplotlib.

Every function returns a `matplotlib.figure.Figure` of its own: nothing is shown, no global state
of pyplot is touched, and no display is needed. Save one with ``figure.savefig("name.png")``. Colors
and axes are those of `ttfs_fast.analysis.style`.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ttfs_fast.analysis.latency import with_input
from ttfs_fast.analysis.style import (
    DECISION,
    GRID,
    INK,
    RULE,
    SOFT,
    new_figure,
    series_color,
    style_axes,
)
from ttfs_fast.encoding import Encoding, encoding_of, values_to_times
from ttfs_fast.layers import SpikeRecorder, evaluating, spiking_layers, watch_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL_TEXT: dict[str, Any] = {"va": "top", "fontsize": 9, "color": SOFT, "linespacing": 1.5}
HOW_TO_READ = (
    "Each dot is one spike; a neuron spikes\nonce or stays silent. The first spike of\n"
    "the last layer is the answer (red line).\nWhat comes later is drawn pale."
)


def spike_raster(
    model: nn.Module,
    image: NDArray[np.uint8],
    *,
    label: int | None = None,
    classes: tuple[str, ...] | None = None,
    encoding: Encoding | None = None,
) -> "Figure":
    """Draw when every neuron of a network spikes, for one image.

    Left the image; right, one panel for the input and one for each layer, a dot for each spike,
    time from left to right. A line marks the decision: the first spike of the output layer.
    Spikes after it are drawn faint, and above each panel stands how many neurons are silent.

    Parameters
    ----------
    model : torch.nn.Module
        Maps spike values (1, C, H, W) to (1, classes).
    image : uint8 array, shape (C, H, W) or (H, W)
        The image.
    label : int, optional
        Its true class, named in the title.
    classes : tuple of str, optional
        Names of the classes; their numbers if left out.
    encoding : Encoding, optional
        How the network sees images; by default the one that it carries.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the image's dtype or number of dimensions is another, or there is no encoding.
    """
    figure = new_figure(11.0, 6.6)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ValueError(
            f"image must be a uint8 array of shape (C, H, W) or (H, W); got {pixels.dtype} of "
            f"shape {pixels.shape}"
        )
    pixels = pixels.reshape((-1, *pixels.shape[-2:]))
    rows, output = _record(model, pixels, encoding_of(model, encoding))
    decision = float(np.min(output)) if np.isfinite(output).any() else math.inf
    names = classes or tuple(str(number) for number in range(len(output)))

    grid = figure.add_gridspec(
        len(rows),
        2,
        width_ratios=(1.0, 3.6),
        height_ratios=[0.8] + [1.0] * (len(rows) - 2) + [1.15],
        left=0.035,
        right=0.975,
        top=0.84,
        bottom=0.085,
        hspace=0.34,
        wspace=0.1,
    )
    image_axis = figure.add_subplot(grid[:, 0])
    _draw_image(image_axis, pixels)
    image_axis.text(0.0, -0.05, HOW_TO_READ, transform=image_axis.transAxes, **SMALL_TEXT)
    finite = np.concatenate([times[np.isfinite(times)] for _, times in rows])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    margin = 0.02 * max(high - low, 0.1)
    axes: list[Any] = []
    for number, (name, times) in enumerate(rows):
        axis = figure.add_subplot(grid[number, 1], sharex=axes[0] if axes else None)
        last = number == len(rows) - 1
        color = INK if number == 0 else series_color(number - 1)
        _draw_layer(
            axis, name, times, color, decision, names if last and len(times) == len(names) else None
        )
        axis.tick_params(labelbottom=last, bottom=last)
        axes.append(axis)
    axes[-1].set_xlim(low - margin, high + margin)
    axes[-1].set_xlabel("spike time (units of tau)", color=INK)

    if math.isfinite(decision):
        for axis in axes:
            axis.axvspan(low - margin, decision, color=DECISION, alpha=0.05, linewidth=0, zorder=0)
        axes[0].annotate(
            "decision",
            (max(decision, low + 0.12 * (high - low)), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            fontweight="bold",
            color=DECISION,
        )
        answer = names[int(np.argmin(output))]
        title = f"First output spike at {decision:.2f} tau: class {answer}"
    else:
        title = "No output neuron spikes: no decision"
    if label is not None:
        title += f"  (true class {names[label]})"
    figure.suptitle(title, x=0.035, ha="left", fontsize=15, fontweight="bold", color=INK, y=0.965)
    return figure


def _record(
    model: nn.Module, pixels: NDArray[np.uint8], encoding: Encoding
) -> tuple[list[tuple[str, NDArray[np.float64]]], NDArray[np.float64]]:
    """Spike times of the input and of every layer for one image, and of the network's output."""
    weight = next(iter(spiking_layers(model).values())).weight
    shown = torch.from_numpy(pixels.copy()).to(weight.dtype).div_(255.0).unsqueeze(0)
    values = encoding(shown)
    recorder = SpikeRecorder()
    with evaluating(model), watch_layers(model, recorder):
        output = model(values.to(weight.device))

    def times(values: torch.Tensor) -> NDArray[np.float64]:
        return values_to_times(values.cpu().to(torch.float64)).flatten().numpy()

    return [(name, times(each)) for name, each in with_input(values, recorder)], times(output)


def _draw_image(axis: Any, pixels: NDArray[np.uint8]) -> None:
    shown = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    axis.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_anchor("N")
    axis.set_title("image", loc="left", fontsize=11, fontweight="bold", color=INK, pad=4)
    for spine in axis.spines.values():
        spine.set_color(RULE)


def _draw_layer(
    axis: Any,
    name: str,
    times: NDArray[np.float64],
    color: str,
    decision: float,
    classes: tuple[str, ...] | None,
) -> None:
    spiked = np.flatnonzero(np.isfinite(times))
    before = times[spiked] <= decision
    size = float(np.clip(4500.0 / max(len(times), 1), 1.6, 46.0))
    for chosen, strength in ((spiked[before], 1.0), (spiked[~before], 0.38)):
        axis.scatter(
            times[chosen],
            chosen,
            s=size,
            c=color,
            alpha=strength,
            linewidths=0,
            rasterized=True,
            zorder=3,
        )
    if math.isfinite(decision):
        axis.axvline(decision, color=DECISION, linewidth=1.2, zorder=2)
    style_axes(axis)
    space = 0.04 * len(times) + 0.4
    axis.set_ylim(len(times) - 1 + space, -space)
    axis.set_yticks([])
    if classes:
        axis.set_yticks(range(len(classes)), classes, fontsize=7.5)
        axis.grid(axis="y", color=GRID, linewidth=0.6, zorder=0)
        if math.isfinite(decision):
            axis.scatter(
                [decision],
                [int(np.argmin(times))],
                s=190,
                marker="*",
                c=DECISION,
                zorder=5,
                edgecolors="white",
                linewidths=0.8,
            )
    axis.set_title(name, loc="left", fontsize=11, fontweight="bold", color=color, pad=4)
    counts = [f"{len(times):,} neurons", f"{len(times) - len(spiked):,} silent"]
    if math.isfinite(decision):
        counts.insert(1, f"{int(before.sum()):,} spike by the decision")
    axis.set_title(", ".join(counts), loc="right", fontsize=9, color=SOFT, pad=4)
