"""At least one test for each rule of the neuron: forward and gradient, each instruction set."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ttfs_fast import reference, spiking_conv2d, spiking_linear

INF, NAN = math.inf, math.nan
DTYPES = [torch.float32, torch.float64]
pytestmark = pytest.mark.usefixtures("instruction_set")


def as_conv(input: Tensor, weight: Tensor, bias: Tensor | None = None, **rest: float) -> Tensor:
    """The linear layer as a 1 x 1 convolution."""
    return spiking_conv2d(input[..., None, None], weight[..., None, None], bias, **rest)[..., 0, 0]


def among_others(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, **rest: float
) -> Tensor:
    """The linear layer with 500 more inputs that have no weight: many are swept in another way."""
    others = torch.arange(1, 501, dtype=input.dtype) / 64  # exact in binary, as the tests' values
    return spiking_linear(
        torch.cat([input, others.expand(len(input), 500)], 1),
        torch.cat([weight, weight.new_zeros(len(weight), 500)], 1),
        bias,
        **rest,
    )


Layer = Callable[..., Tensor]
LAYERS = [
    pytest.param(spiking_linear, id="linear"),
    pytest.param(as_conv, id="conv2d"),
    pytest.param(among_others, id="among others"),
    pytest.param(reference.spiking_linear, id="reference"),
]
each_layer = pytest.mark.parametrize("layer", LAYERS)
each_kernel = pytest.mark.parametrize("layer", LAYERS[:3])
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


def evaluate(
    layer: Layer,
    z: list[float],
    weight: list[float],
    bias: float | None = None,
    dtype: torch.dtype = torch.float64,
    t_max: float = INF,
) -> tuple[float, list[float], list[float], float | None]:
    """One neuron: its spike value and the gradients of inputs, weights and bias."""
    x = torch.tensor([z], dtype=dtype, requires_grad=True)
    w = torch.tensor([weight], dtype=dtype, requires_grad=True)
    b = None if bias is None else torch.tensor([bias], dtype=dtype, requires_grad=True)
    out = layer(x, w, b, t_max=t_max)
    assert out.shape == (1, 1)
    assert out.dtype == dtype
    out.sum().backward()
    to_bias = None if b is None or b.grad is None else b.grad.item()
    return out.item(), x.grad[0].tolist(), w.grad[0].tolist(), to_bias


@each_layer
@each_dtype
def test_equation_4(layer: Layer, dtype: torch.dtype) -> None:
    # C = {1, 2}: D = 1.5 + 0.5 - 1 = 1, z = (1.5 * 1 + 0.5 * 2) / 1.
    z, to_input, to_weight, _ = evaluate(layer, [1, 2, 4], [1.5, 0.5, 3], dtype=dtype)
    assert z == 2.5
    assert to_input == [1.5, 0.5, 0]
    assert to_weight == [1 - 2.5, 2 - 2.5, 0]


@each_layer
@each_dtype
def test_crossing_exactly_at_an_input_spike_is_a_spike(layer: Layer, dtype: torch.dtype) -> None:
    # F(2) = 2 (2 - 1) - 2 = 0; the input at 2 is inhibitory, and is too late to prevent it.
    z, to_input, to_weight, _ = evaluate(layer, [1, 2, 3], [2, -5, 0.25], dtype=dtype)
    assert z == 2
    # ... and that input, at exactly z_j, is not causal: no gradient.
    assert to_input == [2, 0, 0]
    assert to_weight == [-1, 0, 0]


@each_layer
@each_dtype
def test_input_at_the_spike_changes_nothing(layer: Layer, dtype: torch.dtype) -> None:
    without = evaluate(layer, [1, INF], [2, 9], dtype=dtype)
    for weight in (9.0, -9.0, 0.0):
        z, to_input, to_weight, _ = evaluate(layer, [1, 2], [2, weight], dtype=dtype)
        assert z == without[0] == 2
        assert to_input == without[1] == [2, 0]
        assert to_weight == without[2] == [-1, 0]


@each_layer
def test_touching_from_below_between_inputs_is_no_crossing_before(layer: Layer) -> None:
    # F stays below 0 until the third input: F(2) = -1.5, then slope 1.
    z, to_input, _, _ = evaluate(layer, [1, 2, 3], [0.5, 1.5, 1])
    assert z == (0.5 + 3 + 3) / 2
    assert to_input == [0.25, 0.75, 0.5]


@each_layer
@each_dtype
def test_equal_inputs_add_up(layer: Layer, dtype: torch.dtype) -> None:
    z, to_input, to_weight, _ = evaluate(layer, [2, 2, 2, 8], [0.5, 2.5, -1, 7], dtype=dtype)
    assert z == 4
    assert to_input == [0.5, 2.5, -1, 0]
    assert to_weight == [-2, -2, -2, 0]


@each_layer
@each_dtype
def test_order_of_the_inputs_does_not_matter(layer: Layer, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    z = torch.randint(2, 12, (4, 40), generator=generator).to(dtype) / 2  # many are equal
    weight = torch.randint(-3, 6, (33, 40), generator=generator).to(dtype) / 16
    out = layer(z, weight)
    assert out.isfinite().float().mean() > 0.5
    shuffled = torch.randperm(40, generator=generator)
    again = layer(z[:, shuffled], weight[:, shuffled])
    # All sums are exact in binary, so that nothing depends on their order.
    torch.testing.assert_close(again, out, rtol=0, atol=0)


@each_kernel
def test_order_of_equal_inputs_affects_only_rounding(layer: Layer) -> None:
    generator = torch.Generator().manual_seed(4)
    z = torch.randint(2, 9, (3, 200), generator=generator).float().div(4).exp()
    weight = torch.randn(48, 200, generator=generator) * 0.1 + 0.01
    out = layer(z, weight)
    assert out.isfinite().float().mean() > 0.5
    shuffled = torch.randperm(200, generator=generator)
    again = layer(z[:, shuffled], weight[:, shuffled])
    torch.testing.assert_close(again, out, rtol=1e-4, atol=0)


@each_layer
@each_dtype
def test_first_crossing_counts(layer: Layer, dtype: torch.dtype) -> None:
    # Up through 0 at z = 1.5; the input at 4 would bring F down for ever.
    z, to_input, _, _ = evaluate(layer, [1, 4, 5], [3, -50, 60], dtype=dtype)
    assert z == 1.5
    assert to_input == [1.5, 0, 0]
    # Here the inhibitory input comes in time: F(1.25) = -0.5, then the slope is -3.
    z, to_input, to_weight, _ = evaluate(layer, [1, 1.25], [3, -5], dtype=dtype)
    assert z == INF
    assert to_input == to_weight == [0, 0]


@each_layer
@each_dtype
def test_a_short_rise_above_zero_is_a_crossing(layer: Layer, dtype: torch.dtype) -> None:
    # F rises with slope 255 from input k on, is above 0 before input k + 2, and falls for ever from
    # input k + 3 on: wherever among many inputs that is.
    inputs = 1 + torch.arange(400, dtype=dtype) / 64
    neurons = torch.arange(390)
    weight = torch.zeros(len(neurons), len(inputs), dtype=dtype)
    weight[neurons, neurons] = 256
    weight[neurons, neurons + 3] = -1024
    out = layer(inputs[None], weight)
    torch.testing.assert_close(out[0], inputs[neurons] * 256 / 255, rtol=1e-6, atol=0)


@each_layer
@each_dtype
def test_crowded_inputs_and_a_late_one_are_in_order(layer: Layer, dtype: torch.dtype) -> None:
    # 700 inputs within a thousandth, one a hundred octaves later: the leading bits tell nothing.
    inputs = 1 + torch.arange(700, dtype=dtype) / 2**20
    neurons = torch.arange(690)
    weight = torch.zeros(len(neurons), len(inputs) + 1, dtype=dtype)
    weight[neurons, neurons] = 2**22  # F is above 0 before the next input, and below 0 ever after
    weight[neurons, neurons + 1] = -(2**24)
    places = torch.randperm(len(inputs) + 1, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([inputs, inputs.new_tensor([1e30])])[places]
    out = layer(shuffled[None], weight[:, places])
    expected = inputs[neurons] * (2**22 / (2**22 - 1))
    torch.testing.assert_close(out[0], expected, rtol=1e-6, atol=0)


@each_layer
@each_dtype
def test_horizon(layer: Layer, dtype: torch.dtype) -> None:
    t_max = math.log(2.5)
    for inputs, weights, expected in (
        ([1.0, 2.0], [1.5, 0.5], 2.5),  # at the horizon, or within a rounding of it
        ([1.0, 2.0], [2.0, 0.0], 2.0),  # before
        ([1.0, 2.0], [1.25, 0.25], INF),  # at 3.5
        ([3.0, 2.0], [1.0, 1.25], INF),  # at 4.4
        ([3.0, 4.0], [5.0, 5.0], INF),  # all inputs later
    ):
        late = t_max + 1e-6 if expected == 2.5 else t_max
        z, to_input, to_weight, _ = evaluate(layer, inputs, weights, dtype=dtype, t_max=late)
        assert z == expected
        if expected == INF:
            assert to_input == to_weight == [0, 0]
            far = evaluate(layer, inputs, weights, dtype=dtype)
            assert math.isfinite(far[0])
            assert any(far[1])
    assert evaluate(layer, [1, 2], [1.5, 0.5], t_max=t_max - 1e-6)[0] == INF
    # t_max = 0 is z = 1: an exact horizon. A spike exactly at it counts.
    assert evaluate(layer, [0.5], [2], dtype=dtype, t_max=0)[0] == 1
    assert evaluate(layer, [0.5], [1.9375], dtype=dtype, t_max=0)[0] == INF
    assert evaluate(layer, [0.5], [2], dtype=dtype, t_max=-INF)[0] == INF


def test_horizon_that_is_nan_is_refused() -> None:
    with pytest.raises(ValueError, match=r"t_max is NaN.*inf for no horizon"):
        spiking_linear(torch.ones(1, 1), torch.ones(1, 1), t_max=NAN)
    with pytest.raises(ValueError, match=r"t_max is NaN.*inf for no horizon"):
        spiking_conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), t_max=NAN)


@each_layer
@each_dtype
def test_silent_input_is_never_causal(layer: Layer, dtype: torch.dtype) -> None:
    z, to_input, to_weight, _ = evaluate(layer, [INF, 1, INF], [100, 2, -100], dtype=dtype)
    assert z == 2
    assert to_input == [0, 2, 0]
    assert to_weight == [0, -1, 0]
    z, to_input, to_weight, _ = evaluate(layer, [INF, INF], [5, 5], dtype=dtype)
    assert z == INF
    assert to_input == to_weight == [0, 0]


@each_layer
@each_dtype
def test_sub_threshold_neuron_is_silent(layer: Layer, dtype: torch.dtype) -> None:
    for weight in (1.0, 0.5, 0.0, -3.0):  # a slope of exactly 0 never reaches the threshold
        z, to_input, to_weight, _ = evaluate(layer, [2], [weight], dtype=dtype)
        assert z == INF
        assert to_input == to_weight == [0]


@each_dtype
def test_padding_is_silent(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    z = (2 * torch.rand(1, 2, 3, 4, generator=generator)).exp().to(dtype).requires_grad_()
    weight = torch.randn(9, 2, 3, 3, generator=generator).to(dtype).mul(0.3).add(0.25)
    weight.requires_grad_()
    upstream = torch.rand(1, 9, 5, 8, generator=generator).to(dtype)
    padded = torch.nn.functional.pad(z, (3, 3, 2, 2), value=INF)
    results = []
    for out in (spiking_conv2d(z, weight, padding=(2, 3)), spiking_conv2d(padded, weight)):
        assert out.isfinite().float().mean() > 0.3
        grads = torch.autograd.grad(out, (z, weight), upstream)
        assert all(g.abs().sum() > 0 for g in grads)
        results.append((out, *grads))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(results[0][0], results[1][0])
    # A field that holds nothing but padding.
    corner = spiking_conv2d(z, torch.ones_like(weight)[..., :1, :1], padding=1)
    assert corner[:, :, 0].isinf().all()
    assert corner[:, :, 1:-1, 1:-1].isfinite().all()


@each_layer
@each_dtype
def test_bias_is_ordered_by_its_time(layer: Layer, dtype: torch.dtype) -> None:
    # As an input at z = 1, whatever the others do: also with inputs at negative times, z < 1.
    for inputs, weights, bias in (
        ([0.25, 2.0], [3.0, 1.0], 5.0),  # spikes at 0.375, before the bias
        ([0.5, 2.0], [1.5, 1.0], 0.5),  # the bias is needed: z = 1.25
        ([0.5, 2.0], [1.5, 1.0], -4.0),  # the bias prevents it: F(1) = -0.25
        ([1.5, 3.0], [0.5, 2.0], 0.75),  # the bias first
        ([1.0, 1.0], [0.5, 2.0], 0.5),  # all at once
        ([INF, INF], [0.5, 2.0], 1.5),  # the bias alone
        ([INF, INF], [0.5, 2.0], 1.0),
    ):
        z, to_input, to_weight, to_bias = evaluate(layer, inputs, weights, bias, dtype)
        as_input = evaluate(layer, [*inputs, 1.0], [*weights, bias], dtype=dtype)
        assert z == as_input[0]
        assert to_input == as_input[1][:2]
        assert [*to_weight, to_bias] == as_input[2]
    assert evaluate(layer, [0.25, 2.0], [3.0, 1.0], 5.0, dtype)[0] == 0.375
    assert evaluate(layer, [0.25, 2.0], [3.0, 1.0], 5.0, dtype)[3] == 0
    assert evaluate(layer, [0.5, 2.0], [1.5, 1.0], 0.5, dtype)[0] == 1.25
    assert evaluate(layer, [0.5, 2.0], [1.5, 1.0], -4.0, dtype)[0] == INF
    assert evaluate(layer, [INF, INF], [0.5, 2.0], 1.5, dtype)[::3] == (3, -4)


@each_layer
@each_dtype
def test_nan_inputs_reach_only_their_outputs(layer: Layer, dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [1.0, NAN, 3.0]], dtype=dtype, requires_grad=True)
    w = torch.tensor([[2.0, 0.0, 0.0], [0.5, 0.25, 2.0]], dtype=dtype, requires_grad=True)
    out = layer(x, w)
    assert out[0].tolist() == [2, pytest.approx((0.5 + 0.5 + 6) / 1.75)]
    assert out[1].isnan().all()
    if layer is not reference.spiking_linear:
        out.sum().backward()
        assert x.grad[0].isfinite().all()
        assert x.grad[0].abs().sum() > 0
        assert x.grad[1].isnan().all()
        assert w.grad.isnan().all()  # both outputs of row 1 are NaN
        # A loss that does not see the NaN row: with a gradient of 0 the NaN still shows.
        x.grad = w.grad = None
        layer(x, w)[0].sum().backward()
        assert x.grad[0].isfinite().all()


@each_dtype
def test_nan_input_of_a_convolution_stays_in_its_fields(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(6)
    z = (2 * torch.rand(2, 4, 4, 4, generator=generator)).exp().to(dtype)
    z[1, 1, 0, 0] = NAN
    z.requires_grad_()
    weight = torch.rand(8, 2, 3, 3, generator=generator).to(dtype).div(3).requires_grad_()
    out = spiking_conv2d(z, weight, padding=1, groups=2)
    hit = torch.zeros(2, 8, 4, 4, dtype=torch.bool)
    hit[1, :4, :2, :2] = True
    assert torch.equal(out.isnan(), hit)
    assert out[~hit].isfinite().float().mean() > 0.9
    out.sum().backward()
    seen = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    seen[1, :2, :3, :3] = True
    assert torch.equal(z.grad.isnan(), seen)
    assert weight.grad[:4].isnan().all()
    assert weight.grad[4:].isfinite().all()
    assert weight.grad[4:].abs().sum() > 0


@each_kernel
@each_dtype
@pytest.mark.parametrize("bad", [0.0, -0.0, -1.0, -INF, -1e-45, -5e-324])
@pytest.mark.parametrize("place", [0, 7, 16, 66])
def test_no_spike_value_is_refused(
    layer: Layer, dtype: torch.dtype, bad: float, place: int
) -> None:
    z = torch.ones(3, 67, dtype=dtype)
    z[1, place] = bad
    with pytest.raises(ValueError, match=r"not positive; spike values are z = exp\(t\) > 0"):
        layer(z, torch.ones(2, 67, dtype=dtype))


@each_kernel
def test_smallest_positive_values_are_spike_values(layer: Layer) -> None:
    z = torch.tensor([[torch.finfo(torch.float32).smallest_normal, 1.0, INF]])
    out = layer(z, torch.tensor([[2.0, 0.0, 0.0]]))
    assert out.item() == pytest.approx(2 * z[0, 0].item())


@each_layer
@each_dtype
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_weight_that_is_not_finite_spoils_its_outputs_only(
    layer: Layer, dtype: torch.dtype, bad: float
) -> None:
    generator = torch.Generator().manual_seed(7)
    x = (2 * torch.rand(5, 20, generator=generator)).exp().to(dtype).requires_grad_()
    values = torch.rand(37, 20, generator=generator).to(dtype).div(3)
    values[18, 19] = bad
    w = values.clone().requires_grad_()
    b = torch.zeros(37, dtype=dtype).index_fill(0, torch.tensor([3]), bad).requires_grad_()
    out = layer(x, w, b)
    spoilt = torch.zeros(37, dtype=torch.bool)
    spoilt[[3, 18]] = True
    assert out[:, spoilt].isnan().all()
    assert out[:, ~spoilt].isfinite().float().mean() > 0.9
    if layer is reference.spiking_linear:
        return
    out.sum().backward()
    assert w.grad[spoilt].isnan().all()
    assert b.grad[spoilt].isnan().all()
    assert w.grad[~spoilt].isfinite().all()
    assert w.grad[~spoilt].abs().sum() > 0
    assert b.grad[~spoilt].isfinite().all()
    assert x.grad.isnan().all()  # every input reaches the spoilt outputs


@each_kernel
@each_dtype
def test_nan_affects_outputs_despite_weight_0_or_horizon(layer: Layer, dtype: torch.dtype) -> None:
    # NaN spoils the output even where every spike would come too late to matter.
    z, *_ = evaluate(layer, [NAN, 5], [1, 1], dtype=dtype, t_max=0)
    assert math.isnan(z)
    z, *_ = evaluate(layer, [1, NAN], [9, 0], dtype=dtype)
    assert math.isnan(z)
    z, *_ = evaluate(layer, [INF, INF], [NAN, 1], dtype=dtype)
    assert math.isnan(z)


@each_dtype
@pytest.mark.parametrize("bias", [False, True])
def test_empty_linear(dtype: torch.dtype, bias: bool) -> None:
    for shape, outputs in (
        ((0, 3), 4),
        ((2, 3), 0),
        ((2, 0), 4),
        ((0, 0), 0),
        ((0,), 4),
        ((2, 0, 3), 4),
        ((2, 5, 0), 4),
        ((0, 7, 0), 2),
    ):
        x = torch.ones(shape, dtype=dtype, requires_grad=True)
        w = torch.ones(outputs, shape[-1], dtype=dtype, requires_grad=True)
        b = torch.full((outputs,), 3.0, dtype=dtype, requires_grad=True) if bias else None
        out = spiking_linear(x, w, b)
        assert out.shape == torch.nn.functional.linear(x, w, b).shape
        assert torch.equal(out, reference.spiking_linear(x, w, b))
        out.sum().backward()
        for tensor in (x, w) if b is None else (x, w, b):
            assert tensor.grad.shape == tensor.shape
            assert tensor.grad.isfinite().all()
        if shape[-1] == 0:  # no input: silent, unless the bias makes it spike, at 3 / (3 - 1)
            assert (out == (1.5 if bias else INF)).all()


@each_dtype
@pytest.mark.parametrize("bias", [False, True])
def test_empty_conv(dtype: torch.dtype, bias: bool) -> None:
    for shape, weight_shape in (
        ((0, 3, 6, 6), (4, 3, 3, 3)),
        ((2, 3, 6, 6), (0, 3, 3, 3)),
        ((2, 0, 6, 6), (4, 0, 3, 3)),
        ((0, 0, 6, 6), (0, 0, 3, 3)),
    ):
        x = torch.ones(shape, dtype=dtype, requires_grad=True)
        w = torch.ones(weight_shape, dtype=dtype, requires_grad=True)
        b = torch.full(weight_shape[:1], 3.0, dtype=dtype, requires_grad=True) if bias else None
        out = spiking_conv2d(x, w, b, padding=1)
        assert out.shape == (shape[0], weight_shape[0], 6, 6)
        assert torch.equal(out, reference.spiking_conv2d(x, w, b, padding=(1, 1)))
        out.sum().backward()
        assert x.grad.shape == x.shape
        assert w.grad.shape == w.shape
        assert not x.grad.any()
        assert not w.grad.any()
        if shape[1] == 0 and out.numel():
            assert (out == (1.5 if bias else INF)).all()
            if b is not None:
                assert b.grad.tolist() == [2 * 36 * -0.25] * 4
