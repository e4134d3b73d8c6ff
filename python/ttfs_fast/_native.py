"""The compiled core for those who come before torch, or without it.

It needs an OpenMP runtime. The system's serves, and torch then shares it; where the system has
none, torch's own has to be there first.
"""

try:
    from ttfs_fast import _core
except ImportError:
    import torch  # noqa: F401

    from ttfs_fast import _core

__all__ = ["_core"]
