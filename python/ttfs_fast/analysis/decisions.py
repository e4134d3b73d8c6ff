"""Decisions of a network on single images: class, time and runner-up."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ttfs_fast.encoding import Encoding, encoding_of
from ttfs_fast.layers import evaluating, refuse_nan


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions on images.

    Attributes
    ----------
    classes, runners_up : int64 array, shape (N,)
        The output that spikes first, the lowest of several, and the one after it; -1 where there is
        none.
    times, runner_up_times : float64 array, shape (N,)
        When they spike, in units of tau; inf where there is none.
    """

    classes: NDArray[np.int64]
    times: NDArray[np.float64]
    runners_up: NDArray[np.int64]
    runner_up_times: NDArray[np.float64]


def decisions_of(times: NDArray[Any]) -> Decisions:
    """The decisions that output spikes make.

    Parameters
    ----------
    times : array, shape (N, C)
        Spike times of the outputs in units of tau; inf where an output is silent.
    """
    values = np.array(times, np.float64)
    rows = np.arange(len(values))
    found = []
    for _ in range(2):
        if values.shape[1] == 0:
            found += [np.full(len(values), -1), np.full(len(values), np.inf)]
            continue
        place = values.argmin(1)
        when = values[rows, place]
        found += [np.where(np.isfinite(when), place, -1).astype(np.int64), when]
        values[rows, place] = np.inf
    return Decisions(*found)


def decide(
    model: nn.Module,
    images: NDArray[np.uint8],
    *,
    encoding: Encoding | None = None,
    batch_size: int = 200,
) -> Decisions:
    """Run a network on images and return its decisions: class, time and runner-up.

    Parameters
    ----------
    model : Module
        Maps spike values (N, C, H, W) to those of one output per class, (N, classes).
    images : uint8 array, shape (N, C, H, W)
        Pixels.
    encoding : Encoding, optional
        How the network sees images; by default the one that it carries.
    batch_size : int
        Images run at a time.

    Returns
    -------
    decisions : Decisions

    Examples
    --------
    >>> import numpy as np
    >>> from ttfs_fast.analysis import decide
    >>> from ttfs_fast.data import load
    >>> from ttfs_fast.models import mnist_scnn
    >>> digits = load("digits", train=False)
    >>> found = decide(mnist_scnn(pretrained=True), digits.images[:5])
    >>> found.classes.shape, bool((found.times < found.runner_up_times).all())
    ((5,), True)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if images.dtype != np.uint8:
        raise TypeError(f"images must be pixels of 0 to 255 as uint8; got {images.dtype}")
    encoding = encoding_of(model, encoding)
    weight = next(model.parameters())
    outputs = []
    with evaluating(model):
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(images[start : start + batch_size]).to(weight.dtype) / 255
            output = model(encoding(pixels).to(weight.device)).cpu()
            refuse_nan(output)
            if output.dim() != 2:
                raise ValueError(
                    f"the network gives an output of shape {tuple(output.shape)}; to decide, "
                    "it must give one spike value per class"
                )
            outputs.append(output.double().log().numpy())
    return decisions_of(np.concatenate(outputs) if outputs else np.empty((0, 0)))
