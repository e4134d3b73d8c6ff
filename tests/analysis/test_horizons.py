import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from support.runs import LEARNING, digits
from ttfs_fast.analysis.horizons import find_horizons, set_horizons_
from ttfs_fast.layers import SpikeCounter, spiking_layers, watch_layers
from ttfs_fast.models import mnist_scnn, vgg_stack
from ttfs_fast.nn import SpikingLinear
from ttfs_fast.optim.centering import center_weights_
from ttfs_fast.training import LogLines, TrainConfig, load_model, train

DIGITS = digits(90, 40, epochs=2, seed=5, **LEARNING)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return center_weights_(vgg_stack(4, width=0.5, in_channels=3, image_size=(16, 16)))


def images(seed: int = 1) -> Tensor:
    return (1.5 * torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(seed))).exp()


def shares(model: nn.Module, values: Tensor) -> dict[str, float]:
    counter = SpikeCounter()
    with torch.no_grad(), watch_layers(model, counter):
        model(values)
    return counter.spikes_per_neuron_by_layer


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.2])
def test_each_layer_spikes_with_the_requested_fraction(fraction: float) -> None:
    model = network()
    before = model(images())
    horizons = find_horizons(model, images(), fraction)
    assert torch.equal(model(images()), before)  # left as it is
    set_horizons_(model, horizons)
    *inner, last = shares(model, images()).values()
    assert inner == pytest.approx([fraction] * len(inner), abs=0.01)
    assert last > 0.5
    assert math.isinf(horizons[-1])
    other = list(shares(model, images(9)).values())[:-1]
    assert other == pytest.approx(inner, abs=0.1)  # images of the same kind


def test_a_fraction_of_1_changes_nothing() -> None:
    model = network()
    assert find_horizons(model, images(), 1.0) == [math.inf] * len(spiking_layers(model))


def test_find_horizons_rejects_invalid_arguments() -> None:
    model = network()
    for fraction in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="fraction must be above 0"):
            find_horizons(model, images(), fraction)
    with pytest.raises(ValueError, match=r"4 spiking layers .*got 2 horizons"):
        set_horizons_(model, [1.0, 2.0])
    with pytest.raises(ValueError, match="no output spikes"):
        find_horizons(model, torch.full((1, 3, 16, 16), math.inf), 0.5)
    with pytest.raises(ValueError, match="give one of the two"):
        TrainConfig(t_max=3.0, horizons=(1.0,))
    with pytest.raises(ValueError, match="spiking neurons"):
        TrainConfig(neuron="relu", horizons=(1.0,))
    with pytest.raises(ValueError, match="horizons must be"):
        TrainConfig(horizons=(math.nan,))


def test_initial_checkpoint_of_a_network_with_horizons(tmp_path: Path) -> None:
    first = train(DIGITS, tmp_path / "first")
    values = (3 * torch.rand(20, 1, 28, 28, generator=torch.Generator().manual_seed(2))).exp()
    horizons = tuple(find_horizons(first.model, values, 0.6))
    further = dataclasses.replace(
        DIGITS,
        initial_checkpoint=str(first.weights_path),
        horizons=horizons,
        epochs=1,
        lr=1e-9,
        min_lr=1e-9,
    )
    told: list[str] = []
    second = train(further, tmp_path / "second", callback=LogLines(told.append))
    (line,) = (line for line in told if "was trained with" in line)
    assert line.endswith(f"was trained with horizons (); this run uses {horizons}")
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert second.evaluation.spikes_per_neuron < 0.8 < first.evaluation.spikes_per_neuron

    again, config = load_model(second.weights_path)
    assert config.horizons == horizons
    for model in (again, mnist_scnn(weights=second.weights_path)):
        assert [layer.t_max for layer in spiking_layers(model).values()] == list(horizons)
        assert torch.equal(model(values), second.model(values))
    plain = mnist_scnn(weights=second.weights_path, t_max=math.inf)
    assert plain(values).isfinite().all()


def test_initial_checkpoint_with_centered_weights(tmp_path: Path) -> None:
    deep = dataclasses.replace(
        DIGITS, model="vgg4", width=0.5, relative_lr=True, epochs=1, ema_decay=0.9, alpha=1.5
    )
    first = train(deep, tmp_path / "first")
    start = str(first.weights_path)
    still = dataclasses.replace(deep, initial_checkpoint=start, lr=1e-9, min_lr=1e-9)
    second = train(still, tmp_path / "second")
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"another network, vgg4 of width 0.5 with neuron=spiking for digits"
    ):
        train(dataclasses.replace(DIGITS, initial_checkpoint=start), tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        train(dataclasses.replace(DIGITS, initial_checkpoint="none"), tmp_path / "third")


def test_modules_in_another_order_than_they_run_are_refused() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = SpikingLinear(4, 2), SpikingLinear(3, 4)
            for layer in (self.last, self.first):
                nn.init.uniform_(layer.weight, 0.5, 1.5)

        def forward(self, z: Tensor) -> Tensor:
            return self.last(self.first(z))

    with pytest.raises(ValueError, match="of the modules is first, but the last to run is last"):
        find_horizons(Turned(), 1 + torch.rand(8, 3), 0.25)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.75])
def test_equal_spikes_stay_or_go_together(fraction: float) -> None:
    """The network with these horizons has the spikes that the search counted, and no more."""
    model = nn.Sequential(SpikingLinear(6, 8), SpikingLinear(8, 4))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in model:
            layer.weight.uniform_(0.2, 1.2, generator=generator)
    rows = (2 * torch.rand(5, 6, generator=generator)).exp()
    values = rows.repeat_interleave(7, dim=0)  # seven equal fields each
    set_horizons_(model, find_horizons(model, values, fraction))
    with torch.no_grad():
        kept = model[0](values).isfinite()
    assert 0 < kept.double().mean() <= fraction
    # One more group of equal spikes would be too many.
    assert kept.sum() + 7 > int(fraction * kept.numel())
