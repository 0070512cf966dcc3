"""What tests of tables share: a product of known weights."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest


@pytest.fixture
def model() -> ir.Model:
    """A product with weights of eight rows and two columns."""
    text = '<ir_version: 9, opset_import: ["": 21]> g (float[n, 8] x) => (float[n, 2] y) {y = MatMul(x, w)}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((8, 2), np.float32), "w"))
    proto.graph.node[0].name = "product"
    return ir.serde.deserialize_model(proto)
