# ruff: noqa: E402
"""Promised: in training NaN and infinity are refused where a quantizer would hide them, and the quantizer, the tensor,
its node and the parameter or input that is the cause are named; so are what ends the ready loop and an export.
"""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.errors import BadCalibration, BadOption
from halfeven.training.loop import Recipe, fit

nn = torch.nn
NAN, INF = float("nan"), float("inf")


def pictures() -> Any:
    return torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(**options: Any) -> Any:
    return copy.deepcopy(prepared(**options)).train()


@cache
def prepared(**options: Any) -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 3),
    )  # fmt: skip
    for _ in range(30):
        module(pictures())
    return qat.prepare(module.eval(), pictures(), **options)


def broken(name: str, value: float = NAN, **options: Any) -> Any:
    found = network(**options)
    with torch.no_grad():
        found.state_dict(keep_vars=True)[name].view(-1)[0] = value
    return found


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_input_that_is_not_finite_is_refused(value: float, layout: Any) -> None:
    x = pictures()
    x[3, 0, 2, 2] = value
    with pytest.raises(BadCalibration, match=r"quantizers\.\d+ was given (NaN|infinity) in 'input', an input of the"):
        network()(x.to(memory_format=layout))


CAUSES = {
    "0.weight": r"quantizers\.\d+ was given NaN in '0.weight', which Conv '0/Conv' reads",
    "0.bias": r"quantizers\.\d+ was given NaN in '1/\S+', which Conv '0/Conv' computes",
    "1.weight": r"in '0.weight', which Conv '0/Conv' reads",
    "1.running_mean": "in '1.running_mean'",
    "1.running_var": r"in '0.weight', which Conv '0/Conv' reads",
    "3.bias": "rounding of a bias was given NaN in '3.bias', which Conv '3/Conv' reads",
    "6.weight": r"in '6.weight', which Gemm '6/Gemm' reads",
    "6.bias": "in '6.bias', which Gemm '6/Gemm' reads",
    "quantizers.0.log_gain": r"which Conv '0/Conv' computes",
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_parameter_that_is_not_finite_is_named_as_the_cause(name: str) -> None:
    with pytest.raises(BadOption, match=rf"{CAUSES[name]}.* The cause is the parameter {name}, which is not finite"):
        broken(name)(pictures())


def test_what_overflows_inside_is_named_without_a_parameter() -> None:
    found = broken("3.weight", 3e38, keep_float="3/Conv")  # a quantizer of weights would have held it
    with pytest.raises(
        BadOption, match=r"given infinity in '5/\S+', which Reshape '5/Reshape' computes.* All parameters"
    ):
        found(pictures())


def test_large_finite_numbers_are_not_refused() -> None:
    found = network()
    with torch.no_grad():
        found.get_parameter("6.bias").copy_(torch.tensor([3e38, 3e38, 1.0]))  # whose sum is infinite
    assert bool(found(pictures()).isfinite().all())


def test_it_can_be_switched_off_and_evaluation_looks_at_nothing() -> None:
    found = broken("3.bias")
    assert bool(found.eval()(pictures()).isfinite().all())
    found.train().check_finite = False
    assert bool(found(pictures()).isfinite().all())


@pytest.mark.parametrize("name", ["0.weight", "3.bias", "6.bias"])
def test_the_ready_loop_refuses_what_is_broken_from_the_start(name: str) -> None:
    readers = [lambda i=i: ({"input": pictures()[i : i + 1].numpy()}, i % 3) for i in range(32)]
    with pytest.raises(BadOption, match=f"The cause is the parameter {name}"):
        fit(broken(name), readers, Recipe(epochs=1, distill=0.0))


class Rooted(nn.Module):
    """Its gradient is infinite where the square root is of zero, its loss finite."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.two(torch.relu(self.one(x))))
        return self.head(torch.sqrt(y - y))


def test_a_gradient_that_is_not_finite_is_named_from_the_loss_back() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    found = qat.prepare(Rooted().eval(), x, keep_float=["Sqrt", "Sub"])
    readers = [lambda i=i: ({"x": x[i : i + 1].numpy()}, i % 3) for i in range(16)]
    with pytest.raises(BadOption, match=r"the loss is \d.*first gradient that is not finite is that of (?!one)\S+ \("):
        fit(found, readers, Recipe(epochs=1))


def test_an_export_names_the_quantizer_or_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"Parameter quantizers\.1\.log_gain is not finite"):
        qat.export(broken("quantizers.1.log_gain"), tmp_path / "m.onnx")
    with pytest.raises(BadOption, match=r"Parameter 1\.running_var is not finite"):
        qat.export(broken("1.running_var"), tmp_path / "m.onnx")
    fixed = broken("quantizers.1.scale", scales="fixed")
    with pytest.raises(BadOption, match=r"quantizers\.1, of '\S+' for Conv '3/Conv': QParams: scales must be positive"):
        qat.export(fixed, tmp_path / "m.onnx")
