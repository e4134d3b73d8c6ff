"""Processes that train together."""

import atexit
import os
from typing import Any

import torch

from ttfs_fast._extras import require
from ttfs_fast.gpu.device import kind_for_processes, resolve_device


def number_of_processes() -> int:
    """How many processes torchrun has started to train together; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def make_fabric(device: str = "auto") -> Any:
    """Lightning's Fabric for this process, or for those that torchrun started.

    The processes stay connected until they exit: torch cannot reliably connect them a second time,
    because the store of addresses that torchrun keeps still has those of the first time.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Several processes train on as many GPUs, by nccl,
        or on the CPU, by gloo.

    Raises
    ------
    ValueError
        If there is no such device, or fewer GPUs than processes.
    """
    lightning = require("lightning_fabric", "train")
    processes = number_of_processes()
    if processes == 1:
        where = resolve_device(device)
        devices = [where.index] if where.type == "cuda" else 1
        return lightning.Fabric(accelerator=where.type, devices=devices)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    fabric = lightning.Fabric(
        accelerator=kind_for_processes(device, here),
        devices=here,
        num_nodes=processes // here,
        strategy="ddp",
    )
    if not torch.distributed.is_initialized():
        atexit.register(_disconnect)
    fabric.launch()
    return fabric


def _disconnect() -> None:
    """Leave the other processes; otherwise gloo's threads abort a process when it exits."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def lost_connection(error: RuntimeError) -> bool:
    """Whether an error means that another process has died."""
    text = str(error).lower()
    return any(word in text for word in ("gloo", "nccl", "connection", "peer", "socket"))
