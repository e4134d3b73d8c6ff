"""The family of neurons of one sweep: the reference against `fire` and simulated membranes, the
kernels against the reference, and what meets them."""

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
from ttfs_fast import ops, reference, spiking_conv2d, spiking_linear
from ttfs_fast.neurons import NEURONS, neuron_of
from ttfs_fast.reference import fire, first_crossing

INF = math.inf
ON_TIMES = [name for name, neuron in NEURONS.items() if neuron.on_times]
SISTERS = {"ramps": (0.0, 1.0), "falling threshold": (1.0, 2.0), "slowly falling": (0.25, 1.5)}


def inputs(rows: int, count: int, silent: float = 0.2) -> Tensor:
    t = 2 * torch.rand(rows, count, dtype=torch.float64) - 0.3
    return t.masked_fill(torch.rand(rows, count) < silent, INF)


def weights(outputs: int, count: int) -> Tensor:
    return torch.randn(outputs, count, dtype=torch.float64) + 0.3


def simulate(t_in: Tensor, weight: Tensor, slope: float, threshold: float, end: float) -> Tensor:
    """First times at which the membrane reaches the threshold, step by step."""
    dt = 1e-3
    spiked = torch.full((len(t_in), len(weight)), INF, dtype=torch.float64)
    membrane = torch.zeros_like(spiked)
    start = -0.5
    for step in range(round((end - start) / dt)):
        now = start + step * dt
        current = (t_in <= now).to(torch.float64) @ weight.t()
        membrane += current * dt
        reached = (membrane >= threshold - slope * (now + dt)) & spiked.isinf()
        spiked[reached] = now + dt
    return spiked


@pytest.mark.parametrize("name", SISTERS)
def test_closed_form_is_the_membrane_crossing(name: str, seed: int) -> None:
    slope, threshold = SISTERS[name]
    t_in, weight = inputs(6, 8), weights(10, 8)
    exact, d = first_crossing(t_in, weight, slope=slope, threshold=threshold)
    simulated = simulate(t_in, weight, slope, threshold, end=5.0)
    both = exact.isfinite() & simulated.isfinite()
    assert both.float().mean() > 0.3
    assert bool((d[exact.isfinite()] > 0).all())
    # A step late at most for each input, and much where the threshold is only just reached.
    error = (simulated - exact)[both].abs()
    assert error.median() < 0.005
    assert error.quantile(0.9) < 0.05
    near = (exact < 4.9) != simulated.isfinite()
    assert near.float().mean() < 0.05
    if slope > 0:
        assert exact.isfinite().float().mean() > (d >= slope).float().mean() - 0.2


@pytest.mark.parametrize("latest", [INF, 3.0])
def test_the_first_row_is_our_neuron_bit_for_bit(latest: float, seed: int) -> None:
    z, weight = (2 * torch.rand(20, 9)).exp(), torch.randn(15, 9) + 0.8
    z[torch.rand(20, 9) < 0.2] = INF
    z[0, 0] = math.nan
    weight[1, 0] = INF
    ours = fire(z, weight, math.log(latest))
    for mine, theirs in zip(first_crossing(z, weight, latest=latest), ours, strict=True):
        assert torch.equal(mine.nan_to_num(nan=-1), theirs.nan_to_num(nan=-1))
    assert ours[0].isfinite().float().mean() > 0.1


@pytest.mark.parametrize("name", SISTERS)
def test_gradients_are_two_quotients(name: str, seed: int) -> None:
    slope, threshold = SISTERS[name]
    t_in, weight = inputs(40, 6).requires_grad_(), weights(30, 6).requires_grad_()
    x, d = first_crossing(t_in, weight, slope=slope, threshold=threshold)
    heard = x.isfinite()
    assert heard.float().mean() > 0.2
    chosen = torch.rand_like(x)
    by_input, by_weight = torch.autograd.grad((x * chosen)[heard].sum(), (t_in, weight))
    with torch.no_grad():
        over = torch.where(heard, chosen / torch.where(heard, d, 1), 0)
        causal = (t_in[:, None] < x[..., None]) & heard[..., None]
        ahead = torch.where(causal, t_in[:, None] - x[..., None], 0)
        assert torch.allclose(by_input, (over[..., None] * causal * weight).sum(1))
        assert torch.allclose(by_weight, torch.einsum("ro,roi->oi", over, ahead))


