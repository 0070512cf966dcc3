"""FakeQuantize operators are given limits, not scale and zero point: what the limits are, as float32.

    OpenVINO    il = s (a - z)      ih = s (b - z)      isc = (b - a) / (ih - il)      ish = -il isc
                code = a + rne(f32(f32(x isc) + ish))
    TensorFlow  nudged_min = (a - z) s      nudged_max = (b - z) s

for codes a..b, each operation rounded to float32. OpenVINO's own step, 1 / isc, may differ from s by some units in the
last place, so its codes are not ONNX's. Sources: OpenVINO CPU plugin, measured; TensorFlow fake_quant_ops_functor.h.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Limits:
    """Of OpenVINO's FakeQuantize: the input limits, and the factor and shift that the kernel makes of them."""

    low: Floats32
    high: Floats32
    factor: Floats32
    shift: Floats32


def openvino_limits(scale: npt.ArrayLike, zero_point: npt.ArrayLike, low: int, high: int) -> Limits:
    """What OpenVINO makes of a QuantizeLinear with codes `low..high`; the shapes of the arguments, broadcast."""
    s: Floats32 = np.asarray(scale, np.float32)
    z: Floats32 = np.asarray(zero_point, np.float32)
    bottom, top = s * (np.float32(low) - z), s * (np.float32(high) - z)
    factor = np.asarray(np.float32(high - low) / (top - bottom), np.float32)
    return Limits(bottom, top, factor, -bottom * factor)


def tensorflow_limits(scale: float, zero_point: int, low: int, high: int) -> tuple[float, float]:
    """The nudged range that TensorFlow's FakeQuant clamps to."""
    step = np.float32(scale)
    return float(np.float32(low - zero_point) * step), float(np.float32(high - zero_point) * step)
