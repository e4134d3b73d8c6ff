"""Processes that train together."""

import os
from typing import Any

import torch

from ttfs_fast._extras import require


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


def close(fabric: Any) -> None:
    """End the process group: otherwise gloo's threads abort a process that ends."""
    if fabric.world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def lost_connection(error: RuntimeError) -> bool:
    """Whether an error is that of a process whose partner has died."""
    text = str(error).lower()
    return any(word in text for word in ("gloo", "connection", "peer", "socket"))
