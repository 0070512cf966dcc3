"""Promised: onnx's own tests of its operators on codes pass, run as `onnx.backend.test` runs them.

Every node test of QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, ConvInteger, QLinearMatMul and
QLinearConv is one test here, whatever its types: integers of 2 to 16 bits, float8, float4, blocked, per axis. Made are
the cases of these operators alone: those of all that ONNX has take longer to make than these take to run.
"""

import re
import warnings
from importlib import import_module

import onnx
import pytest

from halfeven.run.onnx_backend import HalfevenBackend

OPERATORS = (
    *("quantizelinear", "dequantizelinear", "dynamicquantizelinear"),
    *("matmulinteger", "convinteger", "qlinearmatmul", "qlinearconv"),
)
NAMES = r"test_(de)?quantizelinear|test_dynamicquantizelinear|test_qlinear(conv|matmul)|test_(basic_)?convinteger|test_matmulinteger"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # onnx computes infinities when it makes its cases
    from onnx.backend.test import BackendTest
    from onnx.backend.test.case.node import _NodeTestCases
    from onnx.backend.test.case.test_case import TestCase

    for name in OPERATORS:
        import_module(f"onnx.backend.test.case.node.{name}")

CASES = {case.name: case for case in _NodeTestCases if re.match(NAMES, case.name)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_node_gives_what_onnx_says(case: TestCase) -> None:
    assert case.data_sets
    prepared = HalfevenBackend.prepare(case.model, "CPU")
    for given, wanted in case.data_sets:
        inputs, outputs = (
            [onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in arrays]
            for arrays in (given, wanted)
        )
        BackendTest.assert_similar_outputs(outputs, prepared.run(inputs), case.rtol, case.atol)


def test_all_operators_have_their_tests() -> None:
    assert len(CASES) >= 43
