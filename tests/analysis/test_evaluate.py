import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ttfs_fast import quantization
from ttfs_fast.analysis import (
    EvaluationResult,
    Limits,
    check_limits,
    count_on_images,
    decide,
    evaluate,
    spike_timing,
)
from ttfs_fast.analysis.evaluate import Tally
from ttfs_fast.data import ImageSet, load
from ttfs_fast.encoding import Encoding
from ttfs_fast.layers import predict
from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import SpikingLinear
from ttfs_fast.paper.studies import DepthStudy
from ttfs_fast.paper.studies.depth import train_one


def with_encoding(model: nn.Sequential) -> nn.Sequential:
    model.encoding = Encoding()  # type: ignore[assignment]
    return model


def two_neurons(weights: list[list[float]]) -> nn.Sequential:
    layer = SpikingLinear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
    return with_encoding(nn.Sequential(nn.Flatten(), layer))


def pixel_pairs(*pairs: tuple[int, int, int]) -> ImageSet:
    """Images of two pixels: left, right, label."""
    pixels = np.array([pair[:2] for pair in pairs], dtype=np.uint8).reshape(-1, 1, 1, 2)
    return ImageSet(pixels, np.array([p[2] for p in pairs], dtype=np.int64), "pairs", ("l", "r"))


def test_statistics_by_hand() -> None:
    # Neuron j hears pixel j alone, with weight 3: it spikes at z = 3 z_in / 2 (equation 4).
    model = two_neurons([[3.0, 0.0], [0.0, 3.0]])
    images = pixel_pairs((255, 0, 0), (0, 255, 1), (255, 51, 1), (51, 255, 1))
    result = evaluate(model, images, encoding=Encoding(2.0), batch_size=3)
    assert result.confusion.tolist() == [[1, 0, 0], [1, 2, 0]]
    assert (result.images, result.correct, result.accuracy) == (4, 3, 0.75)
    assert result.first_spike_time == pytest.approx(math.log(1.5), rel=1e-5)
    assert (result.silent_images, result.spikes_per_neuron) == (0, 1.0)
    assert (result.weights, result.neurons, result.spikes_per_image) == (4, 2, 2.0)
    assert result.energy_by_weights == pytest.approx(4 * 1.0 * 10e-12)
    assert result.energy_by_spikes == pytest.approx(2 * 10e-12)
    assert result.images_per_second > 0


def test_mirror_images_decide_together() -> None:
    # Neuron 0 spikes ln 1.5 after the left pixel, neuron 1 ln 2 after the right one.
    model = two_neurons([[3.0, 0.0], [0.0, 2.0]])
    images = pixel_pairs((255, 0, 0), (0, 255, 0))
    alone = evaluate(model, images, encoding=Encoding(2.0))
    assert alone.answers.tolist() == [0, 1]
    both = evaluate(model, images, encoding=Encoding(2.0), mirror=True)
    assert both.answers.tolist() == [0, 0]
    assert both.first_spike_time == pytest.approx(math.log(1.5) + 1.0, rel=1e-5)
    assert (both.images, both.views, alone.views) == (2, 2, 1)
    assert (both.neurons, both.spikes_per_neuron, both.spikes_per_image) == (2, 1.0, 4.0)
    assert both.energy_by_weights == pytest.approx(2 * alone.energy_by_weights)
    # A horizon silences the neuron of the dark pixel, so each neuron is silent in one view.
    model[1].t_max = 1.5
    silent = evaluate(model, images, encoding=Encoding(2.0), mirror=True)
    assert silent.answers.tolist() == [-1, -1]
    assert silent.spikes_per_neuron == 0.5


@pytest.mark.parametrize(
    "run",
    [
        evaluate,
        spike_timing,
        lambda model, images: decide(model, images.images),
        lambda model, images: count_on_images(model, images, 2),
        lambda model, images: check_limits(model, (1, 1, 2), Limits(fan_in=9)),
    ],
)
def test_every_module_keeps_its_mode(run: Callable[[nn.Module, ImageSet], object]) -> None:
    """Of a network in training, some modules may be in evaluation, such as a frozen dropout."""
    model = two_neurons([[3.0, 0.0], [0.0, 3.0]])
    model.append(nn.Dropout(0.5).eval())
    seen: set[tuple[bool, bool]] = set()
    model[2].register_forward_hook(
        lambda *_: seen.add((model.training, torch.is_grad_enabled())),
    )
    run(model, pixel_pairs((255, 0, 0), (0, 255, 1)))
    assert seen == {(False, False)}
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_silent_neurons_and_silent_images() -> None:
    # Neuron 1's weights sum to less than 1: it never spikes. Neuron 0 needs both pixels bright
    # within the horizon: z = 2 (z_0 + z_1) / 3.
    layer = SpikingLinear(2, 2, bias=False, t_max=1.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 2.0], [0.25, 0.25]]))
    model = with_encoding(nn.Sequential(nn.Flatten(), layer))
    images = pixel_pairs((255, 255, 0), (255, 255, 1), (0, 0, 0), (0, 0, 1))
    result = evaluate(model, images)
    assert result.confusion.tolist() == [[1, 0, 1], [1, 0, 1]]
    assert (result.correct, result.silent_images, result.silent_fraction) == (1, 2, 0.5)
    assert result.spikes_per_neuron == 0.25
    assert result.spikes_per_neuron_by_layer == {"1": 0.25}
    assert result.first_spike_time == pytest.approx(math.log(4 / 3), rel=1e-5)
    assert result.energy_by_weights == pytest.approx(4 * 0.25 * 10e-12)
    assert result.energy_by_spikes == pytest.approx(0.5 * 10e-12)


