"""Learning rate schedules."""

import math

import torch


def cosine(first: float, last: float, position: float, length: float) -> float:
    """A value that falls from ``first`` to ``last`` along half a cosine.

    Parameters
    ----------
    first, last : float
        At position 0 and at position ``length``.
    position, length : float
        In the same unit, such as epochs or steps.
    """
    falling = (1 + math.cos(math.pi * position / length)) / 2
    return last + falling * (first - last)


def set_learning_rate_(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameters of an optimizer this learning rate for its next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
