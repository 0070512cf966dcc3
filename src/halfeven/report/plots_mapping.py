"""Pictures of the mapping itself: how the numbers of one tensor come to lie on integers.

    mapping.png   the float line onto the integer line, affine (uint8) and symmetric (int8): the tensor's density on the
                  float line, zero and the zero point, and in grey the codes that no number of the tensor gets
    range.png     minimum and maximum as seen, and adjusted: what lies outside the adjusted range goes to the end codes,
                  what lies inside gets a finer step; both errors as root mean square

The adjusted range is that of least squared error; where that is all there is, it leaves out a hundredth of the values.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.graph.weights import array_at
from halfeven.numerics.grid import INT8_NARROW, UINT8
from halfeven.numerics.quantize import fake_quantize, params_for, quantize
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule
from halfeven.report.plots_canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    logarithmic,
    panels,
    save,
    shortened,
    styled,
)
from halfeven.stats.estimate import estimate
from halfeven.stats.histogram import Histogram

AFFINE, SYMMETRIC = Scheme(UINT8, zero_point=ZeroRule.FREE), Scheme(INT8_NARROW)
RAYS = 17
ABSENT = "--tensor '{}': no activation of this name is observed, nor is there such a weight."
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Values:
    """A tensor as the middles of bins and how many values lie there."""

    name: str
    middles: Doubles
    counts: Doubles
    low: float
    high: float
    histogram: Histogram

    @classmethod
    def of(cls, name: str, histogram: Histogram) -> "Values":
        """Of a histogram that is not empty; zeros are a bin of their own."""
        middles = (np.arange(len(histogram.counts)) - histogram.negative + 0.5) * 2.0**histogram.exponent
        middles, counts = np.append(middles, 0.0), np.append(histogram.counts, histogram.zeros).astype(np.float64)
        low, high = min(histogram.extrema.low, 0.0), max(histogram.extrema.high, 0.0)
        return cls(name, np.clip(middles, low, high), counts, low, high, histogram)

    def error(self, params: QParams) -> float:
        """Root mean square of what quantization changes."""
        x = self.middles.astype(np.float32)
        square = np.square(fake_quantize(x, params).astype(np.float64) - x)
        return float(np.sqrt((square * self.counts).sum() / max(self.counts.sum(), 1)))


def check_tensor(draft: Draft, name: str) -> None:
    """Raise BadOption if a draft that was placed has neither a planned activation nor a weight of this name."""
    if name not in _weights(draft) and all(site.value != name for site in draft.plan.sites):
        raise BadOption(ABSENT.format(name))


def _weights(draft: Draft) -> dict[str, npt.NDArray[np.generic]]:
    return {
        value.name or "": array
        for node in draft.model.graph
        for port, value in enumerate(node.inputs)
        if value is not None and (array := array_at(node, port)) is not None and array.dtype == np.float32
    }


def values_of(draft: Draft, name: str = "") -> Values:
    """The values of an activation that was observed, or of a weight; without a name the first activation.

    Raises:
        BadOption: there is no such tensor, or it holds nothing.
    """
    weights = _weights(draft)
    chosen = name or next((s.value for s in draft.plan.sites if s.value in draft.stats), "")
    if chosen in draft.stats:
        histogram = draft.stats[chosen].histogram
    elif chosen in weights:
        histogram = Histogram.of(weights[chosen])
    else:
        raise BadOption(ABSENT.format(chosen))
    if histogram.empty or not histogram.counts.any():
        raise BadOption(f"--tensor '{chosen}' holds nothing but zeros. Choose another.")
    return Values.of(chosen, histogram)


def plot_mapping(values: Values, folder: Path, suffix: str) -> list[Path]:
    """Write both pictures."""
    with styled():
        return [_mappings(values, folder / f"mapping.{suffix}"), _adjusted(values, folder / f"range.{suffix}")]


def _mappings(values: Values, path: Path) -> Path:
    """Affine and symmetric."""
    drawn, axes = panels(2, 1, (8.5, 2.9), f"Two mappings of '{shortened(values.name, 60)}'")
    for ax, scheme in zip(axes, (AFFINE, SYMMETRIC), strict=True):
        params = params_for(values.low, values.high, scheme)
        _mapping(ax, values, params)
        scale, zero = float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
        unused = _unused(values, params)
        more = f", {unused} of {scheme.grid.high - scheme.grid.low + 1} codes never used" if unused else ""
        kind, code = ("affine", f"(code - {zero})") if scheme is AFFINE else ("symmetric", "code")
        error = f"rms error {values.error(params):.2g}"
        ax.set_title(f"{kind}, {_type(params)}: real = {code} x {scale:.4g}{more}; {error}")
    return save(drawn, path)


def _type(params: QParams) -> str:
    """The type of the codes, without its narrowness."""
    return str(params.scheme.grid).split(" ")[0]


def _unused(values: Values, params: QParams) -> int:
    """How many codes lie outside those of the tensor's minimum and maximum."""
    low, high = (int(c) for c in quantize(np.array([values.low, values.high], np.float32), params))
    return (low - params.scheme.grid.low) + (params.scheme.grid.high - high)


