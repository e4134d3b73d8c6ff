"""Delays: factors on spike values, with gradients in time, beside everything they can meet."""

import copy
import io
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import ttfs_fast
from support.spikes import delayed, random_spikes
from ttfs_fast.analysis import diagnose
from ttfs_fast.circuit import CircuitParameters
from ttfs_fast.circuit.network import simulate_network
from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Encoding, encode
from ttfs_fast.horizon import HorizonLinear, fold_horizons_
from ttfs_fast.layers import SpikeCounter, spiking_layers, watch_layers
from ttfs_fast.loss import SpikingLoss
from ttfs_fast.nn import Delay, SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.optim.centering import center_weights_
from ttfs_fast.optim.clipping import clip_gradient_
from ttfs_fast.quantization import convert, prepare_qat_

INF = math.inf


def network() -> nn.Sequential:
    return nn.Sequential(
        delayed(2),
        SpikingConv2d(2, 4, 3, padding=1),
        delayed(4),
        SpikingMaxPool2d(2),
        nn.Flatten(),
        delayed(36),
        SpikingLinear(36, 5),
    )


spikes = partial(random_spikes, silent=0.2)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (3, 4, 2), (5, 3, 4, 2)])
def test_delay_adds_to_spike_times(shape: tuple[int, ...], seed: int) -> None:
    z = spikes(*shape, dtype=torch.float64)
    layer = delayed(3, dtype=torch.float64)
    out = layer(z)
    by_channel = layer.delay.detach()
    if len(shape) > 2:
        by_channel = by_channel[:, None, None]
    assert torch.equal(out.isinf(), z.isinf())
    heard = z.isfinite()
    assert heard.float().mean() > 0.3
    assert torch.allclose(out[heard].log(), (z.log() + by_channel)[heard], atol=1e-14)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 2, 2)])
def test_delay_gradients(shape: tuple[int, ...], seed: int) -> None:
    z = spikes(*shape, silent=0, dtype=torch.float64).requires_grad_()
    delay = torch.rand(3, dtype=torch.float64).add_(0.1).requires_grad_()
    assert torch.autograd.gradcheck(ttfs_fast.spiking_delay, (z, delay))
    with torch.no_grad():
        z[0, 0] = INF  # silence has no gradient and gives none, rather than NaN
    ttfs_fast.spiking_delay(z, delay).masked_fill(z.isinf(), 0).log1p().sum().backward()
    assert z.grad is not None
    assert delay.grad is not None
    assert bool((z.grad[0, 0] == 0).all())
    assert bool(z.grad[1:].ne(0).all())
    assert bool(delay.grad.isfinite().all())


def test_the_gradient_of_a_delay_is_that_of_the_times(seed: int) -> None:
    layer = delayed(3, dtype=torch.float64)
    z = spikes(6, 3, silent=0, dtype=torch.float64)
    weight = torch.rand(6, 3, dtype=torch.float64)
    (layer(z).log() * weight).sum().backward()
    assert layer.delay.grad is not None
    assert torch.allclose(layer.delay.grad, weight.sum(0))


def test_delay_stays_at_zero_and_can_grow_again() -> None:
    layer = Delay(2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    z = torch.ones(1, 2)

    def step(sign: Tensor) -> Tensor:
        optimizer.zero_grad()
        (layer(z).log() * sign).sum().backward()
        optimizer.step()
        return layer.delays().clone()

    # The first would become shorter than 0, the second is to become longer.
    assert torch.equal(step(torch.tensor([1.0, -1.0])), torch.tensor([0.0, 0.1]))
    assert torch.allclose(step(torch.tensor([-1.0, -1.0])), torch.tensor([0.1, 0.2]))
    with torch.no_grad():
        layer.delay.fill_(-0.05)  # as momentum may leave it
    assert torch.equal(layer(z), z)
    assert torch.equal(step(torch.tensor([1.0, -1.0])), torch.tensor([0.0, 0.05]))


def test_bad_delays_and_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="initial is -1"):
        Delay(3, initial=-1)
    with pytest.raises(ValueError, match="num_features is -1"):
        Delay(-1)
    with pytest.raises(RuntimeError, match=r"it must be \(4,\), one for each feature"):
        Delay(3)(torch.ones(2, 4))
    with pytest.raises(RuntimeError, match=r"it must be \(2,\), one for each channel"):
        Delay(3)(torch.ones(2, 3, 3))  # taken for a map without a batch
    with pytest.raises(ValueError, match="spike values are exp"):
        Delay(3)(torch.zeros(2, 3))
    with pytest.raises(TypeError, match=r"delay is torch\.float32"):
        Delay(3)(torch.ones(2, 3, dtype=torch.float64))
    assert Delay(3)(torch.ones(0, 3)).shape == (0, 3)
    assert "initial=0.5" in repr(Delay(3, 0.5))


