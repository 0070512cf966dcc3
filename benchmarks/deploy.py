"""What networks score, and how fast they are, in every runtime that can be run here, and in C.

For each network and way (`ways.py`): quantized with nothing but its data, written in the runtime's format, opened there
and scored on held-out data by the assets' score.py, through a stand-in for ONNX Runtime's session. Printed: layers that
ran on codes where the runtime tells (else operators, as the writer says), the number of samples, on these the score of
the float file in the same runtime and of the int8 one, SQNR against the float network, milliseconds of a sample in
int8, and int8 over float latency: median of turns that alternate, one thread, CPU time. C has no float: its latency is
over that of float in ONNX Runtime. Where a file has one shape, lines of text are scored padded with zeros to the widest
that calibrates, for float and int8 alike; of those that calibrate the first alone is padded, which gives the shape. A
network that a runtime refuses has its sentence in the row.
"""

import argparse
import functools
import importlib.util
import itertools
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import networks
import numpy as np
from ways import WAYS, Way, on_codes, opened, opened_float

import halfeven
from halfeven.errors import QuantError
from halfeven.importers.models import read_model
from halfeven.result import Result
from halfeven.run.runtimes import Fitted
from halfeven.stats.distance import sqnr_db

FILE, KEY = "deploy.json", ("network", "target")
DEFAULT = ("mobilenet_v2", "fmnist_mbv2", "fmnist_resnet", "ppocr_rec", "ppocr_det")
USUAL = ("litert", "litert-int16", "ncnn", "ncnn-x86", "openvino", "executorch")
OF_MANY_WIDTHS = ("ppocr_rec",)
TURNS, LEAST_TURNS, SECONDS = 41, 5, 60.0
HEAD = ("network", "target", "on codes", "samples", "score, float", "score, int8", "SQNR", "int8", "latency")
EXAMPLES = """examples:
  python benchmarks/deploy.py                                                  # the demo network, every runtime
  python benchmarks/deploy.py --assets DIR --networks mobilenet_v2 --targets litert ncnn
  python benchmarks/deploy.py --assets DIR --targets tflite-micro c --limit 200     # plain loops are slow
  python benchmarks/deploy.py --markdown                                       # print the kept results
"""


@dataclass(frozen=True)
class Port:
    """An input, as a session names it."""

    name: str


@dataclass(frozen=True)
class Session:
    """A file of another runtime with the face of an ONNX Runtime session; runs sample by sample."""

    file: Fitted

    def get_inputs(self) -> list[Port]:
        """The inputs."""
        return [Port(name) for name in self.file.takes]

    def run(self, _: object, feeds: networks.Feeds) -> list[Any]:
        """All outputs."""
        count = len(next(iter(feeds.values())))
        parts = [self.file({name: x[i : i + 1] for name, x in feeds.items()}) for i in range(count)]
        shaped = [[np.reshape(p[name], (1, *_without_batch(p[name]))) for p in parts] for name in self.file.gives]
        last = self.file.runtime.format == "tflite"  # LiteRT gives the channels of four axes last
        return [np.moveaxis(y, -1, 1) if last and y.ndim == 4 else y for y in map(np.concatenate, shaped)]


def _without_batch(x: Any) -> tuple[int, ...]:
    """The shape of one sample: ncnn has no batch axis."""
    return tuple(x.shape[1:]) if x.shape and x.shape[0] == 1 else tuple(x.shape)


def scorer(network: networks.Network) -> Any:
    """The module score.py of the assets, or None for the demo."""
    if network.scorer is None:
        return None
    spec = importlib.util.spec_from_file_location("score", network.scorer)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Widened:
    """A session that sees lines of text padded with zeros to one width."""

    inner: Any
    width: int

    def get_inputs(self) -> Any:
        """The inputs."""
        return self.inner.get_inputs()

    def run(self, names: object, feeds: networks.Feeds) -> Any:
        """All outputs."""
        return self.inner.run(names, {name: widened(x, self.width) for name, x in feeds.items()})


def widened(x: Any, width: int) -> Any:
    """`x` with zeros behind its last axis, `width` long then; one that is longer is an error."""
    return np.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, width - x.shape[-1])])


def samples_of(network: networks.Network, way: Way) -> tuple[Any, int]:
    """What calibrates, as quantize takes it, and the one width of lines of text; 0 where they keep their own."""
    if network.name not in OF_MANY_WIDTHS or not way.fixed:
        return network.data, 0
    lines = list(networks.feeds(network, 0, 10**9))
    width = max(x.shape[-1] for line in lines for x in line.values())
    first = {name: widened(x, width) for name, x in lines[0].items()}  # gives the file its shape
    return [first, *lines[1:]], width


