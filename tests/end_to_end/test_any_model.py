"""Any ONNX model in: what ONNX Runtime runs is quantized for every target, or refused in a sentence that says why.

Of each network of any_model.txt, for each target: the file is valid ONNX with the inputs, outputs, names and documentation
of its source; nothing in it leads nowhere; what the plan calls quantized is; and it computes what the source computes, up to
the noise of 8 bits, on samples that did not calibrate. Networks that text cannot say, and refusals, follow.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import halfeven
from halfeven import TARGETS, UnsupportedByTarget, UnsupportedModel

Feeds = dict[str, np.ndarray]
Build = Callable[..., onnx.ModelProto]
Quantize = Callable[..., halfeven.Result]
Draw = Callable[..., list[Feeds]]
Ran = Callable[..., list[dict[str, object]]]
Sqnr = Callable[..., float]
ProtoOf = Callable[..., onnx.ModelProto]

CASES = Path(__file__).with_name("any_model.txt")
each_target = pytest.mark.parametrize("target", list(TARGETS))


@dataclass
class Case:
    """One titled network of the file."""

    title: str
    options: dict[str, str] = field(default_factory=dict)
    graph: str = ""


def _cases() -> Iterator[Case]:
    for block in CASES.read_text("utf-8").split("\n# ")[1:]:
        title, *lines = block.splitlines()
        case = Case(title)
        for line in lines:
            if option := re.fullmatch(r"([a-z][-.\w]*): (.*)", line):
                case.options[option[1]] = option[2]
            else:
                case.graph += line + "\n"
        yield case


def _stacked(samples: list[Feeds]) -> Feeds:
    return {name: np.stack([feeds[name] for feeds in samples]) for name in samples[0]}


_floats: dict[str, tuple[onnx.ModelProto, list[Feeds], list[Feeds], list[dict[str, object]]]] = {}


def _float(
    case: Case, build: Build, draw: Draw, ran: Ran
) -> tuple[onnx.ModelProto, list[Feeds], list[Feeds], list[dict[str, object]]]:
    """The case's network, samples to calibrate with, others, and its outputs on these; the same for all targets."""
    if case.title not in _floats:
        options = case.options
        proto = build(case.graph, int(options.get("opset", 17)), int(options.get("ir", 8)), options.get("imports", ""))
        judged = draw(proto, 4, 1, options)
        _floats[case.title] = proto, draw(proto, 16, 0, options), judged, ran(proto.SerializeToString(), judged)
    return _floats[case.title]


@each_target
@pytest.mark.parametrize("case", list(_cases()), ids=lambda case: case.title)
def test_a_network_goes_in_and_comes_out_quantized(
    case: Case, target: str, build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf, quantize: Quantize
) -> None:
    source, samples, judged, wanted = _float(case, build, draw, ran)
    result = quantize(source, _stacked(samples), target)
    quantized = proto_of(source, result)
    weights = [group for group in result.plan.sites.values() if result.plan.groups[group].role == "weight"]
    assert len(weights) >= int(case.options.get("layers", 1))
    found = ran(quantized.SerializeToString(), judged)
    for name, first in wanted[0].items():
        pairs = [[np.asarray(row[name]) for row in rows] for rows in (wanted, found)]
        assert [a.dtype for a in pairs[0]] == [a.dtype for a in pairs[1]]
        if "varies" not in case.options:
            assert [a.shape for a in pairs[0]] == [a.shape for a in pairs[1]]
            if np.asarray(first).dtype.kind == "f":
                # symmetric codes of 8 bits have steps of 0.8 at 100, where a target must quantize every sum
                least = case.options.get(f"sqnr.{target}", case.options.get("sqnr", 15))
                assert sqnr(*pairs) >= float(least), name


@pytest.mark.parametrize("version", range(3, 14))
def test_every_ir_version_goes_in(
    version: int, build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf, plain: str, quantize: Quantize
) -> None:
    source = build(plain, {3: 8, 4: 9, 5: 10, 6: 11, 7: 13}.get(version, 17), version)
    quantized = proto_of(source, quantize(source, draw(source)))
    judged = draw(source, 4, 1)
    outputs = ([row["y"] for row in ran(model.SerializeToString(), judged)] for model in (source, quantized))
    assert sqnr(*outputs) > 15
    assert quantized.ir_version >= version


def test_an_opset_beyond_the_runtime_is_refused_with_both_numbers(
    build: Build, draw: Draw, plain: str, quantize: Quantize
) -> None:
    newest = onnx.defs.onnx_opset_version() + 1
    source = build(plain, newest, 13)
    with pytest.raises(UnsupportedModel, match=rf"(?i)opset {newest}\b"):
        quantize(source, draw(source))


def test_nodes_of_one_name_get_names_of_their_own(build: Build, draw: Draw, plain: str, quantize: Quantize) -> None:
    source = build(plain)
    for node in source.graph.node:
        node.name = "same"
    names = [node.name for node in quantize(source, draw(source)).model.graph]
    assert len(set(names)) == len(names)
    assert "same" in names


