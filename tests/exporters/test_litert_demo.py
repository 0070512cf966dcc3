"""Promised: the network that Halfeven ships, exported to a .tflite file, keeps its accuracy under each kernel set of
LiteRT and in TensorFlow Lite Micro, in every mode, and each of its layers computes the integers that `numerics` defines
for those kernels, all of them.
"""

from pathlib import Path

import numpy as np
import pytest

from halfeven import api, errors
from halfeven.draft import Draft
from halfeven.exporters.litert.write import to_litert
from halfeven.numerics.integer_ops import conv2d, matmul
from halfeven.numerics.requant import Requant, requantize
from halfeven.run.litert import KERNELS, Port, open_litert
from halfeven.run.ort import OrtExecutor
from halfeven.run.tflite_micro import open_tflite_micro
from halfeven.stats.distance import sqnr_db

pytest.importorskip("ai_edge_litert")
tables = pytest.importorskip("ai_edge_litert.schema_py_generated")

DEMO = Path(errors.__file__).parent / "demo"
MODEL = DEMO / "fashion_mnist_mbv2.onnx"
FLAVOURS = {"xnnpack": Requant.FLOAT32_HALF_EVEN, "optimized": Requant.NEON, "reference": Requant.DOUBLE_ROUNDING}
FULLY_CONNECTED = {**FLAVOURS, "reference": Requant.FLOAT64_HALF_AWAY}


