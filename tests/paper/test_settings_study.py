"""A study of settings: trained, resumed, read from a file, refused."""

import dataclasses
import math
from pathlib import Path

import pytest

from support.command import run_command
from support.runs import LEARNING, digits
from ttfs_fast.paper import studies
from ttfs_fast.paper.studies import SettingsStudy, settings_study
from ttfs_fast.paper.studies.settings import AS_GIVEN, SettingsRun, read_study, summary

BASE = digits(200, 100, epochs=2, **LEARNING)
STUDY = SettingsStudy(BASE, {"hardly learns": {"lr": 1e-6, "min_lr": 1e-6}}, seeds=(0, 1))

FILE = """
config = "cifar10-airbench"
seeds = 2

[base]
epochs = 3
val_images = 2500

[changes."no dirac"]
dirac = false
"""


def test_table_and_resume(tmp_path: Path) -> None:
    said: list[str] = []
    runs = settings_study(STUDY, tmp_path, log=said.append)
    names = [AS_GIVEN, "hardly learns"]
    assert [(run.change, run.seed) for run in runs] == [(n, s) for s in (0, 1) for n in names]
    assert len(said) == 4
    table = (tmp_path / "settings.csv").read_text()
    given, changed = summary(runs)
    assert (given.change, changed.change) == (AS_GIVEN, "hardly learns")
    assert given.seeds == 2
    assert given.test > changed.test + 0.2
    assert given.test == (runs[0].test_accuracy + runs[2].test_accuracy) / 2
    # Finished runs are found; one with other settings is trained again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model.safetensors")}
    other = dataclasses.replace(STUDY, changes={"hardly learns": {"lr": 2e-6, "min_lr": 1e-6}})
    assert len(before) == 4
    assert settings_study(STUDY, tmp_path) == runs
    assert (tmp_path / "settings.csv").read_text() == table
    settings_study(dataclasses.replace(other, seeds=(0,)), tmp_path)
    changed_files = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed_files == {tmp_path / "hardly-learns-seed0" / "model.safetensors"}


def test_one_seed_has_no_deviation() -> None:
    run = SettingsRun(AS_GIVEN, 0, 1, 0.5, 0.4, 1.0, 0, 1.0)
    assert math.isnan(summary([run])[0].deviation)


def test_a_file_says_what_to_train(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(FILE)
    study = read_study(path, threads=1)
    assert study.seeds == (0, 1)
    assert (study.base.epochs, study.base.val_images, study.base.threads) == (3, 2500, 1)
    assert [(name, c.dirac, c.seed) for name, c in study.configurations()] == [
        (AS_GIVEN, True, 0),
        ("no dirac", False, 0),
        (AS_GIVEN, True, 1),
        ("no dirac", False, 1),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[base]", "[bases]", "it names bases; known are config, seeds, base, changes"),
        ("seeds = 2", "seeds = 0", "seeds must be a number of at least 1; got 0"),
        ("epochs = 3", "epoch = 3", "base .*epoch"),
        ("dirac = false", "diracs = false", 'change "no dirac" .*diracs'),
        ("dirac = false", "seed = 3", "sets seed; give the seeds of the study"),
        ("dirac = false", "weight_sum = 0.5", 'change "no dirac": weight_sum must be above 1'),
        ('"no dirac"', '"no/dirac"', "a change is named by letters"),
        ('"no dirac"', '"as given"', 'and not "as given"'),
        ("[base]", "base = 3\n[other]", "it names other"),
        ("cifar10-airbench", "cifar10-air", "no settings at cifar10-air"),
    ],
)
def test_refusals(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in FILE
    path = tmp_path / "study.toml"
    path.write_text(FILE.replace(old, new))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_study(path)
    with pytest.raises(ValueError, match="seeds must be one or more"):
        SettingsStudy(BASE, seeds=())


@pytest.mark.parametrize("names", [("as-given",), ("no dirac", "no-dirac")])
def test_changes_that_would_share_a_folder_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"would have the folder .*; give '.*' another name"):
        SettingsStudy(BASE, {name: {"lr": 0.1} for name in names})


def test_the_command_keeps_settings_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.toml"
    own = 'data_root = "/my/data"\nthreads = 3\ndevice = "cpu"\n'
    file.write_text(FILE.replace("[base]\n", f"[base]\n{own}"))
    studied: list[SettingsStudy] = []

    def study(chosen: SettingsStudy, out: Path, log: object) -> list[SettingsRun]:
        studied.append(chosen)
        return []

    monkeypatch.setattr(studies, "settings_study", study)
    for more in ([], ["--threads", "2", "--data-root", str(tmp_path)]):
        result = run_command("study", "settings", "--changes", str(file), *more)
        assert result.exit_code == 0, result.output
    first, second = (chosen.base for chosen in studied)
    assert (first.data_root, first.threads, first.device) == ("/my/data", 3, "cpu")
    assert (second.data_root, second.threads, second.device) == (str(tmp_path), 2, "cpu")
