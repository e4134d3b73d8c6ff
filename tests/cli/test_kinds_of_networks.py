"""The table of docs/command-line.md: a kind of network in a command works, or is refused by name.

Converted ReLU networks are in tests/conversion/test_convert_command.py.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from support.command import run_command
from ttfs_fast.data import load
from ttfs_fast.encoding import Encoding
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, fold_horizons_
from ttfs_fast.nn import Delay, OnTimes, SpikingConv2d, SpikingLinear
from ttfs_fast.training import TrainConfig, export_weights
from ttfs_fast.training.build import ImageShape, load_model
from ttfs_fast.training.own_network import description_of

FACTORIES = "kinds_of_networks"
DIGITS = list("0123456789")


def plain() -> nn.Module:
    return nn.Sequential(SpikingConv2d(1, 4, 5, stride=4), nn.Flatten(), SpikingLinear(144, 10))


def delayed() -> nn.Module:
    layers = list(plain())
    return nn.Sequential(layers[0], Delay(4, 0.2), *layers[1:])


def sister() -> nn.Module:
    kind = "rel-psp"
    return OnTimes(
        SpikingConv2d(1, 4, 5, stride=4, neuron=kind),
        nn.Flatten(),
        SpikingLinear(144, 10, neuron=kind),
    )


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = SpikingConv2d(1, 2, 5, stride=4), SpikingConv2d(1, 2, 5, stride=4)
        self.head = SpikingLinear(144, 10)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.one(z), self.two(z)], 1).flatten(1))


def horizon() -> nn.Module:
    first = HorizonConv2d(1, 4, 5, stride=4, t_in=0.01)
    last = HorizonLinear(144, 10, t_in=first.t_out, normalization="none")
    return nn.Sequential(first, nn.Flatten(), last)


KINDS = {f.__name__.lower(): f for f in (plain, delayed, sister, Branches, horizon)}

REFUSED = {
    ("sister", "diagnose"): "this analysis is made of n-LIF neurons only; 0 has neuron='rel-psp'",
    ("sister", "nir"): "a NIR graph is made of n-LIF neurons only; 0 has neuron='rel-psp'",
    ("branches", "nir"): "model must be a Sequential with layers; got a Branches",
    ("horizon", "nir"): "whose reference spikes a NIR graph does not carry",
    ("sister", "quantize"): "an integer network is made of n-LIF neurons only; 0 has neuron",
    ("branches", "quantize"): "the network itself, a Branches, is not one of these",
    ("delayed", "quantize"): "an integer network has no Delay",
    ("sister", "circuit"): "made of n-LIF neurons only; 0 has neuron='rel-psp'",
    ("sister", "reproduce"): "the report is made of n-LIF neurons only; 0 has neuron='rel-psp'",
}
"""The refused combinations; all others work."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of weights, and three pictures."""
    folder = tmp_path_factory.mktemp("kinds")
    shape = ImageShape(1, 28, 28, 10).to_json()
    torch.manual_seed(0)
    for name, make in KINDS.items():
        model = make()
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, SpikingConv2d | SpikingLinear):
                    layer.weight.add_(1 / layer.weight[0].numel())
        is_horizon = name == "horizon"
        if is_horizon:
            digits = load("digits", train=True).images_as_tensor()[:200]
            model(Encoding(0.01)(digits))  # statistics of its normalization
        settings = {"neuron": "horizon", "alpha": 0.01} if is_horizon else {"alpha": 1.5}
        config = TrainConfig(
            dataset="digits", model=f"{FACTORIES}:{make.__name__}", threads=1, **settings
        )
        text = description_of(make())
        if is_horizon:
            fold_horizons_(model.eval())
        export_weights(
            model,
            folder / f"{name}.safetensors",
            config,
            test_accuracy=0.1,
            images=shape,
            classes=DIGITS,
            network=text,
        )
        if name == "plain":
            turned = model[2].weight, model[2].bias
            with torch.no_grad():
                for parameter in turned:
                    parameter.copy_(parameter.flip(0))
            path = folder / "backwards.safetensors"
            reverse = {"images": shape, "classes": DIGITS[::-1], "network": text}
            export_weights(model, path, config, test_accuracy=0.1, **reverse)
    from PIL import Image

    for number, image in enumerate(load("digits", train=False).images[:3, 0]):
        (folder / "scans").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / "scans" / f"{number}.png")
    source = Path(__file__).read_text().partition("KINDS =")[0]
    (folder / f"{FACTORIES}.py").write_text(source.replace("from support.command", "# from"))
    (folder / "limits.toml").write_text("fan_in = 145\n")
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, from which Python imports only modules that --model names."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, FACTORIES, raising=False)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_takes_or_refuses_a_kind(kind: str, here: Path, tmp_path: Path) -> None:
    pytest.importorskip("nir", reason="needs the extra ttfs_fast[nir]")
    weights = ["--weights", f"{kind}.safetensors"]
    own = ["--model", f"{FACTORIES}:{KINDS[kind].__name__}"]
    hidden = run_command("eval", *weights)
    assert hidden.exit_code == 2
    assert f"{FACTORIES} cannot be imported" in hidden.output
    commands = {
        "predict": ["predict", f"{kind}.safetensors", "scans", "--json", *own],
        "eval": ["eval", *weights, *own, "--count-operations", "2", "--json"],
        "diagnose": ["diagnose", *weights, *own, "--images", "4", "--json"],
        "nir": ["export", *weights, *own, "--out", tmp_path / "a.nir"],
        "pt2": ["export", *weights, *own, "--out", tmp_path / "a.pt2"],
        "check": ["export", *weights, *own, "--check", "limits.toml"],
        "quantize": ["quantize", *weights, *own, "--bits", "8", "--epochs", "0"],
        "circuit": ["circuit", "layer", *weights, *own, "--images", "2"],
        "reproduce": ["reproduce", "--quick", *weights, "--only", "table1"],
    }
    commands["quantize"] += ["--train-images", "100", "--out", tmp_path / "few"]
    commands["reproduce"] += ["--out", tmp_path / "report"]
    for command, words in commands.items():
        done = run_command(*words)
        said = " ".join(done.output.split())
        message = REFUSED.get((kind, command))
        if message is not None:
            assert (done.exit_code, message in said) == (2, True), (command, done.output)
        elif command == "check":
            # A horizon is one more input, and so is the reference spike.
            assert done.exit_code == (1 if kind == "horizon" else 0), done.output
        else:
            assert done.exit_code == 0, (command, done.output)
        if command == "predict":
            first = json.loads(done.output)["predictions"][0]
            model, _ = load_model(f"{kind}.safetensors", model=own[1])
            z = model.encoding(load("digits", train=False).images_as_tensor()[:1])
            assert first["decision"]["class"] == int(model(z).argmin(1))
            assert first["decision"]["name"] == DIGITS[first["decision"]["class"]]
        if command == "eval":
            layers = json.loads(done.output)["operations"]["layers"]
            assert all(0 < layer["causal"] <= layer["delivered"] for layer in layers)
    assert (tmp_path / "few").exists() is ((kind, "quantize") not in REFUSED)
    assert (tmp_path / "a.nir").exists() is ((kind, "nir") not in REFUSED)


