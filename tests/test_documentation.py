"""What the documentation shows runs: its Python, and the options of its commands.

A block that cannot run here says so in its first line, for the reader too:
``# Not run by the tests: REASON``.
"""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

typer = pytest.importorskip("typer", reason="needs the extra ttfs_fast[train]")
pytest.importorskip("matplotlib", reason="needs the extra ttfs_fast[plot]")
pytest.importorskip("nir", reason="needs the extra ttfs_fast[nir]")

from ttfs_fast import cli  # noqa: E402

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "bench/README.md", "cpp/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # tells of commands as they were
)
BLOCK = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"# Not run by the tests: \S+ \S+")
OURS = ("ttfs-fast", "python -m ttfs_fast")


def blocks(page: str, *languages: str) -> list[tuple[int, str]]:
    """Blocks of a page in these languages, each with the line on which it starts."""
    text = (ROOT / page).read_text()
    return [
        (text.count("\n", 0, found.start(2)) + 1, found[2])
        for found in BLOCK.finditer(text)
        if found[1] in languages
    ]


def commands(page: str) -> list[str]:
    """Command lines of ours: in blocks, and those with arguments within a sentence."""
    lines = []
    for _, block in blocks(page, "", "sh", "console"):
        joined = block.replace("\\\n", " ")
        lines += [line.removeprefix("$ ").strip() for line in joined.splitlines()]
    text = BLOCK.sub("", (ROOT / page).read_text())
    lines += [" ".join(code.split()) for code in re.findall(r"`(ttfs-fast [^`]+)`", text)]
    found = []
    for line in lines:
        line = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line)  # variables of the environment
        line = re.sub(r"^torchrun .*?-m ttfs_fast", "ttfs-fast", line)
        if line.startswith(OURS):
            found.append(line.replace("python -m ttfs_fast", "ttfs-fast", 1))
    return found


PYTHON = [page for page in PAGES if blocks(page, "python")]
COMMANDS = [page for page in PAGES if commands(page)]


def test_pages_are_found() -> None:
    assert {"README.md", "docs/integer.md", "docs/deep.md"} <= {*PYTHON}
    assert {"README.md", "docs/training.md", "bench/README.md"} <= {*COMMANDS}
    assert sum(len(commands(page)) for page in COMMANDS) > 40


@pytest.mark.parametrize("page", PYTHON)
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page, one after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, object] = {"__name__": "documentation"}
    torch.manual_seed(0)
    for line, block in blocks(page, "python"):
        if NOT_RUN.match(block):
            compile(block, f"{page}:{line}", "exec")
            continue
        try:
            exec(compile("\n" * (line - 1) + block, page, "exec"), names)
        except ModuleNotFoundError as error:
            if str(error.name).startswith("ttfs_fast"):
                raise
            pytest.skip(f"the block at {page}:{line} needs the package {error.name}")


@pytest.mark.parametrize("page", COMMANDS)
def test_commands_have_these_options(page: str) -> None:
    for line in commands(page):
        words = shlex.split(line, comments=True)[1:]
        try:
            parse(typer.main.get_command(cli.app), words)
        except Exception as error:
            if type(error).__name__ == "Exit":  # --help ends so
                continue
            message = error.format_message() if hasattr(error, "format_message") else repr(error)
            pytest.fail(f"{page}: {line}: {message}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --no-such-option", "No such option: --no-such-option"),
        ("train --epochs many", "valid integer"),
        ("tarin", "no command 'tarin' among"),
        ("circuit jitters", "no command 'jitters' among"),
    ],
)
def test_wrong_commands_are_noticed(line: str, message: str) -> None:
    with pytest.raises(Exception) as caught:
        parse(typer.main.get_command(cli.app), line.split())
    assert message in str(getattr(caught.value, "message", caught.value))


def test_the_benchmark_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--batch 2 --channels 8 --size 8 --threads 1 --seconds 0.01"
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments.split()])
    runpy.run_path(str(ROOT / "examples/benchmark.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"spiking_conv2d +\| +[\d.]+ +\| +[\d.]+", printed), printed


def parse(command, words: list[str], parent=None) -> None:  # type: ignore[no-untyped-def]
    """Read a command line as the program does, without running it."""
    name = words[0] if words else ""
    if not hasattr(command, "commands"):
        command.make_context(command.name, list(words), parent=parent)
        return
    if name.startswith("-"):
        command.make_context(command.name, list(words), parent=parent)
        return
    if name not in command.commands:
        raise ValueError(f"no command {name!r} among {sorted(command.commands)}")
    context = command.make_context(command.name, [name], parent=parent, resilient_parsing=True)
    parse(command.commands[name], words[1:], context)


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash to read shell blocks")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "", "sh", "console")])
def test_shell_blocks_parse(page: str) -> None:
    for line, block in blocks(page, "", "sh", "console"):
        script = re.sub(r"^\$ ", "", block, flags=re.MULTILINE)
        done = subprocess.run(
            ["bash", "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{page}:{line}: {done.stderr}"
