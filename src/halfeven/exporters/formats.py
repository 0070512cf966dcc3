"""The formats that a quantized network can leave in, by name.

An exporter is a function `(draft, path) -> notes`: it writes the calibrated draft to `path`, beside and then renamed,
and returns sentences for the user on what was converted, left in float or left out. It refuses, before writing, what
the format or its runtime cannot take. What a format's `takes` names is passed by keyword. Modules are imported when
their format is used.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.graph.weight_codes import within_bits
from halfeven.targets import TARGETS

Exporter: TypeAlias = Callable[..., tuple[str, ...]]


@dataclass(frozen=True)
class Format:
    """A format: the suffix of its files, what it is, and where its exporter stands (`module:function`).

    `extra`: that of the packages which writing it needs, `PACKAGES`. `takes`: options that its exporter has: `io`, the
    type of codes at the border of the file; `version`, of the runtime that shall read it.
    """

    suffix: str
    what: str
    home: str
    extra: str = ""
    takes: tuple[str, ...] = ()


PACKAGES = {
    "litert": ("ai_edge_litert", "flatbuffers"),
    "executorch": ("torch", "executorch"),
    "mnn": ("MNN", "_tools"),
}

FORMATS: dict[str, Format] = {
    "qdq": Format(".onnx", "ONNX with QuantizeLinear and DequantizeLinear", "halfeven.exporters.onnx:write_qdq"),
    "qdq-int4": Format(
        ".onnx", "the same, weights of at most 4 bits stored in 4", "halfeven.exporters.onnx_int4:write_qdq_int4"
    ),
    "qoperator": Format(".onnx", "ONNX with integer operators", "halfeven.exporters.qoperator:write_qoperator"),
    "matmulnbits": Format(
        ".onnx", "ONNX with MatMulNBits: weights alone, of 4 or 8 bits", "halfeven.exporters.nbits:write_nbits"
    ),
    "matmulnbits-int8": Format(
        ".onnx", "the same, activations int8 inside the kernel", "halfeven.exporters.nbits:write_nbits_int8"
    ),
    "c": Format(".c", "C99 for bare metal, integers only", "halfeven.exporters.c.write:write_c"),
    "tflite": Format(
        ".tflite", "LiteRT (TensorFlow Lite)", "halfeven.exporters.litert.write:write_litert", "litert", ("io",)
    ),
    "ncnn": Format(".param", "ncnn, int8, with its .bin beside", "halfeven.exporters.ncnn.write:write_ncnn"),
    "openvino-ir": Format(
        ".xml", "OpenVINO IR with FakeQuantize, its .bin beside", "halfeven.exporters.openvino.write:write_ir"
    ),
    "executorch": Format(
        ".pte",
        "ExecuTorch with XNNPACK, int8",
        "halfeven.exporters.executorch.write:write_executorch",
        "executorch",
    ),
    "mnn": Format(".mnn", "MNN", "halfeven.exporters.mnn.write:write_mnn", "mnn"),
    "tnn": Format(".tnnproto", "TNN, int8, with its .tnnmodel beside", "halfeven.exporters.tnn.write:write_tnn"),
    "tensorrt-cache": Format(
        ".cache",
        "TensorRT's calibration cache",
        "halfeven.exporters.tables.tensorrt:write_cache",
        takes=("version",),
    ),
    "tensorrt-cache-minmax": Format(
        ".cache",
        "the same of its min-max calibrator",
        "halfeven.exporters.tables.tensorrt:write_cache_minmax",
        takes=("version",),
    ),
    "tensorrt-precision": Format(
        ".json", "TensorRT: scales, and nodes in half precision", "halfeven.exporters.tables.tensorrt:write_precision"
    ),
    "ort-calibration": Format(
        ".json", "ONNX Runtime's calibration ranges", "halfeven.exporters.tables.tensorrt:write_ort_calibration"
    ),
    "aimet-0.6.1": Format(".encodings", "AIMET, QNN, SNPE 0.6.1", "halfeven.exporters.tables.aimet:write_aimet_061"),
    "aimet-1.0": Format(".encodings", "AIMET, QNN 1.0.0", "halfeven.exporters.tables.aimet:write_aimet_100"),
    "aimet-2.0": Format(".encodings", "AIMET, QNN 2.0.0", "halfeven.exporters.tables.aimet:write_aimet_200"),
    "ppq-tensorrt": Format(".json", "PPQ for TensorRT", "halfeven.exporters.tables.ppq:write_ppq_tensorrt"),
    "ppq-ppl": Format(".json", "PPQ for PPL", "halfeven.exporters.tables.ppq:write_ppq_ppl"),
    "ppq-qnn": Format(".json", "PPQ for QNN", "halfeven.exporters.tables.ppq:write_ppq_qnn"),
    "ppq-config": Format(
        ".json",
        "PPQ's own config of each operator and tensor",
        "halfeven.exporters.tables.ppq_config:write_ppq_config",
    ),
    "mnn-params": Format(".json", "MNN's quantization parameters", "halfeven.exporters.mnn.table:write_params"),
    "vitis-fix": Format(".json", "Vitis AI's fix positions", "halfeven.exporters.tables.vitis:write_fix_positions"),
    "ncnn-table": Format(".table", "ncnn's calibration table", "halfeven.exporters.ncnn_table:write_ncnn_table"),
    "encodings": Format(
        ".json", "every scale in plain JSON, for closed toolchains", "halfeven.exporters.tables.neutral:write_encodings"
    ),
}


def exporter_named(name: str) -> Exporter:
    """The exporter of a format.

    Raises:
        BadOption: there is none, and the message lists those there are; or what it needs is not installed.
    """
    if name not in FORMATS:
        raise BadOption(f"--format '{name}' is not known. Choose one of: {', '.join(FORMATS)}.")
    extra = FORMATS[name].extra
    if missing := [package for package in PACKAGES.get(extra, ()) if find_spec(package) is None]:
        raise BadOption(f"--format {name} needs {missing[0]}, which is not installed: pip install 'halfeven[{extra}]'.")
    module, _, function = FORMATS[name].home.partition(":")
    exporter: Exporter = getattr(import_module(module), function)

    @wraps(exporter)
    def write(draft: Draft, path: Path, **options: Any) -> tuple[str, ...]:
        return exporter(in_stored_codes(draft), path, **options)

    return write


def in_stored_codes(draft: Draft) -> Draft:
    """The draft to write: weights that a plan gives fewer bits than a file has codes of have the values of those."""
    model, plan = within_bits(draft.model, draft.plan)
    return draft if plan is draft.plan else replace(draft, model=model, plan=plan)


def format_of(path: str | Path, name: str | None = None) -> str:
    """The format to write to `path`: the one named, else that of its suffix; .onnx and no suffix are qdq.

    Raises:
        BadOption: no format has the suffix, or several; they are listed.
    """
    if name is not None:
        if name not in FORMATS:
            raise BadOption(f"--format '{name}' is not known. Choose one of: {', '.join(FORMATS)}.")
        return name
    file = Path(path)
    if not file.suffix:
        return "qdq"
    found = [known for known, entry in FORMATS.items() if file.name.lower().endswith(entry.suffix)]
    if len(found) == 1 or "qdq" in found:
        return found[0] if len(found) == 1 else "qdq"
    if found:
        raise BadOption(f"'{file}' may be of several formats. Choose one with --format: {', '.join(found)}.")
    known = ", ".join(f"{entry.suffix} ({key})" for key, entry in FORMATS.items())
    raise BadOption(f"'{file}' has the suffix of no format. Say --format, or use one of: {known}.")


def target_of(name: str, made_for: str = "") -> str:
    """The target that a format is for, unless another is asked for: `made_for`, or the first, whose table lists it."""
    if made_for in TARGETS and name in TARGETS[made_for].formats:
        return made_for
    return next((key for key, target in TARGETS.items() if name in target.formats), next(iter(TARGETS)))
