"""Counts of operations, compared with a count synapse by synapse, on every kind of layer."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ttfs_fast.analysis import (
    EnergyModel,
    MemoryModel,
    count_operations,
    operations,
    read_energy_models,
)
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, fold_horizons_
from ttfs_fast.nn import Delay, SpikingConv2d, SpikingLinear, SpikingMaxPool2d
from ttfs_fast.optim.centering import center_weights_

INF = math.inf


def spikes(*shape: int, silent: float = 0.2) -> Tensor:
    z = (2 * torch.rand(shape)).exp().mul(8).round().div(8)  # coarse, so that some coincide
    return z.masked_fill(torch.rand(shape) < silent, INF)


def by_hand(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> dict[str, int]:
    """Every synapse of every neuron, one after the other."""
    delivered = causal = synapses = 0
    rows = inputs.tolist()
    for n, row in enumerate(rows):
        if isinstance(layer, SpikingLinear):
            for z in outputs[n].tolist():
                heard = [*row, *([1.0] if layer.bias is not None else [])]
                synapses += len(heard)
                delivered += sum(i < INF for i in heard)
                causal += sum(i < z for i in heard)
            continue
        assert isinstance(layer, SpikingConv2d)
        height, width = inputs.shape[2:]
        per_group = layer.out_channels // layer.groups
        inside = layer.in_channels // layer.groups
        pads = layer.padding
        if isinstance(pads, str):
            pads = tuple(
                max((o - 1) * s + d * (k - 1) + 1 - n, 0) // 2
                for o, s, d, k, n in zip(
                    outputs.shape[2:],
                    layer.stride,
                    layer.dilation,
                    layer.kernel_size,
                    (height, width),
                    strict=True,
                )
            )
        for c, y, x in torch.cartesian_prod(*map(torch.arange, outputs.shape[1:])).tolist():
            z = float(outputs[n, c, y, x])
            heard = [1.0] if layer.bias is not None else []
            for k in range(inside):
                for v in range(layer.kernel_size[0]):
                    for u in range(layer.kernel_size[1]):
                        at = y * layer.stride[0] - pads[0] + v * layer.dilation[0]
                        to = x * layer.stride[1] - pads[1] + u * layer.dilation[1]
                        if 0 <= at < height and 0 <= to < width:
                            heard.append(row[c // per_group * inside + k][at][to])
            synapses += len(heard)
            delivered += sum(i < INF for i in heard)
            causal += sum(i < z for i in heard)
    bias = int(layer.bias is not None)
    return {
        "images": len(inputs),
        "neurons": outputs[0].numel(),
        "synapses": synapses // len(inputs),
        "input_spikes": int(inputs.isfinite().sum()) + bias * len(inputs),
        "spikes": int(outputs.isfinite().sum()),
        "delivered": delivered,
        "causal": causal,
    }


LAYERS = {
    "linear": (lambda: SpikingLinear(7, 5), (4, 7)),
    "linear with a horizon": (lambda: SpikingLinear(7, 5, bias=False, t_max=1.2), (4, 7)),
    "conv": (lambda: SpikingConv2d(2, 3, 3, padding=1), (2, 2, 5, 6)),
    "stride": (lambda: SpikingConv2d(2, 3, 3, stride=2, bias=False), (2, 2, 6, 8)),
    "same": (lambda: SpikingConv2d(2, 3, (3, 2), stride=2, padding="same"), (2, 2, 7, 6)),
    "valid": (lambda: SpikingConv2d(1, 2, 2, padding="valid"), (2, 1, 4, 4)),
    "dilation": (lambda: SpikingConv2d(2, 3, 2, dilation=(2, 3), padding=2), (2, 2, 5, 5)),
    "groups": (lambda: SpikingConv2d(4, 6, 3, groups=2, padding=(0, 2)), (2, 4, 5, 5)),
    "conv with a horizon": (lambda: SpikingConv2d(2, 3, 3, padding=1, t_max=1.5), (2, 2, 5, 5)),
    "more padding than map": (lambda: SpikingConv2d(2, 4, 3, padding=4), (4, 2, 3, 3)),
}


@pytest.mark.parametrize("chunk", [1 << 22, 1])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_counted_as_by_hand(
    name: str, chunk: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "CHUNK", chunk)
    make, shape = LAYERS[name]
    layer, z = make(), spikes(*shape)
    with torch.no_grad():
        layer.weight.mul_(2).sub_(0.4 * layer.weight.mean())
        if layer.bias is not None:
            layer.bias.uniform_(-0.2, 0.4)
        outputs = layer(z)
    assert outputs.isfinite().float().mean() > 0
    counts = count_operations(layer, [z[:1], z[1:]])
    (found,) = counts.layers
    expected = by_hand(layer, z, outputs)
    assert {key: getattr(found, key) for key in expected} == expected
    assert counts.total("neurons") == expected["neurons"]
    with pytest.raises(ValueError, match=r"what must be one of neurons, .* got 'images'"):
        counts.total("images")
    assert found.causal < found.delivered  # or the comparison would say little
    assert counts.total("causal") == expected["causal"] / len(z)


def test_ties_and_silence() -> None:
    layer = SpikingLinear(3, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    (found,) = count_operations(layer, torch.tensor([[1.0, 2.0, INF]])).layers
    assert (found.delivered, found.causal) == (2, 1)  # an input at the spike itself is not causal
    nn.init.constant_(layer.weight, 0.1)
    (found,) = count_operations(layer, torch.tensor([[1.0, 2.0, INF]])).layers
    assert (found.delivered, found.causal, found.spikes) == (2, 2, 0)


def network() -> nn.Sequential:
    return nn.Sequential(
        SpikingConv2d(2, 4, 3, padding=1),
        SpikingMaxPool2d(3, 2, 1),
        Delay(4, 0.3),
        SpikingConv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        SpikingLinear(16, 5),
    )


@pytest.mark.parametrize("centered", [False, True])
def test_a_network_is_counted_layer_by_layer(centered: bool, seed: int) -> None:
    model = network().train()
    if centered:
        center_weights_(model, (2, 8, 8))
    z = spikes(3, 2, 8, 8)
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda m, i, o: seen.append((m, i[0], o)))
        for layer in model
        if isinstance(layer, SpikingConv2d | SpikingLinear)
    ]
    with torch.no_grad():
        model(z)
    for handle in handles:
        handle.remove()
    counts = count_operations(model, z)
    assert model.training
    assert [layer.name for layer in counts.layers] == ["0", "3", "5"]
    for found, (layer, inputs, outputs) in zip(counts.layers, seen, strict=True):
        expected = by_hand(layer, inputs, outputs)
        assert {key: getattr(found, key) for key in expected} == expected
        assert found.reference_delivered == found.reference_causal == 0
    assert json.loads(json.dumps(counts.to_dict()))["layers"][1]["updates"] == (
        counts.layers[1].causal + counts.layers[1].spikes
    )
    assert "all" in str(counts)


def test_a_layer_at_two_places_is_counted_twice(seed: int) -> None:
    layer = SpikingLinear(4, 4)
    model = nn.Sequential(layer, layer)
    counts = count_operations(model, spikes(3, 4))
    assert [found.name for found in counts.layers] == ["0", "1"]
    assert sum(found.neurons for found in counts.layers) == 8


def test_layers_with_horizons_count_like_folded_ones(seed: int) -> None:
    first = HorizonConv2d(1, 3, 3, padding=1, t_in=0.3, spread=0.05, normalization="none")
    last = HorizonLinear(48, 4, t_in=first.t_out, spread=0.05, normalization="none")
    model = nn.Sequential(first, nn.Flatten(), last)
    z = (0.3 * torch.rand(2, 1, 4, 4)).exp()
    counts = count_operations(model, z)
    assert isinstance(model[0], HorizonConv2d)  # left as it is
    plain = fold_horizons_(copy.deepcopy(model).eval())
    assert counts == count_operations(plain, z)
    with torch.no_grad():
        hidden = plain[0][1](plain[0][0](z))
    found = counts.layers[1]
    early = int(hidden.isfinite().sum())
    assert 0 < early < hidden.numel()
    assert found.delivered - found.reference_delivered == (early + 2) * 4 - 2 * 4 + 2 * 4
    assert found.reference_delivered == (hidden.numel() - early + 2) * 4
    assert found.reference_causal <= found.reference_delivered
    padded = counts.layers[0]
    assert padded.reference_delivered >= 2 * (20 + 36) * 3  # padding and the added channel


def test_counting_rejects_invalid_input() -> None:
    with pytest.raises(ValueError, match="no SpikingLinear"):
        count_operations(nn.Linear(2, 2), torch.ones(1, 2))
    for images in ([], torch.ones(0, 2)):
        with pytest.raises(ValueError, match="no images to count on"):
            count_operations(SpikingLinear(2, 2), images)
    with pytest.raises(ValueError, match="the layer gives NaN"):
        count_operations(SpikingLinear(2, 2), torch.tensor([[math.nan, 1.0]]))


def test_energy_is_the_sum_of_its_parts(seed: int) -> None:
    counts = count_operations(network(), spikes(3, 2, 8, 8))
    model = EnergyModel("mine", "a test", 3.0, 5.0, 7.0, 11.0)
    memory = MemoryModel(weight=1, state=2, event=3)
    expected = 0.0
    for layer in counts.layers:
        updates = layer.causal + layer.spikes
        size = layer.causal + 2 * 2 * updates + 3 * (layer.input_spikes + layer.spikes)
        assert layer.bytes(memory) == size
        expected += 3 * layer.spikes + 5 * layer.causal + 7 * updates + 11 * size
    assert counts.energy(model, memory) == pytest.approx(expected / 3)
    delivered = EnergyModel("mine", "a test", 0, 1.0, operations="delivered")
    assert counts.energy(delivered) == counts.total("delivered")
    assert counts.energy(EnergyModel("none", "a test")) == 0
    found = counts.to_dict(read_energy_models())["energy_joule"]
    assert found["paper"] == pytest.approx(10e-12 * counts.total("spikes"))
    assert found["loihi"] == pytest.approx(
        23.6e-12 * counts.total("delivered") + 81e-12 * counts.total("updates")
    )


def test_energy_models_name_their_sources() -> None:
    models = read_energy_models()
    assert [model.name for model in models] == ["paper", "loihi", "digital-45nm"]
    assert all(len(model.source) > 20 for model in models)


def test_a_file_replaces_the_energy_models(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[chip]\nper_spike = 2e-12\noperations = "delivered"\nsource = "data sheet"\n')
    (model,) = read_energy_models(path)
    assert model == EnergyModel("chip", "data sheet", 2e-12, operations="delivered")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no energy model"),
        ("[a", "is not a TOML file"),
        ("a = 1", "a stands outside a table"),
        ("[a]\nper_spike = 1", "needs source"),
        ('[a]\nsource = "x"\nper_spik = 1', "'per_spik'; allowed are source, per_spike"),
        ('[a]\nsource = "x"\nper_spike = -1', "joules, 0 or above; got -1"),
        ('[a]\nsource = "x"\nper_spike = nan', "joules, 0 or above; got nan"),
        ('[a]\nsource = "x"\nper_spike = true', "joules, 0 or above; got True"),
        ('[a]\nsource = "x"\nper_byte = "1"', "joules, 0 or above; got '1'"),
        ('[a]\nsource = "x"\noperations = "all"', "'causal', 'delivered'; got 'all'"),
        ("[a]\nsource = 3", "source must be a text"),
        ("\udce4".encode(errors="surrogateescape").decode("latin1"), "is not a TOML file"),
    ],
)
def test_energy_files_that_are_wrong_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="latin1")
    with pytest.raises(ValueError, match=message) as caught:
        read_energy_models(path)
    assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no file of energy models"):
        read_energy_models(tmp_path / "other.toml")


def test_memory_models_refuse() -> None:
    with pytest.raises(ValueError, match="weight must be a number of bytes"):
        MemoryModel(weight=-1)


def test_one_image_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a batch; the layer 0 gets .* \(3, 8, 8\)"):
        count_operations(nn.Sequential(SpikingConv2d(3, 4, 3)), 1 + torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match=r"must be a batch; the layer 0 gets .* \(16,\)"):
        count_operations(nn.Sequential(SpikingLinear(16, 4)), 1 + torch.rand(16))
    maps = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), SpikingConv2d(1, 2, 3))
    assert count_operations(maps, 1 + torch.rand(4, 16)).images == 4
