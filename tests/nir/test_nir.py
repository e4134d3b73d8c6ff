"""Networks as NIR graphs: bit-exact round trips, and unsupported networks."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from support.spikes import random_spikes as spikes
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import mnist_scnn, relu_counterpart, spiking_googlenet, vgg_stack
from ttfs_fast.nn import SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.optim.centering import center_weights_

nir = pytest.importorskip("nir", reason="needs the extra ttfs_fast[nir]")

from ttfs_fast.nir import from_graph, metadata, read, spike_trains, to_graph, write  # noqa: E402


def small(**options: Any) -> nn.Sequential:
    return nn.Sequential(SpikingConv2d(2, 3, 3, **options))


def shared() -> nn.Sequential:
    conv, pool, dense = (
        SpikingConv2d(3, 3, 3, padding=1),
        SpikingMaxPool2d(2),
        SpikingLinear(27, 27),
    )
    return nn.Sequential(conv, pool, conv, pool, nn.Flatten(), dense, dense, SpikingLinear(27, 4))


def horizons(model: nn.Module, *times: float) -> nn.Module:
    layers = [layer for layer in model if isinstance(layer, SpikingConv2d | SpikingLinear)]
    for layer, t_max in zip(layers, times, strict=True):
        layer.t_max = t_max
    return model


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Networks that carry over, and the shapes of their inputs."""
    return {
        "mnist": (mnist_scnn(), (1, 28, 28)),
        "mnist with a horizon": (mnist_scnn(t_max=4.0), (1, 28, 28)),
        "mnist with horizons": (horizons(mnist_scnn(), 3.1, math.inf, 6.0), (1, 28, 28)),
        "mnist in double precision": (mnist_scnn(dtype=torch.float64), (1, 28, 28)),
        "stack": (vgg_stack(4, image_size=16, width=0.5), (3, 16, 16)),
        "stack without bias": (vgg_stack(4, image_size=16, width=0.5, bias=False), (3, 16, 16)),
        "centered": (center_weights_(vgg_stack(4, image_size=16, width=0.5)), (3, 16, 16)),
        "flat": (nn.Sequential(SpikingLinear(6, 8), SpikingLinear(8, 4, bias=False)), (6,)),
        "modules at two places": (shared(), (3, 12, 12)),
        "holes": (small(dilation=2, padding=2, stride=2), (2, 9, 9)),
        "even kernel": (
            nn.Sequential(SpikingConv2d(1, 4, 4, padding="same"), SpikingMaxPool2d(3, 2, 1)),
            (1, 12, 12),
        ),
        "pool over the edge": (
            nn.Sequential(
                SpikingMaxPool2d(3, 2, ceil_mode=True), nn.Flatten(), SpikingLinear(50, 3)
            ),
            (2, 10, 10),
        ),
        "oblong images": (small(padding=1), (2, 8, 5)),
    }


@pytest.mark.parametrize("name", networks())
def test_nir_files_round_trip(name: str, tmp_path: Path, seed: int) -> None:
    model, shape = networks()[name]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases start at 0
                parameter.uniform_(-0.1, 0.5)
    encoding = Encoding(2.0, "dark-first", True)
    path = write(tmp_path / "network.nir", model, shape, encoding=encoding)
    before = torch.random.get_rng_state()
    again = read(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    z = spikes(5, *shape).to(next(iter(model.parameters())).dtype)
    with torch.no_grad():
        expected = model(z)
        assert expected.isfinite().float().mean() > 0.5
        assert torch.equal(again(z), expected)
    if name != "centered":
        state = model.state_dict()
        assert state.keys() == again.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in again.state_dict().items())
    for one, other in zip(model, again, strict=True):
        assert getattr(one, "t_max", None) == getattr(other, "t_max", None)
    assert metadata(nir.read(path))["encoding"] == encoding.to_dict()
    assert again.encoding == encoding
    assert read(write(path, again, shape)).encoding == encoding  # the one that it carries
    assert [path.name for path in tmp_path.iterdir()] == ["network.nir"]


