import gzip
import math
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

import ttfs_fast
from ttfs_fast.analysis import evaluate
from ttfs_fast.data import load_mnist
from ttfs_fast.encoding import encode
from ttfs_fast.models import MnistSCNN, mnist_scnn
from ttfs_fast.training import TrainConfig, read_config, read_metadata, read_recipe

FILES = {
    "weight_scnn1.npy": (26, 32),
    "weight_scnn2.npy": (801, 16),
    "weight_scnn3.npy": (785, 10),
}


def test_sizes() -> None:
    model = mnist_scnn()
    assert isinstance(model, MnistSCNN)
    count = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(n for name, n in count.items() if name.endswith("weight")) == 21_440
    assert sum(n for name, n in count.items() if name.endswith("bias")) == 58
    assert list(model._modules) == ["conv1", "conv2", "flatten", "fc"]
    z = (2 * torch.rand(3, 1, 28, 28)).exp()
    assert model.conv1(z).shape == (3, 32, 14, 14)
    assert model.conv2(model.conv1(z)).shape == (3, 16, 7, 7)
    assert model(z).shape == (3, 10)
    assert model(z[:0]).shape == (0, 10)


def test_new_network_spikes_and_learns(seed: int) -> None:
    model = mnist_scnn()
    z = (3 * torch.rand(4, 1, 28, 28)).exp()
    out = model(z)
    assert out.isfinite().float().mean() > 0.9
    out.log().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_arguments_are_passed_to_the_layers() -> None:
    model = mnist_scnn(t_max=2.0, dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert [model.conv1.t_max, model.conv2.t_max, model.fc.t_max] == [2.0] * 3
    assert mnist_scnn(device="meta").fc.weight.is_meta


def spikes_of(model: MnistSCNN, z: Tensor) -> tuple[Tensor, list[float]]:
    """Classes, and the number of spikes of each layer."""
    hidden1 = model.conv1(z)
    hidden2 = model.conv2(hidden1)
    out = model.fc(hidden2.flatten(1))
    return out.argmin(1), [float(t.isfinite().sum()) for t in (hidden1, hidden2, out)]


def test_authors_weights(data_root: Path, instruction_set: str) -> None:
    everything = instruction_set == ttfs_fast.instruction_sets()[-1]
    count = 10_000 if everything else 2_000
    images = load_mnist(data_root, train=False)
    model = mnist_scnn(weights=data_root / "authors-mnist")
    assert model.t_max == math.log(1e5)
    correct, spikes = 0, np.zeros(3)
    with torch.inference_mode():
        for first in range(0, count, 1000):
            some = slice(first, first + 1000)
            z = encode(torch.from_numpy(images.images[some]) / 255, 3.0, "bright-first")
            classes, fired = spikes_of(model, z)
            correct += int((classes.numpy() == images.labels[some]).sum())
            spikes += fired
    neurons = np.array([32 * 14 * 14, 16 * 7 * 7, 10]) * count
    if everything:
        assert abs(correct - 9_943) <= 3
        assert spikes.sum() / neurons.sum() == pytest.approx(0.883, abs=0.001)
        assert spikes[:2] / neurons[:2] == pytest.approx([0.883, 0.879], abs=0.001)
        assert spikes[2] == neurons[2]
    else:
        assert correct / count > 0.99
        assert spikes.sum() / neurons.sum() == pytest.approx(0.883, abs=0.01)


def test_pretrained_weights(data_root: Path) -> None:
    """They have the test accuracy of their metadata, and come from the recipe."""
    pretrained = resources.files("ttfs_fast.models") / "weights" / "mnist_scnn.safetensors"
    with resources.as_file(pretrained) as file:
        assert file.stat().st_size < 100_000
        config, metadata = read_config(file), read_metadata(file)
    assert config is not None
    recipe = TrainConfig(**read_recipe("mnist"))
    assert set(config.differences(recipe)) <= {"threads"}
    result = evaluate(
        mnist_scnn(pretrained=True),
        load_mnist(data_root, train=False),
    )
    assert abs(result.correct - round(10_000 * float(metadata["test_accuracy"]))) <= 3
    assert result.accuracy > 0.985
    assert result.silent_images == 0
    assert result.spikes_per_neuron > 0.5


def test_float32_on_the_authors_network(data_root: Path, instruction_set: str) -> None:
    """Each layer on the same inputs in float32 and in float64."""
    images = load_mnist(data_root, train=False)
    single = mnist_scnn(weights=data_root / "authors-mnist")
    double = mnist_scnn(weights=data_root / "authors-mnist").double()
    z = encode(torch.from_numpy(images.images[:200]) / 255, 3.0, "bright-first").float()
    for name in ("conv1", "conv2", "fc"):
        with torch.inference_mode():
            exact = double.get_submodule(name)(z.double())
            z = single.get_submodule(name)(z)
        assert exact.isfinite().double().mean() > 0.8
        # Real weights hold no crossing so flat that float32 takes another decision.
        assert torch.equal(z.isfinite(), exact.isfinite())
        spiking = exact.isfinite()
        error = ((z.double() - exact).abs() / exact)[spiking]
        share = (error <= 1e-5).double().mean().item()
        print(f"{name}: {share:.5%} of {len(error)} spikes within 1e-5, worst {error.max():.1e}")
        assert share >= 0.999
        z = z.flatten(1) if name == "conv2" else z


def test_authors_layout(tmp_path: Path, seed: int) -> None:
    """Rows in the order (kernel row, kernel column, channel), the bias last."""
    arrays = write_authors(tmp_path)
    model = mnist_scnn(weights=tmp_path)
    second = arrays["weight_scnn2.npy"]
    for row, column, channel, output in ((0, 0, 0, 0), (1, 3, 17, 5), (4, 4, 31, 15)):
        index = (row * 5 + column) * 32 + channel
        assert model.conv2.weight[output, channel, row, column] == second[index, output]
    assert torch.equal(model.conv2.bias, torch.from_numpy(second[-1]))
    third = arrays["weight_scnn3.npy"]
    for row, column, channel, output in ((0, 0, 0, 0), (2, 6, 11, 7)):
        index = (row * 7 + column) * 16 + channel
        assert model.fc.weight[output, channel * 49 + row * 7 + column] == third[index, output]
    assert mnist_scnn(weights=tmp_path, t_max=4.0).fc.t_max == 4.0


def write_authors(folder: Path) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {name: generator.random(shape, np.float32) for name, shape in FILES.items()}
    for name, array in arrays.items():
        np.save(folder / name, array)
    return arrays


def test_missing_weights_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere"):
        mnist_scnn(weights=tmp_path / "nowhere")
    write_authors(tmp_path)
    (tmp_path / "weight_scnn2.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"weight_scnn2.npy is missing; the folder must"):
        mnist_scnn(weights=tmp_path)
    with pytest.raises(ValueError, match="either pretrained=True or weights"):
        mnist_scnn(pretrained=True, weights=tmp_path)


def test_wrong_arrays_are_rejected(tmp_path: Path) -> None:
    write_authors(tmp_path)
    path = tmp_path / "weight_scnn1.npy"
    np.save(path, np.zeros((25, 32), np.float32))
    with pytest.raises(ValueError, match=r"shape \(25, 32\); expected floats of shape \(26, 32\)"):
        mnist_scnn(weights=tmp_path)
    np.save(path, np.zeros((26, 32), np.int64))
    with pytest.raises(ValueError, match=r"int64 array .*expected floats"):
        mnist_scnn(weights=tmp_path)
    np.save(path, np.array([{"a": 1}], dtype=object))  # numpy pickles objects
    with pytest.raises(ValueError, match=r"weight_scnn1.npy is not a readable .npy array"):
        mnist_scnn(weights=tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 90, 200, 3000])
def test_truncated_arrays_are_rejected(tmp_path: Path, kept: int) -> None:
    write_authors(tmp_path)
    path = tmp_path / "weight_scnn1.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"weight_scnn1.npy is not a readable .npy array"):
        mnist_scnn(weights=tmp_path)


def test_safetensors(tmp_path: Path, seed: int) -> None:
    safetensors = pytest.importorskip(
        "safetensors.torch", reason="needs the extra ttfs_fast[train]"
    )
    path = tmp_path / "net.safetensors"
    model = mnist_scnn()
    safetensors.save_file(model.state_dict(), path)
    again = mnist_scnn(weights=path)
    assert again.t_max == math.inf
    z = (3 * torch.rand(2, 1, 28, 28)).exp()
    assert torch.equal(again(z), model(z))
    assert mnist_scnn(weights=str(path), dtype=torch.float64).fc.weight.dtype == torch.float64

    whole = path.read_bytes()
    for kept in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            mnist_scnn(weights=path)
    state = model.state_dict()
    for change in ({"fc.weight": torch.zeros(10, 3)}, {"more": torch.zeros(1)}):
        safetensors.save_file(state | change, path)
        with pytest.raises(ValueError, match="not this network"):
            mnist_scnn(weights=path)
    del state["conv1.bias"]
    safetensors.save_file(state, path)
    with pytest.raises(ValueError, match=r"(?s)not this network.*conv1.bias"):
        mnist_scnn(weights=path)


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    torch.save(mnist_scnn().state_dict(), path)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        mnist_scnn(weights=path)
    with gzip.open(tmp_path / "net.gz", "wb") as packed, path.open("rb") as plain:
        shutil.copyfileobj(plain, packed)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        mnist_scnn(weights=tmp_path / "net.gz")


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.write_bytes(safetensors.torch.save({}))
    with pytest.raises(ValueError, match="not this network: "):
        mnist_scnn(weights=path)
    path.write_bytes(safetensors.torch.save({}, {"config": '{"t_max": 1' + "0" * 400 + "}"}))
    with pytest.raises(ValueError, match="its metadata hold no training settings"):
        mnist_scnn(weights=path)
