"""Promised: a product of two activations on codes is one BATCH_MATMUL of int8 or int16, whose integers each set of
LiteRT's kernels and TensorFlow Lite Micro compute as their machines do; a clamp that stands alone means the same there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halfeven.draft import Draft
from halfeven.exporters.litert.write import Written, to_litert
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.importers.litert.reader import load_tflite
from halfeven.numerics.grid import INT8, INT16
from halfeven.numerics.scheme import QParams, Scheme, ZeroRule
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.litert import open_litert
from halfeven.run.ort import OrtExecutor
from halfeven.run.tflite_micro import open_tflite_micro
from halfeven.targets.litert import LITERT, LITERT_INT16

tables = pytest.importorskip("ai_edge_litert.schema_py_generated")

ATTENTION = (
    "g (float[1,2,7,6] q, float[1,2,9,6] k, float[1,2,9,5] v) => (y) "
    "{ t = Transpose<perm = [0,1,3,2]>(k) s = MatMul(q, t) p = Softmax<axis = -1>(s) y = MatMul(p, v) }"
)
POOLED = (
    "g (float[1,4,9,8] x) => (y) <float lo = {LO}, float hi = {HI}>"
    "{ m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x) c = Clip(m, lo, hi) y = Transpose<perm = [0,1,3,2]>(c) }"
)
AFFINE, SYMMETRIC = Scheme(INT8, zero_point=ZeroRule.FREE), Scheme(INT8)
MACHINES = {
    "litert@xnnpack": "xnnpack",
    "litert@optimized-x86": "optimized",
    "litert@reference": "reference",
    "tflite-micro": "micro",
}


def planned(draft: Draft, groups: Sequence[tuple[Scheme, str]], fixed: Mapping[str, tuple[float, int]]) -> Draft:
    """The draft with a quantizer for each group of values; `fixed` ones have their scale and zero point."""
    quantizers: dict[int, Quantizer] = {}
    for number, (scheme, names) in enumerate(groups):
        given = fixed.get(names)
        params = None if given is None else QParams(
            scheme, np.array([given[0]], np.float32), np.array([given[1]], np.int32))  # fmt: skip
        quantizers[number] = Quantizer(scheme, "by hand", params=params)
    sites = {Site(name): number for number, (_, names) in enumerate(groups) for name in names.split()}
    return replace(draft, plan=Plan(quantizers, sites))


def attention(build, samples, placed, calibrated, second: Scheme) -> tuple[Draft, list]:
    """Attention in codes of 8 bits, of 16 where `second`, the scheme of keys and values, has these."""
    model = build(ATTENTION)
    data = samples(model, 4)
    wide = second.grid == INT16
    first = second if wide else AFFINE
    draft = placed(model, LITERT_INT16 if wide else LITERT, data)
    groups = [(first, "q"), (second, "k t"), (first, "s"), (first, "p"), (second, "v"), (first, "y")]
    fixed = {"p": (1 / 32768, 0) if wide else (1 / 256, -128)}
    return calibrated(planned(draft, groups, fixed), data), data


def operators(written: Written) -> list[tuple[str, object, list[object]]]:
    """Name, options and tensors (inputs, then the output) of a file's operators."""
    model = tables.ModelT.InitFromObj(tables.Model.GetRootAsModel(written.data, 0))
    names = {code: name for name, code in vars(tables.BuiltinOperator).items() if isinstance(code, int)}
    graph = model.subgraphs[0]
    return [
        (
            names[model.operatorCodes[op.opcodeIndex].builtinCode],
            op.builtinOptions,
            [graph.tensors[i] for i in (*op.inputs, op.outputs[0])],
        )
        for op in graph.operators
    ]


