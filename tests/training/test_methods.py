# ruff: noqa: E402
"""Promised: every method trains, and its file computes what it computes; gradients are those of the papers; values are
those of the plain fake quantizer where a method changes gradients only; ranges that move are the recurrence that is
stated, stop when frozen, and name what made them infinite.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven import qat
from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics.grid import INT8, INT8_NARROW, UINT8, IntGrid
from halfeven.numerics.quantize import params_for, params_of
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, ZeroRule, per_channel
from halfeven.run.ort import OrtExecutor
from halfeven.training.loop import Recipe, fit
from halfeven.training.methods import ALPHA, Method, method_of, softened, squeezed, step_of
from halfeven.training.quantizer import FakeQuantizer

nn = torch.nn
Pictures = Callable[[int, int], tuple[Any, Any]]
Train = Callable[[Any, int, int], list[float]]
CHOICES: dict[str, dict[str, Any]] = {
    "moving": {"scales": "moving"},
    "moving+stochastic": {"scales": "moving", "method": "stochastic"},
    **{name: {"method": name} for name in ("pact", "dorefa", "dsq", "stochastic", "pact+dorefa")},
}
AFFINE = Scheme(UINT8, zero_point=ZeroRule.FREE)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn = nn.Conv2d(1, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.two, self.head = nn.Conv2d(6, 6, 3, 2, 1), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(torch.relu(self.two(torch.relu(self.bn(self.one(x))))).mean((2, 3)))


@pytest.fixture(scope="module")
def module(one_thread: None, train: Train) -> Any:
    torch.manual_seed(0)
    network = Small()
    train(network, 10, 1)
    return network


def layer(scheme: Scheme, scale: float, zero: int = 0, **options: Any) -> FakeQuantizer:
    params = QParams(scheme, np.full((1, 1), scale, np.float32), np.full((1, 1), zero, np.int32))
    return FakeQuantizer.from_params(params, **options)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_method_trains_and_its_file_computes_what_it_computes(
    choice: str, module: Any, tmp_path: Path, pictures: Pictures, train: Train
) -> None:
    x, _ = pictures(64, 77)
    network = qat.prepare(copy.deepcopy(module), x, **CHOICES[choice])
    losses = train(network, 20, 2)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    qat.export(network, tmp_path / "m.onnx")
    run, ours = OrtExecutor(tmp_path / "m.onnx", optimize=False), network(x).detach().numpy()
    (given,) = run({"x": x.numpy()}).values()
    assert np.mean(np.abs(ours - given) < 1e-5 * np.abs(ours).max()) > 0.97


@pytest.mark.parametrize("method", [Method(clip=True), Method(soft=True), Method(stochastic=True)])
@pytest.mark.parametrize("scheme", [AFFINE, Scheme(IntGrid(4)), Scheme(INT8_NARROW, per_channel(1))])
def test_methods_that_change_gradients_have_the_plain_values(method: Method, scheme: Scheme) -> None:
    x = np.random.default_rng(0).standard_normal((40, 7)).astype(np.float32) * 3
    params = params_of(x / 2, scheme)
    plain = FakeQuantizer.from_params(params)(torch.tensor(x))
    other = FakeQuantizer.from_params(params, method=method, learn_scale=True).eval()
    assert torch.equal(other(torch.tensor(x)), plain)
    if not method.stochastic:
        assert torch.equal(other.train()(torch.tensor(x)), plain)


@pytest.mark.parametrize(("scheme", "zero"), [(AFFINE, 0), (AFFINE, 100), (Scheme(INT8), 0)])
def test_pact_moves_the_clip_by_what_is_clipped(scheme: Scheme, zero: int) -> None:
    own = layer(scheme, 0.02, zero, learn_scale=True, method=Method(clip=True))
    top, low = (scheme.grid.high - zero) * np.float32(0.02), (scheme.grid.low - zero) * np.float32(0.02)
    x = torch.tensor([[float(top), 9.0, 0.013, -0.5, 1.0, -9.0]], requires_grad=True)
    g = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]])
    own(x).backward(g)
    above = 3.0  # g of what is at the clip or above it
    below = g[x <= low].sum().item()
    expected = above * (scheme.grid.high - zero) + below * (scheme.grid.low - zero)
    assert own.scale.grad.item() == pytest.approx(expected)
    assert torch.equal(x.grad, torch.where((x < top) & (x > low), g, 0.0))


def test_dorefa_squeezes_weights_and_its_gradient_is_that_of_tanh() -> None:
    w = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scale = torch.full((4, 1), 0.25)
    t = torch.tanh(w)
    expected = t / t.abs().amax(1, keepdim=True) * 7 * scale
    torch.testing.assert_close(squeezed(w, scale, 7.0), expected)
    assert torch.autograd.gradcheck(lambda w: squeezed(w, scale, 7.0), (w,))


def test_the_scale_of_dorefa_has_the_whole_derivative() -> None:
    w = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    own = layer(Scheme(IntGrid(4)), 0.3, learn_scale=True, method=Method(tanh=True))
    values = own(w)
    values.sum().backward()
    assert own.scale.grad.item() == pytest.approx((values / 0.3).sum().item(), rel=1e-4)  # v = code * scale


def test_dsq_has_the_gradient_of_its_staircase() -> None:
    scale = torch.tensor([[0.5]])
    x = torch.linspace(-3.9, 3.9, 157, dtype=torch.float64).reshape(1, -1).requires_grad_()
    softened(x, scale).sum().backward()
    k = np.log(2 / ALPHA - 1)

    def staircase(r: np.ndarray) -> np.ndarray:
        return np.floor(r) + (np.tanh(k * (r - np.floor(r) - 0.5)) / np.tanh(k / 2) + 1) / 2

    r = x.detach().numpy() / 0.5
    inner = np.abs(r - np.rint(r)) > 1e-4  # the ends of a step have two slopes
    slope = (staircase(r + 1e-6) - staircase(r - 1e-6)) / 2e-6
    np.testing.assert_allclose(x.grad.numpy()[inner], slope[inner], rtol=1e-4)
    fine = ((torch.arange(1000) + 0.5) / 2000).reshape(1, -1).requires_grad_()
    softened(fine, scale).sum().backward()
    assert fine.grad.mean().item() == pytest.approx(1, abs=1e-3)


def test_stochastic_rounding_is_right_on_average_and_resumes() -> None:
    own = layer(Scheme(INT8), 0.1, method=Method(stochastic=True), seed=3)
    x = torch.full((1, 20000), 0.123)
    values = own(x)
    assert set(np.unique(values.numpy() / np.float32(0.1)).round().tolist()) == {1.0, 2.0}
    assert values.mean().item() == pytest.approx(0.123, abs=2e-3)
    again = layer(Scheme(INT8), 0.1, method=Method(stochastic=True), seed=9)
    again.load_state_dict(own.state_dict())
    first, second = again(x), own(x)
    assert torch.equal(first, second)
    assert not torch.equal(first, values)


@pytest.mark.parametrize("scheme", [AFFINE, Scheme(INT8), Scheme(INT8, per_channel(0))])
def test_ranges_move_as_stated_and_stop(scheme: Scheme) -> None:
    rng = np.random.default_rng(0)
    axes = (0, 1) if scheme.tiling == PER_TENSOR else (1,)
    first = rng.standard_normal((3, 50)).astype(np.float32)
    params = params_of(first, scheme)
    own = FakeQuantizer.from_params(params, moving=0.01)
    low = (scheme.grid.low - params.zero_point) * params.scale.astype(np.float64)
    high = (scheme.grid.high - params.zero_point) * params.scale.astype(np.float64)
    for scale in (1.0, 5.0, 30.0):
        x = rng.standard_normal((3, 50)).astype(np.float32) * np.float32(scale)
        own(torch.tensor(x))
        low = 0.99 * low + 0.01 * x.min(axes, keepdims=True)
        high = 0.99 * high + 0.01 * x.max(axes, keepdims=True)
    expected = params_for(low, high, scheme)
    np.testing.assert_allclose(own.to_params().scale, expected.scale, rtol=1e-5)
    np.testing.assert_array_equal(own.to_params().zero_point, expected.zero_point)
    state = copy.deepcopy(own.state_dict())
    own.following = False
    own(torch.ones(3, 50) * 1000)
    own.following = True
    own.eval()(torch.ones(3, 50) * 1000)
    assert all(torch.equal(state[name], tensor) for name, tensor in own.state_dict().items())


def test_a_range_that_becomes_infinite_names_its_quantizer(module: Any, pictures: Pictures) -> None:
    x, _ = pictures(8, 5)
    network = qat.prepare(copy.deepcopy(module), x, scales="moving").train()
    with pytest.raises(BadCalibration, match=r"^quantizers\.\d+: A range of .* must be finite"):
        network(x * torch.inf)
    network.freeze_ranges()
    network(x)


def test_bits_are_lowered_over_the_first_half_of_the_steps(module: Any, pictures: Pictures) -> None:
    x, _ = pictures(48, 5)
    network = qat.prepare(copy.deepcopy(module), x, weight_bits=2, activation_bits=2)
    seen: list[set[int]] = []

    def note(task: str, done: int, total: int | None) -> None:
        seen.append({q.extra_bits + q.scheme.grid.bits for q in network.modules() if isinstance(q, FakeQuantizer)})

    readers = [lambda i=i: ({"x": x[i : i + 1].numpy()}, None) for i in range(48)]
    fit(network, readers, Recipe(epochs=2, batch=8, lower_from=6), note)
    assert [min(bits) for bits in seen] == [6, 6, 5, 4, 4, 3, 2, 2, 2, 2, 2, 2]
    assert all(8 in bits for bits in seen)
    with pytest.raises(BadOption, match="lower_from 1"):
        Recipe(lower_from=1)


def test_more_bits_hold_the_values_of_fewer() -> None:
    own = layer(Scheme(IntGrid(2, signed=False), zero_point=ZeroRule.FREE), 0.5, 1)
    x = torch.linspace(-1, 2, 301).reshape(1, -1)
    coarse = own(x)
    own.extra_bits = 3
    assert torch.equal(own(coarse), coarse)
    assert (own(x) - x).abs()[(x > -0.5) & (x < 1.0)].max() <= 0.5 / 16 + 1e-6


@pytest.mark.parametrize("bits", ["binary", "ternary", "log2"])
def test_activations_are_stochastic_beside_weights_that_have_no_ties(
    bits: str, module: Any, tmp_path: Path, pictures: Pictures, train: Train
) -> None:
    x, _ = pictures(64, 77)
    network = qat.prepare(copy.deepcopy(module), x, weight_bits=bits, method="stochastic")
    plan = network.origin.draft().plan
    drawn = {q.role for g, q in plan.groups.items() if q.role != "bias" and network.quantizer(g).draws is not None}
    inner = [layer for layer in network.quantizers.values() if not isinstance(layer.scheme.grid, IntGrid)]
    assert "activation" in drawn
    assert inner
    assert all(layer.draws is None for layer in inner)
    assert any(f"{inner[0].scheme.grid} weights are rounded to the nearest" in note for note in network.notes)
    network.train()
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
    assert np.isfinite(train(network, 5, 2)).all()
    qat.export(network, tmp_path / "m.onnx")
    given = next(
        iter(OrtExecutor(tmp_path / "m.onnx", optimize=False)({network.program.inputs[0]: x.numpy()}).values())
    )
    ours = network(x).detach().numpy()
    assert np.mean(np.abs(ours - given) < 1e-5 * np.abs(ours).max()) > 0.97


def test_binary_is_another_word_for_one_bit(module: Any, pictures: Pictures) -> None:
    x, _ = pictures(16, 77)
    one, word = (qat.prepare(copy.deepcopy(module), x, weight_bits=bits).eval() for bits in (1, "binary"))
    assert any(str(layer.scheme.grid) == "binary" for layer in word.quantizers.values())
    assert torch.equal(one(x), word(x))


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"method": "pact", "scales": "fixed"}, "method 'pact' changes nothing with scales='fixed'"),
        ({"method": "pact", "scales": "moving"}, "method 'pact' changes nothing with scales='moving'"),
        ({"learn_zero_point": True, "scales": "moving"}, "learn_zero_point changes nothing with scales='moving'"),
        ({"method": "dsq", "weight_bits": 1}, "method 'dsq' is for integer codes: binary weights"),
        ({"method": "pact"}, ""),
        ({"method": "dsq+stochastic"}, ""),
    ],
)
def test_a_choice_that_changes_nothing_is_said(
    choice: dict[str, Any], said: str, module: Any, pictures: Pictures
) -> None:
    notes = qat.prepare(copy.deepcopy(module), pictures(8, 1)[0], **choice).notes
    found = [note for note in notes if "changes nothing" in note or "is for integer codes" in note]
    assert [said in note for note in found] == [True] * bool(said)


def test_a_scale_that_a_step_drives_below_zero_is_held_and_named(
    module: Any, tmp_path: Path, pictures: Pictures
) -> None:
    x, _ = pictures(32, 77)
    network = qat.prepare(copy.deepcopy(module), x, scales="linear").eval()
    assert not qat.draft_of_trained(network).notes
    number, layer = next((n, q) for n, q in network.quantizers.items() if q.scale.numel() > 1)
    began = layer.scale.detach().clone()
    with torch.no_grad():
        layer.scale.view(-1)[2] = -0.5
    said = qat.export(network, tmp_path / "m.onnx")
    assert any(f"quantizers.{number}: 1 of {began.numel()} scales is driven to nothing by training" in s for s in said)
    held = layer.to_params().scale
    assert held.ravel()[2] == began.view(-1)[2].item() / 1024
    given = next(
        iter(OrtExecutor(tmp_path / "m.onnx", optimize=False)({network.program.inputs[0]: x.numpy()}).values())
    )
    ours = network(x).detach().numpy()
    assert np.mean(np.abs(ours - given) < 1e-5 * np.abs(ours).max()) > 0.97


def test_a_scale_that_is_lost_is_named(module: Any, tmp_path: Path, pictures: Pictures) -> None:
    network = qat.prepare(copy.deepcopy(module), pictures(8, 1)[0], scales="linear")
    with torch.no_grad():
        network.quantizer(0).scale.fill_(torch.nan)
    with pytest.raises(BadOption, match=r"Parameter quantizers\.0\.scale is not finite: training diverged"):
        qat.export(network, tmp_path / "m.onnx")


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(BadOption, match=r"method 'pact\+best': choose of lsq, pact"):
        method_of("pact+best", "weight")
    with pytest.raises(BadOption, match="not both"):
        layer(Scheme(INT8), 1.0, moving=0.1, learn_scale=True)
    from halfeven.numerics.binary import BinaryGrid

    with pytest.raises(BadOption, match="for integer codes, not for binary"):
        FakeQuantizer(Scheme(BinaryGrid()), method=Method(stochastic=True))
    assert step_of(torch.ones(1), INT8).item() == 1
