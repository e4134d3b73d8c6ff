"""The CSV log of a training run: one row per epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttfs_fast._csv import read_rows, write_rows

RENAMED = {
    "train_sparsity": "train_spikes_per_neuron",
    "test_sparsity": "test_spikes_per_neuron",
}
"""Columns as version 0.1 named them, and their names."""


@dataclass(frozen=True)
class EpochRecord:
    """A row of the log.

    Attributes
    ----------
    epoch : int
        Number of the epoch, from 1.
    learning_rate : float
        Adam's learning rate at its last step.
    loss, loss_class, loss_weight_sum, loss_l2 : float
        Mean over the steps of the loss of equation (5), and of its three terms without their
        factors K and lambda; 0 for a term whose factor is 0.
    train_accuracy : float
        Fraction of the training images classified correctly, as they came by (with noise and
        distortion, by the weights of that moment).
    test_accuracy : float
        Fraction of the test images classified correctly after the epoch, by the averaged weights
        if the run averages them.
    train_spikes_per_neuron : float
        Spikes per neuron, the fraction of neurons that spiked, in one training batch of every
        thousand images.
    test_spikes_per_neuron : float
        The same over all test images.
    first_spike_time : float
        Mean time of the first output spike over the test images, in units of tau.
    skipped_steps : int
        Steps left out: a gradient was not finite, or with batch normalization, the batch had a
        single image.
    seconds : float
        Duration of the epoch, its evaluation included.
    """

    epoch: int
    learning_rate: float
    loss: float
    loss_class: float
    loss_weight_sum: float
    loss_l2: float
    train_accuracy: float
    test_accuracy: float
    train_spikes_per_neuron: float
    test_spikes_per_neuron: float
    first_spike_time: float
    skipped_steps: int
    seconds: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EpochRecord":
        """Read a row from a checkpoint, written here or by version 0.1."""
        return cls(**{RENAMED.get(name, name): value for name, value in values.items()})


def write_log(path: Path, records: Sequence[EpochRecord]) -> None:
    """Write the whole log, in one step: a reader sees whole rows only."""
    write_rows(path, EpochRecord, records)


def read_log(path: str | Path) -> list[EpochRecord]:
    """Read a log that `write_log` wrote, here or in version 0.1.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a log; the message names the file and the line.
    """
    return read_rows(path, EpochRecord, "a training log", RENAMED)
