"""The whole reproduction: computes missing results, and writes the report."""

import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import ttfs_fast
from ttfs_fast._files import replace_file, use_folder
from ttfs_fast._tables import Column, Table
from ttfs_fast._untrusted import parse_json
from ttfs_fast.bench.timing import environment
from ttfs_fast.paper import figure2, render, table1, table2, table3, table4
from ttfs_fast.paper.networks import Networks
from ttfs_fast.paper.part import Context, ReportPart
from ttfs_fast.paper.plan import Plan
from ttfs_fast.paper.sections import Section
from ttfs_fast.paper.store import ResultStore, WorkUnit, clear_partials

logger = logging.getLogger(__name__)

PARTS: dict[str, ReportPart] = {
    module.NAME: module.PART for module in (table1, table2, table3, table4, figure2)
}
RESULTS, UNITS, LOG = "results.json", "units", "run.json"
FORMAT = 2
"""Of the units' results; units of another format are computed again."""

TITLE = "Temporal-coded deep spiking neural networks, reproduced"

Progress = Callable[[str, int, int], None]
"""Called with a part's name, units done, units in all."""


class RunLog:
    """Dates, durations and machine of the sessions, separate from the results.

    Parameters
    ----------
    path : Path
        The file; sessions are added to those that it holds.
    command : str
        How this session was called.
    device : str
        Where the networks are tested.
    """

    def __init__(self, path: Path, command: str, device: str) -> None:
        self.path = path
        self._log: dict[str, Any] = {"seconds": {}, "sessions": []}
        if path.is_file():
            try:
                self._log = parse_json(path.read_bytes())
            except ValueError as error:
                raise ValueError(f"{path} is not JSON ({error}); remove it") from error
            kinds = {"seconds": dict, "sessions": list}
            if not isinstance(self._log, dict) or not all(
                isinstance(self._log.get(name), kind) for name, kind in kinds.items()
            ):
                raise ValueError(f"{path} is not what a report writes; remove it")
        self._log["sessions"].append(
            {"started": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
            | machine()
            | {"device": device}
        )

    def add(self, part: str, seconds: float) -> None:
        """Count time that was spent on a part."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def save(self) -> None:
        replace_file(self.path, f"{json.dumps(self._log, indent=1)}\n".encode())

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent on each part, in all sessions."""
        found: dict[str, float] = self._log["seconds"]
        return found

    @property
    def sessions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._log["sessions"]
        return found


def machine() -> dict[str, Any]:
    """Versions, processor, threads."""
    return environment() | {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
    }


def reproduce(
    plan: Plan,
    found: Networks,
    out: str | Path,
    *,
    only: Sequence[str] = (),
    command: str = "ttfs_fast.paper.reproduce",
    progress: Progress | None = None,
    log: Callable[[str], None] = logger.info,
) -> Path:
    """Compute what is missing, and write the report.

    Units of work are kept on the disk as they come; one that is there, of the same settings, is
    not computed again. After any interruption and a second call, the results end with the same
    bits.

    Parameters
    ----------
    plan : Plan
        How much.
    found : Networks
        The networks.
    out : path
        Folder of everything: ``report.html``, ``report.md``, ``results.json``, ``tables/``,
        ``pictures/``; ``units/`` and ``retraining/``, from which it continues; ``run.json`` with
        times and machine.
    only : sequence of str
        Names of the parts to compute; all by default. The report shows the others if their results
        are there.
    command : str
        What the report says it was made with.
    progress : callable, optional
    log : callable
        Gets a line about work that takes long; by default this module's logger.

    Returns
    -------
    path : Path
        The HTML page.

    Raises
    ------
    BlockingIOError
        If another process works in ``out``.
    ValueError
        If there is no such part.
    """
    out = Path(out)
    check_parts(only)
    context = Context(plan, found.evaluated, out, torch.get_num_threads(), log)
    with use_folder(out):
        return _reproduce(context, found, only, command, progress)


def check_parts(only: Sequence[str]) -> None:
    """Raise ValueError if a name is none of a part of the report."""
    unknown = [name for name in only if name not in PARTS]
    if unknown:
        raise ValueError(f"there is no part {unknown[0]!r}; the parts are: {', '.join(PARTS)}")


def _reproduce(
    context: Context, found: Networks, only: Sequence[str], command: str, progress: Progress | None
) -> Path:
    """`reproduce`, in a folder that is this process's alone."""
    out = context.out
    clear_partials(out, out / UNITS, out / render.TABLES, out / render.PICTURES)
    run_log = RunLog(out / LOG, command, _devices(found))
    results: dict[str, Any] = {}
    sections: list[Section] = []
    missing = list(found.missing)
    for name, part in PARTS.items():
        settings = {
            "version": str(ttfs_fast.__version__),
            "format": FORMAT,
            **part.settings(context),
        }
        store = ResultStore(out / UNITS, name, settings)
        units = part.units(context)
        if not only or name in only:
            _compute(name, store, units, run_log, progress)
        elif store.missing(units):
            missing.append(f"{part.title}: not asked for.")
            continue
        result = part.result(context, store.values(units))
        results[name] = {"settings": store.settings, "result": result}
        sections.append(part.section(context, result))
    networks = {network.key: network.identity for network in found.evaluated}
    content = {"networks": networks, "parts": results}
    text = json.dumps(content, allow_nan=False, indent=1)
    replace_file(out / RESULTS, f"{text}\n".encode())
    run_log.save()
    report = render.Report(TITLE, _lead(found), sections, _made(context.plan, run_log), missing)
    render.write(report, out)
    return out / render.HTML


def _devices(found: Networks) -> str:
    """Where the networks are tested."""
    return ", ".join(sorted({str(network.device) for network in found.evaluated}))


def _compute(
    name: str, store: ResultStore, units: list[WorkUnit], run_log: RunLog, progress: Progress | None
) -> None:
    pending = store.missing(units)
    done = len(units) - len(pending)
    if progress is not None:
        progress(name, done, len(units))
    begin = time.perf_counter()
    try:
        for unit in pending:
            store.keep(unit)
            done += 1
            if progress is not None:
                progress(name, done, len(units))
    finally:
        # Also on Ctrl-C: what is done is kept.
        store.flush()
        if pending:
            run_log.add(name, time.perf_counter() - begin)
            run_log.save()


def _lead(found: Networks) -> list[str]:
    names = [network.title for network in found.evaluated]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    opening = (
        "In the networks of Zhou et al. (AAAI 2021) every neuron spikes at most once, and the time "
        "of its spike is its value. This page holds the tables and figures of that paper, computed "
        "again by ttfs_fast and set beside the printed ones."
    )
    if all(network.config.dataset == "digits" for network in found.evaluated):
        return [
            opening,
            "This is the short version: in place of MNIST it looks at a network of the same shape "
            "that was trained on small embedded digits. The paper has no figures for these; where "
            "its MNIST figures stand beside them, they are there for orientation. Tables 1 and 3 "
            "need no data and are complete.",
        ]
    return [opening, f"Networks looked at: {listed}."]


def _made(plan: Plan, run_log: RunLog) -> list[Table]:
    latest = run_log.sessions[-1]
    facts = {
        "command": latest["command"],
        "seed": plan.seed,
        "draws": f"{plan.draws} of noise on the weights, {plan.fewer_draws} of other disturbances",
        "processor": f"{latest['processor']}, {latest['cores']} cores",
        "device": latest.get("device", "cpu")
        + f", threads: {latest['threads']}, {latest['instruction_set']} instructions",
        "versions": f"ttfs_fast {latest['ttfs_fast']}, torch {latest['torch']}, "
        f"Python {latest['python']}, {latest['system']}",
        "begun": run_log.sessions[0]["started"],
        "sessions": len(run_log.sessions),
    }
    rows: list[list[Any]] = [
        [PARTS[name].title, run_log.seconds[name]] for name in PARTS if name in run_log.seconds
    ]
    rows.append(["all", sum(row[1] for row in rows)])
    columns = [Column("part", numeric=False), Column("time", duration)]
    return [
        render.table_of("command", "Command, seed, machine", facts),
        Table("time", "Time, over all sessions", columns, rows),
    ]


def duration(seconds: float) -> str:
    """A duration as text."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
