"""Draws pictures of README.md and of pages in docs/ with the package itself."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

import ttfs_fast
from ttfs_fast.analysis.plotting import spike_raster
from ttfs_fast.analysis.style import DECISION as SPIKE
from ttfs_fast.analysis.style import (
    FAINT,
    INK,
    LATE,
    SERIES,
    SOFT,
    add_legend,
    new_figure,
    save_figure,
    series_color,
    style_axes,
)
from ttfs_fast.data import load_digits
from ttfs_fast.data.augment import Augmentation
from ttfs_fast.data.distort import distort
from ttfs_fast.encoding import encode
from ttfs_fast.horizon import HorizonLinear
from ttfs_fast.models import mnist_scnn

IMAGES = Path(__file__).parent / "images"
LABEL: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
EXCITING, INHIBITING = SERIES[0], SERIES[3]

# One neuron: spike times of its inputs, in tau, and their weights.
TIMES = torch.tensor([0.2, 0.7, 1.1, 1.6, 2.5], dtype=torch.float64)
WEIGHTS = torch.tensor([[0.8, 0.6, -0.5, 1.2, 0.7]], dtype=torch.float64)
END = 3.0


def main() -> None:
    for name, figure in (
        ("neuron", neuron()),
        ("neuron-response", response()),
        ("neuron-layers", layers()),
        ("raster", raster()),
        ("horizon", horizon()),
        ("delay", delay()),
        ("augmentation", augmentation()),
    ):
        path = IMAGES / f"{name}.png"
        save_figure(path, figure, dpi=110)
        print(path)


def fire(times: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Spike times of neurons with these weights; inf for a silent one."""
    return ttfs_fast.spiking_linear(times.exp(), weights).log()


def blank(width: float, height: float) -> Figure:
    return new_figure(width, height, layout="constrained")


def plain(axis: Any, title: str, x: str, y: str) -> None:
    style_axes(axis, title, x, y, bold=True)


def neuron() -> Figure:
    """Current and membrane of one neuron over time, and the same membrane over z = exp(t)."""
    spike = float(fire(TIMES, WEIGHTS)[0])
    t = np.linspace(0, END, 1200)
    times, weights = TIMES.numpy(), WEIGHTS[0].numpy()
    lag = np.clip(t[:, None] - times, 0, None)
    started = t[:, None] >= times
    current = (weights * np.exp(-lag) * started).sum(1)
    membrane = (weights * (1 - np.exp(-lag))).sum(1)

    figure = blank(9.5, 6.2)
    left, right = figure.subplots(2, 2, height_ratios=(1, 1.5)).T
    for axis, values, title in (
        (left[0], current, "Current: a step and a decay for each input"),
        (left[1], membrane, "Membrane: the current's integral"),
    ):
        before = t <= spike
        axis.plot(t[before], values[before], color=INK, lw=2)
        axis.plot(t[~before], values[~before], color=LATE, lw=1.5, ls=":")
        for time, weight in zip(times, weights, strict=True):
            color = LATE if time > spike else EXCITING if weight > 0 else INHIBITING
            axis.axvline(time, color=color, lw=1, ls="--", zorder=0)
        axis.axvline(spike, color=SPIKE, lw=1.5)
        axis.set_xlim(0, END)
        plain(axis, title, "time t (units of tau)", "")
    left[0].axhline(0, color=FAINT, lw=0.6)
    for time, weight in zip(times, weights, strict=True):
        left[0].text(time, 1.6, f"{weight:+.1f}", fontsize=8, color=SOFT, ha="center", bbox=LABEL)
    left[0].set_ylim(-0.15, 1.75)
    left[1].axhline(1, color=FAINT, lw=1)
    left[1].text(2.62, 1.03, "threshold", fontsize=8, color=SOFT)
    left[1].plot(spike, 1, "*", color=SPIKE, ms=14)
    left[1].annotate(
        f"first spike\nt = {spike:.2f}",
        (spike, 1),
        (-66, 22),
        textcoords="offset points",
        color=SPIKE,
    )
    left[1].set_ylim(-0.05, 1.75)

    z, z_in = np.exp(t), np.exp(times)
    f = (weights * np.clip(z[:, None] - z_in, 0, None)).sum(1) - z
    right[0].axis("off")
    causal = (times < spike).nonzero()[0]
    total, rate = (weights * z_in)[causal].sum(), weights[causal].sum() - 1
    right[0].text(
        0,
        0.92,
        "The same in spike values z = exp(t)\n\n"
        f"C = the {len(causal)} inputs before the spike\n"
        f"sum of w z over C = {total:.3f}\n"
        f"sum of w over C - 1 = {rate:.3f}\n"
        f"z = {total:.3f} / {rate:.3f} = {total / rate:.3f}     t = ln z = {spike:.3f}",
        va="top",
        color=INK,
        linespacing=1.6,
        transform=right[0].transAxes,
    )
    if not math.isclose(math.log(total / rate), spike, rel_tol=1e-9):
        raise AssertionError("the operator and the closed form differ")
    axis = right[1]
    at = math.exp(spike)
    axis.plot(z[z <= at], f[z <= at], color=INK, lw=2)
    axis.plot(z[z > at], f[z > at], color=LATE, lw=1.5, ls=":")
    for value, weight in zip(z_in, weights, strict=True):
        color = LATE if value > at else EXCITING if weight > 0 else INHIBITING
        axis.axvline(value, color=color, lw=1, ls="--", zorder=0)
    axis.axhline(0, color=FAINT, lw=1)
    axis.plot(at, 0, "*", color=SPIKE, ms=14)
    axis.axvline(at, color=SPIKE, lw=1.5)
    axis.set_xlim(1, math.exp(2.7))
    axis.set_ylim(-2, 4)
    plain(axis, "F(z): straight between input spikes", "z = exp(t)", "")
    return figure


