"""LSTM and GRU, step after step, as operators that LiteRT has; activations in real numbers.

LiteRT's UNIDIRECTIONAL_SEQUENCE_LSTM keeps its state in the file, so an initial state could not be fed nor a final one
read; and there is no GRU. Of a sequence of known length each step is written out:

    LSTM    i, o, f, c = split(x W' + h R' + Wb + Rb)         c' = sigmoid(f) c + sigmoid(i) tanh(c)
                                                              h' = sigmoid(o) tanh(c')
    GRU     z = sigmoid(x Wz' + h Rz' + b), r likewise        h' = (1 - z) tanh(...) + z h
            linear_before_reset 0: tanh(x Wh' + (r h) Rh' + Wbh + Rbh); else tanh(x Wh' + Wbh + r (h Rh' + Rbh))

Weights stand in the file once, and all steps read them; in codes of int8 where the plan has such. Sequences up to 256
steps; no peepholes, clip, other activations or lengths by sample.
Source: ONNX operators LSTM and GRU.
"""

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import onnx_ir as ir

from halfeven.errors import UnsupportedByTarget
from halfeven.exporters.litert.decompose import Parts
from halfeven.graph.network import Op, Tensor
from halfeven.numerics.grid import INT8
from halfeven.numerics.quantize import dequantize
from halfeven.numerics.scheme import QParams, Scheme, per_channel

LONGEST = 256
USUAL: Mapping[str, tuple[str, ...]] = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}


def _refused(op: Op, why: str) -> UnsupportedByTarget:
    return UnsupportedByTarget(f"{op.kind} '{op.name}': {why}.")


def unrolled(op: Op) -> list[Op]:
    """An LSTM or GRU as its steps.

    Raises:
        UnsupportedByTarget: what the table above does not have.
    """
    x = op.inputs[0]
    assert x is not None
    sizes = [d for d in x.shape or () if isinstance(d, int)]
    if len(sizes) != 3 or op.attributes.get("layout", 0):
        raise _refused(op, "its sequence length is not known, or its layout is not (steps, batch, features)")
    if sizes[0] > LONGEST:
        raise _refused(op, f"its sequence has {sizes[0]} steps; at most {LONGEST} are written out")
    _check(op)
    return _Recurrent(op, x, (sizes[0], sizes[1], sizes[2])).steps()


