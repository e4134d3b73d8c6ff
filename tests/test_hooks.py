"""The git hook that ``make hooks`` installs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOOKS = Path(__file__).parents[1] / "scripts/hooks"
# The tools that `make test` has installed lie beside its Python.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
for tool in ("git", "ruff", "clang-format"):
    if shutil.which(tool, path=PATH) is None:
        pytest.skip(f"{tool} is not installed", allow_module_level=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    for name, value in (("core.hooksPath", HOOKS), ("user.name", "x"), ("user.email", "x@y")):
        git(tmp_path, "config", name, str(value))
    (tmp_path / ".clang-format").write_text("BasedOnStyle: Google\n")
    (tmp_path / "pyproject.toml").write_text('[tool.ruff.lint]\nselect = ["E", "F", "I"]\n')
    return tmp_path


def git(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_commit_hook_formats_files(repository: Path) -> None:
    (repository / "a b.py").write_text("import sys\nimport os\nprint( os,sys )\n")
    (repository / "c.cpp").write_text("int  main( ) { return 0 ; }\n")
    (repository / "notes.md").write_text("x  =  1\n")
    (repository / "other.py").write_text("x  =  1\n")
    git(repository, "add", "a b.py", "c.cpp", "notes.md")
    git(repository, "commit", "-m", "x")
    assert git(repository, "show", "HEAD:a b.py") == "import os\nimport sys\n\nprint(os, sys)\n"
    assert git(repository, "show", "HEAD:c.cpp") == "int main() { return 0; }\n"
    assert git(repository, "show", "HEAD:notes.md") == "x  =  1\n"
    assert (repository / "other.py").read_text() == "x  =  1\n"
    git(repository, "rm", "--quiet", "c.cpp")
    git(repository, "commit", "-m", "y")


def test_hook_rejects_partially_staged_files(repository: Path) -> None:
    (repository / "a.py").write_text("x  =  1\n")
    git(repository, "add", "a.py")
    (repository / "a.py").write_text("x  =  2\n")
    assert "a.py" in git(repository, "commit", "-m", "x", code=1)
    assert (repository / "a.py").read_text() == "x  =  2\n"


def test_code_that_cannot_be_read_is_refused(repository: Path) -> None:
    (repository / "a.py").write_text("def\n")
    git(repository, "add", "a.py")
    assert "a.py" in git(repository, "commit", "-m", "x", code=1)
