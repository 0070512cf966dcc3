"""What has no integer kernel, in ONNX Runtime: consecutive operators on real numbers as one model.

A region's model has the operators' own nodes, with what they read from outside as inputs: real numbers, those of codes
among them (`real_of`), since a device dequantizes there. Constants that are codes stay codes behind a DequantizeLinear,
as they are in the device's file, so that the runtime may do with them what it does there; but of a product whose data
are codes they are real inputs, as the runtime makes MatMulNBits (with data rounded to int8) only of data without, and
packs only what is constant, which what a DequantizeLinear makes is not. Shapes of what integer kernels make are not
told: behind them the runtime has lost them too, and chooses float kernels accordingly. A clamp between an
operator and its codes is a Relu or Clip. The model is made on the first call, when the types of what is fed are known.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from halfeven.graph.network import Op, Tensor
from halfeven.numerics.quantize import dequantize
from halfeven.run.integer.machine import Array, Arrays, Run
from halfeven.run.ort import OrtExecutor

PLAIN = 17  # an opset that knows the functions of one number
IR_VERSION = 10
NEWER_IR = ((28, 14), (25, 13), (24, 12), (23, 11))  # opset from which on, IR version


def real_of(name: str) -> str:
    """The name, in a region, of the real numbers that codes stand for or are made of."""
    return f"{name}@real"


@dataclass
class Region:
    """Operators in order, connected by real numbers. `wanted`: tensors of them that others read.

    `shaped`: names of codes whose shapes are told.
    """

    ops: Sequence[Op]
    wanted: Sequence[Tensor]
    opset: int
    threads: int = 0
    shaped: Collection[str] = ()
    _session: list[OrtExecutor] = field(default_factory=list)
    _weights: dict[str, Array] = field(default_factory=dict)

    @cached_property
    def feeds(self) -> list[Tensor]:
        """What it reads from outside, constants left out; what the bodies of an If or Loop read too."""
        made = {t.name for op in self.ops for t in op.outputs if not t.coded}
        found: dict[str, Tensor] = {}
        for op in self.ops:
            for tensor in (*op.inputs, *outer(op)):
                if tensor is not None and tensor.constant is None and tensor.name not in made:
                    found.setdefault(tensor.name, tensor)
        return list(found.values())

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Run: arrays by name, those of codes as real numbers under `real_of`."""
        fed = {_name(t): values[_name(t)] for t in self.feeds}
        if not self._session:
            self._session.append(OrtExecutor(ir.from_proto(self._model(fed)), threads=self.threads))
        return dict(self._session[0]({**fed, **self._weights}))

    def _model(self, fed: Mapping[str, Array]) -> onnx.ModelProto:
        writer = _Writer(self.opset)
        for op in self.ops:
            writer.operator(op)
        self._weights.update(writer.weights)
        inputs = [_input(t, fed[_name(t)], not t.coded or t.name in self.shaped) for t in self.feeds]
        inputs += [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, x.shape) for n, x in writer.weights.items()]
        outputs = [onnx.ValueInfoProto(name=_name(t)) for t in self.wanted]
        graph = helper.make_graph(writer.nodes, "region", inputs, outputs, list(writer.constants.values()))
        owner = next((op.node.graph for op in self.ops if op.node is not None and op.node.graph is not None), None)
        held = dict(getattr(owner, "opset_imports", {}))
        domains = {node.domain for node in writer.nodes} | set(held) | {""}
        opsets = [helper.make_opsetid(d, self.opset if d == "" else held.get(d, 1)) for d in sorted(domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_ir_version(self.opset))


@dataclass
class _Writer:
    """Writes operators as nodes on real numbers."""

    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    real: set[str] = field(default_factory=set)

    def operator(self, op: Op) -> None:
        """The node, with a DequantizeLinear before constant codes and its clamp behind."""
        product = op.kind in ("MatMul", "Gemm") and any(
            t is not None and t.coded and t.constant is None for t in op.inputs
        )
        for tensor in (*op.inputs, *outer(op)):
            if tensor is not None and tensor.constant is not None:
                if product and tensor.params is not None and tensor.name not in self.real:
                    self.real.add(tensor.name)
                    codes = tensor.constant.numpy().astype(np.int32)
                    self.weights[real_of(tensor.name)] = dequantize(codes, tensor.params)
                else:
                    self.constant(tensor)
        names = ["" if t is None else _name(t) for t in op.inputs]
        made = [_name(t) for t in op.outputs]
        node = _node(op)
        del node.input[:], node.output[:]
        node.input.extend(names)
        node.output.extend(made if op.clamp is None else [f"{made[0]}@sum", *made[1:]])
        self.nodes.append(node)
        if op.clamp is not None:
            self.clamp(op.clamp, node.output[0], made[0])

    def clamp(self, bounds: tuple[float, float], source: str, made: str) -> None:
        """Relu or Clip."""
        if bounds == (0.0, float("inf")):
            self.nodes.append(helper.make_node("Relu", [source], [made], name=f"{made}@clamp"))
            return
        held: dict[str, Any] = {k: v for k, v in zip(("min", "max"), bounds, strict=True) if np.isfinite(v)}
        names = [source]
        if self.opset >= 11:
            names += [f"{made}@{k}" if k in held else "" for k in ("min", "max")]
            for k, bound in held.items():
                self.array(f"{made}@{k}", np.array(bound, np.float32))
            held = {}
        self.nodes.append(helper.make_node("Clip", names, [made], name=f"{made}@clamp", **held))

    def constant(self, tensor: Tensor) -> None:
        """An initializer, and if it holds codes the node that makes them real."""
        assert tensor.constant is not None
        if tensor.name not in self.constants:
            held = ir.to_proto(ir.Tensor(tensor.constant.numpy(), dtype=tensor.constant.dtype, name=tensor.name))
            self.constants[tensor.name] = held
        if tensor.params is None or tensor.name in self.real:
            return
        self.real.add(tensor.name)
        scale, zero, options = onnx_params(tensor)
        names = [tensor.name, f"{tensor.name}@scale", f"{tensor.name}@zero"]
        self.array(names[1], scale)
        kind = tensor.constant.dtype
        self.constants[names[2]] = ir.to_proto(ir.Tensor(zero.astype(kind.numpy()), dtype=kind, name=names[2]))
        made = real_of(tensor.name)
        self.nodes.append(helper.make_node("DequantizeLinear", names, [made], name=made, **options))

    def array(self, name: str, x: Array) -> None:
        """An initializer of plain numbers."""
        self.constants[name] = numpy_helper.from_array(x, name)


def onnx_params(tensor: Tensor) -> tuple[Array, Array, dict[str, Any]]:
    """Scale, zero point and attributes of the DequantizeLinear that reads a constant's codes."""
    assert tensor.params is not None
    assert tensor.constant is not None
    scale, zero, shape = tensor.params.scale, tensor.params.zero_point, tensor.constant.shape.numpy()
    runs = dict(tensor.params.scheme.tiling.tiles)
    blocked = [axis for axis, run in runs.items() if run > 1]
    if blocked:
        return scale, zero, {"axis": blocked[0], "block_size": runs[blocked[0]]}
    long = [axis for axis, n in enumerate(scale.shape) if n > 1 and n == shape[axis]]
    if long:
        return scale.reshape(-1), zero.reshape(-1), {"axis": long[0]}
    return scale.reshape(()), zero.reshape(()), {}


def outer(op: Op) -> list[Tensor]:
    """The values of the top graph that the bodies of an operator read."""
    found: dict[str, Tensor] = {}
    bodies = (
        [] if op.node is None else [a.value for a in op.node.attributes.values() if a.type is ir.AttributeType.GRAPH]
    )
    for node in (node for body in bodies for node in body.all_nodes()):
        for value in node.inputs:
            if value is None or op.node is None:
                continue
            maker = value.producer()
            if (value.graph if maker is None else maker.graph) is op.node.graph:
                dtype = value.dtype or ir.DataType.UNDEFINED
                found[value.name or ""] = Tensor(value.name or "", dtype, None, None, value.const_value)
    return list(found.values())


def _name(tensor: Tensor) -> str:
    return real_of(tensor.name) if tensor.coded else tensor.name


def _node(op: Op) -> onnx.NodeProto:
    if op.node is not None and op.node.op_type == op.kind:
        return ir.to_proto(op.node)
    return helper.make_node(op.kind, [], [], name=op.name, domain=op.domain, **op.attributes)


def _input(tensor: Tensor, x: Array, shaped: bool) -> onnx.ValueInfoProto:
    """Real numbers with the axes that are known, which ONNX Runtime's optimiser compares; if not `shaped` the rank."""
    dims: list[int | str] = [f"{tensor.name}@{axis}" for axis in range(x.ndim)]
    if shaped and tensor.shape is not None and len(tensor.shape) == x.ndim:
        dims = [known if known is not None else own for known, own in zip(tensor.shape, dims, strict=True)]
    return helper.make_tensor_value_info(_name(tensor), helper.np_dtype_to_tensor_dtype(x.dtype), dims)


def _ir_version(opset: int) -> int:
    return next((version for since, version in NEWER_IR if opset >= since), IR_VERSION)


def real_values(op: Op, x: Array) -> Array:
    """A function of one number, applied by the runtime to real numbers."""
    source, made = op.inputs[0], op.outputs[0]
    assert source is not None
    plain = replace(source, shape=None)
    return Region([replace(op, inputs=(plain, *op.inputs[1:]))], [made], PLAIN)({_name(source): x})[_name(made)]


def code_run(op: Op) -> Run:
    """The operator on codes as they are: for what only moves or picks them."""
    owner = None if op.node is None else op.node.graph
    opset = max(PLAIN, dict(getattr(owner, "opset_imports", {})).get("", PLAIN))
    bare = replace(op, inputs=tuple(map(_bare, op.inputs)), outputs=tuple(replace(t, params=None) for t in op.outputs))
    region = Region([bare], bare.outputs, opset)

    def run(arrays: Arrays) -> tuple[Array, ...]:
        fed = {t.name: x for t, x in zip(bare.inputs, arrays, strict=True) if t is not None and x is not None}
        found = region(fed)
        return tuple(found[t.name] for t in bare.outputs)

    return run


def _bare(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else replace(tensor, params=None)