def test_rules_are_those_of_the_contract() -> None:
    def run(t: list[float], w: list[float], **options: float) -> float:
        row = torch.tensor([t], dtype=torch.float64)
        return first_crossing(row, torch.tensor([w], dtype=torch.float64), **options)[0].item()

    ramp = {"slope": 0.0, "threshold": 1.0}
    assert run([0, 1], [1, 5], **ramp) == 1  # reached just as the second arrives
    assert run([0, 3], [0.5, -1], **ramp) == 2
    assert run([0, 1], [0.5, -1], **ramp) == INF
    assert run([0], [0.5], **ramp, latest=1.5) == INF
    assert run([0], [0.5], **ramp, latest=2) == 2
    assert run([INF], [3], **ramp) == INF
    assert math.isnan(run([0, math.nan], [1, 1], **ramp))
    falling = {"slope": 1.0, "threshold": 2.0}
    assert run([INF], [3], **falling) == 2  # the threshold comes to the neuron
    assert run([3], [3], **falling) == 2
    assert run([1], [1], **falling) == 1.5
    assert run([], [], **falling) == 2
    assert run([], [], **ramp) == INF


@pytest.mark.parametrize(
    ("t", "options", "message"),
    [
        ([1.0], {"slope": math.nan}, "must be finite"),
        ([1.0], {"slope": 0.0, "threshold": 0.0}, "threshold must be above 0"),
        ([1.0], {"slope": -1.0, "threshold": 1.0}, "threshold must be 0"),
        ([0.0], {}, "above 0 .inf where silent.; got 0"),
        ([-INF], {"slope": 0.0, "threshold": 1.0}, "must be finite .inf where silent.; got -inf"),
    ],
)
def test_neurons_without_a_first_crossing_are_refused(
    t: list[float], options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        first_crossing(torch.tensor([t]), torch.ones(1, 1), **options)


# --- the kernels ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def restore_instruction_set() -> Iterator[None]:
    before = ttfs_fast.instruction_set()
    yield
    ttfs_fast.set_instruction_set(before)


KINDS = ["at or after 0", "around 0", "before 0", "grid", "silent", "far"]


def times_of(
    kind: str, shape: tuple[int, ...], silent: float, generator: torch.Generator
) -> Tensor:
    """Spike times: with ties and exact sums on the grid, else drawn from an interval."""
    if kind == "grid":
        t = torch.randint(-4, 9, shape, generator=generator).double() / 4
    else:
        shift = {"around 0": 1.0, "before 0": 3.0, "far": -100.0}.get(kind, 0.0)
        t = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - shift
    quiet = 1.0 if kind == "silent" else silent
    return t.masked_fill(torch.rand(shape, generator=generator) < quiet, INF)


def weights_of(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if kind == "grid":
        return torch.randint(-8, 14, shape, generator=generator).double() / 16
    fan_in = math.prod(shape[1:])
    w = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 / math.sqrt(fan_in)
    return w + 3 / fan_in


def allowed(
    times: Tensor, weight: Tensor, x: Tensor, neuron: str, eps: float, t_max: float
) -> Tensor:
    """Whether each output (rows, outputs) is one that rounding by `eps` can make.

    As `allowed` of test_against_reference: follows F in float64 with a bound on the rounding errors
    of its sums. A crossing within the bound may be taken or missed, one clear of it must be taken.
    """
    kind = neuron_of(neuron)
    start = times.where(times.isfinite(), 0).clamp(max=0).amin(1, keepdim=True) - 1
    rows = torch.cat([start, times], 1).double()  # F is below 0 at the start: one more input there
    wide = torch.cat([weight.new_zeros(len(weight), 1), weight], 1).double()
    time, order = torch.sort(rows, dim=1, stable=True)
    arrives = (time < t_max)[..., None]
    w = torch.where(arrives, wide.t()[order], 0)
    after = torch.cat([time[:, 1:], time.new_full((len(rows), 1), INF)], 1).clamp(max=t_max)
    last = after.isinf()[..., None]
    time = torch.where(arrives[..., 0], time, 0)[..., None]
    after = after[..., None].where(~last, 1)
    slope, moment = w.cumsum(1) + kind.slope, (w * time).cumsum(1) + kind.threshold
    error_slope = 2 * eps * (slope.abs().cumsum(1) + 1)
    # Times of either sign: what is added may be much larger than the sum.
    terms = moment.abs() + (w * time).abs() + (slope * time).abs()
    error_moment = 2 * eps * terms.cumsum(1)
    crossing = torch.where(last, slope, slope * after - moment)  # at the next input, or for ever
    error = torch.where(last, error_slope, after.abs() * error_slope + error_moment)
    clear = arrives & (crossing > error)
    may = arrives & (crossing >= -error) & (clear.cumsum(1) - clear.int() == 0)
    spike, bound = moment / slope, error_moment + error_slope * x[:, None].double().abs()
    steep = slope - error_slope
    near = (x[:, None] - spike).abs() * steep <= bound + 2 * eps * spike.abs() * steep
    near |= steep <= 0
    return torch.where(x.isinf(), ~clear.any(1), (may & near).any(1))


def agree(times: Tensor, weight: Tensor, x: Tensor, neuron: str, t_max: float, grid: bool) -> None:
    """The kernel's times (rows, outputs) are the reference's, or what rounding makes of them."""
    kind = neuron_of(neuron)
    exact, _ = first_crossing(
        times.double(), weight.double(), slope=kind.slope, threshold=kind.threshold, latest=t_max
    )
    assert x.shape == exact.shape
    assert not x.isnan().any()
    if grid and t_max == INF:  # every sum is exact: only the division rounds
        torch.testing.assert_close(x, exact.to(x.dtype), rtol=torch.finfo(x.dtype).eps, atol=0)
        return
    ok = allowed(times, weight, x, neuron, torch.finfo(x.dtype).eps, t_max)
    assert ok.all(), f"{int((~ok).sum())} of {ok.numel()} outputs are none that rounding can make"
    assert allowed(times, weight, exact, neuron, 2**-52, t_max).all()


def with_bias(times: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    if bias is None:
        return times, weight
    spikes_at_0 = times.new_zeros(len(times), 1)
    return torch.cat([times, spikes_at_0], 1), torch.cat([weight, bias[:, None]], 1)


common = {
    "neuron": st.sampled_from(ON_TIMES),
    "kind": st.sampled_from(KINDS),
    "dtype": st.sampled_from([torch.float64, torch.float32]),
    "isa": st.sampled_from(ttfs_fast.instruction_sets()),
    "t_max": st.sampled_from([INF, INF, 1.0, 0.0, -INF]),
    "bias": st.booleans(),
    "silent": st.sampled_from([0.0, 0.38, 0.9]),
    "seed": st.integers(0, 2**31),
}


@settings(max_examples=150)
@given(
    rows=st.sampled_from([1, 3, 7]),
    inputs=st.sampled_from([1, 2, 7, 8, 9, 17, 64, 191, 192, 333, 800]),
    outputs=st.sampled_from([1, 7, 16, 17, 31, 33, 70]),
    **common,
)
def test_linear_layer(
    rows: int,
    inputs: int,
    outputs: int,
    neuron: Any,
    kind: str,
    dtype: torch.dtype,
    isa: str,
    t_max: float,
    bias: bool,
    silent: float,
    seed: int,
) -> None:
    ttfs_fast.set_instruction_set(isa)
    generator = torch.Generator().manual_seed(seed)
    t = times_of(kind, (rows, inputs), silent, generator).to(dtype)
    w = weights_of(kind, (outputs, inputs), generator).to(dtype)
    b = weights_of(kind, (outputs, 1), generator)[:, 0].to(dtype) if bias else None
    x = spiking_linear(t, w, b, t_max=t_max, neuron=neuron)
    agree(*with_bias(t, w, b), x, neuron, t_max, kind == "grid")


@settings(max_examples=150)
@given(
    batch=st.sampled_from([1, 2, 3]),
    channels=st.sampled_from([1, 2, 8, 24]),
    outputs=st.sampled_from([1, 8, 17, 33]),
    groups=st.sampled_from([1, 1, 2]),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    **common,
)
def test_convolution_layer(
    batch: int,
    channels: int,
    outputs: int,
    groups: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    neuron: Any,
    kind: str,
    dtype: torch.dtype,
    isa: str,
    t_max: float,
    bias: bool,
    silent: float,
    seed: int,
) -> None:
    ttfs_fast.set_instruction_set(isa)
    generator = torch.Generator().manual_seed(seed)
    t = times_of(kind, (batch, channels * groups, *size), silent, generator).to(dtype)
    w = weights_of(kind, (outputs * groups, channels, *kernel), generator).to(dtype)
    b = weights_of(kind, (outputs * groups, 1), generator)[:, 0].to(dtype) if bias else None
    geometry = (stride, padding, dilation, groups)
    x = spiking_conv2d(t, w, b, *geometry, t_max=t_max, neuron=neuron)
    last = spiking_conv2d(
        t.contiguous(memory_format=torch.channels_last), w, b, *geometry, t_max=t_max, neuron=neuron
    )
    assert torch.equal(x, last)
    padded = F.pad(t, (padding[1], padding[1], padding[0], padding[0]), value=INF)
    for g, part in enumerate(padded.chunk(groups, 1)):
        some = slice(g * outputs, (g + 1) * outputs)
        fields = F.unfold(part, kernel, dilation, 0, stride).transpose(1, 2).flatten(0, 1)
        flat = x[:, some].flatten(2).transpose(1, 2).flatten(0, 1)
        own = with_bias(fields, w[some].flatten(1), None if b is None else b[some])
        agree(*own, flat, neuron, t_max, kind == "grid")


@pytest.mark.parametrize("neuron", ON_TIMES)
@pytest.mark.parametrize("kind", ["at or after 0", "around 0", "before 0", "grid"])
def test_most_neurons_of_these_examples_spike(neuron: Any, kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for fan_in in (9, 64, 333):
        t = times_of(kind, (20, fan_in), 0.2, generator)
        x = spiking_linear(t, weights_of(kind, (70, fan_in), generator), neuron=neuron)
        assert x.isfinite().float().mean() > 0.4


def test_falling_threshold_fires_neurons_without_earlier_inputs(
    instruction_set: str, threads: int
) -> None:
    late = torch.tensor([3.0, 2.5, INF]).repeat(3, 100)  # as chunks of events, and few
    for t in (late, late[:, :5], late[:, 2:3], late[:, :0]):
        for w in (-torch.ones(20, t.shape[1]), torch.ones(20, t.shape[1])):
            x = spiking_linear(t, w, neuron="falling-threshold")
            assert (x == 2).all()
            assert spiking_linear(t, w, neuron="falling-threshold", t_max=1.9).isinf().all()
            assert (spiking_linear(t, w, neuron="rel-psp", t_max=2.4).isinf()).all()
    x, d = ops.linear(late, torch.ones(20, 300), None, INF, "falling-threshold")
    assert (d == 1).all()
    # And just as the first input arrives: the input has no part.
    x, d = ops.linear(late - 0.5, torch.ones(20, 300), None, INF, "falling-threshold")
    assert (x == 2).all()
    assert (d == 1).all()


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_kernels_against_a_simulated_membrane(neuron: Any, instruction_set: str, seed: int) -> None:
    kind = neuron_of(neuron)
    generator = torch.Generator().manual_seed(seed)
    t_in = times_of("around 0", (6, 40), 0.2, generator).clamp(min=-0.45)
    weight = weights_of("around 0", (30, 40), generator)
    x = spiking_linear(t_in.float(), weight.float(), neuron=neuron).double()
    simulated = simulate(t_in, weight, kind.slope, kind.threshold, end=4.0)
    both = x.isfinite() & simulated.isfinite()
    assert both.float().mean() > 0.4
    error = (simulated - x)[both].abs()
    assert error.median() < 0.005
    assert error.quantile(0.9) < 0.05
    assert ((x < 3.9) != simulated.isfinite()).float().mean() < 0.05


@pytest.mark.parametrize("neuron", ON_TIMES)
@pytest.mark.parametrize("kind", ["at or after 0", "around 0"])
@pytest.mark.parametrize("inputs", [576, 4608])
def test_float32_agrees_with_float64(
    inputs: int, kind: str, neuron: Any, instruction_set: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    t = times_of(kind, (24, inputs), 0.38, generator).float()
    w = torch.randn(256, inputs, generator=generator) * 3 / math.sqrt(inputs) + 2.5 / inputs
    single = spiking_linear(t, w, neuron=neuron)
    exact = spiking_linear(t.double(), w.double(), neuron=neuron)
    by_definition = reference.linear_forward(t[:4].double(), w[:64].double(), None, INF, neuron)[0]
    torch.testing.assert_close(exact[:4, :64], by_definition, rtol=0, atol=1e-9)
    spikes = exact.isfinite()
    assert spikes.double().mean() > 0.55
    error = (single.double() - exact).abs() / exact.abs().clamp(min=1)
    good = spikes & single.isfinite() & (error <= 1e-5)
    share = (good.sum() / spikes.sum()).item()
    print(f"{instruction_set} {neuron} {inputs}: {share:.5%} within 1e-5")
    assert share >= 0.999
    rest = (spikes & ~good) | (~spikes & single.isfinite())
    row, output = rest.nonzero(as_tuple=True)
    for r, o in zip(row.tolist(), output.tolist(), strict=True):
        one = (t[r : r + 1], w[o : o + 1], single[r : r + 1, o : o + 1])
        assert allowed(*one, neuron, 2**-23, INF).all()


@pytest.mark.parametrize("neuron", ON_TIMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_do_not_depend_on_threads_or_instruction_set(
    neuron: Any, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    t = times_of("around 0", (5, 24, 9, 9), 0.3, generator).to(dtype).requires_grad_()
    w = weights_of("around 0", (40, 24, 3, 3), generator).to(dtype).requires_grad_()
    b = weights_of("around 0", (40, 1), generator)[:, 0].to(dtype).requires_grad_()
    before = torch.get_num_threads()
    found: dict[bool, list[Tensor]] = {}
    sets = [isa for isa in ttfs_fast.instruction_sets() if isa != "baseline"]
    try:
        for isa in ["baseline", *sets]:
            ttfs_fast.set_instruction_set(isa)
            for count in (1, 2, 3, 7):
                torch.set_num_threads(count)
                x = spiking_conv2d(t, w, b, 1, 1, neuron=neuron)
                assert x.isfinite().double().mean() > 0.5
                heard = x.masked_fill(x.isinf(), 0).sum()
                now = [x.detach(), *torch.autograd.grad(heard, (t, w, b))]
                for mine, first in zip(now, found.setdefault(isa == "baseline", now), strict=True):
                    assert torch.equal(mine, first)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("neuron", ON_TIMES)
@pytest.mark.parametrize("kind", ["around 0", "before 0"])
@pytest.mark.parametrize("t_max", [INF, 0.7])
def test_kernel_gradients(
    neuron: Any, kind: str, t_max: float, instruction_set: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    t = times_of(kind, (2, 4, 7, 6), 0.2, generator).requires_grad_()
    w = weights_of(kind, (6, 2, 3, 2), generator).requires_grad_()
    b = weights_of(kind, (6, 1), generator)[:, 0].requires_grad_()
    geometry: Any = ((2, 1), (1, 1), (1, 1), 2)

    def heard(x: Tensor) -> Tensor:
        assert x.isfinite().double().mean() > 0.3
        return x.masked_fill(x.isinf(), 0)

    def layer(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return heard(spiking_conv2d(t, w, b, *geometry, t_max=t_max, neuron=neuron))

    assert torch.autograd.gradcheck(layer, (t, w, b), eps=1e-7, atol=1e-5, fast_mode=True)
    plain = heard(reference.spiking_conv2d(t, w, b, *geometry, t_max=t_max, neuron=neuron))
    chosen = torch.rand(plain.shape, generator=generator, dtype=plain.dtype)
    theirs = torch.autograd.grad((plain * chosen).sum(), (t, w, b))
    for mine, other in zip(
        torch.autograd.grad((layer(t, w, b) * chosen).sum(), (t, w, b)), theirs, strict=True
    ):
        assert other.abs().sum() > 0
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    # And what runs on other devices.
    x, d = reference.conv2d_forward(t, w, b, *geometry, t_max, plain.shape[2:], neuron)
    grads = reference.conv2d_backward(chosen, t, w, x, d, *geometry, neuron)
    for mine, other in zip(grads, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_silent_neurons_pass_nothing_and_nan_spreads(neuron: Any, instruction_set: str) -> None:
    t = torch.tensor([[-1.0, -0.5, INF], [-1.0, math.nan, 0.0]], requires_grad=True)
    w = torch.tensor([[-1.0, -1.0, 5.0], [2.0, INF, 0.0]], requires_grad=True)
    x = spiking_linear(t, w, neuron=neuron)
    assert x[0, 0] == INF
    assert x[0, 1].isnan()
    assert x[1].isnan().all()
    x, w = spiking_linear(t[:1], w[:1], neuron=neuron), w
    (by_input,) = torch.autograd.grad(x, t, torch.full_like(x, math.nan))
    assert (by_input == 0).all()


def test_nonfinite_weight_affects_only_outputs_that_use_it() -> None:
    t = torch.full((1, 1, 1, 6), -1.0, requires_grad=True)
    w = torch.tensor([1.0, INF, 1.0]).reshape(3, 1, 1, 1).expand(3, 1, 1, 2)
    x = spiking_conv2d(t, w, neuron="rel-psp", stride=(1, 2))
    assert x[:, [0, 2]].isfinite().all()
    assert x[:, 1].isnan().all()
    one = w[[0, 2]].clone()
    (alone,) = torch.autograd.grad(
        spiking_conv2d(t, one, padding=(0, 1), neuron="rel-psp").sum(), t
    )
    assert alone.isfinite().all()
    assert alone.abs().sum() > 0


def test_minus_0_is_0() -> None:
    t = torch.tensor([[0.0, -0.0, 0.5, -0.0]]).repeat(1, 60)
    w = torch.rand(20, 240, generator=torch.Generator().manual_seed(0)) / 100
    x = spiking_linear(t, w, neuron="rel-psp")
    assert torch.equal(x, spiking_linear(t.abs(), w, neuron="rel-psp"))
    assert x.isfinite().all()


def test_torch_tools_keep_the_neuron() -> None:
    generator = torch.Generator().manual_seed(0)
    t = times_of("around 0", (2, 4, 6, 6), 0.2, generator).float().requires_grad_()
    w = weights_of("around 0", (6, 4, 3, 3), generator).float().requires_grad_()
    rows, matrix = t.detach().flatten(1)[:, :12], w.detach().flatten(1)[:, :12]
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    for neuron in ON_TIMES:
        torch.library.opcheck(ops.conv2d, (t, w, None, *geometry, INF, [6, 6], neuron))
        torch.library.opcheck(ops.linear, (rows, matrix, None, INF, neuron))
        x, d = ops.linear(rows, matrix, None, INF, neuron)
        torch.library.opcheck(
            ops.linear_backward,
            (torch.rand_like(x), rows, matrix, x, d, True, True, neuron),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_neurons_have_names() -> None:
    match = "must be one of 'n-lif', 'rel-psp', 'falling-threshold'; got 'lif'"
    with pytest.raises(ValueError, match=match):
        spiking_linear(torch.ones(1, 2), torch.ones(3, 2), neuron="lif")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=match):
        ttfs_fast.nn.SpikingConv2d(1, 1, 3, neuron="lif")
    with pytest.raises(ValueError, match="input holds -inf; this neuron takes spike times"):
        spiking_linear(torch.tensor([[-INF, 1.0]]), torch.ones(3, 2), neuron="rel-psp")
    with pytest.raises(ValueError, match="not positive"):
        spiking_linear(torch.tensor([[0.0, 1.0]]), torch.ones(3, 2))


def test_falling_threshold_equals_dta_ttfs_after_its_waiting_time(seed: int) -> None:
    """Wei et al. (ICCV 2023): inputs in [0, 1], a spike in [1, 2], where all inputs are causal."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.rand(40, 30, generator=generator, dtype=torch.float64)
    t = t.masked_fill(torch.rand(40, 30, generator=generator) < 0.2, INF)
    w = torch.randn(50, 30, generator=generator, dtype=torch.float64) * 0.3
    x = spiking_linear(t, w, neuron="falling-threshold", t_max=2.0)
    sums = t.isfinite().double() @ w.t()
    theirs = (2 + t.masked_fill(t.isinf(), 0) @ w.t()) / (1 + sums)
    theirs = theirs.masked_fill((theirs > 2) | (theirs < 0), INF)
    waits = (x >= 1) & ~(theirs < 1)
    assert waits.float().mean() > 0.5
    torch.testing.assert_close(x[waits], theirs[waits], rtol=1e-12, atol=0)
