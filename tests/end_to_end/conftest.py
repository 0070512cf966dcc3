"""Networks from ONNX text, samples for them, and what is asked of every quantized network."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

import halfeven
from halfeven import Result

Feeds = dict[str, np.ndarray]
NOTHING: Mapping[str, object] = {}
OPEN = {"N": 1, "S": 6, "T": 6}
PLAIN = "g (float[N,8] x) => (float[N,4] y) <float[8,8] w, float[8,4] v> { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"


def _built(text: str, opset: int = 17, version: int = 8, imports: str = "") -> onnx.ModelProto:
    others = "".join(f', "{name}" : {number}' for name, number in (one.split() for one in imports.split(",") if one))
    proto = onnx.parser.parse_model(f'<ir_version: {version}, opset_import: ["" : {opset}{others}]>\n{text}')
    made = {name for node in proto.graph.node for name in node.output} | {t.name for t in proto.graph.initializer}
    weights = [info for info in proto.graph.value_info if info.name not in made]
    for info in weights:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        rng = np.random.default_rng(zlib.crc32(info.name.encode()))
        drawn = rng.normal(0, 1 / np.sqrt(max(np.prod(shape[1:]), 1)), shape)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(drawn, dtype), info.name))
    del proto.graph.value_info[:]
    if version < 4:
        given = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer]
        proto.graph.input.extend(given)
    _sign(proto)
    return proto


def _sign(proto: onnx.ModelProto) -> None:
    """What must not get lost: doc strings, metadata, the producer, the names of every second node."""
    proto.doc_string, proto.graph.doc_string = "of the model", "of the graph"
    proto.producer_name, proto.producer_version, proto.model_version = "maker", "7", 5
    proto.metadata_props.add(key="author", value="someone")
    for i, node in enumerate(proto.graph.node[::2]):
        node.name, node.doc_string = f"named {i}", f"of node {i}"


def _drawn(
    proto: onnx.ModelProto, count: int = 16, seed: int = 0, options: Mapping[str, object] = NOTHING
) -> list[Feeds]:
    """`dims` "N=2, H=9" in the options sizes open dims, `scale.NAME` and `below.NAME` bound an input."""
    dims = {
        **OPEN,
        **{k: int(v) for k, v in (d.strip().split("=") for d in str(options.get("dims", "")).split(",") if d)},
    }
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [info for info in proto.graph.input if info.name not in weights]

    def array(info: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
        kind = info.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else dims.get(dim.dim_param, 2) for dim in kind.shape.dim]
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        if dtype.kind == "b":
            return np.asarray(rng.random(shape) > 0.5)
        if dtype.kind in "iu":
            return np.asarray(rng.integers(0, int(str(options.get(f"below.{info.name}", 4))), shape), dtype)
        return np.asarray(rng.normal(0, float(str(options.get(f"scale.{info.name}", 1))), shape), dtype)

    rngs = [np.random.default_rng((seed, i)) for i in range(count)]
    return [{info.name: array(info, rng) for info in inputs} for rng in rngs]


def _quantized(proto: onnx.ModelProto, data: object, target: str = "onnxruntime", **options: object) -> Result:
    return halfeven.quantize(proto, data, target=target, **{"verify": False, "prefer": "size", **options})  # type: ignore[arg-type]


def _ran(model: bytes, samples: Sequence[Feeds]) -> list[dict[str, object]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [out.name for out in session.get_outputs()]
    return [dict(zip(names, session.run(None, feeds), strict=True)) for feeds in samples]


def _sqnr(wanted: Sequence[object], found: Sequence[object]) -> float:
    x, y = (np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays]) for arrays in (wanted, found))
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.sum(x**2) / np.sum((x - y) ** 2))) if np.any(x != y) else np.inf


def _nodes(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, onnx.NodeProto]]:
    for node in graph.node:
        yield graph, node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(inner)


def _check_form(source: onnx.ModelProto, proto: onnx.ModelProto) -> None:
    """The file is valid, has the source's interface and documentation, and nothing that leads nowhere."""
    onnx.checker.check_model(proto, full_check=True)
    weights = {tensor.name for tensor in source.graph.initializer}
    assert list(proto.graph.input) == [info for info in source.graph.input if info.name not in weights]
    assert list(proto.graph.output) == list(source.graph.output)
    for part in ("doc_string", "producer_name", "producer_version", "model_version"):
        assert getattr(proto, part) == getattr(source, part)
    assert (proto.graph.name, proto.graph.doc_string) == (source.graph.name, source.graph.doc_string)
    assert {p.key: p.value for p in source.metadata_props}.items() <= {
        p.key: p.value for p in proto.metadata_props
    }.items()
    nodes = list(_nodes(proto.graph))
    outputs = {out.name for graph in (proto.graph, *(graph for graph, _ in nodes)) for out in graph.output}
    read = {name for _, node in nodes for name in node.input} | outputs
    assert [node.name for _, node in nodes if not read.intersection(node.output)] == []
    assert [tensor.name for tensor in proto.graph.initializer if tensor.name not in read] == []
    assert all(node.name for _, node in nodes)
    named = {(node.name, node.op_type): node.doc_string for _, node in _nodes(source.graph) if node.name}
    kept = {(node.name, node.op_type): node.doc_string for _, node in nodes}
    assert {key: kept[key] for key in kept.keys() & named.keys()} == {
        key: named[key] for key in kept.keys() & named.keys()
    }


def _check_plan(result: Result, proto: onnx.ModelProto) -> None:
    """What the plan calls quantized is so in the file: each weight comes from integers, each wire has its scale."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    nodes = {node.name: node for node in proto.graph.node}
    for site, group in result.plan.sites.items():
        if result.plan.groups[group].role == "weight" and site.consumer in nodes:
            maker = makers.get(nodes[site.consumer].input[site.port])
            assert maker is not None, f"{site} is float"
            assert maker.op_type == "DequantizeLinear", f"{site} is float"


@pytest.fixture(scope="session")
def build() -> Callable[..., onnx.ModelProto]:
    """`build(text, opset=17, version=8, imports="")`: a network, its declared weights random by their names."""
    return _built


@pytest.fixture(scope="session")
def draw() -> Callable[..., list[Feeds]]:
    """`draw(proto, count=16, seed=0, options)`: standard normal feeds."""
    return _drawn


@pytest.fixture(scope="session")
def plain() -> str:
    """The text of a network of two layers, with a Relu between them."""
    return PLAIN


@pytest.fixture(scope="session")
def quantize() -> Callable[..., Result]:
    """`quantize(proto, data, target="onnxruntime", **options)`: all that can be, and not verified, unless options differ."""
    return _quantized


@pytest.fixture(scope="session")
def ran() -> Callable[..., list[dict[str, object]]]:
    """`ran(model, samples)`: outputs by name, by ONNX Runtime."""
    return _ran


@pytest.fixture(scope="session")
def sqnr() -> Callable[..., float]:
    """`sqnr(wanted, found)`: dB over lists of arrays."""
    return _sqnr


@pytest.fixture(scope="session")
def proto_of() -> Callable[[onnx.ModelProto, Result], onnx.ModelProto]:
    """`proto_of(source, result)`: the quantized network as a message, after its form and plan were checked."""

    def proto(source: onnx.ModelProto, result: Result) -> onnx.ModelProto:
        made = ir.to_proto(result.model)
        _check_form(source, made)
        _check_plan(result, made)
        return made

    return proto
