"""Pictures of a network: what its activations and its weights look like beside the ranges that were chosen.

    activations-conv-1.png   a panel for each layer, a curve for each sample: the density of the layer's outputs on a
                             logarithmic axis, so that tails of one in a million show; the chosen range between dashed
                             lines, what saturates on grey
    activations-pool-1.png   the same of pooling; activations-dense-1.png of MatMul and Gemm
    weights.png              a panel for each of the first layers with weights: density, the codes' range

A layer's output is what its Relu or Clip lets pass, where one follows. Exact zeros, which a Relu makes by the thousand
and which any scheme keeps, are left out and counted in the title.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.draft import Batch, Draft
from halfeven.graph import ops
from halfeven.graph.clamps import CLAMPS
from halfeven.graph.plan import Quantizer, Site
from halfeven.graph.weights import array_at
from halfeven.report.plots_canvas import (
    BLUE,
    GREY,
    ORANGE,
    OUTSIDE,
    VERMILION,
    legend_below,
    logarithmic,
    panels,
    patch,
    save,
    shades,
    shortened,
    stroke,
    styled,
)
from halfeven.run.ort import OrtExecutor

BINS = (24, 140)
PAGE = (4, 3)
KINDS = {
    **dict.fromkeys(("Conv", "ConvTranspose"), "conv"),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"), "pool"),
    **dict.fromkeys(("MatMul", "Gemm"), "dense"),
}
TITLES = {"conv": "convolutions", "pool": "pooling", "dense": "matrix products"}
Doubles = npt.NDArray[np.float64]


@dataclass
class Curves:
    """Of one tensor: the bins, and of each sample how the values that are not zero fall into them."""

    name: str
    kind: str
    op: str
    edges: Doubles = field(default_factory=lambda: np.zeros(0))
    counts: list[Doubles] = field(default_factory=list)
    zeros: int = 0
    size: int = 0

    def density(self, sample: int) -> Doubles:
        """Of one sample, per unit of the values; NaN where there are none, so that no line is drawn."""
        counts = self.counts[sample]
        found = counts / max(counts.sum(), 1) / np.diff(self.edges)
        return np.where(counts > 0, found, np.nan)


def tensors_of(draft: Draft) -> list[Curves]:
    """The outputs of layers and of pooling, in the order of the graph, behind their clamps."""
    found = []
    for node in draft.model.graph:
        kind = KINDS.get(node.op_type) if node.domain == "" else None
        if kind is None or (kind != "pool" and not ops.is_layer(node)):
            continue
        value = node.outputs[0]
        while len(uses := list(value.uses())) == 1 and uses[0].node.op_type in CLAMPS and uses[0].idx == 0:
            value = uses[0].node.outputs[0]
        found.append(Curves(value.name or "", kind, node.op_type))
    return found


def observe(draft: Draft, samples: Sequence[tuple[str, Batch]]) -> list[Curves]:
    """Curves of all tensors of `tensors_of` that hold floats; the samples are run twice, for ranges and for counts."""
    curves = tensors_of(draft)
    run = OrtExecutor(draft.model, tuple(c.name for c in curves))
    ends = {c.name: (np.inf, -np.inf) for c in curves}
    sizes = dict.fromkeys(ends, 0)
    for label, feeds in samples:
        for name, x in run(feeds, label).items():
            if name in ends and np.asarray(x).size:
                low, high = ends[name]
                ends[name] = min(low, float(np.min(x))), max(high, float(np.max(x)))
                sizes[name] = max(sizes[name], int(np.asarray(x).size))
    known = [c for c in curves if np.isfinite(ends[c.name]).all()]
    for curve in known:
        low, high = ends[curve.name]
        bins = int(np.clip(np.sqrt(sizes[curve.name]), *BINS))
        curve.edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    for label, feeds in samples:
        values = run(feeds, label)
        for curve in known:
            x = np.asarray(values[curve.name], np.float64).ravel()
            curve.counts.append(np.histogram(x[x != 0], curve.edges)[0].astype(np.float64))
            curve.zeros, curve.size = curve.zeros + int((x == 0).sum()), curve.size + x.size
    return known


def range_of(quantizer: Quantizer | None) -> tuple[float, float] | None:
    """What the codes of a tensor with one scale express, lowest and highest; None where there is none."""
    params = None if quantizer is None else quantizer.params
    if params is None or params.scale.size != 1:
        return None
    grid, scale, zero = params.scheme.grid, float(params.scale.ravel()[0]), int(params.zero_point.ravel()[0])
    return (grid.low - zero) * scale, (grid.high - zero) * scale


def plot_activations(draft: Draft, samples: Sequence[tuple[str, Batch]], folder: Path, suffix: str) -> list[Path]:
    """Write the pages of activations; see the module's text.

    Args:
        draft: Calibrated.
        samples: A curve each.
        folder: Where to; it exists.
        suffix: "png" or "svg".
    """
    curves, paths = observe(draft, samples), []
    for kind, title in TITLES.items():
        mine = [c for c in curves if c.kind == kind]
        for number, page in enumerate(_pages(mine), 1):
            of = f", page {number}" if len(mine) > len(page) else ""
            path = folder / f"activations-{kind}-{number}.{suffix}"
            with styled():
                paths.append(_activations(draft, page, f"Outputs of {title}{of}", path))
    return paths


def _pages(curves: list[Curves]) -> Iterator[list[Curves]]:
    most = PAGE[0] * PAGE[1]
    yield from (curves[start : start + most] for start in range(0, len(curves), most))


def _activations(draft: Draft, page: list[Curves], title: str, path: Path) -> Path:
    columns = min(PAGE[1], len(page))
    drawn, axes = panels(-(-len(page) // columns), columns, (3.6, 2.3), title)
    colors = shades(len(page[0].counts))
    for ax, curve in zip(axes, page, strict=False):
        for i, color in enumerate(colors):
            ax.stairs(curve.density(i), curve.edges, baseline=None, color=color, linewidth=0.8, alpha=0.9)
        logarithmic(ax)
        _mark(ax, range_of(_quantizer(draft, curve.name)), curve.edges)
        zeros = f", {curve.zeros / max(curve.size, 1):.0%} zeros".replace("%", " %") if curve.zeros else ""
        ax.set_title(f"{curve.op}{zeros}\n{shortened(curve.name)}")
        ax.set_xlabel("value")
        ax.set_ylabel("density (log)")
    for ax in axes[len(page) :]:
        ax.set_axis_off()
    count = len(colors)
    shown = [colors[0], colors[-1]] if count > 1 else colors
    handles = [stroke(f"sample {1 if c is shown[0] else count}", c) for c in shown]
    handles += [stroke("chosen range", VERMILION, "--"), patch("saturates", OUTSIDE)]
    legend_below(drawn, handles)
    return save(drawn, path)


def _quantizer(draft: Draft, name: str) -> Quantizer | None:
    """That of a value as all see it, or as its first reader does."""
    sites = [s for s in draft.plan.sites if s.value == name]
    return draft.plan.at(Site(name)) or (draft.plan.at(sites[0]) if sites else None)


def _mark(ax: Any, ends: tuple[float, float] | None, edges: Doubles) -> None:
    """Dashed lines at the ends of the range, grey beyond them."""
    if ends is None:
        ax.text(0.97, 0.92, "stays float", transform=ax.transAxes, ha="right", color=GREY)
        return
    low, high = min(edges[0], ends[0]), max(edges[-1], ends[1])
    room = 0.03 * (high - low)
    for outside in ((low - room, ends[0]), (ends[1], high + room)):
        ax.axvspan(*outside, color=OUTSIDE, linewidth=0, zorder=0)
    for end in ends:
        ax.axvline(end, color=VERMILION, linestyle="--", linewidth=1.1)
    ax.set_xlim(low - room, high + room)


def plot_weights(draft: Draft, folder: Path, suffix: str, count: int = 10) -> list[Path]:
    """Write the histograms of the first `count` layers' weights; nothing where no layer has weights."""
    layers = [node for node in draft.model.graph if ops.is_layer(node)][:count]
    if not layers:
        return []
    columns = min(5, len(layers))
    with styled():
        drawn, axes = panels(-(-len(layers) // columns), columns, (2.9, 2.3), f"Weights of {len(layers)} layers")
        for ax, node in zip(axes, layers, strict=False):
            array = array_at(node, ops.weight_port(node) or 0)
            assert array is not None
            shape = "x".join(map(str, array.shape))
            _weights(ax, array.astype(np.float64), f"{node.op_type} {shape}\n{shortened(node.name or '', 28)}")
        for ax in axes[len(layers) :]:
            ax.set_axis_off()
        lines = [("largest magnitude", VERMILION, "--"), ("standard deviation", ORANGE, ":")]
        legend_below(drawn, [patch("weights", BLUE), *(stroke(*line) for line in lines)])
        return [save(drawn, folder / f"weights.{suffix}")]


def _weights(ax: Any, x: Doubles, title: str) -> None:
    largest, deviation = float(np.abs(x).max(initial=0.0)) or 1.0, float(x.std())
    ax.hist(x.ravel(), bins=80, range=(-largest, largest), density=True, color=BLUE)
    for sign in (-1, 1):
        ax.axvline(sign * largest, color=VERMILION, linestyle="--", linewidth=1.1)
        ax.axvline(sign * deviation, color=ORANGE, linestyle=":", linewidth=1.4)
    ax.set_xlim(-1.1 * largest, 1.1 * largest)
    ax.set_title(title)
    ax.set_xlabel(f"weight (step / tensor {largest / 127:.2g})")
    ax.set_ylabel("density")
