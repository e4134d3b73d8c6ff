"""The repository itself: what a reader, a packager or a fresh clone relies on."""

import importlib
import itertools
import os
import re
import runpy
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ttfs_fast

ROOT = Path(__file__).parent.parent
GENERATED = {".venv", ".git", ".nox", "build", "dist", "runs", "__pycache__"}
# The brackets keep these patterns from matching themselves.
UNFINISHED = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X|place[h]older)\b", re.IGNORECASE)
UNSAFE = re.compile(
    r"-f[f]ast-math|-O[f]ast|allow_pickle[=]True|weights_only[=]False|pickle[.]loads?\("
)


def project_files() -> list[Path]:
    """Every file that belongs to the project: what git says, or all but generated ones."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        paths = [ROOT / name for name in names.split("\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if not GENERATED & {*p.relative_to(ROOT).parts}]
    files = [path for path in paths if path.is_file()]
    assert len(files) > 20
    return files


def lines_matching(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_bytes().decode(errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_no_file_is_unfinished_or_unsafe():
    sources = [p for p in project_files() if p.suffix not in {".gz", ".png", ".safetensors"}]
    assert lines_matching(UNFINISHED, sources) == []
    assert lines_matching(UNSAFE, sources) == []


def test_files_are_small():
    """Trained weights may have eight megabytes, all else one."""
    weights = ROOT / "python/ttfs_fast/models/weights"
    large = [path for path in project_files() if path.stat().st_size > 1_000_000]
    assert [str(path) for path in large if path.parent != weights] == []
    assert [str(path) for path in large if path.stat().st_size > 8_000_000] == []


def test_one_version():
    header = (ROOT / "cpp/include/ttfs/version.h").read_text()
    version = re.search(r'TTFS_VERSION "(.+)"', header)[1]
    newest = re.search(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert ttfs_fast.__version__ == version == newest


def test_documented_commands_and_links_exist():
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "bench", "lint"} <= targets
    pages = [path for path in project_files() if path.suffix == ".md"]
    assert ROOT / "README.md" in pages
    for page in pages:
        text = page.read_text()
        commands = set(re.findall(r"^(?:\$ )?make ([a-z]+)", text, re.MULTILINE))
        commands |= set(re.findall(r"`make ([a-z]+)[ `]", text))
        assert commands <= targets, page
        for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize(
    "room",
    ["analysis", "circuit", "conversion", "data", "models", "nir", "quantization", "training"],
)
def test_public_names_are_in_the_reference(room: str) -> None:
    """A page of docs/reference lists the package, or the module of each of its names."""
    pages = "".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
    listed = re.findall(r"automodule:: (\S+)", pages)
    package = importlib.import_module(f"ttfs_fast.{room}")
    assert package.__all__
    if package.__name__ not in listed:
        homes = {name: getattr(package, name).__module__ for name in package.__all__}
        assert {name: home for name, home in homes.items() if home not in listed} == {}


def test_contributing_names_what_is_there() -> None:
    """Files, and the identifiers of its guides; NAME stands for what is to be added."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = [path.relative_to(ROOT) for path in project_files()]
    paths = {path.as_posix() for path in files}
    paths |= {folder.as_posix() for path in files for folder in path.parents}
    ending = r"\.(?:py|pyi|h|cpp|cmake|md|txt|json)"
    named = set(re.findall(rf"`([\w./-]+{ending}|[\w.-]+/[\w./-]*\w)/?`", text))
    named -= {"config.json", "build/site", ".venv"}  # programs write them
    assert len(named) > 60
    missing = {
        name
        for name in named
        if "NAME" not in name
        and name not in paths
        and not any(path.endswith(f"/{name}") for path in paths)
    }
    code = [path for path in files if path.suffix in {".py", ".h", ".cpp", ".cmake", ".txt"}]
    words = set(re.findall(r"\w+", "".join((ROOT / path).read_text() for path in code)))
    guides = text.partition("## Adding a training option")[2].partition("## Documentation")[0]
    used = set(re.findall(r"`@?(\w+)(?:\(\w*\))?`", guides))
    assert len(used) > 40
    missing |= {name for name in used if "NAME" not in name and name not in words}
    assert missing == set()


def test_continuous_integration_runs_the_documented_commands():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert {"make test", "make lint", "make sanitize"} <= set(script.read_text().splitlines())


def test_every_direct_requirement_is_pinned():
    project = pyproject()
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in map(Requirement, itertools.chain.from_iterable(groups)):
        if requirement.name == "triton":
            continue  # torch's builds for GPUs bring the one version that fits them
        assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_one_minimum_python():
    minimum = runpy.run_path(str(ROOT / "scripts/check_environment.py"))["MINIMUM_PYTHON"]
    assert pyproject()["requires-python"] == ">=" + ".".join(map(str, minimum))


def test_only_the_bindings_know_python_and_nothing_in_the_core_knows_torch():
    core = [path for path in project_files() if path.is_relative_to(ROOT / "cpp")]
    include = re.compile(r"#include\s*[<\"](torch|ATen|c10|pybind11|Python\.h)")
    including = {line.split(":")[0] for line in lines_matching(include, core)}
    assert including
    assert all(name.startswith("cpp/bindings/") for name in including), including
    bindings = [path for path in core if path.is_relative_to(ROOT / "cpp/bindings")]
    assert lines_matching(re.compile(r"#include\s*[<\"](torch|ATen|c10)/"), bindings) == []


def test_helpers_of_tests_stand_in_one_place():
    """tests/support: the command line's runner, processes, small runs, random spikes."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text()
        if path.parent.name == "support" or path == Path(__file__):
            continue
        assert "CliRunner" not in text or path.name == "test_options.py", (
            path
        )  # its own application
        assert not re.search(r"import _[A-Z]\w*", text), path  # a private class


def test_tests_mirror_the_package():
    """A folder of tests is a package, or one of these; no two files have one name."""
    package = ROOT / "python/ttfs_fast"
    more = {"fuzz", "gpu", "operators", "support"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - GENERATED
    assert {name for name in folders - more if not (package / name).is_dir()} == set()
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
    whole = {"architecture", "compile", "delay", "disk", "documentation", "features_meet"}
    whole |= {
        "folders_in_use",
        "hooks",
        "interrupt",
        "kills",
        "repository",
        "runtime",
        "shared_modules",
        "simulation",
    }
    whole |= {"stubs", "symbols", "tracing"}
    own = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert {name for name in own - whole if not (package / f"{name}.py").is_file()} == set()
