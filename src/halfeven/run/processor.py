"""Which processor this is, as far as runtimes compute otherwise on one than on another."""

import re
from pathlib import Path
from platform import machine, processor

ARM = ("arm64", "aarch64")
INTEL, AMD = "GenuineIntel", "AuthenticAMD"
SAID = Path("/proc/cpuinfo")


def on_arm() -> bool:
    """Whether this processor is of Arm, with 64 bits."""
    return machine().lower() in ARM


def vendor(said: Path = SAID) -> str:
    """INTEL or AMD, if this processor says that it is one of theirs; empty where it does not."""
    known = _description(said)
    return next((name for name in (INTEL, AMD) if name in known), "")


def family(said: Path = SAID) -> int | None:
    """The number of the vendor's family of processors; None where it is not said."""
    found = re.search(r"family\s*:?\s*(\d+)", _description(said), re.IGNORECASE)
    return int(found[1]) if found else None


def _description(said: Path) -> str:
    try:
        return said.read_text("ascii", "ignore")
    except OSError:
        return processor()  # on Windows: "AMD64 Family 26 Model 2 Stepping 1, AuthenticAMD"
