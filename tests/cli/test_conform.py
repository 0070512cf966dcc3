"""Promised: `conform` and `simulate` say where integers part, what becomes of the outputs, and what to do."""

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import halfeven
from halfeven import demo
from halfeven.cli import main
from halfeven.report.survey import profiles_named

HOME = Path(demo.__file__).parent
MODEL = "net.int8.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("conform")
    held = np.load(HOME / "calibration.npz")
    pictures = held["x"][:16, None].astype(np.float32) / np.float32(255)
    halfeven.quantize(str(HOME / "fashion_mnist_mbv2.onnx"), pictures, verify=False).save(made / MODEL)
    np.savez(made / "data.npz", x=pictures[:2])
    return made


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def test_conform_compares_onnx_runtime_with_its_simulator(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("conform", str(folder / MODEL), "--data", str(folder / "data.npz"), "--runtimes", "onnxruntime")
    found = json.loads(said(capsys, *words, "--json"))
    (one,) = found["runtimes"]
    assert (found["samples"], one["differing"], one["first"]) == (2, 0, None)
    assert one["compared"] > 100_000
    assert one["outputs"]["same_top1"] == 2
    assert "none of" in " ".join(said(capsys, *words).split())


def test_a_runtime_that_cannot_take_the_model_says_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ncnn")
    words = ("conform", str(folder / MODEL), "--data", str(folder / "data.npz"), "--runtimes", "onnxruntime,ncnn")
    one, other = json.loads(said(capsys, *words, "--json"))["runtimes"]
    assert one["refused"] == ""
    assert "ncnn takes" in other["refused"]


def test_simulate_says_what_users_without_vnni_see(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("simulate", str(folder / MODEL), "--data", str(folder / "data.npz"))
    without = (*words, "--profile", "onnxruntime@x86-avx2")
    found = json.loads(said(capsys, *without, "--json"))
    assert found["saturating"]
    assert found["first"]["layer"] in {d["layer"] for d in found["tensors"].values()}
    assert "7 bits" in found["advice"]
    text = " ".join(said(capsys, *without, "--all").split())
    assert "part first at" in text
    assert "can saturate" in text
    same = json.loads(said(capsys, *words, "--profile", "onnxruntime@x86-vnni", "--json"))
    assert (same["first"], same["outputs"]["sqnr_db"], same["advice"]) == (None, None, "")


def test_one_page_shows_where_each_machine_parts_and_whether_it_matters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("onnxruntime@x86-vnni", "onnxruntime@x86-avx2", "ncnn@x86", "integer")
    words = ("simulate", str(folder / MODEL), "--data", str(folder / "data.npz"), "--profile", ", ".join(names))
    found = json.loads(said(capsys, *words, "--json"))
    rows = {row["profile"]: row for row in found["machines"]}
    assert (tuple(rows), found["against"], found["samples"]) == (names, "onnxruntime@x86-vnni", 2)
    alone = json.loads(said(capsys, *words[:4], "--profile", "onnxruntime@x86-avx2", "--json"))
    assert rows["onnxruntime@x86-avx2"] == alone
    text = said(capsys, *words)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "0 of 38" in lines["onnxruntime@x86-vnni"]
    assert "equal" in lines["onnxruntime@x86-vnni"]
    assert "37 of 38" in lines["onnxruntime@x86-avx2"]
    flat = " ".join(text.split())
    assert f"first at '{alone['first']['layer']}': onnxruntime@x86-avx2" in flat
    assert "ncnn@x86 cannot run it" in flat
    assert "integer: no layer in integers" in flat
    assert "7 bits" in flat
    assert "layer whose output differs" in said(capsys, *words, "--all")


@pytest.mark.parametrize("command", [("conform", "--runtimes", "onnxruntime"), ("simulate", "--profile", "integer")])
def test_without_data_the_samples_are_synthetic_as_many_as_the_limit_and_it_says_so(
    command: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(said(capsys, command[0], str(folder / MODEL), "--limit", "2", *command[1:]).split())
    assert "2 synthetic samples, as no --data was given" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [("float.onnx", "holds real numbers alone"), ("net.tflite", "simulate the file: halfeven simulate")],
)
def test_conform_refuses_what_it_cannot_write_from(
    name: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = HOME / "fashion_mnist_mbv2.onnx"
    content = source.read_bytes() if name == "float.onnx" else b"\x1c\x00\x00\x00TFL3" + bytes(64)
    (folder / name).write_bytes(content)
    assert main(["conform", str(folder / name), "--data", str(folder / "data.npz")]) in (2, 3)
    assert message in capsys.readouterr().err


def test_weights_in_constant_nodes_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = onnx.load(folder / MODEL)
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in proto.graph.initializer]
    del proto.graph.initializer[:]
    nodes = [*constants, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, folder / "constants.onnx")
    data, profile = ("--data", str(folder / "data.npz")), ("--profile", "onnxruntime@x86-avx2")
    both = [
        json.loads(said(capsys, "simulate", str(folder / n), *data, *profile, "--json"))
        for n in (MODEL, "constants.onnx")
    ]
    assert both[0]["saturating"] == both[1]["saturating"]
    assert both[0]["tensors"] == both[1]["tensors"]
    words = ("conform", str(folder / "constants.onnx"), *data, "--runtimes", "onnxruntime", "--json")
    assert json.loads(said(capsys, *words))["runtimes"][0]["compared"] > 100_000


@pytest.mark.parametrize("other", [(), ("--against", "vitis-dpu")])
def test_a_page_of_machines_is_refused_where_the_model_or_the_other_machine_is_the_cause(
    other: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder / MODEL if other else HOME / "fashion_mnist_mbv2.onnx"
    assert main(["simulate", str(model), "--data", str(folder / "data.npz"), "--profile", "all", *other]) == 3
    found = capsys.readouterr()
    assert ("vitis-dpu has no codes" if other else "holds real numbers alone") in found.err
    assert not found.out


def test_all_stands_for_every_runtime_with_its_defaults() -> None:
    names = profiles_named("all")
    assert set(names) >= {
        "onnxruntime@arm64",
        "litert@xnnpack",
        "tflite-micro",
        "openvino@cpu",
        "ncnn@arm64",
        "integer",
    }
    assert not [name for name in names if "+" in name or name.startswith(("vitis", "journey"))]


def test_who_follows_the_advice_sees_the_same_integers_without_vnni(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = (str(HOME / "fashion_mnist_mbv2.onnx"), "--data", str(folder / "data.npz"), "--no-verify", "--quiet")
    asked = ("--data", str(folder / "data.npz"), "--profile", "onnxruntime@x86-avx2")
    text = said(capsys, "simulate", str(folder / MODEL), *asked)
    (short,) = [line for line in text.splitlines() if line.startswith("  --reduce-range")]
    assert short == "  --reduce-range Conv"
    text = said(capsys, "simulate", str(folder / MODEL), *asked, "--all")
    (long,) = [line for line in text.splitlines() if line.startswith("  --reduce-range")]
    assert "--reduce-range /f/f.14/Conv" in long
    for option in (short, long):
        said(capsys, "quantize", *demo, "-o", str(folder / "seven.onnx"), *shlex.split(option))
        found = json.loads(said(capsys, "simulate", str(folder / "seven.onnx"), *asked, "--json"))
        assert (found["saturating"], found["reduce_range"], found["first"]) == ({}, [], None)
        assert {d["differing"] for d in found["tensors"].values()} == {0}
        assert found["outputs"]["sqnr_db"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("conform", "--runtimes", "litrt"), "no runtime 'litrt'"),
        (("simulate", "--profile", "onnxruntime@x86-avx"), "Did you mean 'onnxruntime@x86-avx2'?"),
    ],
)
def test_unknown_names_are_refused_in_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main([words[0], str(folder / MODEL), "--data", str(folder / "data.npz"), *words[1:]]) == 2
    assert message in capsys.readouterr().err