def test_an_initializer_that_is_an_input_too_is_a_weight_and_a_note_says_so(
    build: Build, draw: Draw, plain: str, quantize: Quantize
) -> None:
    source = build(plain)
    source.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [8, 8]))
    result = quantize(source, draw(source))
    assert [value.name for value in result.model.graph.inputs] == ["x"]
    assert any("default" in note and "'w'" in note for note in result.notes)


def test_an_input_of_no_declared_shape_takes_what_the_data_have(
    build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, quantize: Quantize
) -> None:
    source = build("g (float[1,3,8,8] x) => (float[1,4,6,6] y) <float[4,3,3,3] w> { h = Conv(x, w)  y = Relu(h) }")
    samples = draw(source)
    for info in (*source.graph.input, *source.graph.output):
        info.type.tensor_type.ClearField("shape")
    quantized = ir.to_proto(quantize(source, samples).model)
    outputs = ([row["y"] for row in ran(model.SerializeToString(), samples)] for model in (source, quantized))
    assert sqnr(*outputs) > 15


@each_target
def test_samples_may_differ_in_size(
    target: str, build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf, quantize: Quantize
) -> None:
    source = build(
        """g (float[N,3,H,W] x) => (float[N,4,P,Q] y) <float[4,3,3,3] w, float[4,4,1,1] v> {
        h = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(h)  y = Conv(r, v) }"""
    )
    samples = [draw(source, 1, i, {"dims": f"H={4 + i}, W={12 - i}"})[0] for i in range(8)]
    quantized = proto_of(source, quantize(source, samples, target))
    outputs = ([row["y"] for row in ran(model.SerializeToString(), samples)] for model in (source, quantized))
    assert sqnr(*outputs) > 15


@each_target
def test_tensors_may_be_empty_in_some_samples(
    target: str, build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf, quantize: Quantize
) -> None:
    source = build(
        """g (float[N,8] x) => (float[M,4] y) <float[8,8] w, float[8,4] v, float least = {1.5}> {
        h = MatMul(x, w)  m = ReduceMax<axes = [1], keepdims = 0>(h)  g = Greater(m, least)
        s = Compress<axis = 0>(h, g)  r = Relu(s)  y = MatMul(r, v) }"""
    )
    samples = draw(source, 20)
    wanted = [row["y"] for row in ran(source.SerializeToString(), samples)]
    assert {len(y) == 0 for y in wanted} == {True, False}  # type: ignore[arg-type]
    quantized = proto_of(source, quantize(source, samples, target, keep_float=("ReduceMax", "named 0")))
    assert sqnr(wanted, [row["y"] for row in ran(quantized.SerializeToString(), samples)]) > 15


def test_a_dim_of_size_zero_goes_in(
    build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf, quantize: Quantize
) -> None:
    source = build(
        """g (float[N,8] x, float[N,0] none) => (float[N,4] y) <float[8,8] w, float[8,4] v> {
        h = MatMul(x, w)  c = Concat<axis = 1>(h, none)  y = MatMul(c, v) }"""
    )
    samples = draw(source)
    quantized = proto_of(source, quantize(source, samples))
    outputs = ([row["y"] for row in ran(model.SerializeToString(), samples)] for model in (source, quantized))
    assert sqnr(*outputs) > 15


def test_a_half_precision_part_stays_what_it_is(
    build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf, quantize: Quantize
) -> None:
    source = build(
        """g (float16[N,8] x) => (float[N,4] y) <float16[8,8] w, float[8,8] v, float16[8,4] u> {
        h = MatMul(x, w)  f = Cast<to = 1>(h)  r = MatMul(f, v)  t = Cast<to = 1>(u)  y = MatMul(r, t) }"""
    )
    samples = draw(source)
    quantized = proto_of(source, quantize(source, samples))
    outputs = ([row["y"] for row in ran(model.SerializeToString(), samples)] for model in (source, quantized))
    assert sqnr(*outputs) > 15
    assert sum(t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2 for t in quantized.graph.initializer) == 2


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_a_network_of_another_precision_is_quantized_or_refused_by_its_name(
    dtype: str, build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf, plain: str, quantize: Quantize
) -> None:
    source = build(plain.replace("float", dtype))
    samples = draw(source)
    try:
        quantized = proto_of(source, quantize(source, samples))
    except UnsupportedByTarget as error:
        assert re.search(dtype, str(error), re.IGNORECASE)  # noqa: PT017
    else:
        outputs = ([row["y"] for row in ran(model.SerializeToString(), samples)] for model in (source, quantized))
        assert sqnr(*outputs) > 15


