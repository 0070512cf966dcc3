"""Models from ONNX text, and what ONNX Runtime makes of them."""

import re
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

Feeds = Mapping[str, np.ndarray]


def _built(text: str, opset: int = 17, **weights: np.ndarray) -> ir.Model:
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "local" : 1, "custom" : 1]>\n'
    named = set(re.findall(r"\w+", text))
    tensors = [ir.tensor(array, name=name) for name, array in weights.items() if name in named]
    return ir.from_onnx_text(header + text, initializers=tensors)


def _computed(model: ir.Model, feeds: Feeds) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    message = ir.serde.serialize_model(model).SerializeToString()
    return ort.InferenceSession(message, options, providers=["CPUExecutionProvider"]).run(None, dict(feeds))


@pytest.fixture(scope="session")
def build() -> Callable[..., ir.Model]:
    """`build(text, opset=17, **weights)`: a model from the text of its graph; arrays it names become initializers."""
    return _built


@pytest.fixture(scope="session")
def compute() -> Callable[[ir.Model, Feeds], list[np.ndarray]]:
    """`compute(model, feeds)`: the outputs by ONNX Runtime, which optimizes nothing."""
    return _computed