def test_numbers_of_numpy_and_torch_are_written_as_numbers(tmp_path: Path, seed: int) -> None:
    two, eight = np.int64(2), np.int64(8)
    model = nn.Sequential(
        SpikingConv2d(two, eight, np.int64(3), t_max=np.float32(4.5)), SpikingMaxPool2d(two)
    )
    path = write(
        tmp_path / "network.nir",
        model,
        (two, eight, eight),
        tau=np.float32(0.5),  # type: ignore[arg-type]
        dt=np.float32(0.125),  # type: ignore[arg-type]
    )
    assert torch.equal(read(path)(z := spikes(2, 2, 8, 8)), model(z))
    notes = metadata(nir.read(path))
    assert (notes["tau"], notes["dt"], notes["input_shape"]) == (0.5, 0.125, [2, 8, 8])
    assert notes["encoding"] is None
    assert not hasattr(read(path), "encoding")
    with pytest.raises(TypeError, match=r"^encoding must be a ttfs_fast.encoding.Encoding; got d"):
        write(path, model, (2, 8, 8), encoding={"alpha": 1.0})  # type: ignore[arg-type]
    assert read(path)[0].t_max == 4.5  # the file that was there is there


@pytest.mark.parametrize("name", ["a/b", "/", "a\0b", "\ud800", "a%2Fb", "ä b"])
def test_all_names_allowed_by_torch_round_trip(name: str, tmp_path: Path, seed: int) -> None:
    model = nn.Sequential()
    model.add_module(name, SpikingConv2d(1, 2, 3))
    model.add_module("flat/ten", nn.Flatten())
    model.add_module("f/c", SpikingLinear(8, 2))
    again = read(write(tmp_path / "network.nir", model, (1, 4, 4)))
    z = spikes(3, 1, 4, 4)
    assert torch.equal(again(z), model(z))
    assert list(again.state_dict()) == list(model.state_dict())


