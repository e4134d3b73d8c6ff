"""The kernels against plain torch, and both against the bounds of rounding."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ttfs_fast
from ttfs_fast import reference, spiking_conv2d, spiking_linear

INF = math.inf
SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70]
KINDS = ["values", "negative times", "grid", "horizon", "silent", "huge and tiny"]


def allowed(rows: Tensor, weight: Tensor, z: Tensor, eps: float, t_max: float = INF) -> Tensor:
    """Whether each output (rows, outputs) is one that rounding by `eps` can make.

    Follows F from input spike to input spike in float64 (rows, inputs, outputs), with a bound on
    the rounding errors of its two running sums. A crossing within the bound may be taken or
    missed (near-tangent); one that is clear of it must be taken. The spike value must be that of
    a crossing that may be taken, to within the bound divided by the slope there.
    """
    horizon = math.exp(t_max)
    time, order = torch.sort(rows.double(), dim=1, stable=True)
    arrives = (time < horizon)[..., None]
    w = torch.where(arrives, weight.double().t()[order], 0)
    after = torch.cat([time[:, 1:], time.new_full((len(rows), 1), INF)], 1).clamp(max=horizon)
    last = after.isinf()[..., None]
    time = torch.where(arrives[..., 0], time, 0)[..., None]
    after = after[..., None].where(~last, 1)
    slope, moment = w.cumsum(1) - 1, (w * time).cumsum(1)
    error_slope = 2 * eps * (slope.abs().cumsum(1) + 1)
    error_moment = 2 * eps * moment.abs().cumsum(1)
    crossing = torch.where(last, slope, slope * after - moment)  # at the next input, or for ever
    error = torch.where(last, error_slope, after * error_slope + error_moment)
    clear = arrives & (crossing > error)
    may = arrives & (crossing >= -error) & (clear.cumsum(1) - clear.int() == 0)
    spike, bound = moment / slope, error_moment + error_slope * z[:, None].double()
    steep = slope - error_slope
    near = (z[:, None] - spike).abs() * steep <= bound + 2 * eps * spike.abs() * steep
    near |= steep <= 0
    return torch.where(z.isinf(), ~clear.any(1), (may & near).any(1))


def tangent_fraction(kernel: Tensor, exact: Tensor) -> float:
    return (kernel.isinf() != exact.isinf()).double().mean().item()


@st.composite
def values(draw: Any, shape: tuple[int, ...], kind: str, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "grid":
        z = torch.randint(1, 9, shape, generator=generator).double() / 2
    else:
        t = 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
        z = (t - (3 if kind == "negative times" else 0)).exp()
    if kind == "horizon":  # all inputs spike, two thirds of them together and last
        return z.clamp(max=2).to(dtype)
    quiet = 1.0 if kind == "silent" else draw(st.sampled_from([0.0, 0.38, 0.9]))
    return z.masked_fill(torch.rand(shape, generator=generator) < quiet, INF).to(dtype)


def weights(shape: tuple[int, ...], kind: str, dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    fan_in = max(math.prod(shape[1:]), 1)
    if kind == "grid":
        return torch.randint(-8, 14, shape, generator=generator).to(dtype) / 16
    w = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 / math.sqrt(fan_in)
    w += 3 / fan_in
    if kind == "huge and tiny":
        scale = torch.tensor([1e18, 1e-18, 1.0], dtype=torch.float64)
        w *= scale[torch.randint(3, shape[:1], generator=generator)].reshape(
            -1, *(1,) * (len(shape) - 1)
        )
    return w.to(dtype)


def agree(rows: Tensor, weight: Tensor, z: Tensor, kind: str, t_max: float) -> None:
    """The kernel's `z` (rows, outputs) is the reference's, or what rounding makes of it."""
    exact, _ = reference.fire(rows.double(), weight.double(), t_max)
    assert z.shape == exact.shape
    assert not z.isnan().any()
    if kind == "grid" and t_max == INF:  # every sum is exact: only the division rounds
        assert torch.equal(z, exact.to(z.dtype))
        return
    if rows.shape[1] == 0:
        assert z.isinf().all()
        return
    eps = torch.finfo(z.dtype).eps
    ok = allowed(rows, weight, z, eps, t_max)
    assert ok.all(), f"{(~ok).sum()} of {z.numel()} outputs are none that rounding can make"
    assert allowed(rows, weight, exact, 2**-52, t_max).all()
    both = z.isfinite() & exact.isfinite()
    if kind in ("values", "negative times", "horizon") and z.dtype == torch.float64:
        assert tangent_fraction(z, exact) <= 1e-3 or z.numel() < 1000
        close = ((z - exact).abs() <= 1e-9 * exact)[both]
        assert close.double().mean() > 0.99 or close.sum() >= both.sum() - 1


def with_bias(rows: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    if bias is None:
        return rows, weight
    return (
        torch.cat([rows, rows.new_ones(len(rows), 1)], 1),
        torch.cat([weight, bias[:, None]], 1),
    )


common = {
    "kind": st.sampled_from(KINDS),
    "dtype": st.sampled_from([torch.float64, torch.float32]),
    "isa": st.sampled_from(ttfs_fast.instruction_sets()),
    "t_max": st.sampled_from([INF, INF, 1.5, 0.0]),
    "bias": st.booleans(),
    "seed": st.integers(0, 2**31),
    "data": st.data(),
}


@pytest.fixture(autouse=True)
def restore_instruction_set() -> Iterator[None]:
    before = ttfs_fast.instruction_set()
    yield
    ttfs_fast.set_instruction_set(before)


def apart(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another place: strided, transposed, or with a stride of 0."""
    if layout == "sliced":
        wide = tensor.new_full([2 * n + 1 for n in tensor.shape], -7)  # refused if ever read
        view = wide[tuple(slice(1, None, 2) for _ in tensor.shape)]
        view.copy_(tensor)
        return view
    if layout == "transposed":
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "batch last":
        return tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    return tensor


