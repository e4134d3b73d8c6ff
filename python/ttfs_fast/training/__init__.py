"""Training of spiking networks; see docs/training.md.

`train` runs a `TrainConfig` to the end and keeps log, checkpoints and weights in one folder. What
a trained network does is measured by :mod:`ttfs_fast.analysis`.
"""

from ttfs_fast._untrusted import read_metadata
from ttfs_fast.training.build import load_model, load_pretrained, make_model
from ttfs_fast.training.callback import Callback, LogLines
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.export import export_weights, read_classes, read_config
from ttfs_fast.training.log import EpochRecord, read_log
from ttfs_fast.training.recipes import read_recipe
from ttfs_fast.training.trainer import TrainResult, train

__all__ = [
    "Callback",
    "EpochRecord",
    "LogLines",
    "TrainConfig",
    "TrainResult",
    "export_weights",
    "load_model",
    "load_pretrained",
    "make_model",
    "read_classes",
    "read_config",
    "read_log",
    "read_metadata",
    "read_recipe",
    "train",
]
