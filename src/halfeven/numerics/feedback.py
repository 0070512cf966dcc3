"""Error feedback: weights rounded one after the other, each taking up what those before it left.

For column j of a block, and the rows of an upper triangular factor U:

    code_j  = clip(rint(left_j / step_j), low, high)
    error_j = (left_j - code_j * step_j) / U_jj
    left_t -= error_j * U_jt        for the columns t > j of the block

It is the inner loop of GPTQ (Frantar et al. 2023, arXiv:2210.17323, algorithm 1); C++ if it was built, NumPy if not.
"""

import numpy as np
import numpy.typing as npt

from halfeven.numerics.native import native_module

Doubles = npt.NDArray[np.float64]


def round_columns(
    left: Doubles, steps: Doubles, factor: Doubles, columns: tuple[int, int], limits: tuple[int, int], codes: Doubles
) -> Doubles:
    """Round the columns [start, stop) of `left`, writing their codes; the columns of the block are changed.

    Args:
        left: What is to be rounded, (groups, rows, k), in C order; changed.
        steps: Scales of the same shape.
        factor: Upper triangular, (groups, k, k).
        columns: start and stop.
        limits: Lowest and highest code.
        codes: Where the codes go, the shape of `left`.

    Returns:
        The errors, (groups, rows, stop - start).
    """
    start, stop = columns
    errors = np.empty((*left.shape[:2], stop - start), np.float64)
    compiled = native_module()
    if compiled is not None:
        flat = [x.reshape(-1) for x in (left, steps, factor, codes, errors)]
        compiled.round_columns(*flat[:3], left.shape, start, stop, *limits, *flat[3:])
        return errors
    for j in range(start, stop):
        codes[:, :, j] = np.clip(np.rint(left[:, :, j] / steps[:, :, j]), *limits)
        error = (left[:, :, j] - codes[:, :, j] * steps[:, :, j]) / factor[:, j, j, None]
        left[:, :, j + 1 : stop] -= error[:, :, None] * factor[:, None, j, j + 1 : stop]
        errors[:, :, j - start] = error
    return errors
