"""Whether samples are what the model asks for, and whether they look like what it was trained on.

`check_sample` refuses: an input that is missing, of another rank, length or dtype, and NaN or infinity in floats.
`checked` applies it to a source: a bad sample is skipped and named, unless more than a tenth are bad. Of fewer than ten
samples one may be, as it says nothing about the others, if at least half are good: of 2 samples one, of 1 none.
`DataCheck` remembers minimum and maximum of each input, per channel, and whether any two samples differ: bounded,
however many the samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from halfeven.data.digest import sample_digest
from halfeven.data.preprocess import Preprocess
from halfeven.data.sample import Array, InputSpec, Reader, Sample, is_float, shape_text
from halfeven.errors import BadCalibration
from halfeven.numerics.native import channel_summary, extrema

_NAMED = 20
_CHANNELS = 4096
_TOLERATED = 10
"""One bad sample in so many is skipped; and one of few."""


def check_sample(label: str, sample: Sample, specs: Sequence[InputSpec]) -> None:
    """Refuse a sample that the model cannot run or learn ranges from.

    Raises:
        BadCalibration: names the sample, the input, what was expected and what was found.
    """
    for spec in specs:
        if spec.name not in sample:
            raise BadCalibration(f"{label}: input {spec} is missing; the sample has {', '.join(sample)}.")
        array = sample[spec.name]
        if array.dtype != spec.dtype:
            raise BadCalibration(f"{label}: input {spec} got {array.dtype}. Convert it: x.astype('{spec.dtype}').")
        if not spec.fits(array.shape):
            raise BadCalibration(
                f"{label}: input {spec} got shape {shape_text(array.shape)}. {_shape_fix(spec, array)}"
            )
        if is_float(array.dtype) and not _all_finite(array):
            finite = np.isfinite(array)
            place = np.unravel_index(int(np.argmin(finite)), array.shape)
            raise BadCalibration(
                f"{label}: input {spec} holds {int((~finite).sum())} values that are not finite, the first being "
                f"{array[place]} at {shape_text([int(axis) for axis in place])}. Repair or remove the sample."
            )


def _all_finite(array: Array) -> bool:
    return extrema(array)[2:] == (0, 0) if array.dtype == np.float32 else bool(np.isfinite(array).all())


def _shape_fix(spec: InputSpec, array: Array) -> str:
    if spec.rank != array.ndim:
        return f"Expected {spec.rank} axes, found {array.ndim}."
    turned = array.ndim == 4 and spec.fits(tuple(array.shape[axis] for axis in (0, 3, 1, 2)))
    if turned:
        return "The channels are last; transpose with x.transpose(0, 3, 1, 2)."
    if array.ndim == 4 and spec.fits(tuple(array.shape[axis] for axis in (0, 2, 3, 1))):
        return "The channels are first; transpose with x.transpose(0, 2, 3, 1)."
    axis = next(a for a in range(array.ndim) if spec.static(a) not in (None, array.shape[a]))
    return f"Expected length {spec.static(axis)} on axis {axis}, found {array.shape[axis]}."


@dataclass
class Findings:
    """What `checked` saw so far; complete when its iterator is used up."""

    seen: int = 0
    bad: int = 0
    empty: int = 0
    first: list[str] = field(default_factory=list)
    """Why samples were skipped: the first twenty."""

    def sentences(self) -> list[str]:
        """For the report; nothing if all was well."""
        said = [f"skipped {reason}" for reason in self.first]
        if self.bad > len(self.first):
            said.append(f"skipped {self.bad - len(self.first)} more of {self.seen} samples.")
        if self.empty:
            said.append(f"{self.empty} of {self.seen} samples have an input without elements.")
        return said


class Readable(Protocol):
    """What is read sample by sample: a Source, in whatever order."""

    @property
    def count(self) -> int | None:
        """See Source."""

    def readers(self) -> Iterator[tuple[str, Reader]]:
        """See Source."""


def checked(
    source: Readable, specs: Sequence[InputSpec], *, on_bad: Literal["skip", "error"] = "skip"
) -> tuple[Iterator[tuple[str, Sample]], Findings]:
    """The good samples of a source, and what was found about the others.

    With "skip" a bad sample, one that cannot be read included, is left out and named in the findings. With "error" the
    first one ends the iteration.

    Raises:
        BadCalibration: while iterating, if there is no sample, or too many are bad.
    """
    findings = Findings()
    return _good(source, specs, on_bad, findings), findings


def _good(
    source: Readable, specs: Sequence[InputSpec], on_bad: str, findings: Findings
) -> Iterator[tuple[str, Sample]]:
    for label, read in source.readers():
        findings.seen += 1
        try:
            sample = read()
            check_sample(label, sample, specs)
        except BadCalibration as error:
            if on_bad == "error":
                raise
            findings.bad += 1
            if len(findings.first) < _NAMED:
                findings.first.append(str(error))
            if source.count is not None:
                _refuse_many(findings, source.count)
            continue
        findings.empty += any(array.size == 0 for array in sample.values())
        yield label, sample
    if findings.seen == 0:
        raise BadCalibration("the data hold no sample.")
    _refuse_many(findings, findings.seen)


def _refuse_many(findings: Findings, count: int) -> None:
    if findings.bad * 2 > count or (findings.bad > 1 and findings.bad * _TOLERATED > count):
        raise BadCalibration(
            f"{findings.bad} of {count} samples cannot be used, more than a tenth ({findings.seen} were read). "
            f"The first: {findings.first[0]}"
        )


@dataclass(frozen=True)
class InputRange:
    """What the samples hold for one input: lowest and highest value of each channel, or one in all."""

    low: npt.NDArray[np.generic]
    high: npt.NDArray[np.generic]
    channel_axis: int | None

    @classmethod
    def of(cls, array: Array, axis: int | None) -> "InputRange":
        """Of one sample."""
        if axis == 1 and array.dtype == np.float32:
            low, high, _ = channel_summary(array, array.size)
            return cls(low, high, axis)
        rows = array.reshape(1, -1) if axis is None else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        return cls(rows.min(1), rows.max(1), axis)

    def merge(self, other: "InputRange") -> "InputRange":
        """Of both; all channels as one if they differ in number."""
        if self.low.shape != other.low.shape:
            return self.whole().merge(other.whole())
        return InputRange(np.minimum(self.low, other.low), np.maximum(self.high, other.high), self.channel_axis)

    def whole(self) -> "InputRange":
        """All channels as one."""
        return InputRange(self.low.min(keepdims=True), self.high.max(keepdims=True), None)


class DataCheck:
    """Collects from samples what `findings` judges; bounded: some numbers per channel and two hashes per input."""

    def __init__(self, specs: Sequence[InputSpec]) -> None:
        """Start with nothing."""
        self._specs = {spec.name: spec for spec in specs}
        self._ranges: dict[str, InputRange] = {}
        self._first = b""
        self._varied = False
        self.count = 0

    def add(self, sample: Sample) -> None:
        """Take one sample into account; empty arrays add nothing."""
        self.count += 1
        for name in sorted(self._specs.keys() & sample.keys()):
            array = sample[name]
            if array.size and (is_float(array.dtype) or array.dtype.kind in "biu"):
                new = InputRange.of(array, channel_axis(self._specs[name], array))
                old = self._ranges.get(name)
                self._ranges[name] = new if old is None else old.merge(new)
        if not self._varied:
            digest = sample_digest(sample)
            self._first = self._first or digest
            self._varied = digest != self._first

    def range(self, name: str) -> InputRange | None:
        """The range of one input; None if no sample held a number for it."""
        return self._ranges.get(name)

    def findings(self, preprocess: Preprocess | None = None) -> list[str]:
        """What looks wrong, in sentences; `preprocess` is what the user asked for, None if nothing."""
        said = [sentence for name in self._ranges for sentence in self._judge(name, preprocess)]
        if self.count > 1 and not self._varied:
            said.append(f"all {self.count} samples are identical.")
        return said

    def _judge(self, name: str, preprocess: Preprocess | None) -> list[str]:
        spec, seen = self._specs[name], self._ranges[name]
        if not is_float(spec.dtype):
            return []  # ids and masks are constant for good reasons
        low, high = seen.low.min(), seen.high.max()
        if low == high:
            return [f"input {name!r} is constant {low:.6g} in all {self.count} samples."]
        said = []
        for channel in np.flatnonzero(seen.low == seen.high)[:_NAMED]:
            value = seen.low[channel]
            said.append(f"input {name!r}: channel {channel} is constant {value} in all {self.count} samples.")
        if preprocess is None and _is_colored(spec, seen):
            said += _range_findings(name, float(low), float(high))
        return said


def _is_colored(spec: InputSpec, seen: InputRange) -> bool:
    return spec.rank == 4 and len(seen.low) in (1, 3) and seen.channel_axis is not None


def _range_findings(name: str, low: float, high: float) -> list[str]:
    """Suspicions about the range of pictures for which no preprocess was asked."""
    if low >= 0 and high > 16:
        return [
            f"input {name!r}: values reach {high:.4g} but ImageNet-trained networks expect about -2.1..2.6: did you "
            "forget --preprocess imagenet? (--preprocess raw says that 0..255 is right.)"
        ]
    if low >= 0 and 0.5 < high <= 1:
        return [
            f"input {name!r}: values lie in {low:.4g}..{high:.4g}, which suits networks trained on 0..1; "
            "ImageNet-trained networks expect about -2.1..2.6."
        ]
    return []


def channel_axis(spec: InputSpec, array: Array) -> int | None:
    """The axis of the channels: 1 for ranks 3 and 4 (3 for NHWC pictures); None if there is none or it is too long."""
    if array.ndim not in (3, 4):
        return None
    last = array.ndim == 4 and array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4)
    axis = 3 if last else 1
    fixed = spec.rank is None or spec.static(axis) is not None
    return axis if fixed and array.shape[axis] <= _CHANNELS else None


def swap_colors(sample: Sample) -> Sample:
    """The sample with the channels of each three-channel picture reversed, RGB to BGR and back.

    Prepared values are swapped as they are: the mean and std of the preprocess stay with the value.
    """
    swapped = dict(sample)
    for name, array in sample.items():
        if array.ndim == 4 and array.shape[1] == 3:
            swapped[name] = np.ascontiguousarray(array[:, ::-1])
        elif array.ndim == 4 and array.shape[3] == 3:
            swapped[name] = np.ascontiguousarray(array[..., ::-1])
    return swapped
