"""Tensors seen by their tiles, so that a scale broadcasts against them.

An axis where a scale has n entries for n * run elements is split in two, (n, run), and the scale's is (n, 1); other
axes stay as they are. Both are views, and sums over the axes where the scale has one entry give what belongs to
each scale:

    tensor          scale              views of them                        sums over
    (8, 64, 7, 7)   (1, 64, 1, 1)      (8, 64, 7, 7)   (1, 64, 1, 1)        0, 2, 3
    (8, 64)         (8, 2)             (8, 2, 32)      (8, 2, 1)            2
"""

from dataclasses import dataclass
from math import prod

from halfeven.errors import BadOption
from halfeven.training.pytorch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tiles:
    """The shapes of the views of a tensor and of its scale; `shared` are the axes along which a scale is shared."""

    tensor: Shape
    scale: Shape
    shared: Shape

    def total(self, terms: Tensor, shape: Shape) -> Tensor:
        """Sums of `terms`, of the tensor's view, for each scale, in float64; given `shape`, that of the scale."""
        wide = terms.double()
        return (wide.sum(self.shared) if self.shared else wide).reshape(shape)


def tiles_of(shape: Shape, scale_shape: Shape) -> Tiles:
    """The views of a tensor of `shape` whose scale has `scale_shape` (one element, of any rank, is for all).

    Raises:
        BadOption: the scale does not fit.
    """
    scale_shape = (1,) * len(shape) if prod(scale_shape) == 1 else tuple(scale_shape)
    if len(shape) != len(scale_shape) or any(
        size % n if n else size for n, size in zip(scale_shape, shape, strict=True)
    ):
        raise BadOption(f"A scale of shape {scale_shape} does not fit a tensor of shape {tuple(shape)}.")
    tensor: list[int] = []
    scale: list[int] = []
    for n, size in zip(scale_shape, shape, strict=True):
        whole = n in (1, size)
        tensor += [size] if whole else [n, size // n]
        scale += [n] if whole else [n, 1]
    shared = tuple(i for i, (n, size) in enumerate(zip(scale, tensor, strict=True)) if n != size)
    return Tiles(tuple(tensor), tuple(scale), shared)
