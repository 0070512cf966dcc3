"""Promised: networks for a DPU or for Horizon's BPU run in integers as their makers document it.

The DPU's scales are powers of two, so that real numbers are exact: where it rounds half to even (method 8), it must
give every integer that ONNX Runtime gives.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven import demo
from halfeven.errors import BadOption, UnsupportedModel
from halfeven.graph.lower import lower
from halfeven.graph.model import load
from halfeven.graph.names import name_everything
from halfeven.numerics.elementwise import Affine, Output
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.shift_target import add, leaky_relu, mean, mean_factor, multiply
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import MACHINES, machine_named
from halfeven.run.ort import OrtExecutor

Build = Callable[..., ir.Model]
HALVES = np.array([-5, -3, -1, 1, 3, 5])
TABLE = {  # of -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, by number of the method
    2: [-2, -1, 0, 1, 2, 3],
    3: [-3, -2, -1, 1, 2, 3],
    4: [-3, -2, -1, 0, 1, 2],
    5: [-2, -1, 0, 0, 2, 2],
    6: [-2, -1, 0, 0, 1, 2],
    7: [-2, -1, 0, 1, 2, 3],
    8: [-2, -2, 0, 0, 2, 2],
}


def network(target: str, tmp_path: Path) -> tuple[ir.Model, np.ndarray]:
    home = Path(demo.__file__).parent
    pictures = np.load(home / "calibration.npz")["x"][:16, None].astype(np.float32) / np.float32(255)
    halfeven.quantize(str(home / "fashion_mnist_mbv2.onnx"), pictures, target=target, verify=False).save(
        tmp_path / "net.onnx"
    )
    held = load(str(tmp_path / "net.onnx"))
    name_everything(held)
    return held, pictures


def halved(build: Build, bias: int, bias_scale: float) -> ir.Model:
    return build(
        "g (int8[6,1] x) => (int8[6,1] z) <float s, float b, int8 zero, int8[1,1] w, int8[1] c, float half> {"
        " a = DequantizeLinear(x, half, zero) v = DequantizeLinear(w, s, zero) k = DequantizeLinear(c, b, zero)"
        " o = Gemm(a, v, k) z = QuantizeLinear(o, s, zero) }",
        opset=21,
        s=np.float32(1),
        b=np.float32(bias_scale),
        zero=np.int8(0),
        w=np.ones((1, 1), np.int8),
        c=np.array([bias], np.int8),
        half=np.float32(0.5),
    )


@pytest.mark.parametrize("method", TABLE)
def test_a_layer_rounds_halves_as_the_method_says(build: Build, method: int) -> None:
    machine = machine_named("vitis-dpu" if method == 2 else f"vitis-dpu@method{method}")
    run = IntegerExecutor(lower(halved(build, 0, 1.0)), machine)
    assert len(run.integer_ops) == len(run.network.ops)
    assert run({"x": HALVES.astype(np.int8)[:, None]})["z"].ravel().tolist() == TABLE[method]


@pytest.mark.parametrize(("scale", "moved"), [(4.0, 8), (0.5, 1), (0.25, 1), (0.125, 0)])
def test_a_bias_is_shifted_to_the_accumulator(build: Build, scale: float, moved: int) -> None:
    run = IntegerExecutor(lower(halved(build, 1, scale)), machine_named("vitis-dpu"))
    expected = np.floor((HALVES + moved + 1) / 2)
    assert run({"x": HALVES.astype(np.int8)[:, None]})["z"].ravel().tolist() == expected.tolist()


def test_sums_products_and_slopes_are_exact_before_they_round() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(-128, 128, (2, 4000))
    out = Output(Affine(2.0**-3), -128, 127)
    scales, rule = (2.0**-6, 2.0**-4), Rounding.HALF_UP
    real = np.clip(np.floor((a * scales[0] + b * scales[1]) * 8 + 0.5), -128, 127)
    np.testing.assert_array_equal(add(a, b, scales, out, rule), real)
    real = np.clip(np.floor(a * scales[0] * b * scales[1] * 8 + 0.5), -128, 127)
    np.testing.assert_array_equal(multiply(a, b, scales, out, rule), real)
    slope = np.where(a >= 0, a, a * 26 / 256) * scales[0] * 8
    np.testing.assert_array_equal(leaky_relu(a, 0.1, scales[0], out, rule), np.floor(slope + 0.5))


@pytest.mark.parametrize(
    ("kernel", "factor"),
    [((3, 3), (7, 6)), ((5, 5), (10, 8)), ((7, 7), (21, 10)), ((14, 14), (21, 12)), ((2, 2), (1, 2)), ((4, 2), (1, 3))],
)
def test_a_mean_is_a_product_and_a_shift(kernel: tuple[int, int], factor: tuple[int, int]) -> None:
    assert mean_factor(kernel) == factor
    out = Output(Affine(2.0**-5), -128, 127)
    sums = np.arange(-300, 300)
    expected = np.clip(np.floor(sums * factor[0] / 2.0 ** factor[1] + 0.5), -128, 127)
    np.testing.assert_array_equal(mean(sums, kernel, 2.0**-5, out, Rounding.HALF_UP), expected)


def test_half_to_even_the_dpu_gives_every_integer_of_onnxruntime(tmp_path: Path) -> None:
    held, pictures = network("vitis-dpu", tmp_path)
    run = IntegerExecutor(lower(held), machine_named("vitis-dpu@method8"))
    assert {op.kind for op in run.integer_ops} >= {"Conv", "Add", "ReduceMean", "Gemm"}
    made = {v.name for node in held.graph for v in node.outputs}
    watch = tuple(name for name, tensor in run.tensors.items() if tensor.coded and name in made)
    assert len(watch) > 30
    theirs, ours = OrtExecutor(held, watch)({"input": pictures[:2]}), run({"input": pictures[:2]}, watch)
    assert [name for name in watch if (np.asarray(ours[name]) != np.asarray(theirs[name])).any()] == []
    other = IntegerExecutor(lower(held), machine_named("vitis-dpu"))({"input": pictures[:2]}, watch)
    assert any((np.asarray(ours[name]) != np.asarray(other[name])).any() for name in watch)


@pytest.mark.parametrize(
    ("name", "expected"), [("journey6", [-2, -2, 0, 0, 2, 2]), ("journey6<3.0.31", [-2, -1, 0, 1, 2, 3])]
)
def test_journey6_rounds_halves_as_its_version_does(build: Build, name: str, expected: list[int]) -> None:
    held = build(
        "g (float[6] x) => (int8[6] z) <float s, int8 zero> { z = QuantizeLinear(x, s, zero) }",
        opset=21,
        s=np.float32(1),
        zero=np.int8(0),
    )
    run = IntegerExecutor(lower(held), machine_named(name))
    assert run({"x": (HALVES / 2).astype(np.float32)})["z"].tolist() == expected


def test_a_network_for_horizon_runs_in_integers(tmp_path: Path) -> None:
    held, pictures = network("horizon", tmp_path)
    run = IntegerExecutor(lower(held), machine_named("journey6"))
    assert {op.kind for op in run.network.ops} - {op.kind for op in run.integer_ops} <= {"ReduceMean"}
    (ours,), (theirs,) = (way({"input": pictures[:4]}).values() for way in (run, OrtExecutor(held)))
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 0.2 * np.abs(np.asarray(theirs)).max()


@pytest.mark.parametrize(
    ("name", "grid", "zero", "scale", "said"),
    [
        ("vitis-dpu", "uint8", 0, 1.0, "'q': they are uint8.*--target vitis-dpu"),
        ("vitis-dpu@method3", "int8", 3, 1.0, "'q': they have a zero point.*powers of two"),
        ("vitis-dpu", "int8", 0, 0.3, "'q': their scale, 0.3, is no power of two"),
        ("vitis-dpu", "int16", 0, 1.0, "'q': they are int16"),
        ("journey6", "uint8", 0, 0.3, "journey6 has no codes like those of 'q': they are uint8.*--target horizon"),
        ("journey6<3.0.31", "int8", 3, 0.3, "'q': they have a zero point.*--target horizon"),
        ("vitis-dpu", "int8", 0, 0.25, ""),
        ("journey6", "int8", 0, 0.3, ""),
        ("journey6", "int16", 0, 0.3, ""),
    ],
)
def test_codes_that_no_such_device_has_are_refused(
    build: Build, name: str, grid: str, zero: int, scale: float, said: str
) -> None:
    held = build(
        f"g (float[6] x) => (float[6] y) <float s, {grid} zero>"
        " { q = QuantizeLinear(x, s, zero) y = DequantizeLinear(q, s, zero) }",
        opset=21,
        s=np.float32(scale),
        zero=np.asarray(zero, grid),
    )
    if said:
        with pytest.raises(UnsupportedModel, match=said):
            IntegerExecutor(lower(held), machine_named(name))
    else:
        run = IntegerExecutor(lower(held), machine_named(name))
        assert run({"x": np.full(6, scale, np.float32)}, ["q"])["q"].tolist() == [1] * 6


def test_each_machine_says_what_it_rests_on() -> None:
    for name in MACHINES:
        if name.startswith(("vitis-dpu", "journey6")):
            assert "documented" in MACHINES[name].evidence
    with pytest.raises(BadOption, match="vitis-dpu"):
        machine_named("vitis-dpu@method9")