def _mapping(ax: Any, values: Values, params: QParams) -> None:
    """The float line above, the integer line below, and rays between."""
    grid, scale, zero = params.scheme.grid, float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
    reach = max(-values.low, values.high, (grid.high - zero) * scale, (zero - grid.low) * scale)

    def at(x: float) -> float:
        return x / reach

    def down(code: float) -> float:
        return 1.9 * (code - grid.low) / (grid.high - grid.low) - 0.95

    _density(ax, values, reach)
    for code in np.linspace(grid.low, grid.high, RAYS):
        inside = values.low - scale <= (code - zero) * scale <= values.high + scale
        ax.plot([at((code - zero) * scale), down(code)], [1, 0], color=BLUE if inside else "#CCCCCC", linewidth=0.8)
    ax.plot([at(0.0), down(zero)], [1, 0], color=VERMILION, linewidth=1.6)
    _line(ax, 1.0, [(at(x), f"{x:.3g}") for x in (values.low, 0.0, values.high)], "float32", above=True)
    _line(ax, 0.0, [(down(c), str(c)) for c in dict.fromkeys((grid.low, zero, grid.high))], _type(params), above=False)
    ax.set_xlim(-1.22, 1.05)
    ax.set_ylim(-0.35, 1.75)
    ax.set_axis_off()


def _density(ax: Any, values: Values, reach: float) -> None:
    """The tensor's density as a silhouette on the float line."""
    edges = np.linspace(values.low, values.high, 121)
    keep = values.middles != 0
    counts = np.histogram(values.middles[keep], edges, weights=values.counts[keep])[0]
    heights = 1 + 0.42 * np.sqrt(counts / max(counts.max(), 1))
    ax.stairs(heights, edges / reach, baseline=1.0, fill=True, color=SKY, alpha=0.7)


def _line(ax: Any, y: float, ticks: list[tuple[float, str]], name: str, *, above: bool) -> None:
    ax.plot([-1, 1], [y, y], color="black", linewidth=1.0)
    ax.text(-1.04, y, name, ha="right", va="center")
    placed: list[float] = []
    for text, x in {text: x for x, text in ticks}.items():
        ax.plot([x, x], [y - 0.03, y + 0.03], color="black", linewidth=1.0)
        near = any(abs(x - other) < 0.07 for other in placed)
        placed.append(x)
        offset = (0.47 if not near else 0.6) if above else (-0.09 if not near else -0.22)
        if above:
            ax.plot([x, x], [y, y + offset], color=GREY, linewidth=0.5, linestyle=":")
        ax.text(x, y + offset, text, ha="center", va="bottom" if above else "top")


def _adjusted(values: Values, path: Path) -> Path:
    """Minimum and maximum as seen, and adjusted."""
    low, high = estimate("mse", values.histogram, AFFINE)
    if low <= values.low and high >= values.high:
        low, high = estimate("percentile", values.histogram, AFFINE, percentile=99.0)
    low, high = min(low, 0.0), max(high, 0.0)
    whole, adjusted = (params_for(a, b, AFFINE) for a, b in ((values.low, values.high), (low, high)))
    inside = (values.middles >= low) & (values.middles <= high)
    share = float(values.counts[~inside].sum() / max(values.counts.sum(), 1))
    drawn, axes = panels(2, 1, (8.5, 2.7), f"The range of '{shortened(values.name, 60)}', adjusted")
    _tails(axes[0], values, (low, high))
    texts = [
        f"{name}: step {float(p.scale.ravel()[0]):.3g}, rms error {values.error(p):.3g}"
        for name, p in (("minimum to maximum", whole), ("adjusted", adjusted))
    ]
    axes[0].set_title(f"{texts[0]}\n{texts[1]}, {share:.2%} saturated".replace("%", " %"))
    _saturating(axes[1], values, (low, high), adjusted)
    return save(drawn, path)


def _tails(ax: Any, values: Values, ends: tuple[float, float]) -> None:
    edges = np.linspace(values.low, values.high, 161)
    keep = values.middles != 0
    counts = np.histogram(values.middles[keep], edges, weights=values.counts[keep])[0]
    density = counts / max(counts.sum(), 1) / np.diff(edges)
    ax.stairs(np.where(counts > 0, density, np.nan), edges, baseline=None, color=BLUE, linewidth=1.2, label="values")
    for i, end in enumerate((values.low, values.high)):
        ax.axvline(end, color=GREEN, linewidth=1.2, label=None if i else "minimum and maximum")
    for i, end in enumerate(ends):
        ax.axvline(end, color=VERMILION, linestyle="--", linewidth=1.2, label=None if i else "adjusted")
    logarithmic(ax)
    ax.set_ylabel("density (log)")
    ax.set_xlabel("value")
    ax.legend(frameon=False, loc="lower center", ncols=3, fontsize=8)


def _saturating(ax: Any, values: Values, ends: tuple[float, float], params: QParams) -> None:
    grid, width = params.scheme.grid, max(values.high - values.low, 1e-30)
    zero = int(params.zero_point.ravel()[0])

    def at(x: float) -> float:
        return 1.9 * (x - values.low) / width - 0.95

    def down(code: float) -> float:
        return 1.5 * (code - grid.low) / (grid.high - grid.low) - 0.75

    for x in np.linspace(values.low, values.high, 33):
        code = float(quantize(np.array([x], np.float32), params)[0])
        outside = not ends[0] <= x <= ends[1]
        ax.plot([at(float(x)), down(code)], [1, 0], color=ORANGE if outside else BLUE, linewidth=0.8)
    ax.plot([at(0.0), down(zero)], [1, 0], color=VERMILION, linewidth=1.6)
    ticks = dict.fromkeys((values.low, ends[0], 0.0, ends[1], values.high))
    _line(ax, 1.0, [(at(x), f"{x:.3g}") for x in ticks], "float32", above=True)
    _line(ax, 0.0, [(down(c), str(c)) for c in dict.fromkeys((grid.low, zero, grid.high))], _type(params), above=False)
    ax.set_title("inside the range (blue) by the line, outside (orange) to the end codes; zero (red) stays exact")
    ax.set_xlim(-1.22, 1.05)
    ax.set_ylim(-0.35, 1.85)
    ax.set_axis_off()
