"""``ttfs-fast bench``."""

import io
import json
from functools import partial
from pathlib import Path

import pytest

import ttfs_fast
from support.command import run_command
from support.machine import run_python
from ttfs_fast import cli
from ttfs_fast.bench import GROUPS, load
from ttfs_fast.cli._common import show_table

run = partial(run_command, "bench")

COMMITTED = Path(__file__).parents[2] / "bench/results/avx512"


def test_the_help_names_the_groups_and_others_are_refused(tmp_path: Path) -> None:
    said = " ".join(run("--help").output.replace("\u2502", " ").split())
    assert all(name in said for name in GROUPS)
    done = run("--only", "layers,layer", "--out", str(tmp_path / "new"))
    assert done.exit_code == 2
    assert f"--only takes groups of {', '.join(GROUPS)}; got 'layer'" in done.stderr
    assert not (tmp_path / "new").exists()


def test_chosen_groups_are_measured_printed_and_written(tmp_path: Path) -> None:
    out = tmp_path / "results"
    chosen = ("--only", "layers,scaling")
    done = run("--quick", *chosen, "--threads", "1", "--out", str(out))
    assert done.exit_code == 0, done.output
    for text in (
        GROUPS["layers"].title,
        GROUPS["scaling"].title,
        "conv 3x3 4->8 @6 b1",
        "1 thread",
    ):
        assert text in done.output
    assert not any(ord(c) < 32 and c != "\n" for c in done.output)
    groups = json.loads((out / "results.json").read_text())["groups"]
    assert [group["name"] for group in groups] == ["layers", "scaling"]
    assert groups[0]["measured_on"]["threads"] == 1
    done = run("--quick", "--only", "threads", "--plain", "--threads", "2", "--out", str(out))
    assert done.exit_code == 0, done.output
    groups = json.loads((out / "results.json").read_text())["groups"]
    assert [group["name"] for group in groups] == ["layers", "scaling", "threads", "plain"]
    assert (out / "results.png").exists()


@pytest.mark.parametrize("name", GROUPS)
def test_numbers_are_printed_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where output goes to a file; the layers and times are those of the committed results."""
    group = load(COMMITTED)[name]
    table = GROUPS[name].table(group.rows)
    show_table(table)
    lines = capsys.readouterr().out.splitlines()
    for cells in table.cells("-"):
        found = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
        assert cells in found


@pytest.mark.parametrize("name", GROUPS)
def test_narrow_terminals_do_not_cut_tables(name: str) -> None:
    console = pytest.importorskip("rich.console", reason="needs the extra ttfs_fast[train]")
    terminal = console.Console(width=80, force_terminal=True, file=io.StringIO())
    group = load(COMMITTED)[name]
    terminal.print(GROUPS[name].table(group.rows).rich())
    text = terminal.file.getvalue()
    assert str(group.rows[0]["layer"]) in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_default_groups_exclude_the_slow_one() -> None:
    everything = list(GROUPS)
    assert cli.bench.chosen(None, plain=True, threads=2) == everything
    assert cli.bench.chosen(None, plain=False, threads=2) == [n for n in everything if n != "plain"]
    assert "threads" not in cli.bench.chosen(None, plain=True, threads=1)
    assert cli.bench.chosen("vgg", plain=True, threads=2) == ["vgg", "plain"]
    assert cli.bench.chosen("plain", plain=True, threads=1) == ["plain"]


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    done = run("--quick", "--only", "layers", "--out", str(tmp_path))
    assert done.exit_code == 2
    assert done.stderr.startswith("ttfs-fast: ")
    assert "does not hold results" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run("--quick", "--only", "threads", "--threads", "1", "--out", str(tmp_path / "new"))
    assert done.exit_code == 2
    assert "use --threads 2" in done.stderr
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    done = run("--quick", "--only", "layers", "--out", str(tmp_path / "file"))
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "Groups" not in done.stdout  # nothing was measured


def test_a_forced_instruction_set_is_the_one_reported(tmp_path: Path) -> None:
    isa = ttfs_fast.instruction_sets()[0]  # the narrowest, which none would choose
    command = ("-m", "ttfs_fast", "bench", "--quick", "--only", "layers", "--threads", "1")
    done = run_python(*command, "--out", tmp_path, TTFS_FAST_ISA=isa)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads((tmp_path / "results.json").read_text())["groups"]
    assert group["measured_on"]["instruction_set"] == isa
