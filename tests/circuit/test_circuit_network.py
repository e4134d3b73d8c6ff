"""Layers and networks as circuits."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from ttfs_fast.circuit import CircuitParameters, Nonidealities, closed_form
from ttfs_fast.circuit.network import (
    DURATION,
    _layer_seed,
    fit_to_layer,
    receptive_fields,
    simulate_layer,
    simulate_network,
)
from ttfs_fast.data import load
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import SpikingConv2d, SpikingLinear

FAST_LOOP = CircuitParameters(loop_corner=1e6 / CircuitParameters().tau)


def spike_values(*shape: int) -> torch.Tensor:
    z = torch.rand(*shape).mul(2).exp()
    z[torch.rand(*shape) < 0.2] = math.inf
    return z


@pytest.mark.parametrize(
    "layer",
    [
        SpikingLinear(12, 7),
        SpikingConv2d(3, 5, 3, stride=2, padding="same"),
        SpikingConv2d(2, 4, (3, 2), padding=(1, 0), dilation=(2, 1), bias=False),
    ],
    ids=["linear", "same", "dilated"],
)
def test_receptive_fields_are_the_layer_s(layer: nn.Module, seed: int) -> None:
    with torch.no_grad():
        layer.weight.normal_(0.25, 0.3)
        if layer.bias is not None:
            layer.bias.normal_(0.1, 0.2)
    shape = (4, 12) if isinstance(layer, SpikingLinear) else (4, layer.in_channels, 7, 6)
    values = spike_values(*shape)
    times, weights = receptive_fields(layer, values)
    fields, outputs = len(times), len(weights)
    found = closed_form(np.repeat(times, outputs, 0), np.tile(weights, (fields, 1)))
    expected = layer(values).detach()
    if expected.ndim == 4:
        expected = expected.permute(0, 2, 3, 1)
    expected = expected.flatten().log().numpy()
    assert np.isfinite(expected).mean() > 0.2
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_fast_loops_converge_to_the_closed_form(seed: int) -> None:
    layer = SpikingConv2d(2, 6, 3, padding="same")
    with torch.no_grad():
        layer.weight.normal_(0.2, 0.25)
    values = spike_values(3, 2, 5, 5)
    result = simulate_layer(FAST_LOOP, layer, values)
    assert len(result.ideal) == 3 * 25 * 6
    assert result.both.sum() > 200
    assert np.quantile(np.abs(result.deviations), 0.99) < 1e-4
    assert result.lost + result.extra <= 2
    part = simulate_layer(FAST_LOOP, layer, values, neurons=50)
    assert len(part.ideal) == 50
    assert set(part.ideal) <= set(result.ideal)
    assert result.energy.spikes == np.isfinite(result.circuit).sum()


def test_the_loop_stays_in_its_detector_s_range_after_fitting(seed: int) -> None:
    layer = SpikingLinear(40, 10)
    with torch.no_grad():
        layer.weight.normal_(1.0, 1.0)
    values = spike_values(30, 40)
    wide = CircuitParameters()
    before = simulate_layer(wide, layer, values)
    fitted = fit_to_layer(wide, layer, values)
    after = simulate_layer(fitted, layer, values)
    assert before.peak_error.max() > math.pi / 2
    assert after.peak_error.max() <= math.pi / 2
    assert after.peak_error.max() > 1.2
    fired = before.both
    assert fired.sum() > 100
    assert_allclose(after.circuit[fired], before.circuit[fired], rtol=1e-9)
    again = fit_to_layer(fitted, layer, values)
    assert again.phase_per_weight == pytest.approx(fitted.phase_per_weight, rel=1e-12)
    layer.t_max = 0.05  # currents are still small
    assert fit_to_layer(wide, layer, values).phase_per_weight > 1.5 * fitted.phase_per_weight


@pytest.mark.parametrize("rise", [0.0, 2e6])
def test_fitting_keeps_a_threshold_of_ones_own(rise: float, seed: int) -> None:
    layer = SpikingLinear(40, 10)
    with torch.no_grad():
        layer.weight.normal_(1.0, 1.0)
    values = spike_values(30, 40)
    own = CircuitParameters(threshold_phase=6.0, threshold_frequency=1e9 + rise)
    before = simulate_layer(own, layer, values)
    fitted = fit_to_layer(own, layer, values)
    assert fitted.phase_per_weight < 0.8 * own.phase_per_weight
    after = simulate_layer(fitted, layer, values)
    fired = np.isfinite(before.circuit)
    assert fired.sum() > 100
    assert_allclose(after.circuit, before.circuit, rtol=1e-9)


def test_a_layer_of_circuits_keeps_its_horizon(seed: int) -> None:
    layer = SpikingConv2d(2, 6, 3, padding="same")
    with torch.no_grad():
        layer.weight.normal_(0.2, 0.25)
    values = spike_values(3, 2, 5, 5)
    whole = simulate_layer(FAST_LOOP, layer, values)
    layer.t_max = float(np.median(whole.circuit[whole.both]))
    result = simulate_layer(FAST_LOOP, layer, values)
    before = whole.circuit <= layer.t_max
    assert before.sum() > 50
    assert_allclose(result.circuit, np.where(before, whole.circuit, np.inf), rtol=1e-12)
    assert result.duration == layer.t_max
    assert result.lost + result.extra <= 1  # the neuron whose time is the horizon
    assert result.energy.spikes == before.sum()
    assert result.energy.total < whole.energy.total  # nobody waits behind the horizon
    layer.t_max = 20.0
    assert simulate_layer(FAST_LOOP, layer, values).duration == DURATION
    layer.t_max = 0.0
    with pytest.raises(ValueError, match=r"has the horizon 0.0; a circuit's time begins at t = 0"):
        simulate_layer(FAST_LOOP, layer, values)


def test_a_network_of_circuits_keeps_its_horizons() -> None:
    digits = load("digits", train=False)
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Flatten(), SpikingLinear(digits.images[0].size, 40), SpikingLinear(40, 10)
    )
    free = simulate_network(network, digits, FAST_LOOP, encoding=Encoding(), images=5)
    network[1].t_max = float(np.quantile(free.layers["1"].ideal, 0.2))
    found = simulate_network(network, digits, FAST_LOOP, encoding=Encoding(), images=5)
    spikes = np.isfinite(found.layers["1"].circuit)
    assert spikes.mean() == pytest.approx(0.2, abs=0.02)
    assert found.layers["1"].circuit[spikes].max() <= network[1].t_max
    assert found.layers["1"].energy.total < free.layers["1"].energy.total
    assert found.same_answer == 5


def test_a_grouped_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="grouped"):
        receptive_fields(SpikingConv2d(4, 4, 3, groups=2), spike_values(1, 4, 5, 5))


def test_a_network_of_circuits_classifies_digits() -> None:
    """An untrained network on the digits in the package: the same answers."""
    digits = load("digits", train=False)
    torch.manual_seed(3)
    size = digits.images.shape[-1]
    network = nn.Sequential(
        SpikingConv2d(1, 4, 3, stride=2, padding="same"),
        nn.Flatten(),
        SpikingLinear(4 * ((size + 1) // 2) ** 2, 10),
    )
    with torch.no_grad():
        network[2].weight.normal_(0.1, 0.3)
    values = torch.rand(2, 1, size, size).exp()
    before = network(values)
    assert before.isfinite().float().mean() > 0.5
    result = simulate_network(network, digits, FAST_LOOP, encoding=Encoding(), images=30)
    assert result.images == 30
    assert set(result.layers) == {"0", "2"}
    assert result.same_answer >= 29
    assert abs(result.correct_circuit - result.correct_ideal) <= 1
    assert result.energy_per_image > 0
    for name, found in result.layers.items():
        assert found.both.mean() > 0.2, name
        assert np.quantile(np.abs(found.deviations), 0.95) < 1e-3
    # Hooks are gone: the network is itself again.
    assert torch.equal(network(values), before)
    again = simulate_network(
        network, digits, FAST_LOOP, encoding=Encoding(), images=30, batch_size=7
    )
    assert again.correct_circuit == result.correct_circuit
    assert_allclose(again.layers["2"].circuit, result.layers["2"].circuit, rtol=1e-12)


def test_mnist_with_every_neuron_a_circuit(data_root: Path) -> None:
    """The trained network: same answers, and the spread of its circuits' spike times."""
    images = load("mnist", str(data_root), train=False)
    network = mnist_scnn(pretrained=True)
    result = simulate_network(network, images, images=12)
    assert result.correct_ideal >= 11
    assert abs(result.correct_circuit - result.correct_ideal) <= 1
    assert result.same_answer >= 11
    for found in result.layers.values():
        assert found.both.mean() > 0.5
        assert 0 < found.jitter < 0.02
        assert found.peak_error.max() < 1.3 * math.pi / 2
    per_spike = result.layers["conv1"].energy.per_spike
    assert 5e-12 < per_spike < 12e-12
    noisy = simulate_network(
        network, images, images=4, noise=Nonidealities(phase_noise=-110.0), duration=6.0
    )
    assert noisy.layers["conv1"].jitter > 2 * result.layers["conv1"].jitter
    assert noisy.correct_circuit >= 3


