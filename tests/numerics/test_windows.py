"""Promised: windows stand where ONNX Runtime's do: sizes, what each sees, and how many elements a mean counts."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.integer_target import average_pool, max_pool
from halfeven.numerics.windows import Window, explicit_pads


def onnxruntime(kind: str, x: np.ndarray, **attributes: object) -> np.ndarray:
    """One operator of ONNX Runtime."""
    info = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
    node = helper.make_node(kind, ["x"], ["y"], **attributes)
    graph = helper.make_graph([node], "one", [info], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def drawn(seed: int) -> tuple[np.ndarray, Window]:
    """Codes and a window that fits them; every third of one axis."""
    rng = np.random.default_rng(seed)
    rank = 1 if seed % 3 == 0 else 2
    kernel, strides = (tuple(int(v) for v in rng.integers(1, 4, rank)) for _ in range(2))
    pads = tuple(int(rng.integers(0, kernel[i % rank])) for i in range(2 * rank))
    size = [int(rng.integers(k, 10)) for k in kernel]
    x = rng.integers(-128, 128, (2, 3, *size)).astype(np.int8)
    return x, Window(kernel, strides, pads, (1,) * rank, bool(seed % 2))


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_means_are_those_of_onnx_runtime(seed: int, counted: bool) -> None:
    x, window = drawn(seed)
    attributes = {"kernel_shape": window.kernel, "strides": window.strides, "pads": window.pads}
    real = onnxruntime(
        "AveragePool",
        x.astype(np.float32) + 3,
        ceil_mode=int(window.ceil_mode),
        count_include_pad=int(counted),
        **attributes,
    )
    assert real.shape[2:] == window.sizes(x.shape[2:])
    found = average_pool(x, Affine(0.5, -3), Output(Affine(0.25, 5), -128, 127), window, counted)
    assert np.abs(found - np.clip(real * 2.0 + 5, -128, 127)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("seed", range(40))
def test_the_largest_codes_are_those_of_onnx_runtime(seed: int) -> None:
    x, window = drawn(seed)
    wanted = onnxruntime(
        "MaxPool",
        x,
        kernel_shape=window.kernel,
        strides=window.strides,
        pads=window.pads,
        ceil_mode=int(window.ceil_mode),
    )
    found = max_pool(x, window)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("seed", range(12))
def test_automatic_pads_are_those_of_onnx_runtime(seed: int, mode: str) -> None:
    x, window = drawn(seed)
    strides = tuple(min(s, k) for s, k in zip(window.strides, window.kernel, strict=True))  # else the runtime refuses
    pads = explicit_pads(mode, x.shape[2:], window.kernel, strides, window.dilations, ())
    wanted = onnxruntime("MaxPool", x, kernel_shape=window.kernel, strides=strides, auto_pad=mode)
    found = max_pool(x, Window(window.kernel, strides, pads, window.dilations))
    np.testing.assert_array_equal(found, wanted)


def test_one_axis_is_the_second_of_two() -> None:
    window = Window((3,), (2,), (1, 0), (1,)).as_2d()
    assert window == Window((1, 3), (1, 2), (0, 1, 0, 0), (1, 1))
    assert window.as_2d() is window
