"""Measured groups: as JSON, as Markdown tables and as a picture."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ttfs_fast._files import replace_file
from ttfs_fast._untrusted import parse_json
from ttfs_fast.bench import pictures
from ttfs_fast.bench.groups import GPU_GROUPS, GROUPS
from ttfs_fast.bench.measure import Settings
from ttfs_fast.bench.tables import Row
from ttfs_fast.bench.timing import environment, settle_allocator

ALL = GROUPS | GPU_GROUPS
JSON, MARKDOWN, PICTURE = "results.json", "README.md", "results.png"


@dataclass(frozen=True)
class GroupResult:
    """The rows of one group, and what they were measured on.

    Attributes
    ----------
    name : str
        Key of `GROUPS` or `GPU_GROUPS`.
    measured_on : dict
        Versions, instruction set, processor, threads, repeats, date.
    rows : list of dict
        Times in seconds, memory in bytes.
    """

    name: str
    measured_on: dict[str, Any]
    rows: list[Row]


def run(
    name: str, settings: Settings, progress: Callable[[Row], object] | None = None
) -> GroupResult:
    """Measure a group.

    Parameters
    ----------
    name : str
        Key of `GROUPS` or `GPU_GROUPS`.
    settings : Settings
        Threads, repeats and sizes. Sets torch's number of threads.
    progress : callable, optional
        Called with every row as it comes.

    Raises
    ------
    ValueError
        If there is no such group, or it cannot be measured with these settings.
    """
    if name not in ALL:
        raise ValueError(f"there is no group {name!r}; the groups are: {', '.join(ALL)}")
    torch.set_num_threads(settings.threads)
    settle_allocator()
    rows = []
    for row in ALL[name].rows(settings):
        rows.append(row)
        if progress is not None:
            progress(row)
    return GroupResult(name, measured_on(settings), rows)


def measured_on(settings: Settings) -> dict[str, Any]:
    """What is written beside the rows measured with these settings, now and here."""
    gpu = {}
    if settings.device.type == "cuda":
        gpu = {"gpu": torch.cuda.get_device_name(settings.device), "triton": version("triton")}
    return (
        environment()
        | gpu
        | {
            "threads": settings.threads,
            "repeats": settings.repeats,
            "date": date.today().isoformat(),
        }
    )


def load(folder: Path) -> dict[str, GroupResult]:
    """Groups written to a folder before, by name; empty if there is no file.

    Raises
    ------
    ValueError
        If the file does not hold results.
    """
    path = folder / JSON
    if not path.exists():
        return {}
    try:
        groups = [GroupResult(**group) for group in parse_json(path.read_bytes())["groups"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} does not hold results of a benchmark ({error}); remove it or name another "
            "folder"
        ) from error
    return {group.name: group for group in groups if group.name in ALL}


def write(results: Iterable[GroupResult], folder: Path) -> list[Path]:
    """Write results into a folder; groups measured earlier and not again stay in it.

    Parameters
    ----------
    results : iterable of GroupResult
        What was measured.
    folder : Path
        Gets results.json, README.md with the tables and, if matplotlib is installed, results.png.

    Returns
    -------
    list of Path
        The files written.
    """
    groups = load(folder) | {result.name: result for result in results}
    ordered = [groups[name] for name in ALL if name in groups]
    content = {"groups": [dataclasses.asdict(group) for group in ordered]}
    replace_file(folder / JSON, (json.dumps(content, indent=1) + "\n").encode())
    picture = pictures.draw(ordered)
    written = [folder / JSON, folder / MARKDOWN]
    if picture is not None:
        replace_file(folder / PICTURE, picture)
        written.append(folder / PICTURE)
    replace_file(folder / MARKDOWN, markdown(ordered, picture is not None).encode())
    return written


def markdown(results: list[GroupResult], picture: bool) -> str:
    """The tables of all groups, each with its machine."""
    parts = ["# Results of `ttfs-fast bench`\n"]
    if picture:
        parts.append(f"![Ratios, times and speed-ups]({PICTURE})\n")
    for result in results:
        group = ALL[result.name]
        parts += [f"## {group.title}\n", group.note + "\n", f"{described(result.measured_on)}\n"]
        parts.append(group.table(result.rows).markdown() + "\n")
    return "\n".join(parts)


def described(measured_on: dict[str, Any]) -> str:
    """One line: when, on what, with how many threads."""
    threads = measured_on["threads"]
    gpu = f"{measured_on['gpu']} (Triton {measured_on['triton']}), " if "gpu" in measured_on else ""
    return (
        f"{measured_on['date']}, {gpu}{measured_on['processor']}, {measured_on['instruction_set']} "
        f"(torch {measured_on['torch']}: {measured_on['dense_instruction_set']}), "
        f"{threads} thread{'s' if threads > 1 else ''}."
    )
