"""Effect of an untrained deep network on an image, by its initial weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ttfs_fast._csv import write_rows
from ttfs_fast._files import use_folder
from ttfs_fast.analysis.diagnose import diagnose
from ttfs_fast.analysis.style import add_legend, new_figure, save_figure, series_color, style_axes
from ttfs_fast.data import load
from ttfs_fast.encoding import encode
from ttfs_fast.gpu.device import resolve_device
from ttfs_fast.layers import SpikeRecorder, watch_layers
from ttfs_fast.models import vgg_stack
from ttfs_fast.models.deep import Depth
from ttfs_fast.optim.centering import center_weights_

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JITTER = 1e-3
"""Noise on the input spike times, in units of tau, whose growth through the layers is followed."""


@dataclass(frozen=True)
class LayerStart:
    """One layer of an untrained network.

    Attributes
    ----------
    start : str
        ``"uniform"`` (published), or the spread s of a centered start with m = 4.
    number : int
        Position of the layer, from 1.
    layer : str
        Its name.
    spread : float
        Deviation over the images of spike times, without what all neurons share; in tau.
    noise : float
        Change of the spike times by 0.001 tau of noise on every input, as a fraction of the root
        mean square by which a neuron's spikes deviate from its mean over the images.
    gradient : float
        Norm of the loss's gradient by the spike times.
    causal_fraction : float
        Fraction of the spiking inputs that belong to the causal set.
    """

    start: str
    number: int
    layer: str
    spread: float
    noise: float
    gradient: float
    causal_fraction: float


def start_study(
    out: str | Path,
    *,
    depth: Depth = 17,
    spreads: Sequence[float] = (2.0, 3.0, 4.0, 5.0),
    images: int = 32,
    data_root: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> list[LayerStart]:
    """Follow spread, noise and gradient through untrained networks.

    The folder receives ``start.csv`` and ``start.png``.

    Parameters
    ----------
    out : path
        Folder of table and plot.
    depth : {4, 8, 13, 17}
        Layers of the stack.
    spreads : sequence of float
        Of the centered starts, beside the published one.
    images : int
        The first that many test images of CIFAR-10.
    data_root : path, optional
        Folder of CIFAR-10.
    seed : int
        Of the weights and of the noise.
    device : str
        Where to compute; see :func:`ttfs_fast.gpu.resolve_device`.

    Returns
    -------
    rows : list of LayerStart
    """
    folder = Path(out)
    where = resolve_device(device)
    with use_folder(folder):
        test_set = load("cifar10", data_root, train=False)
        values = encode(test_set.images_as_tensor()[:images], 1.5, "both")
        labels = test_set.labels_as_tensor()[:images]
        rows: list[LayerStart] = []
        for start in ("uniform", *map(str, spreads)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = vgg_stack(depth, in_channels=values.shape[1])
                if start != "uniform":
                    center_weights_(model, norm=float(start))
                jitter = JITTER * torch.randn_like(values)
            shown = (tensor.to(where) for tensor in (values, labels, jitter))
            rows += _followed(start, model.to(where), *shown)
        write_rows(folder / "start.csv", LayerStart, rows)
        save_figure(folder / "start.png", plot(rows))
    return rows


def _followed(
    start: str, model: nn.Module, values: Tensor, labels: Tensor, jitter: Tensor
) -> list[LayerStart]:
    found = diagnose(model, (values, labels), scale=16.0)
    noisy, clean = SpikeRecorder(), SpikeRecorder()
    with torch.no_grad():
        for recorder, shown in ((clean, values), (noisy, values * jitter.exp())):
            with watch_layers(model, recorder):
                model(shown)
    rows = []
    for number, layer in enumerate(found.layers, start=1):
        own, moved = (_own_times(r.values[layer.name]) for r in (clean, noisy))
        signal = (own - own.mean(0)).square().mean().sqrt()
        noise = float((moved - own).square().mean().sqrt() / signal.clamp(min=1e-30))
        rows.append(
            LayerStart(
                start,
                number,
                layer.name,
                layer.spread_over_images,
                noise,
                layer.time_gradient,
                layer.causal_fraction,
            )
        )
    return rows


def _own_times(values: Tensor) -> Tensor:
    """Spike times (images, neurons) without what all neurons of an image share."""
    times = values.flatten(1).double().log()
    return times - times.mean(1, keepdim=True)


def plot(rows: Sequence[LayerStart]) -> "Figure":
    """Spread, noise and gradient by layer, a line for each start."""
    figure = new_figure(11, 3.6, dpi=120, layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {
        "spread": "spread over images, in tau",
        "noise": "noise, as a fraction of the spread",
        "gradient": "gradient by spike times",
    }
    for number, start in enumerate(dict.fromkeys(row.start for row in rows)):
        own = [row for row in rows if row.start == start]
        label = "uniform" if start == "uniform" else f"s = {float(start):g}"
        for panel, name in zip(panels, titles, strict=True):
            panel.plot(
                [row.number for row in own],
                [getattr(row, name) for row in own],
                color=series_color(number),
                label=label,
            )
    for panel, title in zip(panels, titles.values(), strict=True):
        panel.set_yscale("log")
        style_axes(panel, title, "layer", grid="y")
    add_legend(panels[0])
    return figure
