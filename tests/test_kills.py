"""A slice of tests/kills.py, which kills each kind of work 50 times."""

import os
import re
from pathlib import Path

import pytest

from support.machine import run_python

SCRIPT = Path(__file__).parent / "kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_killed_at_random_moments_it_still_ends_with_the_same_bits() -> None:
    work = ("training", "quantization", "reproduction")
    command = ("-W", "ignore", SCRIPT, "--what", *work, "--kills", "3")
    done = run_python(*command, timeout=900, OMP_NUM_THREADS="1")
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^(\d+) kills in \d+ runs of (\w+)", done.stdout, re.MULTILINE)
    assert [what for _, what in found] == list(work)
    assert all(int(kills) >= 3 for kills, _ in found)
