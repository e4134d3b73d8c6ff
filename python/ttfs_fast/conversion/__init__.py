"""From a ReLU network to first spikes, exactly.

A layer with a horizon is a ReLU layer (`ttfs_fast.horizon`). So a network of convolutions, fully
connected layers, batch normalization, ReLUs, pools and sums is a network of the paper's neurons:
activations become leads over the horizon, batch normalization folds into weights and biases, and
each layer's scale is chosen on data so that its leads are as long as wanted.
"""

from ttfs_fast.conversion.converter import LONGEST_LEAD, from_relu
from ttfs_fast.conversion.decisions import DecisionComparison, Difference, compare_decisions
from ttfs_fast.conversion.file import (
    is_converted,
    load_converted,
    save_converted,
    with_intensities,
)
from ttfs_fast.conversion.network import (
    Concatenate,
    ConvertedNetwork,
    IntensitiesOfSpikes,
    LeadEncoding,
    refuse_converted,
)
from ttfs_fast.conversion.tracing import ALLOWED

__all__ = [
    "ALLOWED",
    "LONGEST_LEAD",
    "Concatenate",
    "ConvertedNetwork",
    "DecisionComparison",
    "Difference",
    "IntensitiesOfSpikes",
    "LeadEncoding",
    "compare_decisions",
    "from_relu",
    "is_converted",
    "load_converted",
    "refuse_converted",
    "save_converted",
    "with_intensities",
]
