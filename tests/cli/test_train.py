"""Promised: `halfeven train` trains the shipped network from the shell, writes what it trained, and refuses in a
sentence what it cannot do.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halfeven import errors

pytest.importorskip("torch")
DEMO = Path(errors.__file__).parent / "demo"


def test_the_shipped_network_is_trained_from_the_shell(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "halfeven", "train", str(DEMO / "fashion_mnist_mbv2.onnx")]
    words += ["--data", str(DEMO / "calibration.npz"), "--preprocess", "fashion-mnist", "--limit", "24"]
    words += ["--features", "1", "--feature-tensors", "*Add*", "--lower-from", "9", "--batchnorm", "frozen"]
    words += ["--learn-zero-point", "--first-and-last", "8", "--weight-bits", "4"]
    words += ["--epochs", "1", "--batch", "8", "-o", "t.onnx", "--save-state", "t.pt", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verification"]["sqnr_db"] > 10
    assert (tmp_path / "t.onnx").stat().st_size > 50_000
    assert (tmp_path / "t.pt").stat().st_size > 50_000


@pytest.mark.parametrize(
    "more", [["--weight-bits", "binary"], ["--weight-bits", "1"], ["--target", "vitis-dpu", "--rounding", "device"]]
)
def test_what_help_offers_is_trained(more: list[str], halfeven: Callable[..., Any], tmp_path: Path) -> None:
    words = ["train", str(DEMO / "fashion_mnist_mbv2.onnx"), "--data", str(DEMO / "calibration.npz"), "-o", "t.onnx"]
    ran = halfeven(*words, "--preprocess", "fashion-mnist", "--limit", "6", "--epochs", "1", "--batch", "4", *more)
    assert ran.status in (0, 1), ran.err
    assert (tmp_path / "t.onnx").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--device", "cuda:7"], "--device 'cuda:7': PyTorch finds no such device"),
        (["--epochs", "0"], "epochs 0; at least 1 is needed"),
        (["--rate", "nan"], "rate nan; a finite number"),
        (["--feature-tensors", "*Add*"], "feature_tensors without features"),
        (["--features", "1", "--feature-tensors", "nothing/*"], "feature_tensors 'nothing/*' fits no tensor"),
        (["--batchnorm", "frosen"], "did you mean 'frozen'"),
        (["--lower-from", "99"], "lower_from 99; 2 to 16 bits"),
        (["--first-and-last", "1"], "first_and_last 1: choose 2 to 16"),
        (["--data", "missing.npz"], "missing.npz"),
        (["-o", "no/such/folder.onnx"], "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    more: list[str], said: str, halfeven: Callable[..., Any], tmp_path: Path
) -> None:
    words = ["train", str(DEMO / "fashion_mnist_mbv2.onnx"), "--data", str(DEMO / "calibration.npz")]
    ran = halfeven(*words, "--preprocess", "fashion-mnist", "--limit", "6", *more)
    assert ran.status not in (0, 1)
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def trained(halfeven: Callable[..., Any], text: str, *more: str) -> Any:
    Path("train.toml").write_text(text)
    words = ["train", str(DEMO / "fashion_mnist_mbv2.onnx"), "--data", str(DEMO / "calibration.npz")]
    return halfeven(*words, "--config", "train.toml", "-o", "t.onnx", "--quiet", *more)


def test_a_configuration_file_says_what_is_trained_and_how(halfeven: Callable[..., Any]) -> None:
    text = """preprocess = "fashion-mnist"\nlimit = 12\n[calibrate]\nmethod = "minmax"
[prepare]\nweight_bits = 4\nbatchnorm = "folded"\n[recipe]\nepochs = 1\nfeatures = 0.5\n"""
    assert (ran := trained(halfeven, text)).status == 0, ran.err
    import onnx

    model = onnx.load("t.onnx")
    used = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    narrow = [bool((abs(codes.astype(int)) <= 8).all()) for codes in used if codes.ndim == 4]
    assert sum(narrow) >= len(narrow) - 2  # all but the first and the last layer


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[recipe]\nepoch = 1", "there is no option 'epoch'. Did you mean 'epochs'?"),
        ("[recipe]\nepochs = '1'", "epochs '1'; a whole number is needed"),
        ("recipe = 3", "expected a table, [recipe]"),
        ("[prepare]\nbatchnrm = 'folded'", "[prepare] has no option 'batchnrm'. Did you mean 'batchnorm'?"),
        ("[prepare]\ntarget = 'litert'", "[prepare] has no option 'target'. Write target at the top of the file."),
        ("[prepare]\nplan = 'p.json'", "[prepare] has no option 'plan'. Give plan to train itself, not in a file."),
        ("[prepare]\nmodel = 'm.onnx'", "[prepare] has no option 'model'. Give model to train itself"),
        ("[prepare]\nexample_inputs = 3", "[prepare] has no option 'example_inputs'. Give"),
        ("[prepare]\ndata = 'd.npz'", "[prepare] has no option 'data'. Give"),
        ("[prepare]\nprogress = 1", "[prepare] has no option 'progress'. Give"),
        ("[prepare]\nepochs = 1", "[prepare] has no option 'epochs'. Write epochs in [recipe]."),
        ("[prepare]\nmode = 'static'", "[prepare] has no option 'mode'. Write it as mode in a table [place]."),
        ("[prepare]\nlearn_zero_point = 'yes'", "learn_zero_point 'yes': expected true or false"),
        ("[place]\nmode = 'dynamic'", "mode 'dynamic': training is of static plans"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(text: str, said: str, halfeven: Callable[..., Any]) -> None:
    ran = trained(halfeven, text, "--preprocess", "fashion-mnist", "--limit", "6")
    assert ran.status == 2
    assert said in ran.err
    assert len(ran.err.strip().splitlines()) == 1
