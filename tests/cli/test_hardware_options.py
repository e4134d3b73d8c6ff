"""``export --check``, ``eval --count-operations`` and ``diagnose --json``."""

import json
from pathlib import Path

import pytest
import torch

from support.command import run_command
from ttfs_fast.analysis import count_operations, diagnose
from ttfs_fast.data import load
from ttfs_fast.encoding import encode
from ttfs_fast.models import mnist_scnn

SMALL = "fan_in = 100\nfan_out = 5000\n"
LARGE = "fan_in = 1000\nneurons_per_core = 1000\ncores = 64\n"


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    path = tmp_path / "limits.toml"
    path.write_text(SMALL)
    return path


def test_export_writes_no_file_if_the_network_exceeds_limits(tmp_path: Path, limits: Path) -> None:
    out = tmp_path / "mnist.pt2"
    result = run_command(
        "export", "--out", str(out), "--weights", "mnist_scnn", "--check", str(limits)
    )
    assert result.exit_code == 1
    assert "conv2: fan_in 801, 100 allowed (8.01 times as much)" in result.output
    assert "fc: fan_in 785, 100 allowed" in result.output
    assert "conv1: " not in result.output
    assert not out.exists()


def test_export_checks_without_a_file(tmp_path: Path, limits: Path) -> None:
    limits.write_text(LARGE)
    result = run_command("export", "--weights", "mnist_scnn", "--check", str(limits))
    assert result.exit_code == 0, result.output
    assert f"every layer fits the limits of {limits}" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["limits.toml"]


def test_export_refuses_wrong_limits(tmp_path: Path, limits: Path) -> None:
    limits.write_text("fan = 3")
    result = run_command("export", "--weights", "mnist_scnn", "--check", str(limits))
    assert result.exit_code == 2
    assert "unknown limit 'fan'; the limits are fan_in" in result.output
    result = run_command("export", "--weights", "mnist_scnn")
    assert result.exit_code == 2
    assert "give --out NAME.nir, --out NAME.pt2 or --check" in result.output


def test_eval_counts_operations(tmp_path: Path) -> None:
    energy = tmp_path / "energy.toml"
    energy.write_text('[mine]\nper_spike = 1.0\nsource = "a test"\n')
    options = ["eval", "--weights", "mnist_scnn", "--dataset", "digits", "--count-operations", "7"]
    result = run_command(*options, "--energy", str(energy), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)["operations"]
    z = encode(load("digits", train=False).images_as_tensor()[:7])
    counts = count_operations(mnist_scnn(pretrained=True), z)
    assert found["images"] == 7
    assert found["layers"] == counts.to_dict()["layers"]
    assert found["energy_joule"] == {"mine": counts.total("spikes")}
    result = run_command(*options)
    assert result.exit_code == 0, result.output
    for text in ("delivered", "causal", "digital-45nm", "Davies"):
        assert text in result.output
    result = run_command("eval", "--weights", "mnist_scnn", "--energy", str(energy))
    assert result.exit_code == 2
    assert "--energy is for --count-operations" in result.output
    for more in (["--mirror"], ["--jitter", "0.1"]):
        result = run_command(*options, *more)
        assert result.exit_code == 2
        assert "counted for one view of each image, without noise" in result.output


def test_diagnose_as_json() -> None:
    result = run_command("diagnose", "--config", "digits", "--images", "4", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["images"] == 4
    assert found["layers"][0]["delivered"] > found["layers"][0]["causal_operations"] > 0


def test_diagnose_counts_exactly(seed: int) -> None:
    model = mnist_scnn()
    z = (3 * torch.rand(3, 1, 28, 28)).exp()
    layers = diagnose(model, (z, torch.arange(3))).layers
    counts = count_operations(model, z).layers
    for layer, counted in zip(layers, counts, strict=True):
        assert layer.delivered == counted.delivered / 3
        assert layer.causal_operations == counted.causal / 3
