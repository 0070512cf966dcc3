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
