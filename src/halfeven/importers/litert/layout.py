"""The two orders of axes: as in the file, channels last, and as ONNX's layers want it, channels behind the batch.

    file     N, H, W, C        order "last"
    layers   N, C, H, W        order "first"

A tensor of rank 3 or more has both; the same permutation serves every rank.
"""


def to_first(rank: int) -> tuple[int, ...]:
    """The permutation from last to first: axis i of the result is axis `result[i]` of the file's tensor."""
    return (0, rank - 1, *range(1, rank - 1))


def to_last(rank: int) -> tuple[int, ...]:
    """The permutation from first to last."""
    return (0, *range(2, rank), 1)


def placed(axis: int, rank: int, first: bool) -> int:
    """Where an axis of the file's tensor, which may be counted from the end, lies in one of the orders."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of a tensor with {rank} axes")
    return to_first(rank).index(axis % rank) if first else axis % rank
