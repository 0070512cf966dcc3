"""How far two executions of the same feeds are apart."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import Fidelity

Array = npt.NDArray[np.generic]


def relative_error(reference: ir.Model, other: ir.Model, samples: Iterable[tuple[str, Batch]]) -> tuple[float, str]:
    """The largest |a - b| / |a| (Euclidean norms over an output of one sample), and the output where it occurs.

    Both graphs run as written, without the runtime's optimisations. Outputs that hold no floats must be equal.
    """
    kept = list(samples)
    return _largest(_outputs(reference, kept), _outputs(other, kept))


def rounding_error(model: ir.Model, samples: Iterable[tuple[str, Batch]]) -> float:
    """By how much, as `relative_error` counts, outputs move when each weight and input becomes a neighbouring float.

    It is large where outputs are tiny beside what they are computed from: there no float32 graph can be told from
    another that computes the same.
    """
    kept, rng = list(samples), np.random.default_rng(0)
    moved = model.clone()
    for value in moved.graph.initializers.values():
        if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(_neighbour(value.const_value.numpy(), rng), name=value.name)
    feeds = [(label, {name: _neighbour(x, rng) for name, x in sample.items()}) for label, sample in kept]
    return _largest(_outputs(model, kept), _outputs(moved, feeds))[0]


def _neighbour(x: Array, rng: np.random.Generator) -> Array:
    """The next float32 above or below each element; zeros, infinities and what is not float32 stay."""
    if x.dtype != np.float32:
        return x
    beside = np.nextafter(x, np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf).astype(np.float32))
    return np.where((x == 0) | ~np.isfinite(x), x, beside)


def _largest(expected: list[Batch], found: list[Batch]) -> tuple[float, str]:
    worst, where = 0.0, ""
    for a, b in zip(expected, found, strict=True):
        for (name, x), y in zip(a.items(), b.values(), strict=True):
            error = _distance(np.asarray(x), np.asarray(y))
            if error > worst:
                worst, where = error, name
    return worst, where


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
