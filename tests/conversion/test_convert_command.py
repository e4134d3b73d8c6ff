"""``ttfs-fast convert``, the files it writes, and the commands that read them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

safetensors = pytest.importorskip("safetensors.torch", reason="needs the extra ttfs_fast[train]")

from support.command import run_command  # noqa: E402
from ttfs_fast._untrusted import read_metadata  # noqa: E402
from ttfs_fast.conversion import (  # noqa: E402
    IntensitiesOfSpikes,
    compare_decisions,
    from_relu,
    load_converted,
    save_converted,
)
from ttfs_fast.data import load  # noqa: E402
from ttfs_fast.horizon import HorizonConv2d, HorizonLinear, fold_horizons_  # noqa: E402
from ttfs_fast.models import mnist_scnn  # noqa: E402
from ttfs_fast.quantization import QuantizeConfig, quantize  # noqa: E402
from ttfs_fast.training import TrainConfig, load_model, train  # noqa: E402

FACTORY = """
import torch
from torch import nn

class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 4, 5, 2), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(576, 10)

    def forward(self, x):
        x = torch.nn.functional.relu6(self.stem(x))
        return self.fc(torch.relu(x + self.conv(x)).flatten(1))

class Seven(Residual):
    def forward(self, x):
        return super().forward(x)[:, :7]

def small():
    torch.manual_seed(3)
    return Residual()

def number():
    return 3
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow batch-normalized ReLU network, trained a little on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "relu"
    config = TrainConfig(
        dataset="digits",
        model="vgg4",
        neuron="relu-norm",
        width=0.125,
        weight_sum_cost=0.0,
        l2_cost=0.0,
        epochs=1,
        batch_size=50,
        lr=0.01,
        threads=1,
    )
    train(config, folder)
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a network with a residual sum, and its factory, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory_of_test.py").write_text(FACTORY)
    names: dict[str, Any] = {}
    exec(FACTORY, names)
    path = tmp_path / "weights.safetensors"
    safetensors.save_file(names["small"]().state_dict(), path)
    return path