def _check(op: Op) -> None:
    given = [str(a.decode() if isinstance(a, bytes) else a).lower() for a in op.attributes.get("activations") or ()]
    usual = USUAL[op.kind]
    if given and tuple(given) != usual * (len(given) // len(usual)):
        raise _refused(op, f"its activations are {', '.join(given)}; {', '.join(usual)} are written")
    if op.attributes.get("clip") or op.attributes.get("input_forget"):
        raise _refused(op, "it has clip or input_forget")
    if len(op.inputs) > 4 and op.inputs[4] is not None and op.inputs[4].data is None:
        raise _refused(op, "the lengths of its sequences are computed at run time")
    if len(op.inputs) > 7 and op.inputs[7] is not None:
        raise _refused(op, "it has peepholes")


class _Recurrent:
    """One operator being written out."""

    def __init__(self, op: Op, x: Tensor, sizes: tuple[int, int, int]) -> None:
        self.op, self.x, self.parts = op, x, Parts(op)
        self.length, self.batch, self.features = sizes
        recurrent = self._array(2)
        self.directions, _, self.hidden = recurrent.shape

    def steps(self) -> list[Op]:
        """All operators."""
        way = self.op.attributes.get("direction", "forward")
        ways = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[
            way.decode() if isinstance(way, bytes) else way
        ]
        rows, finals = [], []
        for number, backwards in enumerate(ways):
            made, final = self._direction(number, backwards=bool(backwards))
            rows.append(made)
            finals.append(final)
        self._outputs(rows, finals)
        return self.parts.ops

    def _array(self, port: int) -> np.ndarray:
        tensor = self.op.inputs[port]
        if tensor is None or tensor.data is None:
            raise _refused(self.op, "its weights are computed at run time")
        real = tensor.data if tensor.params is None else dequantize(tensor.data.astype(np.int64), tensor.params)
        return np.asarray(real, np.float32)

    def _state(self, port: int, number: int) -> Tensor:
        """The initial state of one direction, (batch, hidden)."""
        given = self.op.inputs[port] if port < len(self.op.inputs) else None
        shape = (self.batch, self.hidden)
        if given is None:
            return self.parts.number(np.zeros(shape, np.float32), "zeros")
        return self.parts.make("Gather", [given, self._scalar(number)], shape, axis=0)

    def _scalar(self, value: int) -> Tensor:
        array = np.array(value, np.int64)
        name = f"{self.op.name}/place_{value}_{len(self.parts.ops)}"
        return Tensor(name, ir.DataType.INT64, (), None, ir.Tensor(array, name=name))

    def _direction(self, number: int, *, backwards: bool) -> tuple[list[Tensor], list[Tensor]]:
        """What each step makes, in the order of the sequence, and the final states."""
        parts, bias = self.parts, self._bias(number)
        states = [self._state(5, number)] + ([self._state(6, number)] if self.op.kind == "LSTM" else [])
        w, r = (self._weights(port, number, what) for port, what in ((1, "weights"), (2, "recurrent")))
        made: list[Tensor] = []
        for time in reversed(range(self.length)) if backwards else range(self.length):
            row = parts.make("Gather", [self.x, self._scalar(time)], (self.batch, self.features), axis=0)
            states = self._lstm(row, states, w, r, bias) if self.op.kind == "LSTM" else self._gru(
                row, states, w, r, bias)  # fmt: skip
            made.append(states[0])
        return (made[::-1] if backwards else made), states

    def _weights(self, port: int, number: int, what: str) -> Tensor:
        """The weights of one direction, (inputs, gates * hidden): codes where there is one scale for each column."""
        tensor, real = self.op.inputs[port], self._array(port)
        params = None if tensor is None else tensor.params
        rows = real.shape[:2]
        if tensor is None or tensor.data is None or params is None or tensor.data.dtype != np.int8:
            return self.parts.number(real[number].T.copy(), what)
        if params.zero_point.any() or not (params.scale.size == 1 or params.scale.shape == (*rows, 1)):
            return self.parts.number(real[number].T.copy(), what)
        scale = np.ascontiguousarray(np.broadcast_to(params.scale.reshape(-1), prod(rows)).reshape(rows)[number])
        return self._codes(tensor.data[number].T.copy(), scale, what)

    def _codes(self, codes: np.ndarray, scale: np.ndarray, what: str) -> Tensor:
        """Codes of int8 as a constant, (inputs, columns), with one scale for each column."""
        scheme = Scheme(INT8, per_channel(1))
        params = QParams(scheme, scale.reshape(1, -1), np.zeros((1, scale.size), np.int32))
        name = f"{self.op.name}/{what}_{len(self.parts.ops)}"
        return Tensor(name, ir.DataType.INT8, codes.shape, params, ir.Tensor(codes, name=name))

    def _columns(self, weights: Tensor, part: slice) -> Tensor:
        """Some columns of constant weights."""
        assert weights.data is not None
        found = np.ascontiguousarray(weights.data[:, part])
        if weights.params is None:
            return self.parts.number(found, "recurrent")
        return self._codes(found, weights.params.scale.ravel()[part].copy(), "recurrent")

    def _bias(self, number: int) -> np.ndarray:
        """Input and recurrent bias, (2, gates * hidden)."""
        tensor = self.op.inputs[3] if len(self.op.inputs) > 3 else None
        gates = 4 if self.op.kind == "LSTM" else 3
        if tensor is None:
            return np.zeros((2, gates * self.hidden), np.float32)
        return np.asarray(self._array(3)[number].reshape(2, -1))

    def _sum(self, row: Tensor, w: Tensor, bias: np.ndarray) -> Tensor:
        shape = (self.batch, w.shape[1] if w.shape else None)
        return self.parts.make("Gemm", [row, w, self.parts.number(bias, "bias")], shape)

    def _gates(self, total: Tensor, count: int) -> list[Tensor]:
        """A sum split into its gates."""
        shape, name = (self.batch, self.hidden), f"{self.op.name}/gates_{len(self.parts.ops)}"
        gates = tuple(Tensor(f"{name}_{i}", ir.DataType.FLOAT, shape) for i in range(count))
        self.parts.ops.append(Op("Split", name, (total,), gates, {"axis": 1}))
        return list(gates)

    def _of(self, kind: str, *inputs: Tensor) -> Tensor:
        return self.parts.make(kind, inputs, (self.batch, self.hidden))

    def _lstm(self, row: Tensor, states: list[Tensor], w: Tensor, r: Tensor, bias: np.ndarray) -> list[Tensor]:
        hidden, cell = states
        both = self.parts.make("Add", [self._sum(row, w, bias[0] + bias[1]),
                                       self.parts.make("MatMul", [hidden, r], (self.batch, 4 * self.hidden))],
                               (self.batch, 4 * self.hidden))  # fmt: skip
        i, o, f, c = self._gates(both, 4)
        new = self._of("Add", self._of("Mul", self._of("Sigmoid", f), cell),
                       self._of("Mul", self._of("Sigmoid", i), self._of("Tanh", c)))  # fmt: skip
        return [self._of("Mul", self._of("Sigmoid", o), self._of("Tanh", new)), new]

    def _gru(self, row: Tensor, states: list[Tensor], w: Tensor, r: Tensor, bias: np.ndarray) -> list[Tensor]:
        hidden, n = states[0], self.hidden
        zx, rx, hx = self._gates(self._sum(row, w, bias[0]), 3)
        if self.op.attributes.get("linear_before_reset", 0):
            zh, rh, hh = self._gates(self._sum(hidden, r, bias[1]), 3)
            reset = self._of("Sigmoid", self._of("Add", rx, rh))
            inner = self._of("Mul", reset, hh)
        else:
            first, last = (self._columns(r, part) for part in (slice(0, 2 * n), slice(2 * n, None)))
            zh, rh = self._gates(self._sum(hidden, first, bias[1][: 2 * n]), 2)
            reset = self._of("Sigmoid", self._of("Add", rx, rh))
            inner = self._sum(self._of("Mul", reset, hidden), last, bias[1][2 * n :])
        update = self._of("Sigmoid", self._of("Add", zx, zh))
        new = self._of("Tanh", self._of("Add", hx, inner))
        rest = self._of("Sub", self.parts.number(1.0, "one"), update)
        return [self._of("Add", self._of("Mul", rest, new), self._of("Mul", update, hidden))]

    def _outputs(self, rows: list[list[Tensor]], finals: list[list[Tensor]]) -> None:
        """Y (steps, directions, batch, hidden), Y_h and Y_c (directions, batch, hidden)."""
        for port, out in enumerate(self.op.outputs):
            if not out.name:
                continue
            if port == 0:
                pieces = [rows[d][t] for t in range(self.length) for d in range(self.directions)]
            else:
                pieces = [final[port - 1] for final in finals]
            flat = (len(pieces) * self.batch, self.hidden)
            joined = pieces[0] if len(pieces) == 1 else self.parts.make("Concat", pieces, flat, axis=0)
            name = f"{self.op.name}/output_{port}"
            self.parts.ops.append(Op("Reshape", name, (joined,), (out,)))


RECURRENT: Mapping[str, Callable[[Op], list[Op]]] = {"LSTM": unrolled, "GRU": unrolled}
