"""Networks with branches, clipped activations and average pools, as torch.fx traces them."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ttfs_fast import nir, quantization
from ttfs_fast.analysis import count_operations
from ttfs_fast.circuit.network import simulate_network
from ttfs_fast.conversion import ConvertedNetwork, from_relu
from ttfs_fast.data import ImageSet
from ttfs_fast.encoding import Encoding
from ttfs_fast.horizon import HorizonConv2d, fold_horizons_, horizon_layers
from ttfs_fast.models import relu_counterpart, spiking_googlenet
from ttfs_fast.nn import Delay


class Residual(nn.Module):
    """As in torchvision: functional ReLU, +=, with or without a downsampling branch."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += identity
        return F.relu(out)


class Residuals(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.blocks = nn.Sequential(Residual(6, 6), Residual(6, 8, 2), Residual(8, 8))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.fc(F.dropout(torch.flatten(self.pool(x), 1), training=self.training))


class Preactivated(nn.Module):
    """The sum keeps both signs; normalization before each convolution, also at the input."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)])
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.convs = nn.ModuleList([nn.Conv2d(6, 6, 3, padding=1) for _ in range(2)])
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.norms[0](x))
        for norm, conv in zip(list(self.norms)[1:], self.convs, strict=True):
            x = x + conv(norm(x).relu())
        return self.fc(x.mean((2, 3)))


class Inverted(nn.Module):
    """MobileNetV2: ReLU6, depthwise, a bottleneck without an activation, and a sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 3 * channels, 1, bias=False),
            nn.BatchNorm2d(3 * channels),
            nn.ReLU6(inplace=True),
            nn.Conv2d(3 * channels, 3 * channels, 3, 1, 1, groups=3 * channels, bias=False),
            nn.BatchNorm2d(3 * channels),
            nn.ReLU6(inplace=True),
            nn.Conv2d(3 * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(4), Inverted(4))
        self.head = nn.Conv2d(4, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        # Activations of trained networks reach 6; make ours.
        x = F.relu6(20 * self.head(self.blocks(self.stem(20 * x))))
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.fc(x.view(x.size(0), -1))


class Dense(nn.Module):
    """Concatenations, of different depths, normalized together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 3, 3, padding=1)
        self.fc = nn.Linear(10 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(F.relu(self.norm1(x)))], 1)
        x = torch.cat((x, self.conv2(F.relu(self.norm2(x)))), dim=1)
        x = F.avg_pool2d(F.relu(x), 2)
        return self.fc(x.flatten(1))


class Branches(nn.Module):
    """An Inception module: four branches, one behind a pool of stride 1; then leaky and clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 1)
        self.three = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.five = nn.Conv2d(3, 4, 3, padding=2, dilation=2)
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 4, 1))
        self.wide = nn.Conv2d(16, 8, 3, stride=2, groups=4)
        self.leaky, self.hard = nn.LeakyReLU(0.2), nn.Hardtanh(-0.3, 0.2)
        self.last = nn.Conv2d(8, 6, 2, padding="same")
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.one(x), self.three(x), self.five(x), self.pooled(x)]
        x = F.relu(torch.cat(parts, dim=1))
        x = self.hard(self.leaky(self.wide(x)))
        x = F.pad(x, (0, 1, 1, 0))
        x = torch.clamp(self.last(x), 0, 0.5)
        return self.fc(F.max_pool2d(x, 2).mean([2, 3], keepdim=True).reshape(x.shape[0], 6)) / 3


class InputSums(nn.Module):
    """The image itself in a sum, padded, average-pooled, and clipped first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x) + x - 0.1) - F.avg_pool2d(x, 3, 1, 1)
        x = F.relu(self.mix(x))
        return -self.fc(x.mean((2, 3)))


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(192, 20), nn.Linear(20, 20)
        self.norm, self.fc = nn.BatchNorm1d(20), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x.flatten(1)))
        y = F.relu(2 * x - self.norm(self.two(x)))
        return self.fc(torch.cat([y, x], 1))


class Standardized(nn.Conv2d):
    """Weights that are computed in each call, as weight standardization does."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


