"""Quantized weights while training, conversion, and the commands."""

import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

from support.runs import assert_same_weights, copy_of_weights, interrupted
from ttfs_fast import quantization
from ttfs_fast.data import load
from ttfs_fast.encoding import Encoding, encode
from ttfs_fast.layers import predict
from ttfs_fast.models import cifar_scnn, mnist_scnn
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.optim.centering import center_weights_, fold_
from ttfs_fast.optim.clipping import clip_gradient_
from ttfs_fast.quantization import (
    FakeQuantize,
    QuantizeConfig,
    calibrate_thresholds,
    convert,
    dequantize_,
    freeze_codes_,
    prepare_qat_,
    recalibrate_,
)
from ttfs_fast.training import LogLines, TrainConfig, datasets
from ttfs_fast.training.batches import Chunk, EpochBatches

LEVELS = {8: 127, 4: 7, 2: 2}


def two_layers() -> nn.Sequential:
    return nn.Sequential(SpikingLinear(12, 9), SpikingLinear(9, 4))


def centered() -> nn.Module:
    return center_weights_(two_layers())


def normalized() -> nn.Module:
    """A weight computed from two tensors."""
    model = two_layers()
    weight_norm(model[1])
    return model


def pruned() -> nn.Module:
    """A weight that a hook computes before each forward pass."""
    model = two_layers()
    prune.random_unstructured(model[1], "weight", 0.5)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (centered, r"weight of 0 is computed by CenteredWeight: .*fold_"),
        (normalized, r"weight of 1 is computed by _WeightNorm: .*remove_parametrizations"),
        (pruned, r"weight of 1 is computed by a hook: .*prune.remove"),
    ],
)
def test_weights_that_are_computed_are_not_quantized(
    make: Callable[[], nn.Module], message: str
) -> None:
    model = make()
    before = model.state_dict()
    with pytest.raises(ValueError, match=message):
        prepare_qat_(model)
    assert model.state_dict().keys() == before.keys()
    if make is centered:
        plain = fold_(model)
        weights = [layer.weight.detach().clone() for layer in plain]
        prepare_qat_(plain)
        for layer, weight in zip(plain, weights, strict=True):
            torch.testing.assert_close(
                layer.weight, weight, atol=float(weight.abs().max()) / 90, rtol=0
            )


def test_a_quantized_weight_has_no_other_parametrization() -> None:
    model = prepare_qat_(two_layers())
    parametrize.register_parametrization(model[0], "weight", nn.Softplus())
    how = {"input_size": (12, 1, 1), "encoding": Encoding()}
    for use in (prepare_qat_, recalibrate_, freeze_codes_, dequantize_, convert):
        with pytest.raises(ValueError, match="parametrized by FakeQuantize, Softplus"):
            use(model, **(how if use is convert else {}))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_a_state_dict_carries_the_bits(bits: int, frozen: bool) -> None:
    """Loaded into a network of other bits, weights are what they were."""
    torch.manual_seed(bits)
    model = prepare_qat_(two_layers(), bits)
    z = torch.rand(40, 12).exp()
    if frozen:
        freeze_codes_(model)
    for other_bits in (8, 4, 2):
        other = prepare_qat_(two_layers(), other_bits)
        if frozen:
            freeze_codes_(other)
        state = safetensors.torch.load(safetensors.torch.save(model.state_dict()))
        other.load_state_dict(state)
        assert torch.equal(other(z), model(z))
        assert torch.equal(other[0].weight, model[0].weight)
        nets = [
            convert(network, input_size=(12, 1, 1), encoding=Encoding())
            for network in (other, model)
        ]
        assert nets[0].to_bytes() == nets[1].to_bytes()
    del state["0.parametrizations.weight.0._extra_state"]
    with pytest.raises(RuntimeError, match="_extra_state"):
        other.load_state_dict(state)


@given(st.sampled_from([8, 4, 2]), st.integers(0, 2**31), st.sampled_from([1e-3, 0.3, 40.0, 1e4]))
@settings(max_examples=60)
def test_levels_and_thresholds(bits: int, seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 30, generator=generator, dtype=torch.float64) * size
    weight[1] = 0
    quantizer = FakeQuantize(bits, 5).double()
    quantizer.recalibrate(weight)
    theta = quantizer.theta
    assert torch.equal(theta, theta.round())
    assert 1 <= theta.min() <= theta.max() <= 1 << 20
    quantized = quantizer(weight)
    integers = quantized * theta[:, None]
    torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-6)
    allowed = {8: range(-127, 128), 4: range(-112, 113, 16), 2: (-96, -32, 32, 96)}[bits]
    assert set(integers.round().unique().int().tolist()) <= set(allowed)
    if bits == 8 and size <= 1:
        fine = weight.abs().amax(1, keepdim=True) / 100
        assert ((quantized - weight).abs() <= fine)[[0, 2, 3, 4]].all()


