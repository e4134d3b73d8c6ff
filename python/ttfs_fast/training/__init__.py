"""Training and evaluation of spiking networks; see docs/training.md.

`train` runs a `TrainConfig` to the end and keeps log, checkpoints and weights in one folder;
`evaluate` measures accuracy, sparsity, spike times and energy of any network of spiking layers;
`diagnose` says what happens in each layer, and names the sick one.
"""

from ttfs_fast._untrusted import read_metadata
from ttfs_fast.training.build import load_model, load_pretrained, make_model
from ttfs_fast.training.config import TrainConfig
from ttfs_fast.training.diagnose import Diagnosis, LayerDiagnosis, diagnose
from ttfs_fast.training.evaluate import EvaluationResult, evaluate
from ttfs_fast.training.export import export_weights, read_classes, read_config
from ttfs_fast.training.latency import SpikeTiming, spike_timing
from ttfs_fast.training.log import EpochRecord, read_log
from ttfs_fast.training.loop import TrainResult, train
from ttfs_fast.training.recipes import read_recipe
from ttfs_fast.training.spikes import SpikeCounter, SpikeRecorder, predict, watch_layers

__all__ = [
    "Diagnosis",
    "EpochRecord",
    "EvaluationResult",
    "LayerDiagnosis",
    "SpikeCounter",
    "SpikeRecorder",
    "SpikeTiming",
    "TrainConfig",
    "TrainResult",
    "diagnose",
    "evaluate",
    "export_weights",
    "load_model",
    "load_pretrained",
    "make_model",
    "predict",
    "read_classes",
    "read_config",
    "read_log",
    "read_metadata",
    "read_recipe",
    "spike_timing",
    "train",
    "watch_layers",
]
