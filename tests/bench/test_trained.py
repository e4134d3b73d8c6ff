"""The benchmark of trained networks: which layers, on which inputs, beside which dense ones."""

import math

import numpy as np
import pytest
import torch

from ttfs_fast.bench import GROUPS, networks, trained
from ttfs_fast.data import ImageSet
from ttfs_fast.horizon import ReferenceSpikes, horizon_layers
from ttfs_fast.models import cifar_airbench, mnist_scnn

CLASSES = tuple("0123456789")


def random_images(name: str, count: int) -> ImageSet:
    shape = (count, 3, 32, 32)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return ImageSet(pixels, np.arange(count) % 10, "random", CLASSES)


@pytest.fixture
def _random_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "_images", random_images)


def test_every_pretrained_network_is_measured() -> None:
    from ttfs_fast.models.pretrained import PRETRAINED

    assert tuple(trained.NETWORKS) == PRETRAINED
    folded = {name for name, make in trained.NETWORKS.items() if reference_of(make)}
    assert folded == set(trained.HORIZON_RECIPES)


def reference_of(make) -> bool:  # type: ignore[no-untyped-def]
    return any(isinstance(m, ReferenceSpikes) for m in make(pretrained=True).modules())


@torch.no_grad()
def test_layers_with_horizons_see_their_reference_input() -> None:
    model = cifar_airbench(pretrained=True)
    images = random_images("cifar_airbench", 1)
    z = model.encoding(torch.from_numpy(images.images).float() / 255)
    runs = trained.layer_runs(model, z)
    assert [run.name for run in runs] == [
        name for name, m in model.named_children() if len([*m.children()]) > 1
    ]
    assert len(runs) == 8
    for run in runs:
        assert run.reference is not None
        reference = run.reference.reference.to(run.inputs.dtype)
        assert (run.inputs[:, -1] == reference).all()
        assert (run.inputs <= reference).all()
        if run.inputs.dim() == 4 and run.reference.padding != (0, 0):
            assert (run.inputs[:, :, 0] == reference).all()
        out = run.spiking(run.inputs, run.layer.weight)
        late = out == math.inf
        assert late.any() == (run.layer.t_max < math.inf)
        assert (out[~late].log() <= run.layer.t_max * (1 + 1e-6)).all()
        operator, x, weight = run.dense()
        assert operator(x, weight).shape == out.shape
        assert x.shape[1] == run.inputs.shape[1] - 1
        assert weight.shape[1] == x.shape[1]
    assert torch.equal(runs[-1].spiking(runs[-1].inputs, runs[-1].layer.weight), model(z))
    # The dense layers are those of the ReLU network.
    dense = [
        m for m in trained.relu_counterpart(model.description).modules() if hasattr(m, "weight")
    ]
    shapes = [tuple(m.weight.shape) for m in dense]
    # Its average pool is part of the folded classifier, whose positions have weights of their own.
    shapes[-1] = (10, shapes[-1][1] * 3 * 3)
    assert [tuple(run.dense()[2].shape) for run in runs] == shapes


def test_plain_layers_have_no_reference_input() -> None:
    model = mnist_scnn(pretrained=True)
    z = torch.rand(2, 1, 28, 28).exp()
    runs = trained.layer_runs(model, z)
    assert [run.name for run in runs] == ["conv1", "conv2", "fc"]
    assert all(run.reference is None for run in runs)
    assert all(torch.equal(run.dense()[2], run.layer.weight) for run in runs)
    assert all(run.dense()[1].shape == run.inputs.shape for run in runs)


def test_horizon_network_steps_by_dense_products() -> None:
    images = random_images("cifar_airbench", 3)
    model = cifar_airbench(pretrained=True)
    learner, dense = trained.training_networks("cifar_airbench", model, images)
    layers = horizon_layers(learner)
    assert len(layers) == 8
    pixels, labels = torch.from_numpy(images.images) / 255, torch.from_numpy(images.labels)
    step = networks.training_step("spiking", learner, pixels, labels, encoding=model.encoding)
    before = [p.clone() for p in learner.parameters()]
    first = step()
    assert not first.skipped
    assert [layer.fallbacks for layer in layers.values()] == [0] * 8
    moved = [p for p in learner.parameters() if p.requires_grad]
    assert len(moved) == len(before) - 1  # the whitening filters
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in moved)
    assert step().data == pytest.approx(first.data, rel=1e-5)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in dense.modules())
    assert networks.training_step("dense", dense, pixels, labels)().learned


@pytest.mark.usefixtures("_random_images")
def test_network_with_horizons_fills_its_rows() -> None:
    rows = list(trained.trained_rows(["cifar_airbench"], [2], 1, 0.0))
    assert len(rows) == 10
    unfolded = rows.pop()
    assert set(unfolded) == {"layer", "forward", "dense_forward", "forward_ratio"}
    assert unfolded["layer"] == "cifar_airbench, unfolded, b2"
    assert rows[-1]["layer"] == "cifar_airbench, whole, b2"
    assert rows[0]["layer"] == "cifar_airbench conv1, b2"
    assert [row["goal"] for row in rows] == [1.7] * 8 + [1.3]
    assert unfolded["forward_ratio"] > 0  # type: ignore[operator]
    for row in rows:
        assert set(GROUPS["trained"].columns) <= set(row)
        assert row["forward_ratio"] == row["forward"] / row["dense_forward"]  # type: ignore[operator]
        assert 0 < row["causal"] <= 1  # type: ignore[operator]
        assert 0 < row["fired"] <= 1  # type: ignore[operator]
        assert 0 <= row["recomputed"] <= 1  # type: ignore[operator]
    assert rows[0]["rescanned"] is None  # 17 events
    assert all(0 <= row["rescanned"] < 1 for row in rows[2:])  # type: ignore[operator]


def test_networks_without_their_images_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "_images", lambda name, count: None)
    assert list(trained.trained_rows(["cifar_airbench", "cifar_vgg"], [2], 1, 0.0)) == []
