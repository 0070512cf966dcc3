"""Promised: where a target multiplies two activations in integers, their codes are placed with the second operand around
zero, if its table says so; where it does not, the product stays float, with the reason.
"""

from dataclasses import replace

import pytest

from halfeven.graph.plan import Site
from halfeven.numerics.grid import INT8
from halfeven.numerics.scheme import Scheme
from halfeven.targets.costs import UNIFORM
from halfeven.targets.litert import LITERT
from halfeven.targets.onnxruntime import ONNXRUNTIME
from halfeven.targets.target import Cost

EAGER = replace(LITERT, costs=replace(UNIFORM, quantize=Cost(), dequantize=Cost()))
ATTENTION = (
    "g (float[2,7,6] x) => (y) <float[6,6] wq, float[6,6] wk, float[6,6] wv, float[6,4] wo> "
    "{ q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) t = Transpose<perm = [0,2,1]>(k) "
    "s = MatMul(q, t) p = Softmax<axis = -1>(s) m = MatMul(p, v) y = MatMul(m, wo) }"
)
FREE_OF_WEIGHTS = "g (float[1,4,5] x, float[1,5,4] z) => (y) { y = MatMul(x, z) }"


def test_keys_and_values_have_codes_around_zero_and_queries_have_not(build, samples, placed) -> None:
    model = build(ATTENTION)
    draft = placed(model, LITERT, samples(model, 2))
    schemes = {name: draft.plan.at(Site(name)).scheme for name in "qktvspmy"}
    assert {name for name, scheme in schemes.items() if scheme.symmetric} == {"k", "t", "v"}
    assert {scheme.grid for scheme in schemes.values()} == {INT8}
    assert draft.plan.sites[Site("k")] == draft.plan.sites[Site("t")]
    assert draft.plan.floats == {}


def test_a_value_that_others_read_too_has_codes_around_zero_for_all(build, samples, placed) -> None:
    model = build("g (float[1,4,4] x, float[1,4,4] z) => (y) { h = Mul(x, z) a = Mul(h, x) y = MatMul(a, h) }")
    draft = placed(model, EAGER, samples(model, 2))
    assert draft.plan.at(Site("h")).scheme == Scheme(INT8)
    assert not draft.plan.at(Site("a")).scheme.symmetric


def test_a_second_operand_that_a_kernel_gives_one_scale_keeps_it(build, samples, placed) -> None:
    model = build("g (float[1,4,4] x) => (y) { p = Softmax<axis = -1>(x) y = MatMul(x, p) }")
    draft = placed(model, EAGER, samples(model, 2))
    found = draft.plan.at(Site("p"))
    assert (float(found.params.scale[0]), int(found.params.zero_point[0])) == (1 / 256, -128)
    assert not found.scheme.symmetric


@pytest.mark.parametrize(
    "text", [FREE_OF_WEIGHTS, "g (float[1,4,5] x) => (y) <float[5] w> { y = MatMul(x, w) }"], ids=["two", "vector"]
)
def test_elsewhere_a_product_stays_float_with_the_reason(text, build, samples, placed) -> None:
    model = build(text)
    data = samples(model, 2)
    target = LITERT if "w>" in text else replace(ONNXRUNTIME, costs=EAGER.costs)
    (reason,) = placed(model, target, data).plan.floats.values()
    assert reason == f"MatMul multiplies two activations: {target.name} gains nothing from it in integers"
