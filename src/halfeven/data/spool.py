"""Samples kept in a temporary file, for data which can be iterated only once."""

import os
import tempfile
import weakref
from collections.abc import Iterable
from typing import BinaryIO, TypeAlias

import numpy as np

from halfeven.data.sample import Sample
from halfeven.data.stored import ON_DISK, discard
from halfeven.errors import BadCalibration

Labelled: TypeAlias = tuple[Sample, frozenset[int]]
Attempt: TypeAlias = Labelled | BadCalibration
"""A sample with its classes, or the error that says why there is none."""
_TRIES = 16
"""Bad samples at the very beginning after which no more are taken."""


class Spool:
    """Samples copied to a temporary file, which goes when this object goes; memory holds one offset for each array."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        """Copy all samples.

        Raises:
            BadCalibration: they take more than 8 GiB, or none of the first 16 can be used.
        """
        handle, self.path = tempfile.mkstemp(suffix=".npy", prefix="halfeven-")
        weakref.finalize(self, discard, self.path)
        self.offsets: list[dict[str, int] | BadCalibration] = []
        self.classes: list[frozenset[int]] = []
        with os.fdopen(handle, "wb") as stream:
            for attempt in attempts:
                self._append(stream, attempt)
        self._refuse_if_all_bad()

    def _append(self, stream: BinaryIO, attempt: Attempt) -> None:
        if isinstance(attempt, BadCalibration):
            self.offsets.append(attempt)
            self.classes.append(frozenset())
            if len(self.offsets) == _TRIES:
                self._refuse_if_all_bad()
            return
        places = {}
        for name, array in attempt[0].items():
            places[name] = stream.tell()
            plain = array.astype("U") if array.dtype.hasobject else array  # texts
            np.lib.format.write_array(stream, plain, allow_pickle=False)
        if stream.tell() > ON_DISK:
            raise BadCalibration(f"the data: over {ON_DISK >> 30} GiB in {len(self.offsets)} samples. Set limit.")
        self.offsets.append(places)
        self.classes.append(attempt[1])

    def _refuse_if_all_bad(self) -> None:
        errors = [places for places in self.offsets if isinstance(places, BadCalibration)]
        if errors and len(errors) == len(self.offsets):
            raise errors[0]

    def read(self, index: int) -> Sample:
        """Sample number `index`; raises its BadCalibration if it could not be used."""
        places = self.offsets[index]
        if isinstance(places, BadCalibration):
            raise places
        sample = {}
        with open(self.path, "rb") as stream:
            for name, offset in places.items():
                stream.seek(offset)
                array = np.lib.format.read_array(stream, allow_pickle=False)
                sample[name] = array.astype(object) if array.dtype.kind == "U" else array
        return sample
