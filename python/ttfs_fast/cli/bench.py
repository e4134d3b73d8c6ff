"""``ttfs-fast bench``: spiking layers and networks against dense ones."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ttfs_fast._terminal import console, print_line
from ttfs_fast.cli._common import (
    Debug,
    app,
    flag,
    friendly_errors,
    option,
    show_table,
    split_list,
)

if TYPE_CHECKING:
    from ttfs_fast.bench import GroupResult, Settings


SPINNER = "line"
"""One that every terminal has the characters of."""


@app.command()
def bench(
    only: Annotated[
        str | None,
        option(
            "Measure these groups only, of trained, layers, mnist, vgg, scaling, threads, isa, "
            "memory and plain; with a GPU, of gpu and gpu-steps. Default: all of them but plain.",
            show_default=False,
            metavar="GROUP,...",
        ),
    ] = None,
    plain: Annotated[
        bool,
        flag("--plain", "Also measure the plain torch formulation, which takes seconds a run."),
    ] = False,
    threads: Annotated[
        int | None,
        option("Number of threads. Default: all processors.", min=1, show_default=False),
    ] = None,
    repeats: Annotated[int, option("Minimum number of runs of each call.", min=1)] = 11,
    out: Annotated[
        Path,
        option("Folder to write: results.json, README.md with the tables, results.png."),
    ] = Path("runs/bench"),
    quick: Annotated[
        bool,
        flag("--quick", "Tiny shapes and two runs, to see that it works. Do not use its figures."),
    ] = False,
    device: Annotated[
        str,
        option(
            "Where to measure: cpu; cuda or cuda:N, where the groups are gpu and gpu-steps; auto, "
            "a GPU where there is one (docs/gpu.md).",
            metavar="DEVICE",
        ),
    ] = "cpu",
    debug: Debug = False,
) -> None:
    """Time spiking layers and networks beside dense ones of the same shape.

    Spiking and dense calls alternate in one process. Times are medians; compare their ratio. Run it
    on an idle machine. TTFS_FAST_ISA forces an instruction set. Groups measured earlier stay in the
    folder, so that a long measurement can be made in parts.
    """
    with friendly_errors(debug):
        from ttfs_fast import bench as benchmarks
        from ttfs_fast.gpu import resolve_device

        count = threads or os.cpu_count() or 1
        settings = (
            benchmarks.Settings.quick(count)
            if quick
            else benchmarks.Settings(threads=count, repeats=repeats)
        )
        settings = replace(settings, device=resolve_device(device))
        names = chosen(only, plain=plain, threads=count, on_gpu=settings.device.type == "cuda")
        if count == 1 and "threads" in names:
            raise ValueError(
                "the group threads compares one thread with more: use --threads 2, or leave it "
                "out of --only"
            )
        # A folder that cannot be used is refused before the work.
        benchmarks.load(out)
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(f"{out} cannot be written into; give another --out")
        terminal = console(sys.stdout)
        print(benchmarks.described(benchmarks.measured_on(settings)))
        print(f"Groups: {', '.join(names)}. Results go to {out}.")
        for name in names:
            result = _measured(name, settings, terminal)
            written = benchmarks.write([result], out)
            show_table((benchmarks.GROUPS | benchmarks.GPU_GROUPS)[name].table(result.rows))
        print(f"Written: {', '.join(map(str, written))}")


def chosen(only: str | None, *, plain: bool, threads: int, on_gpu: bool = False) -> list[str]:
    """Names of the groups to measure: those named, or all of the device but the slow one."""
    from ttfs_fast.bench import GPU_GROUPS, GROUPS

    groups, others = (GPU_GROUPS, GROUPS) if on_gpu else (GROUPS, GPU_GROUPS)
    left_out = set() if plain else {"plain"}
    if threads == 1:
        left_out.add("threads")
    names = split_list(only) or [name for name in groups if name not in left_out]
    for name in names:
        if name in others:
            raise ValueError(
                f"the group {name} is measured with --device {'cpu' if on_gpu else 'cuda'}"
            )
        if name not in groups:
            raise ValueError(f"--only takes groups of {', '.join(groups)}; got {name!r}")
    if plain and on_gpu:
        raise ValueError("--plain compares on the CPU; leave it out with --device cuda")
    if plain and "plain" not in names:
        names = [*names, "plain"]
    return names


def _measured(name: str, settings: "Settings", terminal: Any) -> "GroupResult":
    """A group, measured; the row that came last is shown while the next is measured."""
    from ttfs_fast.bench import GPU_GROUPS, GROUPS, Row, run

    title = (GROUPS | GPU_GROUPS)[name].title
    with terminal.status(title, spinner=SPINNER) as status:

        def show(row: Row) -> None:
            line = f"{title}: {row['layer']}"
            if terminal.is_terminal:
                status.update(line)
            else:
                print_line(line)

        return run(name, settings, show)
