"""Threads, instruction sets and processes, each put back as it was."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import ttfs_fast


@contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """So many threads, or what the block sets."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def use_instruction_set(name: str) -> Iterator[None]:
    """An instruction set, proven to be the one that runs."""
    before = ttfs_fast.instruction_set()
    ttfs_fast.set_instruction_set(name)
    try:
        assert ttfs_fast.instruction_set() == name
        yield
        assert ttfs_fast.instruction_set() == name
    finally:
        ttfs_fast.set_instruction_set(before)


def run_python(
    *arguments: object, timeout: float = 120, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a fresh interpreter, which finds the same ttfs_fast."""
    source = str(Path(ttfs_fast.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if name != "TTFS_FAST_ISA"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=kept | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        check=False,
    )
