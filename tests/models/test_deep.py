import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ttfs_fast import spiking_conv2d
from ttfs_fast.analysis import evaluate
from ttfs_fast.data import load
from ttfs_fast.encoding import Encoding
from ttfs_fast.layers import predict
from ttfs_fast.loss import first_spike_cross_entropy
from ttfs_fast.models import (
    DecodeSpikes,
    Description,
    ReluNetwork,
    SpikingNetwork,
    cifar_airbench,
    cifar_scnn,
    cifar_vgg,
    relu_counterpart,
    spiking_googlenet,
    spiking_vgg16,
    vgg_stack,
)
from ttfs_fast.models.description import Conv, Dense, GlobalPool, Inception, Pool
from ttfs_fast.models.pretrained import PretrainedName, pretrained_weights
from ttfs_fast.nn import SpikingConv2d, SpikingLinear
from ttfs_fast.training import TrainConfig, load_pretrained, read_metadata, read_recipe

MAKERS = {
    "vgg16": spiking_vgg16,
    "googlenet": spiking_googlenet,
    "cifar": cifar_scnn,
    "cifar vgg": cifar_vgg,
    "stack": vgg_stack,
}


def weights_of(model: nn.Module) -> int:
    kinds = (SpikingConv2d, SpikingLinear, nn.Conv2d, nn.Linear)
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, kinds))


def test_vgg16_is_table_1() -> None:
    """Layer by layer; 54.3 million weights, as the energy in Table 2 supposes."""
    model = spiking_vgg16(device="meta")
    rows = model.description.counts()
    texts = [row.text for row in rows]
    assert texts == [
        *["SCNN(3,64,1)"] * 2,
        *["SCNN(3,128,1)"] * 2,
        *["SCNN(3,256,1)"] * 3,
        *["SCNN(3,512,1)"] * 3,
        *["SCNN(3,1024,1)"] * 3,
        "FC(4096)",
        "FC(4096)",
        "FC(512)",
        "FC(10)",
    ]
    pools = [name for name, layer in model.description.layers if isinstance(layer, Pool)]
    assert len(pools) == 5
    assert weights_of(model) == model.description.weights == 54_299_328
    # Table 2's energy of 0.336 mJ, at 10 pJ a weight and the sparsity of 0.62.
    assert model.description.weights * 0.62 * 10e-12 == pytest.approx(0.336e-3, rel=0.003)
    assert rows[1].output == (64, 32, 32)
    assert rows[-5].output == (1024, 2, 2)


def test_googlenet_is_szegedys() -> None:
    """Their table 1 counts in thousands of 1,024, rows rounded or misprinted by up to 8 %."""
    model = spiking_googlenet(device="meta")
    assert weights_of(model) == model.description.weights == 6_990_272
    thousands = {}
    for row in model.description.counts():
        module = row.name.split(".")[0]
        thousands[module] = thousands.get(module, 0) + row.weights / 1024
    listed = {
        "inception3a": 159,
        "inception3b": 380,
        "inception4a": 364,
        "inception4b": 437,
        "inception4c": 463,
        "inception4d": 580,
        "inception4e": 840,
        "inception5a": 1072,
        "inception5b": 1388,
        "fc": 1000,
    }
    for module, thousand in listed.items():
        assert thousands[module] == pytest.approx(thousand, rel=0.08), module
    total = sum(thousands.values())
    assert total == pytest.approx(6797, rel=0.005)
    assert round(total / 1000, 1) == 6.8
    outputs = {row.name.split(".")[0]: row.output for row in model.description.counts()}
    assert outputs["conv1"] == (64, 112, 112)
    assert outputs["inception3b"][1:] == (28, 28)
    assert outputs["inception5b"][1:] == (7, 7)