def test_a_common_delay_passes_a_layer_without_bias_and_pools(seed: int) -> None:
    """Homogeneity of the closed form, as docs/delays.md says."""
    z = spikes(3, 2, 8, 8, dtype=torch.float64)
    conv = SpikingConv2d(2, 4, 3, bias=False, dtype=torch.float64)
    before = conv(Delay(2, 0.7, dtype=torch.float64)(z))
    after = Delay(4, 0.7, dtype=torch.float64)(conv(z))
    assert after.isfinite().float().mean() > 0.3
    assert torch.allclose(before, after, rtol=1e-12)
    pool, own = SpikingMaxPool2d(2), delayed(2, dtype=torch.float64)
    assert torch.equal(pool(own(z)), own(pool(z)))  # own delays pass it, too
    biased = SpikingConv2d(2, 4, 3, dtype=torch.float64)
    nn.init.constant_(biased.bias, 0.5)
    moved = biased(Delay(2, 0.7, dtype=torch.float64)(z))
    assert not torch.allclose(moved, Delay(4, 0.7, dtype=torch.float64)(biased(z)))


def test_delays_of_single_inputs_do_not_fold_into_weights() -> None:
    """The proof of docs/delays.md: what fits the early causal sets cannot fit the late ones."""
    w = torch.tensor([[1.5, 0.8]], dtype=torch.float64)
    shift = torch.tensor([0.0, 0.6], dtype=torch.float64)

    def run(t: list[float]) -> float:
        z = torch.tensor([t], dtype=torch.float64).exp()
        return float(ttfs_fast.spiking_linear(ttfs_fast.spiking_delay(z, shift), w))

    alone, both = run([0.0, 5.0]), run([0.0, 0.1])
    # The first input alone fixes v_1 = w_1. Both together then give v_2 one way by the fraction of
    # the second input, another way by that of the first.
    assert alone == pytest.approx(1.5 / 0.5)
    slope = (run([0.0, 0.11]) - both) / (math.exp(0.11) - math.exp(0.1))
    total = 1.5 + 0.8 - 1
    assert slope == pytest.approx(0.8 * math.exp(0.6) / total)
    assert both - slope * math.exp(0.1) == pytest.approx(1.5 / total)
    by_first = 1.5 / (1.5 / total) + 1 - 1.5  # from v_1 / (v_1 + v_2 - 1)
    by_second = slope * (1.5 - 1) / (1 - slope)  # from v_2 / (v_1 + v_2 - 1)
    assert by_first == pytest.approx(0.8)
    assert abs(by_first - by_second) > 0.1


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neurons_replace_delays(maps: bool, dtype: torch.dtype, seed: int) -> None:
    layer = delayed(5, high=2.0, dtype=dtype)
    with torch.no_grad():
        layer.delay[0], layer.delay[1] = 0, 1e-4
    z = spikes(4, 5, 3, 3, dtype=dtype) if maps else spikes(4, 5, dtype=dtype)
    expected, got = layer(z), layer.to_neurons(maps=maps)(z)
    assert torch.equal(got.isinf(), expected.isinf())
    heard = expected.isfinite()
    rtol = 3e-6 if dtype == torch.float32 else 1e-14
    assert torch.allclose(got[heard], expected[heard], rtol=rtol)