def test_thresholds_fit_better_than_the_largest_weight_alone() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 400)
    for bits, most in ((4, 0.02), (2, 0.13)):
        theta = calibrate_thresholds(weight, bits)
        quantizer = FakeQuantize(bits, 20)
        quantizer.recalibrate(weight)
        error = (quantizer(weight) - weight).square().mean() / weight.square().mean()
        assert error < most
        top = {4: 112, 2: 96}[bits]
        assert (theta > (top / weight.abs().amax(1)).floor()).all()
    with pytest.raises(ValueError, match="NaN or infinity"):
        calibrate_thresholds(torch.tensor([[1.0, math.nan]]), 8)


def test_gradient_goes_straight_through() -> None:
    torch.manual_seed(1)
    layer = SpikingLinear(30, 8)
    z = torch.rand(5, 30).mul(2).exp()
    full = layer.weight.detach().clone()
    assert prepare_qat_(layer, 4) is layer
    quantized = layer.weight.detach().clone()
    assert not torch.equal(quantized, full)
    out = layer(z)
    assert out.isfinite().all()
    out.log().sum().backward()
    original = layer.parametrizations.weight.original
    assert torch.equal(original, full)
    plain = SpikingLinear(30, 8)
    plain.load_state_dict({"weight": quantized, "bias": layer.bias.detach()})
    plain(z).log().sum().backward()
    assert plain.weight.grad.abs().max() > 0
    torch.testing.assert_close(original.grad, plain.weight.grad)
    prepare_qat_(layer, 2)  # other bits, the same weights behind them
    assert layer.parametrizations.weight.original is original
    assert len({round(v, 4) for v in layer.weight[0].tolist()}) <= 4
    with torch.no_grad():
        original.mul_(3)
    before = layer.parametrizations.weight[0].theta.clone()
    recalibrate_(layer)
    assert (layer.parametrizations.weight[0].theta < before).all()
    last = layer.weight.detach().clone()
    dequantize_(layer, keep_quantized=True)
    torch.testing.assert_close(layer.weight.detach(), last)
    with pytest.raises(ValueError, match="not prepared"):
        recalibrate_(layer)
    with pytest.raises(ValueError, match="no spiking layer, plain or with a horizon"):
        prepare_qat_(nn.ReLU())
    with pytest.raises(ValueError, match="8, 4 and 2"):
        prepare_qat_(two_layers(), 3)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_frozen_codes_stay_while_thresholds_are_trained(bits: int) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        SpikingConv2d(1, 6, 3), nn.Flatten(), SpikingLinear(6 * 4 * 4, 5, bias=False)
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.add_(2.0 / layer.weight[0].numel())
    z = torch.rand(8, 1, 6, 6).mul(2).exp()
    with pytest.raises(ValueError, match="not prepared"):
        freeze_codes_(model)
    full = [model[0].weight.detach().clone(), model[2].weight.detach().clone()]
    prepare_qat_(model, bits)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.parametrizations.weight.original.mul_(1.3)  # thresholds no longer fit
    refitted = recalibrate_(copy.deepcopy(model))
    model[0].parametrizations.weight.original.grad = torch.full((6, 1, 3, 3), math.inf)
    model[2].parametrizations.weight.original.requires_grad_(False)
    assert freeze_codes_(model) is model
    assert clip_gradient_(model) == 0.0  # nothing is left of steps before
    torch.testing.assert_close(model(z), refitted(z))
    before = [model[i].parametrizations.weight[0].codes.clone() for i in (0, 2)]
    theta = [model[i].parametrizations.weight[0].theta.clone() for i in (0, 2)]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert [p.shape for p in trained] == [(6,), (6,), (5,)]  # bias, thresholds, thresholds
    optimizer = torch.optim.Adam(trained, lr=0.02)
    losses = []
    for _ in range(20):
        output = model(z)
        assert output.isfinite().all()
        loss = (output.log() - 1.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    recalibrate_(model)  # leaves the thresholds as they were trained
    for i, codes, thresholds in zip((0, 2), before, theta, strict=True):
        quantizer = model[i].parametrizations.weight[0]
        assert torch.equal(quantizer.codes, codes)
        assert not torch.equal(quantizer.theta, thresholds)
        assert torch.equal(quantizer.theta, quantizer.theta.round())
        integers = model[i].weight * quantizer.theta.view(-1, *[1] * (model[i].weight.dim() - 1))
        torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-4)
    # What is converted is what was trained.
    network = convert(model, input_size=(1, 6, 6), encoding=Encoding(), time_scales=[1 / 256] * 3)
    for info, i in zip(network.layer_infos(), (0, 2), strict=True):
        assert info.bits == bits
        quantizer = model[i].parametrizations.weight[0]
        assert info.theta.tolist() == quantizer.theta.int().tolist()
    # Preparing it again lets the codes go; undoing it gives the weights back.
    prepare_qat_(model, 4)
    trained_again = [model[i].parametrizations.weight.original.requires_grad for i in (0, 2)]
    assert trained_again == [True, False]
    freeze_codes_(model)
    dequantize_(model)
    for i, weight in zip((0, 2), full, strict=True):
        torch.testing.assert_close(model[i].weight.detach(), weight * 1.3)
        assert model[i].weight.requires_grad == (i == 0)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_integers_follow_the_quantized_float_network(bits: int) -> None:
    """A network of every kind of layer, in float with quantized weights and in integers."""
    torch.manual_seed(bits)
    model = nn.Sequential(
        SpikingConv2d(2, 24, 3, padding="same"),
        SpikingMaxPool2d(2),
        SpikingConv2d(24, 16, 3, stride=2, padding=1, groups=2),
        nn.Flatten(),
        SpikingLinear(16 * 3 * 3, 10),
    )
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, SpikingConv2d | SpikingLinear):
                layer.weight.mul_(1 + 0.5 * torch.randn_like(layer.weight))
                layer.bias.fill_(0.125)
    prepare_qat_(model, bits)
    net = convert(model, input_size=(2, 11, 11), encoding=Encoding(), time_scales=1 / 1024)
    assert {info.bits for info in net.layer_infos()} == {0, bits}
    pixels = np.random.default_rng(0).integers(0, 256, (20, 2, 11, 11)).astype(np.uint8)
    with torch.no_grad():
        z = encode(torch.from_numpy(pixels))
        outputs = []
        for layer in model:
            z = layer(z)
            if not isinstance(layer, nn.Flatten):
                outputs.append(z.reshape(len(z), z.shape[1], -1).numpy())
    for codes, values in zip(net.layers(pixels), outputs, strict=True):
        codes = codes.reshape(values.shape)
        both = (codes < net.silent) & np.isfinite(values)
        assert both.mean() > 0.9
        assert (both == np.isfinite(values)).mean() > 0.99
        difference = np.abs(codes[both] / 1024 - values[both]) / values[both]
        assert np.median(difference) < 0.003
        assert (difference < 0.03).mean() > 0.98


