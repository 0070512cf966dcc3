"""Promised: inputs, outputs and parameters of a PyTorch module keep their names, as far as names can be kept."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from halfeven.errors import BadOption
from halfeven.run.ort import OrtExecutor
from halfeven.run.torch import from_module

pytest.importorskip("onnxscript", reason="PyTorch models need onnxscript")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
pytestmark = pytest.mark.usefixtures("seeded")
Same = Callable[..., None]
Dims = Callable[[Sequence[ir.Value]], dict[str, list[object]]]


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


def test_inputs_and_outputs_have_the_names_of_forward(assert_same: Same, dims: Dims) -> None:
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


def test_a_shared_tensor_is_there_once_under_its_first_name(assert_same: Same) -> None:
    module = Tied().eval()
    model, _ = from_module(module, torch.randint(0, 11, (1, 5)))
    assert set(model.graph.initializers) == {"embed.weight", "inner.weight", "inner.bias"}
    assert_same(module, model, torch.randint(0, 11, (4, 5)))


def test_a_parameter_called_like_an_input_or_an_operator_does_no_harm(assert_same: Same) -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.add = nn.Parameter(torch.full((3,), 2.0)), nn.Parameter(torch.full((3,), 5.0))

        def forward(self, x: Any) -> Any:
            return x + self.x + self.add

    model, notes = from_module(Clash().eval(), torch.randn(2, 3))
    assert notes == ["'x' of the module is 'x_1' in the model, as an input or output is called 'x'"]
    assert_same(Clash(), model, torch.randn(4, 3))


def test_inputs_without_rows_are_told_from_those_with(dims: Dims) -> None:
    class Picking(nn.Module):
        def forward(self, x: Any, index: Any) -> Any:
            return x[:, index], index * 2

    index = torch.tensor([0, 2, 5])
    model, notes = from_module(Picking().eval(), (torch.randn(1, 6), index))
    assert notes == []
    assert dims(model.graph.inputs) == {"x": ["batch", 6], "index": [3]}
    assert dims(model.graph.outputs) == {"output_0": ["batch", 3], "output_1": [3]}


def test_the_batch_is_fixed_on_demand(dims: Dims) -> None:
    model, notes = from_module(nn.Linear(3, 2).eval(), torch.ones(4, 3), dynamic_batch=False)
    assert (dims(model.graph.inputs), notes) == ({"input": [4, 3]}, [])
