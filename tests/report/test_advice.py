"""Promised: what saturates is told wherever one of the machines does, with the option that mends it as it is typed; who
follows the advice has the same integers with and without VNNI; and nothing is said that is not so.
"""

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import halfeven
from halfeven.printing import print_simulation
from halfeven.report.advice import NAMED, advise, patterns
from halfeven.report.judging import judged
from halfeven.report.simulate import Divergence, Simulation
from halfeven.wording import share

Build = Callable[..., ir.Model]
VNNI, AVX2, ARM = "onnxruntime@x86-vnni", "onnxruntime@x86-avx2", "onnxruntime@arm64"
LAYERS = 6
RNG = np.random.default_rng(0)
PICTURES = [(f"{i}", {"x": x}) for i, x in enumerate(RNG.uniform(0, 1, (4, 1, 8, 6, 6)).astype(np.float32))]
GIVEN: dict[str, Any] = {"prefer": "size", "verify": False, "skip": ("gptq", "equalize")}


def network(build: Build, layers: int = 2, depthwise: bool = True) -> ir.Model:
    """Convolutions whose weights are all near the largest, some of them named as a shell would take apart."""
    body = "".join(
        f"[conv {i}] a{i + 1} = Conv(a{i}, w{i}) [relu {i}] r{i} = Relu(a{i + 1}) ".replace(f"a{i},", f"r{i - 1},")
        for i in range(layers)
    ).replace("r-1", "x")
    names = ", ".join(f"float[8,8,1,1] w{i}" for i in range(layers))
    end = f"[deep] y = Conv<group=8>(r{layers - 1}, d)" if depthwise else f"[end] y = Neg(r{layers - 1})"
    text = f"g (float[1,8,6,6] x) => (float[1,8,6,6] y) <{names}, float[8,1,1,1] d> {{ {body} {end} }}"
    text = text.replace("[conv ", "[conv_").replace("[relu ", "[relu_")
    arrays = {f"w{i}": RNG.uniform(0.9, 1, (8, 8, 1, 1)) for i in range(layers)}
    model = build(text, d=np.ones((8, 1, 1, 1)), **arrays)
    for node in model.graph:
        node.name = (node.name or "").replace("conv_", "conv ")
    return model


def quantized(model: ir.Model, **options: Any) -> ir.Model:
    return halfeven.quantize(model, [feeds for _, feeds in PICTURES], **GIVEN, **options).model


def given_to(option: str) -> tuple[str, ...]:
    """The patterns of an option as a shell reads it."""
    words = shlex.split(option)
    assert set(words[::2]) == {"--reduce-range"}
    return tuple(words[1::2])


@pytest.mark.parametrize(("layers", "everything"), [(2, False), (LAYERS, False), (LAYERS, True)])
def test_who_follows_the_advice_has_the_same_integers_with_and_without_vnni(
    build: Build, layers: int, everything: bool
) -> None:
    found = judged(quantized(network(build, layers)), PICTURES, AVX2)
    assert len(found.simulation.saturating) == layers
    assert found.parted
    names = given_to(found.advised(everything=everything)[1])
    assert names == (("Conv",) if layers > NAMED and not everything else tuple(f"conv {i}" for i in range(layers)))
    mended = judged(quantized(network(build, layers), reduce_range=names), PICTURES, AVX2)
    assert mended.simulation.saturating == {}
    assert (mended.parted, mended.differs) == ([], False)
    assert mended.advice == "No sum can saturate: every pair of products fits 16 bits."
    assert mended.to_json()["reduce_range"] == []


