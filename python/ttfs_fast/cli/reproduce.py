"""``ttfs-fast reproduce``: the paper on one page."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ttfs_fast import _terminal
from ttfs_fast.cli._common import (
    WEIGHTS_HELP,
    DataRoot,
    Debug,
    Device,
    Threads,
    app,
    flag,
    friendly_errors,
    option,
    set_threads,
    split_list,
)

if TYPE_CHECKING:
    from ttfs_fast.paper import Networks, Plan


@app.command()
def reproduce(
    quick: Annotated[
        bool,
        flag("--quick", "The embedded digits in place of MNIST: all of it in a minute or two."),
    ] = False,
    out: Annotated[Path, option("Folder to write: the report and its results.")] = Path(
        "runs/report"
    ),
    weights: Annotated[
        str | None,
        option(
            f"Trained networks to include, with commas between them: {WEIGHTS_HELP}.",
            show_default=False,
            metavar="WEIGHTS,...",
        ),
    ] = None,
    data_root: DataRoot = None,
    images_root: Annotated[
        Path | None,
        option(
            "Folder or zip file with val/CLASS/NAME, for a network trained on such a folder "
            "(ImageNet).",
            show_default=False,
            rich_help_panel="Data",
        ),
    ] = None,
    only: Annotated[
        str | None,
        option("Compute these parts only, such as table3,figure2.", show_default=False),
    ] = None,
    seed: Annotated[int, option("Decides everything that is random.", min=0)] = 0,
    draws: Annotated[int, option("Draws of the noise on the weights at each level.", min=2)] = 10,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Compute the paper's tables and figures, and compare them with the printed ones on one page.

    If it is interrupted, the same command continues where it stopped.
    """
    with friendly_errors(debug):
        from ttfs_fast._extras import require
        from ttfs_fast.cli._progress import ShowProgress
        from ttfs_fast.gpu.device import describe_device, resolve_device
        from ttfs_fast.paper import PARTS, NoNetworksError, Plan, find_networks
        from ttfs_fast.paper.run import check_parts

        for package in ("jinja2", "matplotlib"):
            require(package, "plot")
        set_threads(threads)
        plan = Plan.quick(seed, draws) if quick else Plan(seed=seed, draws=draws)
        chosen = split_list(only)
        check_parts(chosen)
        print(
            f"reproducing {', '.join(chosen or PARTS)} in {out}: "
            f"{describe_device(resolve_device(device))}, seed {seed}",
            flush=True,
        )
        try:
            found = find_networks(
                quick=quick,
                out=out,
                seed=seed,
                data_root=data_root,
                runs=tuple(map(Path, split_list(weights))),
                images=images_root,
                callback=ShowProgress(),
                device=device,
            )
        except NoNetworksError as error:
            raise NoNetworksError(f"{error} Or give --quick, which needs no data") from error
        for network in found.evaluated:
            print(f"  {network.title}: {network.origin}")
        write_report(plan, found, out, chosen)


def write_report(plan: "Plan", found: "Networks", out: Path, only: Sequence[str] = ()) -> None:
    """Compute what is missing, with progress, and say where the report lies."""
    from ttfs_fast.paper import reproduce as run_all

    try:
        with _progress() as progress:
            page = run_all(
                plan,
                found,
                out,
                only=only,
                command=shlex.join(["ttfs-fast", *sys.argv[1:]]),
                progress=progress,
                log=_terminal.print_line,
            )
    except KeyboardInterrupt:
        print("stopped; the same command continues from here", file=sys.stderr)
        raise
    for sentence in found.missing:
        print(f"missing: {sentence}")
    print(f"\nThe report: {page.resolve()}")


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on a terminal; elsewhere a line when a part begins and after every tenth of it."""
    said: set[tuple[str, int]] = set()

    def line(part: str, done: int, total: int) -> None:
        if (key := (part, 10 * done // total if total else 10)) not in said:
            said.add(key)
            _terminal.print_line(f"{part}: {done} of {total}")

    columns = ("title", "bar", "count", "remaining")
    with _terminal.progress(sys.stdout, *columns, transient=False) as bars:
        yield bars.update if bars.shown else line
