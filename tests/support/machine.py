"""Threads, instruction sets and processes, each put back as it was."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
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


def environment_with_source() -> dict[str, str]:
    """The environment, in which a fresh interpreter finds the same ttfs_fast."""
    source = str(Path(ttfs_fast.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if name != "TTFS_FAST_ISA"}
    return kept | {"PYTHONPATH": path}


def run_python(
    *arguments: object, timeout: float = 120, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a fresh interpreter, which finds the same ttfs_fast."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment_with_source() | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        check=False,
    )


_CHILDREN = """
import json, os, sys, tempfile
children = json.loads(sys.stdin.read())
exec(sys.argv[1])
found = []
for program, environment in children:
    streams = [tempfile.TemporaryFile() for _ in range(2)]
    if os.fork() == 0:
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream.fileno(), number)
        for name, value in environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        sys.argv[:] = [""]
        exec(program, {"__name__": "__main__"})
        sys.exit()
    code = os.waitstatus_to_exitcode(os.wait()[1])
    found.append([code])
    for stream in streams:
        stream.seek(0)
        found[-1].append(stream.read().decode())
print(json.dumps(found))
"""


def run_children(
    imports: str, children: Sequence[tuple[str, dict[str, str | None]]]
) -> "list[subprocess.CompletedProcess[str]]":
    """Run programs in turn, each in a process and with an environment of its own; None unsets.

    What takes long to import is imported once: the processes are forked from one that has it.
    """
    done = subprocess.run(
        [sys.executable, "-c", _CHILDREN, imports],
        input=json.dumps(children), capture_output=True, text=True, timeout=300, check=True,
        env=environment_with_source(),
    )  # fmt: skip
    return [
        subprocess.CompletedProcess(program, *found)
        for (program, _), found in zip(children, json.loads(done.stdout), strict=True)
    ]
