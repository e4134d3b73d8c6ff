"""Networks that are given: of other data sets than MNIST, deep, and not made for integers."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from support.reproduction import SMALL, results
from ttfs_fast.data import ImageSet, StreamedImages
from ttfs_fast.paper import find_networks, reproduce
from ttfs_fast.training import TrainConfig, train

pillow = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def colored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three colors in class folders, and one file that is none."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 8)):
        for label, shade in (("blue", 2), ("green", 1), ("red", 0)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 90, (20, 24, 3)).astype(np.uint8)
                pixels[..., shade] += 150
                pillow.fromarray(pixels).save(folder / f"{number}.png")
    (root / "val" / "red" / "broken.png").write_bytes(b"nothing")
    return root


@pytest.mark.filterwarnings("ignore:.*cannot be read")
def test_a_network_of_a_folder_of_images(colored: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        dataset="folder",
        data_root=str(colored),
        model="vgg4",
        width=0.25,
        image_size=16,
        epochs=2,
        batch_size=10,
        lr=0.02,
        weight_sum=4.0,
        weight_norm=3.0,
        relative_lr=True,
        weight_sum_cost=0.0,
        l2_cost=0.0,
        alpha=1.5,
        polarity="both",
        logit_scale=16.0,
        workers=0,
        threads=1,
    )
    run, out = tmp_path / "colors", tmp_path / "report"
    train(config, run)
    # An empty folder of data: no MNIST, so that this is the only network.
    found = find_networks(
        quick=False, out=out, seed=0, data_root=tmp_path, runs=(run,), images=colored
    )
    (network,) = [s for s in found.evaluated if s.config.dataset == "folder"]
    found = dataclasses.replace(found, evaluated=[network])
    assert isinstance(network.test_set, StreamedImages)
    assert set(network.test_set.folder.labels.tolist()) == {0, 1, 2}
    # Classes of other folders are found by their names.
    shutil.copytree(colored / "val" / "green", tmp_path / "other" / "val" / "green")
    how = {"quick": False, "out": out, "seed": 0, "data_root": tmp_path, "runs": (run,)}
    test_set = find_networks(**how, images=tmp_path / "other").evaluated[-1].test_set
    assert isinstance(test_set, StreamedImages)
    assert set(test_set.folder.labels.tolist()) == {1}
    shutil.copytree(colored / "val" / "red", tmp_path / "other" / "val" / "white")
    with pytest.raises(FileNotFoundError, match="the classes white are not among the 3"):
        find_networks(**how, images=tmp_path / "other")
    assert not network.comparable  # three classes, not a thousand
    plan = dataclasses.replace(SMALL, deep_images=10)
    reproduce(plan, found, out, only=("table2", "table4", "figure2"))
    some = network.some(10)
    assert isinstance(some, ImageSet)
    assert some.images.shape == (10, 3, 16, 16)
    assert set(some.labels.tolist()) == {0, 1, 2}
    own = results(out)
    evaluation = own["table2"][network.key]["evaluation"]
    assert evaluation["images"] == 24  # without the broken one
    assert evaluation["spikes_per_neuron"] > 0.5
    assert own["table4"] == {}  # both polarities: not for the integer engine
    sweep = own["figure2"][network.key]
    assert sweep["weight_snr"]["images"] == 10
    assert len(sweep["weight_snr"]["rows"]) == 2
    assert sweep["circuits"] == []
    text = (out / "report.md").read_text()
    assert "Images (vgg4, 2 epochs)" in text
    assert "paper (ImageNet)" in text


def test_neurons_that_do_not_spike_are_refused(tmp_path: Path) -> None:
    config = TrainConfig(
        dataset="digits",
        model="vgg4",
        width=0.1,
        neuron="relu",
        epochs=1,
        batch_size=20,
        train_images=40,
        test_images=20,
        weight_sum_cost=0.0,
        l2_cost=0.0,
        threads=1,
    )
    train(config, tmp_path / "relu")
    with pytest.raises(ValueError, match="relu neurons; these do not spike"):
        find_networks(quick=True, out=tmp_path, seed=0, runs=(tmp_path / "relu",))
