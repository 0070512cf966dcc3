"""What networks score, and how fast they are, in the runtimes that read files other than ONNX.

For each network and target: quantized with nothing but its data, written in the runtime's format, opened there and
scored on held-out data by the assets' score.py, through a stand-in for ONNX Runtime's session. Printed: layers that ran
on codes where the runtime tells (else what the writer's notes say), score of the float file in the same runtime and of
the int8 one, SQNR against the float network, and int8 over float latency: median of turns that alternate, one thread.
A network or shape that a runtime refuses has its sentence in the row.
"""

import argparse
import importlib.util
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import networks
import numpy as np
import onnx_ir as ir

import halfeven
from halfeven.draft import Draft, pipeline
from halfeven.errors import QuantError
from halfeven.exporters.formats import FORMATS, exporter_named
from halfeven.graph.prepare import prepare
from halfeven.importers.models import read_model
from halfeven.run.runtimes import Fitted, open_file
from halfeven.stats.distance import sqnr_db
from halfeven.steps.trace import Trace
from halfeven.targets import TARGETS

FILE = "deploy.json"
RUN = {"litert": "tflite", "litert-int16": "tflite", "ncnn": "ncnn", "ncnn-x86": "ncnn", "openvino": "openvino-ir",
       "executorch": "executorch"}  # fmt: skip
"""Targets that can be run here, and their format."""
DEFAULT = ("mobilenet_v2", "fmnist_mbv2", "fmnist_resnet", "ppocr_rec", "ppocr_det")
TURNS = 41
HEAD = ("network", "target", "on codes", "score, float", "score, int8", "SQNR", "latency")
EXAMPLES = """examples:
  python benchmarks/deploy.py                                                  # the demo network, every runtime
  python benchmarks/deploy.py --assets DIR --networks mobilenet_v2 --targets litert ncnn
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


def score_of(network: networks.Network, file: Fitted, limit: int) -> tuple[float | None, float]:
    """The task's score, where there is one, and SQNR against the float network."""
    module, reference = scorer(network), measure.session(network.model)
    if module is not None:
        found = module.SCORES[network.name](Session(file), reference, limit)
        return found["value"], found["sqnr_db"]
    assert network.test is not None
    with np.load(network.test, allow_pickle=False) as stored:
        feeds = {name: stored[name][: limit or 200] for name in file.takes}
    return None, sqnr_db(reference.run(None, feeds)[0], Session(file).run(None, feeds)[0])


def ratio(file: Fitted, other: Fitted, feeds: networks.Feeds) -> float:
    """Latency of `file` over that of `other`."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(TURNS + 2):
        for kept, run in zip(seconds, (file, other), strict=True):
            start = time.perf_counter()
            run(feeds)
            if turn > 1:
                kept.append(time.perf_counter() - start)
    return float(np.median(np.array(seconds[0]) / np.array(seconds[1])))


def row_of(network: networks.Network, target: str, folder: Path, args: argparse.Namespace) -> measure.Row:
    """One line of the table."""
    kind, source = RUN[target], read_model(network.model)[0]
    suffix = FORMATS[kind].suffix
    row: measure.Row = {"network": network.name, "target": target}
    try:
        options = json.loads(args.options)
        asked = {"preprocess": network.preprocess or None, "target": target, "verify": False, **options}
        notes = halfeven.quantize(network.model, network.data, **asked).save(folder / f"int8{suffix}")
        file = open_file(folder / f"int8{suffix}", source)
        sample = next(iter(networks.feeds(network, 0, 1)))
        layers = file.integer_layers(sample)
        row["on codes"] = f"{layers[0]} of {layers[1]}" if layers else _said(notes)
        value, row["sqnr_db"] = score_of(network, file, args.limit)
        floating = _float_file(source, target, folder / f"float{suffix}", sample)
        row["score"], row["score_float"] = value, score_of(network, floating, args.limit)[0]
        row["latency"] = ratio(file, floating, sample)
    except QuantError as error:
        row["refused"] = str(error).replace(f"{folder}/", "")
    return row


def _float_file(source: ir.Model, target: str, path: Path, sample: networks.Feeds) -> Fitted:
    """The float network in the target's runtime; open axes have the lengths of the sample."""
    draft = pipeline(Trace())(Draft(prepare(source)[0], TARGETS[target]), [("the sample", sample)])
    exporter_named(RUN[target])(draft, path)
    return open_file(path, source)


def _said(notes: Sequence[str]) -> str:
    return next((note.removesuffix(" run on integers") for note in notes if note.endswith("run on integers")), "")


def line(row: measure.Row) -> list[str]:
    """A row as cells."""
    if "refused" in row:
        return [row["network"], row["target"], row["refused"], "", "", "", ""]
    scores = ["" if row[key] is None else f"{row[key]:.4f}" for key in ("score_float", "score")]
    return [
        row["network"],
        row["target"],
        row["on codes"],
        *scores,
        f"{row['sqnr_db']:.1f} dB",
        f"{row['latency']:.2f} x",
    ]


def main() -> None:
    """Measure, keep and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks.add_options(parser)
    parser.add_argument(
        "--targets", nargs="+", default=list(RUN), choices=list(RUN), metavar="NAME", help=", ".join(RUN)
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
            if args.options == "{}" and not args.limit:
                measure.keep(FILE, row, ("network", "target"))
    print(measure.markdown(HEAD, [line(row) for row in measure.rows_of(FILE)]))


if __name__ == "__main__":
    main()
