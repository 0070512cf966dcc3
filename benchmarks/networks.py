"""The networks that are measured: where each lies, how its data is read, how many samples calibrate it.

A folder of assets holds `models/NAME/model.onnx`, `data/` and `eval/score.py`, which prints a network's score as
one JSON line. Without that folder the one network is the small one that the package ships.
"""

import argparse
import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Feeds = dict[str, npt.NDArray[np.generic]]
Pixels = npt.NDArray[np.float32]

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
FASHION_MEAN, FASHION_STD = np.float32(0.2860), np.float32(0.3530)
DEMO_FILES = ("fashion_mnist_mbv2.onnx", "calibration.npz", "test.npz")


@dataclass(frozen=True)
class Network:
    """A float model and its calibration data.

    `data` is a folder of pictures, read by `preprocess`, or an .npz of one array an input, one sample a row.
    `samples` calibrate; `batch` samples are one call when latency is measured. Without `scorer` the SQNR over the
    .npz `test` is the score.
    """

    name: str
    model: Path
    data: Path
    preprocess: str = ""
    samples: int = 64
    batch: int = 1
    scorer: Path | None = None
    test: Path | None = None


# name: (data, preprocess, samples, batch)
ROWS: dict[str, tuple[str, str, int, int]] = {
    "mobilenet_v2": ("photos/calib", "imagenet-stretch", 64, 1),
    "fmnist_mbv2": ("fmnist_calib.npz", "", 64, 16),
    "fmnist_resnet": ("fmnist_calib.npz", "", 64, 16),
    "ppocr_rec": ("text_lines/calib", "ppocr-rec", 64, 1),
    "ppocr_det": ("text_pages/calib", "ppocr-det", 16, 1),
    "silero_vad": ("silero_vad_calib.npz", "", 8, 1),
    "g2p_gru": ("g2p_gru_calib.npz", "", 64, 16),
    "sentence_encoder": ("sentence_encoder_calib.npz", "", 64, 8),
}

# Beside the calibration data: pictures that did not calibrate, in a folder or as bytes `x` of an .npz
TESTS = {
    "mobilenet_v2": "test",
    "fmnist_mbv2": "fashion_mnist_test.npz",
    "fmnist_resnet": "fashion_mnist_test.npz",
    "ppocr_rec": "test",
    "ppocr_det": "test",
}


