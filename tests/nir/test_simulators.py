"""Graphs in other simulators: their first spikes agree with the closed form.

Both count time in steps of dt and let the current decay by the factor 1 - dt / tau in each, a
little faster than the exponential. Over a time T that moves a spike by about T / 2 steps at most,
and reading a step's beginning for its spike by one more.
"""

import importlib.util
from collections.abc import Callable

import pytest
import torch
from nir_simulators import Trains, with_norse, with_snntorch
from torch import Tensor, nn

from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d

pytest.importorskip("nir", reason="needs the extra ttfs_fast[nir]")

from ttfs_fast.nir import first_spikes, to_graph

STEP = 1e-4  # snnTorch takes it for granted

SIMULATORS = [
    pytest.param(
        with_snntorch,
        id="snnTorch",
        marks=pytest.mark.skipif(
            not importlib.util.find_spec("snntorch"), reason="needs snntorch and nirtorch"
        ),
    ),
    pytest.param(
        with_norse,
        id="norse",
        marks=pytest.mark.skipif(
            not importlib.util.find_spec("norse"),
            reason="needs norse 1.1; its published archive calls itself 0.0.0, so pip refuses it",
        ),
    ),
]
Simulator = Callable[..., Trains]


def errors(trains: Tensor, z: Tensor, graph: object, steps: int) -> Tensor:
    """Steps from the spikes of `z` to the simulated ones; asserts that the same neurons spike."""
    t = z.double().log() * 100  # in steps: tau is 100 of them
    found = first_spikes(graph, trains)[: len(z)].log() * 100
    early = t < steps - 20  # later ones may or may not come before the simulation ends
    assert early.double().mean() > 0.5
    assert found.isfinite()[early].double().mean() > 0.995
    assert found.isfinite()[t.isinf()].double().sum() <= 0.01 * len(t.flatten())
    return (found - t)[early & found.isfinite()]


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_first_layer_needs_no_reset(simulator: Simulator) -> None:
    """A first layer's first spikes need no reset: the trained network's, as others load it."""
    model = nn.Sequential(mnist_scnn(pretrained=True)[0])
    graph = to_graph(model, (1, 28, 28), tau=0.01, dt=STEP)
    z = image()
    trains = simulator(graph, z, 450, one_spike=False)["0_neurons"]
    assert trains.sum(0).max() > 2  # they do fire again
    error = errors(trains, model(z[None])[0], graph, 450)
    print(f"steps off: {error.mean():.2f} on average, 99 % within {error.abs().quantile(0.99):.2f}")
    assert -2 < error.mean() < 0
    assert error.abs().quantile(0.95) < 2


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_the_trained_network_decides_alike(simulator: Simulator) -> None:
    model = mnist_scnn(pretrained=True)
    graph = to_graph(model, (1, 28, 28), tau=0.01, dt=STEP)
    z = image()
    trains = simulator(graph, z, 1000, one_spike=True)
    x = z[None]
    for depth, name in enumerate(("conv1", "conv2", "fc"), 1):
        x = model.get_submodule(name)(x.flatten(1) if name == "fc" else x)
        assert trains[f"{name}_neurons"].sum(0).max() == 1
        error = errors(trains[f"{name}_neurons"], x[0], graph, 1000)
        print(f"{name}: {error.mean():.2f} steps on average, 95 % {error.abs().quantile(0.95):.2f}")
        assert error.abs().quantile(0.9) < 2 * depth
    found = first_spikes(graph, trains["fc_neurons"])
    assert found.isfinite().sum() > 5
    assert found.argmin() == x.argmin()


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_horizons(simulator: Simulator, seed: int) -> None:
    """From the step after its horizon on no neuron of a layer spikes, in any layer."""
    model = nn.Sequential(SpikingConv2d(1, 8, 3, padding=1), SpikingConv2d(8, 8, 3, padding=1))
    z = (1.5 * torch.rand(1, 10, 10)).exp()
    x = z[None]
    lasts = []  # steps; about half of a layer's neurons spike before
    for layer in model:
        lasts.append(round(layer(x).log().median().item() * 100))
        layer.t_max = lasts[-1] / 100
        x = layer(x)
    graph = to_graph(model, (1, 10, 10), tau=0.01, dt=STEP)
    trains = simulator(graph, z, 300, one_spike=True)
    for index, last in enumerate(lasts):
        found = first_spikes(graph, trains[f"{index}_neurons"])[:8]
        assert ((found[found.isfinite()].log() * 100).round() <= last).all()
        # When they would spike without this horizon, given the spikes that reached them.
        layer = model[index]
        layer.t_max = float("inf")
        t = layer(z[None])[0].log() * 100
        early, late = t < last - 5, (t > last + 5) & t.isfinite()
        assert early.double().mean() > 0.1
        assert late.double().mean() > 0.1
        assert found.isfinite()[early].double().mean() > 0.995
        assert found.isinf()[late].all()
        z = found.float()


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_pools_and_biases(simulator: Simulator, seed: int) -> None:
    model = nn.Sequential(
        SpikingConv2d(2, 6, 3, padding=1),
        SpikingMaxPool2d(2),
        SpikingConv2d(6, 6, 3, stride=2, padding="same"),
        SpikingMaxPool2d(3, 1, 1),
        nn.Flatten(),
        SpikingLinear(54, 8),
    )
    for layer in (model[0], model[2], model[5]):
        nn.init.uniform_(layer.bias, 0.1, 0.4)
    graph = to_graph(model, (2, 12, 12), tau=0.01, dt=STEP)
    z = (1.5 * torch.rand(2, 12, 12)).exp()
    trains = simulator(graph, z, 400, one_spike=True)
    x = z[None]
    for index, layer in enumerate(model):
        x = layer(x)
        if index == 4:
            continue
        found = trains[f"{index}_neurons"]
        assert found.sum(0).max() == 1
        assert errors(found, x[0], graph, 400).abs().quantile(0.9) < index + 2
    # The neuron that hands the bias on spikes at once, and the bias matters.
    assert (trains["2_neurons"][:2, -1].sum(0) == 1).all()
    with torch.no_grad():
        for layer in (model[0], model[2], model[5]):
            layer.bias.zero_()
    assert ((model(z[None]) - x).abs() / x > 0.05).all()


def image() -> Tensor:
    from ttfs_fast.data import load
    from ttfs_fast.encoding import encode

    return encode(load("digits", train=False).images_as_tensor()[3], alpha=3.0)
