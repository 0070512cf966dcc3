"""Promised: the shipped network and pictures are small, whole, apart from each other, free, and score 885 of 1,000."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from halfeven import errors
from halfeven.data.source import InputSpec, open_source

DEMO = Path(errors.__file__).parent / "demo"
INPUT = InputSpec("input", np.dtype(np.float32), ("N", 1, 28, 28))
CORRECT = 885  # the least gap between two highest logits is 0.0098: no runtime's rounding moves it


def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(DEMO / name, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def test_all_demo_files_together_are_below_one_megabyte() -> None:
    files = {path.name: path.stat().st_size for path in DEMO.iterdir() if path.is_file()}
    assert files.keys() >= {"calibration.npz", "test.npz", "fashion_mnist_mbv2.onnx", "README.md"}
    assert sum(files.values()) < 1_000_000


@pytest.mark.parametrize(("name", "count"), [("calibration.npz", 200), ("test.npz", 1000)])
def test_pictures_are_grey_codes_of_the_full_range(name: str, count: int) -> None:
    pictures = stored(name)["x"]
    assert (pictures.dtype, pictures.shape) == (np.uint8, (count, 28, 28))
    assert (pictures.min(), pictures.max()) == (0, 255)


def test_each_test_picture_has_one_of_ten_classes_and_all_occur() -> None:
    classes = stored("test.npz")["y"]
    assert (classes.dtype, classes.shape) == (np.uint8, (1000,))
    assert set(classes.tolist()) == set(range(10))


def test_no_picture_calibrates_and_tests() -> None:
    tested = {picture.tobytes() for picture in stored("test.npz")["x"]}
    assert not any(picture.tobytes() in tested for picture in stored("calibration.npz")["x"])


def test_the_float_network_scores_as_documented() -> None:
    source = open_source(DEMO / "test.npz", [INPUT], preprocess="fashion-mnist")
    labels, samples = source.labels, dict(source)
    assert len(labels) == len(samples) == 1000
    session = ort.InferenceSession(DEMO / "fashion_mnist_mbv2.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"input": np.concatenate([feeds["input"] for feeds in samples.values()])})[0]
    hits = [int(row.argmax()) in labels[label] for label, row in zip(samples, logits, strict=True)]
    assert sum(hits) == CORRECT


def test_the_readme_states_score_origin_and_licence() -> None:
    readme = (DEMO / "README.md").read_text("utf-8")
    for fact in ("Fashion-MNIST", "Zalando", "MIT", f"{CORRECT} of 1,000"):
        assert fact in readme
