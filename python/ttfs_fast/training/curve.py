"""The log of a training run as a picture, drawn with matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING

from ttfs_fast.analysis.style import FAINT, INK, SERIES, add_legend, new_figure, style_axes
from ttfs_fast.training.log import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curve(log: str | Path) -> "Figure":
    """Draw the course of a training run: loss, accuracy and spikes per neuron by epoch.

    Parameters
    ----------
    log : str or Path
        The ``log.csv`` of a run.

    Returns
    -------
    figure : matplotlib.figure.Figure

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the file is not such a log, or holds no epoch.
    """
    figure = new_figure(11.0, 3.6)
    records = read_log(log)
    if not records:
        raise ValueError(f"{log} holds no epoch yet")
    epochs = [record.epoch for record in records]
    marker = "o" if len(epochs) < 30 else None
    left, middle, right = figure.subplots(1, 3)

    left.plot(epochs, [r.loss for r in records], color=INK, marker=marker, ms=3, label="loss")
    left.plot(
        epochs,
        [r.loss_class for r in records],
        color=SERIES[0],
        marker=marker,
        ms=3,
        label="classification term",
    )
    if all(r.loss > 0 and r.loss_class > 0 for r in records):
        left.set_yscale("log")
    left.set_title("Loss, equation (5)")

    for name, color in (("train", FAINT), ("test", SERIES[1])):
        errors = [100 * (1 - getattr(r, f"{name}_accuracy")) for r in records]
        middle.plot(epochs, errors, color=color, marker=marker, ms=3, label=name)
    middle.set_title(f"Error (%), test at the end {errors[-1]:.2f}")
    middle.set_ylim(bottom=0)

    for name, color in (("train", FAINT), ("test", SERIES[2])):
        fractions = [100 * getattr(r, f"{name}_spikes_per_neuron") for r in records]
        right.plot(epochs, fractions, color=color, marker=marker, ms=3, label=name)
    right.set_title(f"Neurons that spike (%), at the end {fractions[-1]:.1f}")

    for axis in (left, middle, right):
        style_axes(axis, x="epoch", grid="y")
        axis.title.set(color=INK, fontsize=11, ha="left", position=(0.0, 1.0))
        axis.xaxis.get_major_locator().set_params(integer=True)
        add_legend(axis)
    figure.tight_layout()
    return figure
