"""Record: the statistics of one model on some data, as a file.

Made by `halfeven calibrate`, read by `halfeven quantize --stats`; records of the same model made on several machines
merge. JSON, exact: a record read back concludes the same scales.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from halfeven.errors import BadCalibration
from halfeven.files import write_text
from halfeven.stats.channels import ChannelRange
from halfeven.stats.observation import Observation

VERSION = 1


@dataclass(frozen=True)
class Record:
    """What was seen, by value name; `model` and `data` are digests, `shapes` those of one run, `scaling` the plan's."""

    model: str
    data: tuple[str, ...]
    samples: int
    observations: Mapping[str, Observation] = field(default_factory=dict)
    channels: Mapping[str, ChannelRange] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)
    scaling: str = ""

    def merge(self, other: Self) -> Self:
        """Both records.

        Raises:
            BadCalibration: they are of different models, of the same data, watch different tensors, or channels were
                scaled apart.
        """
        if self.model != other.model:
            raise BadCalibration(f"Statistics of different models ({self.model}, {other.model}) cannot be merged.")
        if set(self.data) & set(other.data):
            raise BadCalibration("Both records hold statistics of the same data, which would count twice.")
        odd = sorted(set(self.observations) ^ set(other.observations))
        if odd:
            raise BadCalibration(
                f"Tensor '{odd[0]}' is in one record only: calibrate with the same options everywhere."
            )
        ranges = [{k: v.to_json() for k, v in record.channels.items()} for record in (self, other)]
        if ranges[0] != ranges[1] or self.scaling != other.scaling:
            raise BadCalibration(
                "The records were equalized by different channel ranges, so their tensors are scaled differently. "
                "Calibrate the others with the same options and with --stats FIRST.json, which takes the ranges over."
            )
        merged = {k: v.merge(other.observations[k]) for k, v in self.observations.items()}
        data = (*self.data, *other.data)
        sizes = {k: max(self.sizes.get(k, 0.0), other.sizes.get(k, 0.0)) for k in {**self.sizes, **other.sizes}}
        return replace(self, data=data, samples=self.samples + other.samples, observations=merged, sizes=sizes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "halfeven_stats": VERSION,
            "model": self.model,
            "data": list(self.data),
            "samples": self.samples,
            "scaling": self.scaling,
            "shapes": {k: list(v) for k, v in sorted(self.shapes.items())},
            "sizes": dict(sorted(self.sizes.items())),
            "channels": {k: v.to_json() for k, v in sorted(self.channels.items())},
            "observations": {k: v.to_json() for k, v in sorted(self.observations.items())},
        }

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, beside and then renamed.

        Raises:
            BadOption: the file cannot be written.
        """
        write_text(Path(path), json.dumps(self.to_json(), allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record.

        Raises:
            BadCalibration: the file cannot be read, or is no record of this version.
        """
        try:
            text = Path(path).read_text("utf-8")
        except OSError as error:
            raise BadCalibration(f"Statistics '{path}' cannot be read: {error.strerror or error}.") from error
        except UnicodeDecodeError as error:
            raise BadCalibration(f"'{path}' holds no statistics: it is no text.") from error
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadCalibration(f"'{path}' holds no statistics: it is not JSON ({error}).") from error
        if not isinstance(data, dict) or data.get("halfeven_stats") != VERSION:
            raise BadCalibration(f"'{path}' holds no statistics: expected JSON with \"halfeven_stats\": {VERSION}.")
        try:
            return cls(
                str(data["model"]),
                tuple(str(digest) for digest in data["data"]),
                int(data["samples"]),
                {k: Observation.from_json(v) for k, v in data["observations"].items()},
                {k: ChannelRange.from_json(v) for k, v in data["channels"].items()},
                {k: tuple(int(d) for d in v) for k, v in data["shapes"].items()},
                {k: float(v) for k, v in data["sizes"].items()},
                str(data["scaling"]),
            )
        except (BadCalibration, AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            what = error if isinstance(error, BadCalibration) else f"{type(error).__name__}: {error}"
            raise BadCalibration(f"'{path}': the statistics are malformed ({what}). Calibrate anew.") from error
