"""Synthetic samples, for when there are no data: noise with the look of the inputs, from a fixed seed.

    float, rank 4   pictures: noise of three grain sizes, mean 0 and standard deviation 1
    float, other    standard normal
    integer         0 .. `limits[name]` - 1 (the rows of the table it looks up), else 0 or 1; masks are ones, token
                    types zeros, lengths the full length

Ranges measured on noise are not those of real data: what this costs is measured on other noise, and only said to be
that.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from halfeven.data.sample import InputSpec, Reader, Sample, Truth

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Synthetic:
    """A Source of `count` samples for the inputs `specs`; equal seeds, equal samples."""

    specs: Sequence[InputSpec]
    limits: Mapping[str, int]
    count: int = 16
    seed: int = 0

    @property
    def digest(self) -> str:
        """See Source."""
        text = f"synthetic {self.count} {self.seed} {[str(s) for s in self.specs]}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """See Source."""
        return (f"no data were given: {self.count} synthetic samples stand in; real data give better scales",)

    @property
    def labels(self) -> Truth:
        """See Source."""
        return {}

    def readers(self) -> Iterator[tuple[str, Reader]]:
        """See Source."""
        for i in range(self.count):
            yield f"synthetic[{i}]", partial(self._sample, i)

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """See Source."""
        for label, read in self.readers():
            yield label, read()

    def _sample(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        return {spec.name: self._array(spec, rng) for spec in self.specs}

    def _array(self, spec: InputSpec, rng: np.random.Generator) -> Array:
        shape = _shape(spec)
        if spec.dtype.kind == "f":
            x = _picture(shape, rng) if len(shape) == 4 else rng.standard_normal(shape)
            return x.astype(spec.dtype)
        if spec.dtype.kind == "b":
            return np.ones(shape, bool)
        name = spec.name.lower()
        if "mask" in name:
            return np.ones(shape, spec.dtype)
        if "type" in name or spec.dtype.kind not in "iu":
            return np.zeros(shape, spec.dtype)
        if "len" in name:
            return np.full(shape, LENGTH, spec.dtype)
        return rng.integers(0, max(self.limits.get(spec.name, 2), 1), shape).astype(spec.dtype)


LENGTH = 32
SIDE = 224


def _shape(spec: InputSpec) -> tuple[int, ...]:
    dims = spec.shape or ()
    filled = []
    for axis, size in enumerate(dims):
        unknown = SIDE if len(dims) == 4 and axis >= 2 else 1 if axis == 0 else LENGTH
        filled.append(size if isinstance(size, int) else unknown)
    return tuple(filled)


def _picture(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    height, width = shape[2:]
    total = np.zeros(shape)
    for grain in (1, 4, 16):
        coarse = rng.standard_normal((*shape[:2], -(-height // grain), -(-width // grain)))
        total += np.repeat(np.repeat(coarse, grain, 2), grain, 3)[:, :, :height, :width]
    return total / max(float(total.std()), 1e-6)