def test_time_scales_of_the_layers() -> None:
    model = mnist_scnn(pretrained=True)
    one, several = convert(model), convert(model, time_scales=[1 / 256, 1 / 128, 1 / 64, 1 / 512])
    assert one.time_scales == [1 / 256] * 3
    assert several.time_scales == [1 / 128, 1 / 64, 1 / 512]
    pixels = np.random.default_rng(1).integers(0, 256, (30, 1, 28, 28)).astype(np.uint8)
    a, b = one.layers(pixels), several.layers(pixels)
    early = a[2] < 30000  # twice that is a code too
    assert early.mean() > 0.3
    assert np.median(np.abs(a[2][early] * 2.0 - b[2][early]) / a[2][early]) < 0.05
    assert convert(model, time_bits=8).encoders.max() < 255
    late = mnist_scnn(t_max=1.0)
    assert convert(late).layer_infos()[0].latest == math.floor(math.e * 256)
    for units, message in (
        ([1, 1], "2 numbers"),
        (-1.0, "positive"),
        (1e-6, "no spike code"),
        ([1e-2, 1e-7, 1, 1], "too far apart"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(model, time_scales=units)


@pytest.mark.parametrize("time_bits", [16, 8])
def test_calibrated_time_scales_have_codes_for_the_spikes(time_bits: int) -> None:
    model = mnist_scnn(pretrained=True)
    with torch.no_grad():  # weights that sum to 2 instead of 4: every layer spikes late
        for layer in (model.conv1, model.conv2, model.fc):
            layer.weight.mul_(0.5)
    images = load("digits", train=True).images[:40]
    default = convert(model, 8, time_bits)
    units = quantization.calibrate_time_scales(model, images, time_bits)
    calibrated = convert(model, 8, time_bits, time_scales=units)
    assert calibrated.encoders.tolist() == default.encoders.tolist()
    for unit, before in zip(calibrated.time_scales, default.time_scales, strict=True):
        assert unit >= before
        assert math.log2(unit / before).is_integer()
    last = [float((net.layers(images)[-1] < net.silent).mean()) for net in (default, calibrated)]
    assert last[1] > 0.9
    assert (last[0] < 0.5) == (time_bits == 8)  # 8-bit codes end before most outputs spike
    with pytest.raises(ValueError, match="fraction must be"):
        quantization.calibrate_time_scales(model, images, fraction=0.0)


def test_convert_rejects_unsupported_networks() -> None:
    with pytest.raises(TypeError, match="ReLU"):
        convert(nn.Sequential(nn.ReLU()))
    with pytest.raises(TypeError, match=r"nn\.Flatten"):
        convert(nn.Sequential(SpikingLinear(784, 10)), encoding=Encoding())
    with pytest.raises(ValueError, match=r"takes 700 inputs.*784"):
        convert(nn.Sequential(nn.Flatten(), SpikingLinear(700, 10)), encoding=Encoding())
    with pytest.raises(ValueError, match="takes 3 channels"):
        convert(nn.Sequential(SpikingConv2d(3, 4, 3)), encoding=Encoding())
    with pytest.raises(ValueError, match="bits"):
        convert(mnist_scnn(), bits=5)
    with pytest.raises(ValueError, match="time_bits"):
        convert(mnist_scnn(), time_bits=12)
    with pytest.raises(ValueError, match=r"^the horizon of layer 0, t_max=-6, comes before"):
        convert(mnist_scnn(t_max=-6.0))
    with pytest.raises(ValueError, match="does not standardize images"):
        QuantizeConfig(training=TrainConfig(dataset="cifar10", standardize=True))
    wide = SpikingConv2d(45000, 1, 1)
    nn.init.ones_(wide.weight)
    with pytest.raises(ValueError, match="overflow"):
        convert(nn.Sequential(wide), input_size=(45000, 1, 1), encoding=Encoding())


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-3])
def test_a_large_bias_beside_small_weights(size: float, bits: int, prepared: bool) -> None:
    """The bias alone fires the neuron, as in float: z = b / (b - 1)."""
    layer = SpikingLinear(4, 6)
    with torch.no_grad():
        layer.weight.fill_(size)
        layer.bias.copy_(torch.tensor([4.5, 40.0, 3000.0, -3.5, 0.5, 2.0]))
    model = nn.Sequential(nn.Flatten(), layer)
    if prepared:
        prepare_qat_(model, bits)
    net = convert(model, bits, input_size=(1, 2, 2), encoding=Encoding(), time_scales=1 / 1024)
    codes = net(np.full((1, 1, 2, 2), 40, np.uint8))[0]
    expected = [4.5 / 3.5, 40 / 39, 3000 / 2999, math.inf, math.inf, 2.0]
    found = np.where(codes == net.silent, np.inf, codes / 1024)
    assert found == pytest.approx(expected, rel=0.01)
    theta = net.layer_infos()[0].theta
    assert theta is not None
    if size < 1e-3:
        assert theta[5] == 1 << 20  # where there is room, thresholds stay as fine as they were


