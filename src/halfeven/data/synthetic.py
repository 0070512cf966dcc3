"""Synthetic samples, for when there are no data: noise with the look of the inputs, from a fixed seed.

    float, rank 4   pictures: noise of three grain sizes, mean 0 and standard deviation 1
    float, other    standard normal
    integer         0 .. `limits[name]` - 1 (the rows of the table it looks up), else 0 or 1; masks are ones, token
                    types zeros, lengths the full length
    text            empty

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
LENGTH = 32
COLORS = 4


@dataclass(frozen=True)
class Synthetic:
    """A Source of `count` samples for the inputs `specs`; equal seeds, equal samples."""

    specs: Sequence[InputSpec]
    limits: Mapping[str, int]
    count: int = 16
    seed: int = 0
    sides: tuple[int, int] = (224, 224)
    """Height and width of pictures where the model leaves them open."""

    @property
    def digest(self) -> str:
        """See Source."""
        text = f"synthetic {self.count} {self.seed} {self.sides} {[str(s) for s in self.specs]}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """See Source."""
        of = f"of {self.size} " if self.size else ""
        return (f"no data were given: {self.count} synthetic samples {of}stand in; real data give better scales",)

    @property
    def size(self) -> str:
        """Height and width of the first pictures of which the model leaves either open; empty if there are none."""
        for spec in self.specs:
            dims = spec.shape or ()
            if len(dims) == 4 and spec.dtype.kind == "f":
                height, width = _places(dims)
                if not (isinstance(dims[height], int) and isinstance(dims[width], int)):
                    shape = self._shape(spec)
                    return f"{shape[height]} x {shape[width]}"
        return ""

    @property
    def labels(self) -> Truth:
        """See Source."""
        return {}

    @property
    def contents(self) -> Sequence[bytes]:
        """See Source; in the order of the samples, which is always the same."""
        return [i.to_bytes(4, "big") for i in range(self.count)]

    def readers(self) -> Iterator[tuple[str, Reader]]:
        """See Source."""
        return self.picked(range(self.count))

    def picked(self, numbers: Sequence[int]) -> Iterator[tuple[str, Reader]]:
        """See Source."""
        for i in numbers:
            yield f"synthetic[{i}]", partial(self._sample, i)

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """See Source."""
        for label, read in self.readers():
            yield label, read()

    def _sample(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        return {spec.name: self._array(spec, rng) for spec in self.specs}

    def _array(self, spec: InputSpec, rng: np.random.Generator) -> Array:
        shape = self._shape(spec)
        if spec.dtype.kind == "f":
            x = _picture(shape, rng) if len(shape) == 4 else rng.standard_normal(shape)
            return x.astype(spec.dtype)
        if spec.dtype.kind == "b":
            return np.ones(shape, bool)
        if spec.dtype.kind == "O":
            return np.full(shape, "", object)
        name = spec.name.lower()
        if "mask" in name:
            return np.ones(shape, spec.dtype)
        if "type" in name or spec.dtype.kind not in "iu":
            return np.zeros(shape, spec.dtype)
        if "len" in name:
            return np.full(shape, LENGTH, spec.dtype)
        return rng.integers(0, max(self.limits.get(spec.name, 2), 1), shape).astype(spec.dtype)

    def _shape(self, spec: InputSpec) -> tuple[int, ...]:
        dims = spec.shape or ()
        unknown = [1, *[LENGTH] * (len(dims) - 1)]
        if len(dims) == 4:
            for place, side in zip(_places(dims), self.sides, strict=True):
                unknown[place] = side
        return tuple(size if isinstance(size, int) else unknown[axis] for axis, size in enumerate(dims))


def _places(dims: Sequence[int | str | None]) -> tuple[int, int]:
    """The axes of height and width: the second and third if the last has as few as the channels of a picture."""
    few = [isinstance(size, int) and size <= COLORS for size in (dims[1], dims[3])]
    return (1, 2) if few == [False, True] else (2, 3)


def _picture(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Grains along height and width, wherever these stand."""
    places = _places(shape)
    total = np.zeros(shape)
    for grain in (1, 4, 16):
        coarse = rng.standard_normal([-(-size // grain) if a in places else size for a, size in enumerate(shape)])
        for axis in places:
            coarse = np.repeat(coarse, grain, axis).take(range(shape[axis]), axis)
        total += coarse
    return total / max(float(total.std()), 1e-6)
