"""How far two executions of the same feeds are apart."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.run.ort import OrtExecutor
from halfeven.stats.distance import Fidelity


def relative_error(reference: ir.Model, other: ir.Model, samples: Iterable[tuple[str, Batch]]) -> tuple[float, str]:
    """The largest |a - b| / |a| (Euclidean norms over an output of one sample), and the output where it occurs.

    Both graphs run as written, without the runtime's optimisations. Outputs that hold no floats must be equal.
    """
    kept = list(samples)
    expected = _outputs(reference, kept)
    worst, where = 0.0, ""
    for a, b in zip(expected, _outputs(other, kept), strict=True):
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
