"""Memory that was freed, given back to the system.

The allocator keeps what is freed for later use, and sessions and activations come and go by hundreds of MB: without
this a process would grow by what each of its steps once needed.
"""

import ctypes
import gc
import sys
from functools import cache


def give_back() -> None:
    """Return what was freed to the system, where the C library can.

    Models that nothing refers to are freed first: as nodes and values refer to each other, it takes a search.
    """
    gc.collect()
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc; musl has none
