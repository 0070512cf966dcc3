# ruff: noqa: E402
"""Promised: a network is trained by the plan of a search, each weight in its own bits, and the file computes what was
trained; the ready loop takes the plan too. What the plan says is not asked for twice.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import halfeven
from halfeven import errors
from halfeven.errors import BadOption
from halfeven.graph.plan import Plan
from halfeven.run.ort import OrtExecutor

DEMO = Path(errors.__file__).parent / "demo"
NETWORK = str(DEMO / "fashion_mnist_mbv2.onnx")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    with np.load(DEMO / "calibration.npz") as arrays:
        return np.asarray((arrays["x"][:40, None].astype(np.float32) / 255 - 0.2860) / 0.3530, np.float32)


@pytest.fixture(scope="module")
def plan(pictures: np.ndarray) -> Plan:
    return halfeven.search(NETWORK, pictures, bits=(2, 4, 8), budget=4, samples=2).plan


@pytest.mark.parametrize("format", ["qdq", "qdq-int4"])
@pytest.mark.usefixtures("one_thread")
def test_each_weight_trains_in_its_bits_and_the_file_computes_what_was_trained(
    plan: Plan, pictures: np.ndarray, tmp_path: Path, format: str
) -> None:
    network = halfeven.prepare(NETWORK, data=pictures[:16], plan=plan)
    widths = {group: q.bits or 8 for group, q in plan.groups.items() if q.role == "weight"}
    assert len(set(widths.values())) > 1
    assert {group: network.quantizer(group).scheme.grid.bits for group in widths} == widths
    x = torch.tensor(pictures)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    network.float_only = True
    with torch.no_grad():
        wanted = network.eval()(x)
    network.float_only, losses = False, []
    network.train()
    for _ in range(6):
        loss = torch.nn.functional.mse_loss(network(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    network.eval()
    halfeven.export(network, tmp_path / "m.onnx", format)
    run = OrtExecutor(tmp_path / "m.onnx", optimize=False)
    ours, (given,) = network(x).detach().numpy(), run(dict.fromkeys(run.widths, pictures)).values()
    alike = (np.abs(ours - given) < 1e-5 * np.abs(ours).max()).all(1)
    assert (
        alike.mean() >= 0.9
    )  # of a few pictures some code meets a tie, of which sums of floats decide (training_bits.py)
    kinds = [t.data_type for t in onnx.load(tmp_path / "m.onnx").graph.initializer]
    assert (onnx.TensorProto.INT4 in kinds) == (format == "qdq-int4")


def test_the_ready_loop_takes_the_plan(plan: Plan, pictures: np.ndarray, tmp_path: Path) -> None:
    plan.save(tmp_path / "mixed.json")
    result, network = halfeven.train(
        NETWORK, pictures, plan=tmp_path / "mixed.json", batchnorm="frozen", recipe={"epochs": 1, "batch": 8}
    )
    assert {q.bits for q in result.plan.groups.values() if q.role == "weight"} == {
        q.bits for q in plan.groups.values() if q.role == "weight"
    }
    assert result.verification.sqnr_db > 5
    assert network.origin.draft().plan.floats == plan.floats


@pytest.mark.parametrize("more", [{"weight_bits": 4}, {"first_and_last": 4}])
def test_bits_that_the_plan_says_are_not_asked_for_twice(
    plan: Plan, pictures: np.ndarray, more: dict[str, int]
) -> None:
    with pytest.raises(BadOption, match="the plan says the bits of its weights"):
        halfeven.prepare(NETWORK, data=pictures[:4], plan=plan, **more)


def test_activations_may_have_few_bits_besides(plan: Plan, pictures: np.ndarray, tmp_path: Path) -> None:
    network = halfeven.prepare(NETWORK, data=pictures[:16], plan=plan, activation_bits=5).eval()
    trained = {network.quantizer(g).scheme.grid.bits for g, q in plan.groups.items() if q.role == "weight"}
    assert trained == {q.bits or 8 for q in plan.groups.values() if q.role == "weight"}
    halfeven.export(network, tmp_path / "m.onnx")
    run = OrtExecutor(tmp_path / "m.onnx", optimize=False)
    ours = network(torch.tensor(pictures)).detach().numpy()
    (given,) = run(dict.fromkeys(run.widths, pictures)).values()
    alike = (np.abs(ours - given) < 1e-5 * np.abs(ours).max()).all(1)
    assert (
        alike.mean() >= 0.9
    )  # of a few pictures some code meets a tie, of which sums of floats decide (training_bits.py)


def test_a_module_is_searched_and_trained_by_what_was_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    nn, x = torch.nn, torch.randn(40, 1, 8, 8)
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )
    found = halfeven.search(module, (row for row in x.numpy()[:, None]), example_inputs=x[:1], budget=5)
    network = halfeven.prepare(module, x[:1], data=x, plan=found.plan).eval()
    widths = {name.split(" ")[0]: bits for name, (_, bits) in found.widths.items()}
    assert widths.keys() == {"0.weight", "2.weight", "5.weight"}
    assert len(set(widths.values())) > 1
    for site, group in found.plan.sites.items():
        if site.value in widths:
            assert network.quantizer(group).scheme.grid.bits == widths[site.value]