def test_classes_are_counted_as_the_file_names_them(here: Path, tmp_path: Path) -> None:
    """The same network with reversed outputs gives the same results, or is refused."""
    own = ["--model", f"{FACTORIES}:plain"]
    said = []
    for name in ("plain", "backwards"):
        words = ["--weights", f"{name}.safetensors", *own]
        found = json.loads(run_command("eval", *words, "--json").output)
        layers = run_command("circuit", "layer", *words, "--images", "10").output
        predicted = run_command("predict", f"{name}.safetensors", "scans", *own, "--json").output
        names = [row["decision"]["name"] for row in json.loads(predicted)["predictions"]]
        said.append((found["accuracy"], layers[layers.index("accuracy on") :], names))
    assert said[0] == said[1]
    assert said[0][0] > 0
    refused = run_command("quantize", *words, "--epochs", "0", "--out", tmp_path / "few")
    assert refused.exit_code == 2
    assert "counts its classes otherwise than digits does" in " ".join(refused.output.split())
    assert not (tmp_path / "few").exists()


def test_integer_networks_are_refused_by_name_where_floats_are_wanted(
    here: Path, tmp_path: Path
) -> None:
    own = ["--model", f"{FACTORIES}:plain"]
    few = tmp_path / "few"
    made = run_command(
        "quantize", "--weights", "plain.safetensors", *own, "--bits", "8", "--epochs", "0",
        "--train-images", "100", "--out", few,
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    file = few / "model-8bit.ttfs"
    predicted = run_command("predict", file, "scans", "--json")
    assert predicted.exit_code == 0, predicted.output
    decision = json.loads(predicted.output)["predictions"][0]["decision"]
    assert decision["name"] in "0123456789"  # the data set's, on which it was retrained
    for words in (
        ["diagnose", "--weights", file],
        ["export", "--weights", file, "--out", tmp_path / "a.nir"],
        ["export", "--weights", file, "--check", "limits.toml"],
        ["quantize", "--weights", file, "--out", tmp_path / "fewer"],
        ["circuit", "layer", "--weights", file],
        ["convert", file, "--to", tmp_path / "a.safetensors"],
    ):
        done = run_command(*words)
        assert done.exit_code == 2, done.output
        assert "holds an integer network, which eval and predict take" in " ".join(
            done.output.split()
        )
    mirrored = run_command("eval", "--weights", file, "--mirror")
    assert mirrored.exit_code == 2
    assert "--mirror is for networks in float; leave it out" in mirrored.output
    assert {path.name for path in tmp_path.iterdir()} == {"few"}