def test_small_networks() -> None:
    small = cifar_scnn(device="meta")
    assert [row.output for row in small.description.counts()] == [
        (64, 16, 16),
        (32, 8, 8),
        (16, 4, 4),
        (64,),
        (10,),
    ]
    assert weights_of(small) == 64 * 75 + 32 * 1600 + 16 * 800 + 64 * 256 + 640 == 85_824
    six = cifar_vgg(device="meta")
    assert [row.output for row in six.description.counts()] == [
        (32, 32, 32),
        (64, 16, 16),
        (128, 8, 8),
        (128, 8, 8),
        (256,),
        (10,),
    ]
    assert weights_of(six) == 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 128) + 256 * (2048 + 10)
    for depth in (4, 8, 13, 17):
        assert len(vgg_stack(depth, device="meta").description.counts()) == depth
    quarter = vgg_stack(17, device="meta").description
    whole = spiking_vgg16(width=0.25, device="meta").description
    assert [r.weights for r in quarter.counts()] == [r.weights for r in whole.counts()]


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize(("channels", "size", "width"), [(3, 32, 0.1), (6, (48, 33), 0.05)])
def test_runs_and_counts_are_right(
    name: str, channels: int, size: int | tuple[int, int], width: float, seed: int
) -> None:
    """The description's shapes, neurons and weights are those of the modules as they run."""
    model = MAKERS[name](width=width, in_channels=channels, image_size=size, classes=7)
    assert isinstance(model, SpikingNetwork)
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str):
        return lambda module, inputs, output: seen.__setitem__(name, tuple(output.shape[1:]))

    layers = {
        n: m for n, m in model.named_modules() if isinstance(m, SpikingConv2d | SpikingLinear)
    }
    for layer_name, layer in layers.items():
        layer.register_forward_hook(note(layer_name))
    height, wide = (size, size) if isinstance(size, int) else size
    z = (1.5 * torch.rand(2, channels, height, wide)).exp()
    out = model(z)
    assert out.shape == (2, 7)
    assert out.isfinite().float().mean() > 0.5
    rows = {row.name: row for row in model.description.counts()}
    assert seen == {name: row.output for name, row in rows.items()}
    for layer_name, layer in layers.items():
        assert layer.weight.numel() == rows[layer_name].weights
    out[out.isfinite()].log().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_synapses_against_counting(seed: int) -> None:
    """A convolution of ones counts, for each output, the inputs that it reaches."""
    model = cifar_scnn(width=0.1, image_size=(20, 13))
    rows = model.description.counts()
    shape = (1, 3, 20, 13)
    for row, layer in zip(rows[:3], (model.conv1, model.conv2, model.conv3), strict=True):
        inputs = torch.full(shape, math.inf)
        taps = 0
        for spike in range(inputs[0, 0].numel()):  # each position alone, through all its taps
            one = inputs.clone()
            one[0, 0].view(-1)[spike] = 1.0
            strong = torch.full_like(layer.weight, 2.0)
            fired = spiking_conv2d(one, strong, None, layer.stride, layer.padding).isfinite()
            taps += int(fired.sum())
        assert taps * shape[1] == row.synapses
        assert row.events_per_spike == pytest.approx(row.synapses / math.prod(shape))
        shape = (1, *row.output)


@pytest.mark.parametrize("name", list(MAKERS))
@pytest.mark.parametrize("batch_norm", [False, True])
def test_relu_counterpart_has_the_same_shape(name: str, batch_norm: bool, seed: int) -> None:
    model = MAKERS[name](width=0.2, image_size=40, classes=5)
    counterpart = relu_counterpart(model, batch_norm=batch_norm)
    assert isinstance(counterpart, ReluNetwork)
    spiking = [m for m in model.modules() if isinstance(m, SpikingConv2d | SpikingLinear)]
    dense = [m for m in counterpart.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [m.weight.shape for m in dense] == [m.weight.shape for m in spiking]
    norms = [m for m in counterpart.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == (len(dense) - 1 if batch_norm else 0)
    logits = counterpart(torch.randn(4, 3, 40, 40))
    assert logits.shape == (4, 5)
    last = counterpart[-1]
    assert isinstance(last, nn.Linear)  # no ReLU after it
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in counterpart.parameters())
    shapes = {}
    for network in (model, counterpart):
        x = torch.rand(1, 3, 40, 40).exp()
        for module in list(network)[:3]:
            x = module(x)
            shapes.setdefault(network, []).append(x.shape)
    assert shapes[model] == shapes[counterpart]


def test_a_relu_counterpart_keeps_the_spread_of_its_activations(seed: int) -> None:
    counterpart = relu_counterpart(vgg_stack(17))
    with torch.no_grad():
        deviation = counterpart(torch.randn(16, 3, 32, 32)).std()
    assert 0.1 < deviation < 10


def test_adapter_equals_the_network(seed: int) -> None:
    counterpart = relu_counterpart(cifar_scnn(width=0.2))
    adapter = DecodeSpikes(
        counterpart, Encoding(1.5), mean=[0.4, 0.5, 0.6], deviation=[0.2, 0.3, 0.25]
    )
    pixels = torch.rand(16, 3, 32, 32)
    z = adapter(adapter.encoding(pixels))
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    logits = counterpart((pixels - mean[:, None, None]) / deviation[:, None, None])
    assert torch.allclose(-z.log(), logits, atol=1e-4)
    assert torch.equal(predict(z), logits.argmax(1))
    target = torch.arange(16) % 10
    ours = first_spike_cross_entropy(z, target, max_time=50.0)
    assert ours.item() == pytest.approx(
        nn.functional.cross_entropy(logits, target).item(), rel=1e-4
    )


def test_inception_joins_its_branches(seed: int) -> None:
    layer = Inception(2, 3, 4, 2, 3, 1)
    description = Description(
        "one module",
        (("inception", layer), ("global_pool", GlobalPool()), ("fc", Dense(3))),
        5,
        (6, 6),
    )
    model = SpikingNetwork(description)
    z = (2 * torch.rand(2, 5, 6, 6)).exp()
    joined = model.inception(z)
    parts = [branch(z) for branch in model.inception.values()]
    assert [part.shape[1] for part in parts] == [2, 4, 3, 1]
    assert torch.equal(joined, torch.cat(parts, dim=1))
    assert torch.equal(model.global_pool(joined).flatten(1), joined.flatten(2).amin(2))


def test_errors_name_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"SpikingVGG16: the images are too small: pool5"):
        spiking_vgg16(image_size=16)
    with pytest.raises(ValueError, match="width must be a finite number above 0; got 0"):
        vgg_stack(8, width=0)
    with pytest.raises(ValueError, match="depth must be 4, 8, 13 or 17; got 5"):
        vgg_stack(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="classes must be at least 1; got 0"):
        cifar_scnn(classes=0)
    with pytest.raises(ValueError, match="at least one channel and pixel"):
        cifar_scnn(in_channels=0)
    endless = Description("no end", (("conv", Conv(3, 2)),), 1, (4, 4))
    with pytest.raises(ValueError, match="does not end with a fully connected layer"):
        _ = endless.classes


