"""Batches of the ready loop: samples stacked along their first axis, in another order each epoch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration
from halfeven.training.pytorch import Tensor, torch

Sample = Mapping[str, npt.NDArray[np.generic]]
Reader = Callable[[], tuple[Sample, int | None]]
"""Reads one sample: feeds with a batch axis of 1 or more, and its class if known."""


def batches(
    readers: Sequence[Reader], size: int, epochs: int, seed: int
) -> Iterator[tuple[dict[str, npt.NDArray[Any]], Tensor | None]]:
    """Feeds stacked along the batch axis, and the classes if every sample has one; in another order each epoch."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(readers))
        for start in range(0, len(order), size):
            read = [readers[i]() for i in order[start : start + size]]
            feeds = _stacked([sample for sample, _ in read])
            rows = next((len(array) for array in feeds.values() if array.ndim), 1)
            known = [c for _, c in read if c is not None]
            yield feeds, torch.tensor(known) if len(known) == len(read) == rows else None


def _stacked(samples: Sequence[Sample]) -> dict[str, npt.NDArray[Any]]:
    """Feeds along the batch axis; those of one sample as they are, which may have no such axis.

    Raises:
        BadCalibration: there are several, and they do not fit together.
    """
    if len(samples) == 1:
        return {name: np.array(array) for name, array in samples[0].items()}
    try:
        return {name: np.concatenate([np.asarray(sample[name]) for sample in samples]) for name in samples[0]}
    except ValueError as error:
        raise BadCalibration(
            f"Samples of different shapes, or without a batch axis, cannot be trained in one batch ({error}). "
            "Use --batch 1."
        ) from error
