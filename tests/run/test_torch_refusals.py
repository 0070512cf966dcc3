"""Promised: a PyTorch module that cannot be exported is refused in a sentence that names the user's line, and nothing is
printed.
"""

import inspect
import logging
import re
from typing import Any

import pytest

from halfeven.errors import BadOption, UnsupportedModel
from halfeven.run.torch import from_module, is_module

pytest.importorskip("onnxscript", reason="PyTorch models need onnxscript")
torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn
pytestmark = pytest.mark.usefixtures("seeded")


class Pair(nn.Module):
    """Two inputs, two outputs, options that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, state: Any, goal: Any, scale: float = 1.0, *, invert: bool = False) -> dict[str, Any]:
        both = self.left(state) * self.right(goal) * scale
        return {"value": both.sum(-1), "policy": -both if invert else both}


class Branching(nn.Module):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0:
            return x * 2
        return x - 1


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
