"""Promised: `diff` finds no difference between a .tflite file and the QDQ network of one plan, however the file's tensors
are called and lie; a scale that differs is found there, under the network's name, and measured with the model's data.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import halfeven as package
from halfeven.numerics.scheme import QParams

pytest.importorskip("ai_edge_litert")
Halfeven = Callable[..., Any]
DEMO = files("halfeven.demo")
DATA = ("--data", str(DEMO / "calibration.npz"), "--preprocess", "fashion-mnist", "--limit", "4")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network for LiteRT as both files, and with one scale doubled as a third."""
    folder = tmp_path_factory.mktemp("pair")
    given = {"target": "litert", "preprocess": "fashion-mnist", "limit": 8, "verify": False}
    done = package.quantize(str(DEMO / "fashion_mnist_mbv2.onnx"), str(DEMO / "calibration.npz"), **given)
    done.save(folder / "net.onnx")
    done.save(folder / "net.tflite")
    site = next(s for s in done.plan.sites if s.value == "/f/f.11/c/c.2/Clip_output_0")
    group = done.plan.sites[site]
    old = done.plan.groups[group].params
    assert old is not None
    params = QParams(old.scheme, old.scale * np.float32(32), old.zero_point)
    plan = done.plan.with_group(group, replace(done.plan.groups[group], params=params))
    package.export(replace(done.draft, plan=plan), folder / "other.tflite")
    return folder


@pytest.mark.parametrize(
    "words", [("net.tflite", "net.onnx"), ("net.onnx", "net.tflite"), ("net.tflite", "net.tflite")]
)
def test_a_file_and_the_network_it_was_written_from_do_not_differ(
    halfeven: Halfeven, pair: Path, words: tuple[str, str]
) -> None:
    ran = halfeven("diff", *(str(pair / word) for word in words), "--target", "litert")
    assert (ran.status, ran.err) == (0, "")
    assert f"{words[0]} and {words[1]}: 0 differences in " in " ".join(ran.out.split())


def test_a_scale_that_differs_in_a_file_is_found_and_measured_whatever_its_layout(
    halfeven: Halfeven, pair: Path
) -> None:
    model = ("--model", str(DEMO / "fashion_mnist_mbv2.onnx"))
    ran = halfeven("diff", str(pair / "net.onnx"), str(pair / "other.tflite"), "--json", *model, *DATA)
    assert (ran.status, ran.err) == (0, "")
    found = json.loads(ran.out)
    (one,) = (one for one in found["differences"] if "scale" in one["kinds"])
    assert one["places"] == ["/f/f.11/c/c.2/Clip_output_0"]
    assert one["measured"]
    assert one["sqnr_db"]["a"] - one["sqnr_db"]["b"] > 6
    assert found["sqnr_db"]["a"] > found["sqnr_db"]["b"] > 15
