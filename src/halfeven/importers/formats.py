"""The formats in which a plan made elsewhere can come, by name, and how a file's format is recognized.

An importer is a function `(path, model, target) -> plan`: what the file says about `model`'s values as a plan for
`target`, with its parameters pinned. `model` is the float model whose names the file speaks of; None: there is none at
hand, and a format that cannot do without one says so (BadOption). What the file says and a plan cannot hold, or what it
names and the model lacks, is refused in a sentence (UnsupportedModel) or said in the reason of a site or node. Modules
are imported when their format is used.

A file is of the first format all of whose marks it bears: what a JSON object has for keys, what the file begins with,
or its suffix. Content counts before suffixes, as other tools give their files any.
"""

import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

import onnx_ir as ir

from halfeven.errors import BadOption
from halfeven.graph.plan import Plan
from halfeven.targets.target import Target

Importer: TypeAlias = Callable[[Path, ir.Model | None, Target], Plan]
UTF_8_SIG, UTF_16_LE, UTF_16_BE = codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
LARGEST_TABLE = 1 << 30
"""Bytes that a file of scales may have; no network's comes near it."""


@dataclass(frozen=True)
class Import:
    """A format: what it is, where its importer stands (`module:function`), and its marks.

    `keys`: a JSON object with all of these; `begins`: one of these is what the file begins with; `suffixes`: one of
    these ends its name.
    """

    what: str
    home: str
    keys: tuple[str, ...] = ()
    begins: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()


IMPORTS: dict[str, Import] = {
    "plan": Import("a plan of Halfeven (JSON)", "halfeven.importers.qdq:plan_of_json", keys=("halfeven_plan",)),
    "qdq": Import(
        "ONNX with QuantizeLinear and DequantizeLinear", "halfeven.importers.qdq:plan_of_onnx", suffixes=(".onnx",)
    ),
    "tflite": Import(
        "LiteRT (TensorFlow Lite), quantized", "halfeven.importers.models:plan_of_tflite", suffixes=(".tflite",)
    ),
    "encodings": Import(
        "a neutral table of Halfeven (JSON)",
        "halfeven.importers.tables.neutral:read_encodings",
        ("halfeven_encodings",),
    ),
    "aimet-2.0": Import("AIMET, QNN 2.x", "halfeven.importers.tables.aimet:read_aimet", ("version", "encodings")),
    "aimet": Import(
        "AIMET, QNN, SNPE up to 1.0.0",
        "halfeven.importers.tables.aimet:read_aimet",
        ("activation_encodings", "param_encodings"),
    ),
    "ppq-qnn": Import("PPQ for QNN", "halfeven.importers.tables.aimet:read_ppq_qnn"),
    "ppq-ppl": Import("PPQ for PPL", "halfeven.importers.tables.others:read_ppl", ("quant_info",)),
    "ppq-config": Import(
        "PPQ's own config of each operator and tensor",
        "halfeven.importers.tables.ppq_config:read_ppq_config",
        ("configs", "dispatchings", "values"),
    ),
    "ppq-tensorrt": Import(
        "PPQ for TensorRT", "halfeven.importers.tables.tensorrt:read_ppq_tensorrt", ("act_quant_info",)
    ),
    "tensorrt-cache": Import(
        "TensorRT's calibration cache", "halfeven.importers.tables.tensorrt:read_cache", begins=(b"TRT-",)
    ),
    "tensorrt-precision": Import(
        "TensorRT: scales, and nodes in half precision",
        "halfeven.importers.tables.tensorrt:read_precision",
        ("int8_tensor_scales", "fp16_nodes"),
    ),
    "ort-calibration": Import(
        "ONNX Runtime's calibration ranges",
        "halfeven.importers.tables.tensorrt:read_ort_calibration",
        ("CLS", "data", "calibration_method"),
    ),
    "mnn-params": Import("MNN's quantization parameters", "halfeven.importers.tables.others:read_mnn", ("algo",)),
    "vitis-fix": Import(
        "Vitis AI's fix positions", "halfeven.importers.tables.others:read_fix_positions", ("param", "output", "input")
    ),
    "tnn": Import("TNN, quantized", "halfeven.importers.tables.tnn:read_tnn_plan", suffixes=(".tnnproto",)),
    "ncnn-table": Import(
        "ncnn's calibration table", "halfeven.importers.tables.others:read_ncnn_table", suffixes=(".table",)
    ),
}


def importer_named(name: str) -> Importer:
    """The importer of a format.

    Raises:
        BadOption: there is none; the message lists those there are.
    """
    if name not in IMPORTS:
        raise BadOption(f"The format '{name}' cannot be imported. Choose one of: {', '.join(IMPORTS)}.")
    module, _, function = IMPORTS[name].home.partition(":")
    importer: Importer = getattr(import_module(module), function)
    return importer


def import_plan(path: str | Path, model: ir.Model | None, target: Target, name: str | None = None) -> Plan:
    """The plan that a file holds, of the named format or the one that it looks like.

    Raises:
        BadOption: it cannot be read, or is of no format that can be imported; or the file is at fault.
        UnsupportedModel: the file says what no plan can hold, or does not fit the model.
    """
    file = Path(path)
    return importer_named(name if name is not None else sniff(file))(file, model, target)


def sniff(path: str | Path) -> str:
    """The name of the format that a file looks like.

    Raises:
        BadOption: it cannot be read, is damaged, or looks like none.
    """
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_TABLE and file.suffix != ".onnx":
            raise BadOption(f"'{file}' is too large for a file of scales ({file.stat().st_size} bytes).")
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise BadOption(f"'{file}' cannot be read: {error.strerror or error}.") from error
    if head.startswith((UTF_16_LE, UTF_16_BE)):
        raise BadOption(f"'{file}' is text in UTF-16; UTF-8 was expected. Save it so.")
    head = head.removeprefix(UTF_8_SIG)
    keys = _keys(file) if head.lstrip().startswith(b"{") else frozenset()
    for name, entry in IMPORTS.items():
        if (entry.keys and keys.issuperset(entry.keys)) or (entry.begins and head.startswith(entry.begins)):
            return name
    for name, entry in IMPORTS.items():
        if file.name.endswith(entry.suffixes) and not (entry.keys or entry.begins):
            return name
    known = "; ".join(f"{name} ({entry.what})" for name, entry in IMPORTS.items())
    raise BadOption(f"'{file}' is of no format that can be imported. These can: {known}.")


def _keys(file: Path) -> frozenset[str]:
    """The keys of the JSON object that a file begins with.

    Raises:
        BadOption: it is cut off or otherwise damaged.
    """
    try:
        data = json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise BadOption(f"'{file}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise BadOption(f"'{file}' is damaged JSON, cut off perhaps: {error}. Make or copy it anew.") from error
    return frozenset(data) if isinstance(data, dict) else frozenset()
