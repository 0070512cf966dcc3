"""Which processor this is, as far as runtimes compute otherwise on one than on another."""

from pathlib import Path
from platform import machine, processor

ARM = ("arm64", "aarch64")


def on_arm() -> bool:
    """Whether this processor is of Arm, with 64 bits."""
    return machine().lower() in ARM


def of_intel(said: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor says that it is one of Intel's; False where nothing is said."""
    try:
        known = said.read_text("ascii", "ignore")
    except OSError:
        known = processor()  # on Windows it ends in the vendor
    return "GenuineIntel" in known