LAYOUTS = ["contiguous", "sliced", "transposed", "channels_last", "batch last"]


@settings(max_examples=150)
@given(
    rows=st.sampled_from([1, 2, 3, 7, 13]),
    inputs=st.sampled_from([0, *SIZES, 200, 333, 800]),
    outputs=st.sampled_from([0, *SIZES, 129]),
    layout=st.sampled_from(LAYOUTS),
    **common,
)
def test_linear(
    rows: int,
    inputs: int,
    outputs: int,
    layout: str,
    kind: str,
    dtype: torch.dtype,
    isa: str,
    t_max: float,
    bias: bool,
    seed: int,
    data: Any,
) -> None:
    ttfs_fast.set_instruction_set(isa)
    x = data.draw(values((rows, inputs), kind, dtype, seed))
    w = weights((outputs, inputs), kind, dtype, seed)
    b = weights((outputs, 1), kind, dtype, seed + 7)[:, 0] if bias else None
    z = spiking_linear(apart(x, layout), apart(w, layout), b, t_max=t_max)
    assert torch.equal(z, spiking_linear(x, w, b, t_max=t_max))
    agree(*with_bias(x, w, b), z, kind, t_max)


def check_conv(
    x: Tensor, w: Tensor, b: Tensor | None, z: Tensor, geometry: Any, kind: str, t_max: float
) -> None:
    """Each receptive field of the padded input `x` is a row of a fully connected layer."""
    stride, dilation, groups = geometry
    group = w.shape[0] // groups
    for g, part in enumerate(x.chunk(groups, 1)):
        some = slice(g * group, (g + 1) * group)
        fields = F.unfold(part, w.shape[2:], dilation, 0, stride).transpose(1, 2).flatten(0, 1)
        flat = z[:, some].flatten(2).transpose(1, 2).flatten(0, 1)
        rows, wide = with_bias(fields, w[some].flatten(1), None if b is None else b[some])
        agree(rows, wide, flat, kind, t_max)


