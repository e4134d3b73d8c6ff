"""A dry run of the script for a machine with a GPU, to find errors without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

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
    assert not result["failed"]
    parts = {name: part["found"] for name, part in result["parts"].items()}
    assert set(parts) == {"operators", "gpu", "gpu-steps", "epoch"}
    checks = parts["operators"]
    assert len(checks) == 5  # a convolution in both precisions, two layers, what is refused
    assert all(check["right"] for check in checks)
    assert all(check["same bits again"] for check in checks if "same bits again" in check)
    for row in parts["gpu"]["rows"]:
        assert row["forward"] > 0
        assert row["simple_training"] > 0
    assert len(parts["gpu-steps"]["rows"]) == 3
    (epoch,) = parts["epoch"]
    assert epoch["images"].startswith("random images")
    assert epoch["epoch, s"] > 0
    text = (out / "gpu.md").read_text()
    assert "| operator |" in text
    assert "faster than simple" in text
    svg = ElementTree.fromstring((out / "gpu.svg").read_text())
    assert sum(element.tag.endswith("rect") for element in svg) == 1 + 2 * 2


def test_wrong_arguments_are_explained(tmp_path: Path) -> None:
    script = ROOT / "scripts/gpu_check.sh"
    done = subprocess.run([script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "gpu_check.sh PYTHON OUT" in done.stderr
    done = subprocess.run([script, sys.executable, tmp_path, "wet"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'dry' or nothing; got 'wet'" in done.stderr