def averaged() -> nn.Module:
    """A network that ends with an average, and pools before it normalizes."""
    return nn.Sequential(
        Standardized(3, 6, 3, padding=1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.AvgPool2d(2),
        nn.Flatten(),
    )


def linear() -> nn.Module:
    """Layers without a ReLU between them; a ReLU of the image; one behind a flattened map."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(144, 12),
        nn.Linear(12, 5),
    )


NETWORKS: list[Callable[[], nn.Module]] = [
    Residuals,
    Preactivated,
    Mobile,
    Dense,
    Branches,
    InputSums,
    Vectors,
    averaged,
    linear,
]


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    """In evaluation, with random statistics, gains (of both signs) and shifts."""
    model = make().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, std=0.5)
    with torch.no_grad():
        for _ in range(20):
            model(images())
    return model.eval()


def images(count: int = 24) -> Tensor:
    """Within one range: numbers below that of the given images would count as its lower end."""
    return torch.randn(count, 3, 8, 8, dtype=torch.float64).clamp(-1.5, 1.5)


def leads(z: Tensor, model: nn.Module) -> Tensor:
    return 1 - z.double() / math.exp(max(m.t_out for m in horizon_layers(model).values()))


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_outputs_are_the_logits(make: Callable[[], nn.Module], seed: int) -> None:
    """By dense products, and by the operator of equation (4)."""
    model = trained(make)
    x, others = images(60), images(200)
    spiking = from_relu(model, x)
    unit = spiking(x)
    with torch.no_grad():
        logits = model(others)
        scale = (leads(unit, spiking).abs().max() / model(x).abs().max()).item()
        folded = fold_horizons_(copy.deepcopy(spiking))
        assert not horizon_layers(folded)
        assert logits.std() > 0
        for network in (spiking, folded):
            out = network(others)
            assert torch.allclose(leads(out, spiking) / scale, logits, atol=1e-8 * logits.std())
            assert (out.argmin(1) == logits.argmax(1)).all()
    hidden = sum(layer.fallbacks for layer in horizon_layers(spiking).values())
    assert hidden == 0


@pytest.mark.parametrize("make", [Residuals, Mobile, Dense], ids=lambda make: make.__name__)
def test_float32_decides_alike_but_for_near_ties(make: Callable[[], nn.Module], seed: int) -> None:
    model = trained(make).float()
    x = images(200).float()
    spiking = from_relu(model, x)
    with torch.no_grad():
        logits = model(x)
        differ = fold_horizons_(copy.deepcopy(spiking))(x).argmin(1) != logits.argmax(1)
    best = logits.topk(2).values
    assert differ.float().mean() < 0.05
    assert ((best[:, 0] - best[:, 1])[differ] < 0.05 * logits.std()).all()


def test_branches_of_different_depth_are_delayed_to_one_horizon(seed: int) -> None:
    """A delay moves the skip's spikes to the later horizon; sums become one layer."""
    spiking = from_relu(trained(Residuals), images())
    assert isinstance(spiking, ConvertedNetwork)
    delays = [m for m in spiking.modules() if isinstance(m, Delay)]
    assert len(delays) == 2  # two identity skips; the third block's branches are equally deep
    for delay in delays:
        assert delay.delay.allclose(torch.tensor(math.log(2), dtype=torch.float64))
        assert not delay.delay.requires_grad
    # stem, two a block, one for the downsampling branch, the average, the last layer
    assert len(horizon_layers(spiking)) == 1 + 6 + 1 + 1 + 1


def test_a_clipped_relu_is_two_neurons(seed: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    ).double()
    with torch.no_grad():
        model[0].weight.mul_(20)
    spiking = from_relu(model, images())
    first, *_ = horizon_layers(spiking).values()
    assert isinstance(first, HorizonConv2d)
    assert first.out_channels == 8
    # A deeper convolution with groups stays depthwise, on both neurons of its channel.
    depthwise = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 5, 6)
    ).double()
    layers = list(horizon_layers(from_relu(depthwise, images())).values())
    assert isinstance(layers[1], HorizonConv2d)
    assert (layers[1].in_channels, layers[1].groups) == (8, 4)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return (x * F.relu(self.gate(x))).mean((2, 3))