def test_numbers_without_an_integer_code_are_named() -> None:
    def dense(**values: float) -> nn.Sequential:
        layer = SpikingLinear(4, 3)
        with torch.no_grad():
            for name, value in values.items():
                layer.get_parameter(name)[1] = value
        return nn.Sequential(nn.Flatten(), layer)

    for value in (math.nan, math.inf):
        for name in ("weight", "bias"):
            with pytest.raises(ValueError, match=f"^layer 0 has a {name} that is NaN or infinite"):
                convert(dense(**{name: value}), input_size=(1, 2, 2), encoding=Encoding())
    for value in (1e7, -1e30):
        with pytest.raises(
            ValueError, match=r"^layer 0 has a bias of .*; an integer network holds"
        ):
            convert(dense(bias=value), input_size=(1, 2, 2), encoding=Encoding())
    for bits, most in ((8, 127), (4, 112), (2, 96)):
        assert convert(dense(weight=-most), bits, input_size=(1, 2, 2), encoding=Encoding())
        with pytest.raises(
            ValueError,
            match=rf"^layer 0 has a weight of size {most + 1}; with {bits} bits .* {most}",
        ):
            convert(dense(weight=-most - 1), bits, input_size=(1, 2, 2), encoding=Encoding())
    spoilt = prepare_qat_(dense())
    with torch.no_grad():
        spoilt[1].parametrizations.weight.original[0, 0] = math.nan  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"^layer 0 has a weight that is NaN"):
        convert(spoilt, input_size=(1, 2, 2), encoding=Encoding())


