"""From a ReLU network to first spikes, exactly.

A layer with a horizon is a ReLU layer (`ttfs_fast.horizon`). So a network of convolutions, fully
connected layers, batch normalization, ReLUs, pools and sums is a network of the paper's neurons:
activations become leads over the horizon, batch normalization folds into weights and biases, and
each layer's scale is chosen on data so that its leads are as long as wanted.
"""

from ttfs_fast.conversion.converter import LONGEST_LEAD, from_relu
from ttfs_fast.conversion.network import Concatenate, ConvertedNetwork, LeadEncoding
from ttfs_fast.conversion.tracing import ALLOWED

__all__ = [
    "ALLOWED",
    "LONGEST_LEAD",
    "Concatenate",
    "ConvertedNetwork",
    "LeadEncoding",
    "from_relu",
]
