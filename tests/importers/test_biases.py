"""Promised: a network that was quantized for one runtime goes to another whatever its biases are: int32 codes become the
real numbers that they stand for, exactly; real ones become the codes that ONNX Runtime itself makes of them; a note says so.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import halfeven
from halfeven.deployment import open_quantized
from halfeven.exporters.formats import exporter_named
from halfeven.graph.plan import Plan, Site
from halfeven.run.ort import OrtExecutor

HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'
NET = """g (float[1,3,6,6] x) => (float[1,4] y) {
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2, b2)  d = GlobalAveragePool(c)
    e = Flatten(d)  y = Gemm<transB=1>(e, w3, b3) }"""
SHAPES = {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (4, 4, 3, 3), "b2": (4,), "w3": (4, 4), "b3": (4,)}
Quantized = Callable[..., Path]


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    def __init__(self) -> None:
        self.left = [{"x": x} for x in samples()]

    def get_next(self) -> Mapping[str, object] | None:
        return self.left.pop() if self.left else None


def samples() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((1, 3, 6, 6)).astype(np.float32) for _ in range(6)]


@pytest.fixture
def quantized(tmp_path: Path) -> Quantized:
    """A network as ONNX Runtime's own quantizer writes it, with these options."""
    proto = onnx.parser.parse_model(HEADER + NET)
    rng = np.random.default_rng(0)
    drawn = {k: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for k, s in SHAPES.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in drawn.items())
    for node in proto.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    onnx.save(proto, tmp_path / "float.onnx")

    def make(activations: QuantType, **options: object) -> Path:
        path = tmp_path / f"{activations.name}{len(options)}{'_'.join(options)}.onnx"
        quantize_static(
            tmp_path / "float.onnx", path, _Reader(), quant_format=QuantFormat.QDQ, activation_type=activations,
            weight_type=QuantType.QInt8, per_channel=True, extra_options=options,
        )  # fmt: skip
        return path

    return make


def outputs(path: Path) -> np.ndarray:
    run = OrtExecutor(path, optimize=False)
    return np.concatenate([run({"x": x})["y"] for x in samples()])


def kinds(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("name", ["qdq", "tensorrt-cache", "tensorrt-precision"])
def test_int32_biases_become_the_real_numbers_they_stand_for(name: str, quantized: Quantized, tmp_path: Path) -> None:
    theirs = quantized(QuantType.QInt8, ActivationSymmetric=True)
    assert onnx.TensorProto.INT32 in kinds(theirs)
    draft = open_quantized(theirs, target="tensorrt", format=name)
    assert any(note.startswith("3 int32 bias tensors made real, code * scale: tensorrt") for note in draft.notes)
    exporter_named(name)(draft, tmp_path / "out.onnx")
    if name == "qdq":
        assert onnx.TensorProto.INT32 not in kinds(tmp_path / "out.onnx")
        np.testing.assert_array_equal(outputs(theirs), outputs(tmp_path / "out.onnx"))


def test_scales_of_an_int32_target_on_a_float_model_give_the_same_network(quantized: Quantized, tmp_path: Path) -> None:
    theirs = quantized(QuantType.QInt8, ActivationSymmetric=True)
    wide = open_quantized(theirs, target="horizon")
    wide.plan.save(tmp_path / "plan.json")
    draft = open_quantized(wide.model, Plan.load(tmp_path / "plan.json"), target="tensorrt")
    assert all(draft.plan.groups[group].role != "bias" for group in draft.plan.sites.values())
    exporter_named("qdq")(draft, tmp_path / "out.onnx")
    np.testing.assert_array_equal(outputs(theirs), outputs(tmp_path / "out.onnx"))


@pytest.mark.parametrize("target", ["onnxruntime", "integer"])
def test_real_biases_become_the_codes_that_onnx_runtime_makes_of_them(
    target: str, quantized: Quantized, tmp_path: Path
) -> None:
    draft = open_quantized(quantized(QuantType.QUInt8, QuantizeBias=False), target=target)
    assert any(note.startswith("3 float bias tensors coded in int32 at input scale *") for note in draft.notes)
    exporter_named("qdq")(draft, tmp_path / "out.onnx")
    np.testing.assert_array_equal(outputs(quantized(QuantType.QUInt8)), outputs(tmp_path / "out.onnx"))


def test_a_network_with_real_biases_goes_to_c(quantized: Quantized, tmp_path: Path) -> None:
    draft = open_quantized(quantized(QuantType.QUInt8, QuantizeBias=False), target="integer", format="c")
    halfeven.export(draft, tmp_path / "net.c")
    assert (tmp_path / "net.c").exists()


def test_a_bias_too_large_for_its_codes_stays_real_and_is_named(quantized: Quantized) -> None:
    path = quantized(QuantType.QUInt8, QuantizeBias=False)
    model = ir.load(path)
    name = next(name for name in model.graph.initializers if name == "b2")
    model.graph.initializers[name].const_value = ir.tensor(np.array([1e9, 0, 0, 0], np.float32), name=name)
    draft = open_quantized(model, target="integer")
    assert any("1 bias tensor left float: no int32 codes" in note and "'b2'" in note for note in draft.notes)
    assert not any(isinstance(site, Site) and site.value == "b2" for site in draft.plan.sites)
