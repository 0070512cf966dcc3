"""Promised: onnx's own tests of its operators on codes pass, run as `onnx.backend.test` prescribes.

Every node test of QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, MatMulInteger, ConvInteger, QLinearMatMul and
QLinearConv is one test here, whatever its types: integers of 2 to 16 bits, float8, float4, blocked, per axis.
"""

import re
import unittest
import warnings

from halfeven.run.onnx_backend import HalfevenBackend

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # onnx computes infinities when it makes its cases
    from onnx.backend.test import BackendTest

    suite = BackendTest(HalfevenBackend, __name__)

NAMES = r"test_(de)?quantizelinear|test_dynamicquantizelinear|test_qlinear(conv|matmul)|test_(basic_)?convinteger|test_matmulinteger"
suite.include(NAMES)
chosen = {
    name: test
    for name, test in vars(suite.test_cases["OnnxBackendNodeModelTest"]).items()
    if re.match(NAMES, name) and name.endswith("_cpu")
}
TestNodes = type("TestNodes", (unittest.TestCase,), chosen)


def test_all_operators_have_their_tests() -> None:
    assert len(chosen) >= 43
