"""Keep freed memory in the process while it trains."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_LARGE = 1 << 30


def keep_freed_memory() -> bool:
    """Tell glibc not to give large freed buffers back to the system; False where malloc is another.

    By default each activation of some megabytes is mapped anew at every step, and faulting its pages in
    costs about a fifth of a small model's step on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # bitwise: both are wanted whatever the first one says
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE) & mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE - 1))
