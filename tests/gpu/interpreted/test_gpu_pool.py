"""First-spike pooling by the Triton kernels, interpreted, against plain torch."""

import math
from typing import Any

import pytest
import torch

from ttfs_fast import ops, reference, spiking_max_pool2d

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "walk",
    [
        ((2, 2), (2, 2), (0, 0), (1, 1)),
        ((3, 2), (1, 2), (1, 1), (1, 1)),
        ((2, 3), (2, 1), (1, 1), (2, 1)),
    ],
)
def test_pooling_against_the_reference(
    walk: Any, dtype: torch.dtype, seed: int, launched: list[str]
) -> None:
    x = torch.randint(1, 6, (2, 3, 6, 7)).to(dtype)  # many ties
    x[torch.rand(x.shape) < 0.5] = INF
    leaf = x.clone().requires_grad_()
    z = spiking_max_pool2d(leaf, *walk)
    assert launched == ["pool"]
    assert z.isinf().any()
    assert torch.equal(z.detach(), reference.spiking_max_pool2d(x, *walk))
    upstream = torch.randn_like(z)
    (found,) = torch.autograd.grad(z, leaf, upstream)
    assert launched == ["pool", "pool_gradient"]
    z, index = ops._pool_reference(x, *walk, z.shape[2:])
    expected = ops._pool_reference_backward(upstream, index, *walk, x.shape[2:])
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_nan_and_formats(seed: int) -> None:
    x = torch.rand(1, 2, 4, 4) + 1
    x[0, 0, 1, 1] = NAN
    x[0, 1, :2, :2] = INF
    z, index = ops.max_pool2d(x, (2, 2), (2, 2), (0, 0), (1, 1), (2, 2))
    assert z.isnan().sum() == 1
    assert z[0, 0, 0, 0].isnan()
    assert index[0, 0, 0, 0] == 3
    assert z[0, 1, 0, 0] == INF
    assert index[0, 1, 0, 0] == -1
    last = spiking_max_pool2d(x.contiguous(memory_format=torch.channels_last), 2)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last.nan_to_num(7), z.nan_to_num(7))


def test_opcheck_and_empty(seed: int) -> None:
    x = (torch.rand(1, 1, 4, 4, dtype=torch.float64) + 1).requires_grad_()
    torch.library.opcheck(ops.max_pool2d, (x, (2, 2), (2, 2), (0, 0), (1, 1), (2, 2)))
    assert spiking_max_pool2d(torch.ones(0, 2, 4, 4), 2).shape == (0, 2, 2, 2)
