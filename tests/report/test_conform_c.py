"""Promised: C is compiled here, fed the samples, and compared with its simulator tensor by tensor; without a compiler the
report says so.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven import demo
from halfeven.exporters.c.program import Program
from halfeven.report.conform import conform
from halfeven.run.c_program import compiler

HOME = Path(demo.__file__).parent


def quantized() -> tuple[halfeven.Result, np.ndarray]:
    pictures = np.load(HOME / "calibration.npz")["x"][:8, None].astype(np.float32) / np.float32(255)
    result = halfeven.quantize(HOME / "fashion_mnist_mbv2.onnx", pictures, target="integer", verify=False)
    return result, pictures[:2]


def present() -> list[str]:
    try:
        return compiler()
    except halfeven.BadOption:
        pytest.skip("no C compiler found: set CC")


def test_the_codes_of_every_tensor_in_c_are_those_of_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    present()
    result, pictures = quantized()
    (one,) = halfeven.conform(result.draft, pictures, ("c",)).runtimes
    assert one.sentence == f"c computes the integers of integer: none of {one.compared:,} differs."
    assert len(one.tensors) > 30
    assert one.effect.equal == 2
    stored = Program.array

    def wrong(program: Program, values: object, dtype: type, about: str) -> object:
        return stored(program, np.asarray(values) + (about.startswith("bias") * 4000), dtype, about)

    monkeypatch.setattr(Program, "array", wrong)
    (other,) = halfeven.conform(result.draft, pictures, ("c",)).runtimes
    assert other.differing > 1000
    assert other.first is not None


def test_without_a_compiler_the_report_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    result, pictures = quantized()
    (one,) = halfeven.conform(result.draft, pictures, ("c",)).runtimes
    assert one.sentence.startswith("c cannot run it: To run C a compiler is needed")


@pytest.mark.parametrize("wanted", ["no-such-compiler -m32", "'unended", "nowhere/cc"])
def test_a_compiler_that_cc_names_and_is_not_there_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", wanted)
    with pytest.raises(halfeven.BadOption, match=re.escape(f"CC names '{wanted}', which is not found")):
        compiler()


def test_arguments_in_cc_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    found = present()
    monkeypatch.setenv("CC", f"{shlex.quote(found[0])} -DA='1 2' -O0")
    assert compiler() == [found[0], "-DA=1 2", "-O0"]


def test_names_that_are_one_in_c_are_told_and_outputs_still_compared(build: Callable[..., ir.Model]) -> None:
    present()
    model = build(
        "g (float[n,4] x) => (float[n,3] p, float[n,3] q) <float[4,5] w, float[4,5] v, float[5,3] u>"
        " { a = MatMul(x, w) b = Relu(a) c = MatMul(x, v) d = Relu(c) p = MatMul(b, u) q = MatMul(d, u) }"
    )
    for place, name in {1: "b\u00e4", 3: "b\u00f6", 4: "t\u00e4", 5: "t\u00f6"}.items():
        model.graph[place].outputs[0].name = name
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    draft = halfeven.quantize(model, x, target="integer", verify=False).draft
    data = [("one", {"x": x[:1]}), ("two", {"x": x[1:2]})]
    (one,) = conform(draft, data, ["c"]).runtimes
    assert (one.refused, one.differing) == ("", 0)
    assert one.notes[-1].startswith("2 inner tensors not compared")
    assert {d.compared for name, d in one.tensors.items() if name.startswith("t")} == {6}
    other, own = conform(draft, [*data, ("both", {"x": x[:2]})], ["c", "onnxruntime"]).runtimes
    assert other.refused.startswith("both: the C code is for 'x")
    assert (own.refused, own.differing) == ("", 0)