def test_a_run_is_converted_and_evaluated(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "spiking.safetensors"
    result = run_command("convert", str(trained), "--to", str(out), "--dtype", "float64", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["equal"] == found["images"] == 360
    evaluated = run_command("eval", "--weights", str(out), "--json", "--count-operations", "2")
    assert evaluated.exit_code == 0, evaluated.output
    shown = json.loads(evaluated.output)
    assert shown["accuracy"] == pytest.approx(found["accuracy"])
    assert 0.1 < shown["spikes_per_neuron"] < 0.9
    assert shown["operations"]["per_image"]["causal"] > 1000
    result = run_command("convert", str(out), "--to", str(tmp_path / "more.safetensors"))
    assert result.exit_code == 2
    assert "is converted already" in result.output


def test_a_run_on_standardized_images_is_converted(trained: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(
        TrainConfig.from_json((trained / "config.json").read_text()), standardize=True
    )
    train(config, tmp_path / "relu")
    out = tmp_path / "spiking.safetensors"
    words = ("convert", str(tmp_path / "relu"), "--to", str(out), "--dtype", "float64", "--json")
    found = json.loads(run_command(*words).stdout)
    assert found["equal"] == found["images"] == 360
    accuracies = [
        json.loads(run_command("eval", "--weights", str(path), "--json").stdout)["accuracy"]
        for path in (tmp_path / "relu", out)
    ]
    assert accuracies == [pytest.approx(found["accuracy"])] * 2
    diagnosed = run_command("diagnose", "--weights", str(out), "--json")
    assert diagnosed.exit_code == 0, diagnosed.output


def test_images_that_do_not_vary() -> None:
    relu = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    spiking = from_relu(relu, torch.zeros(5, 1, 2, 2))
    assert spiking(torch.zeros(2, 1, 2, 2)).isfinite().all()


def test_commands_that_look_at_spikes_refuse_the_relu_network(
    trained: Path, tmp_path: Path
) -> None:
    for words in (
        ["predict", trained, tmp_path / "scan.png"],
        ["eval", "--weights", trained, "--count-operations", "2"],
        ["diagnose", "--weights", trained],
        ["quantize", "--weights", trained, "--out", tmp_path / "few"],
        ["export", "--weights", trained, "--out", tmp_path / "a.nir"],
        ["export", "--weights", trained, "--check", tmp_path / "limits.toml"],
        ["circuit", "layer", "--weights", trained],
    ):
        done = run_command(*words)
        assert done.exit_code == 2, done.output
        said = " ".join(done.output.split())
        assert "holds a ReLU network, whose neurons do not spike; ttfs-fast convert" in said
    assert not list(tmp_path.iterdir())


def test_a_network_of_your_own_is_converted(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "spiking.safetensors"
    arguments = ["convert", str(own), "--to", str(out), "--model", "factory_of_test:small"]
    arguments += [
        "--dataset",
        "digits",
        "--mean",
        "0.3",
        "--deviation",
        "0.4",
        "--test-images",
        "99",
    ]
    result = run_command(*arguments)
    assert result.exit_code == 0, result.output
    assert "of 99 decisions are equal" in result.output
    network = load_converted(out)
    # The layer behind the sum takes both branches, so that the steps are a chain.
    assert isinstance(network, nn.Sequential)
    assert isinstance(network[0], IntensitiesOfSpikes)
    assert (network[0].mean, network[0].deviation) == ((0.3,), (0.4,))
    names: dict[str, Any] = {}
    exec(FACTORY, names)
    pixels = load("digits", train=False).images_as_tensor()[:50] / 255
    loaded, config = load_model(out)
    assert config.dataset == "digits"
    from ttfs_fast.encoding import encoding_of

    spikes = encoding_of(loaded)(load("digits", train=False).images_as_tensor()[:50])
    logits = names["small"]()((pixels - 0.3) / 0.4)
    assert (loaded(spikes).argmin(1) == logits.argmax(1)).float().mean() > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["weights.safetensors", "--to", "a.nir"], "give --to NAME.safetensors; got a.nir"),
        (["weights.safetensors"], "give --to NAME.safetensors; got None"),
        (["weights.safetensors", "--to", "a.safetensors"], "not the weights of mnist_scnn"),
        (["none.safetensors", "--to", "a.safetensors"], "no weights at none.safetensors"),
        (["model.pt2", "--to", "a.safetensors"], "reading such a file can run code that it holds"),
        (["mnist_scnn", "--to", "a.safetensors"], "no ReLU network"),
        (
            ["weights.safetensors", "--to", "a.safetensors", "--model", "x:y"],
            "give the images, too",
        ),
        (["OWN", "--model", "factory_of_test:small", "--dataset", "folder"], "class folders use"),
        (["OWN", "--model", "factory_of_test"], "must be named as package.module:factory"),
        (["OWN", "--model", "factory_of_test:none"], "factory_of_test has no none"),
        (
            ["OWN", "--model", "no_such_module:none"],
            "no_such_module cannot be imported",
        ),
        (["OWN", "--model", "factory_of_test:number"], "gave a int; it must give"),
        (["OWN", "--model", "factory_of_test:torch.nn.ReLU"], "does not hold the weights of"),
        (["OWN", "--model", "factory_of_test:Seven"], "gives (7,) for an image; digits has 10"),
        (["OWN", "--model", "factory_of_test:small", "--mean", "a"], "--mean must be numbers"),
        (["OWN", "--model", "factory_of_test:small", "--mean", "1,2,3"], "--mean has 3 numbers"),
        (["OWN", "--model", "factory_of_test:small", "--deviation", "0"], "numbers above 0"),
        (["OWN", "--model", "factory_of_test:small", "--spread", "0.9"], "spread smaller than 0.9"),
    ],
)
def test_unsupported_operations_are_named(own: Path, arguments: list[str], message: str) -> None:
    before = {path.name for path in own.parent.iterdir()}
    if arguments[0] == "OWN":
        arguments = [str(own), "--to", "a.safetensors", "--dataset", "digits", *arguments[1:]]
    result = run_command("convert", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert {path.name for path in own.parent.iterdir()} - before <= {"__pycache__"}


def test_files_restore_every_kind_of_step(tmp_path: Path, seed: int) -> None:
    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 2, padding="same")
            self.fc = nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = y = torch.relu(self.one(x))
            x = torch.relu(self.two(x) + x)
            x = nn.functional.max_pool2d(torch.relu(torch.cat([x, y], 1)), 2)
            return self.fc(nn.functional.avg_pool2d(x, 2).flatten(1))

    x = torch.randn(20, 3, 8, 8, dtype=torch.float64)
    for network in (
        Everything().double(),
        nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()).double(),
    ):
        spiking = from_relu(network, x)
        again = load_converted(save_converted(spiking, tmp_path / "one.safetensors", {"a": "b"}))
        assert type(again) is type(spiking)
        kinds = {type(module) for module in again.modules()}
        assert kinds == {type(module) for module in spiking.modules()}
        torch.testing.assert_close(again.state_dict(), spiking.state_dict(), rtol=0, atol=0)
        # torch's float64 product depends in its last bit on where in memory the weights lie.
        torch.testing.assert_close(again(x), spiking(x), rtol=1e-14, atol=0)
        assert [p.requires_grad for p in again.parameters()] == [
            p.requires_grad for p in spiking.parameters()
        ]
    assert read_metadata(tmp_path / "one.safetensors")["a"] == "b"
    with pytest.raises(TypeError, match=r"ReferenceSpikes|SpikingConv2d|Sequential"):
        save_converted(fold_horizons_(spiking), tmp_path / "two.safetensors")
    with pytest.raises(TypeError, match="got Linear"):
        save_converted(nn.Linear(2, 2), tmp_path / "two.safetensors")
    # What only networks that are trained with horizons have, and the file does not say.
    options = {"t_in": 1.0, "normalization": "none"}
    for layer in (
        HorizonLinear(4, 3, positions=2, **options),
        HorizonConv2d(1, 2, 3, pool=2, **options),
        HorizonConv2d(1, 2, 3, mirror="image", **options),
        HorizonLinear(4, 3, t_in=1.0),
    ):
        with pytest.raises(TypeError, match="is no module of a converted network"):
            save_converted(nn.Sequential(layer), tmp_path / "two.safetensors")
    assert not (tmp_path / "two.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "its version is 2"),
        ({"dtype": "int8"}, "int8"),
        ({"steps": []}, "it has no modules"),
        ({"steps": [{"name": "0", "kind": "exec", "inputs": []}]}, "a step of kind 'exec'"),
        ({"steps": 3}, "not iterable"),
        (None, "nested too deeply|Expecting value"),
        ("size", "size mismatch"),
    ],
)
def test_files_with_false_sizes_are_rejected(
    tmp_path: Path, change: dict[str, Any] | str | None, message: str
) -> None:
    path = tmp_path / "one.safetensors"
    save_converted(from_relu(nn.Sequential(nn.Linear(4, 3)), torch.rand(5, 4)), path)
    text = json.loads(read_metadata(path)["converted"])
    if change == "size":
        text["steps"][1]["out_features"] = 10**12
    elif isinstance(change, dict):
        text |= change
    written = "no json" if change is None else json.dumps(text)
    content = safetensors.save(safetensors.load_file(path), {"format": "pt", "converted": written})
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_converted(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    safetensors.save_file(mnist_scnn().state_dict(), path)
    with pytest.raises(ValueError, match="ttfs-fast convert writes one"):
        load_converted(path)
    save_converted(from_relu(nn.Sequential(nn.Linear(4, 3)), torch.rand(5, 4)), path)
    with pytest.raises(ValueError, match="takes real numbers, not spikes of pixels"):
        load_model(path)


def test_converted_network_names_unsupported_uses(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "spiking.safetensors"
    named = ["--model", "factory_of_test:small", "--dataset", "digits"]
    assert run_command("convert", str(own), "--to", str(out), *named).exit_code == 0
    for arguments, message in (
        (["export", "--weights", str(out), "--out", "a.nir"], "IntensitiesOfSpikes"),
        (["quantize", "--weights", str(out), "--out", "few"], "cannot be retrained with few bits"),
        (
            ["reproduce", "--quick", "--weights", str(out), "--out", "rep"],
            "cannot stand in the report",
        ),
    ):
        result = run_command(*arguments)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.output.split())
    assert not (tmp_path / "few").exists()
    exported = run_command("export", "--weights", str(out), "--out", "a.pt2")
    assert exported.exit_code == 0, exported.output
    program = torch.export.load(tmp_path / "a.pt2").module()
    z = torch.rand(3, 1, 28, 28).exp()
    assert torch.allclose(program(z), load_model(out)[0](z))
    with pytest.raises(ValueError, match="cannot be retrained with few bits"):
        quantize(load_model(out)[0], QuantizeConfig(), tmp_path / "few")


def test_commands_read_a_converted_network(own: Path, tmp_path: Path) -> None:
    """Pictures decide like images; circuits with a fast loop filter like the closed form."""
    image = pytest.importorskip("PIL.Image", reason="needs the extra ttfs_fast[train]")
    out = tmp_path / "spiking.safetensors"
    named = ["--model", "factory_of_test:small", "--dataset", "digits"]
    assert run_command("convert", str(own), "--to", str(out), *named).exit_code == 0
    digits = load("digits", train=False)
    for number, pixels in enumerate(digits.images[:4, 0]):
        (tmp_path / "scans").mkdir(exist_ok=True)
        image.fromarray(pixels).save(tmp_path / "scans" / f"{number}.png")
    predicted = run_command("predict", out, "scans", "--json")
    assert predicted.exit_code == 0, predicted.output
    rows = json.loads(predicted.output)["predictions"]
    names: dict[str, Any] = {}
    exec(FACTORY, names)
    logits = names["small"]()(digits.images_as_tensor()[:4] / 255)
    assert [row["decision"]["class"] for row in rows] == logits.argmax(1).tolist()
    assert [row["decision"]["name"] for row in rows] == [str(n) for n in logits.argmax(1).tolist()]
    found = run_command("diagnose", "--weights", out, "--images", "4", "--json")
    assert found.exit_code == 0, found.output
    assert len(json.loads(found.output)["layers"]) == 3
    words = ("--images", "4", "--set", "loop_corner=2e12")
    circuits = run_command("circuit", "layer", "--weights", out, *words)
    assert circuits.exit_code == 0, circuits.output
    assert "same answer for 4" in circuits.output


def test_differences_are_counted_with_their_margins() -> None:
    class Table(nn.Module):
        def __init__(self, rows: list[list[float]]) -> None:
            super().__init__()
            self.rows = torch.tensor(rows)

        def forward(self, x: Tensor) -> Tensor:
            return self.rows[x[:, 0].long()]

    logits = Table([[0.0, 2.0, 1.0], [4.0, 0.0, 1.0], [1.0, 0.0, 3.0]])
    values = Table([[3.0, 1.0, 2.0], [9.0, 9.0, 1.0], [float("inf")] * 3])
    images = torch.arange(3.0)[:, None]
    found = compare_decisions(logits, values, images)
    deviation = logits.rows.std(correction=0).item()
    assert (found.images, found.equal) == (3, 1)
    assert [(d.image, d.relu, d.spiking) for d in found.differences] == [(1, 0, 2), (2, 2, -1)]
    assert [d.margin for d in found.differences] == pytest.approx([3 / deviation] * 2)
    assert found.largest_margin == pytest.approx(3 / deviation)
    assert "1 of 3 decisions are equal; where they differ" in str(found)
    with pytest.raises(ValueError, match="no images"):
        compare_decisions(logits, values, images[:0])
    with pytest.raises(ValueError, match="the same outputs"):
        compare_decisions(logits, Table([[1.0]] * 3), images)


def test_networks_in_channels_last_format_are_saved(tmp_path: Path) -> None:
    relu = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(48, 4))
    pixels = torch.rand(40, 2, 6, 6)
    network = from_relu(relu, pixels).to(memory_format=torch.channels_last)
    again = load_converted(save_converted(network, tmp_path / "a.safetensors"))
    assert torch.equal(again(pixels), network(pixels))
