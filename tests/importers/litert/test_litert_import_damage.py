"""Promised: whatever bytes a file holds, it becomes a model or is refused in a sentence, without much time or memory."""

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halfeven.errors import UnsupportedModel
from halfeven.importers.litert.flatbuffer import Source
from halfeven.importers.litert.reader import import_tflite, load_tflite

pytest.importorskip("ai_edge_litert")
W = Any


def network(w: W, folder: Path) -> bytes:
    """One of each kind of thing that is parsed: layers, constants, masks, codes."""
    x = w.image()
    y = w.conv(x, 4, 4, fusedActivationFunction=3)
    y = w.op("RESHAPE", [y, w.const([1, 42, 4])])
    y = w.op(
        "STRIDED_SLICE",
        [y, w.const([0, 1, 0]), w.const([1, 9, 4]), w.const([1, 2, 1])],
        options="StridedSlice",
        endMask=4,
    )
    parts = w.op("SPLIT", [w.const(2), y], count=2, options="Split", numSplits=2)
    y = w.op("CONCATENATION", parts, options="Concatenation", axis=2)
    stored = w.const(np.arange(8).astype(np.int8).reshape(2, 4), "int8")
    w.params(stored, [0.5, 0.25])
    y = w.op("FULLY_CONNECTED", [y, stored, w.drawn(2)], options="FullyConnected", keepNumDims=True)
    w.op("SOFTMAX", [w.op("PAD", [y, w.const([[0, 0], [1, 1], [0, 0]])])], options="Softmax", beta=1.0)
    return bytes(w.file(folder).read_bytes())


def outcome(data: bytes) -> str:
    try:
        import_tflite(memoryview(data), "x.tflite")
    except UnsupportedModel as error:
        return str(error)
    return ""


@pytest.fixture
def whole(wiring: Callable[..., W], tmp_path: Path) -> bytes:
    return network(wiring(), tmp_path)


def test_the_whole_file_is_a_model(whole: bytes) -> None:
    assert outcome(whole) == ""


def test_a_truncated_file_is_refused_wherever_it_ends(whole: bytes) -> None:
    refused = [outcome(whole[:end]) for end in range(0, len(whole) - 8, 7)]
    assert all(text.startswith("x.tflite") for text in refused)


def test_flipped_bits_give_a_model_or_a_sentence(whole: bytes) -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(800):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(damaged), rng.integers(1, 4)):
            damaged[place] ^= 1 << int(rng.integers(0, 8))
        text = outcome(bytes(damaged))
        assert "\n" not in text
        kinds.add(text[:40])
    assert len(kinds) > 5


def test_bytes_set_to_extremes_give_a_model_or_a_sentence(whole: bytes) -> None:
    for place in range(0, len(whole) - 4, 7):
        for word in (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"):
            assert "\n" not in outcome(whole[:place] + word + whole[place + 4 :])


def test_random_bytes_behind_the_mark_are_refused() -> None:
    rng = np.random.default_rng(0)
    for length in (0, 3, 8, 40, 500):
        for _ in range(50):
            assert outcome(rng.bytes(4) + b"TFL3" + rng.bytes(length))
    assert "TFL3" in outcome(b"")


def test_damage_costs_no_memory(whole: bytes) -> None:
    rng = np.random.default_rng(1)
    tracemalloc.start()
    began = time.monotonic()
    for _ in range(200):
        damaged = bytearray(whole)
        place = int(rng.integers(8, len(damaged) - 4))
        damaged[place : place + 4] = int(rng.integers(1 << 20, 1 << 31)).to_bytes(4, "little")
        outcome(bytes(damaged))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 64 << 20
    assert time.monotonic() - began < 60


def test_tensors_that_share_bytes_cannot_fill_memory(wiring: Callable[..., W]) -> None:
    w = wiring()
    x = w.image(2, 2, 64)
    weight = w.drawn(64, 3, 3, 64)
    for _ in range(40):
        copy = w.tensor((64, 3, 3, 64))
        w.tensors[copy].buffer = w.tensors[weight].buffer
        x = w.op("CONV_2D", [x, copy], options="Conv2D", strideH=1, strideW=1)
        w.tensors[x].shape = [1, 2, 2, 64]
    assert "share their bytes" in outcome(w.packed())


def test_lists_that_overlap_are_refused(whole: bytes) -> None:
    source = Source(memoryview(whole), "x")
    (graph,) = source.root().tables(2)

    def again() -> None:
        for _ in range(1000):
            graph.tables(3)

    with pytest.raises(UnsupportedModel, match="overlap"):
        again()


def test_what_is_missing_or_no_file_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.tflite", tmp_path):
        with pytest.raises(UnsupportedModel, match=r"cannot be read"):
            load_tflite(path)