def pictures(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as the network was trained on, shape (count, 1, 28, 28), and their classes."""
    with np.load(DEMO / f"{name}.npz", allow_pickle=False) as stored:
        x = ((stored["x"][:count, None].astype(np.float32) / 255 - 0.2860) / 0.3530).astype(np.float32)
        return x, stored["y"][:count] if "y" in stored else np.zeros(count)


def quantized(target: str) -> Draft:
    return api.quantize(MODEL, pictures("calibration", 100)[0], target=target, verify=False, skip=("gptq",)).draft


@pytest.fixture(scope="module")
def draft() -> Draft:
    return quantized("litert")


@pytest.fixture(scope="module")
def file(draft: Draft, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("litert") / "demo.tflite"
    path.write_bytes(to_litert(draft).data)
    return path


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_demo_keeps_its_accuracy(file: Path, kernels: str) -> None:
    x, classes = pictures("test", 300)
    floating = OrtExecutor(MODEL)({"input": x})["logits"]
    found = open_litert(file, kernels)({"input": channels_last(x)})["logits"]
    assert sqnr_db(floating, found) > 28
    assert abs((found.argmax(1) == classes).mean() - (floating.argmax(1) == classes).mean()) <= 0.02


def test_only_the_borders_of_the_demo_run_in_real_numbers(draft: Draft) -> None:
    made = to_litert(draft)
    assert (made.integer, made.operators) == (made.operators - 2, made.operators)
    whole = to_litert(draft, io="int8")
    assert whole.integer == whole.operators == made.integer
    assert not any("transpose" in note for note in made.notes)


def test_codes_go_in_and_out_where_they_are_asked_for(draft: Draft, file: Path, tmp_path: Path) -> None:
    path = tmp_path / "codes.tflite"
    path.write_bytes(to_litert(draft, io="int8").data)
    codes, reals = open_litert(path), open_litert(file)
    x = channels_last(pictures("test", 8)[0])
    port, out = codes.inputs[0], codes.outputs[0]
    assert port.dtype == out.dtype == np.int8
    given = reals.tensors({"input": x})["input_quantized"]
    made = codes({"input": given})["logits"]
    assert out.zero_point is not None
    assert out.scale is not None
    real = (made - out.zero_point).astype(np.float32) * out.scale
    np.testing.assert_array_equal(real, reals({"input": x})["logits"])


def test_tensorflow_lite_micro_differs_from_the_reference_kernels_in_its_last_layer_alone(file: Path) -> None:
    """Both compute convolutions alike; of FULLY_CONNECTED the one rounds twice, the other in float64."""
    pytest.importorskip("tflite_micro")
    x = channels_last(pictures("test", 30)[0])
    (found,) = open_tflite_micro(file)(x)
    reference = open_litert(file, "reference")
    values, meaning = reference.tensors({"input": x}), reference.meanings()
    _, (source, weight, bias), y, options = next(op for op in operators(file) if op[0] == "FULLY_CONNECTED")
    zero = meaning[source].zero_point
    assert zero is not None
    sums = values[bias].astype(np.int64)
    acc = accumulated("FULLY_CONNECTED", values[source], values[weight], sums, int(zero[0]), options)
    codes = expected(Requant.DOUBLE_ROUNDING, acc, meaning[source], meaning[weight], meaning[y])
    scale, shift = meaning[y].scale, meaning[y].zero_point
    assert scale is not None
    np.testing.assert_array_equal(found, (codes - shift).astype(np.float32) * scale)


@pytest.mark.parametrize(("mode", "decibels"), [("dynamic", 30), ("weights", 34), ("float", 60)])
def test_weights_alone_keep_more(draft: Draft, mode: str, decibels: float, tmp_path: Path) -> None:
    x = pictures("test", 50)[0]
    path = tmp_path / "m.tflite"
    made = to_litert(draft, mode=mode)
    path.write_bytes(made.data)
    assert any("35 layers with int8 weights" in note for note in made.notes) == (mode == "dynamic")
    floating = OrtExecutor(draft.model)({"input": x})["logits"]
    for kernels in KERNELS:
        assert sqnr_db(floating, open_litert(path, kernels)({"input": channels_last(x)})["logits"]) > decibels


def test_sixteen_bits_are_nearly_float(tmp_path: Path) -> None:
    x = pictures("test", 20)[0]
    draft = api.quantize(MODEL, pictures("calibration", 100)[0], target="litert-int16", verify=False).draft
    made = to_litert(draft, io="int16")
    path = tmp_path / "m.tflite"
    path.write_bytes(made.data)
    runner = open_litert(path, "reference")
    port, out = runner.inputs[0], runner.outputs[0]
    assert made.integer == made.operators
    assert port.scale is not None
    codes = np.clip(np.rint(channels_last(x) / port.scale), -32768, 32767).astype(np.int16)
    assert out.scale is not None
    found = runner({"input": codes})["logits"] * out.scale
    assert sqnr_db(OrtExecutor(MODEL)({"input": x})["logits"], found) > 43


# ------------------------------------------------------------------------------------ integers of every layer


def operators(path: Path) -> list[tuple[str, list[str], str, object]]:
    """Code, names of inputs and output, and options of a file's operators."""
    data = path.read_bytes()
    model = tables.ModelT.InitFromObj(tables.Model.GetRootAsModel(data, 0))
    names = {v: k for k, v in vars(tables.BuiltinOperator).items() if isinstance(v, int)}
    graph = model.subgraphs[0]
    labels = [tensor.name.decode() for tensor in graph.tensors]
    return [
        (
            names[model.operatorCodes[op.opcodeIndex].builtinCode],
            [labels[i] for i in op.inputs],
            labels[op.outputs[0]],
            op.builtinOptions,
        )
        for op in graph.operators
    ]


def accumulated(code: str, x: np.ndarray, w: np.ndarray, bias: np.ndarray, zero: int, options: object) -> np.ndarray:
    """The integer sums of a layer, channels last; w as the file holds it."""
    if code == "FULLY_CONNECTED":
        return matmul(x, w.T, zero, 0, bias)
    deep = code == "DEPTHWISE_CONV_2D"
    weight = w.transpose(3, 0, 1, 2) if deep else w.transpose(0, 3, 1, 2)
    strides = (options.strideH, options.strideW)  # type: ignore[attr-defined]
    pads = [0, 0, 0, 0]
    if options.padding == 0:  # type: ignore[attr-defined]
        for axis in range(2):
            size, kernel, step = x.shape[1 + axis], weight.shape[2 + axis], strides[axis]
            total = max((-(-size // step) - 1) * step + kernel - size, 0)
            pads[axis], pads[axis + 2] = total // 2, total - total // 2
    sums = conv2d(x.transpose(0, 3, 1, 2), weight, zero, 0, bias, strides, pads, (1, 1), x.shape[3] if deep else 1)
    return sums.transpose(0, 2, 3, 1)


def expected(flavour: Requant, acc: np.ndarray, x: Port, w: Port, y: Port) -> np.ndarray:
    """Codes from sums, with the multiplier in the precision in which these kernels compute it."""
    assert x.scale is not None
    assert w.scale is not None
    assert y.scale is not None
    assert y.zero_point is not None
    if flavour is Requant.FLOAT32_HALF_EVEN:
        multiplier = ((x.scale * w.scale) / y.scale).astype(np.float64)
    else:
        multiplier = x.scale.astype(np.float64) * w.scale.astype(np.float64) / y.scale.astype(np.float64)
    return requantize(acc, multiplier, int(y.zero_point[0]), -128, 127, flavour)


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_layer_computes_the_integers_that_numerics_defines(file: Path, kernels: str) -> None:
    runner = open_litert(file, kernels)
    values = runner.tensors({"input": channels_last(pictures("test", 6)[0])})
    meaning: dict[str, Port] = runner.meanings()
    layers = [op for op in operators(file) if op[0] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    assert len(layers) == 35
    for code, (x, w, bias), y, options in layers:
        zero = meaning[x].zero_point
        assert zero is not None
        acc = accumulated(code, values[x], values[w], values[bias].astype(np.int64), int(zero[0]), options)
        flavour = (FULLY_CONNECTED if code == "FULLY_CONNECTED" else FLAVOURS)[kernels]
        codes = expected(flavour, acc, meaning[x], meaning[w], meaning[y])
        np.testing.assert_array_equal(values[y], codes, err_msg=f"{code} {y}")
