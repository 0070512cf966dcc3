"""Promised: statistics give the scales of a direct run, merge to those of the union, and do not depend on how samples
are batched or, but for the moving average, ordered; the same inputs and options give the same bytes, in any process.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import halfeven as package
from halfeven import Record, Result
from halfeven.errors import BadCalibration
from halfeven.feeding import open_data
from halfeven.graph.model import load

MERGING = ("minmax", "percentile", "entropy", "mse", "auto")
Scales = dict[int, tuple[list[float], list[int]]]
Halfeven = Callable[..., Any]


def scales(result: Result) -> Scales:
    """Scale and zero point of every group of activations."""
    found = {g: q.params for g, q in result.plan.groups.items() if q.role == "activation"}
    assert found
    return {g: (p.scale.tolist(), p.zero_point.tolist()) for g, p in found.items() if p is not None}


@pytest.fixture(scope="module")
def net(home: Path) -> str:
    """A small network that equalization and rounding change."""
    return str(home / "net.onnx")


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Samples for it whose channels differ, so that equalization has something to do."""
    rng = np.random.default_rng(7)
    return (rng.standard_normal((170, 3, 8, 8)) * rng.gamma(1, 1, (170, 1, 1, 1))).astype(np.float32)


SIZE: dict[str, Any] = {"prefer": "size", "verify": False}


@pytest.fixture(scope="module")
def record(net: str, x: np.ndarray) -> Record:
    """Statistics over the first 40 samples."""
    return package.calibrate(net, x[:40], prefer="size")


@pytest.mark.parametrize("method", [*MERGING, "moving-average"])
def test_statistics_give_the_scales_of_a_direct_run(
    net: str, x: np.ndarray, record: Record, tmp_path: Path, method: str
) -> None:
    direct = package.quantize(net, x[:40], calibrate=method, **SIZE)
    without = package.quantize(net, stats=record, calibrate=method, **SIZE)
    with_data = package.quantize(net, x[:40], stats=record, calibrate=method, **SIZE)
    assert scales(direct) == scales(without) == scales(with_data)
    direct.save(tmp_path / "direct.onnx")
    with_data.save(tmp_path / "data.onnx")
    assert (tmp_path / "direct.onnx").read_bytes() == (tmp_path / "data.onnx").read_bytes()


def test_the_command_line_gives_the_same_scales_from_statistics(
    halfeven: Halfeven, demo_model: str, demo_pictures: np.ndarray
) -> None:
    np.savez("x.npz", x=demo_pictures[:16])
    assert halfeven("calibrate", demo_model, "--data", "x.npz", "-o", "stats.json").status == 0
    sources = {"direct": ("--data", "x.npz"), "only": ("--stats", "stats.json")}
    sources["both"] = (*sources["direct"], *sources["only"])
    for name, given in sources.items():
        words = ("quantize", demo_model, *given, "--no-verify", "-o", f"{name}.onnx", "--save-plan", f"{name}.json")
        assert halfeven(*words).status == 0
    assert Path("direct.json").read_text() == Path("only.json").read_text() == Path("both.json").read_text()
    assert Path("direct.onnx").read_bytes() == Path("both.onnx").read_bytes()


def test_statistics_without_data_do_not_call_the_scales_synthetic(halfeven: Halfeven) -> None:
    size = ("net.onnx", "--prefer", "size")
    assert halfeven("calibrate", *size, "--data", "x.npz", "-o", "s.json").status == 0
    ran = halfeven("quantize", *size, "--stats", "s.json", "-o", "out.onnx")
    assert ran.status == 0
    said = " ".join(ran.out.split())
    assert "the figures compare float and INT8 on synthetic samples" in said
    assert "stand in" not in said


@pytest.mark.parametrize("method", MERGING)
def test_merged_statistics_are_those_of_the_union(net: str, x: np.ndarray, record: Record, method: str) -> None:
    second = package.calibrate(net, x[40:72], prefer="size", stats=record)
    union = package.calibrate(net, x[:72], prefer="size")
    merged = record.merge(second)
    assert merged.samples == union.samples == 72
    assert {k: o.histogram for k, o in merged.observations.items()} == {
        k: o.histogram for k, o in union.observations.items()
    }
    results = [package.quantize(net, stats=stats, calibrate=method, **SIZE) for stats in (merged, union)]
    assert scales(results[0]) == scales(results[1])


