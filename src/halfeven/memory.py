"""Memory that was freed, given back to the system.

The allocator keeps what is freed for later use, and sessions and activations come and go by hundreds of MB: without
this a process would grow by what each of its steps once needed.
"""

import ctypes
import gc
import sys
from functools import cache

SMALL = 8 << 20  # bytes; for less it is not worth the time


def forget_models(weights: int) -> None:
    """Free models that nothing refers to, and give back; `weights` are the bytes of those of a model now in use.

    As nodes and values refer to each other, it takes a search.
    """
    if weights >= SMALL:
        gc.collect()
        give_back(weights)


def keep_modules() -> None:
    """Take what is loaded so far out of every search for what nothing refers to; for a process of one command."""
    gc.freeze()


def give_back(freed: int) -> None:
    """Return freed memory, about `freed` bytes, to the system, where the C library can."""
    if freed >= SMALL and (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc; musl has none
