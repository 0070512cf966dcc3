"""Promised: a PyTorch module becomes an ONNX model that computes the same, for any batch where the module allows it,
with parameters named as in its state_dict; the module stays as it was, nothing is printed, and what cannot be exported
is refused in a sentence that names the user's line.
"""

import copy
import inspect
import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.errors import BadOption, UnsupportedModel
from halfeven.graph.model import load
from halfeven.graph.prepare import prepare
from halfeven.run.ort import OrtExecutor
from halfeven.run.torch import TOLERANCE, from_module, is_module

pytest.importorskip("onnxscript", reason="PyTorch models need onnxscript")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

TRAINING = "the module was in training mode"
FIXED = "the inputs keep the shapes of example_inputs"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Residual(nn.Module):
    """Convolutions without bias, BatchNormalization that has seen data, a sum, a mean over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, image: Any) -> Any:
        x = torch.relu(self.norm(self.stem(image)))
        return self.head((x + self.block(x)).mean((2, 3)))


class Depthwise(nn.Module):
    """As MobileNet: expand, depthwise, project, each limited to 6."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = []
        for cin, cout, groups, size in ((3, 8, 1, 3), (8, 8, 8, 3), (8, 12, 1, 1)):
            layers += [nn.Conv2d(cin, cout, size, groups=groups, bias=False), nn.BatchNorm2d(cout), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(12, 4))

    def forward(self, x: Any) -> Any:
        return self.head(self.features(x))


class Recurrent(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, num_layers=2, bidirectional=True, **options)

    def forward(self, x: Any) -> Any:
        y, (hidden, _) = self.rnn(x)
        return y, hidden


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Any) -> Any:
        return self.norm(x + self.attend(x, x, x, need_weights=False)[0])


class Pair(nn.Module):
    """Two inputs, two outputs, options that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, state: Any, goal: Any, scale: float = 1.0, *, invert: bool = False) -> dict[str, Any]:
        both = self.left(state) * self.right(goal) * scale
        return {"value": both.sum(-1), "policy": -both if invert else both}


class Tied(nn.Module):
    """The embedding is the output layer too, and one Linear is used under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.again, self.head.weight = self.inner, self.embed.weight

    def forward(self, tokens: Any) -> Any:
        return self.head(self.again(torch.relu(self.inner(self.embed(tokens)))))


class Branching(nn.Module):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0:
            return x * 2
        return x - 1


