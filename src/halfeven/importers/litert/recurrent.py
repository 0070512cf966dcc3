"""UNIDIRECTIONAL_SEQUENCE_LSTM as ONNX's LSTM, its state zero at the start of each call.

    inputs    0 data   1-4 weights of the input, 5-8 of the output fed back, 12-15 biases, each of the gates i, f, c, o
              9-11 peepholes i, f, o   16, 17 projection   18, 19 state   20-23 layer normalization
    ONNX      W, R: gates i, o, f, c one below another; B: biases of W, then of R (zero); P: peepholes i, o, f

TensorFlow Lite keeps the state from call to call until it is reset; an ONNX graph starts from zero, as after a reset.
Weights of codes (dynamic range) become real numbers: ONNX's W is one tensor, the gates' scales are four.
Source: tensorflow/lite/kernels/unidirectional_sequence_lstm.cc.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.edit import unused
from halfeven.importers.litert.builder import Builder
from halfeven.importers.litert.contents import Operator

GATES = (0, 3, 1, 2)
"""Where ONNX's gates i, o, f, c stand among the file's."""
NOTE = (
    "LSTM layers start from a state of zero at each call; TensorFlow Lite keeps the state of the call before until it "
    "is reset."
)


def lstm(b: Builder, op: Operator) -> None:
    """UNIDIRECTIONAL_SEQUENCE_LSTM in floating point."""
    _check(b, op)
    time_major = bool(op.option("time_major"))
    data = b.read(op.input(0))
    if not time_major:
        data = b.call("Transpose", data, perm=(1, 0, 2))
    weights = _stacked(b, op, [1 + g for g in GATES])
    fed_back = _stacked(b, op, [5 + g for g in GATES])
    hidden = fed_back.shape[-1]
    biases = np.concatenate((_stacked(b, op, [12 + g for g in GATES]), np.zeros(4 * hidden, np.float32)))
    peepholes = _stacked(b, op, (9, 11, 10)) if op.has(10) else None
    value = b.call(
        "LSTM",
        data,
        _new(b, weights, "W"),
        _new(b, fed_back, "R"),
        _new(b, biases, "B"),
        None,
        None,
        None,
        None if peepholes is None else _new(b, peepholes, "P"),
        hidden_size=hidden,
    )
    value = b.call("Squeeze", value, b.small([1]))
    b.give(op.output(), value if time_major else b.call("Transpose", value, perm=(1, 0, 2)))
    b.notes.append(NOTE)


def _check(b: Builder, op: Operator) -> None:
    """Refuse what ONNX's LSTM cannot do.

    Raises:
        UnsupportedModel: the layer has such a part.
    """
    parts = {
        "a projection": op.has(16),
        "layer normalization": any(op.has(port) for port in range(20, 24)),
        "coupled gates": not (op.has(1) and op.has(5) and op.has(12)),
        "a clipped cell": bool(op.options["cell_clip"]),
        "an activation other than tanh": op.option("activation") != 4,
        "integer inputs": b.tensors[op.input(0)].coded,
        "peepholes on some gates only": len({op.has(port) for port in (9, 10, 11)}) > 1,
    }
    for part, present in parts.items():
        if present:
            raise UnsupportedModel(f"{b.contents.where}: {b.label} has {part}, which cannot be imported.")


def _stacked(b: Builder, op: Operator, ports: Sequence[int]) -> npt.NDArray[np.float32]:
    found = []
    for port in ports:
        numbers = b.reals(op.input(port))
        if numbers is None:
            raise UnsupportedModel(f"{b.contents.where}: {b.label} has weights that are computed.")
        found.append(numbers)
    return np.concatenate(found)


def _new(b: Builder, array: npt.NDArray[np.float32], name: str) -> ir.Value:
    b.spend(array.nbytes)
    return b.new(array[None], unused(f"{b.label}_{name}", b.taken))
