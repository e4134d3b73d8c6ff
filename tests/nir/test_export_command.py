"""``ttfs-fast export``."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

nir = pytest.importorskip("nir", reason="needs the extra ttfs_fast[nir]")

from support.command import run_command  # noqa: E402
from support.runs import digits  # noqa: E402
from ttfs_fast import nir as ours  # noqa: E402
from ttfs_fast.models import mnist_scnn  # noqa: E402
from ttfs_fast.training import (  # noqa: E402
    TrainConfig,
    export_weights,
    make_model,
    read_recipe,
    train,
)
from ttfs_fast.training.build import ImageShape  # noqa: E402

run = partial(run_command, "export")


def test_the_pretrained_network_for_simulators(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "mnist.nir"
    result = run("--out", str(path), "--weights", "mnist_scnn", "--tau", "0.02", "--dt", "0.001")
    assert result.exit_code == 0, result.output
    assert f"{path.stat().st_size:,} bytes" in result.output
    notes = ours.metadata(nir.read(path))
    assert (notes["tau"], notes["dt"], notes["encoding"]["alpha"]) == (0.02, 0.001, 3.0)
    z = (3 * torch.rand(4, 1, 28, 28)).exp()
    assert torch.equal(ours.read(path)(z), mnist_scnn(pretrained=True)(z))


def test_a_trained_deep_network_with_its_encoding(tmp_path: Path) -> None:
    config = digits(20, 10, model="cifar_scnn", width=0.1)
    trained = train(config, tmp_path / "run")
    path = tmp_path / "small.nir"
    result = run("--out", str(path), "--weights", str(trained.weights_path))
    assert result.exit_code == 0, result.output
    notes = ours.metadata(nir.read(path))
    assert notes["input_shape"] == [1, 28, 28]
    assert notes["encoding"] == {"alpha": 3.0, "polarity": "bright-first", "standardize": False}
    z = (3 * torch.rand(4, 1, 28, 28)).exp()
    expected = trained.model(z)
    assert expected.isfinite().float().mean() > 0.5
    assert torch.equal(ours.read(path)(z), expected)


def test_an_exported_program_is_loaded_by_another_process(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "mnist.pt2"
    result = run("--out", str(path), "--weights", "mnist_scnn")
    assert result.exit_code == 0, result.output
    z = (3 * torch.rand(5, 1, 28, 28)).exp()
    torch.save(z, tmp_path / "z.pt")
    code = (
        "import torch, ttfs_fast.ops; "
        "network = torch.export.load('mnist.pt2').module(); "
        "torch.save(network(torch.load('z.pt')), 'out.pt')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    found = torch.load(tmp_path / "out.pt")
    assert found.isfinite().float().mean() > 0.5
    assert torch.equal(found, mnist_scnn(pretrained=True)(z))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--out", "a.onnx", "--weights", "mnist_scnn"),
            "a.onnx: the file's name must end",
        ),
        (("--out", "a.nir"), "give a network with --weights"),
        (
            ("--out", "a.nir", "--weights", "mnist_scnn", "--dt", "1"),
            "dt must be above 0 and below tau",
        ),
        (
            ("--out", "a.nir", "--weights", "missing.safetensors"),
            "no weights at missing.safetensors",
        ),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_network_with_horizons_takes_images_of_its_own_shape(tmp_path: Path) -> None:
    config = TrainConfig(**read_recipe("cifar10-airbench") | {"width": 1 / 16})
    shape = ImageShape(3, 32, 32, 10)
    model = make_model(config, shape, centered=False).eval()
    weights = export_weights(
        model, tmp_path / "model.safetensors", config, test_accuracy=0.1, images=shape.to_json()
    )
    path = tmp_path / "model.pt2"
    result = run("--out", str(path), "--weights", str(weights))
    assert result.exit_code == 0, result.output
    assert "images of (3, 32, 32)" in result.output
    z = (0.01 * torch.rand(3, 3, 32, 32)).exp()
    assert torch.equal(torch.export.load(path).module()(z), model(z))
