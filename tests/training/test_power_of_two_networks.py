# ruff: noqa: E402
"""Promised: what is trained for a target whose scales and biases are powers of two is what its file computes, to the
bit: in ONNX Runtime with `rounding = "file"`, on the simulated DPU with `rounding = "device"`. Biases are never cut,
and have the scale that calibration would give them.
"""

import copy
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import halfeven
from halfeven import qat
from halfeven.errors import BadOption
from halfeven.exporters.onnx import to_qdq
from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.numerics.grid import INT8
from halfeven.numerics.quantize import params_of, quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import PER_TENSOR, ScaleRule, Scheme
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.ort import OrtExecutor
from halfeven.targets import TARGETS
from halfeven.training.scales import covering_power

nn, F = torch.nn, torch.nn.functional
Pictures = Callable[[int, int], tuple[Any, Any]]
Train = Callable[[Any, int, int], list[float]]
pytestmark = pytest.mark.usefixtures("one_thread")


class Branches(nn.Module):
    """Layers, a sum, a pool, a concatenation, depthwise and transposed weights; no layer without a bias but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn1 = nn.Conv2d(1, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6)
        self.deep, self.bn2 = nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.BatchNorm2d(6)
        self.down, self.up = nn.Conv2d(6, 4, 1), nn.ConvTranspose2d(4, 6, 2, 2)
        self.head = nn.Linear(12 * 16, 3)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.stem(x)))
        x = F.relu6(self.bn2(self.deep(x)) + x)
        low = F.max_pool2d(F.relu(self.down(x)), 2)
        both = torch.cat([F.max_pool2d(x, 2), F.max_pool2d(self.up(low), 2)], 1)
        return self.head(both.flatten(1))


@pytest.fixture(scope="module")
def module(one_thread: None, train: Train) -> Any:
    torch.manual_seed(0)
    network = Branches()
    train(network, 10, 1)
    return network


def in_onnxruntime(network: Any, x: Any, path: Path) -> np.ndarray:
    qat.export(network, path)
    run = OrtExecutor(path, optimize=False)
    return next(iter(run({network.program.inputs[0]: x.numpy()}).values()))


def simulated(network: Any, x: Any, machine: str) -> np.ndarray:
    held = to_qdq(qat.draft_of_trained(network))
    name_everything(held)
    run = IntegerExecutor(lower(held), machine_named(machine))
    return np.asarray(next(iter(run({network.program.inputs[0]: x.numpy()}).values())))


def values(network: Any, x: Any) -> np.ndarray:
    with torch.no_grad():
        return network(x).numpy()


@pytest.mark.parametrize(
    ("batchnorm", "scales"),
    [
        *((kind, "log") for kind in ("krishnamoorthi", "jacob", "frozen", "folded")),
        ("jacob", "fixed"),
        ("jacob", "moving"),
    ],
)
def test_the_trained_network_is_its_file_to_the_bit(
    batchnorm: str, scales: str, module: Any, tmp_path: Path, pictures: Pictures, train: Train
) -> None:
    x, _ = pictures(64, 77)
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu", batchnorm=batchnorm, scales=scales).eval()
    np.testing.assert_array_equal(values(network, x), in_onnxruntime(network, x, tmp_path / "before.onnx"))
    losses = train(network, 20, 2)
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(values(network, x), in_onnxruntime(network, x, tmp_path / "after.onnx"))


@pytest.mark.parametrize("batchnorm", ["frozen", "folded"])
def test_training_sees_what_evaluation_sees(batchnorm: str, module: Any, pictures: Pictures) -> None:
    x, _ = pictures(64, 77)
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu", batchnorm=batchnorm)
    np.testing.assert_array_equal(values(network.train(), x), values(network.eval(), x))


def test_the_quantized_forward_is_near_to_the_float_one(module: Any, pictures: Pictures) -> None:
    x, _ = pictures(64, 77)
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu").eval()
    coded = values(network, x)
    network.float_only = True
    real = values(network, x)
    assert 10 * np.log10(np.square(real).mean() / np.square(real - coded).mean()) > 25


def test_the_simulated_device_gives_the_bits_of_a_network_that_rounds_as_it_does(
    module: Any, tmp_path: Path, pictures: Pictures, train: Train
) -> None:
    x, _ = pictures(256, 77)
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu", rounding="device")
    train(network, 20, 2)
    of_device = values(network, x)
    file = in_onnxruntime(network, x, tmp_path / "m.onnx")
    np.testing.assert_array_equal(of_device, simulated(network, x, "vitis-dpu"))
    assert np.mean(of_device != file) > 0.05  # scales that are powers of two make ties common
    network.rounding = "file"
    np.testing.assert_array_equal(values(network, x), file)
    np.testing.assert_array_equal(in_onnxruntime(network, x, tmp_path / "same.onnx"), file)


def test_what_each_runtime_makes_of_a_trained_network_is_what_its_simulator_says(
    module: Any, pictures: Pictures, train: Train
) -> None:
    x, _ = pictures(16, 77)
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu")
    train(network, 5, 2)
    (found,) = halfeven.conform(network, x.numpy(), ("onnxruntime",), limit=None).runtimes
    assert found.compared > 1000
    assert found.differing == 0, found.sentence


@pytest.mark.parametrize("name", TARGETS)
def test_ties_go_where_the_device_of_each_target_sends_them(name: str) -> None:
    x = torch.arange(-7.5, 8.0).reshape(1, -1)
    x = torch.cat([x, x.nextafter(torch.zeros(1)), x.nextafter(2 * x), torch.tensor([[7.5, -8.0]]).expand(1, 2)], 1) / 8
    target = TARGETS[name]
    network = qat.prepare(nn.Sequential(nn.Linear(x.shape[1], 4)), x, target=name, scales="fixed")
    group = next(g for g, q in network.origin.draft().plan.groups.items() if q.role == "activation")
    layer = network.quantizer(group)
    layer.scale.fill_(1 / 8)
    params = layer.to_params()
    seen: list[Any] = []
    layer.register_forward_hook(lambda _, given, made: seen.append((given[0].numpy(), made.detach().numpy())))
    assert network.device_rounding is target.numerics.rounding
    for whose, rule in (("file", Rounding.HALF_EVEN), ("device", target.numerics.rounding)):
        network.rounding = whose
        for mode in (True, False):
            network.train(mode)(x)
            given, made = seen.pop()
            seen.clear()
            codes = quantize(given, params, rule).astype(np.int64) - params.zero_point.astype(np.int64)
            np.testing.assert_array_equal(made, codes.astype(np.float32) * params.scale)


def test_a_bias_that_grows_is_never_cut(module: Any, tmp_path: Path, pictures: Pictures) -> None:
    x, _ = pictures(32, 77)
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu", scales="fixed").eval()
    before = bias_scales(network)
    with torch.no_grad():
        for name in ("up.bias", "down.bias"):
            network.get_parameter(name).mul_(64.0).add_(torch.tensor(3.0))
    after = bias_scales(network)
    assert sum(after[site] > before[site] for site in before) == 2
    held = qat.draft_of_trained(network)
    for site, group in held.plan.sites.items():
        quantizer = held.plan.groups[group]
        if quantizer.role == "bias":
            bias = held.model.graph.initializers[site.value].const_value.numpy()  # type: ignore[union-attr]
            assert quantizer.params is not None
            assert np.abs(bias).max() <= quantizer.params.scale.max() * 127
    np.testing.assert_array_equal(values(network, x), in_onnxruntime(network, x, tmp_path / "m.onnx"))


def bias_scales(network: Any) -> dict[Any, float]:
    plan = qat.draft_of_trained(network).plan
    biases = {s: plan.groups[g].params for s, g in plan.sites.items() if plan.groups[g].role == "bias"}
    return {site: float(params.scale.max()) for site, params in biases.items() if params is not None}


def test_untrained_biases_have_the_scales_that_calibration_gave(module: Any, pictures: Pictures) -> None:
    x, _ = pictures(32, 77)
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu")
    plan = network.origin.draft().plan
    given = {s: plan.groups[g].params for s, g in plan.sites.items() if plan.groups[g].role == "bias"}
    assert bias_scales(network) == {site: params.scale.max() for site, params in given.items()}


@pytest.mark.parametrize("scales", ["fixed", "log"])
def test_a_scale_of_its_own_that_a_plan_gives_a_bias_is_kept_where_scales_are(
    scales: str, module: Any, tmp_path: Path, pictures: Pictures
) -> None:
    x, _ = pictures(32, 77)
    plan = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu").origin.draft().plan
    site, group = next((s, g) for s, g in plan.sites.items() if plan.groups[g].role == "bias")
    own = plan.groups[group]
    wide = replace(own.params, scale=own.params.scale * 4)
    plan = plan.with_group(group, replace(own, params=wide, method=""))
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu", plan=plan, scales=scales).eval()
    assert bool(bias_scales(network)[site] == wide.scale.max()) is (scales == "fixed")
    np.testing.assert_array_equal(values(network, x), in_onnxruntime(network, x, tmp_path / "m.onnx"))


def test_the_covering_power_is_that_of_calibration_on_all_devices(device: str) -> None:
    scheme = Scheme(INT8, PER_TENSOR, ScaleRule.POWER_OF_TWO)
    ends = np.float32(127) * np.float32(2.0) ** np.arange(-120, 100, dtype=np.float32)
    tops = [*ends, *np.nextafter(ends, np.float32(0)), *np.nextafter(ends, np.float32(np.inf)), np.float32(0)]
    tops += list(np.exp(np.random.default_rng(1).uniform(-60, 60, 3000)).astype(np.float32))
    for top in tops:
        x = np.array([top / 3, -top, 0], np.float32)
        assert covering_power(torch.tensor(x, device=device), scheme.grid).item() == params_of(x, scheme).scale.item()


def test_a_stored_state_goes_on_to_the_bit(module: Any, pictures: Pictures, train: Train) -> None:
    x, _ = pictures(16, 3)
    network = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu", rounding="device")
    train(network, 3, 2)
    stored = io.BytesIO()
    torch.save(network.state_dict(), stored)
    other = qat.prepare(copy.deepcopy(module), x, target="vitis-dpu", rounding="device")
    other.load_state_dict(torch.load(io.BytesIO(stored.getvalue()), weights_only=True), strict=True)
    assert train(other, 3, 9) == train(copy.deepcopy(network), 3, 9)


def test_a_rounding_that_is_none_is_named(module: Any, pictures: Pictures) -> None:
    with pytest.raises(BadOption, match="rounding 'half_up': choose 'file' or 'device'"):
        qat.prepare(module, pictures(8, 1)[0], rounding="half_up")
    network = qat.prepare(copy.deepcopy(module), pictures(8, 1)[0])
    with pytest.raises(BadOption, match="choose 'file' or 'device'"):
        network.rounding = "up"