def test_graphs_are_valid_and_have_the_documented_parameters(seed: int) -> None:
    model = mnist_scnn()
    nn.init.constant_(model.conv1.bias, 0.25)
    graph = to_graph(model, (1, 28, 28), tau=0.02, dt=0.001)
    assert graph.check_types()
    kinds = [type(node).__name__ for node in graph.nodes.values()]
    layer = ["Conv2d", "CubaLIF"]
    assert kinds == ["Input", *layer, *layer, "Flatten", "Linear", "CubaLIF", "Output"]
    weights, neurons = graph.nodes["conv1"].weight, graph.nodes["conv1_neurons"]
    # padding="same" is longer at the end: one tap of weight 0 at the front makes it equal.
    assert weights.shape == (33, 2, 6, 6)
    assert tuple(graph.nodes["conv1"].padding) == (2, 2)
    assert np.array_equal(weights[:32, 0, 1:, 1:], model.conv1.weight[:, 0].detach().numpy())
    assert not weights[:32, 0, 0].any()
    assert not weights[:32, 0, :, 0].any()
    assert (weights[:32, 1, 2, 2] == 0.25).all()
    assert np.count_nonzero(weights[:32, 1]) == 32
    rate = 0.02 / 0.001
    assert np.allclose(neurons.tau_syn, 0.02)
    assert np.allclose(neurons.r, neurons.tau_mem / 0.001)
    assert np.allclose(neurons.w_in, neurons.tau_syn / 0.001)
    assert np.allclose(neurons.v_threshold, rate)
    # After a spike not even all excitation together reaches the threshold again.
    excitation = weights.clip(0).sum(axis=(1, 2, 3)) * rate
    reached = neurons.v_reset + excitation[:, None, None]
    assert (reached < 0).all()
    assert (reached > -1.01 * rate).all()


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            relu_counterpart(vgg_stack(4)),
            (3, 32, 32),
            "conv1 is a Sequential, which a NIR graph cannot",
        ),
        (
            spiking_googlenet(device="meta", width=0.1),
            (3, 224, 224),
            "inception3a is a Concatenation, which",
        ),
        (SpikingLinear(3, 2), (3,), "must be a Sequential with layers; got a SpikingLinear"),
        (nn.Sequential(SpikingLinear(3, 2), nn.ReLU()), (3,), "1 is a ReLU, which a NIR graph"),
    ],
)
def test_other_modules_are_refused_by_name(
    model: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        to_graph(model, shape)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (small(groups=1), (2, 2, 2), "a map of .2, 2. is too small"),
        (small(), (3, 8, 8), r"0 takes maps of 2 channels, and gets \(3, 8, 8\)"),
        (nn.Sequential(SpikingConv2d(2, 4, 3, groups=2)), (2, 8, 8), "carries no groups"),
        (nn.Sequential(SpikingConv2d(2, 3, (3, 5))), (2, 8, 8), "no square window"),
        (small(padding=3), (2, 4, 4), "see nothing of the map"),
        (nn.Sequential(nn.Flatten(2)), (2, 3, 3), "0: only Flatten"),
        (nn.Sequential(SpikingLinear(3, 2)), (2, 3, 3), r"0 takes \(3,\)"),
        (nn.Sequential(SpikingLinear(3, 2, t_max=-1.0)), (3,), r"0 has the horizon -1.0; a graph"),
        (
            nn.Sequential(SpikingLinear(3, 2), SpikingLinear(2, 2).double()),
            (3,),
            r"one type; got \['float32', 'float64'\]",
        ),
        (
            nn.Sequential(SpikingLinear(3, 2)).half(),
            (3,),
            "must be float32 or float64; got float16",
        ),
        (nn.Sequential(SpikingLinear(3, 2)), (3, 2), "input_shape must be"),
        (nn.Sequential(SpikingLinear(3, 2)), (0,), "input_shape must be"),
    ],
)
def test_other_forms_are_refused_by_name(
    model: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        to_graph(model, shape)


def test_numbers_and_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = nn.Sequential(SpikingLinear(3, 2))
    for scales in ({"dt": 0.0}, {"dt": 0.01}, {"tau": math.nan}, {"tau": math.inf}):
        with pytest.raises(ValueError, match="dt must be above 0 and below tau"):
            to_graph(model, (3,), **scales)
    with torch.no_grad():
        model[0].weight[1, 2] = math.nan
    path = tmp_path / "old.nir"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="0 has weights that are not finite"):
        write(path, model, (3,))
    assert path.read_bytes() == b"old"
    taken = nn.Sequential()
    taken.add_module("input", SpikingLinear(3, 2))
    alike = nn.Sequential()
    alike.add_module("a/b", SpikingLinear(3, 3))
    alike.add_module("a%2Fb", SpikingLinear(3, 3))
    with pytest.raises(ValueError, match="two nodes of the graph would be called 'a%2Fb'"):
        to_graph(alike, (3,))
    with pytest.raises(ValueError, match="two nodes of the graph would be called 'input'"):
        to_graph(taken, (3,))


