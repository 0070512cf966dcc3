"""How long `halfeven --help` takes over an interpreter that does nothing.

Both are run by turns; the ratio is the median over turns, so that a busy machine slows both.
"""

import argparse
import statistics
import sys
from pathlib import Path

import measure
import process

FILE = "startup.json"
EXAMPLES = """examples:
  python benchmarks/startup.py
  python benchmarks/startup.py --turns 31
"""


def help_command() -> list[str]:
    """The installed `halfeven` script beside this interpreter, else the module."""
    folder = Path(sys.executable).parent
    script = next((p for p in (folder / "halfeven", folder / "halfeven.exe") if p.exists()), None)
    return [str(script), "--help"] if script else [sys.executable, "-m", "halfeven", "--help"]


def main() -> None:
    """Measure and print one row."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=11, help="default: 11")
    parser.add_argument("--markdown", action="store_true", help="only print the kept result as a table")
    args = parser.parse_args()
    keys = ["command", "python_ms", "help_ms", "wall_ratio", "cpu_ratio"]
    if not args.markdown:
        command, idle = help_command(), [sys.executable, "-c", "pass"]
        pairs = [(process.run(idle), process.run(command)) for _ in range(args.turns)]
        failed = next((shown for _, shown in pairs if shown.status), None)
        if failed:
            raise SystemExit(f"{' '.join(command)} failed: {failed.stderr}")
        row: measure.Row = {
            "command": " ".join([Path(command[0]).name, *command[1:]]),
            "turns": args.turns,
            "python_ms": round(1e3 * statistics.median(p.wall_s for p, _ in pairs), 1),
            "help_ms": round(1e3 * statistics.median(h.wall_s for _, h in pairs), 1),
            "wall_ratio": round(statistics.median(h.wall_s / p.wall_s for p, h in pairs), 2),
            "cpu_ratio": round(statistics.median(h.cpu_s / p.cpu_s for p, h in pairs), 2),
        }
        measure.keep(FILE, row, ("command",))
    print(measure.markdown(keys, [[row[k] for k in keys] for row in measure.rows_of(FILE)]))


if __name__ == "__main__":
    main()