def test_a_network_without_spiking_layers_has_no_spike_times() -> None:
    model = with_encoding(nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
    result = evaluate(model, pixel_pairs((255, 0, 0), (0, 255, 1)))
    assert (result.images, result.correct, result.silent_images) == (2, 2, 0)
    assert math.isnan(result.spikes_per_neuron)
    assert math.isnan(result.first_spike_time)


def test_evaluate_network_without_spikes() -> None:
    result = evaluate(two_neurons([[0.1, 0.1], [0.1, 0.1]]), pixel_pairs((9, 9, 0), (1, 2, 1)))
    assert (result.accuracy, result.spikes_per_neuron, result.silent_fraction) == (0.0, 0.0, 1.0)
    assert math.isnan(result.first_spike_time)
    assert result.to_dict()["first_spike_time"] is None


def test_prediction_is_the_first_spike_or_none() -> None:
    inf = math.inf
    output = torch.tensor([[3.0, 2.0, inf], [inf, inf, inf], [inf, inf, 9.0], [2.0, 2.0, 2.0]])
    assert predict(output).tolist() == [1, -1, 2, 0]


def test_evaluate_does_not_change_the_model() -> None:
    model = two_neurons([[3.0, 0.0], [0.0, 3.0]])
    model.train()
    evaluate(model, pixel_pairs((255, 0, 0)))
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())


def test_evaluate_reports_progress() -> None:
    seen: list[int] = []
    images = pixel_pairs(*[(255, 0, 0)] * 5)
    evaluate(two_neurons([[3.0, 0], [0, 3.0]]), images, batch_size=2, on_progress=seen.append)
    assert seen == [2, 4, 5]


def test_evaluate_rejects_invalid_arguments() -> None:
    model = two_neurons([[3.0, 0.0], [0.0, 3.0]])
    with pytest.raises(ValueError, match="no images"):
        evaluate(model, pixel_pairs())
    with pytest.raises(ValueError, match="batch_size"):
        evaluate(model, pixel_pairs((1, 2, 0)), batch_size=0)
    with pytest.raises(ValueError, match="2 classes"):
        evaluate(
            with_encoding(nn.Sequential(nn.Flatten(), SpikingLinear(2, 3))), pixel_pairs((1, 2, 0))
        )


def test_a_network_without_spikes_has_an_accuracy_only() -> None:
    linear = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
    result = evaluate(
        with_encoding(nn.Sequential(nn.Flatten(), linear)), pixel_pairs((200, 100, 0))
    )
    assert result.correct == 1  # the earlier, brighter pixel has the smaller value
    assert math.isnan(result.spikes_per_neuron)
    assert (result.weights, result.neurons) == (0, 0)
    assert result.to_dict()["spikes_per_neuron"] is None


def test_standardized_images(seed: int) -> None:
    """With standardized images the brightness has no effect."""
    model = two_neurons([[3.0, 0.0], [0.0, 3.0]])
    pairs = pixel_pairs((250, 240, 0), (20, 10, 0), (10, 20, 1))
    standardized = evaluate(model, pairs, encoding=Encoding(standardize=True))
    assert standardized.correct == 3
    one = evaluate(model, pixel_pairs((250, 240, 0)), encoding=Encoding(standardize=True))
    other = evaluate(model, pixel_pairs((20, 10, 0)), encoding=Encoding(standardize=True))
    assert one.first_spike_time == pytest.approx(other.first_spike_time, abs=1e-5)


def test_every_evaluation_counts_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float networks, of integer networks, and in the study of depth."""
    images = load("digits", train=False)
    images = dataclasses.replace(images, images=images.images[:30], labels=images.labels[:30])
    colored = ImageSet(
        np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32)).astype(np.uint8),
        np.arange(20) % 10,
        "colored",
        tuple("abcdefghij"),
    )
    counted: list[int] = []
    real = Tally.result

    def result(self: Tally, *arguments: Any) -> EvaluationResult:
        counted.append(self.images)
        return real(self, *arguments)

    monkeypatch.setattr(Tally, "result", result)
    model = mnist_scnn(pretrained=True)
    floating = evaluate(model, images)
    integer = quantization.evaluate(quantization.convert(model, 8), images)
    assert counted == [30, 30]
    assert integer.neurons == floating.neurons
    assert integer.weights == floating.weights
    assert abs(integer.correct - floating.correct) <= 2
    assert integer.spikes_per_neuron == pytest.approx(floating.spikes_per_neuron, abs=0.02)
    assert integer.first_spike_time == pytest.approx(floating.first_spike_time, abs=0.02)
    study = DepthStudy(depths=(4,), width=0.25, epochs=1, batch_size=10)
    train_one(study, "relu", 4, 0, colored, colored)
    assert counted[2:] == [20, 20]  # after half of the steps, and at the end


def test_nan_is_not_silence() -> None:
    model = nn.Sequential(nn.Flatten(), SpikingLinear(784, 10))
    with torch.no_grad():
        model[1].weight[3, 0] = math.nan
    digits = load("digits", train=False)
    few = dataclasses.replace(digits, images=digits.images[:3], labels=digits.labels[:3])
    for run in (evaluate, spike_timing):
        with pytest.raises(ValueError, match="the network gives NaN: look for NaN among"):
            run(model, few, encoding=Encoding())
    with pytest.raises(ValueError, match="the network gives NaN"):
        decide(model, few.images, encoding=Encoding())
