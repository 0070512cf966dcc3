"""Colors: are red and blue exchanged? A trained classifier is surer of pictures whose colours are right."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from halfeven.data.check import swap_colors
from halfeven.draft import Batch
from halfeven.run.ort import OrtExecutor

JUDGED = 8
Array = npt.NDArray[np.generic]


def suspect_colors(run: OrtExecutor, samples: Iterable[tuple[str, Batch]], order: str = "RGB") -> tuple[str, ...]:
    """Whether pictures seem to have red and blue exchanged, judged by the float network on a few samples.

    `order`: the one that they were prepared in, RGB or BGR.
    """
    rows: tuple[list[Any], list[Any]] = ([], [])
    for label, feeds in islice(samples, JUDGED):
        for into, batch in zip(rows, (feeds, swap_colors(feeds)), strict=True):
            into.append(next(iter(run(batch, label).values())))
    if not rows[0] or np.asarray(rows[0][0]).ndim != 2:
        return ()
    agreeing, swapped = (np.concatenate(r) for r in rows)
    text = suspicious_colors(agreeing, swapped, order)
    return () if text is None else (text,)


def suspicious_colors(agreeing: Array, swapped: Array, order: str = "RGB") -> str | None:
    """A sentence when class scores are clearly surer of pictures with red and blue exchanged than of those in `order`.

    Both arrays hold one row of scores a sample, shape (samples, classes).
    """
    if agreeing.ndim != 2 or agreeing.shape[0] < JUDGED or agreeing.shape[1] < 10:
        return None
    sure, other = (float(_softmax(x).max(1).mean()) for x in (agreeing, swapped))
    if other > sure * 1.15 + 0.02:
        other_order = "RGB" if order == "BGR" else "BGR"
        return (
            f"the float network is surer of pictures with red and blue exchanged ({other:.2f} against {sure:.2f} on "
            f"average): is the colour order right? Try --preprocess ...,color={other_order}."
        )
    return None


def _softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))
