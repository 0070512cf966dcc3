"""Promised: operators give on processors without VNNI, and on Arm64, the integers that runtimes gave there.

The recordings (golden/README.md) are small random operators that ONNX Runtime and LiteRT ran under emulators; whoever
has those records them again with `benchmarks/record_operators.py`.
"""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from record_operators import KINDS, PLACES, TURNS, Cases, opened

from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.importers.litert.reader import import_tflite
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named

GOLDEN = Path(__file__).parents[1] / "golden"
ORT, LITERT = (opened(GOLDEN / f"{name}_operators.npz") for name in ("ort", "litert"))
ON_ARM = ("litert@optimized-arm64", "litert@xnnpack-arm64")


def part(case: dict[str, np.ndarray], folder: str) -> dict[str, np.ndarray]:
    """The arrays of a case below a name."""
    return {key.removeprefix(f"{folder}/"): x for key, x in case.items() if key.startswith(f"{folder}/")}


def outputs(model: ir.Model, machine: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the machine computes; only a range of real numbers may be found on real numbers."""
    name_everything(model)
    executor = IntegerExecutor(lower(model), machine_named(machine), threads=1)
    on_codes = [id(op) for op in executor.integer_ops]
    assert {op.kind for op in executor.network.ops if id(op) not in on_codes} <= {"DynamicQuantizeLinear"}
    return {name: np.asarray(x) for name, x in executor(feeds).items()}


@pytest.mark.parametrize("place", sorted({place for place, _ in PLACES}))
@pytest.mark.parametrize("name", sorted(ORT))
def test_an_operator_of_onnx_runtime_is_the_recorded_one(name: str, place: str) -> None:
    case, machine = ORT[name], PLACES[place, name.endswith("signed")]
    found = outputs(ir.from_proto(onnx.load_from_string(case["model"].tobytes())), machine, part(case, "x"))
    expected = part(case, place)
    assert found.keys() == expected.keys()
    for output, x in expected.items():
        assert found[output].dtype == x.dtype
        np.testing.assert_array_equal(found[output], x)


@pytest.mark.parametrize("machine", ON_ARM)
@pytest.mark.parametrize("name", sorted(LITERT))
def test_an_operator_of_litert_on_arm64_is_the_recorded_one(name: str, machine: str) -> None:
    case = LITERT[name]
    model = import_tflite(memoryview(case["model"].tobytes()), "recorded.tflite").model
    (found,) = outputs(model, machine, part(case, "x")).values()
    (expected,) = part(case, machine).values()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def parting(cases: Cases, one: str, other: str) -> set[str]:
    """The cases whose outputs differ in two places."""
    return {
        name
        for name, case in cases.items()
        if not all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(
            part(case, one).values(), part(case, other).values(), strict=True))
    }  # fmt: skip


def test_the_recordings_have_what_tells_the_processors_and_the_kernels_apart() -> None:
    assert set(ORT) == {f"{kind}, {title}" for kind in KINDS for title, _, _ in TURNS}
    apart = {name.split(",")[0] for name in parting(ORT, "x86_avx2", "arm64")}
    assert apart >= {"Conv", "Gemm", "Add", "DynamicQuantizeLinear"}
    assert {"MUL", "MEAN", "TRANSPOSE_CONV"} <= parting(LITERT, *ON_ARM)
