"""Verify: the float and the quantized model side by side, on data that were not used to quantize.

SQNR, cosine   over all values of an output on all samples
agreement      share of equal top-1 classes of the first output, where it holds one score per class
accuracy       top-1, where labels are known
size           bytes of the files
latency        median of interleaved runs of the first sample, on this machine

A quantized file of another runtime runs there, the float model in ONNX Runtime. If that runtime can be given the float
model too, its latency there is told besides.
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
from halfeven.errors import BadCalibration, UnsupportedModel
from halfeven.report.comparable import as_fed, settled
from halfeven.run.coded import CodedExecutor, coded
from halfeven.run.compare import fidelity
from halfeven.run.ort import OrtExecutor, integer_nodes_of, interleaved
from halfeven.run.runtimes import Executor, Fitted, alike
from halfeven.stats.distance import Fidelity
from halfeven.wording import counted

LOUD_SQNR = 10.0
MOST = 8  # outputs in the table
SLOWER = 1.05
SECONDS = 0.25
HERE = "ONNX Runtime"


@dataclass(frozen=True)
class Verification:
    """What quantization cost and gained. dB, shares of 1, bytes, milliseconds; None where it does not apply.

    `outputs`: SQNR and cosine by name. `classes`: how many top-1 classes `agreement` compares. Of pairs the first is
    the float model's; `latency` has the ratio third. `runtime` ran the quantized model; `own_float` is the latency, as
    `latency`, with the float model in that runtime too.
    """

    samples: int
    outputs: Mapping[str, tuple[float, float]]
    agreement: float | None
    accuracy: tuple[float, float] | None
    labelled: int
    latency: tuple[float, float, float]
    sizes: tuple[int, int] = (0, 0)
    integer_layers: tuple[int, int] | None = (0, 0)
    classes: int = 0
    warnings: tuple[str, ...] = ()
    runtime: str = HERE
    own_float: tuple[float, float, float] | None = None

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
        return f"{', '.join(cost)} (on {counted(self.samples, 'sample')}, in {self.runtime} on this machine)"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        floating, quantized, ratio = self.latency
        layers, own = self.integer_layers, self.own_float
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
            "integer_layers": None if layers is None else {"integer": layers[0], "all": layers[1]},
            "runtime": self.runtime,
            "own_float_ms": None if own is None else {"float": own[0], "int8": own[1], "ratio": own[2]},
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
        what = "latency, median" if self.runtime == HERE else f"latency, {HERE} and {self.runtime}"
        rows.append((what, f"{floating:.2f} ms", f"{quantized:.2f} ms", f"{ratio:.2f} x"))
        if self.own_float is not None:
            floating, quantized, ratio = self.own_float
            what = f"latency, float in {self.runtime} too"
            rows.append((what, f"{floating:.2f} ms", f"{quantized:.2f} ms", f"{ratio:.2f} x"))
        if self.integer_layers is not None:
            done, layers = self.integer_layers
            rows.append(("integer layers", "", f"{done} of {layers}", f"as {self.runtime} executes them"))
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
    """Run both models on every sample and put the figures together; codes that `other` takes or gives stand for floats.

    Raises:
        BadCalibration: there is no sample.
        BadOption: `other` takes or gives codes, and does not say what they mean.
    """
    with tempfile.TemporaryDirectory(prefix="halfeven-") as folder:
        optimized = Path(folder) / "optimized.onnx"
        first = reference if isinstance(reference, OrtExecutor) else OrtExecutor(reference)
        run = OrtExecutor(other, signed=signed, written=optimized)
        second: OrtExecutor | CodedExecutor = run
        if isinstance(other, ir.Model) and isinstance(first.model, ir.Model):
            second = coded(run, other, first.model)
        fed = second if isinstance(second, CodedExecutor) else as_fed(first, second)
        found, _ = _compared(first, fed, data, labels or {}, progress, settled=settled(first.model))
        layers = integer_nodes_of(optimized)
    warnings = (*found.warnings, *_warnings(found.outputs, found.latency[2], layers))
    return replace(found, sizes=sizes, integer_layers=layers, warnings=warnings)


def compare_file(
    reference: ir.Model,
    other: Fitted,
    data: Samples,
    *,
    sizes: tuple[int, int],
    own_float: Fitted | None = None,
    labels: Mapping[str, frozenset[int]] | None = None,
    progress: Progress = no_progress,
) -> Verification:
    """The same for a file of another runtime; `own_float` is the float model opened there.

    Raises:
        BadCalibration: there is no sample, or the file takes or gives other things than the float model.
    """
    run = OrtExecutor(reference)
    found, sample = _compared(run, other, data, labels or {}, progress, settled=settled(reference))
    layers = other.integer_layers(sample)
    own = None if own_float is None else _latency(own_float, other, sample)
    ratio = (found.latency if own is None else own)[2]
    warnings = (*found.warnings, *_warnings(found.outputs, ratio, layers))
    name = other.runtime.name
    return replace(found, sizes=sizes, integer_layers=layers, warnings=warnings, runtime=name, own_float=own)


def _compared(
    first: Executor,
    second: Executor,
    data: Samples,
    labels: Mapping[str, frozenset[int]],
    progress: Progress,
    *,
    settled: bool,
) -> tuple[Verification, Batch]:
    """The figures that two executors give, and the first sample; `settled`: shapes do not depend on the data.

    Raises:
        BadCalibration: there is no sample.
        UnsupportedModel: an output has another shape than the float model's, and its shape is settled.
    """
    apart: dict[str, int] = {}
    sums: dict[str, Fidelity] = {}
    total = length_hint(data) or None
    tally = _Tally(labels)
    sample: Batch | None = None
    count = 0
    for label, feeds in data:
        a, b = first(feeds, label), second(feeds, label)
        b = {name: alike(np.asarray(a[name]), np.asarray(b[name])) if name in a else b[name] for name in b}
        for name in (name for name in a if np.shape(a[name]) != np.shape(b[name])):
            if settled:
                raise UnsupportedModel(
                    f"{label}: output '{name}' of the quantized model has shape {np.shape(b[name])}, that of the float "
                    f"model {np.shape(a[name])}. The file computes something else; write it anew."
                )
            apart[name] = apart.get(name, 0) + 1
        for name, value in fidelity(a, b).items():
            sums[name] = sums[name].merge(value) if name in sums else value
        tally.add(label, a, b)
        sample = sample if sample is not None else feeds
        count += 1
        progress("verify", count, total)
    if sample is None:
        raise BadCalibration("There is no sample to verify with: the data are empty.")
    progress("measure", 0, None)
    outputs = {name: (value.sqnr_db, value.cosine) for name, value in sums.items()}
    found = Verification(
        samples=count,
        outputs=outputs,
        agreement=tally.agreement,
        accuracy=tally.accuracy,
        labelled=tally.labelled,
        latency=_latency(first, second, sample),
        classes=tally.rows,
        warnings=tuple(
            f"Output '{name}' had another shape than the float model's on {counted(times, 'sample')} of {count}: "
            "its length depends on the data, so it was not compared there."
            for name, times in apart.items()
        ),
    )
    return found, sample


def _latency(first: Executor, second: Executor, sample: Batch) -> tuple[float, float, float]:
    """Milliseconds of each, and the ratio: medians of interleaved runs."""
    if isinstance(second, CodedExecutor):  # its caller has codes at hand
        run, codes = second.run, second.codes(sample)
        pairs = interleaved(first, lambda _: run(codes), sample, SECONDS)
    else:
        pairs = interleaved(first, second, sample, SECONDS)
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs)


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
    outputs: Mapping[str, tuple[float, float]], ratio: float, layers: tuple[int, int] | None
) -> tuple[str, ...]:
    said = []
    poor = [name for name, (sqnr, _) in outputs.items() if not sqnr >= LOUD_SQNR]
    if poor:
        said.append(
            f"SQNR of output '{poor[0]}' is {outputs[poor[0]][0]:.1f} dB, under {LOUD_SQNR:g}: the quantized model is "
            "far from the float one. Give more or truer calibration data, check --preprocess, or keep sensitive layers "
            "in float."
        )
    if ratio > SLOWER:
        said.append(f"INT8 is slower than float on this machine ({ratio:.2f} x): {_why_slow(layers)}.")
    return tuple(said)


def _why_slow(layers: tuple[int, int] | None) -> str:
    if layers is None:
        return "its runtime does not tell which layers run in integers"
    if layers[0] == 0:
        return "no layer runs in integers"
    if layers[0] == layers[1]:
        return "its layers are too small to pay for quantizing"
    return f"only {layers[0]} of {layers[1]} layers run in integers"
