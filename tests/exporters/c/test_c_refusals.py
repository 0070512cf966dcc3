"""Promised: what has no integer form in C is refused before a file is written, by one sentence that names the node and
what to do; inputs of open shape get the sample's lengths; sums that can overflow are noted, and wrap as the simulation's.
"""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest

from halfeven.draft import Draft
from halfeven.errors import BadOption, UnsupportedByTarget
from halfeven.exporters.c.write import write_c, write_network
from halfeven.exporters.formats import FORMATS, exporter_named
from halfeven.graph.lower import lower
from halfeven.numerics.quantize import params_for
from halfeven.targets import TARGETS

CONV = "<float[3,2,3,3] w, float[3] b"
HEAD = "agraph (float[1,2,6,6] x) => (float[{}] y)"
LAYER = "c = Conv <pads=[1,1,1,1]> (x, w, b)"


def refused(draft: Draft, path: Path) -> str:
    with pytest.raises(UnsupportedByTarget) as error:
        write_c(draft, path)
    assert list(path.parent.iterdir()) == []
    return str(error.value)


@pytest.mark.parametrize(
    ("node", "out", "more", "named"),
    [
        ("y = Exp (c)", "1,3,6,6", "", "Exp 'Exp_y'"),
        (
            'y = Resize <mode="linear"> (c, , s)',
            "1,3,12,12",
            ", float[4] s = {1.0, 1.0, 2.0, 2.0}",
            "Resize 'Resize_y'",
        ),
        ("y = Erf (c)", "1,3,6,6", "", "Erf 'Erf_y'"),
        ("s = Softplus (c) y = Relu (s)", "1,3,6,6", "", "Softplus 'Softplus_s'"),
    ],
)
def test_a_node_that_needs_real_numbers_is_named(
    node: str, out: str, more: str, named: str, drafted: Callable, tmp_path: Path
) -> None:
    said = refused(drafted(f"{HEAD.format(out)} {CONV}{more}> {{ {LAYER} {node} }}"), tmp_path / "net.c")
    assert said.startswith(f"{named} has no form in C for bare metal")
    assert "end the model before it" in said
    assert said.count("\n") == 0


def test_a_division_by_several_numbers_is_refused_with_what_to_do(drafted: Callable, tmp_path: Path) -> None:
    several = ", float[3,1,1] k = {6.0, 5.0, 4.0}"
    said = refused(
        drafted(f"{HEAD.format('1,3,6,6')} {CONV}{several}> {{ {LAYER} m = Mul (c, c) y = Div (m, k) }}"),
        tmp_path / "net.c",
    )
    assert said.startswith("Div 'Div_y' has no form in C for bare metal: it does not divide by one number")
    assert "Multiply by the inverses" in said


def test_a_node_kept_in_float_is_refused_with_the_reason(
    build: Callable, samples: Callable, placed: Callable, calibrated: Callable, tmp_path: Path
) -> None:
    model = build(f"{HEAD.format('1,3,6,6')} {CONV}, float[3,3,1,1] v> {{ {LAYER} y = Conv (c, v) }}")
    data = samples(model)
    draft = calibrated(placed(model, TARGETS["integer"], data, keep_float=("Conv_y",)), data)
    assert "kept in float by --keep-float 'Conv_y'" in refused(draft, tmp_path / "net.c")


def test_codes_of_another_type_are_refused(
    build: Callable, samples: Callable, placed: Callable, calibrated: Callable, tmp_path: Path
) -> None:
    model = build(f"{HEAD.format('1,3,6,6')} {CONV}> {{ y = Conv <pads=[1,1,1,1]> (x, w, b) }}")
    data = samples(model)
    draft = calibrated(placed(model, TARGETS["onnxruntime"], data, prefer="size"), data)
    said = refused(draft, tmp_path / "net.c")
    assert "uint8 codes, not int8" in said
    assert "--target integer" in said


def test_an_input_that_is_quantized_in_two_ways_is_refused(drafted: Callable, tmp_path: Path) -> None:
    text = f"{HEAD.format('1,3,6,6')} {CONV}, float[3,2,3,3] v> {{ {LAYER} d = Conv <pads=[1,1,1,1]> (x, v, b) y = Add (c, d) }}"
    draft = drafted(text)
    (site,) = [s for s in draft.plan.sites if s.value == "x" and "d" in s.consumer]
    group = max(draft.plan.groups) + 1
    shared = draft.plan.groups[draft.plan.sites[site]]
    wider = replace(shared, params=params_for(-9.0, 9.0, shared.scheme, 4))
    plan = replace(draft.plan, groups={**draft.plan.groups, group: wider}, sites={**draft.plan.sites, site: group})
    assert "'x' is quantized in two ways" in refused(replace(draft, plan=plan), tmp_path / "net.c")