def horizon() -> Figure:
    """Membranes of three neurons with a reference input; leads out against leads in."""
    figure = blank(9.5, 4.2)
    left, right = figure.subplots(1, 2)
    total, horizon_in = 2.0, 1.0
    next_horizon = horizon_in * total / (total - 1)
    leads = np.array([0.32, 0.2, 0.09])
    z = np.linspace(0.6, 2.6, 1500)
    for weights, color, name in (
        ((0.9, 0.7, -0.4), EXCITING, "early"),
        ((-0.2, 0.2, 0.4), INK, "at the horizon"),
        ((-0.9, -0.5, 0.8), INHIBITING, "late: made to spike at T'"),
    ):
        every = np.append(weights, total - sum(weights))  # the last is the reference
        times = horizon_in * (1 - np.append(leads, 0.0))
        f = (every * np.clip(z[:, None] - times, 0, None)).sum(1) - z
        spike = float(
            ttfs_fast.spiking_linear(torch.from_numpy(times), torch.from_numpy(every)[None])
        )
        left.plot(z[z <= spike], f[z <= spike], color=color, lw=2, label=name)
        left.plot(spike, 0, "*", color=color, ms=12, zorder=3)
    for at, text in ((horizon_in, "T"), (next_horizon, "T'")):
        left.axvline(at, color=FAINT, lw=1, ls="--", zorder=0)
        left.text(at + 0.02, 0.1, text, color=INK, fontsize=12)
    for lead in leads:
        left.axvline(1 - lead, color=LATE, lw=1, ls=":", zorder=0)
    left.axhline(0, color=FAINT, lw=1)
    left.set_ylim(-1.5, 0.3)
    add_legend(left, loc="lower right")
    plain(left, "Behind T every slope is m - 1", "spike value z", "F(z), threshold at 0")

    generator = torch.Generator().manual_seed(0)
    for spread, color, size in ((0.4, INHIBITING, 9), (0.001, EXCITING, 9)):
        layer = HorizonLinear(
            64, 400, t_in=0.1, weight_sum=total, spread=spread, normalization="none"
        ).double()
        with torch.no_grad():
            layer.weight.normal_(generator=generator)
            layer.shift.zero_()
            x = spread * torch.rand(1, 64, generator=generator, dtype=torch.float64)
            plain_layer = layer.eval().to_plain(last=True)
            out = plain_layer(math.exp(0.1) * (1 - x))
            lead = (1 - out / math.exp(layer.t_out)).clamp(min=0) / spread
            drive = (x @ layer.weight.T) * math.sqrt(2 / 64) / spread
        right.plot(drive[0], lead[0], ".", color=color, ms=size, alpha=0.6, label=f"{spread:g}")
    right.plot([-3, 0, 3], [0, 0, 3], color=INK, lw=1, zorder=0)
    right.set_xlim(-2.5, 2.5)
    right.set_ylim(-0.2, 3)
    add_legend(right, title="spread of the spikes / T", loc="upper left")
    plain(right, "Lead of the output: a ReLU", "sum of w x / (m spread)", "lead / spread")
    return figure