def test_both_polarities(data_root: Path) -> None:
    model = cifar_scnn(pretrained=True)
    test_set = load("cifar10", str(data_root), train=False)
    images = test_set.images[:300]
    units = quantization.calibrate_time_scales(model, images)
    net = convert(model, input_size=(3, 32, 32), time_scales=units)
    assert net.input_size == (3, 32, 32)
    assert net.code_size == (6, 32, 32)
    classes = net.classify(images)
    with torch.no_grad():
        values = model.encoding(torch.from_numpy(images))
        assert (classes == predict(model(values)).numpy()).mean() > 0.95
    assert (classes == test_set.labels[:300]).mean() > 0.6
    assert np.abs(net.encode(images) * net.time_scale - values.numpy()).max() <= net.time_scale
    # The same as one polarity of the images and of their negatives.
    joined = np.concatenate([images, 255 - images], axis=1)
    one = convert(model, input_size=(6, 32, 32), encoding=Encoding(1.0), time_scales=units)
    for a, b in zip(net.layers(images), one.layers(joined), strict=True):
        assert np.array_equal(a, b)


def test_retraining_with_both_polarities(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        SpikingConv2d(2, 8, 5, stride=2, padding="same"), nn.Flatten(), SpikingLinear(1568, 10)
    )
    both = dataclasses.replace(config().training, polarity="both", train_images=400)
    network = quantization.quantize(model, config(bits=8, epochs=1, training=both), tmp_path)[8]
    assert network.input_size == (1, 28, 28)
    assert network.code_size == (2, 28, 28)
    again = quantization.load(tmp_path / "model-8bit.ttfs")
    result = quantization.evaluate(again, load("digits", train=False))
    assert result.spikes_per_neuron > 0.3
    assert result.accuracy > 0.3


