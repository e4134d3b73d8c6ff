"""Exact conversion of ReLU networks to first-spike networks.

A layer with a horizon computes what a ReLU layer computes (`ttfs_fast.horizon`). So a network of
convolutions, fully connected layers, batch normalization, ReLUs, pools and sums converts to a
network of the paper's neurons: activations become leads relative to the horizon, batch
normalization folds into weights and biases, and each layer's scale is chosen on data for a given
size of leads.
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
