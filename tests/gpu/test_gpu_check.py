"""The script for a machine with a GPU, run dry: no minute there is lost to a slip of the pen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_dry_run_checks_and_times_and_writes(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason='Triton is not installed: pip install ".[gpu]" (Linux)')
    out = tmp_path / "found"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [ROOT / "scripts/gpu_check.sh", sys.executable, out, "dry"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / "gpu.json").read_text())
    assert len(result["checks"]) == len(result["times"]) == 2
    for check in result["checks"]:
        assert check["same bits again"]
        assert check["silence differs"] == check["beyond 1e-5"] == 0
        assert max(check["gradients"]) < 1e-5
    for row in result["times"]:
        assert row["forward"] > 0
        assert row["forward + backward, dense TF32"] > 0
    assert "| layer |" in (out / "gpu.md").read_text()


def test_wrong_arguments_are_explained(tmp_path: Path) -> None:
    script = ROOT / "scripts/gpu_check.sh"
    done = subprocess.run([script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "gpu_check.sh PYTHON OUT" in done.stderr
    done = subprocess.run([script, sys.executable, tmp_path, "wet"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'dry' or nothing; got 'wet'" in done.stderr