def imagenet_stretch(path: Path) -> Pixels:
    """Picture -> [3, 224, 224]: bicubic to 224 x 224 without keeping the aspect, /255, ImageNet mean and deviation."""
    import PIL.Image

    picture = PIL.Image.open(path).convert("RGB").resize((224, 224), PIL.Image.Resampling.BICUBIC)
    x = np.asarray(picture, np.float32) / 255
    return np.ascontiguousarray(((x - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1))


def ppocr_rec(path: Path) -> Pixels:
    """Line of text, 48 high -> [3, 48, W >= 320]: blue first, to -1..1, padded on the right with zeros."""
    import PIL.Image

    x = np.asarray(PIL.Image.open(path).convert("RGB"), np.float32)[:, :, ::-1] / 127.5 - 1
    padded = np.zeros((3, 48, max(320, x.shape[1])), np.float32)
    padded[:, :, : x.shape[1]] = x.transpose(2, 0, 1)
    return padded


def ppocr_det(path: Path) -> Pixels:
    """Page -> [3, H, W]: blue first, /255, ImageNet mean and deviation."""
    import PIL.Image

    x = np.asarray(PIL.Image.open(path).convert("RGB"), np.float32)[:, :, ::-1] / 255
    return np.ascontiguousarray(((x - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1), np.float32)


PREPROCESS: dict[str, Callable[[Path], Pixels]] = {
    "imagenet-stretch": imagenet_stretch,
    "ppocr-rec": ppocr_rec,
    "ppocr-det": ppocr_det,
}


def inputs_of(model: Path) -> dict[str, int]:
    """Names of a model's inputs (initializers left out), each with its rank."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return {i.name: len(i.type.tensor_type.shape.dim) for i in graph.input if i.name not in constants}


def feeds(network: Network, start: int, stop: int, batch: int = 1) -> Iterator[Feeds]:
    """Samples `start` to `stop` of the calibration data as feeds of `batch` samples; the last one may be smaller.

    An array of an .npz whose rows have the input's rank already is one sequence a row, and is fed row by row.
    """
    inputs = inputs_of(network.model)
    if network.preprocess:
        read, (name, *_) = PREPROCESS[network.preprocess], inputs
        files = sorted(p for p in network.data.iterdir() if p.suffix in {".jpg", ".png"})[start:stop]
        for i in range(0, len(files), batch):
            yield {name: np.stack([read(f) for f in files[i : i + batch]])}
        return
    with np.load(network.data, allow_pickle=False) as archive:
        rows = {name: archive[name] for name in inputs if name in archive.files}
    if not rows:
        raise SystemExit(f"{network.data}: no array is named after an input of {network.model} ({', '.join(inputs)})")
    for name in inputs.keys() - rows.keys():  # token_type_ids: one sentence, all zeros
        rows[name] = np.zeros_like(next(iter(rows.values())))
    for i in range(start, min(stop, min(len(x) for x in rows.values())), batch):
        yield {n: x[i] if x.ndim > inputs[n] else x[i : min(i + batch, stop)] for n, x in rows.items()}


def fashion_mnist(pictures: npt.NDArray[np.generic]) -> Pixels:
    """Bytes [N, 28, 28] -> [N, 1, 28, 28]: /255, less the data set's mean, over its deviation."""
    return np.asarray((pictures[:, None].astype(np.float32) / 255 - FASHION_MEAN) / FASHION_STD, np.float32)


def held_out(network: Network, count: int) -> list[Feeds]:
    """At most `count` samples that did not calibrate, one a feed; a network without any ends the program."""
    if network.test is not None:
        return list(feeds(replace(network, data=network.test), 0, count))
    if network.name not in TESTS:
        raise SystemExit(f"{network.name}: no data that did not calibrate; of the assets {', '.join(TESTS)} have some")
    test = network.data.parent / TESTS[network.name]
    if network.preprocess:
        return list(feeds(replace(network, data=test), 0, count))
    (name,) = inputs_of(network.model)
    with np.load(test, allow_pickle=False) as stored:
        pictures = fashion_mnist(stored["x"][:count])
    return [{name: pictures[i : i + 1]} for i in range(len(pictures))]


def with_samples(network: Network, samples: int) -> Network:
    """The same network, calibrated on `samples` samples."""
    return replace(network, samples=samples)


def demo() -> Network:
    """The small network that the package ships, found without importing the package.

    It classifies Fashion-MNIST; its pictures are bytes [N, 28, 28] and are normalised here, to files that go at exit.
    """
    spec = importlib.util.find_spec("halfeven")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    for folder in (Path(root) / "demo" for root in roots):
        model, data, test = (folder / name for name in DEMO_FILES)
        if model.exists():
            ready = Path(tempfile.mkdtemp())
            atexit.register(shutil.rmtree, ready)
            (name,) = inputs_of(model)
            for source in (data, test):
                with np.load(source, allow_pickle=False) as archive:
                    np.savez(ready / source.name, allow_pickle=False, **{name: fashion_mnist(archive["x"])})
            return Network("demo", model, ready / data.name, batch=16, test=ready / test.name)
    raise SystemExit("no network to measure: give --assets DIR, or install halfeven with its demo folder")


def find(assets: Path | None, sentence_encoder: Path | None, names: list[str]) -> list[Network]:
    """The networks of `names` (all when empty) that are present; a name that cannot be found ends the program."""
    if assets is None:
        return [demo()]
    assets = assets.resolve()
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        raise SystemExit(f"unknown network {', '.join(unknown)}; there are {', '.join(ROWS)}")
    found = []
    for name in names or list(ROWS):
        data, preprocess, samples, batch = ROWS[name]
        model = assets / "models" / name / "model.onnx"
        if name == "sentence_encoder":
            if sentence_encoder is None and not names:
                continue
            model = sentence_encoder.resolve() if sentence_encoder else model
        if not model.exists():
            raise SystemExit(f"{name}: no file {model}")
        found.append(
            Network(name, model, assets / "data" / data, preprocess, samples, batch, assets / "eval" / "score.py")
        )
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where the networks lie and which are taken."""
    default = os.environ.get("HALFEVEN_ASSETS")
    parser.add_argument(
        "--assets",
        type=Path,
        default=Path(default) if default else None,
        metavar="DIR",
        help="folder with models/NAME/model.onnx, data/ and eval/score.py (default: $HALFEVEN_ASSETS, else the demo)",
    )
    parser.add_argument("--sentence-encoder", type=Path, metavar="PATH", help="float file of the sentence encoder")
    parser.add_argument("--networks", nargs="+", default=[], metavar="NAME", help=f"of {', '.join(ROWS)}")
