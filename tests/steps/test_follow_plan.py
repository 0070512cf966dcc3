"""Promised: beside a plan nothing is asked for in vain: what the plan settles is refused by name, and what a run without
data would do besides is said.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import halfeven
from halfeven.cli import main
from halfeven.errors import BadOption
from halfeven.graph.model import save

NET = (
    "g (float[N,4] x) => (float[N,2] y) <float[4,4] w, float[4] b, float[4,2] v> { h = Gemm(x, w, b) y = MatMul(h, v) }"
)
X = {"x": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)}
CORRECTED = "biases are as in the model: the plan does not say whether it was made without data"


@pytest.fixture
def made(build: Callable) -> halfeven.Result:
    return halfeven.quantize(build(NET), X, prefer="size", verify=False, skip=("equalize", "gptq"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"prefer": "size"}, "--prefer would do nothing: leave it out"),
        ({"keep_float": ("y",), "bits": 4}, "--keep-float and --bits would do nothing: leave them out"),
    ],
)
def test_options_of_placement_are_refused_beside_a_plan(
    options: dict[str, object], named: str, made: halfeven.Result, build: Callable
) -> None:
    with pytest.raises(BadOption, match=f"--plan says what is quantized and how, so {named}"):
        halfeven.quantize(build(NET), X, plan=made.plan, **options)


def test_they_are_refused_from_the_command_line_and_from_a_configuration(
    made: halfeven.Result, build: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, plan, out, config = (tmp_path / name for name in ("m.onnx", "plan.json", "q.onnx", "c.toml"))
    save(build(NET), model)
    made.plan.save(plan)
    config.write_text('[place]\nkeep_float = ["y"]\n')
    words = ["quantize", str(model), "--plan", str(plan), "-o", str(out)]
    for more, flag in ((["--prefer", "size"], "--prefer"), (["--config", str(config)], "--keep-float")):
        assert main([*words, *more]) == 2
        assert f"so {flag} would do nothing" in " ".join(capsys.readouterr().err.split())
        assert not out.exists()


def test_other_options_go_with_a_plan_and_a_run_without_data_says_what_it_leaves(
    made: halfeven.Result, build: Callable
) -> None:
    with_data = halfeven.quantize(build(NET), X, plan=made.plan, verify=False, calibrate="minmax")
    without = halfeven.quantize(build(NET), plan=made.plan, verify=False)
    skipped = halfeven.quantize(build(NET), plan=made.plan, verify=False, skip=("correct",))
    said = [any(note.startswith(CORRECTED) for note in one.notes) for one in (with_data, without, skipped)]
    assert said == [False, True, False]