def test_integers_refuse_delays_and_take_their_neurons(seed: int) -> None:
    model = nn.Sequential(
        SpikingConv2d(1, 4, 3), delayed(4), SpikingMaxPool2d(2), nn.Flatten(), SpikingLinear(36, 3)
    )
    with pytest.raises(TypeError, match="no Delay: put the neurons"):
        convert(model, input_size=(1, 8, 8), encoding=Encoding(alpha=3.0))
    with torch.no_grad():
        model[1].delay.clamp_(min=0.1)
    exact = copy.deepcopy(model)
    model[1] = model[1].to_neurons(maps=True)
    integers = convert(model, input_size=(1, 8, 8), encoding=Encoding(alpha=3.0))
    pixels = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    z = encode(pixels, 3.0)
    with torch.no_grad():
        float_times = exact[1](exact[0](z)).log().numpy()
    codes = integers.layers(pixels.numpy())[1].astype(np.float64)
    heard = (codes != integers.silent) & np.isfinite(float_times)
    assert heard.mean() > 0.3
    error = np.log(codes[heard] * integers.time_scales[0]) - float_times[heard]
    assert abs(np.median(error)) < 0.02
    assert np.quantile(np.abs(error), 0.9) < 0.1


def test_delays_train_with_quantized_weights(seed: int) -> None:
    model = prepare_qat_(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = model[2].delay.detach().clone()
    out = model(spikes(4, 2, 6, 6, silent=0))
    out[out.isfinite()].log().sum().backward()
    optimizer.step()
    assert model[2].delay.grad.ne(0).any()
    assert not torch.equal(model[2].delay, before)
    with pytest.raises(TypeError, match="no Delay: put the neurons"):
        convert(model, input_size=(2, 6, 6), encoding=Encoding(alpha=3.0, polarity="both"))


def test_layers_with_horizons_fold_around_delays(seed: int) -> None:
    first = HorizonLinear(6, 8, t_in=0.5, spread=0.05, normalization="none")
    last = HorizonLinear(8, 3, t_in=first.t_out, spread=0.05, normalization="none")
    model = nn.Sequential(first, delayed(8, high=0.02), last)
    z = (0.5 * torch.rand(7, 6)).exp()
    out = model(z)
    out.log().sum().backward()
    assert model[1].delay.grad is not None
    assert bool(model[1].delay.grad.ne(0).any())
    plain = fold_horizons_(copy.deepcopy(model))
    assert torch.allclose(plain(z), out, rtol=1e-4)
    with torch.no_grad():
        model[1].delay.zero_()
    assert not torch.allclose(model(z), out, rtol=1e-4)


def test_delays_have_no_neurons(seed: int) -> None:
    model = network()
    assert list(spiking_layers(model)) == ["1", "6"]
    z = spikes(4, 2, 6, 6, silent=0)
    counter, values = SpikeCounter(), {}
    with watch_layers(model, counter), watch_layers(model, values.__setitem__):
        model(z)
    assert counter.neurons == {"1": 4 * 4 * 36, "6": 20}
    assert torch.equal(values["1"], model[1](model[0](z)).detach())
    found = diagnose(model, (z, torch.arange(4)))
    assert [layer.name for layer in found.layers] == ["1", "6"]


def test_circuits_have_ideal_delay_lines(seed: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 4), dtype=np.uint8)
    images = ImageSet(pixels, np.array([0, 1]), "random", ("a", "b"))
    late = nn.Sequential(nn.Flatten(), SpikingLinear(16, 4), Delay(4, 0.5), SpikingLinear(4, 2))
    soon = copy.deepcopy(late)
    soon[2].delay.data.zero_()
    results = [
        simulate_network(
            model, images, CircuitParameters(), duration=16.0, encoding=Encoding(alpha=3.0)
        )
        for model in (late, soon)
    ]
    assert np.array_equal(results[0].layers["1"].circuit, results[1].layers["1"].circuit)
    both = results[0].layers["3"].both & results[1].layers["3"].both
    assert both.any()
    later = results[0].layers["3"].circuit - results[1].layers["3"].circuit
    assert np.allclose(later[both], 0.5, atol=0.02)


