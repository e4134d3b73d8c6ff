"""The Triton kernels, interpreted, against plain torch: forward, gradients, torch's own checks."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ttfs_fast import ops, reference, spiking_conv2d, spiking_linear
from ttfs_fast.gpu import layers, plan

INF, NAN = math.inf, math.nan
GPU_UNROLL = 16
DTYPES = [torch.float32, torch.float64]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)

# batch, inputs, outputs, (height, width), kernel, stride, padding, dilation, groups, bias, t_max
SHAPES = [
    pytest.param((1, 3, 40, (4, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1, True, INF), id="same"),
    pytest.param((1, 4, 6, (6, 5), (2, 3), (2, 1), (0, 1), (1, 1), 2, False, INF), id="groups"),
    pytest.param((1, 2, 12, (3, 5), (3, 2), (1, 1), (2, 0), (2, 3), 1, True, INF), id="dilated"),
    pytest.param((2, 1, 3, (7, 5), (3, 3), (2, 3), (1, 2), (2, 2), 1, True, 1.2), id="horizon"),
    pytest.param((1, 3, 3, (5, 5), (2, 2), (3, 3), (1, 1), (1, 1), 3, True, INF), id="depthwise"),
]


def tensors(
    shape: Any, dtype: torch.dtype, grid: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spike values, a third of them silent, and weights; on a grid: many ties, exact sums."""
    n, inputs, outputs, size, kernel, *_, groups, bias, _ = shape
    fan_in = inputs // groups * math.prod(kernel)
    x = (torch.rand(n, inputs, *size, dtype=torch.float64) * 2 - 0.7).exp()
    w = torch.randn(outputs, inputs // groups, *kernel, dtype=torch.float64)
    w = w * 3 / math.sqrt(fan_in) + 3 / fan_in
    w[:1] = w[:1].abs() + 4 / fan_in  # a few outputs could otherwise all be silent
    b = torch.randn(outputs, dtype=torch.float64) * 0.4
    if grid:
        x = torch.randint(1, 9, x.shape).double() / 2
        w, b = (torch.randint(-8, 14 if fan_in > 8 else 40, t.shape).double() / 16 for t in (w, b))
    x[torch.rand(x.shape) < 0.3] = INF
    return x.to(dtype), w.to(dtype), b.to(dtype) if bias else None


def assert_agrees(ours: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal silence, and equal spike values to within a tolerance, for all but 1 in 100, or one."""
    assert ours.shape == expected.shape
    off = (ours.isinf() != expected.isinf()) | (ours.isnan() != expected.isnan())
    both = ours.isfinite() & expected.isfinite()
    off |= both & ((ours - expected).abs() > tolerance * expected.abs())
    assert off.sum() <= max(1, ours.numel() // 100), (off.sum().item(), ours.numel())


@pytest.mark.parametrize(
    ("shape", "dtype"),
    # The test of ties, below, is in float64 for all of them.
    [pytest.param(*s.values, torch.float32, id=s.id) for s in SHAPES]
    + [pytest.param(*SHAPES[1].values, torch.float64, id="float64")],
)
def test_convolution_against_the_reference(
    shape: Any, dtype: torch.dtype, seed: int, launched: list[str]
) -> None:
    x, w, b = tensors(shape, dtype)
    stride, padding, dilation, groups, _, t_max = shape[5:]
    leaves = [t.requires_grad_() for t in (x, w, b) if t is not None]
    z = spiking_conv2d(x, w, b, stride, padding, dilation, groups, t_max=t_max)
    expected = reference.spiking_conv2d(x, w, b, stride, padding, dilation, groups, t_max=t_max)
    assert {"check_positive", "collect", "filter_events", "sweep"} <= set(launched)
    assert z.isfinite().double().mean() > 0.02
    assert_agrees(z.detach(), expected.detach(), 1e-5 if dtype == torch.float32 else 1e-12)
    # Gradients of the same causal sets: the reference's backward on the kernels' own results.
    z, slope = ops.conv2d(x, w, b, stride, padding, dilation, groups, t_max, z.shape[2:])
    upstream = torch.randn(z.shape).to(dtype)
    found = torch.autograd.grad(z, leaves, upstream)
    walk = (stride, padding, dilation, groups)
    exact = [t.detach().double() for t in (upstream, x, w, z, slope)]
    for ours, theirs in zip(found, reference.conv2d_backward(*exact, *walk), strict=False):
        assert theirs.abs().max() > 0
        limit = (1e-5 if dtype == torch.float32 else 1e-13) * theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=limit)
    assert {"prepare", "weight_gradient", "input_gradient"} <= set(launched)


@pytest.mark.parametrize("shape", SHAPES)
def test_ties_with_exact_sums_leave_no_room(shape: Any, seed: int) -> None:
    stride, padding, dilation, groups, _, t_max = shape[5:]
    for _ in range(20):  # in a few draws all neurons spike after t_max
        x, w, b = tensors(shape, torch.float64, grid=True)
        expected = reference.spiking_conv2d(x, w, b, stride, padding, dilation, groups, t_max=t_max)
        if expected.isfinite().double().mean() > 0.02:
            break
    z = spiking_conv2d(x, w, b, stride, padding, dilation, groups, t_max=t_max)
    assert z.isfinite().double().mean() > 0.02
    assert torch.equal(z.isinf(), expected.isinf())
    torch.testing.assert_close(z, expected, rtol=1e-14, atol=0)


@each_dtype
def test_linear_against_the_reference(
    dtype: torch.dtype, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks of outputs, and as many events at a time as on a GPU."""
    monkeypatch.setattr(plan, "UNROLL", GPU_UNROLL)
    shape = (3, 70, 131, (1, 1), (1, 1), None, None, None, 1, True, INF)
    x, w, b = (t.flatten(1) if t.dim() > 1 else t for t in tensors(shape, dtype))
    leaves = [t.requires_grad_() for t in (x, w, b)]
    z, slope = ops.linear(x, w, b, INF)
    assert z.isfinite().double().mean() > 0.1
    expected = reference.spiking_linear(x, w, b)
    assert_agrees(z.detach(), expected.detach(), 1e-5 if dtype == torch.float32 else 1e-12)
    upstream = torch.randn(z.shape).to(dtype)
    found = torch.autograd.grad(z, leaves, upstream)
    exact = [t.detach().double() for t in (upstream, x, w, z, slope)]
    for ours, theirs in zip(found, reference.linear_backward(*exact), strict=True):
        limit = (1e-5 if dtype == torch.float32 else 1e-13) * theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=limit)


def test_channels_last_and_other_strides(seed: int) -> None:
    shape = SHAPES[0].values[0]
    x, w, b = tensors(shape, torch.float32)
    expected = spiking_conv2d(x, w, b, padding=1)
    last = torch.channels_last
    z = spiking_conv2d(x.contiguous(memory_format=last), w, b, padding=1)
    assert z.is_contiguous(memory_format=last)
    assert not z.is_contiguous()
    assert torch.equal(z, expected)
    wide = torch.stack([x, x * 2], -1)[..., 0]
    assert not wide.is_contiguous()
    assert torch.equal(spiking_conv2d(wide, w, b, padding=1), expected)
    assert torch.equal(spiking_conv2d(x, w.contiguous(memory_format=last), b, padding=1), expected)
    grads = []
    for values in (x, wide.contiguous(memory_format=last)):
        leaf = values.detach().requires_grad_()
        out = spiking_conv2d(leaf, w, b, padding=1)
        # An expanded gradient, as sum gives it.
        grads.append(torch.autograd.grad(out[out.isfinite()].sum(), leaf)[0])
    assert grads[0].abs().max() > 0
    assert all(torch.equal(g, grads[0]) for g in grads)


def test_flat_slopes_are_summed_again_in_double(seed: int) -> None:
    """Weights whose sum is barely above 1: float32 sums alone are off by far more than 1e-5."""
    x = (torch.rand(1, 300, dtype=torch.float64) * 2).exp().float()
    w = torch.randn(40, 300, dtype=torch.float64)
    w += (1.0005 - w.sum(1, keepdim=True)) / 300
    w = w.float()
    z = spiking_linear(x, w)
    exact = reference.spiking_linear(x.double(), w.double())
    late = exact.isfinite() & (exact > 20)
    assert late.sum() > 10
    both = late & z.isfinite()
    assert both.sum() >= 0.97 * late.sum()
    error = ((z.double() - exact).abs() / exact)[both]
    assert error.median() < 1e-6
    assert (error < 1e-5).double().mean() > 0.98


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # numpy's
def test_late_spikes_whose_moments_overflow() -> None:
    """A = w z is beyond float32; the spike value is not."""
    x = torch.tensor([[1e38, 3e38], [1e38, INF]])
    w = torch.tensor([[10.0, 0.1], [0.5, 0.1]])
    for t_max in (INF, 87.8):
        z = spiking_linear(x, w, t_max=t_max)
        exact = reference.spiking_linear(x.double(), w.double(), t_max=t_max)
        assert exact.isfinite().tolist() == [[True, False]] * 2
        torch.testing.assert_close(z.double(), exact, rtol=1e-5, atol=0)


def test_chunk_size_does_not_change_results(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tile, one output, one image at a time: the same bits forward, the same sums backward."""
    shape = SHAPES[1].values[0]
    x, w, _ = tensors((3, *shape[1:3], (3, 4), *shape[4:]), torch.float64)
    stride, padding, dilation, groups = shape[5:9]

    def run() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (x, w)]
        z = spiking_conv2d(*leaves, None, stride, padding, dilation, groups)
        found = torch.autograd.grad(z, leaves, torch.ones_like(z))
        return [z.detach(), *found]

    whole = run()
    for name in ("EVENTS", "WEIGHTS", "OUTPUTS", "PARTIAL"):
        monkeypatch.setattr(plan, name, 1)
    parts = run()
    assert torch.equal(parts[0], whole[0])
    for a, b in zip(parts[1:], whole[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_of_pixel_ranges_add_up(seed: int, launched: list[str]) -> None:
    x, w, b = tensors((2, 1, 2, (7, 8), (2, 2), 1, 1, 1, 1, True, INF), torch.float64)
    walk = ((1, 1), (1, 1), (1, 1), 1)
    z, slope = reference.conv2d_forward(x, w, b, *walk, INF, (8, 9))
    geometry = layers.geometry_of(x, w, *walk, (8, 9))
    assert plan.backward(geometry, 8).splits > 1
    upstream = torch.randn_like(z)
    found = ops.conv2d_backward(upstream, x, w, z, slope, *walk, True, True)
    expected = reference.conv2d_backward(upstream, x, w, z, slope, *walk)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    again = ops.conv2d_backward(upstream, x, w, z, slope, *walk, True, True)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    some = ops.conv2d_backward(upstream, x, w, z, slope, *walk, False, True)
    assert some[0].numel() == 0
    assert torch.equal(some[1], found[1])
    some = ops.conv2d_backward(upstream, x, w, z, slope, *walk, True, False)
    assert torch.equal(some[0], found[0])
    assert some[1].numel() == some[2].numel() == 0


def test_gradcheck_and_opcheck(seed: int) -> None:
    x = (torch.rand(1, 1, 2, 3, dtype=torch.float64) * 2).exp().requires_grad_()
    w = (torch.rand(2, 1, 2, 2, dtype=torch.float64) * 0.8 + 0.4).requires_grad_()
    b = (torch.rand(2, dtype=torch.float64) * 0.3).requires_grad_()
    assert spiking_conv2d(x, w, b).isfinite().all()
    assert torch.autograd.gradcheck(lambda *a: spiking_conv2d(*a), (x, w, b), eps=1e-7)
    pairs = ((1, 1), (0, 0), (1, 1))
    torch.library.opcheck(ops.conv2d, (x, w, b, *pairs, 1, INF, (1, 2)))
    torch.library.opcheck(ops.linear, (x[0, 0], w[0, 0].repeat(3, 2)[:, :3], None, 1.5))


def test_compiled_and_exported_by_torch_gives_the_same(seed: int) -> None:
    x, w, b = tensors((1, 2, 5, (3, 3), *SHAPES[0].values[0][4:]), torch.float32)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return spiking_conv2d(x, w, b, padding=1).clamp(max=9.0) * 2

    layer = Layer()
    expected = layer(x)
    assert (expected < 18).any()
    assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), expected)
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), expected)


@each_dtype
def test_the_same_bits_from_run_to_run(dtype: torch.dtype, seed: int) -> None:
    x, w, b = tensors((1, 2, 5, (3, 3), *SHAPES[0].values[0][4:]), dtype)

    def run() -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (x, w, b)]
        z = spiking_conv2d(*leaves, padding=1)
        return [z.detach(), *torch.autograd.grad(z, leaves, torch.ones_like(z))]

    first, again = run(), run()
    assert first[1].abs().max() > 0
    assert all(map(torch.equal, first, again))
