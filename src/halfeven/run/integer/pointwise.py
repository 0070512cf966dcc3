"""Sum, product, tables and means of codes, in the flavours of `numerics.elementwise` and of ONNX Runtime's kernels.

ONNX Runtime's QLinearAdd adds by vectors along the innermost axes that both operands share or neither does. Where one
operand is constant along them, its product joins the constant term (`elementwise.add` with `scalar`), and if that is
the first operand, the two trade places.

QLinearAveragePool: v = sum of the window in float32, row by row, / count, which with pads counted is the whole kernel,
even where `ceil_mode` lets it reach beyond the pads; code = clip(half_even(f32(f32(v / sy) + zy))).
QLinearGlobalAveragePool: acc = sum - n zx, M = f32(sx / f32(sy n)).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from halfeven.graph.network import Op
from halfeven.graph.pairs import same
from halfeven.numerics.elementwise import Addition, add, multiply
from halfeven.numerics.packed import look_up_pairs
from halfeven.numerics.quantize import dequantize
from halfeven.numerics.requant import Requant, requantize
from halfeven.numerics.softmax import X86_OVERFLOW, integer_softmax
from halfeven.run.integer.borders import ranked, to_codes, to_real
from halfeven.run.integer.layers import window_of
from halfeven.run.integer.machine import Array, Arrays, Run, affine, code_type, given, params_of, result
from halfeven.run.integer.regions import code_run, real_values

TABLE = 1 << 16  # results from which on a table of as many pays


@dataclass(frozen=True)
class Sum:
    """Add of two coded operands."""

    flavour: Addition = Addition.FLOAT32_FUSED

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The sum."""
        in_a, in_b, out, dtype = affine(op, 0), affine(op, 1), result(op), code_type(op.outputs[0])

        def both(a: Array, b: Array) -> Array:
            return add(a, b, in_a, in_b, out, self.flavour).astype(dtype)

        def one(a: Array, b: Array) -> Array:
            return add(a, b, in_a, in_b, out, self.flavour, scalar=True).astype(dtype)

        def other(a: Array, b: Array) -> Array:
            return add(b, a, in_b, in_a, out, self.flavour, scalar=True).astype(dtype)

        tables = [TwoCodes(function) for function in (both, one, other)]

        def run(arrays: Arrays) -> tuple[Array, ...]:
            a, b = given(arrays, 0), given(arrays, 1)
            first, second = _repeats(a.shape, b.shape)
            return (tables[2 if first else 1 if second else 0](a, b),)

        return run


@dataclass
class TwoCodes:
    """A function of two codes: by its table of 8-bit codes once that has paid, else as it is."""

    function: Callable[[Array, Array], Array]
    table: Array | None = None
    seen: int = 0

    def __call__(self, a: Array, b: Array) -> Array:
        """Of two arrays, which broadcast."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        self.seen += prod(shape)
        if {a.dtype.itemsize, b.dtype.itemsize} != {1} or self.seen < TABLE:
            return self.function(a, b)
        if self.table is None:
            rows, columns = (np.arange(256, dtype=np.uint8).view(x.dtype) for x in (a, b))
            self.table = self.function(rows[:, None], columns[None, :])
        return look_up_pairs(np.broadcast_to(a, shape), np.broadcast_to(b, shape), self.table)


def _repeats(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether the first or the second operand is constant along the innermost axis longer than 1 of their sum."""
    rank = max(len(a), len(b))
    wide_a, wide_b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    for n, m in zip(reversed(wide_a), reversed(wide_b), strict=True):
        if n != m:
            return n == 1, m == 1
        if n > 1:
            return False, False
    return False, False


@dataclass(frozen=True)
class Product:
    """Mul of two coded operands."""

    flavour: Requant = Requant.FLOAT32_INSIDE

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The product."""
        in_a, in_b, out, dtype = affine(op, 0), affine(op, 1), result(op), code_type(op.outputs[0])

        def product(a: Array, b: Array) -> Array:
            return multiply(a, b, in_a, in_b, out, self.flavour).astype(dtype)

        table = TwoCodes(product)
        return lambda arrays: (table(given(arrays, 0), given(arrays, 1)),)


@dataclass(frozen=True)
class Table:
    """A function of one number as a table of all codes: dequantize, the runtime's own function, quantize."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The table, looked up."""
        source, made = op.inputs[0], op.outputs[0]
        assert source is not None
        assert source.params is not None
        grid = source.params.scheme.grid
        codes = np.arange(grid.low, grid.high + 1).astype(grid.dtype)
        table = np.roll(to_codes(made, real_values(op, to_real(source, codes))), grid.low)  # by byte
        return lambda arrays: (table[given(arrays, 0).view(np.uint8)],)


