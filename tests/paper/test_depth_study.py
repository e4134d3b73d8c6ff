import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ttfs_fast._csv import read_rows, write_rows
from ttfs_fast.data import ImageSet
from ttfs_fast.horizon import has_horizon_layers
from ttfs_fast.optim.centering import is_centered
from ttfs_fast.paper import studies as experiments
from ttfs_fast.paper.studies import DepthStudy, depth_study
from ttfs_fast.paper.studies import depth as module
from ttfs_fast.paper.studies.depth import VARIANTS, Run, make_network, plot, summary
from ttfs_fast.training import step

SMALL = DepthStudy(
    depths=(4, 8),
    seeds=(0,),
    variants=("uniform", "centered", "relu-norm"),
    width=0.25,
    train_images=64,
    test_images=40,
    epochs=2,
    batch_size=16,
)


def colored(name: str, root: str | None = None, train: bool = True) -> ImageSet:
    """Images whose class is their color, which is easy to learn."""
    generator = np.random.default_rng(train)
    labels = np.arange(200, dtype=np.int64) % 10
    shades = np.random.default_rng(5).integers(0, 256, (10, 3, 1, 1))
    noise = generator.integers(-20, 20, (200, 3, 32, 32))
    images = (shades[labels] + noise).clip(0, 255).astype(np.uint8)
    return ImageSet(images, labels, name, tuple("abcdefghij"))


@pytest.fixture(autouse=True)
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", colored)


def test_table_plot_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    runs = depth_study(SMALL, tmp_path, threads=1, log=said.append)
    assert [(r.seed, r.depth, r.variant) for r in runs] == SMALL.combinations()
    assert list(map(str, read_rows(tmp_path / "depth.csv", Run))) == list(
        map(str, runs)
    )  # with nan
    assert (tmp_path / "depth.png").read_bytes().startswith(b"\x89PNG")
    for run in runs:
        assert 0 <= run.accuracy <= 1
        assert len(run.losses.split()) == 8  # steps, fewer than twenty
        assert math.isnan(run.firing) == (run.variant == "relu-norm")
        assert run.firing > 0.5 or math.isnan(run.firing)
    assert "6 networks to train" in said[0]

    # The table without its last two rows: an interrupted study. It goes on and ends the same.
    write_rows(tmp_path / "depth.csv", Run, runs[:-2])
    again = depth_study(SMALL, tmp_path, threads=1, log=said.append)
    assert "2 networks to train, 4 are in" in said[-3]
    for one, other in zip(runs, again, strict=True):
        assert str(dataclasses.replace(one, seconds=0)) == str(
            dataclasses.replace(other, seconds=0)
        )
    # The figure shows what the table holds, not only what was asked for last.
    shown: list[list[Run]] = []
    monkeypatch.setattr(module, "plot", lambda runs: (shown.append(runs), plot(runs))[1])
    one_variant = dataclasses.replace(SMALL, variants=("uniform",))
    assert len(depth_study(one_variant, tmp_path, threads=1, log=said.append)) == 2
    assert len(shown[0]) == 6
    more = dataclasses.replace(SMALL, epochs=1, variants=("centered",), depths=(4,))
    assert len(depth_study(more, tmp_path, threads=1, log=said.append)) == 1
    assert len(shown[1]) == 1
    assert len(read_rows(tmp_path / "depth.csv", Run)) == 7


def test_networks_learn(tmp_path: Path) -> None:
    """Each variant that should learn is far better than chance on easy images."""
    study = dataclasses.replace(
        SMALL,
        depths=(4,),
        variants=(
            "centered",
            "centered-muon",
            "fixed-norm-muon",
            "relu",
            "relu-muon",
            "relu-norm-muon",
            "horizon",
        ),
        train_images=200,
        epochs=6,
        width=0.5,
    )
    runs = depth_study(study, tmp_path, threads=1, log=lambda text: None)
    for run in runs:
        assert run.accuracy > 0.5, run
        first, last = (float(run.losses.split()[i]) for i in (0, -1))
        assert last < first


