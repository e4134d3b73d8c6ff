"""A module that stands at two places of a network counts as two layers."""

import copy
import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from support.spikes import random_spikes
from ttfs_fast import quantization
from ttfs_fast.analysis import diagnose, evaluate, spike_timing
from ttfs_fast.analysis.horizons import find_horizons, set_horizons_
from ttfs_fast.analysis.plotting import _record
from ttfs_fast.analysis.robustness import Perturbation, draw_generator, perturbed
from ttfs_fast.circuit.network import simulate_network
from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Encoding
from ttfs_fast.geometry import tap_fractions
from ttfs_fast.horizon import HorizonLinear, fold_horizons_, unfold_horizons_
from ttfs_fast.layers import SpikeCounter, watch_layers
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.optim.centering import center_weights_
from ttfs_fast.paper.table4 import dequantized_model
from ttfs_fast.training import TrainConfig, load_model, train

LAYERS = ["0", "2", "5", "6", "7"]


def network() -> nn.Sequential:
    """A convolution and a pool at two places, then a dense layer at two."""
    conv, pool, dense = SpikingConv2d(2, 2, 3, padding=1), SpikingMaxPool2d(2), SpikingLinear(8, 8)
    model = nn.Sequential(conv, pool, conv, pool, nn.Flatten(), dense, dense, SpikingLinear(8, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.1, 0.5)
    model.encoding = Encoding()  # type: ignore[assignment]
    return model


def counterpart(model: nn.Sequential) -> nn.Sequential:
    """The same network with a module of its own at each place."""
    apart = nn.Sequential(*map(copy.deepcopy, model))
    apart.encoding = model.encoding
    return apart


@pytest.fixture
def image_set(seed: int) -> ImageSet:
    pixels = torch.randint(0, 256, (6, 2, 8, 8), dtype=torch.uint8).numpy()
    return ImageSet(pixels, np.arange(6), "noise", tuple("abcdefghij"))


spikes = partial(random_spikes, latest=1.5)


def test_evaluation_counts_both_places(image_set: ImageSet) -> None:
    model = network()
    found, expected = (evaluate(m, image_set).to_dict() for m in (model, counterpart(model)))
    del found["images_per_second"], expected["images_per_second"]
    assert list(found["spikes_per_neuron_by_layer"]) == LAYERS
    assert found["neurons"] == 2 * 64 + 2 * 16 + 8 + 8 + 10
    assert found["weights"] == 2 * 36 + 2 * 64 + 80
    assert found == expected


def test_spike_timing_and_pictures_show_both_places(image_set: ImageSet) -> None:
    model = network()
    found, expected = (
        dataclasses.asdict(spike_timing(m, image_set)) for m in (model, counterpart(model))
    )
    np.testing.assert_equal(found, expected)
    pixels = image_set.images[0]
    found, expected = (_record(m, pixels, m.encoding) for m in (model, counterpart(model)))
    assert [name for name, _ in found[0]] == ["input", *LAYERS]
    np.testing.assert_equal(found, expected)


def test_diagnosis_has_a_row_for_each_place(seed: int) -> None:
    model, batch = network(), (spikes(6, 2, 8, 8), torch.arange(6))
    rows, expected = diagnose(model, batch).layers, diagnose(counterpart(model), batch).layers
    assert [row.name for row in rows] == LAYERS
    for row, other in zip(rows, expected, strict=True):
        same = dataclasses.replace(row, weight_gradient=other.weight_gradient, issues=())
        assert same == dataclasses.replace(other, issues=())
    assert rows[0].weight_gradient == rows[1].weight_gradient


def test_integer_network_is_that_of_two_layers(image_set: ImageSet) -> None:
    model = network()
    with torch.no_grad():  # spike values grow by 1.1 / (1.1 - 1) with every convolution
        model[0].weight.copy_(1.1 * nn.init.dirac_(torch.empty(2, 2, 3, 3)))
        model[0].bias.zero_()
    how = {"input_size": (2, 8, 8), "bits": 8}
    units = quantization.calibrate_time_scales(model, image_set.images, 8)
    assert units == quantization.calibrate_time_scales(counterpart(model), image_set.images, 8)
    assert len(set(units)) > 1  # so that it matters which layer has which
    net = quantization.convert(model, time_bits=8, time_scales=units, **how)  # type: ignore[arg-type]
    other = quantization.convert(counterpart(model), time_bits=8, time_scales=units, **how)  # type: ignore[arg-type]
    assert net.to_bytes() == other.to_bytes()
    assert (net(image_set.images) < net.silent).any()
    values = spikes(6, 2, 8, 8)
    assert torch.equal(
        dequantized_model(net, model)(values), dequantized_model(net, counterpart(model))(values)
    )


def test_circuits_take_both_places_apart(image_set: ImageSet) -> None:
    model = network()
    found, expected = (
        simulate_network(m, image_set, images=2) for m in (model, counterpart(model))
    )
    assert list(found.layers) == LAYERS
    np.testing.assert_equal(dataclasses.asdict(found), dataclasses.asdict(expected))


@pytest.mark.parametrize(
    "disturbance",
    [
        Perturbation(stuck_silent=0.3, stuck_early=0.2),
        Perturbation(dropped=0.3, output_jitter=0.1, t_max=1.5),
    ],
)
def test_disturbances_apply_at_both_places(disturbance: Perturbation, seed: int) -> None:
    model, values = network(), spikes(6, 2, 8, 8)
    outputs = []
    for m in (model, counterpart(model)):
        with torch.no_grad(), perturbed(m, disturbance, draw_generator(1, 2)):
            outputs.append(m(values))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], model(values))


