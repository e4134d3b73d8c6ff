"""Comparison of the decisions of a converted network and its ReLU network."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttfs_fast.layers import evaluating

BATCH = 256
"""Images run at a time."""


@dataclass(frozen=True)
class Difference:
    """An image on which two networks decide differently.

    Attributes
    ----------
    image : int
        Its index.
    relu, spiking : int
        The classes; -1 where no output spikes.
    margin : float
        Largest logit of the ReLU network minus that of the class which the spiking network
        chose, in standard deviations of the logits; for a silent image, minus the least logit.
    """

    image: int
    relu: int
    spiking: int
    margin: float


@dataclass(frozen=True)
class DecisionComparison:
    """Decisions of a ReLU network and of a spiking one; print it for a summary.

    Attributes
    ----------
    images : int
        Images compared.
    differences : tuple of Difference
        Where the decisions differ, in the order of the images.
    """

    images: int
    differences: tuple[Difference, ...]

    @property
    def equal(self) -> int:
        """Number of images with equal decisions."""
        return self.images - len(self.differences)

    @property
    def largest_margin(self) -> float:
        """Of all differences; 0 if there are none."""
        return max((one.margin for one in self.differences), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "images": self.images,
            "equal": self.equal,
            "largest_margin": self.largest_margin,
            "differences": [vars(one) for one in self.differences],
        }

    def __str__(self) -> str:
        text = f"{self.equal:,} of {self.images:,} decisions are equal"
        if self.differences:
            text += (
                f"; where they differ, the ReLU network's margin is at most "
                f"{self.largest_margin:.2g} standard deviations of its logits"
            )
        return text


def compare_decisions(relu: nn.Module, spiking: nn.Module, images: Tensor) -> DecisionComparison:
    """Compare the classes that two networks choose.

    Parameters
    ----------
    relu : Module
        From inputs to logits; the class is the largest. Run in evaluation.
    spiking : Module
        From the same inputs to spike values; the class is the output that spikes first.
    images : Tensor
        Inputs, (N, ...).

    Raises
    ------
    ValueError
        If there are no images, or the outputs have different shapes.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from ttfs_fast.conversion import compare_decisions, from_relu
    >>> relu = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10)).double()
    >>> images = torch.randn(100, 20, dtype=torch.float64)
    >>> print(compare_decisions(relu, from_relu(relu, images), images))
    100 of 100 decisions are equal
    """
    if len(images) == 0:
        raise ValueError("there are no images to compare decisions on")
    with evaluating(relu, spiking):
        parts = torch.split(images, BATCH)
        logits = torch.cat([relu(some).flatten(1) for some in parts]).double()
        values = torch.cat([spiking(some).flatten(1) for some in parts]).double()
    if logits.shape != values.shape:
        raise ValueError(
            f"the networks must have the same outputs; got {tuple(logits.shape)} logits and "
            f"{tuple(values.shape)} spike values"
        )
    ours, theirs = values.argmin(1), logits.argmax(1)
    silent = ~values.isfinite().any(1)
    chosen = logits.gather(1, ours[:, None])[:, 0]
    chosen = torch.where(silent, logits.min(1).values, chosen)
    deviation = float(logits.std(correction=0)) or 1.0
    margins = (logits.max(1).values - chosen) / deviation
    ours = torch.where(silent, -1, ours)
    places = (ours != theirs).nonzero()[:, 0].tolist()
    return DecisionComparison(
        len(images),
        tuple(
            Difference(place, int(theirs[place]), int(ours[place]), float(margins[place]))
            for place in places
        ),
    )
