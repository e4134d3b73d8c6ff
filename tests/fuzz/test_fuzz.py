"""A short slice of tests/fuzz/run.py: in a process of its own, which limits its memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttfs_fast.training import TrainConfig

HERE = Path(__file__).parent
SLICE = 12_000


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "run.py"), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_parsers_raise_documented_errors_only(tmp_path: Path, seed: int) -> None:
    done = run(tmp_path, "--executions", str(SLICE), "--seed", str(seed))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if " inputs, " in line]
    targets = {path.name for path in (HERE / "corpus").iterdir()}
    assert {line.partition(":")[0] for line in lines} == targets
    taken = {line.partition(":")[0]: int(line.split()[3].replace(",", "")) for line in lines}
    # Files that are refused at once show little: of most formats some get through, spoilt or not.
    assert sum(count > 0 for count in taken.values()) >= 12, done.stdout


def test_fuzzing_reports_and_stores_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A parser that raises what it does not document: the fuzzer is not blind."""
    monkeypatch.syspath_prepend(HERE)
    import run as fuzzer
    from targets import Target

    def broken(content: bytes, folder: Path) -> None:
        if len(content) % 2:
            raise KeyError("odd")
        TrainConfig.from_json("{")

    target = Target("broken", broken, (ValueError,), corpus=[b"abcdef"])
    assert fuzzer.fuzz(target, 100, 1, tmp_path, tmp_path / "found", 3) == 3
    assert "KeyError: 'odd'" in capsys.readouterr().out
    kept = list((tmp_path / "found").iterdir())
    assert kept
    assert all(len(path.read_bytes()) % 2 for path in kept)