class Choosing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Gated(), r"mul \(mul\) multiplies signals, which has no counterpart"),
        (Choosing(), "torch.fx cannot follow Choosing: symbolically traced variables"),
        (Function(F.gelu), r"gelu \(gelu\) has no counterpart in first spikes; allowed are"),
        (nn.Sequential(nn.Identity(), Function(F.silu)), r"silu in 1 \(Function\) has no"),
        (Function(lambda x: x.chunk(2, 1)[0]), "depends on the images"),
        (Function(lambda x: x * torch.ones(4, 1, 1)), "takes something else than a number"),
        (Function(lambda x: x + x[:, :, :1]), "getitem"),
        (Function(lambda x: F.max_pool2d(x, 2) - 1), "ends with a ReLU or a pool behind conv"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3)),
            "the max pool behind 0 must be followed by a ReLU",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.LeakyReLU(), nn.Conv2d(4, 5, 3)),
            "the max pool behind 0 must be followed by a ReLU",
        ),
        (Function(lambda x: torch.cat([x, x], 1)), "ends with a concatenation"),
        (Function(lambda x: torch.cat([x, x], 2)), "joins dimension 2"),
        (Function(lambda x: x.mean(1)), "only that of whole maps"),
        (Function(lambda x: F.avg_pool2d(x, 2, 2, 1, False, False)), "count_include_pad=True"),
        (Function(lambda x: F.avg_pool2d(x, 4, 4, ceil_mode=True)), "ceil_mode"),
        (Function(lambda x: F.adaptive_avg_pool2d(x, 4)), "its windows differ in size"),
        (Function(lambda x: F.pad(x, (1, 1, 1, 1), "replicate")), 'pads with "replicate"'),
        (Function(lambda x: x.view(-1, 36)), "only a vector of the whole image"),
        (Function(lambda x: x.clamp(0.5, 1)), "the range must hold 0"),
        (Function(lambda x: x.clamp(x, x)), "clips to tensors"),
        (Function(lambda x: F.dropout(x)), "drops at random"),
        (Function(lambda x: 1 / x), "divides by a signal"),
        (Function(lambda x: (x, x)), "gives a tuple; it must give one tensor, the logits"),
        (Function(lambda x: F.relu(x, wrong=1)), "arguments that do not convert|torch.fx cannot"),
    ],
)
def test_modules_without_a_counterpart_are_named(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_relu(model.eval(), torch.rand(2, 3, 8, 8))


def test_traced_graphs_convert(seed: int) -> None:
    model = trained(Residuals)
    x = images()
    assert torch.equal(from_relu(fx.symbolic_trace(model), x)(x), from_relu(model, x)(x))


def test_googlenet_of_the_package_converts(seed: int) -> None:
    model = relu_counterpart(spiking_googlenet(width=0.05, image_size=(48, 48)), batch_norm=True)
    x = torch.rand(8, 3, 48, 48, dtype=torch.float64)
    model.double()(x)
    spiking = from_relu(model.eval(), x)
    with torch.no_grad():
        assert torch.equal(spiking(x).argmin(1), model(x).argmax(1))
    # Four branches a module, each at a horizon of its own, meet at the latest.
    assert sum(isinstance(m, Delay) for m in spiking.modules()) > 9


def test_converted_networks_train_and_keep_their_delays(seed: int) -> None:
    spiking = from_relu(trained(Residuals), images()).train()
    x, target = images(32), torch.arange(32) % 5
    optimizer = torch.optim.Adam([p for p in spiking.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(-2000 * spiking(x).log(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_state_dict_and_steps_restore_a_network(seed: int) -> None:
    x = images()
    one, other = (from_relu(trained(Residuals), x) for _ in range(2))
    assert not torch.equal(one(x), other(x))
    other.load_state_dict(one.state_dict())
    for name in one.inputs:
        if name == "leads":
            other.leads = one.leads
    again = ConvertedNetwork((name, getattr(one, name), one.inputs[name]) for name in one.inputs)
    assert torch.equal(again(x), one(x))


def test_a_network_refuses_steps_that_do_not_fit() -> None:
    for steps, message in (
        ([], "at least one step"),
        ([("one", nn.Identity(), ("two",))], "inputs that come before it; got two"),
        ([("1", nn.Identity(), ("input",))], "an identifier; got '1'"),
        ([("one", nn.Identity(), ("input",)), ("one", nn.Identity(), ("one",))], "must be new"),
        ([("one", nn.Identity(), ())], "inputs that come before it"),
    ):
        with pytest.raises(ValueError, match=message):
            ConvertedNetwork(steps)


def test_operations_of_a_converted_network_are_counted(seed: int) -> None:
    """By hand: late neurons are silent, and a spike reaches the taps of its position."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), Residual(4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model = trained(lambda: nn.Sequential(*model, nn.Linear(4, 5)))
    x = images(6)
    spiking = from_relu(model, x)
    counts = count_operations(spiking, x)
    folded = fold_horizons_(copy.deepcopy(spiking))
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in folded.named_modules():
        if hasattr(layer, "t_max"):
            layer.register_forward_hook(
                lambda module, inputs, out, name=name: seen.update({name: (inputs[0], out)})
            )
    folded(x)
    assert len(seen) == len(counts.layers) == 5
    for layer in counts.layers:
        inputs, out = seen[layer.name]
        assert layer.spikes == int(out.isfinite().sum()) > 0
        assert layer.input_spikes == int(inputs.isfinite().sum()) + layer.images
        assert 0 < layer.causal <= layer.delivered


def test_integers_and_graphs_refuse_it_by_name(seed: int) -> None:
    x = images().abs()
    branched = fold_horizons_(from_relu(trained(Residuals), x))
    with pytest.raises(TypeError, match="a ConvertedNetwork"):
        quantization.convert(branched, 8, input_size=(3, 8, 8), encoding=Encoding())
    with pytest.raises((TypeError, ValueError), match="ConvertedNetwork"):
        nir.to_graph(branched, (3, 8, 8))


def test_groups_are_refused_by_integers_and_circuits(seed: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    )
    x = torch.rand(8, 4, 8, 8)
    _, *layers = fold_horizons_(from_relu(model, x))
    folded = nn.Sequential(*layers)
    pixels = torch.randint(0, 256, (8, 4, 8, 8), dtype=torch.uint8)
    encoding = Encoding(alpha=0.01)
    with pytest.raises(ValueError, match="layer 0 has a horizon and groups=2"):
        quantization.convert(
            folded, 8, input_size=(4, 8, 8), encoding=encoding, images=pixels.numpy()
        )
    with pytest.raises(ValueError, match="a grouped convolution cannot be simulated as circuits"):
        simulate_network(
            folded,
            ImageSet(pixels.numpy(), torch.zeros(8).long().numpy(), "random", tuple("abcde")),
            images=1,
            encoding=encoding,
        )
