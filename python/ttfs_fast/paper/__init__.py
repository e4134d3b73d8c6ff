"""The paper's tables and figures, computed again and set beside the printed ones.

`reproduce` does what is not done yet and writes the report; docs/reproduction.md describes it.
"""

from ttfs_fast.paper.networks import (
    EvaluatedNetwork,
    Networks,
    NoNetworksError,
    find_networks,
)
from ttfs_fast.paper.plan import Plan
from ttfs_fast.paper.run import PARTS, reproduce

__all__ = [
    "PARTS",
    "EvaluatedNetwork",
    "Networks",
    "NoNetworksError",
    "Plan",
    "find_networks",
    "reproduce",
]
