"""A small reproduction, to look at (tests/reproduce) and to kill (kills.py)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttfs_fast.paper import Networks, Plan

SMALL = Plan(
    draws=2,
    circuit_trials=200,
    circuit_images=2,
    retrain_epochs=1,
    retrain_images=60,
    sweep_images=120,
    operation_images=4,
    weight_snr=(5.0, 25.0),
    disturbances={"dropped": (0.01, 0.5), "t_max": (1.0, 4.0)},
    phase_noise=(-95.0,),
)


@dataclass(frozen=True)
class Report:
    """A finished reproduction."""

    folder: Path
    found: Networks

    @property
    def results(self) -> dict[str, Any]:
        return results(self.folder)


def results(folder: Path) -> dict[str, Any]:
    """The result of each part."""
    parts = json.loads((folder / "results.json").read_text())["parts"]
    return {name: part["result"] for name, part in parts.items()}