def test_bad_arguments_are_refused() -> None:
    digits = load("digits", train=False)
    network = nn.Sequential(nn.Flatten(), SpikingLinear(digits.images[0].size, 10))
    with pytest.raises(ValueError, match="at least 1"):
        simulate_network(network, digits, encoding=Encoding(), images=0)
    with pytest.raises(ValueError, match="batch_size"):
        simulate_network(network, digits, encoding=Encoding(), images=2, batch_size=0)
    with pytest.raises(ValueError, match="unstable"):
        simulate_network(
            network,
            digits,
            dataclasses.replace(FAST_LOOP, vco_gain=3e9),
            encoding=Encoding(),
            images=1,
        )


def test_layers_that_begin_after_the_simulation_are_refused() -> None:
    layer = SpikingLinear(2, 1, bias=True)
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 0.5)  # too little for a spike by itself
    late = torch.full((1, 2), math.exp(9.0))
    with pytest.raises(ValueError, match="first input spike of fc comes at 9 tau, and 8 tau are"):
        simulate_layer(CircuitParameters(), layer, late, name="fc")
    silent = simulate_layer(CircuitParameters(), layer, torch.full((1, 2), math.inf), name="fc")
    assert silent.lost == silent.extra == 0
    nn.init.constant_(layer.bias, 2.0)
    assert simulate_layer(CircuitParameters(), layer, late).ideal[0] == pytest.approx(math.log(2))


def test_layers_of_neighboring_seeds_share_no_noise() -> None:
    seeds = [_layer_seed(seed, number) for seed in range(4) for number in range(4)]
    assert len(set(seeds)) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
