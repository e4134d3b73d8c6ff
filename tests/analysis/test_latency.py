import math

import numpy as np
import pytest
import torch
from torch import nn

from ttfs_fast.analysis import evaluate, spike_timing
from ttfs_fast.analysis.plotting import spike_raster
from ttfs_fast.data import ImageSet, load
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import SpikingLinear


def test_times_by_hand() -> None:
    """Two pixels; neurons 0 and 1 get one each with weight 3, neuron 2 never spikes."""
    layer = SpikingLinear(2, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.25, 0.25]]))
    model = nn.Sequential(nn.Flatten(), layer)
    pixels = np.array([[[[255, 0]]], [[[0, 0]]]], np.uint8)
    images = ImageSet(pixels, np.array([0, 1]), "two", ("left", "right", "none"))
    found = spike_timing(model, images, encoding=Encoding(2.0), max_time=4.0, bins=4, batch_size=1)
    late = math.log(1.5)
    np.testing.assert_allclose(found.decision, [late, 2 + late], rtol=1e-6)
    np.testing.assert_allclose(found.margin, [2.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(found.last, [2 + late, 2 + late], rtol=1e-6)
    assert found.correct.tolist() == [True, False]  # of two at once the first wins
    assert list(found.histograms) == ["input", "1"]
    assert found.histograms["input"].tolist() == [1, 0, 3, 0]
    assert found.histograms["1"].tolist() == [1, 0, 3, 0]
    assert found.silent == {"input": 0, "1": 2}
    assert (found.spikes, found.spikes_by_decision) == (4, 3)
    assert found.fraction_by_decision == 0.75
    grid = np.array([0.0, 0.5, 2.0, 3.0])
    assert found.decided(grid).tolist() == [0.0, 0.5, 0.5, 1.0]
    assert found.decided_right(grid).tolist() == [0.0, 0.5, 0.5, 0.5]


def test_latency_agrees_with_the_evaluation() -> None:
    torch.manual_seed(0)
    model, digits = mnist_scnn(), load("digits", train=False)
    evaluation = evaluate(model, digits)
    seen: list[int] = []
    timing = spike_timing(model, digits, on_progress=seen.append)
    assert seen == [200, 360]
    assert float(timing.decision.mean()) == pytest.approx(evaluation.first_spike_time)
    assert int(timing.correct.sum()) == evaluation.correct
    neurons = {name: counts for name, counts in timing.histograms.items() if name != "input"}
    total = sum(int(counts.sum()) for counts in neurons.values())
    assert total == evaluation.spikes_per_image * 360 == timing.spikes
    assert evaluation.spikes_per_neuron > 0.9
    assert 0 < timing.spikes_by_decision < timing.spikes
    assert (timing.last >= timing.decision).all()
    assert (timing.margin >= 0).all()


def test_images_without_a_decision() -> None:
    model = nn.Sequential(nn.Flatten(), SpikingLinear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.fill_(0.1)  # type: ignore[union-attr,operator]
    images = ImageSet(np.zeros((3, 1, 2, 2), np.uint8), np.zeros(3, np.int64), "dark", ("a", "b"))
    found = spike_timing(model, images, encoding=Encoding())
    assert (found.decision == math.inf).all()
    assert (found.last == -math.inf).all()
    assert not found.correct.any()
    assert math.isnan(found.fraction_by_decision)
    assert found.decided(np.array([8.0])).tolist() == [0.0]


@pytest.mark.parametrize("wrong", [{"bins": 0}, {"max_time": 0.0}, {"max_time": math.inf}])
def test_spike_timing_rejects_invalid_arguments(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        spike_timing(mnist_scnn(), load("digits", train=False), **wrong)  # type: ignore[arg-type]


def test_a_layer_may_be_called_input() -> None:
    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.flat, self.first = nn.Flatten(), name
            self.add_module(name, SpikingLinear(784, 20))
            self.last = SpikingLinear(20, 10)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.last(self.get_submodule(self.first)(self.flat(z)))

    digits = load("digits", train=False)
    digits = ImageSet(digits.images[:10], digits.labels[:10], "ten", digits.classes)
    found = []
    for name in ("hidden", "input"):
        torch.manual_seed(0)
        model = Named(name)
        found.append(spike_timing(model, digits, encoding=Encoding()))
        assert len(spike_raster(model, digits.images[0], encoding=Encoding()).axes) == 4
    one, other = found
    assert one.spikes == other.spikes > 100
    assert one.spikes_by_decision == other.spikes_by_decision
    np.testing.assert_array_equal(one.last, other.last)
    assert list(other.histograms) == ["input", "input (layer)", "last"]
    assert all(map(np.array_equal, one.histograms.values(), other.histograms.values()))
