"""Processes that train together, and what they count together."""

import os
from typing import Any

import torch
from torch import Tensor

from ttfs_fast._extras import require
from ttfs_fast.layers import SpikeCounter, predict


def make_fabric() -> Any:
    """Lightning's Fabric for this process, or for those that torchrun started."""
    lightning = require("lightning_fabric", "train")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return lightning.Fabric(accelerator="cpu", devices=1)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    fabric = lightning.Fabric(
        accelerator="cpu", devices=here, num_nodes=processes // here, strategy="ddp"
    )
    fabric.launch()
    return fabric


def leave(fabric: Any) -> None:
    """Part in good order: gloo's threads abort a process that ends while they run."""
    if fabric.world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def lost_connection(error: RuntimeError) -> bool:
    """Whether an error is that of a process whose partner has died."""
    text = str(error).lower()
    return any(word in text for word in ("gloo", "connection", "peer", "socket"))


class EpochTotals:
    """Sums over the steps of an epoch, and over the processes."""

    def __init__(self, fabric: Any, K: float, lambda_: float) -> None:
        self._fabric, self._K, self._lambda = fabric, K, lambda_
        self.steps = self.skipped = 0
        self.spikes = SpikeCounter()
        # Sums of the processes: three terms, images, correct ones. Then what is not yet joined.
        self._joined = torch.zeros(5, dtype=torch.float64)
        self._own = torch.zeros(5, dtype=torch.float64)

    def add_terms(self, cross_entropy: float, weight_sum: float, l2: float) -> None:
        """A step: this process's part of the first term, and the other two."""
        self.steps += 1
        self._own[0] += cross_entropy
        self._own[1] += weight_sum / self._fabric.world_size
        self._own[2] += l2 / self._fabric.world_size

    def add_answers(self, output: Tensor, labels: Tensor) -> None:
        self._own[3] += len(labels)
        if len(labels):
            self._own[4] += int((predict(output) == labels).sum())

    def join(self) -> None:
        """Add up what the processes have counted since the last time."""
        if self._fabric.world_size > 1:
            self._own = self._fabric.all_reduce(self._own, reduce_op="sum")
        self._joined += self._own
        self._own = torch.zeros_like(self._own)

    def means(self) -> dict[str, float]:
        cross_entropy, weight_sum, l2 = (self._joined[:3] / self.steps).tolist()
        return {
            "loss": cross_entropy + self._K * weight_sum + self._lambda * l2,
            "loss_class": cross_entropy,
            "loss_weight_sum": weight_sum,
            "loss_l2": l2,
            "train_accuracy": float(self._joined[4] / self._joined[3].clamp(min=1)),
            "train_sparsity": self.spikes.sparsity,
        }
