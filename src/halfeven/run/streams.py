"""The standard streams of the process, as compiled code writes to them: by their number, past `sys.stdout`.

    silent(1)     nothing reaches standard output: it may be a report that a program reads
    silent(2)     nothing reaches standard error

A stream that the process was started without stays away.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent(stream: int) -> Iterator[None]:
    """Drop what compiled code writes to a standard stream; what Python holds back for it is written before."""
    try:
        for held in (sys.stdout, sys.stderr):
            if held is not None:
                held.flush()
        kept = os.dup(stream)
    except OSError:  # there is no such stream
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream)
        yield
    finally:
        os.dup2(kept, stream)
        os.close(kept)
