"""Limits of chips: resources of layers, counted by hand, and exceeded limits."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ttfs_fast.analysis import Limits, check_limits, read_limits
from ttfs_fast.analysis.limits import Excess
from ttfs_fast.conversion.network import Concatenate
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear
from ttfs_fast.models import mnist_scnn, spiking_googlenet
from ttfs_fast.models.networks import FirstSpike
from ttfs_fast.nn import Delay, SpikingConv2d, SpikingLinear, SpikingMaxPool2d

NONE = Limits(fan_in=10**9)


def gradient_counts(layer: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Fan-out of each input and fan-in of each output, from ordinary torch operators."""
    if isinstance(layer, SpikingLinear):
        run = nn.Linear(layer.in_features, layer.out_features, bias=False)
    else:
        run = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias=False,
        )
    nn.init.ones_(run.weight)
    x = torch.ones(1, *shape, requires_grad=True)
    out = run(x)
    out.sum().backward()
    assert x.grad is not None
    return x.grad, out.detach()


LAYERS = {
    "linear": (lambda: SpikingLinear(7, 5, bias=False), (7,)),
    "conv": (lambda: SpikingConv2d(2, 3, 3, padding=1, bias=False), (2, 6, 5)),
    "stride, dilation": (
        lambda: SpikingConv2d(2, 3, (3, 2), 2, (2, 1), (1, 2), bias=False),
        (2, 7, 8),
    ),
    "groups": (lambda: SpikingConv2d(4, 6, 3, groups=2, padding=2, bias=False), (4, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_sizes_are_those_of_torchs_operators(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    (found,) = check_limits(layer, shape, NONE).layers
    fan_out, fan_in = gradient_counts(layer, shape)
    assert found.fan_out == fan_out.max()
    assert found.fan_in == fan_in.max()
    assert found.neurons == fan_in.numel()
    assert found.synapses == fan_in.sum() == fan_out.sum()
    assert found.weights == layer.weight.numel()
    assert found.cores == 0


def test_limits_count_biases_horizons_and_pools() -> None:
    model = nn.Sequential(
        SpikingConv2d(1, 2, 3, padding=1, t_max=3.0),
        SpikingMaxPool2d(3, 2, 1),
        Delay(2),
        nn.Flatten(),
        SpikingLinear(18, 4),
    )
    conv, pool, dense = check_limits(model, (1, 6, 6), NONE).layers
    assert (conv.fan_in, conv.weights, conv.neurons) == (9 + 2, 2 * 11, 72)
    assert conv.synapses == 2 * (16 * 9 + 16 * 6 + 4 * 4 + 2 * 36)
    assert (pool.kind, pool.fan_in, pool.neurons, pool.weights) == ("pool", 9, 18, 1)
    assert pool.fan_out == 4  # windows of 3 at steps of 2 overlap in both directions
    assert (dense.fan_in, dense.fan_out, dense.weights) == (19, 4, 76)
    without = check_limits(model, (1, 6, 6), Limits(fan_in=9, pools_are_neurons=False))
    assert [layer.kind for layer in without.layers] == ["neurons", "neurons"]


def test_a_pool_over_whole_maps_is_counted() -> None:
    model = nn.Sequential(
        SpikingConv2d(1, 6, 3, bias=False), FirstSpike(), nn.Flatten(), SpikingLinear(6, 4)
    )
    conv, pool, dense = check_limits(model, (1, 6, 7), NONE).layers
    assert (pool.kind, pool.fan_in, pool.neurons, pool.synapses) == ("pool", 20, 6, 120)
    assert (pool.fan_out, dense.fan_out, dense.fan_in) == (1, 4, 7)
    apart = nn.Sequential(model[0], SpikingMaxPool2d((4, 5)), *model[2:])
    expected = [dataclasses.replace(each, name="") for each in (conv, pool, dense)]
    found = check_limits(apart, (1, 6, 7), NONE).layers
    assert [dataclasses.replace(each, name="") for each in found] == expected


def test_excesses_name_limit_and_ratio() -> None:
    limits = Limits(
        fan_in=256,
        fan_out=512,
        neurons_per_core=1024,
        weights_per_core=4096,
        cores_per_layer=4,
        cores=12,
    )
    check = check_limits(mnist_scnn(), (1, 28, 28), limits)
    assert [(layer.name, layer.cores) for layer in check.layers] == [
        ("conv1", 7),
        ("conv2", 4),
        ("fc", 2),
    ]
    assert check.excesses == (
        Excess("conv1", "cores_per_layer", 7, 4),
        Excess("conv2", "fan_in", 801, 256),
        Excess("fc", "fan_in", 785, 256),
        Excess("", "cores", 13, 12),
    )
    assert not check.fits
    assert str(check.excesses[1]) == "conv2: fan_in 801, 256 allowed (3.13 times as much)"
    assert str(check.excesses[-1]).startswith("the network: cores 13, 12 allowed")
    assert all(str(excess) in str(check) for excess in check.excesses)
    told = json.loads(json.dumps(check.to_dict()))
    assert (told["fits"], told["cores"], len(told["excesses"])) == (False, 13, 4)
    generous = check_limits(mnist_scnn(), (1, 28, 28), Limits(cores=13, neurons_per_core=1024))
    assert generous.fits
    assert "every layer fits" in str(generous)


def test_one_neuron_may_be_too_much_for_a_core() -> None:
    check = check_limits(SpikingLinear(100, 3), (100,), Limits(weights_per_core=50))
    assert check.excesses == (Excess("", "weights_per_core", 101, 50),)
    check = check_limits(SpikingLinear(100, 3), (100,), Limits(synapses_per_core=50))
    assert check.excesses == (Excess("", "synapses_per_core", 101, 50),)


def test_branches_share_the_fan_out_of_their_input() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = SpikingLinear(4, 5), SpikingLinear(4, 7)

        def forward(self, z: Tensor) -> Tensor:
            return torch.cat([self.one(z), self.other(z)], 1)

    layers = check_limits(Branches(), (4,), NONE).layers
    assert [layer.fan_out for layer in layers] == [12, 12]


def test_branches_behind_modules_that_pass_spikes_on_share_their_input() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = HorizonConv2d(2, 3, 3, t_in=0.01, padding=1)
            t = self.first.t_out
            self.one = HorizonConv2d(3, 5, 3, t_in=t, padding=1)
            self.other = HorizonConv2d(3, 7, 3, t_in=t, padding=1)
            self.late, self.side = Delay(3), SpikingConv2d(3, 2, 1)
            self.both, self.after = Concatenate(), SpikingConv2d(6, 1, 1)
            self.flat, self.last = nn.Flatten(), SpikingLinear(3 * 36, 11)

        def forward(self, z: Tensor) -> Tensor:
            z = self.first(z)
            self.one(z), self.other(z), self.side(self.late(z))
            self.after(self.both(z, self.late(z)))
            return self.last(self.flat(z))

    layers = {
        layer.name: layer.fan_out for layer in check_limits(Branches(), (2, 6, 6), NONE).layers
    }
    # A Flatten that changes nothing gives its input back.
    (same,) = check_limits(nn.Sequential(nn.Flatten(), SpikingLinear(10, 5)), (10,), NONE).layers
    assert same.fan_out == 5
    # Nine neurons of each of 5 and 7 channels, one of 2, one of 1 twice, and 11.
    assert layers.pop("first.1") == 27
    assert set(layers.values()) == {9 * 12 + 2 + 2 + 11}
    assert len(layers) == 5


def test_networks_of_all_kinds_are_measured() -> None:
    net = spiking_googlenet(width=0.05, in_channels=2, image_size=64, classes=5).train()
    check = check_limits(net, (2, 64, 64), NONE)
    assert net.training
    expected = sum(p.numel() for p in net.parameters())
    assert sum(layer.weights for layer in check.layers if layer.kind == "neurons") == expected
    first = HorizonConv2d(1, 3, 3, padding=1, t_in=0.3)
    model = nn.Sequential(first, nn.Flatten(), HorizonLinear(48, 4, t_in=first.t_out))
    conv, dense = check_limits(model, (1, 4, 4), NONE).layers
    assert isinstance(model[0], HorizonConv2d)  # left as it is
    assert conv.fan_in == 2 * 9 + 2  # the reference input, bias, horizon
    assert dense.fan_in == 49 + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fan_in = 0", "fan_in must be a whole number of 1 or more; got 0"),
        ("fan_in = 1.5", "got 1.5"),
        ("fan_in = true", "got True"),
        ("fan_in = 'a'", "got 'a'"),
        ("", "give at least one limit: fan_in"),
        ("pools_are_neurons = 1", "true or false; got 1"),
        ("cores = 3", "need what one core holds"),
        ("fanin = 3", "unknown limit 'fanin'; the limits are fan_in, fan_out"),
        ("fan_in 3", "is not a TOML file"),
    ],
)
def test_wrong_limits_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_limits(path)
    assert str(path) in str(caught.value)


def test_limits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text("fan_in = 64\nneurons_per_core = 128\npools_are_neurons = false\n")
    assert read_limits(path) == Limits(fan_in=64, neurons_per_core=128, pools_are_neurons=False)
    with pytest.raises(FileNotFoundError, match="no file of limits"):
        read_limits(tmp_path / "other.toml")


def test_shapes_and_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="numbers of 1 or more"):
        check_limits(SpikingLinear(2, 2), (0,), NONE)
    with pytest.raises(ValueError, match="no SpikingLinear"):
        check_limits(nn.Linear(2, 2), (2,), NONE)
    with pytest.raises(RuntimeError, match="must be equal"):
        check_limits(SpikingLinear(2, 2), (3,), NONE)


def test_pools_that_are_no_neurons_pass_the_fan_out_on() -> None:
    """A spike that comes first in all nine windows over it reaches what is behind each."""

    class Branches(nn.Module):
        def __init__(self, pool: nn.Module) -> None:
            super().__init__()
            self.one, self.pool = SpikingConv2d(4, 8, 1, bias=False), pool
            self.two = SpikingConv2d(4, 16, 1, bias=False)
            self.join = Concatenate()

        def forward(self, z: Tensor) -> Tensor:
            return self.join(self.one(z), self.two(self.pool(z)))

    def most(pool: nn.Module, shape: tuple[int, ...]) -> int:
        limits = Limits(fan_out=20, pools_are_neurons=False)
        one, _ = check_limits(Branches(pool), shape, limits).layers
        return one.fan_out

    assert most(SpikingMaxPool2d(3, 1, 1), (4, 5, 5)) == 8 + 9 * 16
    assert most(SpikingMaxPool2d(3, 1, 1), (4, 1, 5)) == 8 + 3 * 16
    assert most(SpikingMaxPool2d(1, 1, 0), (4, 5, 5)) == 8 + 16
    alone = nn.Sequential(FirstSpike(), nn.Flatten(), SpikingLinear(4, 7, bias=False))
    (dense,) = check_limits(alone, (4, 5, 5), Limits(fan_in=9, pools_are_neurons=False)).layers
    assert dense.fan_out == 7
