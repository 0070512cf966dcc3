# ruff: noqa: E402
"""Promised: a network is called as its module is, with nests and constants, and calibrated with such calls; constants
that are no parameters of the module are not trained, so that what is restored computes what was trained, and what has
no place in the module is named; notes say what stays float.
"""

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from halfeven import qat
from halfeven.errors import BadOption
from halfeven.training.arguments import Arguments, Input, MisfitError
from halfeven.training.loop import Recipe, fit

nn, F = torch.nn, torch.nn.functional


def noise(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def step(network: Any, *inputs: Any) -> None:
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    network.train()(*inputs).square().mean().backward()
    optimizer.step()
    network.eval()


class Stateful(nn.Module):
    """Takes a state as a tuple, and a switch, and gives the state back."""

    def __init__(self) -> None:
        super().__init__()
        self.r, self.h = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Any, state: Any, *, gain: Any = None, twice: bool = False) -> Any:
        y, state = self.r(x, state)
        y = self.h(y) if gain is None else self.h(y) * gain["by"]
        return y + y if twice else y, state


CALL = {"x": noise(3, 7, 5), "state": (noise(1, 3, 4), noise(1, 3, 4)), "gain": {"by": noise(2)}, "twice": True}


def test_a_network_is_called_with_the_nests_and_names_of_its_module() -> None:
    torch.manual_seed(0)
    module = Stateful().eval()
    network = qat.prepare(module, CALL)
    network.float_only = True
    x, state, gain = CALL["x"], CALL["state"], CALL["gain"]
    wanted, (h, c) = module(**CALL)
    for held in (network, pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        for found, (one, other) in (held(**CALL), held(x, state, twice=True, gain=gain)):
            for ours, theirs in ((found, wanted), (one, h), (other, c)):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(network(x, *state, gain["by"])[0], network(**CALL)[0])
    with pytest.raises(BadOption, match=r"takes x, state=\(state_0, state_1\), gain=.*'twice' is True, which is built"):
        network(x, state, gain=gain, twice=False)
    with pytest.raises(BadOption, match="'state' has 2 parts"):
        network(x, (state[0],), gain=gain)
    with pytest.raises(BadOption, match="'gain' is missing"):
        network(x, state)


def test_a_nan_that_is_built_in_is_that_of_a_call() -> None:
    nan, x = float("nan"), noise(2)

    def forward(x: Any, blank: float = nan, *, other: float = 1.0) -> Any: ...

    takes = Arguments.of(inspect.signature(forward), {"x": Input("x"), "blank": nan, "other": nan})
    for call in ((x, nan), (x, np.float32(nan).item()), (x,)):
        assert takes.tensors(call, {"other": nan}) == {"x": x}
    for call, named in (((x, 1.0), {"other": nan}), ((x, nan), {"other": 1.0}), ((x, nan), {})):
        with pytest.raises(MisfitError, match="is nan, which is built into the network"):
            takes.tensors(call, named)


class Switched(nn.Module):
    """Its switch is off if a call does not say."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Any, negative: bool = False, *, gain: float = 1.0) -> Any:
        y = self.conv(x) * gain
        return -y if negative else y


def test_a_call_that_leaves_out_what_is_built_in_is_answered_only_if_forward_means_the_same() -> None:
    torch.manual_seed(0)
    module, x = Switched().eval(), noise(4, 3, 8, 8)
    negative, plain = (qat.prepare(module, (x, switch)).eval() for switch in (True, False))
    for held in (negative, pickle.loads(pickle.dumps(negative))):
        for call in ((x,), {"x": x}):
            with pytest.raises(BadOption, match=r"'negative' is True, which is built .* forward takes False where"):
                held(**call) if isinstance(call, dict) else held(*call)
    assert torch.equal(negative(x, True), negative(x, negative=True))
    assert torch.equal(plain(x), plain(x, False))
    with pytest.raises(BadOption, match="'negative' is False, which is built into the network"):
        plain(x, True)
    louder = qat.prepare(module, {"x": x, "gain": 2.0}, data=[{"x": x}, (x,)])
    with pytest.raises(BadOption, match=r"'gain' is 2.0, .* forward takes 1.0 where a call lacks it. Give it."):
        louder(x)


def test_the_ready_loop_trains_a_network_with_constants_in_its_call() -> None:
    negative = qat.prepare(Switched().eval(), (noise(4, 3, 8, 8), True))
    readers = [lambda: ({"x": np.ones((1, 3, 8, 8), np.float32)}, None)] * 4
    assert fit(negative, readers, Recipe(epochs=1, batch=2)).losses


def test_calls_of_the_module_are_data_to_calibrate_with() -> None:
    torch.manual_seed(0)
    module, small = Stateful().eval(), (noise(3, 7, 5), (noise(1, 3, 4), noise(1, 3, 4)))
    large = (30 * small[0], small[1])
    narrow, wide = (qat.prepare(module, small, data=data, target="litert") for data in ([small], [small, large]))
    first, second = (float(n.quantizers["0"].scale_and_zero_point()[0].detach().max()) for n in (narrow, wide))
    assert second > 1.5 * first  # of what the LSTM gives, which saturates


NORMS = {
    "instance": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    "group": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    "layer": lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 2)),
    "batch": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 2, 1)),
}


@pytest.mark.parametrize("name", NORMS)
def test_constants_that_an_exporter_makes_are_not_trained_and_the_module_is_restored_whole(name: str) -> None:
    torch.manual_seed(0)
    module, x = NORMS[name]().eval(), noise(8, 3, 8, 8)
    network = qat.prepare(module, x)
    assert {n for n, _ in module.named_parameters()} == {
        n for n, _ in network.named_parameters() if not n.startswith("quantizers.")
    }
    for _ in range(5):
        step(network, x)
    restored = qat.restore(module, network).eval()
    network.float_only = True
    torch.testing.assert_close(network(x), restored(x), rtol=1e-4, atol=1e-5)


SINGLE = {
    "bias": lambda: nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU()),
    "slope": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 4, 3)),
    "norm": lambda: nn.Sequential(nn.Conv2d(3, 1, 3), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 4, 3)),
}


@pytest.mark.parametrize("name", SINGLE)
def test_parameters_of_one_element_are_trained_exported_and_restored(name: str) -> None:
    torch.manual_seed(0)
    module, x = SINGLE[name]().eval(), noise(8, 3, 8, 8)
    before, network = copy.deepcopy(module), qat.prepare(module, x)
    for _ in range(5):
        step(network, x + 1)
    restored = qat.restore(module, network).eval()
    for (where, old), new in zip(before.named_parameters(), restored.parameters(), strict=True):
        behind = (name, where) == ("norm", "0.bias")  # a normalization takes it away again
        assert behind or not torch.equal(old, new), where
    network.float_only = True
    torch.testing.assert_close(network(x), restored(x), rtol=1e-4, atol=1e-5)
    held = {v.name: v.const_value for v in qat.draft_of_trained(network).model.graph.initializers.values()}
    if name != "norm":
        alone = restored[0].bias if name == "bias" else restored[1].weight
        numbers = [t.numpy().ravel() for t in held.values() if t.size == 1]
        assert any(np.array_equal(n, alone.detach().numpy().ravel()) for n in numbers)


class Scaled(nn.Module):
    """A scale behind a layer is folded into it; bounds of a clamp stay as they are."""

    def __init__(self, folded: bool) -> None:
        super().__init__()
        self.conv, self.gain = nn.Conv2d(3, 8, 3), nn.Parameter(torch.full((8, 1, 1), 2.0)) if folded else None
        self.top = None if folded else nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Any) -> Any:
        y = self.conv(x)
        return torch.relu(y * self.gain) if self.top is None else torch.clamp(y, max=self.top)


def test_what_was_folded_is_refused_without_advice_on_normalization_and_fixed_bounds_stay() -> None:
    module, x = Scaled(folded=True).eval(), noise(4, 3, 8, 8)
    with pytest.raises(BadOption, match=r"'gain' .* it was folded into another tensor, and not trained as it is\."):
        qat.restore(module, qat.prepare(module, x))
    module = Scaled(folded=False).eval()
    network = qat.prepare(module, x)
    assert qat.restore(module, network).top.item() == 0.5


class Tables(nn.Module):
    """A buffer, one that no state_dict holds, a constant of forward, and a layer that forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.unused, self.b = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.register_buffer("pos", noise(5, 8))
        self.register_buffer("mean", noise(8), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.b(torch.relu(self.a(x - self.mean + self.pos) + torch.arange(8.0)))


def test_buffers_stay_buffers_and_what_forward_does_not_use_stays_in_the_module() -> None:
    torch.manual_seed(0)
    module, x = Tables(), noise(4, 5, 8)
    network = qat.prepare(module, x)
    assert {n for n, _ in network.named_parameters() if not n.startswith("quantizers.")} == {
        "a.weight", "a.bias", "b.weight", "b.bias",
    }  # fmt: skip
    assert {"pos", "mean"} <= {n for n, _ in network.named_buffers()}
    before = module.unused.weight.clone()
    step(network, x)
    qat.restore(module, network)
    assert torch.equal(module.unused.weight, before)
    assert torch.equal(module.a.weight, network.get_parameter("a.weight"))


class Named(nn.Module):
    """A parameter that is called as the input, one that forward does not use, and a constant of forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.x, self.lifted = nn.Linear(8, 8), nn.Parameter(noise(8)), nn.Parameter(noise(8))

    def forward(self, x: Any) -> Any:
        return torch.relu(self.a(x)) * self.x * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])


def test_a_constant_is_not_taken_for_a_parameter_whose_name_its_own_begins_with() -> None:
    torch.manual_seed(0)
    module, x = Named(), noise(4, 8)
    network = qat.prepare(module, x)
    assert any(name.startswith("lifted") for name in network.paths)
    step(network, x)
    before = copy.deepcopy(module.state_dict())
    after = qat.restore(module, network).state_dict()
    assert {name for name in before if torch.equal(after[name], before[name])} == {"lifted"}
    network.float_only = True
    torch.testing.assert_close(network(x), module(x))


def test_restoring_into_a_module_that_lacks_what_was_trained_is_refused() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    network, other = qat.prepare(module, noise(8, 8)), nn.Sequential(nn.Linear(8, 8))
    step(network, noise(8, 8))
    before = other[0].weight.clone()
    with pytest.raises(BadOption, match=r"'2\.bias' was trained \(one of 2\), and the module has no such tensor"):
        qat.restore(other, network)
    assert torch.equal(other[0].weight, before)


class Branches(nn.Module):
    """Two branches, of which a sum chooses, between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.a, self.b, self.o = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Any) -> Any:
        x = self.i(x)
        return self.o(torch.cond(x.sum() > 0, lambda z: self.a(z), lambda z: self.b(z), (x,)))


def test_notes_say_what_is_trained_in_float() -> None:
    torch.manual_seed(0)
    notes = qat.prepare(Branches().eval(), noise(32, 6)).notes
    assert any(n.startswith("2 nodes in float, in training too: inside the body of a control-flow") for n in notes)
    notes = qat.prepare(Stateful().eval(), (CALL["x"], CALL["state"])).notes
    assert any("in float, in training too: ONNX Runtime has no integer kernel for static LSTM" in n for n in notes)