def test_files_of_others_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nir", nn.Sequential(SpikingLinear(3, 2)), (3,))
    content = path.read_bytes()
    with pytest.raises(FileNotFoundError, match="no NIR file at"):
        read(tmp_path / "b.nir")
    for damaged in (b"", content[:100], content[: len(content) // 2], b"not HDF5 at all" * 50):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.nir is not a readable NIR file"):
            read(path)
    foreign = nir.NIRGraph.from_list(nir.Linear(np.ones((2, 3), np.float32)))
    nir.write(path, foreign)
    with pytest.raises(ValueError, match="no metadata of ttfs_fast"):
        read(path)


def test_a_changed_graph_is_refused() -> None:
    graph = to_graph(mnist_scnn(), (1, 28, 28))
    assert from_graph(graph)
    for change in ("threshold", "padding tap", "edge", "node"):
        other = copy.deepcopy(graph)
        if change == "threshold":
            other.nodes["fc_neurons"].v_threshold[3] *= 1.5
        elif change == "padding tap":
            other.nodes["conv1"].weight[0, 0, 0, 0] = 1
        elif change == "edge":
            other.edges = other.edges[:-1]
        else:
            other.nodes["more"] = copy.deepcopy(other.nodes["fc"])
        with pytest.raises(ValueError, match="it was changed after"):
            from_graph(other)
    notes = metadata(graph)
    for key, value in (
        ("layers", notes["layers"][:-1]),
        ("layers", [{"name": "conv1"}]),
        ("layers", [{"name": "conv1", "kind": "lstm"}]),
        ("layers", None),
        ("input_shape", [1, 27, 27]),
        ("layers", [notes["layers"][0] | {"t_max": "soon"}, *notes["layers"][1:]]),
        ("layers", [notes["layers"][0] | {"t_max": 3.0}, *notes["layers"][1:]]),
        ("dt", -1.0),
    ):
        other = copy.deepcopy(graph)
        other.metadata["ttfs_fast"] = json.dumps(notes | {key: value})
        with pytest.raises(ValueError, match=r"changed after|do not describe its nodes"):
            from_graph(other)
    for text, message in (
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": "other", "version": 1}', "of format 'other'"),
        (json.dumps(notes | {"version": 99}), "version 99; this version of ttfs_fast reads"),
    ):
        graph.metadata["ttfs_fast"] = text
        with pytest.raises(ValueError, match=message):
            from_graph(graph)


def test_spike_trains_have_one_spike_per_input() -> None:
    model = nn.Sequential(SpikingLinear(4, 2, t_max=1.25), SpikingLinear(2, 2, t_max=4.0))
    graph = to_graph(model, (4,), tau=0.01, dt=0.001)
    z = torch.tensor([0.0, 0.25, 3.0, math.inf], dtype=torch.float64).exp()
    trains = spike_trains(graph, z, 25)
    assert trains.shape == (25, 7)
    # 4 is the bias, 5 and 6 are the horizons; the latter comes later than the trains end.
    assert trains.nonzero().tolist() == [[0, 0], [0, 4], [2, 1], [13, 5]]
    with pytest.raises(ValueError, match=r"earliest spike is at t = -0.6931"):
        spike_trains(graph, z / 2, 25)
    with pytest.raises(ValueError, match=r"z has the shape \(1, 4\); the network takes \(4,\)"):
        spike_trains(graph, z[None], 25)


def test_what_a_graph_would_lose_is_refused() -> None:
    class Own(nn.Sequential):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return super().forward(z / z.amin())

    class Louder(SpikingLinear):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return super().forward(z) * 3

    class Reversed(nn.Flatten):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return super().forward(z.flip(1))

    with pytest.raises(TypeError, match="model, a Own, has a forward of its own"):
        to_graph(Own(SpikingLinear(3, 2)), (3,))
    with pytest.raises(TypeError, match="0: a Reversed has a forward of its own"):
        to_graph(nn.Sequential(Reversed(), SpikingLinear(3, 2)), (3, 1, 1))
    with pytest.raises(TypeError, match="0: a Louder has a forward of its own"):
        to_graph(nn.Sequential(Louder(3, 2)), (3,))
    pruned = nn.Sequential(SpikingLinear(3, 2))
    prune.l1_unstructured(pruned[0], "weight", 0.25)
    with pytest.raises(ValueError, match="its weight is computed in the forward pass; remove what"):
        to_graph(pruned, (3,))
    prune.remove(pruned[0], "weight")
    graph = to_graph(pruned, (3,))
    with pytest.raises(ValueError, match="z has NaN"):
        spike_trains(graph, torch.tensor([math.nan, 1.5, 2.0]), 5)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": [0, 0]},
        {"t_max": 10**400},
        {"kernel": [100_000, 100_000]},
        {"dilation": [0, 1]},
    ],
    ids=str,
)
def test_absurd_metadata_are_refused(change: dict[str, Any]) -> None:
    model = nn.Sequential(SpikingConv2d(1, 2, 3), SpikingMaxPool2d(2))
    graph = to_graph(model, (1, 8, 8))
    notes = metadata(graph)
    for layer in notes["layers"]:
        layer.update({key: value for key, value in change.items() if key in layer})
    graph.metadata["ttfs_fast"] = json.dumps(notes)
    with pytest.raises(ValueError, match="do not describe its nodes"):
        from_graph(graph)


def test_metadata_nested_without_end_are_damaged() -> None:
    graph = to_graph(nn.Sequential(SpikingConv2d(1, 2, 3)), (1, 8, 8))
    graph.metadata["ttfs_fast"] = "[" * 100_000
    with pytest.raises(ValueError, match="damaged"):
        from_graph(graph)