def score_of(network: networks.Network, file: Fitted, limit: int, width: int) -> measure.Row:
    """The task's score, where there is one, SQNR against the float network, and of how many samples."""
    module, reference = scorer(network), measure.session(network.model)
    if module is not None:
        sessions = [Widened(s, width) if width else s for s in (Session(file), reference)]
        found = module.SCORES[network.name](*sessions, limit)
        return {"score": found["value"], "sqnr_db": found["sqnr_db"], "samples": found["count"]}
    assert network.test is not None
    with np.load(network.test, allow_pickle=False) as stored:
        feeds = {name: stored[name][: limit or 200] for name in file.takes}
    noise = sqnr_db(reference.run(None, feeds)[0], Session(file).run(None, feeds)[0])
    return {"score": None, "sqnr_db": noise, "samples": len(next(iter(feeds.values())))}


def latency(file: Fitted, other: Fitted, feeds: networks.Feeds) -> tuple[float, float]:
    """Milliseconds of `file`, and its latency over that of `other`; fewer turns where one takes seconds.

    In the processor's time: on a busy machine wall time is longer for the slower of the two, which is interrupted more.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + SECONDS
    for turn in range(TURNS + 2):
        if turn > LEAST_TURNS + 1 and time.perf_counter() > end:
            break
        for kept, run in zip(seconds, (file, other), strict=True):
            start = time.process_time()
            run(feeds)
            if turn > 1:
                kept.append(time.process_time() - start)
    ratios = np.array(seconds[0]) / np.array(seconds[1])
    return float(np.median(seconds[0])) * 1e3, float(np.median(ratios))


@functools.cache
def quantized(network: networks.Network, way: Way, options: str) -> Result:
    """Quantized for the target of `way`; its kernels make no difference."""
    data, width = samples_of(network, way)
    asked = {"preprocess": None if width else network.preprocess or None, "target": way.target, "verify": False}
    return halfeven.quantize(network.model, data, **{**asked, **json.loads(options)})


def row_of(network: networks.Network, target: str, folder: Path, args: argparse.Namespace) -> measure.Row:
    """One line of the table."""
    way, source = WAYS[target], read_model(network.model)[0]
    row: measure.Row = {"network": network.name, "target": target}
    try:
        _, width = samples_of(network, way)
        made = quantized(network, Way(way.target, way.format), args.options)
        path = folder / f"network{way.suffix}"
        notes = made.save(path, way.format)
        file = opened(way, path, source, made.draft)
        sample = {name: widened(x, max(width, x.shape[-1])) for name, x in next(networks.feeds(network, 0, 1)).items()}
        row["on codes"] = on_codes(way, file, path, sample, notes)
        floating = opened_float(way, source, folder / f"float{way.suffix}", sample)
        row |= score_of(network, file, args.limit, width)
        row["score_float"] = score_of(network, floating, args.limit, width)["score"]
        row["ms"], row["latency"] = latency(file, floating, sample)
        if width:
            row["width"] = width
    except QuantError as error:
        row["refused"] = str(error).replace(f"{folder}/", "")
    return row


def kept_samples(row: measure.Row) -> int:
    """Of how many samples the kept score is that this row would replace."""
    of = (row["network"], row["target"])
    return max(
        (old.get("samples", 0) for old in measure.rows_of(FILE) if (old["network"], old["target"]) == of), default=0
    )


def line(row: measure.Row) -> list[str]:
    """A row as cells."""
    if "refused" in row:
        return [row["network"], row["target"], row["refused"], *[""] * (len(HEAD) - 3)]
    scores = ["" if row[key] is None else f"{row[key]:.4f}" for key in ("score_float", "score")]
    return [
        row["network"],
        row["target"],
        row["on codes"],
        str(row["samples"]),
        *scores,
        f"{row['sqnr_db']:.1f} dB",
        f"{row['ms']:.3g} ms" if "ms" in row else "",
        f"{row['latency']:.2f} x",
    ]


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks.add_options(parser)
    parser.add_argument(
        "--targets", nargs="+", default=list(USUAL), choices=list(WAYS), metavar="NAME", help=", ".join(WAYS)
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="score on so many samples (default: all)")
    parser.add_argument("--options", default="{}", metavar="JSON", help="options of quantize beside the defaults")
    parser.add_argument("--markdown", action="store_true", help="print what is kept as a table, measure nothing")
    args = parser.parse_args()
    if not args.markdown:
        names = args.networks or (list(DEFAULT) if args.assets else [])
        found = networks.find(args.assets, args.sentence_encoder, names)
        for network, target in itertools.product(found, args.targets):
            with tempfile.TemporaryDirectory() as folder:
                row = row_of(network, target, Path(folder), args)
            print(" | ".join(line(row)), flush=True)
            if args.options == "{}" and ("refused" in row or row["samples"] >= kept_samples(row)):
                measure.keep(FILE, row, KEY)
    print(measure.markdown(HEAD, [line(row) for row in measure.rows_of(FILE)]))


if __name__ == "__main__":
    main()
