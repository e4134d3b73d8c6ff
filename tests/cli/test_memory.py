"""The command's use of memory: what is freed stays with the process."""

import platform

import pytest

from support.machine import run_python

BLOCKS = """
import resource
from ttfs_fast.cli import main
from ttfs_fast.cli._memory import reuse_memory

if {reuse}:
    reuse_memory()
for time in range(6):
    block = b"x" * 2**26
    del block
    if time == 0:  # the first block comes from the system
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 2**26 // 4096


def faults(*, reuse: bool, **environment: str) -> int:
    child = run_python("-c", BLOCKS.format(reuse=reuse), **environment)
    assert child.returncode == 0, child.stderr
    return int(child.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
def test_blocks_are_used_again() -> None:
    assert faults(reuse=True) < PAGES / 100
    if faults(reuse=False) < PAGES / 2:
        pytest.skip("this system hands out large pages without being asked")
    # Settings of one's own stay as they are.
    assert faults(reuse=True, MALLOC_MMAP_THRESHOLD_="4096") > PAGES / 2
