"""Names of devices: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

import re

import torch


def resolve_device(device: str | torch.device | None = "auto") -> torch.device:
    """The device that a name stands for, checked to be there.

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
        If the name is not one of these.
    RuntimeError
        If the GPU is not there.
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
    if name == "cpu":
        return torch.device("cpu")
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        name = "cuda"
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise ValueError(f"unknown device {name!r}; allowed are auto, cpu, cuda, and cuda:N")
    if not torch.cuda.is_available():
        built = torch.version.cuda or getattr(torch.version, "hip", None)
        reason = (
            "torch finds no GPU; check the driver with nvidia-smi"
            if built
            else "this build of torch is for CPUs only; install one for GPUs "
            "(https://pytorch.org/get-started/locally/)"
        )
        raise RuntimeError(f"device {name!r} is not available: {reason}; or use the device cpu")
    count = torch.cuda.device_count()
    index = int(match[1]) if match[1] is not None else torch.cuda.current_device()
    if index >= count:
        found = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise RuntimeError(f"device {name!r} is not there; this machine has {found}")
    return torch.device("cuda", index)