def computed(path: Path, machine: str, feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """What the machine and the runtime give for a file whose inputs and output are codes, and how much was real."""
    model = load_tflite(path).model
    name_everything(model)
    network = lower(model)
    executor = IntegerExecutor(network, machine_named(machine), 1)
    (ours,) = executor(dict(feeds)).values()
    real = len(network.ops) - len(executor.integer_ops)
    if machine == "tflite-micro":
        pytest.importorskip("tflite_micro")
        return ours, open_tflite_micro(path)(*feeds.values())[0], real
    (theirs,) = open_litert(path, MACHINES[machine])(feeds).values()
    return ours, theirs, real


def codes_for(path: Path, seed: int) -> dict[str, np.ndarray]:
    """Random codes for a file's inputs."""
    rng = np.random.default_rng(seed)
    ports = open_litert(path, "reference").inputs
    limits = {port.name: np.iinfo(port.dtype) for port in ports}
    return {
        port.name: rng.integers(limits[port.name].min, limits[port.name].max + 1, port.shape).astype(port.dtype)
        for port in ports
    }


@pytest.mark.parametrize("machine", MACHINES)
def test_both_products_of_attention_are_the_machines_integers(
    machine, build, samples, placed, calibrated, tmp_path
) -> None:
    draft, _ = attention(build, samples, placed, calibrated, SYMMETRIC)
    written, path = to_litert(draft, io="int8"), tmp_path / "a.tflite"
    path.write_bytes(written.data)
    assert (written.integer, [name for name, _, _ in operators(written)].count("BATCH_MATMUL")) == (
        written.operators,
        2,
    )
    for seed in range(8):
        ours, theirs, real = computed(path, machine, codes_for(path, seed))
        np.testing.assert_array_equal(ours, theirs)
        assert real == 0


def test_products_are_within_one_code_of_the_qdq_model(build, samples, placed, calibrated, tmp_path) -> None:
    draft, data = attention(build, samples, placed, calibrated, SYMMETRIC)
    path = tmp_path / "a.tflite"
    path.write_bytes(to_litert(draft).data)
    run = OrtExecutor(to_qdq(draft), optimize=False)
    step = float(draft.plan.at(Site("y")).params.scale)
    for kernels in ("xnnpack", "optimized", "reference"):
        for _, feeds in data:
            found = open_litert(path, kernels)(feeds)["y"]
            assert np.abs(found - run(feeds)["y"]).max() <= 1.01 * step


def test_products_of_sixteen_bits_are_integers(build, samples, placed, calibrated, tmp_path) -> None:
    draft, data = attention(build, samples, placed, calibrated, Scheme(INT16))
    written, path = to_litert(draft), tmp_path / "a.tflite"
    path.write_bytes(written.data)
    products = [ports for name, _, ports in operators(written) if name == "BATCH_MATMUL"]
    assert [{port.type for port in ports} for ports in products] == [{tables.TensorType.INT16}] * 2
    floating = OrtExecutor(draft.model, optimize=False)
    for _, feeds in data:
        assert np.abs(open_litert(path, "reference")(feeds)["y"] - floating(feeds)["y"]).max() < 2e-3


def test_keys_that_are_transposed_lie_with_their_sums_together(build, samples, placed, calibrated) -> None:
    draft, _ = attention(build, samples, placed, calibrated, SYMMETRIC)
    written = to_litert(draft)
    (_, scores, _), (_, mixed, _) = [op for op in operators(written) if op[0] == "BATCH_MATMUL"]
    assert (scores.adjX, scores.adjY, mixed.adjY) == (False, True, False)
    assert not any("transpose" in note for note in written.notes)


def test_a_second_operand_with_a_zero_point_is_told_to_be_slow(build, samples, placed, calibrated) -> None:
    fast = to_litert(attention(build, samples, placed, calibrated, SYMMETRIC)[0])
    slow = to_litert(attention(build, samples, placed, calibrated, AFFINE)[0])
    assert not any("zero point" in note for note in fast.notes)
    assert any(note.startswith("XNNPACK leaves 2 products of two activations") for note in slow.notes)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(("low", "high", "names"), [(0, 6, {"RELU6"}), (-1, 1, {"MAXIMUM", "MINIMUM"})])
def test_a_clamp_alone_has_one_scale_and_is_the_same_in_micro(
    low, high, names, machine, build, samples, placed, calibrated, tmp_path
) -> None:
    """RELU6 limits the input's codes in Micro, whatever the output's scale is; RELU_N1_TO_1 is not there at all."""
    model = build(POOLED.replace("LO", str(low)).replace("HI", str(high)))
    data = samples(model, 4, scale=4)
    groups = [(AFFINE, "x m"), (AFFINE, "c y")]
    draft = calibrated(planned(placed(model, LITERT, data), groups, {"x m": (0.07, 11), "c y": (0.06, -20)}), data)
    written, path = to_litert(draft, io="int8"), tmp_path / "c.tflite"
    path.write_bytes(written.data)
    alone = [(name, ports) for name, _, ports in operators(written) if name in ("RELU6", "MAXIMUM", "MINIMUM")]
    assert {name for name, _ in alone} == names
    for _, (source, *_, made) in alone:
        assert source.quantization.scale == made.quantization.scale == pytest.approx(0.06)
        assert source.quantization.zeroPoint == made.quantization.zeroPoint == -20
    ours, theirs, real = computed(path, machine, codes_for(path, 3))
    np.testing.assert_array_equal(ours, theirs)
    assert real == 0
    expected = OrtExecutor(to_qdq(draft), optimize=False)(data[0][1])["y"]
    floats = tmp_path / "f.tflite"
    floats.write_bytes(to_litert(draft, layout="onnx").data)
    if machine != "tflite-micro":
        found = open_litert(floats, MACHINES[machine])(data[0][1])["y"]
    else:
        found = open_tflite_micro(floats)(data[0][1]["x"])[0]
    assert np.abs(found - expected).max() <= 0.0601
