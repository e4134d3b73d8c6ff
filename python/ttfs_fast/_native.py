"""Imports the compiled core before torch, or without it.

It needs an OpenMP runtime. If the system has one, the core and torch share it. Otherwise torch's
own must be loaded first.
"""

try:
    from ttfs_fast import _core
except ImportError:
    import torch  # noqa: F401

    from ttfs_fast import _core

__all__ = ["_core"]