@each_target
@pytest.mark.parametrize(
    "text",
    [
        """g (float[N,3,32,32] picture) => (float[N,5] y) <float[8,3,3,3] w, float[8,5] v> {
        h = Conv(picture, w)  r = Relu(h)  p = GlobalAveragePool(r)  f = Flatten(p)  y = MatMul(f, v) }""",
        """g (int64[N,S] input_ids, int64[N,S] attention_mask) => (float[N,S,8] y)
        <float[20,8] table, float[8,8] w, float[8,8] v, float one = {1}, float low = {-3.4e38}, int64[1] axes = {1}> {
        e = Gather(table, input_ids)  q = MatMul(e, w)  t = Transpose<perm = [0, 2, 1]>(e)  s = MatMul(q, t)
        f = Cast<to = 1>(attention_mask)  o = Sub(one, f)  l = Mul(o, low)  m = Unsqueeze(l, axes)
        a = Add(s, m)  p = Softmax(a)  c = MatMul(p, e)  y = MatMul(c, v) }""",
        """g (float[N,T] audio, float[2,N,8] state, int64 rate) => (float[N,4,U] y, float[2,N,8] after)
        <float[4,1,16] w, float[4,4,3] v, int64[1] axes = {1}> {
        u = Unsqueeze(audio, axes)  h = Conv<strides = [8]>(u, w)  r = Relu(h)  y = Conv(r, v)  after = Identity(state) }""",
    ],
    ids=["pictures", "words", "sound"],
)
def test_without_data_synthetic_samples_serve_and_a_note_says_so(
    text: str, target: str, build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf, quantize: Quantize
) -> None:
    source = build(text)
    result = quantize(source, None, target)
    assert any("synthetic" in note for note in result.notes)
    quantized = proto_of(source, result)
    judged = draw(source, 4, 1, {"dims": "T=64", "below.input_ids": 20, "below.attention_mask": 2})
    outputs = ([row["y"] for row in ran(model.SerializeToString(), judged)] for model in (source, quantized))
    assert sqnr(*outputs) > 12


def test_a_sequence_as_input_is_refused(build: Build, quantize: Quantize) -> None:
    source = build("g (seq(float[1,8]) x) => (float[1,8] y) <int64 at = {0}> { y = SequenceAt(x, at) }")
    with pytest.raises(UnsupportedModel, match="Input 'x' is no tensor"):
        quantize(source, None)


def test_an_operator_that_onnx_runtime_does_not_know_is_named(
    build: Build, draw: Draw, plain: str, quantize: Quantize
) -> None:
    source = build(plain.replace("Relu", "acme.Magic"), imports="acme 1")
    with pytest.raises(UnsupportedModel, match=r"acme.*Magic"):
        quantize(source, draw(source))


def test_a_network_of_a_thousand_layers_goes_in(build: Build, draw: Draw, quantize: Quantize) -> None:
    lines = [f"m{i} = MatMul(r{i}, w{i})  r{i + 1} = Relu(m{i})" for i in range(1000)]
    weights = ", ".join(f"float[2,2] w{i} = {{1, 0, 0, 1}}" for i in range(1000))
    source = build(f"g (float[1,2] r0) => (float[1,2] r1000) <{weights}> {{ {' '.join(lines)} }}")
    result = quantize(source, draw(source, 2), "integer", skip=("gptq",))
    assert sum(quantizer.role == "weight" for quantizer in result.plan.groups.values()) == 1000


@pytest.mark.parametrize(
    "title", ["a sequence output", "an input that is an output too", "ArgMax at the end of a classifier"]
)
def test_unusual_outputs_are_verified_too(title: str, build: Build, draw: Draw, ran: Ran, quantize: Quantize) -> None:
    case = next(case for case in _cases() if case.title == title)
    source, samples, _, _ = _float(case, build, draw, ran)
    verified = quantize(source, _stacked(samples), verify=True).verification
    assert verified is not None
    assert verified.sqnr_db > 15


def test_products_of_activations_alone_are_quantized_where_the_target_computes_them(
    draw: Draw, quantize: Quantize
) -> None:
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N,32,64] q, float[N,64,32] k, float[N,32,8] v) => (float[N,32,8] y)
        { s = MatMul(q, k) p = Softmax<axis=-1>(s) y = MatMul(p, v) }"""
    proto = onnx.parser.parse_model(text)
    samples = draw(proto, 16)
    result = quantize(proto, samples, "litert")
    assert result.plan.floats == {}
    assert "QuantizeLinear" in {node.op_type for node in result.model.graph}
    with pytest.raises(UnsupportedByTarget, match="multiplies two activations"):
        quantize(proto, samples, "onnxruntime")


def test_the_command_line_quantizes_a_file_with_weights_beside_it(
    build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from halfeven.cli import main

    source = build(
        "g (float[N,64] x) => (float[N,4] y) <float[64,64] w, float[64,4] v> { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"
    )
    samples = draw(source, 32)
    wanted = [row["y"] for row in ran(source.SerializeToString(), samples)]
    np.savez(tmp_path / "data.npz", **_stacked(samples))
    onnx.save(source, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    words = ["quantize", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "data.npz"), "--prefer", "size"]
    assert main([*words, "--no-verify", "-o", str(tmp_path / "out.onnx")]) == 0
    out = capsys.readouterr()
    assert "2 of 2 layers" in out.out
    assert sqnr(wanted, [row["y"] for row in ran((tmp_path / "out.onnx").read_bytes(), samples)]) > 15
