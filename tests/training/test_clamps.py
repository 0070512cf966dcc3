# ruff: noqa: E402
"""Promised: a clamp in front of a quantizer is computed in one pass with it, and has the bits of the two one after the
other: values and all gradients, whatever the layout of memory and the number of threads. Clamps that are read in more
ways than one stay operators.
"""

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from halfeven.graph.plan import Plan, Quantizer, Site
from halfeven.numerics import lsq, native
from halfeven.numerics.grid import INT8, INT32, UINT8, IntGrid
from halfeven.numerics.quantize import params_of
from halfeven.numerics.scheme import Scheme, per_channel
from halfeven.training.clamps import Clamp, clamps_of
from halfeven.training.fake_quantize import clamped, fake_quantize
from halfeven.training.program import constants_of, program_of
from halfeven.training.quantizer import FakeQuantizer

ENDS = [(0.0, inf), (0.0, 6.0), (-1.0, 1.0), (-inf, 0.75), (2.0, 2.0)]
Adversaries = Callable[..., np.ndarray]
Bits = Callable[[object], np.ndarray]


@pytest.fixture(autouse=True)
def three_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def gradients(x: Any, g: Any, grid: IntGrid, ends: tuple[float, float], merged: bool) -> list[np.ndarray]:
    """Values, and gradients of x, scale and, where it is learned, the zero point."""
    data, scale = x.detach().requires_grad_(), torch.full((1,), 0.0123, device=x.device, requires_grad=True)
    learned = grid.bits <= 16
    zero = torch.full((1,), 3.0 if learned else 3, dtype=torch.float32 if learned else torch.int32, device=x.device)
    zero.requires_grad_(learned)
    inner = data if merged else clamped(data, ends)
    values = fake_quantize(inner, scale, zero, grid, clamp=ends if merged else lsq.OPEN)
    values.backward(g)
    return [values.detach().cpu().numpy(), *(t.grad.cpu().numpy() for t in (data, scale, zero)[: 2 + learned])]


@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize("grid", [INT8, UINT8, IntGrid(4), IntGrid(16), INT32], ids=str)
def test_a_merged_clamp_has_the_bits_of_the_two(
    grid: IntGrid, ends: tuple[float, float], device: str, adversaries: Adversaries, bits: Bits
) -> None:
    rng = np.random.default_rng(0)
    x = adversaries(rng, 70_000, np.arange(-600, 600) / 2, 0.0123).reshape(7, 10, 10, 100)
    g = torch.tensor(rng.standard_normal(x.shape, np.float32), device=device)
    data = torch.tensor(x, device=device)
    one, other = (gradients(data, g, grid, ends, merged) for merged in (True, False))
    nan = torch.isnan(data).cpu().numpy()
    assert not one[1][nan].any()
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(bits(a), bits(b))


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_gradients_in_c_plus_plus_are_those_of_numpy(
    ends: tuple[float, float], adversaries: Adversaries, bits: Bits
) -> None:
    rng = np.random.default_rng(1)
    for size in (0, 1, 33, 511, 513, 65_536 * 2 + 700):
        x, g = adversaries(rng, size, np.arange(-300, 300) / 2, 0.5), rng.standard_normal(size).astype(np.float32)
        arguments = (x, g, np.float32([0.5]), np.int32([-3]), -128, 127, ends)
        with native.use_numpy():
            expected = lsq.lsq_backward(*arguments)
        for threads in (1, 4):
            for one, other in zip(lsq.lsq_backward(*arguments, threads), expected, strict=True):
                np.testing.assert_array_equal(bits(one), bits(other), f"{size} elements, {threads} threads")


def test_channels_last_stays_channels_last_with_the_same_bits(device: str) -> None:
    draws = torch.Generator().manual_seed(0)
    x, g = (torch.randn(3, 5, 9, 8, generator=draws).to(device) for _ in range(2))
    rows = [t.to(memory_format=torch.channels_last) for t in (x, g)]
    for learned in (True, False):
        layer = FakeQuantizer(Scheme(INT8), (), learn_scale=learned).to(device)
        results = []
        for data, grad in ((x, g), rows, (rows[0], g)):
            leaf = data.detach().requires_grad_()
            values = layer(leaf * 1.0, (0.0, 6.0))
            assert values.is_contiguous(memory_format=torch.channels_last) is (data is not x)
            values.backward(grad)
            results.append((values.detach(), leaf.grad))
        for values, by_x in results[1:]:
            assert torch.equal(values, results[0][0])
            assert torch.equal(by_x, results[0][1])


@pytest.mark.parametrize("options", [{"learn_scale": True}, {"moving": 0.5}, {}], ids=str)
@pytest.mark.parametrize("scheme", [Scheme(UINT8), Scheme(INT8, per_channel(1))], ids=str)
def test_a_layer_takes_a_clamp(scheme: Scheme, options: dict[str, Any]) -> None:
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0)) * 5
    params = params_of(x.numpy().clip(0, 6), scheme)
    layers = [FakeQuantizer.from_params(params, **options) for _ in range(2)]
    assert torch.equal(layers[0](x, (0.0, 6.0)), layers[1](clamped(x, (0.0, 6.0))))
    for one, other in zip(layers[0].buffers(), layers[1].buffers(), strict=True):
        assert torch.equal(one, other)


def found(nodes: str, sites: dict[Site, int]) -> dict[str, Clamp]:
    """The clamps of a graph, whose nodes have the names of what they make."""
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[4] x, float low, float high) => (float[4] z) {{ {nodes} }}'
    )
    model = ir.from_proto(onnx.parser.parse_model(text))
    for value, number in zip(list(model.graph.inputs)[1:], (-1.0, 1.0), strict=True):
        value.const_value = ir.tensor(np.float32(number), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = node.outputs[0].name
    plan = Plan({0: Quantizer(Scheme(INT8), "a"), 1: Quantizer(Scheme(INT8), "b")}, sites)
    return clamps_of(program_of(model, plan), constants_of(model).fixed)


def test_clamps_are_merged_where_all_see_one_quantizer() -> None:
    twice = "y = Relu(x) a = Abs(y) b = Neg(y) z = Add(a, b)"
    assert found(twice, {Site("y"): 0}) == {"y": Clamp((0.0, inf), 0)}
    assert found(twice, {Site("y"): 0, Site("y", "b", 0): 1}) == {"y": Clamp((0.0, inf), None)}
    assert found(twice, {Site("y", "b", 0): 1}) == {"y": Clamp((0.0, inf), None)}
    assert found("y = Clip(x, low, high) z = Abs(y)", {Site("y"): 1}) == {"y": Clamp((-1.0, 1.0), 1)}
    assert found("z = Clip(x, , high)", {Site("z"): 1}) == {"z": Clamp((-inf, 1.0), 1)}
    assert found("z = Clip(x, low)", {}) == {"z": Clamp((-1.0, inf), None)}


def test_a_clamp_that_is_no_constant_or_empty_stays_an_operator() -> None:
    assert found("y = Clip(x, high, low) z = Abs(y)", {Site("y"): 1}) == {}
    assert found("a = Abs(low) y = Clip(x, a) z = Abs(y)", {Site("y"): 1}) == {}
