from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

def extrema(x: npt.NDArray[np.float32], threads: int) -> tuple[float, float, int, int]: ...
def channel_summary(
    x: npt.NDArray[np.float32], cut: tuple[int, int, int], block: int, stride: int, threads: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float64]]: ...
def histogram(
    x: npt.NDArray[np.float32], stride: int, threads: int
) -> tuple[tuple[float, float, int, int], int, npt.NDArray[np.int64]]: ...
def grid_errors(
    edges: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]: ...

class Tally:
    def __init__(self, tensors: int) -> None: ...
    def take(
        self,
        taken: Sequence[tuple[int, npt.NDArray[np.float32], int, tuple[int, int, npt.NDArray[np.float32]]]],
        threads: int,
    ) -> npt.NDArray[np.float64]: ...
    def found(self, index: int) -> tuple[tuple[float, float, int, int], int, npt.NDArray[np.int64]]: ...

def quantize(
    x: npt.NDArray[np.float32],
    cut: tuple[int, int, int],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int32],
    low: int,
    high: int,
    codes: npt.NDArray[Any],
) -> None: ...
def dequantize(
    codes: npt.NDArray[Any],
    cut: tuple[int, int, int],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int32],
    values: npt.NDArray[np.float32],
) -> None: ...
def fake_quantize(
    x: npt.NDArray[np.float32],
    cut: tuple[int, int, int],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int32],
    low: int,
    high: int,
    values: npt.NDArray[np.float32],
) -> None: ...
def lsq_backward(
    x: npt.NDArray[np.float32],
    grad: npt.NDArray[np.float32],
    cut: tuple[int, int, int],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int32],
    low: int,
    high: int,
    grad_x: npt.NDArray[np.float32],
    grad_scale: npt.NDArray[np.float32],
    grad_zero_point: npt.NDArray[np.float32],
) -> None: ...
def fake_quantize_clamped(
    x: npt.NDArray[np.float32],
    scale: float,
    zero_point: int,
    codes: tuple[int, int],
    clamp: tuple[float, float],
    threads: int,
    values: npt.NDArray[np.float32],
) -> None: ...
def lsq_backward_clamped(
    x: npt.NDArray[np.float32],
    grad: npt.NDArray[np.float32],
    scale: float,
    zero_point: int,
    codes: tuple[int, int],
    clamp: tuple[float, float],
    sums: bool,
    threads: int,
    grad_x: npt.NDArray[np.float32],
) -> tuple[float, float]: ...
def round_columns(
    left: npt.NDArray[np.float64],
    steps: npt.NDArray[np.float64],
    factor: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    start: int,
    stop: int,
    low: float,
    high: float,
    codes: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
) -> None: ...

class PackedWeights:
    def __init__(
        self,
        weight: npt.NDArray[np.integer],
        zeros: npt.NDArray[np.int32],
        shape: tuple[int, int, int, int],
        groups: int,
        most: int = 3,
    ) -> None: ...

def layer_sums(
    weights: PackedWeights,
    x: npt.NDArray[np.integer],
    sizes: tuple[int, int, int],
    window: Sequence[int],
    zero: int,
    bias: npt.NDArray[np.int32],
    threads: int,
    out: npt.NDArray[np.int32],
) -> None: ...
def layer_codes(
    weights: PackedWeights,
    x: npt.NDArray[np.integer],
    sizes: tuple[int, int, int],
    window: Sequence[int],
    zero: int,
    bias: npt.NDArray[np.int32],
    multipliers: npt.NDArray[np.float64],
    flavour: int,
    zero_point: int,
    low: int,
    high: int,
    threads: int,
    out: npt.NDArray[np.integer],
) -> bool: ...
def requantize(
    acc: npt.NDArray[np.int32],
    cut: tuple[int, int, int],
    multipliers: npt.NDArray[np.float64],
    flavour: int,
    zero_point: int,
    low: int,
    high: int,
    codes: npt.NDArray[np.integer],
) -> bool: ...
def gemm_paired(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.int8], shape: tuple[int, int, int], acc: npt.NDArray[np.int32]
) -> None: ...
def look_up_pairs(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], table: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]
) -> None: ...
def bit_product(
    a: npt.NDArray[np.uint64],
    a_nonzero: npt.NDArray[np.uint64],
    b: npt.NDArray[np.uint64],
    b_nonzero: npt.NDArray[np.uint64],
    shape: tuple[int, int, int],
    codes: int,
    out: npt.NDArray[np.int64],
) -> None: ...