@pytest.mark.parametrize("centered", [False, True])
def test_delays_train_with_weights(centered: bool) -> None:
    torch.manual_seed(0)
    model = network()
    if centered:
        center_weights_(model, (2, 6, 6))
    z, target = spikes(16, 2, 6, 6, silent=0), torch.arange(16) % 5
    loss_of = SpikingLoss(weight_sum_cost=1.0, scale=5.0, cost_reduction="mean")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    before = [p.clone() for p in model.parameters() if p.dim() == 1]
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = loss_of(model(z), target, model)
        loss.backward()
        clip_gradient_(model)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    delays = [m for m in model.modules() if isinstance(m, Delay)]
    assert all(bool(d.delays().ge(0).all()) for d in delays)
    assert sum(not torch.equal(a, d.delay) for d in delays for a in before) > 0
    again = network()
    if centered:
        center_weights_(again, (2, 6, 6))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(z), model(z))


def test_graphs_of_torch_keep_delays(seed: int) -> None:
    model, z = network(), spikes(3, 2, 6, 6)
    expected = model(z)
    assert torch.equal(fx.symbolic_trace(model)(z), expected)
    assert torch.equal(torch.jit.trace(model, z)(z), expected)  # type: ignore[no-untyped-call]
    program = torch.export.export(copy.deepcopy(model).eval(), (z,))
    assert torch.equal(program.module()(z), expected)
    recorded = fx.symbolic_trace(model)
    with torch.no_grad():
        model[0].delay[0] = -1.0  # its gradient is not that of a clamp
    for run in (model, recorded):
        model.zero_grad()
        (-run(z)[run(z).isfinite()].log()).sum().backward()
        assert model[0].delay.grad[0] < 0


def test_a_compiled_network_has_the_same_delays(seed: int) -> None:
    model, z = network(), spikes(3, 2, 6, 6)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        out = run(z)
        out[out.isfinite()].log().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert torch.equal(compiled(z), model(z))
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("delay", [79.0, 85.0, 90.0, 200.0])
def test_delays_beyond_the_type_make_spikes_silent_without_a_gradient(delay: float) -> None:
    z = torch.tensor([[0.05, 1.0, 3.0, math.inf]], requires_grad=True)
    d = torch.full((4,), delay, requires_grad=True)
    out = ttfs_fast.spiking_delay(z, d)
    exact = z.detach().double() * math.exp(delay)
    expected = torch.where(exact > torch.finfo(torch.float32).max, math.inf, exact)
    torch.testing.assert_close(out.detach().double(), expected, rtol=1e-5, atol=0)
    torch.where(out.isfinite(), out, 0).log1p().sum().backward()
    assert z.grad is not None
    assert d.grad is not None
    assert z.grad.isfinite().all()
    assert d.grad.isfinite().all()
    assert ((d.grad > 0) == out[0].isfinite()).all()
    with_func = torch.func.grad(
        lambda d: (
            torch.where((o := ttfs_fast.spiking_delay(z.detach(), d)).isfinite(), o, 0)
            .log1p()
            .sum()
        )
    )(d.detach())
    torch.testing.assert_close(with_func, d.grad)


def test_a_traced_delay_is_saved_and_vmap_takes_it() -> None:
    model = nn.Sequential(Delay(3, 0.5), SpikingLinear(3, 2))
    z = 1 + torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, z), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(z), model(z))
    assert torch.equal(torch.func.vmap(model[0])(z), model[0](z))


@pytest.mark.parametrize(("dtype", "longest"), [(torch.float32, 9.0), (torch.float64, 29.1)])
def test_delays_too_long_for_a_neuron_are_refused(dtype: torch.dtype, longest: float) -> None:
    delay = Delay(1, longest, dtype=dtype)
    z = torch.tensor([[2.0]], dtype=dtype)
    found = (delay.to_neurons(maps=False)(z) / z).log()
    assert found.item() == pytest.approx(longest, abs=2e-3)
    with pytest.raises(ValueError, match=r"a delay of .* tau is too long for a neuron: up to"):
        Delay(1, longest + 0.1, dtype=dtype).to_neurons(maps=False)
