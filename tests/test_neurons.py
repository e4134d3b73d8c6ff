"""Layers on spike times, and everything else that meets them."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ttfs_fast
from ttfs_fast import nn as snn
from ttfs_fast import ops, quantization
from ttfs_fast.analysis import count_operations, diagnose
from ttfs_fast.analysis.evaluate import evaluate
from ttfs_fast.analysis.latency import spike_timing
from ttfs_fast.analysis.limits import Limits, check_limits
from ttfs_fast.circuit.network import receptive_fields
from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Encoding, encoding_of, pixels_to_times
from ttfs_fast.horizon import HorizonLinear, ReferenceSpikes, unfold_horizons_
from ttfs_fast.layers import predict, spiking_layers
from ttfs_fast.loss import SpikingLoss
from ttfs_fast.nir import to_graph
from ttfs_fast.optim.centering import center_weights_
from ttfs_fast.time_loss import silence_cost

INF = math.inf
ON_TIMES = ["rel-psp", "falling-threshold"]


def layers(neuron: Any) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        snn.SpikingConv2d(1, 4, 3, stride=2, padding="same", neuron=neuron),
        snn.Delay(4, 0.25, neuron=neuron),
        snn.SpikingMaxPool2d(2),
        nn.Flatten(),
        snn.SpikingLinear(36, 10, neuron=neuron, t_max=3.0),
    ]


def images(count: int = 8) -> ImageSet:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 1, 12, 12), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 10
    return ImageSet(pixels, labels, "noise", tuple(map(str, range(10))))


def values(count: int = 8) -> Tensor:
    return Encoding(1.0)(images(count).images_as_tensor())


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_a_module_says_its_neuron(neuron: Any) -> None:
    for layer in (
        snn.SpikingConv2d(1, 4, 3, neuron=neuron),
        snn.SpikingLinear(3, 4, neuron=neuron),
        snn.Delay(4, neuron=neuron),
    ):
        assert layer.neuron == neuron
        assert f"neuron={neuron!r}" in repr(layer)
        assert copy.deepcopy(layer).neuron == neuron
        plain = type(layer)(**_sizes(layer))
        assert plain.neuron == "n-lif"
        assert "neuron" not in repr(plain)


def _sizes(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, snn.SpikingConv2d):
        return {"in_channels": 1, "out_channels": 4, "kernel_size": 3}
    if isinstance(layer, snn.Delay):
        return {"num_features": 4}
    return {"in_features": 3, "out_features": 4}


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_on_times_is_the_layers_between_logarithm_and_exponential(neuron: Any) -> None:
    inside = layers(neuron)
    model = snn.OnTimes(*inside)
    z = values()
    out = model(z)
    assert out.isfinite().float().mean() > 0.5
    torch.testing.assert_close(out, nn.Sequential(*inside)(z.log()).exp(), rtol=1e-6, atol=0)
    t = pixels_to_times(images().images_as_tensor(), 1.0)
    torch.testing.assert_close(out.log(), nn.Sequential(*inside)(t), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_silence_gives_no_gradient_and_no_nan(neuron: Any) -> None:
    model = snn.OnTimes(*layers(neuron))
    with torch.no_grad():
        model[4].weight[:5] = -4.0  # some outputs are silent
    z = values().masked_fill(torch.rand(8, 1, 12, 12) < 0.3, INF).requires_grad_()
    out = model(z)
    assert out[:, :5].isinf().all()
    assert out[:, 5:].isfinite().any()
    loss = SpikingLoss(scale=5.0)(out, torch.arange(8), model)
    loss.backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert z.grad is not None
    assert (z.grad[z.isinf()] == 0).all()
    assert z.grad.isfinite().all()
    assert model[0].weight.grad.abs().sum() > 0


def test_on_times_rejects_other_layers() -> None:
    match = r"OnTimes holds layers on spike times; 1\.0 has neuron='n-lif'"
    with pytest.raises(ValueError, match=match):
        snn.OnTimes(nn.Flatten(), nn.Sequential(snn.SpikingLinear(3, 4)))
    with pytest.raises(ValueError, match=r"0 has neuron='n-lif'"):
        snn.OnTimes(snn.Delay(3))
    with pytest.raises(ValueError, match="OnTimes translates once; 0 is another"):
        snn.OnTimes(snn.OnTimes(snn.SpikingLinear(3, 4, neuron="rel-psp")))


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_network_learns(neuron: Any) -> None:
    model = snn.OnTimes(*layers(neuron))
    model[4].t_max = INF
    z, classes = values(), torch.arange(8)
    optimizer = torch.optim.Adam(model.parameters(), 0.005)
    loss_of = SpikingLoss(scale=10.0)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = loss_of(model(z), classes, model)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert (predict(model(z)) == classes).float().mean() >= 0.75


# --- torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_torch_export_and_compile_keep_the_neuron(neuron: Any) -> None:
    model = snn.OnTimes(*layers(neuron)).eval()
    z = values(3)
    expected = model(z)
    assert expected.isfinite().float().mean() > 0.5
    n_lif = ttfs_fast.spiking_linear(z.flatten(1), torch.ones(2, 144) / 36)
    assert n_lif.isfinite().all()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (z,), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    again = torch.export.load(file).module()
    traced = torch.jit.trace(model, z)
    graph = torch.fx.symbolic_trace(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for run in (again, traced, graph, compiled):
        assert torch.equal(run(z), expected)
        more = values(8)
        assert torch.equal(run(more), model(more))


def test_delay_adds_to_times() -> None:
    t = torch.tensor([[0.0, -1.0, INF]], requires_grad=True)
    delay = torch.tensor([0.5, -2.0, 1.0], requires_grad=True)
    out = ttfs_fast.spiking_delay(t, delay, neuron="rel-psp")
    assert out.tolist() == [[0.5, -1.0, INF]]
    by_time, by_delay = torch.autograd.grad(out, (t, delay), torch.tensor([[2.0, -3.0, 5.0]]))
    assert by_time[0, :2].tolist() == [2.0, -3.0]
    assert by_delay.tolist() == [2.0, -3.0, 0.0]  # one at 0 may become longer
    with pytest.raises(ValueError, match="a spike time is -inf"):
        ttfs_fast.spiking_delay(torch.tensor([-INF]), torch.zeros(1), neuron="rel-psp")
    with pytest.raises(ValueError, match="a delay by neurons is made of n-LIF neurons only; Delay"):
        snn.Delay(3, neuron="rel-psp").to_neurons(maps=False)


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_operators_on_a_gpu_equal_plain_torch(neuron: Any) -> None:
    run = dict(ops.GPU_IMPLEMENTATIONS)
    t = (torch.rand(3, 4, 5, 5, dtype=torch.float64) - 0.5).requires_grad_()
    w = (torch.randn(6, 2, 3, 3, dtype=torch.float64) + 0.5).requires_grad_()
    b = torch.randn(6, dtype=torch.float64).requires_grad_()
    walk = ([1, 1], [1, 1], [1, 1], 2)
    with pytest.warns(RuntimeWarning, match=f"only, and this layer has '{neuron}'"):
        x, d = run[ops.conv2d](t, w, b, *walk, INF, [5, 5], neuron)
    expected = ttfs_fast.spiking_conv2d(t, w, b, 1, 1, 1, 2, neuron=neuron)
    assert expected.isfinite().double().mean() > 0.5
    torch.testing.assert_close(x, expected)
    grad = torch.rand_like(x)
    found = run[ops.conv2d_backward](grad, t, w, x, d, *walk, True, True, neuron)
    for mine, theirs in zip(found, torch.autograd.grad(expected, (t, w, b), grad), strict=True):
        torch.testing.assert_close(mine, theirs)
    rows, matrix = t.detach().flatten(1).requires_grad_(), torch.randn(7, 100, dtype=t.dtype)
    matrix = (matrix / 10 + 0.1).requires_grad_()
    with pytest.warns(RuntimeWarning, match="hundreds of times slower"):
        x, d = run[ops.linear](rows, matrix, None, 1.0, neuron)
    expected = ttfs_fast.spiking_linear(rows, matrix, t_max=1.0, neuron=neuron)
    assert expected.isfinite().double().mean() > 0.3
    torch.testing.assert_close(x, expected)
    grad = torch.rand_like(x)
    found = run[ops.linear_backward](grad, rows, matrix, x, d, True, True, neuron)
    both = zip(found[:2], torch.autograd.grad(expected, (rows, matrix), grad), strict=True)
    for mine, theirs in both:
        torch.testing.assert_close(mine, theirs)


# --- what works ----------------------------------------------------------------------------------


@pytest.mark.parametrize("neuron", ON_TIMES)
def test_operations_are_counted(neuron: Any) -> None:
    model = nn.Sequential(
        snn.SpikingLinear(12, 7, neuron=neuron), snn.SpikingLinear(7, 5, neuron=neuron)
    )
    with torch.no_grad():
        for layer in model:
            layer.bias.normal_()
    torch.manual_seed(1)
    t = (torch.rand(6, 12) - 0.5).masked_fill(torch.rand(6, 12) < 0.2, INF)
    counts = count_operations(model, t)
    x = t
    for layer, count in zip(model, counts.layers, strict=True):
        out = layer(x)
        assert out.isfinite().any()
        causal = int((x[:, None] < out[..., None]).sum()) + int((out > 0).sum())
        assert count.causal == causal
        assert count.delivered == (int(x.isfinite().sum()) + len(x)) * out.shape[1]
        x = out


def test_limits_count_the_same_neurons() -> None:
    model, plain = snn.OnTimes(*layers("rel-psp")), nn.Sequential(*layers("n-lif"))
    found, expected = (check_limits(m, (1, 12, 12), Limits(fan_in=30)) for m in (model, plain))
    assert found == expected
    assert any("fan_in 38, 30 allowed" in str(excess) for excess in found.excesses)


def test_evaluate_takes_layers_inside_on_times_only() -> None:
    model = snn.OnTimes(*layers("rel-psp"))
    result = evaluate(model, images(), encoding=Encoding(1.0))
    out = model(values())
    assert result.correct == int((predict(out) == torch.arange(8)).sum())
    first = out.amin(1)
    assert result.first_spike_time == pytest.approx(first[first.isfinite()].log().mean().item())
    with pytest.raises(ValueError, match=r"0 has neuron='rel-psp' and takes spike times"):
        evaluate(nn.Sequential(*layers("rel-psp")), images(), encoding=Encoding(1.0))
    mixed = nn.Sequential(nn.Flatten(), nn.Sequential(snn.SpikingLinear(3, 3, neuron="rel-psp")))
    with pytest.raises(ValueError, match=r"1\.0 has neuron"):
        encoding_of(mixed, Encoding(1.0))


@pytest.mark.parametrize(("neuron", "least"), [("n-lif", 1.0), ("rel-psp", 0.0)])
def test_silence_cost_is_the_missing_sum_of_weights(neuron: Any, least: float) -> None:
    layer = snn.SpikingLinear(3, 2, neuron=neuron)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-0.5, 0.2, 4.0], [-0.25, 0.0, 4.0]]))
    x = torch.tensor([[1.0, 1.5, INF]])
    out = layer(x)
    assert out.isinf().all()
    cost = silence_cost(layer, x, out, margin=0.1, reduction="none")
    expected = least + 0.1 - torch.tensor([[-0.3, -0.25]])
    torch.testing.assert_close(cost, expected)


# --- what is refused by name ---------------------------------------------------------------------


def _chain() -> nn.Sequential:
    return snn.OnTimes(*layers("rel-psp"))


REFUSED: dict[str, Callable[[], Any]] = {
    "diagnose": lambda: diagnose(_chain(), (values(), torch.arange(8))),
    "latency": lambda: spike_timing(_chain(), images(), encoding=Encoding(1.0)),
    "spiking_layers": lambda: spiking_layers(_chain()),
    "centering": lambda: center_weights_(_chain(), (1, 12, 12)),
    "quantization": lambda: quantization.prepare_qat_(_chain(), 4),
    "integers": lambda: quantization.convert(
        _chain(), input_size=(1, 12, 12), encoding=Encoding(1.0)
    ),
    "nir": lambda: to_graph(nn.Sequential(*layers("rel-psp")), (1, 12, 12)),
    "horizons": lambda: unfold_horizons_(
        nn.Sequential(
            nn.Sequential(ReferenceSpikes(2.0), snn.SpikingLinear(3, 2, neuron="rel-psp"))
        )
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_n_lif_features_reject_other_neurons(name: str) -> None:
    if name == "nir":
        pytest.importorskip("nir", reason="needs the extra ttfs_fast[nir]")
    with pytest.raises(ValueError, match=r"is made of n-LIF neurons only; .* has neuron='rel"):
        REFUSED[name]()


def test_circuits_reject_other_neurons() -> None:
    layer = snn.SpikingLinear(3, 2, neuron="falling-threshold")
    with pytest.raises(ValueError, match=r"circuits is made of n-LIF.*SpikingLinear has"):
        receptive_fields(layer, torch.ones(1, 3))


def test_times_too_late_for_a_value_are_silent_without_a_gradient() -> None:
    model = snn.OnTimes(snn.SpikingLinear(2, 2, bias=False, neuron="rel-psp"))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [0.005, 0.005]]))
    z = torch.tensor([[1.0, 2.0]], requires_grad=True)
    first, late = model(z)[0]
    assert late == math.inf
    assert first.isfinite()
    torch.nn.functional.cross_entropy(-model(z).log().clamp(max=50), torch.tensor([1])).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() > 0
    assert model[0].weight.grad.isfinite().all()


def test_layers_on_spike_values_cannot_be_added_to_on_times() -> None:
    model = snn.OnTimes(snn.SpikingLinear(4, 4, neuron="rel-psp"))
    assert model(torch.rand(2, 4).exp()).shape == (2, 4)
    model.append(snn.SpikingLinear(4, 2))
    with pytest.raises(ValueError, match="holds layers on spike times; 1 has neuron='n-lif'"):
        model(torch.rand(2, 4).exp())
    with pytest.raises(ValueError, match="holds layers on spike times; 1 has a horizon"):
        snn.OnTimes(snn.SpikingLinear(4, 4, neuron="rel-psp"), HorizonLinear(4, 2, t_in=1.0))
