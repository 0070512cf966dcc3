"""Promised: whatever is wrong with model, data, options, plan or statistics is said in one sentence on standard error,
with the exit status of its kind; nothing is printed, no file is written, none is changed.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

Halfeven = Callable[..., Any]
QUANTIZE = ("quantize", "net.onnx", "--prefer", "size", "--no-verify", "-o", "out.onnx")


def refused(halfeven: Halfeven, words: tuple[str, ...], status: int, *parts: str) -> None:
    """Run, and check what is promised of a failure."""
    before = contents(Path.cwd())
    ran = halfeven(*words)
    assert ran.status == status, ran.err
    assert ran.out == ""
    assert ran.err.startswith("halfeven: error: ")
    assert ran.err.count("\n") == 1
    assert "Traceback" not in ran.err
    assert "unexpected" not in ran.err
    for part in parts:
        assert part in ran.err
    assert contents(Path.cwd()) == before


def contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


MODELS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda whole: whole[:3000], "damaged or truncated"),
    "empty": (lambda whole: b"", "is empty"),
    "text": (lambda whole: b"hello world\n" * 10, "not an ONNX model"),
    "a zip file": (lambda whole: b"PK\x03\x04" + bytes(100), "not an ONNX model but"),
}


@pytest.mark.parametrize("fault", MODELS)
@pytest.mark.parametrize("command", ["quantize", "inspect", "verify"])
def test_a_file_that_is_no_model_is_refused(halfeven: Halfeven, home: Path, fault: str, command: str) -> None:
    spoil, part = MODELS[fault]
    Path("model.onnx").write_bytes(spoil((home / "net.onnx").read_bytes()))
    second = ("model.onnx", "--data", "x.npz") if command == "verify" else ()
    refused(halfeven, (command, "model.onnx", *second), 3, "model.onnx", part)


def test_a_model_that_is_not_there_or_a_folder_is_refused(halfeven: Halfeven) -> None:
    Path("folder").mkdir()
    refused(halfeven, ("quantize", "missing.onnx", "--data", "x.npz"), 3, "missing.onnx does not exist")
    refused(halfeven, ("quantize", "folder"), 3, "folder is a folder")
    refused(halfeven, ("quantize", ".."), 3, ".. is a folder")
    refused(halfeven, ("calibrate", "missing.onnx", "--data", "x.npz", "-o", "s.json"), 3, "does not exist")


def test_a_model_without_inputs_is_refused(halfeven: Halfeven) -> None:
    for more in ((), ("--data", "x.npz")):
        refused(halfeven, ("quantize", "constant.onnx", "-o", "out.onnx", *more), 3, "no inputs")


@pytest.mark.parametrize("model", ["ints.onnx", "relu.onnx", "net.onnx"])
def test_when_nothing_can_be_quantized_no_file_is_written(halfeven: Halfeven, model: str) -> None:
    refused(halfeven, ("quantize", model, "-o", "out.onnx"), 5, "Nothing was quantized", "no file was written")


def test_one_node_is_not_called_nodes(halfeven: Halfeven) -> None:
    refused(halfeven, ("quantize", "relu.onnx", "-o", "out.onnx"), 5, "no file was written: 1 node: ")
    refused(halfeven, ("quantize", "net.onnx", "-o", "out.onnx"), 5, " nodes: ")


ARRAYS: dict[str, tuple[Callable[[np.ndarray], dict[str, np.ndarray]], str]] = {
    "other names": (lambda x: {"a": x, "b": x}, "input 'x' float32 [N, 3, 8, 8] is not in data.npz, which has a, b"),
    "no array": (lambda x: {}, "which has nothing"),
    "no sample": (lambda x: {"x": x[:0]}, "holds no sample"),
    "no element": (lambda x: {"x": x[:, :, :0]}, "Expected length 8 on axis 2, found 0"),
    "an axis too few": (lambda x: {"x": x[:, :, 0]}, "expected 4 axes"),
    "another length": (lambda x: {"x": x[..., :5]}, "Expected length 8 on axis 3, found 5"),
    "channels last": (lambda x: {"x": x.transpose(0, 2, 3, 1)}, "transpose"),
    "text": (lambda x: {"x": np.full((3, 3, 8, 8), "a")}, "<U1"),
    "complex numbers": (lambda x: {"x": x * 1j}, "complex"),
    "NaN in all": (lambda x: {"x": x * np.nan}, "not finite"),
    "infinity in all": (lambda x: {"x": x + np.inf}, "not finite"),
}


@pytest.mark.parametrize("fault", ARRAYS)
def test_arrays_that_do_not_fit_are_refused(halfeven: Halfeven, home: Path, fault: str) -> None:
    make, part = ARRAYS[fault]
    with np.load(home / "x.npz") as stored:
        np.savez("data.npz", **make(stored["x"]))  # type: ignore[arg-type]
    refused(halfeven, (*QUANTIZE, "--data", "data.npz"), 4, "data.npz", part)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_sample_is_skipped_and_named(halfeven: Halfeven, home: Path, value: float) -> None:
    with np.load(home / "x.npz") as stored:
        x = stored["x"]
    x[3, 0, 0, 0] = value
    np.savez("data.npz", x=x)
    ran = halfeven(*QUANTIZE, "--data", "data.npz")
    assert (ran.status, ran.err) == (0, "")
    assert "skipped data.npz[3]" in ran.out
    assert str(value) in ran.out


def test_whole_numbers_for_a_float_input_are_fed_as_floats_and_noted(halfeven: Halfeven) -> None:
    np.savez("data.npz", x=np.arange(40 * 192).reshape(40, 3, 8, 8) % 255)
    ran = halfeven(*QUANTIZE, "--data", "data.npz")
    assert ran.status == 0
    assert "'x' is int64 and is fed as float32" in ran.out


def test_data_that_cannot_be_read_are_refused(halfeven: Halfeven, home: Path) -> None:
    Path("cut.npz").write_bytes((home / "x.npz").read_bytes()[:5000])
    Path("text").mkdir()
    Path("text/notes.txt").write_text("nothing here")
    Path("bare").mkdir()
    np.save("objects.npy", np.array([{}, 1], object), allow_pickle=True)
    cases = {
        "cut.npz": "cut.npz cannot be read",
        "missing.npz": "missing.npz does not exist",
        "text": "neither pictures nor recordings (but .txt)",
        "bare": "no files",
        "objects.npy": "Python objects, which are never loaded",
        "text/notes.txt": "does not exist beside",
    }
    for data, part in cases.items():
        refused(halfeven, (*QUANTIZE, "--data", data), 4, part)


OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown command": (("quantise", "net.onnx"), ("'quantise' is not a command", "'quantize'")),
    "unlike any command": (("frobnicate",), ("There are quantize, calibrate",)),
    "no model": (("quantize",), ("missing: MODEL", "halfeven quantize --help")),
    "unknown option": ((*QUANTIZE, "--calibrat", "mse"), ("--calibrat. Did you mean --calibrate?",)),
    "unlike any option": ((*QUANTIZE, "--xyzzy"), ("`halfeven quantize --help` lists them",)),
    "another command's option": (
        ("calibrate", "net.onnx", "--data", "x.npz", "-o", "s.json", "--holdout", "x.npz"),
        ("halfeven calibrate has no option --holdout; `halfeven quantize` has it",),
    ),
    "an option before its command": (("--quiet", *QUANTIZE), ("write it behind: halfeven quantize ... --quiet",)),
    "one word too many": ((*QUANTIZE, "net2.onnx"), ("'net2.onnx' is one argument too many",)),
    "no value": ((*QUANTIZE, "--limit"), ("--limit: expected one argument",)),
    "target": ((*QUANTIZE, "--target", "openvin"), ("--target", "did you mean 'openvino'")),
    "method": ((*QUANTIZE, "--calibrate", "entrop"), ("--calibrate 'entrop'", "Did you mean 'entropy'?")),
    "preset": ((*QUANTIZE, "--data", "x.npz", "--preprocess", "imagenett"), ("Did you mean 'imagenet'?",)),
    "preset for arrays": ((*QUANTIZE, "--data", "x.npz", "--preprocess", "unit"), ("Leave it out",)),
    "step": ((*QUANTIZE, "--skip", "gpt"), ("--skip 'gpt'", "only equalize, gptq, absorb, expect and correct")),
    "preference": ((*QUANTIZE, "--prefer", "sped"), ("did you mean 'speed'",)),
    "io": ((*QUANTIZE, "--io", "int4"), ("'int4' is not known", "uint8")),
    "text for a number": ((*QUANTIZE, "--limit", "many"), ("--limit: expected a whole number, found 'many'",)),
    "text for a real": ((*QUANTIZE, "--percentile", "x"), ("--percentile: expected a number, found 'x'",)),
    "no sample": ((*QUANTIZE, "--data", "x.npz", "--limit", "0"), ("--limit 0", "at least 1")),
    "negative seed": ((*QUANTIZE, "--seed", "-1"), ("--seed -1", "at least 0")),
    "percentile": ((*QUANTIZE, "--percentile", "200"), ("--percentile 200", "to 100", "99.99")),
    "NaN": ((*QUANTIZE, "--percentile", "nan"), ("--percentile nan",)),
    "negative count": ((*QUANTIZE, "--equalize-samples", "-1"), ("--equalize-samples -1", "at least 0")),
    "no elements": ((*QUANTIZE, "--observe-elements", "0"), ("--observe-elements 0", "at least 1")),
    "no damping": ((*QUANTIZE, "--gptq-damping", "0"), ("--gptq-damping 0",)),
    "pattern of no node": ((*QUANTIZE, "--keep-float", "head/*"), ("--keep-float 'head/*' matches no node",)),
    "pattern of no tensor": ((*QUANTIZE, "--tensors", "head/*=mse"), ("fits no quantized tensor",)),
    "no pattern": ((*QUANTIZE, "--tensors", "head"), ("expected PATTERN=METHOD",)),
    "no data to calibrate": (("calibrate", "net.onnx", "-o", "s.json"), ("needs --data",)),
    "merge and data": (
        ("calibrate", "a.json", "--merge", "b.json", "--data", "x.npz", "-o", "s.json"),
        ("leave --data out",),
    ),
}


@pytest.mark.parametrize("fault", OPTIONS)
def test_wrong_options_are_refused_with_what_was_meant(halfeven: Halfeven, fault: str) -> None:
    words, parts = OPTIONS[fault]
    refused(halfeven, words, 2, *parts)


CONFIGS: dict[str, tuple[str, str]] = {
    "target": ('target = "openvin"', "Did you mean 'openvino'?"),
    "target of a wrong kind": ("target = 5", "target = 5: expected a text"),
    "limit": ('limit = "x"', "limit = 'x': expected a whole number"),
    "seed": ("seed = -1", "at least 0"),
    "io": ('io = "int4"', "choose one of float, uint8, int8"),
    "step": ('skip = "gpt"', "'gpt'"),
    "skip of a wrong kind": ("skip = 3", "['equalize']"),
    "preset": ('preprocess = "imagenett"', "Did you mean 'imagenet'?"),
    "preset of a wrong kind": ("preprocess = 4", "preprocess = 4"),
    "preprocess option": ('[preprocess]\npreset = "imagenet"\nfoo = 1', "'foo'"),
    "method": ('[calibrate]\nmethod = "entrop"', "[calibrate] method = 'entrop'"),
    "number": ('[calibrate]\npercentile = "x"', "[calibrate] percentile = 'x': expected a number"),
    "option": ('[calibrate]\nmethd = "mse"', "[calibrate] has no option 'methd'. Did you mean 'method'?"),
    "table": ('[calibrat]\nmethod = "mse"', "Did you mean 'calibrate'?"),
    "key": ('targt = "openvino"', "'targt' is not known. Did you mean 'target'?"),
    "misplaced": ('keep_float = ["a"]', "Write it as keep_float in a table [place]"),
    "misplaced short name": ('calibrate = "mse"', "Write it as method in a table [calibrate]"),
    "number for texts": ("[place]\nkeep_float = 3", "expected a list of texts, for instance ['head/*']"),
    "preference": ('[place]\nprefer = "sped"', "Did you mean 'speed'?"),
    "truth for a number": ("[equalize]\nsamples = true", "samples = True: expected a whole number"),
    "real for a whole number": ("[equalize]\nsamples = 1.5", "samples = 1.5: expected a whole number"),
    "pattern of no node": ('[place]\nkeep_float = "head"', "matches no node"),
    "no TOML": ("x = ", "it is not TOML"),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_a_wrong_configuration_is_refused_with_what_was_meant(halfeven: Halfeven, fault: str) -> None:
    text, part = CONFIGS[fault]
    Path("q.toml").write_text(text)
    refused(halfeven, (*QUANTIZE, "--data", "x.npz", "--config", "q.toml"), 2, part)


def test_a_configuration_that_cannot_be_read_is_refused(halfeven: Halfeven) -> None:
    Path("q.toml").write_bytes(b"\xff\xfe")
    refused(halfeven, (*QUANTIZE, "--config", "q.toml"), 2, "'q.toml'", "not TOML")
    refused(halfeven, (*QUANTIZE, "--config", "missing.toml"), 2, "'missing.toml'", "No such file")


def stored(halfeven: Halfeven) -> tuple[dict[str, Any], dict[str, Any]]:
    """A plan and statistics of net.onnx, made in the current folder."""
    assert halfeven(*QUANTIZE[:-1], "first.onnx", "--data", "x.npz", "--save-plan", "plan.json").status == 0
    assert halfeven("calibrate", "net.onnx", "--data", "x.npz", "--prefer", "size", "-o", "stats.json").status == 0
    return json.loads(Path("plan.json").read_text()), json.loads(Path("stats.json").read_text())


def test_plans_that_are_malformed_or_of_another_model_are_refused(halfeven: Halfeven) -> None:
    plan, _ = stored(halfeven)
    first = plan["groups"][0]
    cases: dict[str, Any] = {
        "'bad.json' is no plan: expected a JSON object with \"halfeven_plan\": 1, found one with 'a'": {"a": 1},
        "id": {**plan, "groups": [{"id": "x"}]},
        "'bad.json' is malformed, in it: groups: a list was expected, found 5": {**plan, "groups": 5},
        "site": {**plan, "groups": [{**first, "sites": [[1, 2, 3, 4]]}]},
        "in entry 0 of groups: 'tiles' is missing": {**plan, "groups": [{**first, "scheme": {}}]},
        "role": {**plan, "groups": [{**first, "role": "guess"}]},
    }
    for part, data in cases.items():
        Path("bad.json").write_text(json.dumps(data))
        refused(halfeven, (*QUANTIZE, "--data", "x.npz", "--plan", "bad.json"), 2, part)
    Path("bad.json").write_text("[")
    refused(halfeven, (*QUANTIZE, "--data", "x.npz", "--plan", "bad.json"), 2, "bad.json")
    refused(halfeven, (*QUANTIZE, "--data", "x.npz", "--plan", "missing.json"), 2, "missing.json")
    words = ("quantize", "relu.onnx", "--plan", "plan.json", "-o", "out.onnx")
    refused(halfeven, words, 2, "the model has no", "another model")


def test_statistics_that_are_malformed_or_of_another_model_are_refused(halfeven: Halfeven) -> None:
    _, stats = stored(halfeven)
    name, seen = next(iter(stats["observations"].items()))
    cases: dict[str, Any] = {
        'expected JSON with "halfeven_stats"': {"a": 1},
        "of model abc": {**stats, "model": "abc"},
        "'items'": {**stats, "observations": []},
        "'channels'": {k: v for k, v in stats.items() if k != "channels"},
        "'x'": {**stats, "samples": "x"},
        "at most 4096": {
            **stats,
            "observations": {name: {**seen, "histogram": {**seen["histogram"], "counts": [-(10**9)]}}},
        },
    }
    words = (*QUANTIZE, "--data", "x.npz", "--stats")
    for part, data in cases.items():
        Path("bad.json").write_text(json.dumps(data))
        refused(halfeven, (*words, "bad.json"), 4, part)
    Path("bad.json").write_text("[" * 100_000)
    refused(halfeven, (*words, "bad.json"), 4, "'bad.json'", "not JSON")
    refused(halfeven, (*words, "missing.json"), 4, "'missing.json'", "No such file")
    refused(halfeven, (*words, "net.onnx"), 4, "no text")
    refused(halfeven, ("quantize", "other.onnx", "--stats", "stats.json", "-o", "out.onnx"), 4, "calibrate it anew")


def test_an_output_that_would_change_what_is_read_is_refused(halfeven: Halfeven, home: Path) -> None:
    before = contents(home)
    start = ("quantize", "net.onnx", "--data", "x.npz", "-o")
    refused(halfeven, (*start, str(home / "net.onnx")), 2, "is the file given as MODEL")
    if os.name != "nt":
        Path("link.onnx").symlink_to(home / "net.onnx")
        refused(halfeven, (*start, "link.onnx"), 2, "is the file given as MODEL")
    refused(halfeven, (*start, str(home / "x.npz")), 2, "is the file given as --data")
    refused(halfeven, (*start, "out.onnx", "--save-plan", str(home / "net.onnx")), 2, "--save-plan", "MODEL")
    refused(halfeven, (*start, "out.onnx", "--save-plan", "out.onnx"), 2, "the same file")
    refused(halfeven, ("calibrate", "net.onnx", "--data", "x.npz", "-o", "net.onnx"), 2, "MODEL")
    assert contents(home) == before


def test_weights_beside_the_model_are_not_written_over(halfeven: Halfeven, home: Path) -> None:
    where = {"save_as_external_data": True, "location": "out.onnx.data", "size_threshold": 10}
    onnx.save_model(onnx.load(home / "net.onnx"), "model.onnx", **where)
    words = ("quantize", "model.onnx", *QUANTIZE[2:], "--data", "x.npz", "--keep-float", "Gemm")
    refused(halfeven, words, 2, "'out.onnx'", "out.onnx.data', which the source model reads")
    assert halfeven(*(word.replace("out.onnx", "fresh.onnx") for word in words)).status == 0


def test_an_output_that_cannot_be_written_is_refused_before_the_work(halfeven: Halfeven) -> None:
    Path("folder").mkdir()
    start = ("quantize", "net.onnx", "--data", "missing.npz", "-o")
    refused(halfeven, (*start, "folder"), 2, "is a folder")
    refused(halfeven, (*start, "nowhere/out.onnx"), 2, "there is no folder 'nowhere'")
    refused(halfeven, (*start, "out.onnx", "--save-plan", "nowhere/plan.json"), 2, "--save-plan 'nowhere/plan.json'")
    refused(halfeven, ("calibrate", "net.onnx", "--data", "missing.npz", "-o", "folder"), 2, "is a folder")
    Path("file").write_text("")
    refused(halfeven, ("demo", "-o", "file"), 2, "is a file")


def test_statistics_that_lack_tensors_are_filled_from_data_but_not_from_noise(halfeven: Halfeven) -> None:
    _, stats = stored(halfeven)
    name = next(iter(stats["observations"]))
    del stats["observations"][name]
    Path("bad.json").write_text(json.dumps(stats))
    refused(halfeven, (*QUANTIZE, "--stats", "bad.json"), 4, "The statistics lack 1 tensor,", f"'{name}'", "--data")
    assert halfeven(*QUANTIZE, "--stats", "bad.json", "--data", "x.npz").status == 0
    assert Path("out.onnx").read_bytes() == Path("first.onnx").read_bytes()


@pytest.mark.parametrize("option", [("--equalize-limit", "2"), ("--skip", "equalize"), ("--equalize-samples", "0")])
def test_statistics_of_channels_scaled_otherwise_are_refused(halfeven: Halfeven, option: tuple[str, ...]) -> None:
    stored(halfeven)
    refused(halfeven, (*QUANTIZE, "--stats", "stats.json", *option), 4, "equalized differently")


def test_statistics_serve_other_methods_and_other_float_nodes(halfeven: Halfeven) -> None:
    stored(halfeven)
    for option in (("--calibrate", "minmax"), ("--keep-float", "Gemm_y")):
        ran = halfeven(*QUANTIZE, "--stats", "stats.json", *option)
        assert ran.status == 0, ran.err


def test_statistics_do_not_merge_with_themselves(halfeven: Halfeven) -> None:
    stored(halfeven)
    Path("again.json").write_bytes(Path("stats.json").read_bytes())
    refused(halfeven, ("calibrate", "stats.json", "--merge", "again.json", "-o", "all.json"), 4, "count twice")