@dataclass(frozen=True)
class GlobalMean:
    """GlobalAveragePool of codes by one integer sum."""

    requant: Requant = Requant.FLOAT32_HALF_EVEN

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The mean."""
        source, out, dtype = affine(op, 0), result(op), code_type(op.outputs[0])

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = given(arrays, 0)
            count = int(np.prod(x.shape[2:]))
            acc = x.sum(axis=tuple(range(2, x.ndim)), keepdims=True, dtype=np.int64) - source.zero_point * count
            m = np.float32(source.scale) / (np.float32(out.affine.scale) * np.float32(count))
            codes = requantize(acc, m, out.affine.zero_point, out.low, out.high, self.requant)
            return (codes.astype(dtype),)

        return run


@dataclass(frozen=True)
class WindowMean:
    """AveragePool of codes, summed in float32."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The means."""
        params, out, dtype = params_of(op, 0), result(op), code_type(op.outputs[0])
        include = bool(op.attributes.get("count_include_pad", 0))

        def run(arrays: Arrays) -> tuple[Array, ...]:
            x = given(arrays, 0)
            window = window_of(op, x.shape[2:], tuple(op.attributes["kernel_shape"]))
            seen = dequantize(window.gathered(x, int(params.zero_point.ravel()[0])), ranked(params, x.ndim + 1))
            total = np.zeros(seen.shape[:-1], np.float32)
            for tap in range(seen.shape[-1]):
                total += seen[..., tap]
            counts = prod(window.kernel) if include else window.counts(x.shape[2:], False)
            mean = total / np.asarray(counts, np.float32)
            placed = mean / np.float32(out.affine.scale) + np.float32(out.affine.zero_point)
            return (np.clip(np.rint(placed), out.low, out.high).astype(dtype),)

        return run


@dataclass(frozen=True)
class Softmax:
    """QLinearSoftmax: `numerics.softmax`."""

    overflow: int = X86_OVERFLOW

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The softmax."""
        source, out, dtype = affine(op, 0), result(op), code_type(op.outputs[0])
        axis = int(op.attributes.get("axis", -1))

        def run(arrays: Arrays) -> tuple[Array, ...]:
            return (integer_softmax(given(arrays, 0), axis, source, out, self.overflow).astype(dtype),)

        return run


@dataclass(frozen=True)
class Joined:
    """Concat: codes with the output's parameters are copied, others go through real numbers."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The operands side by side."""
        made, axis = op.outputs[0], int(op.attributes["axis"])
        assert made.params is not None
        ways = [_way(op, port) for port in range(len(op.inputs))]
        return lambda arrays: (np.concatenate([way(given(arrays, i)) for i, way in enumerate(ways)], axis),)


def _way(op: Op, port: int) -> Callable[[Array], Array]:
    tensor, made = op.inputs[port], op.outputs[0]
    assert tensor is not None
    assert tensor.params is not None
    assert made.params is not None
    if same(tensor.params, made.params):
        return lambda codes: codes
    return lambda codes: to_codes(made, to_real(tensor, codes))


@dataclass(frozen=True)
class Moved:
    """An operator that only moves or picks codes: the runtime's own, on codes as they are; Flatten needs none."""

    def __call__(self, op: Op, threads: int = 1) -> Run:
        """The operator on codes."""
        return code_run(op) if op.kind != "Flatten" else _flattened(op)


def _flattened(op: Op) -> Run:
    asked = int(op.attributes.get("axis", 1))

    def run(arrays: Arrays) -> tuple[Array, ...]:
        x = given(arrays, 0)
        axis = asked + x.ndim if asked < 0 else asked
        return (x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:])),)

    return run
