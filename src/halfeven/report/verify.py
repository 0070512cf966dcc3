"""Verify: the float and the quantized model side by side, on data that were not used to quantize.

SQNR and cosine are over all values of an output on all samples; agreement is the share of equal top-1 classes; the
metric, where labels are known, is top-1 accuracy. Latency is the median of interleaved runs of the first sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch, Progress, Samples, no_progress
from halfeven.errors import BadCalibration
from halfeven.run.compare import fidelity
from halfeven.run.ort import OrtExecutor, integer_nodes, interleaved
from halfeven.stats.distance import Fidelity

LOUD_SQNR = 10.0
SECONDS = 1.0


@dataclass(frozen=True)
class Verification:
    """What quantization cost and gained. dB, shares of 1, bytes, milliseconds; None where it does not apply."""

    samples: int
    outputs: Mapping[str, tuple[float, float]]
    agreement: float | None
    accuracy: tuple[float, float] | None
    labelled: int
    sizes: tuple[int, int]
    latency: tuple[float, float, float]
    integer_layers: tuple[int, int]
    warnings: tuple[str, ...] = field(default=())

    @property
    def sqnr_db(self) -> float:
        """Of the first floating-point output."""
        return next(iter(self.outputs.values()))[0] if self.outputs else float("inf")

    @property
    def cosine(self) -> float:
        """Of the first floating-point output."""
        return next(iter(self.outputs.values()))[1] if self.outputs else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        floating, quantized, ratio = self.latency
        return {
            "samples": self.samples,
            "sqnr_db": _finite(self.sqnr_db),
            "cosine": self.cosine,
            "outputs": {k: {"sqnr_db": _finite(s), "cosine": c} for k, (s, c) in self.outputs.items()},
            "top1_agreement": self.agreement,
            "accuracy": None if self.accuracy is None else {"float": self.accuracy[0], "int8": self.accuracy[1]},
            "labelled": self.labelled,
            "bytes": {"float": self.sizes[0], "int8": self.sizes[1]},
            "latency_ms": {"float": floating, "int8": quantized, "ratio": ratio},
            "integer_layers": {"integer": self.integer_layers[0], "all": self.integer_layers[1]},
            "warnings": list(self.warnings),
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, float, int8, and the comparison, as a person reads them."""
        floating, quantized, ratio = self.latency
        small, big = self.sizes[1], self.sizes[0]
        rows = []
        for name, (sqnr, cosine) in self.outputs.items():
            rows.append((f"output '{name}'", "", "", f"SQNR {sqnr:.1f} dB, cosine {cosine:.5f}"))
        if self.agreement is not None:
            rows.append(("top-1 agreement", "", "", f"{self.agreement:.1%} of {self.samples} samples"))
        if self.accuracy is not None:
            a, b = self.accuracy
            rows.append((f"accuracy ({self.labelled} labelled)", f"{a:.1%}", f"{b:.1%}", f"{(b - a) * 100:+.1f} points"))
        rows.append(("size", _bytes(big), _bytes(small), f"{small / max(big, 1):.2f} x"))
        rows.append(("latency here, median", f"{floating:.2f} ms", f"{quantized:.2f} ms", f"{ratio:.2f} x"))
        done, layers = self.integer_layers
        rows.append(("layers run in integers", "", f"{done} of {layers}", ""))
        return rows


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def compare_models(
    reference: ir.Model | str,
    other: ir.Model | str,
    data: Samples,
    *,
    sizes: tuple[int, int],
    labels: Mapping[str, frozenset[int]] | None = None,
    signed: bool = False,
    progress: Progress = no_progress,
) -> Verification:
    """Run both models on every sample and put the figures together.

    Raises:
        BadCalibration: there is no sample.
    """
    first, second = OrtExecutor(reference), OrtExecutor(other, signed=signed)
    total: dict[str, Fidelity] = {}
    tally = _Tally(labels or {})
    sample: Batch | None = None
    count = 0
    for label, feeds in data:
        a, b = first(feeds, label), second(feeds, label)
        for name, value in fidelity(a, b).items():
            total[name] = total[name].merge(value) if name in total else value
        tally.add(label, a, b)
        sample = sample if sample is not None else feeds
        count += 1
        progress("verify", count, None)
    if sample is None:
        raise BadCalibration("There is no sample to verify with: the data are empty.")
    pairs = interleaved(first, second, sample, SECONDS)
    latency = median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs)
    layers = integer_nodes(other)
    outputs = {name: (value.sqnr_db, value.cosine) for name, value in total.items()}
    warnings = _warnings(outputs, latency, layers)
    return Verification(count, outputs, tally.agreement, tally.accuracy, tally.labelled, sizes, latency, layers, warnings)


class _Tally:
    """Top-1 classes of the first output, where it looks like one score per class."""

    def __init__(self, labels: Mapping[str, frozenset[int]]) -> None:
        self.labels = labels
        self.equal = self.rows = self.labelled = self.hits_a = self.hits_b = 0

    def add(self, label: str, a: Batch, b: Batch) -> None:
        """Take one sample's outputs in."""
        name = next(iter(a), None)
        if name is None:
            return
        x, y = np.asarray(a[name]), np.asarray(b[name])
        if x.dtype.kind != "f" or x.ndim not in (2, 3) or x.shape[-1] < 2 or x.shape != y.shape or x.size == 0:
            return
        top_a, top_b = x.argmax(-1).ravel(), y.argmax(-1).ravel()
        self.rows += top_a.size
        self.equal += int((top_a == top_b).sum())
        truth = self.labels.get(label)
        if truth is not None and top_a.size == 1:
            self.labelled += 1
            self.hits_a += int(top_a[0]) in truth
            self.hits_b += int(top_b[0]) in truth

    @property
    def agreement(self) -> float | None:
        """Share of equal classes."""
        return self.equal / self.rows if self.rows else None

    @property
    def accuracy(self) -> tuple[float, float] | None:
        """Of the first and of the second model."""
        return (self.hits_a / self.labelled, self.hits_b / self.labelled) if self.labelled else None


def _warnings(
    outputs: Mapping[str, tuple[float, float]], latency: tuple[float, float, float], layers: tuple[int, int]
) -> tuple[str, ...]:
    said = []
    poor = [name for name, (sqnr, _) in outputs.items() if not sqnr >= LOUD_SQNR]
    if poor:
        said.append(
            f"SQNR of output '{poor[0]}' is {outputs[poor[0]][0]:.1f} dB, under {LOUD_SQNR:g}: the quantized model is far from "
            "the float one. Give more or truer calibration data, check --preprocess, or keep sensitive layers in float."
        )
    if latency[2] > 1.05:
        why = "no layer runs in integers" if layers[0] == 0 else f"only {layers[0]} of {layers[1]} layers run in integers"
        if layers[0] == layers[1]:
            why = "its layers are too small to pay for quantizing"
        said.append(f"INT8 is slower than float on this machine ({latency[2]:.2f} x): {why}.")
    return tuple(said)
