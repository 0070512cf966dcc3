from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

def extrema(x: npt.NDArray[np.float32], threads: int) -> tuple[float, float, int, int]: ...
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
    def take(self, tensors: Sequence[npt.NDArray[np.float32]], strides: Sequence[int]) -> npt.NDArray[np.float64]: ...
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