class Keeping(nn.Module):
    """Writes to a buffer and to an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.count += 1
        self.last = x * self.count
        return self.last + 1


def trained(module: Any, *shape: int) -> Any:
    """The module with statistics in its BatchNormalization, in evaluation mode."""
    with torch.no_grad():
        for _ in range(3):
            module.train()(torch.randn(8, *shape) * 2 + 1)
    return module.eval()


def dims(values: Sequence[ir.Value]) -> dict[str, list[object]]:
    return {str(v.name): [d if isinstance(d, int) else d.value for d in v.shape or ()] for v in values}


def assert_same(module: Any, model: ir.Model, *inputs: Any) -> None:
    """The model, run by ONNX Runtime, gives what the module gives."""
    with torch.no_grad():
        expected = copy.deepcopy(module).eval()(*inputs)
    parts = expected.values() if isinstance(expected, dict) else [expected] if hasattr(expected, "shape") else expected
    feeds = {str(v.name): t.numpy() for v, t in zip(model.graph.inputs, inputs, strict=True)}
    found = OrtExecutor(model, optimize=False)(feeds)
    for ours, theirs in zip(found.values(), parts, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=TOLERANCE * float(theirs.abs().max()))


def parameters(module: Any) -> dict[str, np.ndarray]:
    """What an inference needs of the state_dict."""
    return {k: v.numpy() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}


NETWORKS = {
    "residual": (lambda: trained(Residual(), 3, 8, 8), (3, 8, 8)),
    "depthwise": (lambda: trained(Depthwise(), 3, 9, 9), (3, 9, 9)),
    "recurrent": (lambda: Recurrent(batch_first=True).eval(), (5, 4)),
    "attention": (lambda: Attention().eval(), (5, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_the_same_for_any_batch_and_keeps_its_parameters(name: str) -> None:
    make, shape = NETWORKS[name]
    module = make()
    model, notes = from_module(module, torch.zeros(1, *shape))
    assert notes == []
    assert [v[0] for v in dims(model.graph.inputs).values()] == ["batch"]
    for rows in (1, 2, 5):
        assert_same(module, model, torch.randn(rows, *shape))
    weights = {k: v.const_value.numpy() for k, v in model.graph.initializers.items() if v.const_value is not None}
    expected = parameters(module)
    assert weights.keys() == expected.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(value, expected[key])
    assert_same(module, prepare(load(model))[0], torch.randn(3, *shape))


def test_convolutions_prepare_to_what_hardware_knows() -> None:
    module = trained(Depthwise(), 3, 9, 9)
    prepared, _ = prepare(load(from_module(module, torch.zeros(1, 3, 9, 9))[0]))
    kinds = [node.op_type for node in prepared.graph]
    assert kinds == ["Conv", "Clip"] * 3 + ["GlobalAveragePool", "Reshape", "Gemm"]
    clip = next(node for node in prepared.graph if node.op_type == "Clip")
    assert [float(v.const_value.numpy()) for v in clip.inputs[1:] if v and v.const_value is not None] == [0, 6]


def test_a_mean_over_space_is_global_pooling_and_a_mean_over_channels_is_not() -> None:
    class Means(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean((-1, -2)), x.mean((2, 3), keepdim=True), x.mean((1, 2)), x.mean(1)

    model, _ = from_module(Means().eval(), torch.randn(1, 3, 3, 3))
    kinds = [node.op_type for node in model.graph]
    assert (kinds.count("GlobalAveragePool"), kinds.count("Flatten"), kinds.count("ReduceMean")) == (2, 1, 2)
    assert_same(Means(), model, torch.randn(4, 3, 3, 3))


def test_nodes_are_called_after_modules() -> None:
    model, _ = from_module(Residual().eval(), torch.zeros(1, 3, 8, 8))
    names = {node.name for node in model.graph}
    assert {"stem/Conv", "norm/BatchNormalization", "block.0/Conv", "block.2/Relu", "Add", "head/Gemm"} <= names
    conv = model.graph.node("block.0/Conv")
    assert conv.outputs[0].name == "block.0/Conv_output_0"
    assert "torch.nn.modules.conv.Conv2d" in conv.metadata_props["pkg.torch.onnx.class_hierarchy"]


def test_the_file_says_nothing_of_the_machine_it_was_made_on() -> None:
    model, _ = from_module(Residual().eval(), torch.zeros(1, 3, 8, 8))
    assert __file__.encode() not in ir.to_proto(model).SerializeToString()


def test_inputs_and_outputs_have_the_names_of_forward() -> None:
    example = {"goal": torch.randn(1, 2), "state": torch.randn(1, 3)}
    module = Pair().eval()
    model, _ = from_module(module, example)
    assert dims(model.graph.inputs) == {"state": ["batch", 3], "goal": ["batch", 2]}
    assert dims(model.graph.outputs) == {"value": ["batch"], "policy": ["batch", 4]}
    assert_same(module, model, torch.randn(7, 3), torch.randn(7, 2))


def test_inputs_and_outputs_have_the_names_asked_for() -> None:
    example = (np.ones((2, 3), np.float32), torch.randn(2, 2))
    model, _ = from_module(Pair().eval(), example, input_names=["a", "b"], output_names=["goal", "q"])
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["a", "b", "goal", "q"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"input_names": ["a"]}, r"input_names: Pair needs 2 different names, found \['a'\]"),
        ({"output_names": ["a", "a"]}, r"output_names: Pair needs 2 different names"),
        ({"output_names": ["goal", "q"]}, r"output_names: \['goal'\] are names of inputs"),
    ],
)
def test_names_that_do_not_fit_are_refused(options: dict[str, list[str]], text: str) -> None:
    with pytest.raises(BadOption, match=text):
        from_module(Pair().eval(), (torch.ones(1, 3), torch.ones(1, 2)), **options)


def test_arguments_that_are_no_tensors_are_built_in_and_noted() -> None:
    module = Pair().eval()
    state, goal = torch.randn(2, 3), torch.randn(2, 2)
    model, notes = from_module(module, {"state": state, "goal": goal, "scale": 3.0, "invert": True})
    assert notes == ["arguments that are no tensors are built into the model: scale=3.0, invert=True"]
    found = OrtExecutor(model)({"state": state.numpy(), "goal": goal.numpy()})
    np.testing.assert_allclose(found["policy"], module(state, goal, 3.0, invert=True)["policy"].detach(), rtol=1e-5)


def test_nested_arguments_and_results_become_flat_ones() -> None:
    class Nested(nn.Module):
        def forward(self, parts: dict[str, Any], more: list[Any]) -> Any:
            y = parts["a"] + more[0]
            return y, y, None, [more[1], {"twice": y * 2}]

    a, b, c = torch.randn(3, 2, 3)
    model, _ = from_module(Nested(), ({"a": a}, [b, c]))
    assert [v.name for v in model.graph.inputs] == ["parts_a", "more_0", "more_1"]
    found = OrtExecutor(model)({"parts_a": a.numpy(), "more_0": b.numpy(), "more_1": c.numpy()})
    assert list(found) == ["output_0", "output_1", "output_3_0", "output_3_1_twice"]
    for got, expected in zip(found.values(), (a + b, a + b, c, (a + b) * 2), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_shared_tensor_is_there_once_under_its_first_name() -> None:
    module = Tied().eval()
    model, _ = from_module(module, torch.randint(0, 11, (1, 5)))
    assert set(model.graph.initializers) == {"embed.weight", "inner.weight", "inner.bias"}
    assert_same(module, model, torch.randint(0, 11, (4, 5)))


def test_a_parameter_called_like_an_input_or_an_operator_does_no_harm() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.add = nn.Parameter(torch.full((3,), 2.0)), nn.Parameter(torch.full((3,), 5.0))

        def forward(self, x: Any) -> Any:
            return x + self.x + self.add

    model, notes = from_module(Clash().eval(), torch.randn(2, 3))
    assert notes == ["'x' of the module is 'x_1' in the model, as an input or output is called 'x'"]
    assert_same(Clash(), model, torch.randn(4, 3))


def test_both_branches_of_a_cond_are_exported() -> None:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return torch.cond(x.sum() > 0, lambda v: self.a(v), lambda v: self.b(v) * 2, (x,))

    module = Choice().eval()
    model, _ = from_module(module, torch.ones(1, 3), dynamic_batch=False)
    for sign in (1.0, -1.0):
        assert_same(module, model, torch.full((1, 3), sign))


def test_a_module_in_training_mode_is_exported_in_evaluation_mode_and_set_back() -> None:
    module = trained(Depthwise(), 3, 9, 9).train()
    module.features[1].eval()
    flags = [part.training for part in module.modules()]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    model, notes = from_module(module, torch.randn(2, 3, 9, 9))
    assert [part.training for part in module.modules()] == flags
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert [note for note in notes if note.startswith(TRAINING)] == notes != []
    assert_same(module, model, torch.randn(3, 3, 9, 9))


def test_what_forward_writes_is_undone_and_said() -> None:
    module = Keeping().eval()
    model, notes = from_module(module, torch.randn(1, 3))
    assert module.count == 0
    assert not hasattr(module, "last")
    assert notes == ["forward writes to ['count']; the model starts from their present values in each run"]
    assert_same(module, model, torch.randn(2, 3))


def test_training_on_does_not_change_the_model() -> None:
    module = nn.Linear(3, 3).eval()
    model, _ = from_module(module, torch.ones(1, 3))
    with torch.no_grad():
        module.weight.zero_()
    tensor = model.graph.initializers["weight"].const_value
    assert tensor is not None
    assert np.any(tensor.numpy())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # by the import of torch.compile
@pytest.mark.parametrize("wrap", ["torch.compile", "DataParallel"])
def test_a_wrapped_module_is_exported_as_the_one_inside(wrap: str) -> None:
    inner = nn.Linear(3, 3).eval()
    outer = torch.compile(inner) if wrap == "torch.compile" else nn.DataParallel(inner)
    model, _ = from_module(outer.eval(), torch.ones(1, 3))
    assert set(model.graph.initializers) == {"weight", "bias"}
    assert [v.name for v in model.graph.inputs] == ["input"]


class Normalizing(nn.Module):
    def forward(self, x: Any) -> Any:
        return (x - x.mean(0)) / (x.std(0) + 1)


class Sized(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if x.shape[0] > 4 else x * 3


class Reshaping(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.reshape(-1).reshape(6, -1)


@pytest.mark.parametrize(
    ("module", "shape", "reason"),
    [
        (Recurrent(), (1, 1, 4), "influence each other"),
        (Recurrent(), (5, 1, 4), "influence each other"),
        (Normalizing(), (4, 3), "influence each other"),
        (Sized(), (2, 3), "the number of rows as a constant"),
        (Reshaping(), (3, 2), "fails on a batch of another size (RuntimeError: shape '[6, -1]' is invalid"),
    ],
)
def test_where_the_first_axis_is_no_open_batch_the_shape_is_kept_and_said(
    module: Any, shape: tuple[int, ...], reason: str
) -> None:
    x = torch.zeros(shape) if shape[0] == 1 else torch.randn(shape)
    model, notes = from_module(module.eval(), x)
    assert dims(model.graph.inputs) == {"x": list(shape)}
    assert len(notes) == 1
    assert notes[0].startswith(FIXED)
    assert reason in notes[0]
    assert_same(module, model, torch.randn(shape))


def test_inputs_without_rows_are_told_from_those_with() -> None:
    class Picking(nn.Module):
        def forward(self, x: Any, index: Any) -> Any:
            return x[:, index], index * 2

    index = torch.tensor([0, 2, 5])
    model, notes = from_module(Picking().eval(), (torch.randn(1, 6), index))
    assert notes == []
    assert dims(model.graph.inputs) == {"x": ["batch", 6], "index": [3]}
    assert dims(model.graph.outputs) == {"output_0": ["batch", 3], "output_1": [3]}


def test_the_batch_is_fixed_on_demand() -> None:
    model, notes = from_module(nn.Linear(3, 2).eval(), torch.ones(4, 3), dynamic_batch=False)
    assert (dims(model.graph.inputs), notes) == ({"input": [4, 3]}, [])


def line_of(module: type, code: str) -> str:
    """`file:line, in forward: 'code` of a line of a class of this file, as a regular expression."""
    lines, start = inspect.getsourcelines(module)
    at = next(n for n, line in enumerate(lines) if code in line)
    return rf"{re.escape(__file__)}:{start + at}, in forward: '{code}"


class Looping(nn.Module):
    def forward(self, x: Any) -> Any:
        for step in range(int(x.max())):
            x = x + step
        return x


class Leaving(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.from_numpy(x.numpy() * 2)


class Eigen(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.linalg.eigvals(x).real


@pytest.mark.parametrize(
    ("module", "code", "text"),
    [
        (Branching, "if x", "a value that only running the model gives .* torch.where or torch.cond"),
        (Looping, "for step", "a value that only running the model gives"),
        (Leaving, "return torch.from_numpy", r"RuntimeError: .numpy\(\) is not supported .* plain torch operations"),
    ],
)
def test_a_module_that_cannot_be_traced_is_refused_with_its_line(module: type, code: str, text: str) -> None:
    with pytest.raises(
        UnsupportedModel, match=f"{module.__name__} cannot be exported: .*{line_of(module, code)}.*{text}"
    ):
        from_module(module(), torch.rand(2, 3) * 4)


def test_an_operator_without_counterpart_is_refused_with_its_line() -> None:
    text = rf"ONNX has no counterpart of aten.linalg_eig \({line_of(Eigen, 'return torch.linalg')}"
    with pytest.raises(UnsupportedModel, match=text):
        from_module(Eigen(), torch.randn(1, 3, 3))


def test_a_module_that_is_random_in_evaluation_mode_is_refused() -> None:
    class Random(nn.Module):
        def forward(self, x: Any) -> Any:
            return nn.functional.dropout(x, 0.5)

    with pytest.raises(UnsupportedModel, match="Random gives another 'output' each time"):
        from_module(Random(), torch.randn(2, 30))


def test_a_model_that_computes_something_else_is_refused() -> None:
    class Pretending(nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 1.01 if torch.compiler.is_exporting() else x

    with pytest.raises(
        UnsupportedModel, match=r"another 'output' than the module: they differ by 0\.01 of the largest"
    ):
        from_module(Pretending(), torch.randn(2, 3))


def test_what_is_not_a_float32_module_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"Linear holds 'weight' as float16; .* copy.deepcopy\(module\).float"):
        from_module(nn.Linear(3, 3).half(), torch.ones(1, 3))


def test_results_that_are_no_tensors_are_refused() -> None:
    class Counting(nn.Module):
        def forward(self, x: Any) -> Any:
            return x, {"rows": x.shape[0]}

    with pytest.raises(UnsupportedModel, match="Counting returns 2 as output_1_rows, which is no tensor"):
        from_module(Counting(), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (torch.ones(1, 3), r"Pair.forward\(.*: missing a required argument: 'goal'"),
        ({"state": 1.0, "goal": None}, "they hold no tensor"),
        ((torch.ones(1, 3), object()), "a object is neither a tensor nor a number"),
        (
            (torch.ones(1, 4), torch.ones(1, 2)),
            "Pair fails on example_inputs at .*, in forward: 'both = .*RuntimeError",
        ),
    ],
)
def test_example_inputs_that_do_not_fit_are_refused(example: Any, text: str) -> None:
    with pytest.raises(BadOption, match=text):
        from_module(Pair().eval(), example)


def test_nothing_is_printed_logged_or_warned(capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    class Loud(nn.Module):
        def forward(self, x: Any) -> Any:
            print("forward")
            return torch.relu(x)

    level = logging.getLogger("torch").level
    from_module(Loud(), torch.ones(1, 3))
    with pytest.raises(UnsupportedModel):
        from_module(Branching(), torch.ones(1, 3))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
    assert logging.getLogger("torch").level == level


def test_a_module_is_told_from_other_things() -> None:
    assert is_module(nn.Linear(1, 1))
    assert not is_module(torch.ones(1))
    assert not is_module("model.onnx")
