"""A part of the reproduction: settings, units of work, their result, its section."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttfs_fast.paper.networks import EvaluatedNetwork
from ttfs_fast.paper.plan import Plan
from ttfs_fast.paper.sections import Section
from ttfs_fast.paper.store import WorkUnit


@dataclass(frozen=True)
class Context:
    """Common data of the parts.

    Attributes
    ----------
    plan : Plan
    networks : list of EvaluatedNetwork
    out : Path
        Folder of the report.
    threads : int
        Threads of torch; retraining depends on it.
    log : callable
        Gets a line about work that takes long.
    """

    plan: Plan
    networks: list[EvaluatedNetwork]
    out: Path
    threads: int
    log: Callable[[str], None]


Values = dict[str, Any]


@dataclass(frozen=True)
class ReportPart:
    """A table or figure of the paper.

    Attributes
    ----------
    name, title : str
        For programs, such as ``"table3"``; for people.
    settings : callable
        From the context, what decides the results of all units; the rest is in their keys.
    units : callable
        From the context, the work.
    result : callable
        From the context and the units' values, the result: JSON's types.
    section : callable
        From the context and the result, what the report shows.
    """

    name: str
    title: str
    settings: Callable[[Context], dict[str, Any]]
    units: Callable[[Context], list[WorkUnit]]
    result: Callable[[Context, Values], dict[str, Any]]
    section: Callable[[Context, dict[str, Any]], Section]
