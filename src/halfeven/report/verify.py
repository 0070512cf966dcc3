"""Verify: the float and the quantized model side by side, on data that were not used to quantize.

SQNR, cosine   over all values of an output on all samples
agreement      share of equal top-1 classes of the first output, where it holds one score per class
accuracy       top-1, where labels are known
size           bytes of the files
latency        median of interleaved runs of the first sample, on this machine
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import length_hint
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch, Progress, Samples, no_progress
from halfeven.errors import BadCalibration
from halfeven.run.compare import fidelity
from halfeven.run.ort import OrtExecutor, integer_nodes_of, interleaved
from halfeven.stats.distance import Fidelity
from halfeven.wording import counted

LOUD_SQNR = 10.0
MOST = 8  # outputs in the table
SLOWER = 1.05
SECONDS = 0.25


@dataclass(frozen=True)
class Verification:
    """What quantization cost and gained. dB, shares of 1, bytes, milliseconds; None where it does not apply.

    `outputs`: SQNR and cosine by name. `classes`: how many top-1 classes `agreement` compares. Of pairs the first is
    the float model's; `latency` has the ratio third.
    """

    samples: int
    outputs: Mapping[str, tuple[float, float]]
    agreement: float | None
    accuracy: tuple[float, float] | None
    labelled: int
    latency: tuple[float, float, float]
    sizes: tuple[int, int] = (0, 0)
    integer_layers: tuple[int, int] = (0, 0)
    classes: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def sqnr_db(self) -> float:
        """Of the first floating-point output."""
        return next(iter(self.outputs.values()))[0] if self.outputs else float("inf")

    @property
    def cosine(self) -> float:
        """Of the first floating-point output."""
        return next(iter(self.outputs.values()))[1] if self.outputs else 1.0

    @property
    def sentence(self) -> str:
        """What it cost, in one."""
        cost = []
        if self.outputs:
            which = f" ('{next(iter(self.outputs))}')" if len(self.outputs) > 1 else ""
            cost.append(f"{_decibels(self.sqnr_db)}{which}")
        if self.accuracy is not None:
            cost.append(f"accuracy {self.accuracy[0]:.1%} -> {self.accuracy[1]:.1%}".replace("%", " %"))
        if self.agreement is not None:
            cost.append(f"{self.agreement * 100:.4g} % same top-1")
        cost += [f"{self.sizes[1] / max(self.sizes[0], 1):.2f} x size", f"{self.latency[2]:.2f} x latency"]
        return f"{', '.join(cost)} (on {counted(self.samples, 'sample')}, in ONNX Runtime on this machine)"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        floating, quantized, ratio = self.latency
        return {
            "samples": self.samples,
            "sqnr_db": _finite(self.sqnr_db),
            "cosine": _finite(self.cosine),
            "outputs": {k: {"sqnr_db": _finite(s), "cosine": _finite(c)} for k, (s, c) in self.outputs.items()},
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
        for name, (sqnr, cosine) in list(self.outputs.items())[:MOST]:
            rows.append((f"output '{name}'", "", "", f"{_decibels(sqnr)}, cosine {cosine:.5f}"))
        if len(self.outputs) > MOST:
            rows.append((f"{len(self.outputs) - MOST} more outputs", "", "", "--json has them"))
        if self.agreement is not None:
            rows.append(("same top-1", "", "", f"{self.agreement * 100:.4g} % of {self.classes}"))
        if self.accuracy is not None:
            a, b = (100 * share for share in self.accuracy)
            rows.append((f"accuracy, {self.labelled} labels", f"{a:.1f} %", f"{b:.1f} %", f"{b - a:+.1f} points"))
        rows.append(("size", _bytes(big), _bytes(small), f"{small / max(big, 1):.2f} x"))
        rows.append(("latency, median", f"{floating:.2f} ms", f"{quantized:.2f} ms", f"{ratio:.2f} x"))
        done, layers = self.integer_layers
        rows.append(("integer layers", "", f"{done} of {layers}", "as ONNX Runtime executes them"))
        return rows


def _decibels(sqnr: float) -> str:
    return "equal" if sqnr == float("inf") else f"SQNR {sqnr:.1f} dB"


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _bytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def compare_models(
    reference: ir.Model | OrtExecutor,
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
    with tempfile.TemporaryDirectory(prefix="halfeven-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        first = reference if isinstance(reference, OrtExecutor) else OrtExecutor(reference)
        second = OrtExecutor(other, signed=signed, written=optimized)
        found = _compared(first, second, data, labels or {}, progress)
        layers = integer_nodes_of(optimized)
    return replace(found, sizes=sizes, integer_layers=layers, warnings=_warnings(found.outputs, found.latency, layers))


def _compared(
    first: OrtExecutor,
    second: OrtExecutor,
    data: Samples,
    labels: Mapping[str, frozenset[int]],
    progress: Progress,
) -> Verification:
    sums: dict[str, Fidelity] = {}
    total = length_hint(data) or None
    tally = _Tally(labels)
    sample: Batch | None = None
    count = 0
    for label, feeds in data:
        a, b = first(feeds, label), second(feeds, label)
        for name, value in fidelity(a, b).items():
            sums[name] = sums[name].merge(value) if name in sums else value
        tally.add(label, a, b)
        sample = sample if sample is not None else feeds
        count += 1
        progress("verify", count, total)
    if sample is None:
        raise BadCalibration("There is no sample to verify with: the data are empty.")
    progress("measure", 0, None)
    pairs = interleaved(first, second, sample, SECONDS)
    latency = median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs)
    outputs = {name: (value.sqnr_db, value.cosine) for name, value in sums.items()}
    return Verification(
        samples=count,
        outputs=outputs,
        agreement=tally.agreement,
        accuracy=tally.accuracy,
        labelled=tally.labelled,
        latency=latency,
        classes=tally.rows,
    )


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
            f"SQNR of output '{poor[0]}' is {outputs[poor[0]][0]:.1f} dB, under {LOUD_SQNR:g}: the quantized model is "
            "far from the float one. Give more or truer calibration data, check --preprocess, or keep sensitive layers "
            "in float."
        )
    if latency[2] > SLOWER:
        why = f"only {layers[0]} of {layers[1]} layers run in integers"
        if layers[0] == 0:
            why = "no layer runs in integers"
        elif layers[0] == layers[1]:
            why = "its layers are too small to pay for quantizing"
        said.append(f"INT8 is slower than float on this machine ({latency[2]:.2f} x): {why}.")
    return tuple(said)