def test_output_layers_at_a_second_place_are_not_disturbed(seed: int) -> None:
    layer = SpikingLinear(8, 8)
    model = nn.Sequential(layer, SpikingLinear(8, 8), layer)
    values = torch.rand(5, 8).exp()
    with torch.no_grad(), perturbed(model, Perturbation(stuck_early=1.0), draw_generator(1, 2)):
        found = model(values)
    assert torch.equal(found, layer(torch.ones(5, 8)))


def test_disturbing_a_network_whose_last_layer_is_not_the_last_to_run_is_refused() -> None:
    class Reversed(nn.Sequential):
        def forward(self, z: Tensor) -> Tensor:
            for layer in reversed(list(self)):
                z = layer(z)
            return z

    model = Reversed(SpikingLinear(8, 8), SpikingLinear(8, 8))
    with (
        pytest.raises(ValueError, match=r"modules is 1, but the last to run is 0: register"),
        perturbed(model, Perturbation(dropped=0.5), draw_generator(1, 2)),
    ):
        model(torch.rand(5, 8).exp())
    with perturbed(model, Perturbation(output_jitter=0.1), draw_generator(1, 2)):
        assert model(torch.rand(5, 8).exp()).shape == (5, 8)  # disturbs all layers alike


def test_noise_on_shared_weights_is_removed(seed: int) -> None:
    model = nn.Sequential(SpikingLinear(8, 8), SpikingLinear(8, 8))
    model[1].weight = model[0].weight
    before = copy.deepcopy(model.state_dict())
    with perturbed(model, Perturbation(weight_snr=0.0), draw_generator(1, 2)):
        assert not torch.equal(model[0].weight, before["0.weight"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_horizons_of_a_layer_that_runs_twice_are_refused(seed: int) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"^the layer 2 runs more than once, but has one horizon"):
        find_horizons(model, spikes(6, 2, 8, 8), 0.5)
    set_horizons_(model, [1.0, 2.0, math.inf])  # one a layer, whatever its places
    assert [layer.t_max for layer in (model[2], model[6], model[7])] == [1.0, 2.0, math.inf]


def test_centered_weights_know_the_borders_of_both_places() -> None:
    conv = SpikingConv2d(2, 2, 3, padding=1)
    center_weights_(nn.Sequential(conv, SpikingMaxPool2d(2), conv), (2, 8, 8), total=4.0)
    (wide, _), (narrow, _) = (tap_fractions((size, size), 3, padding=1) for size in (8, 4))
    share = (64 * wide + 16 * narrow) / 80
    assert conv.weight.sum((1, 2, 3)).tolist() == pytest.approx([4 / share] * 2)


def test_each_run_has_a_name() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = SpikingLinear(4, 4)

        def forward(self, z: Tensor) -> Tensor:
            return self.fc(self.fc(self.fc(z)))  # type: ignore[no-any-return]

    model, counter = Loop(), SpikeCounter()
    with torch.no_grad(), watch_layers(model, counter):
        for _ in range(2):
            model(torch.rand(3, 4).exp())
        model.fc(torch.rand(5, 4).exp())  # a part of the model, by itself
    assert counter.neurons == {"fc": 24 + 20, "fc (run 2)": 24, "fc (run 3)": 24}


def test_hooks_are_gone_after_the_block() -> None:
    model = network()

    def fail(*arguments: Any) -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError), watch_layers(model, fail):
        model(spikes(6, 2, 8, 8))
    assert model(spikes(6, 2, 8, 8)).shape == (6, 10)


def test_training_stores_them_under_each_name(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (30, 2, 8, 8), dtype=torch.uint8)
    data = TensorDataset(pixels, torch.arange(30) % 10)
    config = TrainConfig(epochs=1, val_images=10, threads=1)
    result = train(config, tmp_path / "run", model=network, data=data)
    again, _ = load_model(result.weights_path, model=network)
    assert again[0] is again[2]
    z = spikes(4, 2, 8, 8)
    assert torch.equal(again(z), result.model(z))
    assert again(z).isfinite().float().mean() > 0.5


class TwoNames(nn.Module):
    """A layer with a horizon that one module holds under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.left = self.right = HorizonLinear(6, 6, t_in=0.01, normalization="none")

    def forward(self, z: Tensor) -> Tensor:
        return self.left(z) + self.right(z)


def test_a_layer_under_two_names_of_a_module_is_folded_at_both() -> None:
    model = TwoNames()
    z = (0.01 * torch.rand(5, 6)).exp()
    expected = model(z)
    fold_horizons_(model)
    assert isinstance(model.left, nn.Sequential)
    assert model.right is model.left
    torch.testing.assert_close(model(z), expected)
    unfold_horizons_(model)
    assert isinstance(model.left, HorizonLinear)
    assert model.right is model.left
    torch.testing.assert_close(model(z), expected)
