"""Pictures: where Matplotlib enters.

It draws into files alone, without a display; the same input gives the same bytes on the same installation.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart; curves that stand in a row
go through `cividis`, whose lightness rises evenly (arXiv:1712.01662).
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from halfeven.errors import BadOption

BLUE, ORANGE, VERMILION, GREEN, SKY, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#56B4E9", "#7F7F7F"
OUTSIDE = "#DDDDDD"
LONGEST = 34
NARROWEST = 7.2
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "halfeven",
    "axes.unicode_minus": False,
}


def need_matplotlib() -> None:
    """Do nothing if pictures can be drawn.

    Raises:
        BadOption: Matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise BadOption("Pictures need matplotlib, which is not installed: pip install 'halfeven[plots]'.")


def panels(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple[Any, list[Any]]:
    """A figure, and its axes row by row; `size` is that of a panel in inches."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(max(columns * size[0], NARROWEST), rows * size[1] + 0.6), layout="constrained")
    drawn.suptitle(title, fontsize=11)
    return drawn, list(drawn.subplots(rows, columns, squeeze=False).ravel())


def styled() -> Any:
    """A context: while it lasts, what is drawn has the style of this module."""
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def logarithmic(ax: Any) -> None:
    """A logarithmic axis upwards, with names for powers of ten alone."""
    from matplotlib.ticker import NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_minor_formatter(NullFormatter())


def shades(count: int) -> list[Any]:
    """Colours of curves in a row, from dark to light; none so light that it is lost on white."""
    import matplotlib as mpl

    scale = mpl.colormaps["cividis"]
    return [scale(0.85 * i / max(count - 1, 1)) for i in range(count)]


def save(drawn: Any, path: Path) -> Path:
    """Write a figure; the suffix says in which format."""
    metadata = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
    beside = path.with_name(f".{path.name}.part")
    try:
        drawn.savefig(beside, dpi=130, metadata=metadata, format=path.suffix[1:])
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise BadOption(f"'{path}' cannot be written: {error.strerror or error}.") from error
    return path


def shortened(name: str, most: int = LONGEST) -> str:
    """A name with its middle left out where it is long."""
    half = most // 2 - 1
    return name if len(name) <= most else f"{name[:half]}..{name[-half:]}"


def stroke(label: str, color: Any, style: Any = "-") -> Any:
    """A line in a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linestyle=style, label=label)


def patch(label: str, color: Any) -> Any:
    """An area in a legend."""
    from matplotlib.patches import Patch

    return Patch(color=color, label=label)


def legend_below(drawn: Any, handles: Sequence[Any]) -> None:
    """One legend for all panels."""
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
