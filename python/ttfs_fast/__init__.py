"""Fast time-to-first-spike (TTFS) neural networks on CPUs.

Spiking layers whose neurons spike at most once, the time of the spike being the value, as torch
operators with compiled kernels: :func:`spiking_linear`, :func:`spiking_conv2d` and
:func:`spiking_max_pool2d` stand where their namesakes of torch.nn.functional stood. Modules are in
:mod:`ttfs_fast.nn`, networks in :mod:`ttfs_fast.models`, integer networks, which run without
torch, in :mod:`ttfs_fast.quantization`. ``import ttfs_fast`` is enough to use any of them.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttfs_fast import quantization
    from ttfs_fast._core import (
        __version__,
        instruction_set,
        instruction_sets,
        set_instruction_set,
    )
    from ttfs_fast.functional import (
        spiking_conv2d,
        spiking_delay,
        spiking_linear,
        spiking_max_pool2d,
    )

__all__ = [
    "__version__",
    "instruction_set",
    "instruction_sets",
    "quantization",
    "set_instruction_set",
    "spiking_conv2d",
    "spiking_delay",
    "spiking_linear",
    "spiking_max_pool2d",
]

# Names are looked up when they are first used: the operators need torch, the rest does not.
_MODULES = {
    "__version__": "_core",
    "instruction_set": "_core",
    "instruction_sets": "_core",
    "set_instruction_set": "_core",
    "spiking_conv2d": "functional",
    "spiking_delay": "functional",
    "spiking_linear": "functional",
    "spiking_max_pool2d": "functional",
}


def __getattr__(name: str) -> Any:
    if name in _submodules():
        return importlib.import_module(f"ttfs_fast.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'ttfs_fast' has no attribute {name!r}")
    if _MODULES[name] == "_core":
        importlib.import_module("ttfs_fast._native")
    value = getattr(importlib.import_module(f"ttfs_fast.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_submodules()})


def _submodules() -> set[str]:
    """The modules of the package, its private ones apart."""
    found = {module.name for module in pkgutil.iter_modules(__path__)}
    return {name for name in found if not name.startswith("_")}
