"""How far two executions of the same feeds are apart."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.errors import QuantError
from halfeven.graph import ops
from halfeven.graph.constants import lift_constants
from halfeven.graph.edit import subgraphs
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import Fidelity

Array = npt.NDArray[np.generic]
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
DRAWS = 4
SHAPING = {
    **{"Resize": 1, "Upsample": 1, "CropAndResize": 1, "NonMaxSuppression": 2, "Dropout": 1, "OneHot": 1},
    **{"Range": 0, "TopK": 1, "Pad": 1, "Expand": 1, "Tile": 1, "Reshape": 1, "ConstantOfShape": 0, "Slice": 1},
}
"""From which port on an operator's inputs say how much it makes, not what of."""


def relative_error(reference: ir.Model, other: ir.Model, samples: Iterable[tuple[str, Batch]]) -> tuple[float, str]:
    """The largest of `output_errors`, and the output where it occurs."""
    errors = output_errors(reference, other, samples)
    where = max(errors, key=errors.__getitem__, default="")
    return (errors[where], where) if errors.get(where) else (0.0, "")


def output_errors(reference: ir.Model, other: ir.Model, samples: Iterable[tuple[str, Batch]]) -> dict[str, float]:
    """Of each output the largest |a - b| / |a| (Euclidean norms over one sample).

    Both graphs run as written, without the runtime's optimisations. Outputs that hold no floats must be equal.
    """
    kept = list(samples)
    return _largest(_outputs(reference, kept), _outputs(other, kept))


def rounding_errors(model: ir.Model, samples: Iterable[tuple[str, Batch]]) -> dict[str, float]:
    """By how much, as `output_errors` counts, each output moves when weights and inputs become neighbouring floats.

    It is large where an output is tiny beside what it is computed from: there no float32 graph can be told from another
    that computes the same. The largest of some draws; 0 for an output without floats, and for one whose shape or
    finiteness changed, of which it says nothing. Constants that decide shapes (the scales of a Resize) stay; a draw
    that does not run says nothing.
    """
    kept, rng, worst = list(samples), np.random.default_rng(0), dict[str, float]()
    expected = _outputs(model, kept)
    for _ in range(DRAWS):
        moved = model.clone()
        lift_constants(moved)
        shaping = _shaping(moved)
        for value in (v for graph in moved.graphs() for v in graph.initializers.values()):
            if value.const_value is not None and value.const_value.dtype in FLOATS and value not in shaping:
                value.const_value = ir.tensor(_neighbour(value.const_value.numpy(), rng), name=value.name)
        feeds = [(label, {name: _neighbour(x, rng) for name, x in sample.items()}) for label, sample in kept]
        try:
            found = _outputs(moved, feeds)
        except QuantError:
            continue
        for name, error in _largest(expected, found).items():
            worst[name] = max(worst.get(name, 0.0), error if np.isfinite(error) else 0.0)
    return worst


def _shaping(model: ir.Model) -> set[ir.Value]:
    """The values that decide shapes: what ports of `SHAPING` read, and what is computed for those without data."""
    settled = set[ir.Value]()
    for node in model.graph.all_nodes():
        inputs = [v for v in node.inputs if v is not None and ops.constant_of(v) is None]
        if node.op_type in ("Shape", "Size") or (all(v in settled for v in inputs) and not any(subgraphs(node))):
            settled.update(node.outputs)
    nodes = [node for node in model.graph.all_nodes() if node.op_type in SHAPING]
    queue = [v for node in nodes for v in node.inputs[SHAPING[node.op_type] :] if v is not None]
    found = set[ir.Value]()
    while queue:
        value = queue.pop()
        maker = value.producer()
        if value not in found:
            found.add(value)
            queue += [v for v in maker.inputs if v is not None] if maker is not None and value in settled else []
    return found


def _neighbour(x: Array, rng: np.random.Generator) -> Array:
    """The next number above or below each element; zeros, infinities and what is no float stay."""
    if x.dtype not in (np.float16, np.float32, np.float64):
        return x
    beside = np.nextafter(x, np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(x.dtype))
    return np.where((x == 0) | ~np.isfinite(x), x, beside)


def _largest(expected: list[Batch], found: list[Batch]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for a, b in zip(expected, found, strict=True):
        for (name, x), y in zip(a.items(), b.values(), strict=True):
            worst[name] = max(worst.get(name, 0.0), _distance(np.asarray(x), np.asarray(y)))
    return worst


def _outputs(model: ir.Model, samples: list[tuple[str, Batch]]) -> list[Batch]:
    """Of one model at a time: its session is gone before the next one's takes memory."""
    run = OrtExecutor(model, optimize=False)
    return [run(feeds, label) for label, feeds in samples]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0, x - y)
    if not np.isfinite(difference).all():
        return float("inf")
    norm = float(np.sqrt((np.where(np.isfinite(x), x, 0) ** 2).sum()))
    gap = float(np.sqrt((difference**2).sum()))
    return 0.0 if gap == 0 else gap / max(norm, 1e-30)


def fidelity(reference: Batch, other: Batch) -> dict[str, Fidelity]:
    """SQNR and kin of each floating-point output, by name."""
    floats = {k: np.asarray(v) for k, v in reference.items() if np.asarray(v).dtype.kind == "f"}
    return {k: Fidelity.of(v, np.asarray(other[k])) for k, v in floats.items() if v.shape == np.asarray(other[k]).shape}