def test_halves_of_the_shipped_pictures_merge_to_the_whole(demo_model: str, demo_pictures: np.ndarray) -> None:
    first = package.calibrate(demo_model, demo_pictures[:40])
    second = package.calibrate(demo_model, demo_pictures[40:80], stats=first)
    union = package.calibrate(demo_model, demo_pictures[:80], stats=first)  # which settles the channels' ranges
    merged = first.merge(second)
    results = [package.quantize(demo_model, stats=stats, verify=False) for stats in (merged, union)]
    assert scales(results[0]) == scales(results[1])
    assert len(scales(results[0])) > 30


def test_records_equalized_apart_do_not_merge_and_say_how_they_would(halfeven: Halfeven, x: np.ndarray) -> None:
    size = ("calibrate", "net.onnx", "--prefer", "size")
    for name, part in (("a", x[:40]), ("b", x[40:80])):
        np.savez(f"{name}.npz", x=part)
        assert halfeven(*size, "--data", f"{name}.npz", "-o", f"{name}.json").status == 0
    ran = halfeven("calibrate", "a.json", "--merge", "b.json", "-o", "all.json")
    assert ran.status == BadCalibration.exit_code
    assert "--stats FIRST.json" in ran.err
    assert not Path("all.json").exists()
    assert halfeven(*size, "--data", "b.npz", "--stats", "a.json", "-o", "b2.json").status == 0
    assert halfeven("calibrate", "a.json", "--merge", "b2.json", "-o", "all.json").out.endswith("over 80 samples\n")


class Loader:
    """Batches of `size` samples, as a DataLoader gives them; can be iterated again."""

    def __init__(self, x: np.ndarray, size: int) -> None:
        self.x, self.size = x, size

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self.x), self.size):
            yield self.x[start : start + self.size]


@pytest.mark.parametrize("count", [3, 170])
def test_samples_are_held_out_alike_however_they_are_batched(
    net: str, x: np.ndarray, tmp_path: Path, count: int
) -> None:
    files = []
    for i, source in enumerate((x[:count], Loader(x[:count], 7))):
        result = package.quantize(net, source, prefer="size")
        assert result.verification is not None
        assert result.verification.samples == {3: 3, 170: 28}[count]
        result.save(tmp_path / f"{i}.onnx")
        files.append((tmp_path / f"{i}.onnx").read_bytes())
    assert files[0] == files[1]


def test_the_model_does_not_depend_on_how_samples_are_batched(
    demo_model: str, demo_pictures: np.ndarray, tmp_path: Path
) -> None:
    x = demo_pictures[:10]
    np.savez(tmp_path / "x.npz", x=x)
    files = set()
    for source in (tmp_path / "x.npz", *(Loader(x, size) for size in (1, 3, 7))):
        package.quantize(demo_model, source, verify=False).save(tmp_path / "out.onnx")
        files.add((tmp_path / "out.onnx").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("method", MERGING)
def test_scales_do_not_depend_on_the_order_of_samples(net: str, x: np.ndarray, method: str) -> None:
    shuffled = x[np.random.default_rng(0).permutation(len(x))]
    assert len(x) > 32  # more than equalization looks at
    settings: dict[str, Any] = {**SIZE, "calibrate": method, "verify": False}
    runs = [package.quantize(net, data, **settings) for data in (x, shuffled, Loader(shuffled, 5))]
    assert scales(runs[0]) == scales(runs[1]) == scales(runs[2])
    weights = [[t.const_value.tobytes() for t in run.model.graph.initializers.values()] for run in runs]
    assert weights[0] == weights[1] == weights[2]


def test_two_processes_write_the_same_bytes(demo_model: str, demo_pictures: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=demo_pictures[:24])
    files = []
    for seed in ("1", "2"):
        words = ["quantize", demo_model, "--data", "x.npz", "-o", f"{seed}.onnx", "--quiet"]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-m", "halfeven", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        files.append((tmp_path / f"{seed}.onnx").read_bytes())
    assert files[0] == files[1]


def test_a_few_samples_are_the_same_ones_in_whatever_order_the_data_are_given(net: str, x: np.ndarray) -> None:
    taken = []
    for given in (x, x[::-1], Loader(x[::-1], 7)):
        feed = open_data(load(net), given, {}, held_out=False)
        taken.append([feeds["x"].tobytes() for _, feeds in feed.some(5)])
    assert taken[0] == taken[1] == taken[2]
    assert taken[0] != [row[None].tobytes() for row in x[:5]]
