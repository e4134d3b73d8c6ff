"""A slice of tests/kills.py, which kills each kind of work 50 times."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("what", ["training", "quantization", "reproduction"])
def test_killed_at_random_moments_it_still_ends_with_the_same_bits(what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(SCRIPT), "--what", what, "--kills", "3"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    last = re.search(r"^(\d+) kills in (\d+) runs", done.stdout, re.MULTILINE)
    assert last
    assert int(last[1]) >= 3