def test_settings_with_another_encoding_than_the_networks_are_refused(tmp_path: Path) -> None:
    """The weights know the spikes of the encoding that the network carries."""
    other = dataclasses.replace(config().training, alpha=2.0)
    with pytest.raises(ValueError, match=r"alpha 3.*alpha 2.*with_encoding"):
        quantization.quantize(mnist_scnn(pretrained=True), config(training=other), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def config(**changes: object) -> QuantizeConfig:
    training = TrainConfig(
        dataset="digits",
        batch_size=20,
        threads=1,
        logit_scale=10.0,
        cost_reduction="mean",
        ema_decay=0.9,
    )
    return dataclasses.replace(QuantizeConfig(epochs=2, lr=2e-3, training=training), **changes)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    from ttfs_fast.training import train

    settings = dataclasses.replace(config().training, epochs=8, lr=3e-3, ema_decay=0.0, seed=3)
    return train(settings, tmp_path_factory.mktemp("digits")).model


@dataclasses.dataclass
class Retrained:
    """The digits' network retrained with config(), and the folder of the run."""

    nets: dict[int, quantization.IntegerNetwork]
    folder: Path


@pytest.fixture(scope="module")
def retrained(digits: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    folder = tmp_path_factory.mktemp("retrained") / "run"
    before = copy_of_weights(digits)
    nets = quantization.quantize(digits, config(), folder)
    assert_same_weights(digits, before)
    return Retrained(nets, folder)


def test_retraining_recovers_accuracy_with_two_bits(
    digits: nn.Module, retrained: Retrained
) -> None:
    test_set = load("digits", train=False)
    plain = quantization.evaluate(convert(digits, 2), test_set)
    nets = retrained.nets
    assert list(nets) == [8, 4, 2]
    result = quantization.evaluate(nets[2], test_set)
    assert result.accuracy > plain.accuracy + 0.03
    assert result.accuracy > 0.85
    # With more images, those that it is retrained with.
    seen = load("digits", train=True)
    gained = quantization.evaluate(nets[2], seen).accuracy
    assert gained > quantization.evaluate(convert(digits, 2), seen).accuracy + 0.015
    assert {p.name for p in retrained.folder.iterdir()} == {
        "quantize.json",
        "checkpoint-0006",
        *(f"model-{bits}bit.ttfs" for bits in nets),
    }
    comparison = quantization.compare(digits, nets[8], test_set)
    assert comparison.counts.sum() == comparison.images == len(test_set)
    assert comparison.agreement > 0.9
    assert quantization.compare(digits, convert(digits, 8), test_set).agreement > 0.97
    values = encode(test_set.images_as_tensor())
    with torch.no_grad():
        right = predict(digits(values)) == test_set.labels_as_tensor()
    assert comparison.float_correct == int(right.sum())
    with pytest.raises(FileExistsError, match="resume=True"):
        quantization.quantize(digits, config(), retrained.folder)
    with pytest.raises(ValueError, match="other settings"):
        quantization.quantize(digits, config(epochs=3), retrained.folder, resume=True)


def test_the_float_network_can_be_the_teacher(
    digits: nn.Module, retrained: Retrained, tmp_path: Path
) -> None:
    from ttfs_fast.training import export_weights

    settings = config().training
    path = export_weights(digits, tmp_path / "t.safetensors", settings, test_accuracy=0.9)
    taught = dataclasses.replace(settings, teacher=str(path), distill_weight=1.0)
    nets = quantization.quantize(digits, config(training=taught), tmp_path / "run")
    assert nets[2].to_bytes() != retrained.nets[2].to_bytes()
    comparison = quantization.compare(digits, nets[2], load("digits", train=False))
    assert comparison.agreement > 0.85  # the labels did not count
    short = dataclasses.replace(taught, train_images=200)
    own = dataclasses.replace(short, teacher=None)
    runs = (config(bits=8, training=short), config(bits=8, training=own, float_teacher=True))
    by_file, by_itself = (
        quantization.quantize(digits, run, tmp_path / f"short-{i}")[8] for i, run in enumerate(runs)
    )
    assert by_file.to_bytes() == by_itself.to_bytes()
    with pytest.raises(ValueError, match="two teachers"):
        config(training=taught, float_teacher=True)


def test_the_last_number_of_bits_may_have_epochs_of_its_own(
    digits: nn.Module, tmp_path: Path
) -> None:
    training = dataclasses.replace(config().training, train_images=100)
    settings = config(bits=4, epochs=1, last_epochs=3, training=training)
    assert [(stage.bits, stage.epochs) for stage in settings.stages] == [(8, 1), (4, 3)]
    nets = quantization.quantize(digits, settings, tmp_path)
    assert list(nets) == [8, 4]
    assert (tmp_path / "checkpoint-0004").exists()
    only = dataclasses.replace(settings, bits=8, last_epochs=None)
    first = quantization.quantize(digits, only, tmp_path / "8")
    assert first[8].to_bytes() == nets[8].to_bytes()
    # A run of the version before, which did not know these epochs, goes on.
    saved = tmp_path / "8" / "quantize.json"
    older = json.loads(saved.read_text())
    del older["last_epochs"]
    saved.write_text(json.dumps(older))
    again = quantization.quantize(digits, only, tmp_path / "8", resume=True)
    assert again[8].to_bytes() == nets[8].to_bytes()
    for wrong in ('{"epochs": 2}', "[]", "{", ""):
        saved.write_text(wrong)
        with pytest.raises(ValueError, match="give those, or another folder"):
            quantization.quantize(digits, only, tmp_path / "8", resume=True)
    for name in ("last_epochs", "tune_epochs"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0; got -1"):
            config(**{name: -1})


def test_tuning_moves_thresholds_after_the_last_stage(digits: nn.Module, tmp_path: Path) -> None:
    training = dataclasses.replace(config().training, train_images=500)
    settings = config(bits=4, epochs=1, training=training)
    plain = quantization.quantize(digits, settings, tmp_path / "plain")
    settings = dataclasses.replace(settings, tune_epochs=3)
    tuned = quantization.quantize(digits, settings, tmp_path / "tuned")
    assert (tmp_path / "tuned" / "checkpoint-0005").exists()
    assert tuned[8].to_bytes() == plain[8].to_bytes()
    moved = 0
    for i, info in enumerate(tuned[4].layer_infos()):
        before = plain[4].layer_infos()[i].theta
        if info.theta is not None and before is not None:
            moved += int((info.theta != before).sum())
            assert np.array_equal(tuned[4].weight_codes(i), plain[4].weight_codes(i))
    assert moved > 10
    test_set = load("digits", train=False)
    accuracies = [quantization.evaluate(nets[4], test_set).accuracy for nets in (plain, tuned)]
    assert accuracies[1] > accuracies[0] - 0.02


def test_settings_of_several_processes_retrain_on_whole_batches(
    digits: nn.Module, tmp_path: Path
) -> None:
    """The settings of a network that torchrun trained, on the one process that retrains it."""
    training = dataclasses.replace(config().training, train_images=60)
    settings = config(bits=8, epochs=1, training=training)
    alone = quantization.quantize(digits, settings, tmp_path / "1")
    training = dataclasses.replace(training, processes=2)
    settings = dataclasses.replace(settings, training=training)
    found = quantization.quantize(digits, settings, tmp_path / "2")
    assert found[8].to_bytes() == alone[8].to_bytes()


def test_alternating_flips_alternate_over_all_stages(
    digits: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []

    class Counted(EpochBatches):
        def epoch(self, number: int = 0) -> Iterator[Chunk]:
            numbers.append(number)
            return super().epoch(number)

    monkeypatch.setattr(datasets, "EpochBatches", Counted)
    training = dataclasses.replace(
        config().training, train_images=40, hflip=True, alternating_hflip=True
    )
    settings = config(bits=4, training=training)
    quantization.quantize(digits, settings, tmp_path / "whole")
    assert numbers == [0, 1, 2, 3]


def test_other_images_are_not_resumed(
    digits: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = dataclasses.replace(config().training, train_images=20, test_images=10)
    settings = config(bits=8, epochs=1, training=training)
    quantization.quantize(digits, settings, tmp_path)

    def darker(*args: object, **more: object) -> object:
        images = load("digits", train=bool(more["train"]))
        return dataclasses.replace(images, images=images.images // 2)

    monkeypatch.setattr("ttfs_fast.training.datasets.load", darker)
    with pytest.raises(ValueError, match="another set of images than it began with"):
        quantization.quantize(digits, settings, tmp_path, resume=True)


def test_steps_without_a_finite_gradient_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttfs_fast.training import step
    from ttfs_fast.training.checkpoint import load_checkpoint

    clip, steps = step.clip_gradient_, 0

    def sometimes_infinite(*arguments: object, **more: object) -> float:
        nonlocal steps
        steps += 1
        return math.inf if steps in (1, 3, 6) else clip(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "clip_gradient_", sometimes_infinite)
    images = dataclasses.replace(config().training, train_images=60, test_images=10)
    settings = config(bits=8, epochs=2, training=images)
    told: list[str] = []
    model = mnist_scnn(pretrained=True)
    quantization.quantize(model, settings, tmp_path, callback=LogLines(told.append))
    first, second = (line for line in told if "epoch " in line)
    assert first.endswith("  2 steps skipped")
    assert second.endswith("  1 step skipped")
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.facts["skipped_steps"] == [2, 1]


@pytest.fixture(scope="module")
def whole(digits: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """A short run, all of whose stages have epochs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return Retrained(quantization.quantize(digits, short_config(), folder), folder)


def short_config() -> QuantizeConfig:
    training = dataclasses.replace(config().training, train_images=100)
    return config(training=training, tune_epochs=2)


@pytest.mark.parametrize("stop_after", [1, 4, 6, 7])
def test_a_stopped_run_continues_to_the_same_bits(
    digits: nn.Module, whole: Retrained, tmp_path: Path, stop_after: int
) -> None:
    from ttfs_fast.quantization import training

    settings, nets = short_config(), whole.nets
    with interrupted(training, "save_checkpoint", stop_after):
        quantization.quantize(digits, settings, tmp_path / "stopped")
    again = quantization.quantize(digits, settings, tmp_path / "stopped", resume=True)
    assert {b: n.to_bytes() for b, n in again.items()} == {b: n.to_bytes() for b, n in nets.items()}
    assert nets[8].to_bytes() != convert(digits, 8).to_bytes()
    other = copy.deepcopy(digits)
    with torch.no_grad():
        next(other.parameters()).mul_(1.1)
    with pytest.raises(ValueError, match="another network than it began with: give that one"):
        quantization.quantize(other, settings, tmp_path / "stopped", resume=True)
    first = tmp_path / "stopped" / "model-8bit.ttfs"
    first.rename(tmp_path / "kept.ttfs")
    with pytest.raises(FileNotFoundError, match=r"model-8bit.ttfs is gone, .* put it back"):
        quantization.quantize(digits, settings, tmp_path / "stopped", resume=True)
    (tmp_path / "kept.ttfs").rename(first)
    # Nor does a kill between writing a checkpoint and removing the one before it leave a trace.
    newest = max(path for path in (tmp_path / "stopped").glob("checkpoint-*"))
    shutil.copytree(newest, newest.with_name("checkpoint-0001"))
    shutil.copytree(newest, newest.with_name(".partial-removed-1234"))
    quantization.quantize(digits, settings, tmp_path / "stopped", resume=True)
    stopped = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert stopped == {path.name for path in whole.folder.iterdir()}


def test_quantize_and_eval_commands(
    digits: nn.Module,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from support.command import output_of
    from ttfs_fast.cli import evaluate as evaluate_command
    from ttfs_fast.training import export_weights

    weights = export_weights(
        digits, tmp_path / "model.safetensors", config().training, test_accuracy=0.5
    )
    arguments = ("--weights", weights, "--epochs", 0, "--bits", 4, "--logit-scale", 20)
    said = output_of("quantize", *arguments, "--out", tmp_path / "none", "--resume", code=2)
    assert "holds no run to resume; leave out --resume" in said
    out = output_of("quantize", *arguments, "--out", tmp_path / "q")
    assert (
        json.loads((tmp_path / "q" / "quantize.json").read_text())["training"]["logit_scale"] == 20
    )
    assert "4 bits:" in out
    assert "answer in float (row), in integers (column)" in out
    path = tmp_path / "q" / "model-4bit.ttfs"
    report = json.loads(output_of("eval", "--weights", path, "--dataset", "digits", "--json"))
    assert report["accuracy"] > 0.7
    assert report["file_bytes"] == path.stat().st_size
    fetched: list[str] = []
    monkeypatch.setattr(evaluate_command, "download_data", lambda name, root: fetched.append(name))
    output_of("eval", "--weights", path, "--dataset", "digits", "--download", "--json")
    assert fetched == ["digits"]
    text = output_of("eval", "--weights", path, "--dataset", "digits")
    assert "of float32" in text
    assert "energy by spikes" in text
    assert "jitter" in output_of("eval", "--weights", path, "--jitter", 0.1, code=2)
    images = load("digits", train=False).images[:30]
    np.save(tmp_path / "images.npy", images)
    classes = quantization.load(path).classify(images).tolist()
    assert len(set(classes)) > 4
    assert quantization.load(path).classes == tuple("0123456789")
    found = json.loads(output_of("predict", path, tmp_path / "images.npy", "--json"))["predictions"]
    assert [row["decision"]["class"] for row in found] == classes
    assert [row["decision"]["name"] for row in found] == [str(c) for c in classes]
    np.save(tmp_path / "wrong.npy", np.zeros((2, 3)))
    assert "uint8" in output_of("predict", path, tmp_path / "wrong.npy", code=2)
    assert "give a network with --weights" in output_of("quantize", code=2)
    (tmp_path / "other.toml").write_text("alpha = 2.0\n")
    told = output_of("quantize", *arguments, "--config", tmp_path / "other.toml", code=2)
    assert "the network was trained with alpha 3.0" in told
    assert "says 2.0" in told


def test_an_integer_network_is_tested_on_images_of_its_size(
    tmp_path: Path, no_data_folders: None
) -> None:
    from support.command import output_of

    def output(net: quantization.IntegerNetwork) -> str:
        path = net.save(tmp_path / "net.ttfs")
        said = output_of("eval", "--weights", path, "--data-root", tmp_path, code=2)
        return " ".join(said.split())

    both = cifar_scnn(pretrained=True)
    net = convert(both, input_size=(3, 32, 32))
    assert "CIFAR-10's" in output(net)  # what is not in that folder
    small = nn.Sequential(nn.Flatten(), SpikingLinear(25, 2))
    assert "(1, 5, 5) of its own classes, which no data set has" in output(
        convert(small, input_size=(1, 5, 5), encoding=Encoding())
    )
