"""Speed of the circuit simulator, and the time that Table 3 takes.

    python bench/circuit.py                 # a table, and JSON with --json FILE
    python bench/circuit.py --threads 1 --repeats 9

A neuron-step is one step of one neuron that has not fired yet. The neurons measured have two inputs
and stay silent, so that every step counts and none is skipped.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import ttfs_fast
from ttfs_fast.circuit import (
    CircuitParameters,
    Nonidealities,
    SimulationResult,
    jitter_sweep,
    quantization_sweep,
    simulate,
)
from ttfs_fast.paper.numbers import TABLE_3_BITS, TABLE_3_JITTER
from ttfs_fast.paper.table3 import OPERATING_POINT

P = CircuitParameters()
GOALS = {"averaged": 5e8, "switching": 2e8}


def run(model: str, noise: Nonidealities, trials: int, steps: int) -> SimulationResult:
    step = {"averaged": P.tau / 50, "switching": 1 / 17.6e9}[model]
    return simulate(
        P,
        P.seconds([0.0, 0.1]),
        [0.3, 0.3],
        model=model,  # type: ignore[arg-type]
        noise=noise,
        trials=trials,
        step=step,
        duration=steps * step,
    )


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=10_000, help="of a point of Table 3")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{ttfs_fast.instruction_set()} instructions, {options.threads} threads, float64, "
        f"{platform.machine()}"
    )
    results: dict[str, float] = {}
    quiet, noisy = Nonidealities(), Nonidealities(phase_noise=-140.0)
    cases = [("averaged", quiet, 2000), ("switching", quiet, 2000)]
    cases += [("averaged", noisy, 200), ("switching", noisy, 200)]
    # The cases take turns, so that a machine whose speed drifts slows all of them.
    rates: list[list[float]] = [[] for _ in cases]
    for _ in range(options.repeats):
        for (model, noise, steps), found in zip(cases, rates, strict=True):
            begin = time.perf_counter()
            work = run(model, noise, 8192, steps).neuron_steps
            found.append(work / (time.perf_counter() - begin))
    for (model, noise, _), found in zip(cases, rates, strict=True):
        rate = statistics.median(found)
        name = f"{model}{', phase noise' if noise is noisy else ''}"
        goal = f" (goal {GOALS[model]:.0e})" if noise is quiet else ""
        print(f"{name:24} {rate:9.2e} neuron-steps/s{goal}")
        results[name] = rate
    for name, sweep in (
        ("jitter", partial(jitter_sweep, OPERATING_POINT, list(TABLE_3_JITTER))),
        (
            "quantization",
            partial(quantization_sweep, OPERATING_POINT, [int(b) for b in TABLE_3_BITS]),
        ),
    ):
        taken = statistics.median(
            seconds(partial(sweep, trials=options.trials)) for _ in range(options.repeats)
        )
        print(f"Table 3, {name:15} {taken:9.3f} s for 5 points of {options.trials:,} trials")
        results[f"table 3 {name}, s"] = taken
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
