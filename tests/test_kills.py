"""A slice of tests/kills.py, which kills each kind of work 50 times."""

import os
import re
from pathlib import Path

import pytest

from support.machine import run_python

SCRIPT = Path(__file__).parent / "kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("what", ["training", "quantization", "reproduction"])
def test_killed_at_random_moments_it_still_ends_with_the_same_bits(what: str) -> None:
    done = run_python(
        *("-W", "ignore", SCRIPT, "--what", what, "--kills", "3"), timeout=300, OMP_NUM_THREADS="1"
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    last = re.search(r"^(\d+) kills in (\d+) runs", done.stdout, re.MULTILINE)
    assert last
    assert int(last[1]) >= 3