def response() -> Figure:
    """The output spike against one input's time and weight, with its derivatives."""
    figure = blank(9.5, 5.4)
    axes = figure.subplots(2, 2, height_ratios=(1.5, 1), sharex="col")

    moved = torch.linspace(0.05, END, 1500, dtype=torch.float64, requires_grad=True)
    rows = TIMES.repeat(len(moved), 1)
    rows = torch.cat([rows[:, :3], moved[:, None], rows[:, 4:]], 1)
    out = fire(rows, WEIGHTS)[:, 0]
    (slope,) = torch.autograd.grad(out.sum(), moved)
    curves(axes[:, 0], moved, out, slope)
    axes[0, 0].plot([0.05, END], [0.05, END], color=FAINT, lw=0.8, ls=":")
    axes[0, 0].text(0.35, 0.5, "output = input", fontsize=8, color=SOFT, rotation=24)
    plain(axes[0, 0], "Output spike against one input's spike", "", "output t")
    plain(
        axes[1, 0], "Its derivative", "time of the input with weight 1.2 (tau)", "$dt\\,/\\,dt_i$"
    )

    weight = torch.linspace(-1.2, 2.0, 1500, dtype=torch.float64, requires_grad=True)
    columns = WEIGHTS.repeat(len(weight), 1)
    columns = torch.cat([columns[:, :3], weight[:, None], columns[:, 4:]], 1)
    out = fire(TIMES[None], columns)[0]
    (slope,) = torch.autograd.grad(out[out.isfinite()].sum(), weight)
    curves(axes[:, 1], weight, out, slope)
    silent = float(weight.detach()[out.isinf()].max()) if out.isinf().any() else None
    if silent is not None:
        for axis in axes[:, 1]:
            axis.axvspan(-1.2, silent, color="#eef1f4", zorder=0)
        axes[0, 1].text(-1.1, 4.5, "silent", fontsize=9, color=SOFT)
    axes[0, 1].set_ylim(1.5, 6)
    axes[1, 1].set_ylim(-8, 0.5)
    plain(axes[0, 1], "Output spike against that input's weight", "", "output t")
    plain(axes[1, 1], "Its derivative", "weight", "$dt\\,/\\,dw_i$")
    return figure


def curves(axes: Any, x: torch.Tensor, out: torch.Tensor, slope: torch.Tensor) -> None:
    spiking = out.isfinite()
    where = x.detach().numpy()
    axes[0].plot(where, torch.where(spiking, out, torch.nan).detach().numpy(), color=SPIKE, lw=2)
    axes[1].plot(where, torch.where(spiking, slope, torch.nan).numpy(), color=EXCITING, lw=2)
    axes[1].axhline(0, color=FAINT, lw=0.6)


def delay() -> Figure:
    """The output spike of one neuron against the delay of each input, with the derivative."""
    figure = blank(9.5, 3.4)
    left, right = figure.subplots(1, 2)
    delays = torch.linspace(0, 2, 1500, dtype=torch.float64)
    for index, weight in enumerate(WEIGHTS[0, :4].tolist()):
        late = torch.zeros(len(delays), len(TIMES), dtype=torch.float64)
        late[:, index] = delays
        out = fire(TIMES + late.requires_grad_(), WEIGHTS)[:, 0]
        (slope,) = torch.autograd.grad(out.sum(), late)
        name = f"spike at {TIMES[index]:g}, weight {weight:g}"
        left.plot(delays, out.detach(), color=series_color(index), lw=2, label=name)
        right.plot(delays, slope[:, index], color=series_color(index), lw=2)
    right.axhline(0, color=FAINT, lw=0.6)
    left.set_ylim(1.5, 3.6)
    add_legend(left, title="delayed input", loc="upper left")
    plain(left, "Output spike against the delay of an input", "delay d (tau)", "output t (tau)")
    plain(right, "Its derivative", "delay d (tau)", "$dt\\,/\\,dd$")
    return figure


