"""Memory that stays with the process when it is freed, and comes in large pages."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of mallopt, from glibc's malloc.h."""
_LARGEST = 2**31 - 1


def reuse_memory() -> None:
    """Let glibc keep freed blocks, and torch ask for huge pages; elsewhere this does nothing.

    Each training step allocates the same large blocks. By default glibc gives blocks above 32 MB
    back to the system, which clears their pages of 4 KB, one fault each, in the next step. Settings
    of glibc and torch in the environment stay as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST)
