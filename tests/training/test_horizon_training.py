"""Training of networks whose layers have horizons."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from support.horizons import SMALL
from support.runs import assert_same_run, assert_same_weights, interrupted
from ttfs_fast import quantization
from ttfs_fast.analysis import evaluate
from ttfs_fast.analysis.diagnose import diagnose
from ttfs_fast.analysis.robustness import Perturbation, evaluate_perturbed
from ttfs_fast.data import ImageSet, load
from ttfs_fast.encoding import Encoding, Polarity, encode
from ttfs_fast.horizon import (
    HorizonConv2d,
    estimate_statistics_,
    fold_horizons_,
    has_horizon_layers,
    horizon_layers,
)
from ttfs_fast.layers import spiking_layers
from ttfs_fast.loss import first_spike_cross_entropy
from ttfs_fast.models.pretrained import halve_file, pretrained_weights
from ttfs_fast.nir import to_graph
from ttfs_fast.training import TrainConfig, TrainResult, read_metadata, train, trainer
from ttfs_fast.training.build import ImageShape, load_model, make_model

AIRBENCH = dataclasses.replace(
    SMALL, model="cifar_airbench", width=1 / 16, whitening=True, average_pool=True
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return train(SMALL, tmp_path_factory.mktemp("horizon"))


def test_network_learns_and_exports_plain_layers(result: TrainResult) -> None:
    assert result.evaluation.accuracy > 0.9
    # Late neurons stay silent in the plain network.
    assert 0.2 < result.evaluation.spikes_per_neuron < 0.8
    assert not has_horizon_layers(result.model)
    model, config = load_model(result.weights_path)
    assert config == dataclasses.replace(SMALL, processes=1)
    assert not has_horizon_layers(model)
    horizons = {n: value for n, value in model.named_buffers() if n.endswith(".reference")}
    assert len(horizons) == 4
    for name, value in result.model.named_buffers():
        if name in horizons:  # in float64, of which a network in float32 rounds the last bits
            assert torch.equal(horizons[name], value)
            assert value.dtype == torch.float64
            assert value != value.float()
    images = first_digits(300)
    again = evaluate(model, images)
    assert again.correct == result.evaluation.correct
    assert again.spikes_per_neuron_by_layer == result.evaluation.spikes_per_neuron_by_layer


def test_exported_network_decides_as_the_trained_one(result: TrainResult) -> None:
    """Dense products in training, sorted spikes in the exported network: the same test accuracy."""
    assert abs(result.records[-1].test_accuracy - result.evaluation.accuracy) <= 1 / 300
    assert (
        abs(result.records[-1].test_spikes_per_neuron - result.evaluation.spikes_per_neuron) < 0.15
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "float32"},
        {"precision": "bfloat16", "hflip": True, "alternating_hflip": True},
        {"optimizer": "adam", "lr": 0.01},  # fused: its state must have the weights' layout
        {"optimizer": "sgd", "lr": 0.01},
    ],
)
def test_resumed_run_has_the_same_bits(changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("kornia", reason="needs the extra ttfs_fast[train]")
    config = dataclasses.replace(
        SMALL, epochs=2, train_images=200, crop=2, crop_padding="reflect", **changes
    )
    whole = train(config, tmp_path / "whole")
    with interrupted(trainer, "save_checkpoint"):
        train(config, tmp_path / "parts")
    parts = train(config, tmp_path / "parts", resume=True)
    assert_same_run(parts, whole)


def test_whitening_fills_the_first_convolution(tmp_path: Path) -> None:
    config = dataclasses.replace(AIRBENCH, epochs=1, train_images=100, test_images=50)
    result = train(config, tmp_path)
    weight = result.model.conv1[1].weight[:, :-1].flatten(1)
    cosine = torch.nn.functional.cosine_similarity(weight[:4], weight[4:], dim=1)
    assert torch.allclose(cosine, -torch.ones(4), atol=1e-5)  # both signs of each filter
    shared = result.model.fc1[1].weight[:, :-1].unflatten(1, (16, -1))
    assert shared.shape[2] > 1
    assert torch.equal(shared, shared[..., :1].expand_as(shared))  # by all positions of a map
    images = load("digits", train=False)
    z = encode(torch.from_numpy(images.images[:50]), alpha=config.alpha)
    answers = load_model(result.weights_path)[0](z).argmin(1).numpy()
    assert (answers == images.labels[:50]).sum() == result.evaluation.correct
    other = dataclasses.replace(config, model="vgg4", average_pool=False)
    with pytest.raises(ValueError, match="whitening 3 x 3 patches of 1 channels takes a convol"):
        train(other, tmp_path / "other")


@pytest.mark.parametrize("polarity", ["bright-first", "dark-first"])
@pytest.mark.parametrize("standardize", [False, True])
def test_whitened_outputs_have_mean_0(polarity: Polarity, standardize: bool) -> None:
    images = load("digits")
    dark = dataclasses.replace(images, images=images.images // 4)
    encoding = Encoding(0.01, polarity=polarity, standardize=standardize)
    layer = HorizonConv2d(1, 8, 2, t_in=0.01, normalization="none", dtype=torch.float64)
    trainer.whiten_first_(torch.nn.Sequential(layer), dark, encoding, count=300)
    lead = 1 - layer(encoding(dark.some(300).images_as_tensor().double() / 255)) / math.exp(
        layer.t_out
    )
    both = lead[:, :4] - lead[:, 4:]  # filters of both signs, each through its ReLU
    assert both.mean((0, 2, 3)).abs().max() < 1e-3 * both.std()


def test_mirrored_images_get_the_same_answer(tmp_path: Path) -> None:
    """By the exported network, its integers and the trained one, over an interruption."""
    digits = load("digits")
    images = np.pad(digits.images[:150, 0], ((0, 0), (2, 2), (2, 2)))
    examples = list(zip(images, digits.labels[:150].tolist(), strict=True))
    config = dataclasses.replace(
        AIRBENCH,
        dirac=True,
        mirrored_pairs=True,
        overlapping_pools=True,
        epochs=2,
        train_images=None,
        test_images=None,
    )
    data = (examples[:100], examples[100:])
    whole = train(config, tmp_path / "whole", data=data)
    with interrupted(trainer, "save_checkpoint"):
        train(config, tmp_path / "parts", data=data)
    parts = train(config, tmp_path / "parts", data=data, resume=True)
    assert_same_run(parts, whole)
    model, settings = load_model(whole.weights_path)
    assert settings.mirrored_pairs
    assert settings.overlapping_pools
    z = encode(torch.from_numpy(images[100:, None]), alpha=config.alpha)
    answers = model(z).argmin(1)
    assert (answers.numpy() == digits.labels[100:150]).sum() == whole.evaluation.correct
    assert len(answers.unique()) > 1
    exact, values = copy.deepcopy(model).double(), z.double()
    assert torch.allclose(exact(values.flip(-1)), exact(values), rtol=1e-11)
    assert exact(values).std(0).min() > 1e-6
    half = whole.model.conv2[1].weight[:, :-1]
    assert torch.equal(half[2:], half[:2].flip(-1).roll(4, 1))
    some = images[:, None]
    for bits in (8, 4):
        net = quantization.convert(model, bits, 8, input_size=(1, 32, 32), images=some)
        seen, turned = (net.classify(np.ascontiguousarray(x)) for x in (some, some[..., ::-1]))
        # Corrections of the biases come from these images, not from their mirror images.
        assert (seen == turned).mean() > 0.95
        assert len(np.unique(seen)) > 1


def test_a_batch_of_one_image_is_skipped(tmp_path: Path) -> None:
    """Of training, and of those that the statistics of averaged weights are taken from."""
    config = dataclasses.replace(
        SMALL, model="vgg8", epochs=1, train_images=257, test_images=50, batch_size=64
    )
    for average in (0.0, 0.9):
        config = dataclasses.replace(config, ema_decay=average)
        result = train(config, tmp_path / str(average))
        assert result.records[0].skipped_steps == 1
        assert all(value.isfinite().all() for value in result.model.state_dict().values())
        assert result.evaluation.silent_images == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "mnist_scnn", "width": 1.0}, "spiking neurons only. Choose another model"),
        ({"alpha": 88.0}, "the outputs' horizon, .* must be below 88.7"),
        ({"whitening": True}, "whitening 3 x 3 patches"),
        ({"average_pool": True}, "VGG stack of 4: average_pool is for a network whose global pool"),
        (
            {"mirrored_pairs": True},
            "VGG stack of 4: mirrored_pairs is for a network whose global pool",
        ),
    ],
)
def test_rejected_run_does_not_change_its_folder(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(SMALL, **change), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_wide_spikes_train_by_the_spiking_operator(tmp_path: Path) -> None:
    config = dataclasses.replace(
        SMALL,
        horizon_spread=0.2,
        alpha=0.5,
        logit_scale=8.0,
        epochs=1,
        train_images=200,
        ema_decay=0.0,
    )
    shape = ImageShape(1, 28, 28, 10)
    model = make_model(config, shape)
    z = encode(torch.rand(10, 1, 28, 28), alpha=0.5)
    model(z)
    assert sum(layer.fallbacks for layer in horizon_layers(model).values()) > 0
    assert train(config, tmp_path).evaluation.accuracy > 0.18  # chance: 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon_spread": 1.0}, "horizon_spread must be finite and above 0 and below 1"),
        ({"grad_accum_steps": 2}, "takes its statistics from whole batches"),
        ({"initial_checkpoint": "model.safetensors"}, "give optimizer adam, and a learning rate"),
        ({"t_max": 3.0}, "every layer has a horizon already"),
        ({"relative_lr": True}, 'relative_lr is for neuron="spiking"; got True'),
        ({"weight_norm": 3.0}, "weight_norm is for neuron=.*: give horizon_spread"),
        ({"polarity": "both"}, 'neuron="horizon" sees each pixel once'),
        ({"batch_size": 1}, "batch normalization needs a batch_size of at least 2"),
        ({"exclude_target": True}, "label_smoothing and exclude_target contradict each other"),
        ({"neuron": "spiking"}, 'horizon_spread is for neuron="horizon"; got 0.001'),
        ({"alternating_hflip": True}, "alternating_hflip says how hflip flips; give hflip, too"),
        ({"neuron": "spiking", "whitening": True}, 'whitening is for neuron="horizon"'),
        ({"neuron": "spiking", "average_pool": True}, 'average_pool is for neuron="horizon"'),
        ({"neuron": "spiking", "mirrored_pairs": True}, 'mirrored_pairs is for neuron="horizon"'),
        ({"overlapping_pools": True}, 'overlapping_pools is for model="cifar_airbench"'),
        ({"label_smoothing": 1.0}, "label_smoothing must be finite and at least 0 and below 1"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, auto"),
        ({"crop_padding": "white"}, "crop_padding must be one of black, reflect"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_spiking_layers_take_no_half_precision() -> None:
    with pytest.raises(ValueError, match='neuron="spiking" computes in float32'):
        TrainConfig(precision="bfloat16")


def test_the_relu_counterpart_trains_in_half_precision(tmp_path: Path) -> None:
    """With Muon, and Adam for its classifier, as the network with horizons."""
    config = dataclasses.replace(
        SMALL,
        neuron="relu-norm",
        precision="bfloat16",
        weight_sum=0.0,
        horizon_spread=TrainConfig.horizon_spread,
        logit_scale=1.0,
        lr=0.01,
    )
    half = train(config, tmp_path / "half")
    assert half.evaluation.accuracy > 0.8
    assert all(weight.dtype == torch.float32 for weight in half.model.parameters())
    whole = train(dataclasses.replace(config, precision="float32"), tmp_path / "whole")
    assert half.records[0].loss == pytest.approx(whole.records[0].loss, rel=0.05)
    assert half.records[0].loss != whole.records[0].loss
    model = make_model(config, ImageShape(1, 8, 8, 10))
    matrices, classifier = trainer.muon_groups(model)
    (weight,) = classifier["params"]
    assert weight.shape[0] == 10
    assert classifier["adam"]
    assert len(matrices["params"]) + 1 == len(list(model.parameters()))


def test_unsupported_features_are_refused(result: TrainResult) -> None:
    model, shape = result.model, (1, 28, 28)
    with pytest.raises(TypeError, match="conv1 belongs to a layer with a horizon, whose reference"):
        to_graph(model, shape)
    with pytest.raises(ValueError, match="is calibrated on images"):
        quantization.convert(model, bits=8, input_size=shape)
    with pytest.raises(ValueError, match=r"belongs to a folded layer.*unfold_horizons_"):
        quantization.prepare_qat_(copy.deepcopy(model))
    unfolded = make_model(SMALL, ImageShape(1, 28, 28, 10))
    with pytest.raises(ValueError, match="layer with a horizon"):
        spiking_layers(unfolded)
    with pytest.raises(ValueError, match="conv1 normalizes over batches"):
        quantization.prepare_qat_(unfolded)


@pytest.mark.parametrize(
    ("bits", "time_bits", "least"), [(8, 16, 0.97), (8, 8, 0.95), (4, 16, 0.93), (2, 16, 0.7)]
)
def test_integer_network_decides_as_the_trained_one(
    result: TrainResult, bits: int, time_bits: int, least: float, record_property: Any
) -> None:
    some = load("digits", train=True).images[:200]
    net = quantization.convert(result.model, bits, time_bits, input_size=(1, 28, 28), images=some)
    compared = quantization.compare(result.model, net, first_digits(300))
    record_property("agreement", compared.agreement)
    assert compared.agreement >= least


@pytest.mark.parametrize(
    ("bits", "time_bits", "off"), [(8, 16, 0.01), (8, 8, 0.02), (4, 16, 0.02), (2, 16, 0.02)]
)
def test_late_neurons_are_silent_in_integers(bits: int, time_bits: int, off: float) -> None:
    """On random weights: training ends at other weights on other processors."""
    generator = torch.Generator().manual_seed(2)
    model = make_model(SMALL, ImageShape(1, 28, 28, 10))
    for layer in horizon_layers(model).values():
        layer.weight.detach().normal_(generator=generator)
        layer.shift.detach().normal_(0.0, 0.5, generator=generator)
    some = load("digits", train=True).images[:200]
    estimate_statistics_(model, [model.encoding(torch.from_numpy(some).float() / 255)])
    plain = fold_horizons_(model).eval()
    images = first_digits(100)
    expected = evaluate(plain, images).spikes_per_neuron
    assert 0.2 < expected < 0.5
    net = quantization.convert(plain, bits, time_bits, input_size=(1, 28, 28), images=some)
    spikes = quantization.evaluate(net, images).spikes_per_neuron
    assert spikes == pytest.approx(expected, abs=off)


def first_digits(count: int) -> ImageSet:
    """The first test images."""
    images = load("digits", train=False)
    return dataclasses.replace(images, images=images.images[:count], labels=images.labels[:count])


def test_noise_and_diagnosis_take_the_exported_network(result: TrainResult) -> None:
    images = first_digits(100)
    clean = evaluate_perturbed(result.model, images, Perturbation())
    assert clean.accuracy > 0.85
    noisy = evaluate_perturbed(result.model, images, Perturbation(output_jitter=0.001))
    assert noisy.accuracy < clean.accuracy  # spikes lie within a thousandth of tau
    z = result.model.encoding(images.images_as_tensor())
    diagnosis = diagnose(result.model, (z, images.labels_as_tensor()))
    firing = [layer.firing for layer in diagnosis.layers]
    assert len(firing) == 4
    assert all(0.1 < share < 0.9 for share in firing[:-1])
    assert firing[-1] == 1


def test_label_smoothing_is_torchs(seed: int) -> None:
    z: Tensor = torch.rand(6, 4, dtype=torch.float64).exp()
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = first_spike_cross_entropy(z, target, scale=3.0, label_smoothing=0.2)
    expected = torch.nn.functional.cross_entropy(-3 * z.log(), target, label_smoothing=0.2)
    assert torch.allclose(loss, expected)
    with pytest.raises(ValueError, match="label_smoothing must be"):
        first_spike_cross_entropy(z, target, label_smoothing=-0.1)
    with pytest.raises(ValueError, match="contradict each other"):
        first_spike_cross_entropy(z, target, label_smoothing=0.1, exclude_target=True)


def test_weights_in_half_precision_decide_alike(result: TrainResult, tmp_path: Path) -> None:
    """The sums of weights stay what they were: rounding them would move the horizons."""
    half = tmp_path / "half.safetensors"
    assert halve_file(result.weights_path, half) < 0.6 * result.weights_path.stat().st_size
    model, _ = load_model(half)
    for name, layer in spiking_layers(model).items():
        sums = layer.weight.double().flatten(1).sum(1) + layer.bias.double()
        assert torch.allclose(sums, torch.full_like(sums, 2.0), atol=2e-6), name
    images = load("digits", train=False)
    z = encode(images.images_as_tensor()[:300], alpha=SMALL.alpha)
    assert (model(z).argmin(1) == result.model(z).argmin(1)).float().mean() > 0.99
    twice = tmp_path / "twice.safetensors"
    halve_file(half, twice)
    assert_same_weights(load_model(twice)[0], model)


def test_weights_of_own_networks_are_not_halved(result: TrainResult, tmp_path: Path) -> None:
    """They do not record the sum that completes them."""
    metadata = read_metadata(result.weights_path)
    config = TrainConfig(dataset="digits", model="own:network", neuron="horizon")
    own = tmp_path / "own.safetensors"
    own.write_bytes(save(result.model.state_dict(), metadata | {"config": config.to_json()}))
    with pytest.raises(ValueError, match=r"network of your own: only the networks of ttfs_fast"):
        halve_file(own, tmp_path / "half.safetensors")


def test_weights_without_horizons_are_not_halved(result: TrainResult, tmp_path: Path) -> None:
    with pretrained_weights("mnist_scnn") as path, pytest.raises(ValueError, match="no network wh"):
        halve_file(path, tmp_path / "half.safetensors")
    state = {name: value * 1e6 for name, value in result.model.state_dict().items()}
    large = tmp_path / "large.safetensors"
    large.write_bytes(save(state, read_metadata(result.weights_path)))
    with pytest.raises(ValueError, match="too large for float16"):
        halve_file(large, tmp_path / "half.safetensors")
    assert not (tmp_path / "half.safetensors").exists()
    broken = tmp_path / "broken.safetensors"
    weights = {k: v for k, v in result.model.state_dict().items() if not k.endswith("bias")}
    broken.write_bytes(save(weights, read_metadata(result.weights_path) | {"completed_sum": "2"}))
    with pytest.raises(ValueError, match="not weights of layers with horizons"):
        load_model(broken)


def tuning(start: TrainResult, config: TrainConfig = SMALL, **more: Any) -> TrainConfig:
    """Settings that train a network further."""
    rates = {"lr": 1e-3, "min_lr": 1e-5} | more
    where = str(start.weights_path)
    return dataclasses.replace(
        config, initial_checkpoint=where, optimizer="adam", epochs=2, **rates
    )


def test_a_trained_network_is_tuned(result: TrainResult, tmp_path: Path) -> None:
    """Its layers compute dense products again, with the statistics that are part of its weights."""
    still = train(tuning(result, lr=1e-12, min_lr=1e-12), tmp_path / "still")
    assert still.evaluation.correct == result.evaluation.correct
    for (name, found), expected in zip(
        still.model.state_dict().items(), result.model.state_dict().values(), strict=True
    ):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5), name
    config = tuning(result)
    tuned = train(config, tmp_path / "tuned")
    assert tuned.records[-1].loss < still.records[-1].loss
    assert tuned.evaluation.accuracy >= result.evaluation.accuracy - 0.01
    loaded, _ = load_model(tuned.weights_path)
    assert_same_weights(loaded, tuned.model)
    assert evaluate(loaded, load("digits", train=False)).accuracy > 0.9
    with interrupted(trainer, "save_checkpoint"):
        train(config, tmp_path / "stopped")
    # The run knows what it started from.
    again = dataclasses.replace(config, initial_checkpoint=None, optimizer="adam")
    assert_same_run(train(again, tmp_path / "stopped", resume=True), tuned)
    teacher = dataclasses.replace(config, epochs=1, teacher=str(result.weights_path))
    assert train(teacher, tmp_path / "taught").evaluation.accuracy > 0.9


def test_tuning_keeps_whitening_filters(tmp_path: Path) -> None:
    first = train(dataclasses.replace(AIRBENCH, epochs=1), tmp_path / "first")
    tuned = train(tuning(first, AIRBENCH), tmp_path / "tuned")
    layers = [list(spiking_layers(each.model).values()) for each in (first, tuned)]
    # The last input of a layer is the spike at the horizon, which holds the trained shifts.
    for place, (before, after) in enumerate(zip(*layers, strict=True)):
        same = torch.allclose(before.weight[:, :-1], after.weight[:, :-1], 1e-5, 1e-6)
        assert same == (place == 0), place
    assert tuned.records[-1].loss < first.records[-1].loss


def test_another_network_is_not_tuned(result: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"another weight_sum, alpha or delay: .* conv2\.0"):
        train(tuning(result, weight_sum=3.0), tmp_path / "run")
    with pytest.raises(ValueError, match="another weight_sum, alpha or delay"):
        train(tuning(result, alpha=0.02), tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds another network, vgg4 of width 0\.5"):
        train(tuning(result, width=0.25), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