def test_another_suffix_is_refused_and_the_format_is_known(drafted: Callable, tmp_path: Path) -> None:
    draft = drafted(f"{HEAD.format('1,3,6,6')} {CONV}> {{ y = Conv <pads=[1,1,1,1]> (x, w, b) }}")
    with pytest.raises(BadOption, match=r"has the suffix \.c"):
        write_c(draft, tmp_path / "net.h")
    assert (FORMATS["c"].suffix, unwrap(exporter_named("c"))) == (".c", write_c)
    assert "c" in TARGETS["integer"].formats


def test_open_axes_get_the_lengths_of_the_sample_and_a_batch_is_one(
    drafted: Callable, written: Callable, tmp_path: Path
) -> None:
    draft = drafted(
        f"agraph (float[N,2,H,5] x) => (float[N,3,H,5] y) {CONV}> {{ y = Conv <pads=[1,1,1,1]> (x, w, b) }}"
    )
    made = written(draft, tmp_path / "net.c")
    assert "'x' [1, 2, 2, 5]" in made.notes[1]
    made.passes_its_own_test()
    with pytest.raises(UnsupportedByTarget, match="open shape"):
        write_c(replace(draft, shapes={}), tmp_path / "other.c")


@pytest.mark.parametrize(
    "layer",
    [
        "agraph (float[1,140000,1,1] x) => (float[1,2,1,1] y) <float[2,140000,1,1] w, float[2] b> { y = Conv (x, w, b) }",
        "agraph (float[1,140000] x) => (float[1,2] y) <float[2,140000] w, float[2] b> { y = Gemm <transB=1> (x, w, b) }",
    ],
    ids=["Conv", "Gemm"],
)
def test_a_sum_that_can_overflow_is_noted_and_wraps_as_in_the_simulation(
    layer: str, drafted: Callable, written: Callable, tmp_path: Path
) -> None:
    shape = (2, 140000, 1, 1) if "Conv" in layer else (2, 140000)
    made = written(drafted(layer, w=np.ones(shape)), tmp_path / "net.c")
    assert "beyond 32 bits" in made.notes[2]
    feeds = [*made.noise(2), *([np.full_like(made.noise(1)[0][0], code)] for code in (-128, 127))]
    for found, wanted in zip(made.run(feeds), made.simulated(feeds), strict=True):
        (codes,) = (wanted[t.name] for _, t in made.program.outputs)
        np.testing.assert_array_equal(found[0], codes.ravel())


def test_several_inputs_and_outputs_and_an_output_that_is_read_on(
    drafted: Callable, written: Callable, tmp_path: Path
) -> None:
    text = (
        "agraph (float[1,2,6,6] x, float[1,3,1,1] z) => (float[1,3,6,6] c, float[1,3,6,6] y, float[3,36] r)"
        f" {CONV}, int64[2] n = {{3, -1}}> {{ {LAYER} y = Mul (c, z) r = Reshape (y, n) }}"
    )
    made = written(drafted(text), tmp_path / "net.c")
    header = (tmp_path / "net.h").read_text()
    assert "int net_run(const int8_t *in0, const int8_t *in1, int8_t *out0, int8_t *out1, int8_t *out2);" in header
    assert "NET_INPUT1_SHAPE {1, 3, 1, 1}" in header
    feeds = made.noise(4)
    names = [t.name for _, t in made.program.outputs]
    for found, wanted in zip(made.run(feeds), made.simulated(feeds), strict=True):
        for codes, name in zip(found, names, strict=True):
            np.testing.assert_array_equal(codes, wanted[name].ravel())
    made.passes_its_own_test()


QDQ = """agraph (float[2,3] x) => (float[2,3] y, float[3,2] r)
<float s = {0.05}, int8 z = {-7}, float t = {0.08}, int8 v = {11}, int64[2] n = {3, 2}>
{
    q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
    p = QuantizeLinear (d, t, v) y = DequantizeLinear (p, t, v)
    m = Reshape (d, n) u = QuantizeLinear (m, s, z) r = DequantizeLinear (u, s, z)
}"""