def test_the_option_stands_in_a_line_of_its_own_to_be_copied(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged(quantized(network(build)), PICTURES, AVX2)
    print_simulation(found, everything=False)
    assert "  --reduce-range 'conv 0' --reduce-range 'conv 1'\n" in capsys.readouterr().out
    assert found.advice.endswith("while the others keep 8: --reduce-range 'conv 0' --reduce-range 'conv 1'")
    assert found.to_json()["reduce_range"] == ["conv 0", "conv 1"]


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-arm"])
def test_layers_are_named_on_whichever_side_the_machine_stands(build: Build, target: str) -> None:
    model = quantized(network(build), target=target)
    for profile, against in ((AVX2, VNNI), (VNNI, AVX2), (AVX2, ARM), (ARM, AVX2)):
        found = judged(model, PICTURES, profile, against)
        assert list(found.simulation.saturating) == ["conv 0", "conv 1"]
        assert f"2 layers can saturate on {AVX2}." in found.advice
        assert "Verify on the device" not in found.advice
    assert judged(model, PICTURES, VNNI, ARM).advice == ""


def test_beside_itself_a_machine_does_not_show_what_it_saturates(build: Build) -> None:
    for against in (AVX2, f"{AVX2}+int8"):
        found = judged(quantized(network(build)), PICTURES, AVX2, against)
        assert not found.differs
        assert f"2 layers can saturate on both sides; what that changes shows beside {VNNI}." in found.advice
        assert "these data" not in found.advice
        assert given_to(found.advised()[1]) == ("conv 0", "conv 1")


def test_where_the_data_do_not_show_it_that_is_said(build: Build) -> None:
    dark = [("dark", {"x": np.zeros((1, 8, 6, 6), np.float32)})]
    found = judged(quantized(network(build)), dark, AVX2)
    assert f"2 layers can saturate on {AVX2}; on these data nothing differs." in found.advice


def test_what_wraps_and_what_saturates_are_both_told() -> None:
    found = Simulation(AVX2, ARM, "", saturating={"a": 1}, wrapping={"b": 1}, saturating_on=(AVX2,))
    text, option = advise(replace(found, operators={"a": "Conv"}), differs=True)
    assert "1 depthwise layer can be off by 2^16" in text
    assert f"1 layer can saturate on {AVX2}." in text
    assert option == "--reduce-range a"


def test_where_neither_is_the_cause_the_device_decides() -> None:
    text, option = advise(Simulation(AVX2, ARM, ""), differs=True)
    assert text.startswith("No sum can saturate: every pair of products fits 16 bits. Verify on the device")
    assert option == ""
    assert advise(Simulation(VNNI, ARM, ""), differs=False) == ("", "")


def test_a_real_output_that_differs_counts_though_no_code_does(build: Build) -> None:
    text = "g (float[N,8] x) => (float[N,3] y) <float[8,3] w> { [out] y = MatMul(x, w) }"
    model, data = build(text, w=np.ones((8, 3))), RNG.uniform(0.9, 1, (4, 8)).astype(np.float32)
    held = halfeven.quantize(model, {"x": data}, **GIVEN).model
    found = judged(held, [("row", {"x": data})], AVX2)
    assert found.parted == []
    assert found.differs
    assert f"1 layer can saturate on {AVX2}." in found.advice


def test_integer_operators_are_found_under_the_names_that_the_float_network_has(build: Build, tmp_path: Any) -> None:
    text = "g (float[N,8] x) => (float[N,3] y) <float[8,8] v, float[8,3] w, float[3] b> { [in] h = MatMul(x, v) [out] y = Gemm(h, w, b) }"
    model, data = build(text, v=np.ones((8, 8)), w=np.ones((8, 3))), RNG.uniform(0.9, 1, (4, 8)).astype(np.float32)
    halfeven.export(halfeven.quantize(model, {"x": data}, **GIVEN).draft, tmp_path / "net.onnx", "qoperator")
    found = judged(str(tmp_path / "net.onnx"), [("row", {"x": data})], AVX2).simulation
    assert found.saturating == {"in": 32, "out": 12}
    assert found.operators == {"in": "MatMul", "out": "Gemm"}
    dynamic = halfeven.quantize(model, {"x": data}, **GIVEN, mode="dynamic").model
    found = judged(dynamic, [("row", {"x": data})], AVX2).simulation
    assert sorted(found.saturating.values()) == [12, 32]
    assert patterns(found) == ["*"]
    mended = halfeven.quantize(model, {"x": data}, **GIVEN, mode="dynamic", reduce_range=("*",)).model
    assert judged(mended, [("row", {"x": data})], AVX2).simulation.saturating == {}


def test_a_share_that_two_decimals_would_hide_is_said_to_be_small() -> None:
    assert [share(*pair) for pair in ((0, 9), (1, 3), (1, 20_000), (1, 20_001), (3, 3), (0, 0))] == [
        *("0.00 %", "33.33 %", "0.01 %", "below 0.01 %", "100.00 %", "0.00 %")
    ]
    seen = {"q": Divergence("q", "conv", compared=100_000, differing=1, step=1)}
    found = Simulation(AVX2, VNNI, "", [{}], seen)
    assert "part first at 'conv' (below 0.01 % of its codes, by 1 at most)" in found.sentence
