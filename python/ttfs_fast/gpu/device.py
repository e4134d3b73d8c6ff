"""Devices by name (``auto``, ``cpu``, ``cuda``, ``cuda:N``), and how training uses them."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

NAMES = "auto, cpu, cuda, and cuda:N"


def check_device_name(name: str) -> None:
    """Raise an error for an invalid device name.

    Raises
    ------
    ValueError
        If it is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise ValueError(f"unknown device {name!r}; allowed are {NAMES}")


def resolve_device(device: str | torch.device | None = "auto") -> torch.device:
    """The device of a name, after a check that it exists.

    Parameters
    ----------
    device : str or torch.device, optional
        ``"cpu"``; ``"cuda"``, the current GPU; ``"cuda:N"``, GPU number N; ``"auto"`` or None, the
        current GPU where there is one, and else the CPU.

    Returns
    -------
    torch.device
        With its number, if it is a GPU.

    Raises
    ------
    ValueError
        If the name is not one of these, or the GPU is not there.
    TypeError
        If `device` is neither a string nor a device.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device is None:
        device = "auto"
    if not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a string or a torch.device, got {type(device).__name__}")
    name = str(device).strip()
    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        reason = (
            "torch finds no GPU; check the driver with nvidia-smi"
            if built
            else "this build of torch is for CPUs only; install one for GPUs "
            "(https://pytorch.org/get-started/locally/)"
        )
        raise ValueError(f"device {name!r} is not available: {reason}; or use the device cpu")
    count = torch.cuda.device_count()
    number = name.partition(":")[2]
    index = int(number) if number else torch.cuda.current_device()
    if index >= count:
        found = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ValueError(f"device {name!r} is not there; this machine has {found}")
    return torch.device("cuda", index)


def kind_for_processes(device: str, here: int) -> str:
    """``"cpu"`` or ``"cuda"``: where several processes of this machine train, each on its own GPU.

    Parameters
    ----------
    device : str
        As for :func:`resolve_device`.
    here : int
        Processes on this machine.

    Raises
    ------
    ValueError
        If there are fewer GPUs than processes, or the name is that of a single one.
    """
    check_device_name(device)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and gpus < here):
        return "cpu"
    if ":" in device:
        raise ValueError(
            f"device {device!r} is one GPU, and torchrun gives each of its processes one of its "
            "own: use the device cuda"
        )
    if gpus < here:
        resolve_device(device)
        raise ValueError(
            f"{here} processes need as many GPUs, and this machine has {gpus}: start torchrun "
            f"with --nproc-per-node {gpus}, or use the device cpu"
        )
    return "cuda"


def describe_device(device: torch.device) -> str:
    """What computes on a device, in a line for logs."""
    import ttfs_fast
    from ttfs_fast.gpu.dispatch import kernels_in_use

    if device.type != "cuda":
        return (
            f"{device.type}, threads: {torch.get_num_threads()}, "
            f"{ttfs_fast.instruction_set()} instructions"
        )
    return f"{device}, {torch.cuda.get_device_name(device)}, {kernels_in_use(device)}"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16 products; without, they are emulated."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())  # torch before 2.11


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Set the number of threads of torch and of the operators inside the block; None keeps it."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def same_bits(device: torch.device) -> Iterator[None]:
    """Let torch's own operators on a GPU give the same bits from run to run, inside the block.

    Ours do on their own. An operator for which torch knows no such way warns, by name.
    """
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads it when it first runs in a process.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deterministic: Any = torch.utils.deterministic
    fill = deterministic.fill_uninitialized_memory
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """A model on a device, inside the block; afterwards it is back where it was."""
    before = next(model.parameters()).device
    try:
        yield model.to(device)
    finally:
        model.to(before)
