"""The authors' small network for CIFAR-10, compared with a plain version of their code.

The arrays that they published are not at hand here; these have their shapes.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ttfs_fast.data import ImageSet
from ttfs_fast.data.cifar import CIFAR10_CLASSES
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import cifar_scnn

FILES = {
    "weight_CFAR1.npy": (5 * 5 * 3 + 1, 64),
    "weight_CFAR2.npy": (5 * 5 * 64 + 1, 32),
    "weight_CFAR3.npy": (5 * 5 * 32 + 1, 16),
    "weight_CFAR4.npy": (4 * 4 * 16 + 1, 64),
    "weight_CFAR5.npy": (64 + 1, 10),
}
SILENT = 1e5


def write_authors(folder: Path) -> list[np.ndarray]:
    generator = np.random.default_rng(7)
    arrays = []
    for name, shape in FILES.items():
        # About as their code starts, up to 8 / inputs; with negative ones, so that some are silent.
        array = generator.uniform(-4 / shape[0], 8 / shape[0], shape).astype(np.float32)
        np.save(folder / name, array)
        arrays.append(array)
    return arrays


def neurons(inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Spikes of neurons that share their inputs: one crossing after the other, in float64."""
    inputs = np.append(inputs, 1.0)  # the bias neuron
    order = np.argsort(inputs, kind="stable")
    z, w = inputs[order], weight[order].astype(np.float64)
    total, moment = w.cumsum(0), (w * z[:, None]).cumsum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = moment / (total - 1)
    following = np.append(z[1:], SILENT)[:, None]
    counts = (total > 1) & (out >= z[:, None]) & (out <= following)
    return np.where(counts, out, SILENT).min(0)


def convolution(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """TensorFlow's "SAME" with stride 2 and a kernel of 5, on (rows, columns, channels)."""
    size = len(image)
    out = -(-size // 2)
    pad = max((out - 1) * 2 + 5 - size, 0)
    padded = np.pad(image, ((pad // 2, pad - pad // 2),) * 2 + ((0, 0),), constant_values=SILENT)
    rows = [
        [neurons(padded[2 * r : 2 * r + 5, 2 * c : 2 * c + 5].ravel(), weight) for c in range(out)]
        for r in range(out)
    ]
    return np.array(rows)


def test_cifar_as_their_code_computes(tmp_path: Path) -> None:
    arrays = write_authors(tmp_path)
    pixels = np.random.default_rng(8).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    model = cifar_scnn(weights=tmp_path)
    assert model.encoding == Encoding(alpha=3.0, polarity="dark-first")
    assert {layer.t_max for layer in model if hasattr(layer, "t_max")} == {math.log(SILENT)}
    model.double()
    spikes = []
    for image, own in zip(
        pixels, model(model.encoding(torch.from_numpy(pixels) / 255.0).double()), strict=True
    ):
        z = np.exp(3 * (image.astype(np.float32) / np.float32(255)).astype(np.float64))
        z = z.transpose(1, 2, 0)
        for array in arrays[:3]:
            z = convolution(z, array)
            spikes.append((z < SILENT).mean())
        z = z.ravel()
        for array in arrays[3:]:
            z = neurons(z, array)
            spikes.append((z < SILENT).mean())
        expected = torch.from_numpy(np.where(z < SILENT, z, np.inf))
        torch.testing.assert_close(own.double(), expected, rtol=1e-4, atol=0)
        assert int(own.argmin()) == int(z.argmin())
    print("share that spikes, layer by layer:", np.round(spikes, 2))
    assert min(spikes) > 0.3


def test_eval_takes_the_authors_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from support.command import run_command
    from ttfs_fast.analysis import evaluate

    pixels = np.random.default_rng(9).integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
    images = ImageSet(pixels, np.arange(30, dtype=np.int64) % 10, "CIFAR-10", CIFAR10_CLASSES)
    asked: list[str] = []

    def load(name: str, *_: object, **__: object) -> ImageSet:
        asked.append(name)
        return images

    monkeypatch.setattr("ttfs_fast.data.load", load)
    write_authors(tmp_path)
    arguments = ["eval", "--weights", str(tmp_path), "--json"]
    result = run_command(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert asked == ["cifar10"]
    expected = evaluate(cifar_scnn(weights=tmp_path), images)
    assert found["confusion"] == expected.confusion.tolist()
    assert expected.silent_images == 0
    assert len(set(expected.confusion.argmax(1))) > 1 or expected.correct > 0


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere of the authors'"):
        cifar_scnn(weights=tmp_path / "nowhere")
    write_authors(tmp_path)
    with pytest.raises(ValueError, match="either pretrained=True or weights"):
        cifar_scnn(pretrained=True, weights=tmp_path)
    for other in ({"width": 0.5}, {"classes": 9}, {"image_size": 16}, {"in_channels": 6}):
        with pytest.raises(ValueError, match=r"are for width 1, 3 channels"):
            cifar_scnn(weights=tmp_path, **other)
    path = tmp_path / "weight_CFAR4.npy"
    np.save(path, np.zeros((256, 64), np.float32))
    with pytest.raises(ValueError, match=r"CFAR4.npy holds .*expected floats of shape \(257, 64\)"):
        cifar_scnn(weights=tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"CFAR4.npy is not a readable .npy array"):
        cifar_scnn(weights=tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"CFAR4.npy is missing; the folder must hold"):
        cifar_scnn(weights=tmp_path)
