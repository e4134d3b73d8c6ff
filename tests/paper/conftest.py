from pathlib import Path

import pytest

from support.machine import torch_threads
from support.reproduction import SMALL, Report
from ttfs_fast.paper import find_networks, reproduce
from ttfs_fast.training import TrainConfig, train

pytest.importorskip("matplotlib")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was trained a little on the digits."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    config = TrainConfig(
        dataset="digits",
        epochs=3,
        train_images=600,
        lr=3e-3,
        logit_scale=10.0,
        cost_reduction="mean",
        jitter=0.1,
        seed=1,
        threads=1,
    )
    result = train(config, folder)
    assert result.evaluation.accuracy > 0.4
    assert result.evaluation.spikes_per_neuron > 0.3
    return folder


@pytest.fixture(scope="session")
def report(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """All parts of it, small."""
    folder = tmp_path_factory.mktemp("report")
    with torch_threads(1):
        found = find_networks(quick=True, out=folder, seed=0, runs=(digits_run,))
        reproduce(SMALL, found, folder, command="ttfs-fast reproduce --quick")
    return Report(folder, found)
