"""Generated blocks of a page: what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def filled(text: str, name: str, block: str) -> str:
    """The page with `block` between the two markers of `name`.

    Raises:
        ValueError: the page does not have each marker once.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if (text.count(begin), text.count(end)) != (1, 1):
        raise ValueError(f"expected {begin} and {end} once each")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{block}\n{end}", text)


def refresh(pages: Mapping[Path, str], check: bool) -> None:
    """Write the pages that differ from what they should be; with `check` only name them and end with status 1."""
    stale = [path for path, text in pages.items() if path.read_text("utf-8") != text]
    for path in stale:
        if not check:
            path.write_text(pages[path], "utf-8")
        print(f"{path.relative_to(ROOT)}: {'out of date' if check else 'written'}")
    if check and stale:
        sys.exit(1)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A markdown table; a bar inside a cell is escaped."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
