# ruff: noqa: E402
"""Promised: features are distilled: what is held to the float network's is what the next layer reads, in the exported
file too; the gradient is that of the loss; default and patterns choose the tensors; it trains.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from halfeven import qat
from halfeven.errors import BadOption
from halfeven.run.ort import OrtExecutor
from halfeven.training.features import features_of
from halfeven.training.loop import Recipe, _teacher, fit

nn, F = torch.nn, torch.nn.functional


class Residual(nn.Module):
    """Two sums, one with a ReLU behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(1, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.parts(x)[1].mean((2, 3)))

    def parts(self, x: Any) -> tuple[Any, Any]:
        x = F.relu(self.stem(x))
        first = F.relu(self.one(x) + x)
        return first, self.two(first) + first


def pictures(count: int = 32) -> Any:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def module(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Residual().eval()


def plain() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()
    ).eval()


def readers(x: Any) -> list[Any]:
    return [lambda i=i: ({"x": x[i : i + 1].numpy()}, None) for i in range(len(x))]


def gap(network: Any, teacher: Any, x: Any) -> Any:
    features = features_of(network)
    one, other = (net.outputs_of(features.program, {"x": x})[1:] for net in (network, teacher))
    return features.loss(one, other)


def test_the_default_is_residual_sums_with_the_clamp_behind_them() -> None:
    network = qat.prepare(module(), pictures())
    names = features_of(network).names
    nodes = {name: one.op for one in network.program.instructions for name in one.outputs}
    assert [nodes[name] for name in names] == ["Relu", "Add"]


def test_without_sums_the_default_is_the_last_tensor_of_each_resolution() -> None:
    network = qat.prepare(plain(), pictures())
    nodes = [name for one in network.program.instructions for name in one.outputs]
    assert features_of(network).names == (nodes[1], nodes[3])


def test_patterns_choose_tensors_by_their_names_or_their_nodes() -> None:
    network = qat.prepare(module(), pictures())
    made = [(one.name, one.outputs[0]) for one in network.program.instructions if one.op == "Conv"]
    assert features_of(network, ["*one*"]).names == (made[1][1],)
    assert features_of(network, [made[0][1], made[2][0]]).names == (made[0][1], made[2][1])
    with pytest.raises(BadOption, match=r"feature_tensors 'stem/Canv' fits no tensor and no node .* Did you mean"):
        features_of(network, ["stem/Canv"])


def test_a_name_with_brackets_fits_itself() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y) <float[4,4] w, float[4,4] v> '
        "{ m = MatMul(x, w)  r = Relu(m)  y = MatMul(r, v) }"
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), n) for n in "wv")
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "m[0]"
    network = qat.prepare(model, data=np.ones((4, 4), np.float32))
    assert features_of(network, ["m[0]"]).names == ("m[0]",)


def test_a_feature_is_what_the_next_layer_of_the_exported_file_reads(tmp_path: Path) -> None:
    network, x = qat.prepare(module(), pictures(), target="litert"), pictures(4)
    features = features_of(network)
    with torch.no_grad():
        ours = network.outputs_of(features.program, {"x": x})[1:]
    qat.export(network, tmp_path / "m.onnx")
    kinds = ("QuantizeLinear", "DequantizeLinear")
    nodes = [node for node in onnx.load(tmp_path / "m.onnx").graph.node if node.op_type in kinds]
    made = {node.input[0]: node.output[0] for node in nodes}
    watch = tuple(made[made[name]] for name in features.names)
    run = OrtExecutor(tmp_path / "m.onnx", watch, optimize=False)
    for i in range(4):
        theirs = run({"x": x[i : i + 1].numpy()})
        for value, name in zip(ours, watch, strict=True):
            assert np.mean(value[i : i + 1].numpy() == theirs[name]) > 0.99


def test_the_gradient_is_that_of_the_loss_written_out() -> None:
    network, x, other = qat.prepare(module(), pictures()), pictures(8), module(1)
    network.float_only = True
    teacher = _teacher(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith("quantizers"):
                parameter.copy_(other.get_parameter(name))
    gap(network, teacher, x).backward()
    wanted = [part.detach() for part in module().parts(x)]
    terms = [(a - b).square().mean() / b.var(unbiased=False) for a, b in zip(other.parts(x), wanted, strict=True)]
    (sum(terms) / 2).backward()
    for name in ("stem.weight", "one.weight", "two.bias"):
        expected = other.get_parameter(name).grad
        assert torch.allclose(network.get_parameter(name).grad, expected, rtol=1e-4, atol=1e-6)
    assert network.get_parameter("head.weight").grad is None


def test_training_by_features_alone_brings_them_nearer() -> None:
    x = pictures(64)
    network = qat.prepare(module(), x, weight_bits=2)
    teacher = _teacher(network)
    before = gap(network.eval(), teacher, x).item()
    head = network.get_parameter("head.weight").clone()
    history = fit(network, readers(x), Recipe(epochs=15, batch=16, rate=3e-3, distill=0.0, features=1.0))
    assert gap(network, teacher, x).item() < 0.7 * before
    assert history.mean(slice(-3, None)) < history.mean(slice(0, 3))
    assert torch.equal(network.get_parameter("head.weight"), head)  # nothing behind the last feature learns


def test_features_are_weighed_against_outputs() -> None:
    x, losses = pictures(16), []
    for recipe in ({"distill": 1.0}, {"distill": 0.0, "features": 1.0}, {"distill": 2.0, "features": 3.0}):
        network = qat.prepare(module(), x)
        losses.append(fit(network, readers(x), Recipe.of({"epochs": 1, **recipe})).losses[0])
    assert losses[2] == pytest.approx(2 * losses[0] + 3 * losses[1], rel=1e-5)


def test_a_network_without_any_such_tensor_asks_for_names() -> None:
    network = qat.prepare(nn.Sequential(nn.Linear(4, 3)).eval(), torch.randn(8, 4))
    with pytest.raises(BadOption, match="neither residual sums nor quantized tensors"):
        features_of(network)