def test_variants_match_their_names() -> None:
    images = colored("x")
    networks = {variant: make_network(variant, 8, 0.5, images) for variant in VARIANTS}
    assert is_centered(networks["centered"])
    assert is_centered(networks["centered-muon"])
    assert is_centered(networks["fixed-norm-muon"])
    uniform = networks["uniform"].conv2.weight
    assert uniform.min() >= 0
    assert uniform.max() <= 8 / uniform[0].numel()
    normal = networks["normal"].fc1.weight
    assert normal.std().item() == pytest.approx(math.sqrt(15 / normal.shape[1]), rel=0.1)
    assert has_horizon_layers(networks["horizon"])
    norms = [
        any(isinstance(m, torch.nn.BatchNorm2d) for m in networks[variant].modules())
        for variant in ("relu", "relu-norm", "relu-norm-muon")
    ]
    assert norms == [False, True, True]
    weights = {
        variant: sum(p.numel() for n, p in net.named_parameters() if p.dim() > 1)
        for variant, net in networks.items()
    }
    # The first layer of a ReLU network sees three channels, that of a spiking one both polarities.
    first = 8 * 3 * 9
    assert weights["relu"] == weights["relu-norm"] == weights["uniform"] - first


def test_summary() -> None:
    run = module.Run("centered", 8, 0, 1, 1, 1, 1, 1.0, 0.1, "1", 0.1, 0.5, 1.0, 1.0)
    other = dataclasses.replace(run, seed=1, accuracy=0.7)
    assert list(summary([run, other])) == [("centered", 8, 0.6, pytest.approx(0.1414, abs=1e-3), 2)]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no variant 'best'"):
        DepthStudy(variants=("best",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth must be 4, 8, 13 or 17"):
        DepthStudy(depths=(5,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        DepthStudy(epochs=0)
    path = tmp_path / "depth.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a table of this study"):
        read_rows(path, Run)
    assert experiments.DepthStudy is DepthStudy


def test_start_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With half the spread the image vanishes earlier; with twice the spread noise dominates."""
    from ttfs_fast.paper.studies import start

    monkeypatch.setattr(start, "load", colored)
    rows = start.start_study(tmp_path, depth=13, spreads=(2.0, 5.0), images=8)
    assert len(rows) == 3 * 13
    last = {row.start: row for row in rows if row.number == 13}
    first = {row.start: row for row in rows if row.number == 1}
    assert last["2.0"].spread < 0.01 * last["5.0"].spread
    assert last["5.0"].noise > 5 * first["5.0"].noise
    assert first["5.0"].gradient > 100 * first["2.0"].gradient
    assert (tmp_path / "start.csv").read_text().count("\n") == 1 + 39
    assert (tmp_path / "start.png").read_bytes().startswith(b"\x89PNG")


def test_depth_study_command(tmp_path: Path) -> None:
    from support.command import run_command

    arguments = [
        "study",
        "depth",
        "--out",
        str(tmp_path),
        "--depths",
        "4",
        "--variants",
        "centered",
    ]
    arguments += ["--seeds", "1", "--train-images", "32", "--test-images", "20", "--epochs", "1"]
    result = run_command(*arguments, "--width", "0.25", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "spiking, centered" in result.output
    assert "4 layers" in result.output
    wrong = run_command("study", "depth", "--depths", "5")
    assert wrong.exit_code == 2


def test_steps_without_finite_gradients_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = iter((1.0, math.nan, math.inf, math.nan))
    monkeypatch.setattr(step, "clip_gradient_", lambda *arguments, **more: next(norms))
    study = dataclasses.replace(SMALL, depths=(4,), variants=("centered",), epochs=1)
    with pytest.warns(UserWarning, match="centered, 4 layers, seed 0: 3 of 4 steps were left out"):
        depth_study(study, tmp_path, threads=1, log=lambda text: None)


def test_a_single_image_over_is_refused_with_batch_normalization(tmp_path: Path) -> None:
    study = dataclasses.replace(SMALL, train_images=65)
    with pytest.raises(ValueError, match="65 images in batches of 16 leave one over"):
        depth_study(study, tmp_path / "run", log=lambda text: None)
    assert not (tmp_path / "run").exists()


def test_more_images_than_there_are_mean_all(tmp_path: Path) -> None:
    study = dataclasses.replace(
        SMALL, depths=(4,), variants=("uniform",), epochs=1, train_images=10**6, test_images=10**6
    )
    said: list[str] = []
    (run,) = depth_study(study, tmp_path, threads=1, log=said.append)
    assert (run.train_images, run.test_images) == (200, 200)
    assert depth_study(study, tmp_path, threads=1, log=said.append) == [run]
    assert "0 networks to train" in said[-1]
