import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.reproduction import SMALL, Report, results
from ttfs_fast.paper import Plan, find_networks, reproduce
from ttfs_fast.quantization import training as quantization_training

PARTS = ("table3", "table4", "figure2")


def run_again(
    folder: Path, run: Path, plan: Plan = SMALL, only: tuple[str, ...] = PARTS, seed: int = 0
) -> dict[str, int]:
    """Runs in this process; returns how many units of each part were there before."""
    before: dict[str, int] = {}

    def progress(part: str, done: int, total: int) -> None:
        before.setdefault(part, done)

    found = find_networks(quick=True, out=folder, seed=seed, runs=(run,))
    reproduce(plan, found, folder, only=only, progress=progress)
    return before


def units(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "units").iterdir()}


def test_finished_units_are_not_computed_again(
    report: Report, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called again for one part of a finished folder: the others are shown from what is there."""
    monkeypatch.setattr(quantization_training, "_Run", None)  # no retraining
    # Other tests read the report of the first run, whose command this one would replace.
    folder = shutil.copytree(report.folder, tmp_path / "report")
    before = units(folder)
    there = run_again(folder, digits_run, only=("table4",))
    assert there == {"table4": 7}
    assert (folder / "results.json").read_bytes() == (report.folder / "results.json").read_bytes()
    assert units(folder) == before


def row(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = results(folder)["figure2"]["digits-demo"]["weight_snr"]["rows"][0]
    return found


def test_more_draws_add_to_those_that_are_there(digits_run: Path, tmp_path: Path) -> None:
    plan = dataclasses.replace(SMALL, weight_snr=(25.0,), disturbances={}, phase_noise=())
    assert run_again(tmp_path, digits_run, plan, ("figure2",)) == {"figure2": 0}
    first = row(tmp_path)
    more = dataclasses.replace(plan, draws=4)
    assert run_again(tmp_path, digits_run, more, ("figure2",)) == {"figure2": 6}
    found = row(tmp_path)
    assert found["correct"][:2] == first["correct"]
    assert found["draws"] == 4
    # Another seed is another file, with other draws.
    other = dataclasses.replace(plan, seed=5)
    assert run_again(tmp_path, digits_run, other, ("figure2",), seed=5) == {"figure2": 0}
    assert len(units(tmp_path)) == 2
    assert run_again(tmp_path, digits_run, plan, ("figure2",)) == {"figure2": 6}


def test_parts_that_are_not_there_are_named(digits_run: Path, tmp_path: Path) -> None:
    run_again(tmp_path, digits_run, only=("table3",))
    text = (tmp_path / "report.md").read_text()
    assert "## Table 3" in text
    assert "## Table 4" not in text
    assert "Table 4: few bits: not asked for." in text


def test_a_part_that_does_not_exist(report: Report, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no part 'table5'; the parts are: table1, table2, table3"
    ):
        reproduce(SMALL, report.found, tmp_path, only=["table5"])
