"""What a whole process costs: CPU seconds, wall seconds and peak memory of a command and its children.

A process starts with its parent's resident memory on its account (Linux copies the high-water mark at `exec`), so a
parent that holds networks would hide a small child. Each command is therefore started by a fresh interpreter that
holds nothing: this file, run as a script. It prints one JSON line with the cost and the end of the command's stderr.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

STDERR_KEPT = 600


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU (user and system) and of wall clock, peak resident memory in MB (10**6 bytes), exit status."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    status: int
    stderr: str = ""

    @property
    def last_line(self) -> str:
        """The last line on stderr, cut to 150 characters; empty when the process said nothing."""
        return (self.stderr.strip().splitlines() or [""])[-1][:150]


def run(command: Sequence[str], memory_limit_gb: float = 0.0, variables: Mapping[str, str] | None = None) -> Cost:
    """Run `command` to its end and say what it cost; a failing command is a cost with a status, not an exception.

    Compiled modules are kept from run to run, as they are where packages are installed. `memory_limit_gb` bounds the
    data segment (0: no bound), so that a tool which keeps everything fails alone.
    """
    launcher = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(memory_limit_gb), *command]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(launcher, capture_output=True, text=True, env={**inherited, **(variables or {})}, check=True)
    return Cost(**json.loads(done.stdout))


def _measure(command: Sequence[str], memory_limit_gb: float) -> Cost:
    import resource

    limit = int(memory_limit_gb * 1e9)
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        stderr.seek(0)
        text = stderr.read().decode(errors="replace")[-STDERR_KEPT:]
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return Cost(
        cpu_s=round(usage.ru_utime + usage.ru_stime, 4),
        wall_s=round(wall, 4),
        peak_mb=round(usage.ru_maxrss * unit / 1e6, 1),
        status=os.waitstatus_to_exitcode(status),
        stderr=text,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(sys.argv[2:], float(sys.argv[1])))))
