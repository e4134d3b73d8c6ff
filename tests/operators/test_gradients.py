"""Gradients: against finite differences, against torch's own of the reference, and the rules."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import ttfs_fast
from support.machine import use_instruction_set
from ttfs_fast import ops, reference, spiking_conv2d, spiking_linear, spiking_max_pool2d

INF = math.inf
DTYPES = [torch.float32, torch.float64]


def spikes(*shape: int, silent: float = 0.2, seed: int = 0, earliest: float = -0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = 2.5 * torch.rand(shape, generator=generator, dtype=torch.float64) + earliest
    return t.exp().masked_fill(torch.rand(shape, generator=generator) < silent, INF)


def firing(outputs: int, *field: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    fan_in = math.prod(field)
    w = torch.randn(outputs, *field, generator=generator, dtype=torch.float64)
    return w / math.sqrt(fan_in) + 4 / fan_in


def heard(z: Tensor) -> Tensor:
    """Without the silent outputs, which have no finite differences."""
    assert z.isfinite().double().mean() > 0.3
    return z.masked_fill(z.isinf(), 0)


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"stride": (2, 1), "padding": (1, 2)},
    {"dilation": (2, 3), "padding": 3},
    {"groups": 2, "padding": 1},
    {"stride": 2, "padding": "same"},
    {"stride": (3, 2), "dilation": (2, 1), "padding": 2, "groups": 2},
    {"padding": 1, "t_max": 1.3},
]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("geometry", CONVOLUTIONS, ids=repr)
def test_gradcheck_conv2d(geometry: dict[str, Any], bias: bool, instruction_set: str) -> None:
    x = spikes(2, 4, 7, 6).requires_grad_()
    w = firing(4, 4 // geometry.get("groups", 1), 3, 2).requires_grad_()
    b = torch.tensor([0.3, -0.2, 0.9, 0.1], dtype=torch.float64, requires_grad=True)

    def layer(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return heard(spiking_conv2d(x, w, b, **geometry))

    inputs = (x, w, b) if bias else (x, w)
    assert torch.autograd.gradcheck(layer, inputs, eps=1e-7, atol=1e-5, fast_mode=True)
    if instruction_set == "baseline":
        assert torch.autograd.gradcheck(layer, inputs, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("t_max", [INF, 1.2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 12), (12,), (2, 3, 4, 7)])
def test_gradcheck_linear(
    shape: tuple[int, ...], bias: bool, t_max: float, instruction_set: str
) -> None:
    x = spikes(*shape).requires_grad_()
    w = firing(9, shape[-1]).requires_grad_()
    b = torch.linspace(-0.3, 0.5, 9, dtype=torch.float64).requires_grad_()

    def layer(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return heard(spiking_linear(x, w, b, t_max=t_max))

    inputs = (x, w, b) if bias else (x, w)
    assert torch.autograd.gradcheck(layer, inputs, eps=1e-7, atol=1e-5)


def test_gradcheck_pool() -> None:
    x = spikes(2, 3, 7, 6, silent=0.4).requires_grad_()
    for kernel, stride, padding, dilation in ((2, 2, 0, 1), (3, 1, 1, 1), ((2, 3), 2, 1, 2)):
        assert torch.autograd.gradcheck(
            lambda x, *rest: heard(spiking_max_pool2d(x, *rest)),
            (x, kernel, stride, padding, dilation),
            eps=1e-7,
            atol=1e-6,
        )


def gradients(out: Tensor, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(out, inputs, upstream.masked_fill(out.isinf(), 0)))


def test_gradients_are_those_of_the_reference_linear(instruction_set: str) -> None:
    for inputs in (1, 8, 17, 64, 65, 130):
        for outputs in (1, 8, 9, 17, 33, 65, 129):
            x = spikes(6, inputs, seed=inputs).requires_grad_()
            w = firing(outputs, inputs, seed=outputs).requires_grad_()
            b = torch.linspace(-0.2, 0.4, outputs, dtype=torch.float64).requires_grad_()
            upstream = torch.randn(6, outputs, generator=torch.Generator().manual_seed(2)).double()
            ours = spiking_linear(x, w, b)
            plain = reference.spiking_linear(x, w, b)
            assert ours.isfinite().double().mean() > 0.5
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=0)
            for got, expected in zip(
                gradients(ours, [x, w, b], upstream),
                gradients(plain, [x, w, b], upstream),
                strict=True,
            ):
                torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@settings(max_examples=60)
@given(
    isa=st.sampled_from(ttfs_fast.instruction_sets()),
    channels=st.sampled_from([1, 3, 8, 17]),
    outputs=st.sampled_from([1, 8, 17, 33]),
    groups=st.sampled_from([1, 1, 2]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(3, 5), st.integers(3, 5)),
    bias=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_gradients_are_those_of_the_reference_conv2d(
    isa: str,
    channels: int,
    outputs: int,
    groups: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    bias: bool,
    channels_last: bool,
    seed: int,
) -> None:
    x = spikes(2, channels * groups, *size, seed=seed)
    w = firing(outputs * groups, channels, *kernel, seed=seed + 1)
    b = firing(outputs * groups, 1, seed=seed + 2)[:, 0] / 4 if bias else None
    tensors = [t.requires_grad_() for t in (x, w, b) if t is not None]
    geometry = (stride, padding, dilation, groups)
    with use_instruction_set(isa):
        laid = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        ours = spiking_conv2d(laid, w, b, *geometry)
        upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3)).double()
        got = gradients(ours, tensors, upstream)
    plain = reference.spiking_conv2d(x, w, b, *geometry)
    assert torch.equal(ours.isinf(), plain.isinf())
    # Near-tangent crossings differ in rounding, and all that they touch with them. Of few neurons
    # with the same weights they may be many.
    steep = plain.isinf() | (plain < 1e4)
    assume(steep.double().mean() > 0.9)
    upstream = upstream.masked_fill(~steep, 0)
    if not steep.all():
        ours = spiking_conv2d(x, w, b, *geometry)
        got = gradients(ours, tensors, upstream)
    for mine, expected in zip(got, gradients(plain, tensors, upstream), strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-8 * max(scale, 1))


def test_float32_gradients_agree_with_float64(instruction_set: str) -> None:
    x, w = spikes(6, 40, 9, 9, silent=0.38), firing(70, 40, 3, 3)
    b = torch.linspace(-0.3, 0.5, 70, dtype=torch.float64)
    single, double = ([t.float().to(dtype).requires_grad_() for t in (x, w, b)] for dtype in DTYPES)
    z, exact = spiking_conv2d(*single), spiking_conv2d(*double)
    assert exact.isfinite().double().mean() > 0.9
    # Where both agree on the causal set; near-tangent crossings have gradients of any size.
    clear = (z.isfinite() & exact.isfinite() & (exact < 20)).detach()
    assert clear.double().mean() > 0.9
    upstream = torch.randn(z.shape, generator=torch.Generator().manual_seed(2)) * clear
    got = torch.autograd.grad(z, single, upstream)
    expected = torch.autograd.grad(exact, double, upstream.double())
    for a, c in zip(got, expected, strict=True):
        assert c.norm() > 0
        assert (a - c).norm() <= 1e-4 * c.norm()


@pytest.mark.parametrize(("start", "width"), [(0.0, 3.0), (6.0, 0.02), (12.0, 1e-3)])
def test_gradient_of_weights_survives_late_spikes_close_together(
    start: float, width: float, instruction_set: str
) -> None:
    # The kernel adds up spike values, which are thousands of times their differences here. The
    # reference, in double precision, is given what the kernel is given.
    torch.manual_seed(0)
    z = (start + width * torch.rand(200, 40)).exp()
    z[:, 5] = math.inf
    weight = torch.randn(30, 40).mul_(0.1).add_(0.06)
    out, slope = ops.linear(z, weight, None, math.inf)
    assert out.isfinite().float().mean() > 0.5
    given = (torch.randn(out.shape), z, weight, out, slope)
    found = ops.linear_backward(*given, True, True)
    expected = reference.linear_backward(*(tensor.double() for tensor in given))
    for ours, exact in zip(found, expected, strict=True):
        scale = exact.abs().max().item()
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=2e-6 * scale)
    assert (found[1][:, 5] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [INF, -INF, math.nan])
def test_silent_neurons_pass_no_gradient(
    bad: float, dtype: torch.dtype, instruction_set: str
) -> None:
    x = spikes(2, 5, 8, 8, silent=0.3).to(dtype).requires_grad_()
    w = (firing(20, 5, 3, 3) * 0.4).to(dtype).requires_grad_()
    b = torch.linspace(-0.5, 0.5, 20, dtype=dtype).requires_grad_()
    cases = [
        (lambda: spiking_conv2d(x, w, b, padding=1)),
        (lambda: spiking_linear(x.flatten(1), w.flatten(1).repeat(1, 8)[:, :320] / 8, b)),
    ]
    for layer in cases:
        out = layer()
        silent = out.isinf()
        assert 0.02 < silent.double().mean() < 0.98
        upstream = torch.ones_like(out)
        clean = torch.autograd.grad(out, (x, w, b), upstream.masked_fill(silent, 0))
        out = layer()
        spoilt = torch.autograd.grad(out, (x, w, b), upstream.masked_fill(silent, bad))
        for got, expected in zip(spoilt, clean, strict=True):
            assert torch.equal(got, expected)
            assert expected.abs().sum() > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_gradients_do_not_spread(dtype: torch.dtype, instruction_set: str) -> None:
    x = torch.tensor([[1, 2, 9, INF], [1, 2, 9, INF]], dtype=dtype, requires_grad=True)
    w = torch.tensor([[1.5, 0.5, 3, 1]], dtype=dtype, requires_grad=True)
    out = spiking_linear(x, w)
    assert out.tolist() == [[2.5], [2.5]]
    to_x, to_w = torch.autograd.grad(out, (x, w), torch.tensor([[math.nan], [1]], dtype=dtype))
    assert to_x[0, :2].isnan().all()
    assert to_x[1].tolist() == [1.5, 0.5, 0, 0]
    assert to_w[0, :2].isnan().all()


def test_only_required_gradients_are_computed(instruction_set: str) -> None:
    x, w = spikes(3, 4, 6, 6), firing(5, 4, 3, 3)
    b = torch.full((5,), 0.1, dtype=torch.float64)
    upstream = torch.ones(3, 5, 4, 4, dtype=torch.float64)
    every = [t.clone().requires_grad_() for t in (x, w, b)]
    out = spiking_conv2d(*every)
    whole = torch.autograd.grad(out, every, upstream)
    for mask in range(1, 8):
        some = [t.clone().requires_grad_(bool(mask >> i & 1)) for i, t in enumerate((x, w, b))]
        out = spiking_conv2d(*some)
        wanted = [t for t in some if t.requires_grad]
        expected = [g for i, g in enumerate(whole) if mask >> i & 1]
        for got, full in zip(torch.autograd.grad(out, wanted, upstream), expected, strict=True):
            assert torch.equal(got, full)
            assert full.abs().sum() > 0


@pytest.mark.parametrize("layout", ["expanded", "channels_last", "sliced"])
def test_incoming_gradient_may_have_any_layout(layout: str, instruction_set: str) -> None:
    x, w = spikes(2, 4, 6, 6).requires_grad_(), firing(6, 4, 3, 3).requires_grad_()
    out = spiking_conv2d(x, w)
    if layout == "expanded":
        upstream = torch.tensor(0.5, dtype=torch.float64).expand(out.shape)
    elif layout == "channels_last":
        upstream = torch.rand(out.shape, dtype=torch.float64)
        upstream = upstream.contiguous(memory_format=torch.channels_last)
    else:
        upstream = torch.rand(2, 6, 8, 9, dtype=torch.float64)[:, :, ::2, 1::2]
    assert not upstream.is_contiguous()
    got = torch.autograd.grad(out, (x, w), upstream, retain_graph=True)
    plain = torch.autograd.grad(out, (x, w), upstream.contiguous())
    for a, b in zip(got, plain, strict=True):
        assert torch.equal(a, b)
        assert a.abs().sum() > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_gradient_goes_to_the_first_of_equals(dtype: torch.dtype) -> None:
    x = torch.tensor([[[3, 1, INF, INF], [1, 1, INF, INF]]], dtype=dtype, requires_grad=True)
    out = spiking_max_pool2d(x, 2)
    assert out.tolist() == [[[1, INF]]]
    # The silent window passes nothing, not even a NaN.
    upstream = torch.tensor([[[5, math.nan]]], dtype=dtype)
    (grad,) = torch.autograd.grad(out, x, upstream)
    assert grad.tolist() == [[[0, 5, 0, 0], [0, 0, 0, 0]]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_gradients_of_overlapping_windows_add_up(dtype: torch.dtype) -> None:
    x = torch.tensor([[[4, 1, 3, 2, 5]]], dtype=dtype, requires_grad=True)
    out = spiking_max_pool2d(x, (1, 3), 1)
    assert out.tolist() == [[[1, 1, 2]]]
    (grad,) = torch.autograd.grad(out, x, torch.tensor([[[1, 10, 100]]], dtype=dtype))
    assert grad.tolist() == [[[0, 11, 0, 100, 0]]]


def test_pool_of_nan_is_nan_and_keeps_its_place() -> None:
    x = torch.tensor([[[2.0, math.nan, 1.0, math.nan]]], requires_grad=True)
    out = spiking_max_pool2d(x, (1, 4))
    assert out.isnan().all()
    assert torch.autograd.grad(out.sum(), x)[0].tolist() == [[[0, 1, 0, 0]]]


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    ceil_mode=st.booleans(),
    grid=st.booleans(),
    channels_last=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_pool_is_torchs_of_the_negative(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    ceil_mode: bool,
    grid: bool,
    channels_last: bool,
    dtype: torch.dtype,
    seed: int,
    data: Any,
) -> None:
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    reach = [
        n + 2 * p - d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)
    ]
    if min(reach) < 1:
        size = tuple(n + max(1 - r, 0) for n, r in zip(size, reach, strict=True))
    z = spikes(2, 3, *size, seed=seed, silent=0.3).to(dtype)
    if grid:
        z = (2 * z).ceil() / 2  # equal inputs
    if channels_last:
        z = z.contiguous(memory_format=torch.channels_last)
    z.requires_grad_()
    out = spiking_max_pool2d(z, kernel, stride, padding, dilation, ceil_mode)
    plain = -F.max_pool2d(-z, kernel, stride, padding, dilation, ceil_mode)
    assert torch.equal(out, plain)
    assert out.stride() == plain.stride()
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    (got,) = torch.autograd.grad(out, z, upstream)
    (expected,) = torch.autograd.grad(plain, z, upstream.masked_fill(out.isinf(), 0))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(got != 0, expected != 0)

    # The path of tensors on other devices.
    geometry = (kernel, stride, padding, dilation)
    assert torch.equal(ops._pool_reference(z.detach(), *geometry, out.shape[2:])[0], out)
    assert torch.equal(
        ops._pool_reference(z.detach(), *geometry, out.shape[2:])[1],
        ops.max_pool2d(z.detach(), *geometry, out.shape[2:])[1],
    )


@pytest.mark.usefixtures("instruction_set")
def test_an_infinite_gradient_does_not_reach_inputs_outside_the_causal_set() -> None:
    z_in = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    weight = torch.tensor([[1.5, 0.5, 3.0]], dtype=torch.float64)
    grad = torch.full((1, 1), math.inf, dtype=torch.float64)
    z, slope = reference.linear_forward(z_in, weight, None, math.inf)
    assert 2 < z.item() < 4
    slow = reference.linear_backward(grad, z_in, weight, z, slope)[0]
    fast = z_in.clone().requires_grad_()
    ttfs_fast.spiking_linear(fast, weight).backward(grad)
    assert slow.tolist() == [[math.inf, math.inf, 0.0]]
    assert fast.grad is not None
    assert fast.grad.tolist() == slow.tolist()
