"""A ReLU network behind the interface of a spiking one."""

import torch
from torch import Tensor, nn

from ttfs_fast.encoding import Encoding

LARGEST_LOGIT = 60.0
"""The least spike value of a logit is exp(-60); exp(-104) would round to 0."""


class DecodeSpikes(nn.Module):
    """Feeds a ReLU network with spike values, and returns its logits as spike values.

    The same encoding, loss, training and evaluation then serve spiking and ordinary networks: the
    class with the largest logit is the one that spikes first, and the cross-entropy of equation (5)
    over -ln z is the ordinary one.

    Parameters
    ----------
    network : Module
        From images (N, C, H, W) to logits (N, classes).
    encoding : Encoding
        How images became the spikes that it is fed with; each pixel once.
    mean, deviation : float or sequence of float
        Mean and deviation of the pixel intensities, of each channel or of all; the network sees
        (p - mean) / deviation.

    Raises
    ------
    ValueError
        If the encoding shows each pixel twice.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        network: nn.Module,
        encoding: Encoding,
        mean: float | list[float] = 0.5,
        deviation: float | list[float] = 0.25,
    ) -> None:
        super().__init__()
        if encoding.polarity == "both":
            raise ValueError(
                "a network that is fed with intensities sees each pixel once; polarity must be "
                '"bright-first" or "dark-first", not "both"'
            )
        self.network = network
        self.encoding = encoding
        for name, value in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.as_tensor(value).reshape(-1, 1, 1))

    def forward(self, z: Tensor) -> Tensor:
        """Spike values (N, C, H, W) of images to spike values (N, classes), exp(-logits)."""
        intensity = z.log() / self.encoding.alpha
        if self.encoding.polarity == "bright-first":
            intensity = 1 - intensity
        logits: Tensor = self.network((intensity - self.mean) / self.deviation).to(z.dtype)
        return (-logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)).exp()