def augmentation() -> Figure:
    """One digit, changed at random by each setting of the training."""
    digit = load_digits(train=False).images_as_tensor()[2:3].repeat(8, 1, 1, 1) / 255
    size = digit.shape[-2:]
    generator = torch.Generator().manual_seed(0)
    limits = {"rotate": 15.0, "zoom": 0.2, "shear": 0.3, "shift": 3.0, "elastic": 1.0}
    rows = {
        f"{name} {limit:g}": distort(digit, generator, **{name: limit})
        for name, limit in limits.items()
    }
    rows["crop 4"] = Augmentation(size, crop=4)(digit, generator)
    rows["hflip"] = Augmentation(size, flip=True)(digit, generator)
    rows["cutout 12"] = Augmentation(size, cutout=12)(digit, generator)
    figure = blank(9.5, 3.4)
    grid = figure.add_gridspec(4, 17, width_ratios=[*[1] * 8, 0.3, *[1] * 8])
    for index, (name, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            axis = figure.add_subplot(grid[index % 4, column + 9 * (index // 4)])
            axis.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if column == 0:
                heading(axis, f"--{name}")
    return figure


def layers() -> Figure:
    """First spikes of a digit in the first two layers of the trained network, as maps."""
    from matplotlib import colormaps

    model = mnist_scnn(pretrained=True)
    image = load_digits(train=False).images_as_tensor()[2:3]
    times = [encode(image)]
    with torch.no_grad():
        for name in ("conv1", "conv2"):
            times.append(model.get_submodule(name)(times[-1]))
        output = model.fc(times[-1].flatten(1))[0].log()
    shown = [times[0][0].log(), times[1][0, :12].log(), times[2][0, :12].log()]

    colors: Colormap = colormaps["viridis_r"].with_extremes(bad="#e58f88")
    figure = new_figure(9.5, 2.9)
    widths = [3.4, 0.25, *[1] * 4, 0.25, *[1] * 4, 0.6, 2.6]
    place = {"left": 0.01, "right": 0.985, "top": 0.9, "bottom": 0.19, "wspace": 0.12}
    grid = figure.add_gridspec(3, 13, width_ratios=widths, hspace=0.08, **place)
    axis = figure.add_subplot(grid[:, 0])
    maps = [(axis, shown[0][0])]
    heading(axis, "input")
    for first, name, channels in ((2, "conv1", shown[1]), (7, "conv2", shown[2])):
        for index, channel in enumerate(channels):
            axis = figure.add_subplot(grid[index // 4, first + index % 4])
            if index == 0:
                heading(axis, f"{name}: 12 of its channels")
            maps.append((axis, channel))
    for axis, channel in maps:
        values = np.ma.masked_invalid(channel.numpy())
        drawn = axis.imshow(values, cmap=colors, vmin=0, vmax=5)
        axis.set_xticks([])
        axis.set_yticks([])
    axis = figure.add_subplot(grid[:, 12])
    winner = int(output.argmin())
    for digit, time in enumerate(output.tolist()):
        color = SPIKE if digit == winner else FAINT
        axis.plot([0, time], [digit, digit], color=color, lw=1.2)
        axis.plot(
            time,
            digit,
            "*" if digit == winner else "o",
            color=color,
            ms=9 if digit == winner else 4,
        )
    axis.invert_yaxis()
    axis.set_yticks(range(10))
    axis.set_xlim(0, None)
    plain(axis, "fc", "spike time (tau)", "")
    bar = figure.colorbar(
        drawn, cax=figure.add_axes((0.31, 0.1, 0.2, 0.035)), orientation="horizontal"
    )
    bar.ax.tick_params(labelsize=8)
    figure.text(0.52, 0.085, "first spike (tau); silent neurons are pink", fontsize=9, color=INK)
    return figure


def raster() -> Figure:
    """When every neuron of the trained network spikes, for one digit."""
    digits = load_digits(train=False)
    return spike_raster(mnist_scnn(pretrained=True), digits.images[0], label=int(digits.labels[0]))


def heading(axis: Any, text: str) -> Any:
    return axis.set_title(text, loc="left", fontsize=11, fontweight="bold", color=INK)


if __name__ == "__main__":
    main()
