"""What a .pte file of ExecuTorch holds: the operators, and the type of numbers of each.

A .pte file is a flatbuffer program. Each part that XNNPACK runs is a flatbuffer of its own inside: "XH00", then the
graph, of nodes and of values with their datatype. XNNPACK chooses the kernel of a node by these datatypes alone: a
convolution whose input and output are qint8 and whose weight is qcint8 has an int8 kernel and no other. So they are the
proof of what runs on codes. What XNNPACK does not run are calls of ExecuTorch's own kernels.

    Kernel("Conv2d", ("qint8", "qcint8"), ("qint8",))        on codes
    Kernel("Sigmoid", ("fp32",), ("fp32",))                  in real numbers
    Kernel("aten::upsample_nearest2d", delegated=False)      ExecuTorch's own

Source: executorch 1.5.1, exir/_serialize, backends/xnnpack/serialization/schema.fbs, which the package brings.
"""

import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfeven.errors import BadOption, UnsupportedModel

MISSING = "ExecuTorch is not installed: pip install 'halfeven[executorch]'."
METHOD = "forward"
LAYERS = frozenset({"Conv2d", "DepthwiseConv2d", "ConvTranspose2d", "FullyConnected"})
OWN_LAYERS = frozenset({"aten::convolution", "aten::addmm", "aten::linear"})
HEADER, MAGIC = slice(4, 8), b"XH00"
CODES = "qint8"


@dataclass(frozen=True)
class Kernel:
    """An operator of a file: the types of what it reads and gives; `delegated`: XNNPACK runs it."""

    kind: str
    reads: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    delegated: bool = True

    @property
    def integer(self) -> bool:
        """Whether it goes from codes to codes."""
        return bool(self.reads and self.gives) and {self.reads[0], *self.gives} == {CODES}

    @property
    def weighted(self) -> bool:
        """Whether it multiplies by constant weights."""
        return self.kind in LAYERS or self.kind in OWN_LAYERS


def kernels_of(path: str | Path) -> tuple[Kernel, ...]:
    """The operators of a .pte file, XNNPACK's part by part, then those of ExecuTorch's own kernels, once each.

    Raises:
        BadOption: ExecuTorch is not installed.
        UnsupportedModel: it is no .pte file.
    """
    return kernels_in(content_of(Path(path)), Path(path))


def kernels_in(content: bytes, path: Path) -> tuple[Kernel, ...]:
    """`kernels_of` for bytes; `path` is named in errors."""
    try:
        with quiet():
            from executorch.exir._serialize._program import deserialize_pte_binary
    except ImportError:
        raise BadOption(MISSING) from None
    try:
        with quiet():
            program = deserialize_pte_binary(content).program
            plan = next(p for p in program.execution_plan if p.name == METHOD)
            blobs = [program.backend_delegate_data[d.processed.index].data for d in plan.delegates]
            found = [kernel for blob in blobs for kernel in _delegated(bytes(blob))]
            called = [i.instr_args for chain in plan.chains for i in chain.instructions or ()]
            names = [plan.operators[c.op_index].name for c in called if hasattr(c, "op_index")]
    except Exception as error:
        raise UnsupportedModel(f"'{path}' is no whole .pte file of ExecuTorch: {first_line(error)}") from error
    return (*found, *(Kernel(name, delegated=False) for name in names))


def _delegated(blob: bytes) -> list[Kernel]:
    """The nodes of one of XNNPACK's graphs."""
    graph = _graph(blob)
    types: dict[int, str] = {}
    for value in graph["xvalues"]:
        entry = value["xvalue_union"]
        tensor = entry.get("tensor_value", entry)
        types[tensor["id_out"]] = str(tensor["datatype"]).removeprefix("xnn_datatype_")
    kernels = []
    for node in graph["xnodes"]:
        ports = node["xnode_union"]
        reads = [ports[key] for key in ports if key.endswith("_id") and key not in ("output_id", "bias_id")]
        kind = str(node["xnode_union_type"]).removeprefix("XNN").removeprefix("_XNN")
        known = tuple(types[port] for port in reads if port in types)
        kernels.append(Kernel(kind, known, (types[ports["output_id"]],)))
    return kernels


def _graph(blob: bytes) -> dict[str, Any]:
    """A graph of XNNPACK as plain values, by ExecuTorch's own schema and reader of flatbuffers."""
    from importlib.resources import files

    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    if blob[HEADER] != MAGIC:
        raise ValueError("a part for another backend than XNNPACK")
    start, size = int.from_bytes(blob[10:14], "little"), int.from_bytes(blob[14:18], "little")
    with tempfile.TemporaryDirectory(prefix="halfeven-") as folder:
        schema, stored = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        source = files("executorch.backends.xnnpack.serialization") / "schema.fbs"
        schema.write_bytes(source.read_bytes())
        stored.write_bytes(blob[start : start + size])
        _flatc_decompile(folder, str(schema), str(stored), ["--raw-binary"])
        text = (Path(folder) / "graph.json").read_text("utf-8")
    graph: dict[str, Any] = json.loads(text.replace(": inf", ": Infinity").replace(": -inf", ": -Infinity"))
    return graph


def content_of(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        UnsupportedModel: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnsupportedModel(f"'{path}' cannot be read: {error.strerror or error}.") from error


def first_line(error: Exception) -> str:
    """The kind of an error and the first line that it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}{': ' if lines else ''}{lines[0][:300] if lines else ''}"


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that its Python code prints, logs or warns of is shown, and no handler of logs that it adds stays.

    PyTorch imports parts of SymPy; while `halfeven.deferred` has that empty, a part would be loaded twice.
    """
    sympy = sys.modules.get("sympy")
    getattr(sympy, "__version__", None)
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers
