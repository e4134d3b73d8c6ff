"""``ttfs-fast circuit``: tables, CSV, pictures, errors."""

import csv
import dataclasses
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from support.command import run_command
from ttfs_fast.analysis import evaluate
from ttfs_fast.analysis.horizons import set_horizons_
from ttfs_fast.circuit.network import simulate_network
from ttfs_fast.data import load
from ttfs_fast.models import mnist_scnn
from ttfs_fast.training import TrainConfig, export_weights

run = partial(run_command, "circuit")


@pytest.mark.parametrize("command", ["waveform", "jitter", "quantization", "layer", "convergence"])
def test_help_exits_with_usage(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output
    assert command in run("--help").output


def test_waveform(tmp_path: Path) -> None:
    table, picture = tmp_path / "w.csv", tmp_path / "w.png"
    result = run(
        "waveform",
        "--duration",
        "2",
        "--threads",
        "1",
        "--out",
        str(table),
        "--plot",
        str(picture),
    )
    assert result.exit_code == 0, result.output
    assert "averaged" in result.output
    assert "switching" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader(table.open()))
    assert {row["model"] for row in rows} == {"averaged", "switching"}
    assert max(float(row["membrane_phase_rad"]) for row in rows) > 4.9
    assert float(rows[0]["time_s"]) == 0


def test_waveform_warns_beyond_the_detector_s_range() -> None:
    result = run(
        "waveform",
        "--input-weights",
        "9,0.1,0.1",
        "--equations",
        "averaged",
        "--duration",
        "1",
    )
    assert result.exit_code == 0, result.output
    assert "beyond" in result.output


@pytest.mark.parametrize("command", ["jitter", "quantization"])
def test_sweeps(command: str, tmp_path: Path) -> None:
    table, picture = tmp_path / "t.csv", tmp_path / "t.svg"
    result = run(
        command,
        "--trials",
        "2000",
        "--out",
        str(table),
        "--plot",
        str(picture),
        "--threads",
        "1",
    )
    assert result.exit_code == 0, result.output
    assert "within a factor of two of Table 3: 5 of 5" in result.output
    assert "monotone" in result.output
    assert "seed 0" in result.output
    assert "phase_noise -147" in result.output
    assert b"<svg" in picture.read_bytes()
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 5
    for row in rows:
        assert float(row["low_95"]) < float(row["jitter_percent"]) < float(row["high_95"])
        assert row["trials"] == "2000"
    assert (
        run(command, "--trials", "2000", "--threads", "2").output.splitlines()[3:]
        == (run(command, "--trials", "2000", "--threads", "1").output.splitlines()[3:])
    )


def test_convergence(tmp_path: Path) -> None:
    table, picture = tmp_path / "c.csv", tmp_path / "c.png"
    result = run("convergence", "--out", str(table), "--plot", str(picture), "--threads", "1")
    assert result.exit_code == 0, result.output
    orders = re.search(r"order: ([\d.]+) in k / w_lf, ([\d.]+) in 1 / frequency", result.output)
    assert orders is not None
    assert float(orders[1]) == pytest.approx(1.0, abs=0.05)
    assert float(orders[2]) == pytest.approx(1.0, abs=0.15)
    assert len(list(csv.DictReader(table.open()))) == 10
    assert picture.stat().st_size > 10_000


def test_settings_reach_the_circuit() -> None:
    result = run(
        "waveform",
        "--equations",
        "averaged",
        "--set",
        "vco_gain=25e6,phase_noise=-120,bank_offset=true",
    )
    assert result.exit_code == 0, result.output
    assert "tau 25 ns" in result.output
    assert "phase_noise -120" in result.output
    assert "bank_offset" in result.output


@pytest.mark.parametrize("standardize", [False, True])
def test_layer_encodes_images_as_in_training(standardize: bool, tmp_path: Path) -> None:
    config = TrainConfig(
        dataset="digits",
        alpha=1.5,
        polarity="dark-first",
        standardize=standardize,
        horizons=(2.0, 2.5, 3.0),
    )
    network = mnist_scnn()
    set_horizons_(network, config.horizons)
    with torch.no_grad():
        network.fc.weight.normal_(0.01, 0.05)
    path = export_weights(network, tmp_path / "model.safetensors", config, test_accuracy=0.5)
    table = tmp_path / "l.csv"
    done = run("layer", "--images", "8", "--weights", str(path), "--out", str(table))
    assert done.exit_code == 0, done.output
    assert f"{path} on 8 images of digits" in " ".join(done.output.split())
    digits = load("digits", train=False)
    some = dataclasses.replace(digits, images=digits.images[:8], labels=digits.labels[:8])
    expected = evaluate(network, some, encoding=config.encoding)
    assert f"closed form {expected.accuracy:.2%}" in done.output
    found = simulate_network(network, some, encoding=config.encoding)
    rows = list(csv.DictReader(table.open()))
    assert [int(row["both fire"]) for row in rows] == [
        layer.both.sum() for layer in found.layers.values()
    ]
    shares = {name: np.isfinite(layer.ideal).mean() for name, layer in found.layers.items()}
    assert shares["conv1"] == pytest.approx(expected.spikes_per_neuron_by_layer["conv1"], abs=1e-4)


def test_layer_takes_networks_by_name_and_the_authors_folder(data_root: Path) -> None:
    for weights, source in (("mnist_scnn", "the pretrained mnist_scnn"), (None, "authors-mnist")):
        path = weights or str(data_root / "authors-mnist")
        done = run("layer", "--images", "1", "--weights", path, "--data-root", str(data_root))
        assert done.exit_code == 0, done.output
        assert source in done.output


def test_layer_command(data_root: Path, tmp_path: Path) -> None:
    table, picture = tmp_path / "l.csv", tmp_path / "l.png"
    result = run(
        "layer",
        "--images",
        "3",
        "--data-root",
        str(data_root),
        "--out",
        str(table),
        "--plot",
        str(picture),
    )
    assert result.exit_code == 0, result.output
    assert "accuracy on 3 images" in result.output
    assert "nJ per image" in result.output
    rows = list(csv.DictReader(table.open()))
    assert [row["layer"] for row in rows] == ["conv1", "conv2", "fc"]
    assert int(rows[0]["both fire"]) > 10_000
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("waveform", "--set", "supply=-1"), "supply must be"),
        (("waveform", "--set", "no_such=1"), "name=value, with one of"),
        (("waveform", "--set", "supply"), "name=value"),
        (("waveform", "--set", "supply=low"), "must be a number"),
        (("waveform", "--set", "bank_offset=1"), "true or false"),
        (("waveform", "--input-times", "1,x,3"), "--input-times must be numbers"),
        (("waveform", "--input-times", "1,2"), "as many inputs"),
        (("waveform", "--equations", "spice"), "'spice' is not one of"),
        (("waveform", "--set", "vco_gain=4e9"), "unstable"),
        (("jitter", "--inputs", "-1", "--trials", "10"), "relative_jitter"),
        (("quantization", "--bits", "99", "--trials", "10"), "weight_bits"),
        (("quantization", "--bits", "4.9"), "--bits must be whole numbers separated by commas"),
        (("jitter", "--trials", "20", "--plot", "picture.bmp"), "--plot must name"),
    ],
)
def test_errors_take_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_range_of_the_bank_can_be_set(tmp_path: Path) -> None:
    jitter = []
    for more in ((), ("--set", "weight_full_scale=50")):
        table = tmp_path / "t.csv"
        result = run("quantization", "--bits", "4", "--trials", "500", "--out", str(table), *more)
        assert result.exit_code == 0, result.output
        assert ("weight_full_scale 50" in result.output) == bool(more)
        (row,) = csv.DictReader(table.open())
        jitter.append(float(row["jitter_percent"]))
    assert jitter[1] > 3 * jitter[0]


def test_a_waveform_shorter_than_a_period_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "w.png"
    result = run("waveform", "--duration", "0.01", "--plot", str(picture))
    assert result.exit_code == 0, result.output
    assert picture.stat().st_size > 10_000
