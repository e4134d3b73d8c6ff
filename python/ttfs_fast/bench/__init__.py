"""Benchmarks: spiking layers and networks against dense ones of the same shape.

Everything is timed in turn with what it is compared to, in one process, and reported as medians and
their ratio: a machine whose speed drifts slows both. `run` measures, `write` files the results.
"""

from ttfs_fast.bench.groups import GPU_GROUPS, GROUPS
from ttfs_fast.bench.layers import LAYERS, Layer
from ttfs_fast.bench.measure import Settings
from ttfs_fast.bench.results import GroupResult, described, load, measured_on, run, write
from ttfs_fast.bench.tables import Group, Row

__all__ = [
    "GPU_GROUPS",
    "GROUPS",
    "LAYERS",
    "Group",
    "GroupResult",
    "Layer",
    "Row",
    "Settings",
    "described",
    "load",
    "measured_on",
    "run",
    "write",
]
