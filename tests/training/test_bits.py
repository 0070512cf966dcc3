# ruff: noqa: E402
"""Promised: networks of few bits train, and their file of 8-bit codes holds no code that was not trained and computes
what training computes; the first and the last layer keep 8 bits; what a file cannot hold is refused before training.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.errors import BadCalibration, BadOption, UnsupportedByTarget
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.bits import Bits, clip_wires, parts_of
from halfeven.graph.lower import lower
from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.graph.weight_codes import weight_params
from halfeven.numerics.grid import INT8, IntGrid
from halfeven.numerics.quantize import fake_quantize, params_of
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import MACHINES
from halfeven.run.ort import OrtExecutor

nn = torch.nn
Pictures = Callable[[int, int], tuple[Any, Any]]
Train = Callable[[Any, int, int], list[float]]
CHOICES: dict[str, dict[str, Any]] = {
    "W4A8": {"weight_bits": 4},
    "W4A4": {"weight_bits": 4, "activation_bits": 4},
    "W2A2": {"weight_bits": 2, "activation_bits": 2},
    "W2A2 everywhere": {"weight_bits": 2, "activation_bits": 2, "first_and_last": 4},
    "W3A5 moving": {"weight_bits": 3, "activation_bits": 5, "scales": "moving"},
    "binary": {"weight_bits": 1},
    "binary moving": {"weight_bits": 1, "scales": "moving"},
    "ternary": {"weight_bits": "ternary", "activation_bits": 4},
    "log2": {"weight_bits": "log2"},
    "int16 activations": {"target": "litert-int16"},
    "W4A16": {"target": "litert-int16", "weight_bits": 4},
    "W2A2 pact+dorefa": {"weight_bits": 2, "activation_bits": 2, "method": "pact+dorefa"},
}
CODES = {"W4A8": range(-8, 8), "W4A4": range(-8, 8), "W2A2": range(-2, 2), "W3A5 moving": range(-4, 4), "binary": {-1, 1},
         "W2A2 everywhere": range(-2, 2), "binary moving": {-1, 1}, "ternary": {-1, 0, 1},
         "log2": {0, *(s << i for i in range(7) for s in (-1, 1))}, "W2A2 pact+dorefa": range(-2, 2),
         "int16 activations": range(-127, 128), "W4A16": range(-8, 8)}  # fmt: skip


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.head = nn.Conv2d(6, 6, 3, 1, 1), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.bn(self.stem(x)))
        return self.head(torch.relu(self.inner(x) + x).mean((2, 3)))


@pytest.fixture(scope="module")
def module(one_thread: None, train: Train) -> Any:
    torch.manual_seed(0)
    network = Skipping()
    train(network, 10, 1)
    return network


@pytest.mark.parametrize("choice", CHOICES)
def test_few_bits_train_and_the_file_computes_what_they_compute(
    choice: str, module: Any, tmp_path: Path, pictures: Pictures, train: Train
) -> None:
    x, _ = pictures(64, 77)
    network = qat.prepare(copy.deepcopy(module), x, **CHOICES[choice])
    losses = train(network, 20, 2)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    again = qat.prepare(copy.deepcopy(module), x, **CHOICES[choice]).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))
    qat.export(network, tmp_path / "m.onnx")
    far = x * 3  # beyond what calibration saw: codes saturate where those of training do
    ours = network(far).detach().numpy()
    for optimize in (False, True):
        (given,) = OrtExecutor(tmp_path / "m.onnx", optimize=optimize)({"x": far.numpy()}).values()
        assert np.mean(np.abs(ours - given) < 1e-5 * np.abs(ours).max()) > 0.97
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    (codes,) = (array for array in stored.values() if array.shape == (6, 6, 3, 3))
    assert set(np.unique(codes).tolist()) <= set(CODES[choice])
    assert len(np.unique(codes)) > 1


def test_layers_of_few_bits_run_as_integers(module: Any, tmp_path: Path, pictures: Pictures) -> None:
    x, _ = pictures(16, 3)
    network = qat.prepare(copy.deepcopy(module), x, weight_bits=2, activation_bits=2)
    qat.export(network, tmp_path / "m.onnx")
    lowered = IntegerExecutor(lower(to_qdq(qat.draft_of_trained(network))), MACHINES["onnxruntime@x86-vnni"])
    assert [op.kind for op in lowered.integer_ops if op.kind in ("Conv", "Gemm")] == ["Conv", "Conv", "Gemm"]
    ours, (given,) = network.eval()(x).detach().numpy(), lowered({"x": x.numpy()}).values()
    assert np.mean(np.abs(ours - given) < 1e-5 * np.abs(ours).max()) > 0.9


def test_the_first_and_the_last_layer_keep_their_bits(module: Any, pictures: Pictures) -> None:
    x, _ = pictures(16, 3)
    network = qat.prepare(copy.deepcopy(module), x, weight_bits=2, activation_bits=4)
    plan, model = network.origin.draft().plan, network.origin.draft().model
    bits = {
        str(site): network.quantizer(g).scheme.grid.bits for site, g in plan.sites.items() if g not in network.biases
    }
    assert bits["x -> stem/Conv[0]"] == 8
    weights = {name.split(" ")[0]: count for name, count in bits.items() if "[1]" in name}
    assert [weights[name] for name in weights if "inner" in name] == [2]
    assert sorted(weights.values()) == [2, 8, 8]
    assert 4 in bits.values()
    last = model.graph.outputs[0].producer()
    assert last is not None
    (read,) = (group for site, group in plan.sites.items() if site == Site(last.inputs[0].name or "", last.name or ""))
    assert network.quantizer(read).scheme.grid.bits == 8


def test_a_plan_of_one_layer_is_all_ends() -> None:
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    network = qat.prepare(nn.Linear(5, 3), x, weight_bits=2, activation_bits=2)
    draft = network.origin.draft()
    assert not parts_of(draft.model, draft.plan).weights
    assert {q.scheme.grid.bits for q in network.quantizers.values()} == {8}


def test_a_target_without_such_codes_refuses_before_training(module: Any, pictures: Pictures) -> None:
    x, _ = pictures(16, 3)
    with pytest.raises(UnsupportedByTarget, match=r"int16 .* but tensorrt takes"):
        qat.prepare(copy.deepcopy(module), x, target="tensorrt", activation_bits=16)


@pytest.mark.parametrize(("options", "said"), [
    ({"weight_bits": 0}, "weight_bits 0: choose 1"), ({"weight_bits": "few"}, "weight_bits 'few'"),
    ({"activation_bits": 1}, "activation_bits 1: choose 2"), ({"first_and_last": 17}, "first_and_last 17"),
])  # fmt: skip
def test_bits_that_there_are_not_are_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        qat.prepare(nn.Linear(2, 2), torch.zeros(1, 2), **options)
    assert Bits() == Bits(None, None, None)


def chain(weight: np.ndarray) -> ir.Model:
    """x -> Relu -> y -> MatMul by the weight."""
    text = (
        "<ir_version: 8, opset_import: ['' : 17]> g (float[2, 4] x) => (float[2, 3] z) { y = Relu(x) z = MatMul(y, w) }"
    )
    model = ir.from_proto(onnx.parser.parse_model(text.replace("'", '"')))
    model.graph[0].name, model.graph[1].name = "relu", "layer"
    w = model.graph[1].inputs[1]
    assert w is not None
    w.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(w)
    return model


def test_scales_of_few_bits_begin_at_the_least_error() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    plan = Plan({0: Quantizer(Scheme(INT8, per_channel(1)), "a weight", "weight")}, {Site("w", "layer", 1): 0})
    params = weight_params(chain(weight), plan, 0, IntGrid(2))
    covering = params_of(weight, Scheme(IntGrid(2), per_channel(1)))

    def errors(params: Any) -> np.ndarray:
        return np.square(fake_quantize(weight, params) - weight).sum(0)

    assert (errors(params) <= errors(covering)).all()
    assert (errors(params) < errors(covering)).any()
    weight[0, 0] = np.nan
    with pytest.raises(BadCalibration, match="Weight 'w' holds NaN"):
        weight_params(chain(weight), plan, 0, IntGrid(2))


def test_one_value_is_not_read_with_codes_of_two_lengths() -> None:
    plan = Plan({0: Quantizer(Scheme(INT8), "a"), 1: Quantizer(Scheme(INT8), "b")},
                {Site("y"): 0, Site("y", "layer", 0): 1})  # fmt: skip
    bounds = {0: (np.float32(0), np.float32(1))}
    with pytest.raises(UnsupportedByTarget, match="'y' is read with codes of different bits"):
        clip_wires(chain(np.ones((4, 3), np.float32)), plan, bounds)