@pytest.mark.parametrize(
    ("name", "make", "recipe", "least", "count", "by_chance"),
    [
        ("cifar_scnn", cifar_scnn, "cifar10-small", 0.72, 1000, 0.03),
        ("cifar_vgg", cifar_vgg, "cifar10-vgg", 0.80, 1000, 0.03),
        ("cifar_airbench", cifar_airbench, "cifar10-airbench-on", 0.91, 200, 0.06),
    ],
)
def test_trained_weights_in_the_package(
    name: PretrainedName,
    make: Callable[..., nn.Module],
    recipe: str,
    least: float,
    count: int,
    by_chance: float,
    data_root: Path,
) -> None:
    """They come from the recipe, and have the test accuracy of their metadata."""
    with pretrained_weights(name) as file:
        assert file.stat().st_size < 8_000_000
        metadata = read_metadata(file)
    loaded, config = load_pretrained(name)
    settings = TrainConfig(**read_recipe(recipe))
    if settings.precision == "auto":  # that of the processor
        settings = dataclasses.replace(settings, precision=config.precision)
    if settings.initial_checkpoint is not None:  # the network that the package had before
        settings = dataclasses.replace(settings, initial_checkpoint=name, teacher=name)
    assert set(config.differences(settings)) <= {"threads"}
    model = make(pretrained=True)
    state = loaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert float(metadata["test_accuracy"]) > least
    test_set = load("cifar10", str(data_root), train=False)
    some = dataclasses.replace(
        test_set, images=test_set.images[:count], labels=test_set.labels[:count]
    )
    result = evaluate(model, some)
    assert result.accuracy == pytest.approx(float(metadata["test_accuracy"]), abs=by_chance)
    if name == "cifar_airbench":  # late neurons stay silent
        assert 0.2 < result.spikes_per_neuron < 0.3
    else:
        assert result.spikes_per_neuron > 0.9


def test_trained_weights_reject_other_networks() -> None:
    with pytest.raises(ValueError, match=r"6 channels \(both polarities\).*leave these arguments"):
        cifar_scnn(pretrained=True, in_channels=3)
    with pytest.raises(ValueError, match=r"a width of their own; leave width out .*, got 0.5"):
        cifar_airbench(pretrained=True, width=0.5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"are for width 1.375, 3 channels, images of 32 x 32"):
        cifar_airbench(pretrained=True, image_size=16)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="no trained weights of 'vgg8'; choose one of mnist_scnn"):
        pretrained_weights("vgg8")  # type: ignore[arg-type]
