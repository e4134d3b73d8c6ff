"""Medians of calls that take turns, and what they ran on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import ttfs_fast

Call = Callable[[], object]


Clock = Callable[[Call], float]


def seconds_by_clock(call: Call) -> float:
    """Make a call; the seconds that passed."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def seconds_by_events(call: Call) -> float:
    """Make a call; the seconds that it kept the current GPU busy, between two of its events."""
    event: Any = torch.cuda.Event
    begin, end = (event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def alternate(
    calls: Sequence[Call],
    repeats: int,
    *,
    seconds: float = 0.5,
    before: Callable[[int], object] | None = None,
    clock: Clock | None = None,
) -> list[float]:
    """Median time of each call, in seconds; the calls take turns after a round that is not counted.

    Parameters
    ----------
    calls : sequence of callables
        What to time.
    repeats : int
        Least number of counted rounds.
    seconds : float
        Rounds are repeated until this time is spent, or a hundred times `repeats`: short calls need
        more of them. With 0 there are exactly `repeats` rounds.
    before : callable, optional
        Called, untimed, with the index of the call that comes next.
    clock : callable, optional
        Makes a call and gives the seconds that it took; by default by the processor's clock.
    """
    clock = clock or seconds_by_clock
    times: list[list[float]] = [[] for _ in calls]
    start = 0.0
    for number in range(100 * repeats + 1):
        if number == 1:
            start = time.perf_counter()
        elif number > repeats and time.perf_counter() - start >= seconds:
            break
        for index, call in enumerate(calls):
            if before is not None:
                before(index)
            passed = clock(call)
            if number:
                times[index].append(passed)
    return [statistics.median(record) for record in times]


def settle_allocator() -> None:
    """Bring glibc's allocator to where it ends up in a process that has run for a while.

    It learns from the blocks that are freed, up to 32 MiB, to keep memory instead of giving it
    back. Until then every run pays for new pages, ours and the dense one about the same, which
    would make ratios depend on what was measured before.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def environment() -> dict[str, Any]:
    """Versions, instruction set and machine, as written beside every result."""
    return {
        "ttfs_fast": ttfs_fast.__version__,
        "torch": str(torch.__version__),
        "instruction_set": ttfs_fast.instruction_set(),
        "dense_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    """The processor's name, with family and model, because several processors share a name."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    parts = (line.partition(":") for line in cpuinfo.read_text().split("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, _, value in parts}
    name = fields.get("model name") or platform.machine()
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{name} ({', '.join(numbers)})" if numbers else name
