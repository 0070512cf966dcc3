# ruff: noqa: E402
"""Promised: the plan of a quantized network is the plan of the trained one: the same places, bits and floats. Where its
scales are of equalized channels they are taken anew from the data, and that is said; others stay as they are.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import halfeven
from halfeven import errors
from halfeven.graph.plan import Plan

DEMO = Path(errors.__file__).parent / "demo"
NETWORK = str(DEMO / "fashion_mnist_mbv2.onnx")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    with np.load(DEMO / "calibration.npz") as arrays:
        return np.asarray(arrays["x"][:16])


def planned(pictures: np.ndarray, **options: Any) -> Plan:
    given = {"preprocess": "fashion-mnist", "verify": False, "conv_bits": 4, "calibrate": "minmax", **options}
    return halfeven.quantize(NETWORK, pictures, **given).plan


def schemes(plan: Plan) -> dict[str, object]:
    return {str(site): plan.groups[group].scheme for site, group in plan.sites.items()}


@pytest.mark.parametrize("skip", [(), ("equalize",)], ids=["equalized", "as it is"])
def test_the_plan_of_a_quantized_network_is_that_of_the_trained_one(
    pictures: np.ndarray, skip: tuple[str, ...]
) -> None:
    plan = planned(pictures, skip=skip)
    assert bool(plan.scaling) != bool(skip)
    network = halfeven.prepare(NETWORK, data=pictures, preprocess="fashion-mnist", plan=plan)
    trained = network.origin.draft().plan
    assert schemes(trained) == schemes(plan)
    assert trained.floats == plan.floats
    assert any("scales are taken anew" in note for note in network.notes) != bool(skip)
    assert all(q.params is not None for q in trained.groups.values() if q.role != "bias")


def test_scales_of_channels_as_they_are_stay(pictures: np.ndarray) -> None:
    plan = planned(pictures, skip=("equalize",))
    trained = halfeven.prepare(NETWORK, data=pictures[:4], preprocess="fashion-mnist", plan=plan).origin.draft().plan
    for group, quantizer in plan.groups.items():
        if quantizer.role == "activation":
            np.testing.assert_array_equal(trained.groups[group].params.scale, quantizer.params.scale)


def test_a_plan_without_its_calibrated_scales_keeps_what_placing_pinned(pictures: np.ndarray) -> None:
    plan = planned(pictures)
    bare = plan.uncalibrated()
    assert not bare.scaling
    assert schemes(bare) == schemes(plan)
    pinned = {g for g, q in plan.groups.items() if q.params is not None and not q.method}
    assert {g for g, q in bare.groups.items() if q.params is not None} == pinned
