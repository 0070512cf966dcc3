"""Promised: a Keras model that PyTorch computes is quantized, trained and restored as a module is: its layers come out
as layers, channels behind the batch, under Keras's names; what another backend computes is refused with what to do.
"""

import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfeven import qat
from halfeven.api import quantize
from halfeven.errors import BadOption, UnsupportedModel
from halfeven.result import Result
from halfeven.run.ort import OrtExecutor
from halfeven.run.torch import from_module
from halfeven.run.torch_weights import dropouts

pytest.importorskip("onnxscript", reason="PyTorch models need onnxscript")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras", reason="Keras is not installed")
if keras.config.backend() != "torch":
    pytest.skip("Keras has another backend here", allow_module_level=True)
layers = keras.layers


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model(pictures: np.ndarray) -> Any:
    """Each layer once: strides that pad on one side, BatchNormalization that has seen data, a sum and a join."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization(name="norm")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="deep")(x)
    y = layers.Activation("relu")(layers.BatchNormalization(scale=False, name="plain")(y))
    x = layers.Concatenate()([layers.Add()([x, y]), layers.Conv2D(4, 1, name="point")(y)])
    x = layers.UpSampling2D(2)(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="wide")(layers.ZeroPadding2D(1)(x))
    x = layers.Dropout(0.2, name="drop")(layers.GlobalAveragePooling2D()(x))
    made = keras.Model(image, layers.Dense(5, name="head")(x))
    for _ in range(3):
        made(pictures, training=True)
    return made


@pytest.fixture(scope="module")
def quantized(model: Any, pictures: np.ndarray) -> Result:
    return quantize(model, pictures, example_inputs=pictures[:1], prefer="size", skip=("equalize", "gptq"))


def numbers(variable: Any) -> np.ndarray:
    return variable.value.detach().numpy().copy()


def computed(model: Any, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(x, training=False).numpy()


def test_layers_come_out_as_layers_and_transposes_vanish(quantized: Result) -> None:
    found = quantized.draft.model
    assert quantized.notes[0] == "2 BatchNormalization folded into Conv"
    assert Counter(node.op_type for node in found.graph) == Counter(
        {"Transpose": 1, "Conv": 3, "Clip": 1, "Relu": 1, "Add": 1, "Concat": 1, "Resize": 1, "Pad": 1, "Gemm": 1}
        | {"ConvTranspose": 1, "GlobalAveragePool": 1, "Flatten": 1}
    )
    assert {"stem/Conv", "deep/Conv", "up_sampling2d/Resize", "head/Gemm"} <= {node.name for node in found.graph}


def test_any_batch_computes_what_the_model_computes_and_the_model_is_unchanged(
    model: Any, pictures: np.ndarray, quantized: Result
) -> None:
    before = [numbers(v) for v in model.variables]
    graph = quantized.draft.model
    assert [v.name for v in graph.graph.inputs] == ["image"]
    (ours,) = OrtExecutor(graph, optimize=False)({"image": pictures[:7]}, "pictures").values()
    np.testing.assert_allclose(ours, computed(model, pictures[:7]), atol=1e-5)
    (codes,) = OrtExecutor(quantized.model, optimize=False)({"image": pictures}, "pictures").values()
    np.testing.assert_allclose(codes, computed(model, pictures), atol=0.1 * np.abs(codes).max())
    assert all(np.array_equal(a, numbers(v)) for a, v in zip(before, model.variables, strict=True))


def test_a_model_is_trained_exported_and_given_its_weights_back(
    model: Any, pictures: np.ndarray, tmp_path: Path
) -> None:
    own = keras.models.clone_model(model)
    for mine, given in zip(own.variables, model.variables, strict=True):
        mine.assign(given.value)
    own.get_layer("point").trainable = own.get_layer("plain").trainable = False
    network = qat.prepare(own, pictures[:8], data=pictures)
    said = " ".join(network.notes)
    assert {v.path for v in own.variables if v.dtype == "float32"} <= set(network.weights())
    assert "dropout of 'drop'" in said
    assert "3 tensors of the module not trained, as in the module" in said  # kernel and bias; beta
    still = [numbers(v) for name in ("point", "plain") for v in own.get_layer(name).variables]
    optimizer, x, y = torch.optim.Adam(network.parameters(), 1e-2), torch.tensor(pictures), torch.arange(32) % 5
    network.train()
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    network.eval()
    assert losses[-1] < losses[0]
    qat.export(network, tmp_path / "m.onnx")
    (theirs,) = OrtExecutor(tmp_path / "m.onnx", optimize=False)({"image": pictures}, "pictures").values()
    np.testing.assert_allclose(network(x).detach().numpy(), theirs, atol=0.02)
    assert qat.restore(own, network) is own
    network.float_only = True
    np.testing.assert_allclose(computed(own, pictures), network(x).detach().numpy(), atol=1e-5)
    means = [numbers(one.get_layer("norm").moving_mean) for one in (own, model)]
    assert not np.array_equal(*means)
    now = [numbers(v) for name in ("point", "plain") for v in own.get_layer(name).variables]
    assert all(np.array_equal(a, b) for a, b in zip(still, now, strict=True))


def test_inputs_and_outputs_by_name_go_through_a_model_in_a_model_and_recurrent_layers_step_by_step() -> None:
    keras.utils.set_random_seed(0)
    left, right = keras.Input((3, 2), name="left"), keras.Input((4,), name="right")
    recurrent = [layers.LSTM(3, return_sequences=True, dropout=0.1, name="long"), layers.GRU(2)]
    inner = keras.Sequential([keras.Input((3, 2)), *recurrent, layers.Dense(4, name="inside")], name="block")
    both = keras.Model({"right": right, "left": left}, {"gap": layers.Subtract()([inner(left), right])})
    found, _ = from_module(both, {"right": np.zeros((1, 4), np.float32), "left": np.ones((1, 3, 2), np.float32)})
    assert ([v.name for v in found.graph.inputs], [v.name for v in found.graph.outputs]) == (["left", "right"], ["gap"])
    assert "block/inside/Gemm" in {node.name for node in found.graph}
    assert Counter(n.op_type for n in found.graph)["Tanh"] == 3 * (2 + 1)
    assert dropouts(both) == ["block/long"]


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(BadOption, match=r"'empty' is not built and has no weights yet: begin it with keras\.Input"):
        from_module(keras.Sequential([layers.Dense(2)], name="empty"), np.zeros((1, 4), np.float32))


def test_a_model_that_computes_in_half_precision_is_refused() -> None:
    half = keras.Sequential([keras.Input((4,)), layers.Dense(2, dtype="mixed_bfloat16", name="short")], name="half")
    with pytest.raises(UnsupportedModel, match="Layer 'short' of the Keras model 'half' computes in bfloat16"):
        from_module(half, np.zeros((1, 4), np.float32))


def test_what_keras_says_of_a_wrong_input_is_told(model: Any) -> None:
    with pytest.raises(BadOption, match=r"Exception encountered when calling .*Expected shape \(None, 8, 8, 3\)"):
        from_module(model, np.zeros((1, 8), np.float32))


def test_a_model_of_another_backend_is_refused_with_what_to_do() -> None:
    if find_spec("openvino") is None or find_spec("scipy") is None:
        pytest.skip("none is installed: OpenVINO's would be one, which needs SciPy too")
    program = (
        "import keras, halfeven, numpy as np; x = np.zeros((1, 4), np.float32)\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])\n"
        "try: halfeven.quantize(model, x, example_inputs=x)\n"
        "except halfeven.QuantError as error: print(error)"
    )
    told = {**os.environ, "KERAS_BACKEND": "openvino"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=told)
    assert done.stdout.startswith("This Keras model computes with openvino, and only PyTorch's backend"), done.stderr
    assert "set KERAS_BACKEND=torch before keras is imported" in done.stdout
