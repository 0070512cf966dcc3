"""Windows: where the kernel of a convolution or a pool stands for each output, along one or two axes.

Output o of an axis looks at positions o * stride + k * dilation - pad_begin, k = 0 .. kernel - 1. There are

    floor((size + pad_begin + pad_end - reach) / stride) + 1        reach = (kernel - 1) * dilation + 1

of them; with `ceil_mode` the quotient is rounded up, less the windows that would start behind the input and its first
pad. ONNX's `auto_pad`: SAME_UPPER and SAME_LOWER pad so that there are ceil(size / stride) outputs, an odd pad at the
end or at the begin; VALID pads nothing.

How many positions a mean counts: those in the input, or, with ONNX's count_include_pad, in the input and its pads.

Source: ONNX operators Conv, AveragePool, MaxPool.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Geometry of a kernel; `pads` are those at the begin of each axis, then those at the end, as in ONNX."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.kernel)

    def as_2d(self) -> "Window":
        """The same for two axes: a single axis becomes the second, beside one of length 1."""
        if self.rank == 2:
            return self
        begin, end = self.pads
        return Window((1, *self.kernel), (1, *self.strides), (0, begin, 0, end), (1, *self.dilations), self.ceil_mode)

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The number of outputs along each axis of an input of this spatial shape; less than 1 if it does not fit."""
        return tuple(self._outputs(axis, size) for axis, size in enumerate(shape))

    def _outputs(self, axis: int, size: int) -> int:
        stride, begin, end = self.strides[axis], self.pads[axis], self.pads[axis + self.rank]
        room = size + begin + end - (self.kernel[axis] - 1) * self.dilations[axis] - 1
        if not self.ceil_mode:
            return room // stride + 1
        found = -(-room // stride) + 1
        return found - ((found - 1) * stride >= size + begin)

    def positions(self, axis: int, size: int) -> Positions:
        """Where each tap of each output looks: int64 of shape (outputs, kernel); outside 0..size - 1 are pads."""
        starts = np.arange(self._outputs(axis, size)) * self.strides[axis] - self.pads[axis]
        return np.asarray(starts[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis], np.int64)

    def counts(self, shape: Sequence[int], include_pads: bool) -> Positions:
        """How many positions of each window count, of the output's spatial shape."""
        found = np.ones((), np.int64)
        for axis, size in enumerate(shape):
            at = self.positions(axis, size)
            begin, end = (self.pads[axis], self.pads[axis + self.rank]) if include_pads else (0, 0)
            found = found[..., None] * ((at >= -begin) & (at < size + end)).sum(axis=1)
        return np.asarray(found, np.int64)

    def gathered(self, x: npt.NDArray[np.integer], pad: int) -> npt.NDArray[np.integer]:
        """What each window of `x` (N, C, ...) sees, pads as `pad`: (N, C, outputs ..., taps), of `x`'s dtype."""
        for axis in range(self.rank):
            at = self.positions(axis, x.shape[2 + axis])
            inside = (at >= 0) & (at < x.shape[2 + axis])
            x = np.take(x, np.where(inside, at, 0), axis=2 + axis)
            # axes: N, C, outputs of the axes done, (outputs, taps) of this one, the rest, taps of those done
            mask = inside.reshape(*inside.shape, *[1] * (x.ndim - 4 - axis))
            x = np.where(mask, x, np.asarray(pad, x.dtype))
            x = np.moveaxis(x, 3 + axis, -1)
        taps = x.shape[x.ndim - self.rank :]
        return x.reshape(*x.shape[: x.ndim - self.rank], int(np.prod(taps)))


def explicit_pads(
    auto_pad: str,
    shape: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> tuple[int, ...]:
    """The pads that ONNX's `auto_pad` asks for; `pads` itself where that is NOTSET."""
    if auto_pad == "NOTSET":
        return tuple(pads)
    if auto_pad == "VALID":
        return (0,) * (2 * len(kernel))
    begins, ends = [], []
    for size, k, stride, dilation in zip(shape, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        small = total // 2
        begins.append(small if auto_pad == "SAME_UPPER" else total - small)
        ends.append(total - begins[-1])
    return (*begins, *ends)
