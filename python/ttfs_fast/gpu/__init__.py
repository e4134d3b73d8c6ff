"""The operators on a GPU: the C++ core's plan, in Triton.

Nothing here imports Triton before the first tensor on a GPU (:mod:`ttfs_fast.gpu.dispatch`).
"""

from ttfs_fast.gpu.device import resolve_device

__all__ = ["resolve_device"]
