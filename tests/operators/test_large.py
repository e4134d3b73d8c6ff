"""More than 2^31 elements, and none at all.

The large arrays are addresses without memory behind them, but for the pages that are touched; or
one row, repeated by a stride of 0.
"""

import mmap
import sys
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from support.spikes import random_spikes
from ttfs_fast import _core, spiking_conv2d, spiking_linear, spiking_max_pool2d
from ttfs_fast.encoding import Encoding
from ttfs_fast.nn import SpikingConv2d, SpikingMaxPool2d
from ttfs_fast.quantization import convert

FAR = 2**31 + 64  # elements
linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="needs memory that is reserved when it is touched"
)


spikes = partial(random_spikes, seed=1)


def weights(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(shape, generator=generator) * 6 / torch.Size(shape[1:]).numel()


def far_apart(shape: tuple[int, ...], dtype: type = np.float32) -> NDArray[np.float32]:
    """An array whose images lie more than 2^31 elements apart."""
    size = np.dtype(dtype).itemsize
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, shape[0] * FAR * size, flags=flags)
    strides = [size * int(np.prod(shape[d + 1 :])) for d in range(len(shape))]
    return np.ndarray(shape, dtype, memory, strides=(FAR * size, *strides[1:]))


@linux
def test_images_with_large_strides() -> None:
    z, w = spikes(2, 3, 9, 8), weights(20, 3, 3, 3)
    apart = far_apart((2, 3, 9, 8))
    apart[:] = z.numpy()
    view = torch.from_numpy(apart)
    assert view.stride(0) > 2**31
    near = z.clone().requires_grad_()
    far = view.requires_grad_()
    expected = spiking_conv2d(near, w, padding=1)
    assert expected.isfinite().float().mean() > 0.5
    out = spiking_conv2d(far, w, padding=1)
    assert torch.equal(out, expected)
    upstream = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    (grad,) = torch.autograd.grad(out, far, upstream)
    assert torch.equal(grad, torch.autograd.grad(expected, near, upstream)[0])
    assert grad.any()
    assert torch.equal(spiking_max_pool2d(far, 2), spiking_max_pool2d(near, 2))
    rows, columns = far_apart((3, 40)), weights(7, 40)
    rows[:] = spikes(3, 40).numpy()
    assert torch.equal(
        spiking_linear(torch.from_numpy(rows), columns), spiking_linear(spikes(3, 40), columns)
    )


@linux
def test_outputs_and_gradients_with_large_strides() -> None:
    """The core respects output strides; torch itself never makes such outputs."""
    z, w = spikes(2, 3, 9, 8).numpy(), weights(20, 3, 3, 3).numpy()
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    results = []
    for make in (far_apart, lambda shape: np.zeros(shape, np.float32)):
        out, grad = make((2, 20, 9, 8)), make((2, 3, 9, 8))
        slope = np.zeros((2, 9, 8, 20), np.float32)
        _core.conv2d_forward(z, w, None, *geometry, np.inf, out, slope, 2)
        upstream = make((2, 20, 9, 8))
        upstream[:] = 1
        _core.conv2d_backward(z, w, out, slope, upstream, *geometry, grad, None, None, 2)
        pooled, index = make((2, 20, 4, 4)), np.zeros((2, 20, 4, 4), np.int32)
        _core.max_pool2d_forward(out, (2, 2), (2, 2), (0, 0), (1, 1), pooled, index, 2)
        results.append([np.array(a) for a in (out, grad, pooled, index)])
    assert np.isfinite(results[0][0]).mean() > 0.5
    for far, near in zip(*results, strict=True):
        assert np.array_equal(far, near)


def test_more_than_two_thousand_million_inputs() -> None:
    """One row, repeated, so that every index of inputs exceeds 32 bits."""
    side = 46_400
    row = spikes(1, 1, 1, side)
    wide = row.expand(1, 1, side, side)
    assert wide.numel() > 2**31
    step = 800
    out = spiking_conv2d(wide, torch.full((3, 1, 1, 1), 3.0), stride=step)
    assert out.shape == (1, 3, side // step, side // step)
    # One input: z = w z_i / (w - 1).
    expected = (row[..., ::step] * 3 / 2).expand_as(out)
    torch.testing.assert_close(out, expected)
    pooled = spiking_max_pool2d(wide, 1, step)
    assert torch.equal(pooled, row[..., ::step].expand_as(pooled))


def test_shapes_beyond_memory() -> None:
    """Shapes only: an output of 2^37 elements has the shape of torch's convolution."""
    with FakeTensorMode():
        z = torch.empty(2**20, 64, 56, 56)
        w = torch.empty(64, 64, 3, 3)
        out = spiking_conv2d(z, w, padding=1)
        assert out.shape == torch.nn.functional.conv2d(z, w, padding=1).shape
        assert out.numel() > 2**37
        assert spiking_max_pool2d(out, 2).shape == (2**20, 64, 28, 28)
        assert spiking_linear(torch.empty(2**26, 100), torch.empty(1000, 100)).shape[0] == 2**26


def test_steps_far_beyond_the_image() -> None:
    """They cost no time: taps outside are silent, and columns between strides get no gradient."""
    z = (2 * torch.rand(1, 2, 5, 5, dtype=torch.float64)).exp().requires_grad_()
    w = torch.full((3, 2, 1, 1), 0.8, dtype=torch.float64, requires_grad=True)
    near = spiking_conv2d(z, w)
    assert torch.equal(spiking_conv2d(z, w, dilation=10**9), near)
    out = spiking_conv2d(z, w, stride=10**9)
    assert torch.equal(out, near[:, :, :1, :1])
    out.sum().backward()
    assert z.grad is not None
    assert z.grad[:, :, 0, 0].abs().min() > 0
    assert z.grad.count_nonzero() == 2
    three = torch.full((3, 2, 3, 3), 0.8, dtype=torch.float64)
    far = spiking_conv2d(z, three, dilation=20_000, padding=20_000)
    torch.testing.assert_close(far, near, rtol=1e-12, atol=0)
    with pytest.raises(
        ValueError, match=r"stride is 2147483648, too large; it must be at most 2147483647"
    ):
        spiking_conv2d(z, w, stride=2**31)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)])
def test_pooling_empty_inputs(shape: tuple[int, ...]) -> None:
    z = torch.ones(shape, requires_grad=True)
    out = spiking_max_pool2d(z, 2)
    assert out.shape == (*shape[:2], 4, 4)
    (grad,) = torch.autograd.grad(out.sum(), z)
    assert grad.shape == shape


def test_integer_networks_of_empty_inputs() -> None:
    model = torch.nn.Sequential(SpikingConv2d(1, 4, 3), SpikingMaxPool2d(2))
    net = convert(model, 8, input_size=(1, 8, 8), encoding=Encoding())
    out = net(np.zeros((0, 1, 8, 8), np.uint8))
    assert out.shape == (0, 4, 3, 3)
    assert [layer.shape[0] for layer in net.layers(np.zeros((0, 1, 8, 8), np.uint8))] == [0, 0]
