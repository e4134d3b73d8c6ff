"""The Triton kernels, run by Triton's interpreter on the CPU, in processes of their own.

The interpreter must be chosen before Triton is imported. Run a file alone with
``TRITON_INTERPRET=1 pytest tests/gpu/interpreted``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("test_gpu_layers.py", 20),
        ("test_gpu_numerics.py", 70),
        ("test_gpu_pool.py", 8),
        ("test_simple.py", 3),
    ],
)
def test_kernels_agree_with_the_reference(file: str, least: int) -> None:
    pytest.importorskip("triton", reason='Triton is not installed: pip install ".[gpu]" (Linux)')
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         HERE / "interpreted" / file],
        env=environment, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = [line for line in done.stdout.splitlines() if " passed" in line][-1]
    assert "skipped" not in passed
    assert int(passed.split(" passed")[0].split()[-1]) >= least, passed
