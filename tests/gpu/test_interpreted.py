"""The Triton kernels, run by Triton's interpreter on the CPU, in a process of its own.

The interpreter must be chosen before Triton is imported. Run a file alone with
``TRITON_INTERPRET=1 pytest tests/gpu/interpreted``.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def done() -> "subprocess.CompletedProcess[str]":
    pytest.importorskip("triton", reason='Triton is not installed: pip install ".[gpu]" (Linux)')
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist",
         HERE / "interpreted"],
        env=environment, capture_output=True, text=True, timeout=2400,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("test_gpu_layers.py", 20),
        ("test_gpu_numerics.py", 70),
        ("test_gpu_pool.py", 8),
        ("test_simple.py", 3),
    ],
)
def test_kernels_agree_with_the_reference(
    done: "subprocess.CompletedProcess[str]", file: str, least: int
) -> None:
    found = re.findall(rf"/{file}::.* (PASSED|SKIPPED|FAILED|ERROR) +\[", done.stdout)
    assert set(found) == {"PASSED"}, done.stdout[-8000:] + done.stderr[-2000:]
    assert len(found) >= least, len(found)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
