"""Promised: a network trained to 4 bits is stored in 4 bits by the format qdq-int4, where ONNX Runtime computes from the
file what it computes from the one of 8 bits, whose values are those of the training.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch

import halfeven
from halfeven.graph.model import load
from halfeven.run.ort import OrtExecutor


class Net(torch.nn.Module):  # type: ignore[misc]
    """Four layers, so that two are inner ones."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(3, 16), (16, 32), (32, 32), (32, 8)]
        self.layers = torch.nn.Sequential(
            *(m for a, b in widths for m in (torch.nn.Conv2d(a, b, 3, padding=1), torch.nn.ReLU()))
        )

    def forward(self, x: Any) -> Any:
        """Pictures to maps."""
        return self.layers(x)


@pytest.mark.parametrize(("weights", "activations"), [(4, 4), ("ternary", 16)])
def test_what_was_trained_in_four_bits_is_stored_in_four(tmp_path: Path, weights: int | str, activations: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 8, 8)
    network = halfeven.prepare(Net(), x, weight_bits=weights, activation_bits=activations)
    network.eval()
    halfeven.export(network, tmp_path / "q8.onnx")
    (note,) = halfeven.export(network, tmp_path / "q4.onnx", "qdq-int4")
    assert note.startswith("2 weights of at most 4 bits stored as INT4")
    kinds = [t.data_type for t in onnx.load(tmp_path / "q4.onnx").graph.initializer]
    assert kinds.count(onnx.TensorProto.INT4) >= 2
    sizes = [(tmp_path / name).stat().st_size for name in ("q8.onnx", "q4.onnx")]
    assert sizes[0] - sizes[1] > 0.9 * (16 * 32 + 32 * 32) * 9 / 2 - 600
    feeds = {next(iter(load(tmp_path / "q8.onnx").graph.inputs)).name: x.numpy()}
    runs = [OrtExecutor(load(tmp_path / name), optimize=False)(feeds, "x") for name in ("q8.onnx", "q4.onnx")]
    for name, made in runs[0].items():
        np.testing.assert_array_equal(np.asarray(made), np.asarray(runs[1][name]))
