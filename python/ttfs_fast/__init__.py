"""Fast time-to-first-spike (TTFS) neural networks on CPUs.

Spiking layers whose neurons spike at most once, the time of the spike being the value, as torch
operators with compiled kernels: :func:`spiking_linear`, :func:`spiking_conv2d` and
:func:`spiking_max_pool2d` stand where their namesakes of torch.nn.functional stood. Modules are in
:mod:`ttfs_fast.nn`, networks in :mod:`ttfs_fast.models`.
"""

import torch  # noqa: F401  first, so that the extension shares torch's OpenMP runtime

from ttfs_fast._core import (
    __version__,
    instruction_set,
    instruction_sets,
    set_instruction_set,
)
from ttfs_fast.functional import spiking_conv2d, spiking_linear, spiking_max_pool2d

__all__ = [
    "__version__",
    "instruction_set",
    "instruction_sets",
    "set_instruction_set",
    "spiking_conv2d",
    "spiking_linear",
    "spiking_max_pool2d",
]