@settings(max_examples=150)
@given(
    batch=st.sampled_from([1, 2, 3]),
    channels=st.sampled_from([1, 2, 3, 8, 17]),
    outputs=st.sampled_from([1, 2, 8, 9, 16, 17, 33, 65]),
    groups=st.sampled_from([1, 1, 2, 3]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.one_of(st.just("same"), st.tuples(st.integers(0, 4), st.integers(0, 4))),
    layout=st.sampled_from(LAYOUTS),
    **common,
)
def test_conv2d(
    batch: int,
    channels: int,
    outputs: int,
    groups: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: Any,
    layout: str,
    kind: str,
    dtype: torch.dtype,
    isa: str,
    t_max: float,
    bias: bool,
    seed: int,
    data: Any,
) -> None:
    ttfs_fast.set_instruction_set(isa)
    if padding == "same":
        around = []  # as in the docstring: ceil(size / stride), the odd row or column at the end
        for n, k, s, d in reversed(list(zip(size, kernel, stride, dilation, strict=True))):
            total = max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
            around += [total // 2, total - total // 2]
    else:
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple(  # at least as much as the kernel needs
            max(p, math.ceil((r - n) / 2)) for p, r, n in zip(padding, reach, size, strict=True)
        )
        around = [padding[1], padding[1], padding[0], padding[0]]
    x = data.draw(values((batch, channels * groups, *size), kind, dtype, seed))
    w = weights((outputs * groups, channels, *kernel), kind, dtype, seed)
    b = weights((outputs * groups, 1), kind, dtype, seed + 7)[:, 0] if bias else None
    z = spiking_conv2d(
        apart(x, layout), apart(w, layout), b, stride, padding, dilation, groups, t_max=t_max
    )
    padded = F.pad(x, around, value=INF)
    check_conv(padded, w, b, z, (stride, dilation, groups), kind, t_max)
    plain = spiking_conv2d(padded, w, b, stride, 0, dilation, groups, t_max=t_max)
    if padding == "same":
        expected = [math.ceil(n / s) for n, s in zip(size, stride, strict=True)]
        assert list(z.shape[2:]) == expected
        plain = plain[..., : expected[0], : expected[1]]
    assert torch.equal(z, plain)


@pytest.mark.parametrize("kind", ["values", "negative times", "grid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_most_neurons_of_these_examples_spike(kind: str, dtype: torch.dtype) -> None:
    for fan_in in (9, 64, 200):
        t = 2 * torch.rand(20, fan_in, generator=torch.Generator().manual_seed(1))
        z = spiking_linear(t.exp().to(dtype), weights((70, fan_in), kind, dtype, 5))
        assert z.isfinite().float().mean() > 0.5


@pytest.mark.usefixtures("instruction_set")
def test_expanded_input_is_read_in_place() -> None:
    generator = torch.Generator().manual_seed(0)
    row = (2 * torch.rand(1, 3, 1, 8, generator=generator)).exp()
    weight = torch.rand(17, 3, 3, 3, generator=generator) * 8 / 27
    wide = row.expand(4, 3, 6, 8)
    assert 0 in wide.stride()
    z = spiking_conv2d(wide, weight, padding=1)
    assert z.isfinite().float().mean() > 0.9
    assert torch.equal(z, spiking_conv2d(wide.contiguous(), weight, padding=1))
    flat = row[0, 0].expand(5, 8)
    z = spiking_linear(flat, weight[:, 0, 0].repeat(1, 3)[:, :8] * 9)
    assert z.isfinite().all()
    assert (z == z[0]).all()


@pytest.mark.parametrize("inputs", [576, 2304, 4608, 9216])
def test_float32_agrees_with_float64(
    inputs: int, instruction_set: str, record_property: Any
) -> None:
    generator = torch.Generator().manual_seed(inputs)
    rows, outputs = 48, 512
    weight = torch.randn(outputs, inputs, generator=generator) * 3 / math.sqrt(inputs)
    weight += 2.5 / inputs
    z_in = (2 * torch.rand(rows, inputs, generator=generator)).exp()
    z_in = z_in.masked_fill(torch.rand(rows, inputs, generator=generator) < 0.38, INF)
    single = spiking_linear(z_in, weight)
    exact = spiking_linear(z_in.double(), weight.double())  # itself against the reference:
    by_definition = reference.linear_forward(z_in[:4].double(), weight[:64].double(), None, INF)[0]
    torch.testing.assert_close(exact[:4, :64], by_definition, rtol=1e-9, atol=0)

    spikes = exact.isfinite()
    assert spikes.double().mean() > 0.55
    difference = (single.double() - exact).abs() / exact
    good = spikes & single.isfinite() & (difference <= 1e-5)
    share = (good.sum() / spikes.sum()).item()
    rest = (spikes & ~good) | (~spikes & single.isfinite())
    record_property("share", share)
    print(f"{instruction_set} {inputs}: {share:.5%} within 1e-5, {int(rest.sum())} beyond")
    assert share >= 0.999
    # What remains is near-tangent: the rounding of one spike's sums, C eps sum |w| z, over D.
    row, output = rest.nonzero(as_tuple=True)
    for r, o in zip(row.tolist(), output.tolist(), strict=True):
        one, neuron = z_in[r : r + 1], weight[o : o + 1]
        assert allowed(one, neuron, single[r : r + 1, o : o + 1], 2**-23).all()
        if single[r, o].isfinite() and spikes[r, o]:
            latest = max(single[r, o].item(), exact[r, o].item())
            causal = one[0] < latest
            mass = (neuron[0].abs() * one[0])[causal].sum().double()
            slope = (neuron[0].double() * causal).sum() - 1
            assert (single[r, o] - exact[r, o]).abs() * slope.abs() <= 4 * 2**-23 * mass


@pytest.mark.parametrize("inputs", [1024, 2304, 4608])
@pytest.mark.parametrize("bias", [0.0, 0.3, -3.0])
@pytest.mark.usefixtures("instruction_set")
def test_float32_agrees_with_float64_near_the_threshold(inputs: int, bias: float) -> None:
    # Weights of the arriving spikes add up to 1 on average: slopes are small, spikes late.
    generator = torch.Generator().manual_seed(inputs)
    z_in = (3 * torch.rand(32, inputs, generator=generator)).exp()
    z_in = z_in.masked_fill(torch.rand(32, inputs, generator=generator) < 0.38, INF)
    weight = 8 * torch.rand(256, inputs, generator=generator) - 4 + (1 - bias) / 0.62
    weight /= inputs
    biases = torch.full((256,), bias)
    single = spiking_linear(z_in, weight, biases)
    exact = spiking_linear(z_in.double(), weight.double(), biases.double())
    spikes = exact.isfinite()
    assert 0.4 < spikes.double().mean() < 0.7
    assert (exact[spikes] > 5 * 20).double().mean() > 0.5  # the last input comes before 20.1
    good = spikes & single.isfinite() & ((single - exact).abs() / exact <= 1e-5)
    assert good.sum() >= 0.999 * spikes.sum()


@pytest.mark.usefixtures("instruction_set")
def test_sums_that_overflow_midway_give_the_spike_all_the_same() -> None:
    z_in = torch.linspace(1, 2, 2048).expand(3, -1)
    weight = torch.full((35, 2048), -1e36)
    weight[:, 1000:] = 1.2e36  # B falls to -1e39, which float32 does not hold, and rises to 2.6e38
    weight[7] = 0.01
    weight[8, 1000:] = 0  # silent
    single = spiking_linear(z_in, weight)
    exact = spiking_linear(z_in.double(), weight.double())
    assert exact[0].isfinite().sum() == 34
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("t_max", [INF, 87.8])
@pytest.mark.parametrize("later", [None, 2e38, 3e38])
def test_late_spikes_whose_moments_overflow(later: float | None, t_max: float) -> None:
    """A = w z is beyond float32; the spike value is not."""
    z_in = torch.tensor([[1e38] if later is None else [1e38, later]])
    weight = torch.tensor([[10.0] if later is None else [10.0, 0.1]] * 5)
    weight[3] = 0.5
    single = spiking_linear(z_in, weight, t_max=t_max)
    exact = spiking_linear(z_in.double(), weight.double(), t_max=t_max)
    assert exact[0].isfinite().tolist() == [True, True, True, False, True]
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.usefixtures("instruction_set")
def test_more_inputs_than_sixteen_bits_number() -> None:
    generator = torch.Generator().manual_seed(2)
    z_in = (2 * torch.rand(2, 70_000, generator=generator, dtype=torch.float64)).exp()
    weight = weights((24, 70_000), "values", torch.float64, 2)
    z = spiking_linear(z_in, weight)
    assert z.isfinite().double().mean() > 0.5
    expected = reference.linear_forward(z_in, weight, None, INF)[0]
    torch.testing.assert_close(z, expected, rtol=1e-9, atol=0)


def test_the_check_itself_refuses_wrong_answers() -> None:
    rows = torch.tensor([[1.0, 2.0, 4.0]])
    weight = torch.tensor([[1.5, 0.5, 3.0], [2.0, -5.0, 0.0]])
    right = torch.tensor([[2.5, 2.0]])
    assert allowed(rows, weight, right, 2**-23).all()
    assert not allowed(rows, weight, right * (1 + 1e-5), 2**-23).any()
    assert not allowed(rows, weight, torch.tensor([[INF, 2.1]]), 2**-23).any()
    # The second is tangent: missing the crossing at 2 is a rounding, and silence what follows.
    assert allowed(rows, weight, torch.tensor([[2.5, INF]]), 2**-23).all()
    assert not allowed(rows, weight, torch.tensor([[2.5, 3.0]]), 2**-23).all()
