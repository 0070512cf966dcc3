"""Promised: two trained networks of Fashion-MNIST, a MobileNetV2 and a ResNet, leave for every runtime that is here, run
there on pictures that did not calibrate, with every layer on codes, and name them as the float network does.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import halfeven
from halfeven import demo
from halfeven.errors import BadOption
from halfeven.importers.models import read_model
from halfeven.report.conform_c import beside_c
from halfeven.result import Result
from halfeven.run.c_program import compiler
from halfeven.run.litert import open_litert
from halfeven.run.openvino import int8_layers, open_openvino
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import open_file
from halfeven.run.tflite_micro import open_tflite_micro
from halfeven.stats.distance import sqnr_db

DEMO = Path(str(demo.__file__)).parent
NETWORKS = {
    "mobilenet": (DEMO / "fashion_mnist_mbv2.onnx", 35),
    "resnet": (Path(__file__).parents[1] / "networks" / "fmnist_resnet.onnx", 16),
}
"""Each with its number of layers."""
PICTURES, FEW = 100, 40
"""Those that each runtime sees, and those that plain loops see."""
AGREE, FEWER, DECIBELS = 0.97, 0.03, 30.0
INTEGER = ("QLinearConv", "QGemm", "QLinearMatMul")
FLOAT = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul")

Images = np.ndarray
Layers = tuple[int, int]


@cache
def pictures() -> tuple[Images, np.ndarray]:
    """Test pictures as the networks read them, and their classes."""
    with np.load(DEMO / "test.npz", allow_pickle=False) as stored:
        x = ((stored["x"][:PICTURES, None].astype(np.float32) / 255 - 0.2860) / 0.3530).astype(np.float32)
        return x, stored["y"][:PICTURES]


@cache
def quantized(network: str, target: str) -> Result:
    return halfeven.quantize(
        NETWORKS[network][0], DEMO / "calibration.npz", target=target, preprocess="fashion-mnist", limit=100,
        verify=False, prefer="size",
    )  # fmt: skip


def in_onnx_runtime(network: str, folder: Path, format: str) -> tuple[np.ndarray, Layers]:
    path, written = folder / "net.onnx", folder / "optimized.onnx"
    quantized(network, "onnxruntime").save(path, format)
    logits = OrtExecutor(path, written=written)({"input": pictures()[0]})["logits"]
    kinds = Counter(node.op_type for node in onnx.load(written).graph.node)
    integer = sum(kinds[kind] for kind in INTEGER)
    return logits, (integer, integer + sum(kinds[kind] for kind in FLOAT))


def in_openvino(network: str, folder: Path, suffix: str) -> tuple[np.ndarray, Layers]:
    path = folder / f"net{suffix}"
    quantized(network, "openvino").save(path)
    run, feeds = open_openvino(path, threads=1), {"input": pictures()[0]}
    layers = int8_layers(run, feeds)
    return run(feeds)["logits"], (sum(layer.integer for layer in layers), len(layers))


def in_litert(network: str, folder: Path, kernels: str) -> tuple[np.ndarray, Layers]:
    """LiteRT does not tell: of the file all operators are on codes but two, at its borders."""
    path, x = folder / "net.tflite", np.ascontiguousarray(pictures()[0].transpose(0, 2, 3, 1))
    notes = quantized(network, "litert").save(path)
    integer, every = (int(word) for word in notes[0].split() if word.isdigit())
    layers = NETWORKS[network][1]
    ran = (layers, layers) if integer == every - 2 else (0, layers)
    if kernels == "micro":
        return open_tflite_micro(path)(x[:FEW])[0], ran
    return open_litert(path, kernels)({"input": x})["logits"], ran


def in_ncnn(network: str, folder: Path, suffix: str) -> tuple[np.ndarray, Layers]:
    path = folder / f"net{suffix}"
    quantized(network, "ncnn").save(path)
    run = open_file(path, read_model(NETWORKS[network][0])[0])
    rows = [{"input": x[None]} for x in pictures()[0]]
    layers = run.integer_layers(rows[0])
    assert layers is not None
    return np.stack([run(feeds)["logits"].ravel() for feeds in rows]), layers


def in_c(network: str, folder: Path, suffix: str) -> tuple[np.ndarray, Layers]:
    """C has no real numbers; what it computes is compared with the simulation, tensor by tensor."""
    try:
        compiler()
    except BadOption as error:
        pytest.skip(str(error))
    path = folder / f"net{suffix}"
    done = quantized(network, "integer")
    done.save(path)
    data = [(f"picture {i}", {"input": x[None]}) for i, x in enumerate(pictures()[0][:FEW])]
    beside, outputs = beside_c(path, done.draft, data, 1)
    assert beside.compared > 0
    assert beside.differing == 0
    layers = NETWORKS[network][1]
    return np.concatenate([row["logits"] for row in outputs]), (layers, layers)


RUNTIMES: dict[str, tuple[Callable[[str, Path, str], tuple[np.ndarray, Layers]], str, str]] = {
    "ONNX Runtime, QDQ": (in_onnx_runtime, "qdq", "onnxruntime"),
    "ONNX Runtime, QOperator": (in_onnx_runtime, "qoperator", "onnxruntime"),
    "OpenVINO, QDQ": (in_openvino, ".onnx", "openvino"),
    "OpenVINO, IR": (in_openvino, ".xml", "openvino"),
    "LiteRT, XNNPACK": (in_litert, "xnnpack", "ai_edge_litert"),
    "LiteRT, its own kernels": (in_litert, "optimized", "ai_edge_litert"),
    "LiteRT, reference": (in_litert, "reference", "ai_edge_litert"),
    "TensorFlow Lite Micro": (in_litert, "micro", "tflite_micro"),
    "ncnn": (in_ncnn, ".param", "ncnn"),
    "C": (in_c, ".c", ""),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_trained_network_runs_on_codes_and_names_pictures_as_in_float(
    network: str, runtime: str, tmp_path: Path
) -> None:
    run, how, package = RUNTIMES[runtime]
    if package:
        pytest.importorskip(package)
    logits, layers = run(network, tmp_path, how)
    model, every = NETWORKS[network]
    x, classes = (array[: len(logits)] for array in pictures())
    real = OrtExecutor(model)({"input": x})["logits"]
    assert layers == (every, every)
    assert sqnr_db(real, logits) > DECIBELS
    assert np.mean(real.argmax(1) == logits.argmax(1)) >= AGREE
    assert np.mean(logits.argmax(1) == classes) >= np.mean(real.argmax(1) == classes) - FEWER
