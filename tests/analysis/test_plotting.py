import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from support.machine import run_children
from ttfs_fast.analysis.plotting import spike_raster
from ttfs_fast.data import load
from ttfs_fast.encoding import Encoding
from ttfs_fast.models import mnist_scnn
from ttfs_fast.nn import SpikingLinear

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra ttfs_fast[plot]")


def titles(figure: object) -> str:
    return " | ".join(
        axis.get_title(loc=where)
        for axis in figure.axes  # type: ignore[attr-defined]
        for where in ("left", "right", "center")
    )


def test_raster_of_the_mnist_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = load("digits", train=False)
    figure = spike_raster(mnist_scnn(), images.images[3], label=int(images.labels[3]))
    assert len(figure.axes) == 5
    for layer, neurons in (("input", 784), ("conv1", 6272), ("conv2", 784), ("fc", 10)):
        assert layer in titles(figure)
        assert f"{neurons:,} neurons" in titles(figure)
    assert figure.get_suptitle().startswith("First output spike at ")
    figure.savefig(tmp_path / "raster.png")
    pixels = matplotlib.image.imread(tmp_path / "raster.png")
    assert pixels.shape[0] > 500
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 100


def test_raster_counts_by_hand() -> None:
    # One pixel bright, one dark; weight 3 on each alone: neuron 0 spikes at 1.5, neuron 1 at
    # 1.5 e^alpha, neuron 2 never.
    layer = SpikingLinear(2, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.25, 0.25]]))
    model = nn.Sequential(nn.Flatten(), layer)
    image = np.array([[255, 0]], dtype=np.uint8)
    figure = spike_raster(
        model, image, classes=("left", "right", "none"), label=1, encoding=Encoding()
    )
    assert "2 neurons, 1 spike by the decision, 0 silent" in titles(figure)
    assert "3 neurons, 1 spike by the decision, 1 silent" in titles(figure)
    assert figure.get_suptitle() == "First output spike at 0.41 tau: class left  (true class right)"


def test_raster_without_a_decision() -> None:
    model = nn.Sequential(nn.Flatten(), SpikingLinear(2, 3, bias=False))
    with torch.no_grad():
        model[1].weight.fill_(0.1)
    figure = spike_raster(model, np.array([[9, 7]], dtype=np.uint8), encoding=Encoding())
    assert figure.get_suptitle() == "No output neuron spikes: no decision"
    assert "3 neurons, 3 silent" in titles(figure)


def test_raster_requires_uint8() -> None:
    with pytest.raises(ValueError, match="uint8"):
        spike_raster(mnist_scnn(), np.zeros((28, 28)))  # type: ignore[arg-type]


def test_pyplot_is_not_touched() -> None:
    assert "matplotlib.pyplot" not in sys.modules


def test_pictures_ignore_mplbackend(tmp_path: Path) -> None:
    backends = ("module://matplotlib_inline.backend_inline", "no-such-backend", "svg", None)
    paths = [tmp_path / f"{number}.png" for number in range(len(backends))]
    children = []
    for backend, path in zip(backends, paths, strict=True):
        code = (
            "import os\n"
            "from pathlib import Path\n"
            "from ttfs_fast._extras import require\n"
            "from ttfs_fast.analysis.style import save_figure\n"
            f"save_figure(Path({str(path)!r}), require('matplotlib.figure', 'plot').Figure())\n"
            f"assert os.environ.get('MPLBACKEND') == {backend!r}\n"
            "import matplotlib\n"
            "print(matplotlib.rcParams._get('backend'))\n"
        )
        children.append((code, {"MPLBACKEND": backend}))
    for backend, path, done in zip(
        backends, paths, run_children("import ttfs_fast.analysis", children), strict=True
    ):
        assert done.returncode == 0, done.stderr
        assert path.read_bytes().startswith(b"\x89PNG")
        assert (done.stdout == "svg\n") == (backend == "svg")  # one that is known is kept