def test_codes_are_recoded_between_scales_and_an_input_can_be_an_output(
    build: Callable, compiled: Callable, tmp_path: Path
) -> None:
    network = lower(build(QDQ))
    assert [op.kind for op in network.ops if op.integer] == ["Requantize", "Reshape"]
    write_network(network, {"x": (2, 3)}, tmp_path / "net.c")
    text = (tmp_path / "net.c").read_text()
    assert "memcpy(out1, in, 6);" in text
    assert "arena" not in text
    program = compiled(tmp_path, ["net.c", "net_test.c"], "test")
    assert subprocess.run([program], check=False).returncode == 0


def test_a_self_test_fails_on_a_code_that_is_not_the_recorded_one(
    drafted: Callable, written: Callable, compiled: Callable, tmp_path: Path
) -> None:
    written(drafted(f"{HEAD.format('1,3,6,6')} {CONV}> {{ y = Conv <pads=[1,1,1,1]> (x, w, b) }}"), tmp_path / "net.c")
    test = tmp_path / "net_test.c"
    start, end = test.read_text().split("wanted2_0[108] = {\n    ")
    code, rest = end.split(",", 1)
    test.write_text(f"{start}wanted2_0[108] = {{\n    {int(code) - 1 if int(code) > 0 else int(code) + 1},{rest}")
    program = compiled(tmp_path, ["net.c", "net_test.c"], "test")
    assert subprocess.run([program], check=False).returncode == 1


def test_an_absent_argument_gives_1(drafted: Callable, written: Callable, compiled: Callable, tmp_path: Path) -> None:
    written(drafted(f"{HEAD.format('1,3,6,6')} {CONV}> {{ y = Conv <pads=[1,1,1,1]> (x, w, b) }}"), tmp_path / "net.c")
    (tmp_path / "none.c").write_text(
        '#include <stddef.h>\n#include "net.h"\nstatic int8_t x[NET_INPUT_SIZE], y[NET_OUTPUT_SIZE];\n'
        "int main(void) { return net_run(NULL, y) * 2 + net_run(x, NULL) + net_run(x, y) * 4; }\n"
    )
    program = compiled(tmp_path, ["net.c", "none.c"], "none")
    assert subprocess.run([program], check=False).returncode == 3


LYING = "agraph (float[1,4,6,6] x) => (float[1,4,6,6] y) <float s = {{0.05}}, int8 z = {{0}}, {}> {{ {} }}"
IN_AND_OUT = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) {} u = QuantizeLinear (m, s, z) y = DequantizeLinear (u, s, z)"


@pytest.mark.parametrize(
    "node",
    [
        "w = DequantizeLinear (c, s, z) m = Conv (d, w)",
        "w = DequantizeLinear (c, s, z) m = Conv <group=3> (d, w)",
        "w = DequantizeLinear (c, s, z) m = MatMul (d, w)",
        "w = DequantizeLinear (c, s, z) m = PRelu (d, w)",
        "w = DequantizeLinear (c, s, z) m = Concat <axis=1> (d, w)",
        "w = DequantizeLinear (c, s, z) m = ConvTranspose <strides=[0,1]> (d, w)",
        "w = DequantizeLinear (c, s, z) m = Add (d, w)",
        "m = Transpose <perm=[0,1,1,3]> (d)",
        "m = Transpose <perm=[0,1,2]> (d)",
        "m = Reshape (d, n)",
        "m = Expand (d, n)",
        "m = MaxPool <kernel_shape=[3]> (d)",
        "m = MaxPool <kernel_shape=[99999999,2]> (d)",
        "m = MaxPool <kernel_shape=[2,2], pads=[1073741824,0,0,0], strides=[1073741824,1]> (d)",
        "m = AveragePool <kernel_shape=[2,2], pads=[5,5,5,5]> (d)",
        "m = Squeeze (d, n)",
        "m = Slice (d, n, n, n, n)",
        "m = Pad (d, n)",
        "m = Split <axis=7> (d)",
        "m = ReduceMean <axes=[9]> (d)",
        "m = Softmax <axis=9> (d)",
    ],
)
def test_a_model_whose_shapes_lie_is_refused_with_the_node_s_name(build: Callable, node: str, tmp_path: Path) -> None:
    constants = "int8[3,3,2,2] c = {" + ", ".join(["1"] * 36) + "}, int64[3] n = {7, 5, 3}"
    model = build(LYING.format(constants, IN_AND_OUT.format(node)))
    for each in model.graph:
        each.name = each.outputs[0].name
    network = lower(model)
    with pytest.raises(UnsupportedByTarget, match="has no form in C") as error:
        write_network(network, {"x": (1, 4, 6, 6)}, tmp_path / "net.c")
    assert " 'm' has no form" in str(error.value)
    assert list(tmp_path.iterdir()) == []
