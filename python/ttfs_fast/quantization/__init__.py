"""Integer networks: weights of 8, 4 or 2 bits, spike codes of 16 or 8 bits; see docs/integer.md.

:func:`load` reads an :class:`IntegerNetwork` from a file and runs it without torch.
:func:`prepare_qat_` prepares a network for quantization-aware training, :func:`convert` converts it
to an integer network, and :func:`quantize` does both while it reduces the bits in stages.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ttfs_fast.quantization.network import IntegerNetwork, LayerInfo, is_integer_file, load

if TYPE_CHECKING:
    from ttfs_fast.quantization.config import QuantizeConfig
    from ttfs_fast.quantization.conversion import calibrate_time_scales, convert
    from ttfs_fast.quantization.evaluation import Comparison, compare, decide, evaluate
    from ttfs_fast.quantization.fake import (
        FakeQuantize,
        FrozenCodes,
        calibrate_thresholds,
        dequantize_,
        freeze_codes_,
        prepare_qat_,
        recalibrate_,
    )
    from ttfs_fast.quantization.training import quantize

__all__ = [
    "Comparison",
    "FakeQuantize",
    "FrozenCodes",
    "IntegerNetwork",
    "LayerInfo",
    "QuantizeConfig",
    "calibrate_thresholds",
    "calibrate_time_scales",
    "compare",
    "convert",
    "decide",
    "dequantize_",
    "evaluate",
    "freeze_codes_",
    "is_integer_file",
    "load",
    "prepare_qat_",
    "quantize",
    "recalibrate_",
]

# Modules that need torch are imported when they are first used.
_MODULES = {
    "config": ("QuantizeConfig",),
    "conversion": ("calibrate_time_scales", "convert"),
    "evaluation": ("Comparison", "compare", "decide", "evaluate"),
    "fake": (
        "FakeQuantize",
        "FrozenCodes",
        "dequantize_",
        "calibrate_thresholds",
        "freeze_codes_",
        "prepare_qat_",
        "recalibrate_",
    ),
    "training": ("quantize",),
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
