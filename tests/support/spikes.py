"""Random spike values and weights with which many neurons fire."""

import math

import torch
from torch import Tensor, nn

from ttfs_fast.nn import Delay


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_spikes(
    *shape: int,
    latest: float = 2.0,
    silent: float = 0.0,
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Spikes at times from 0 to ``latest``, a fraction of them silent; without a seed, torch's."""
    source = None if seed is None else generator(seed)
    z = (latest * torch.rand(shape, generator=source, dtype=dtype)).exp()
    if silent:
        z = z.masked_fill(torch.rand(shape, generator=source) < silent, torch.inf)
    return z


def firing_weights(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of both signs with which about half of the neurons fire."""
    fan_in = math.prod(shape[1:])
    noise = torch.randn(shape, generator=generator(seed), dtype=dtype)
    return noise * 3 / fan_in**0.5 + 2.5 / fan_in


def delayed(count: int, high: float = 1.0, low: float = 0.0, **options: object) -> Delay:
    """Random delays; those below 0 count as 0."""
    layer = Delay(count, **options)  # type: ignore[arg-type]
    nn.init.uniform_(layer.delay, low, high)
    return layer
