"""Why a PyTorch module could not be exported, in one sentence that names the user's line.

PyTorch reports such failures in pages of its own frames. The module's code runs while it is traced, so the traceback
holds the line in question: the innermost frame that belongs neither to PyTorch and its exporter, nor to this package,
nor to Python's library. A failure of the translation to ONNX has no such frame, but names a node of the traced graph,
which carries the stack of the line it came from.
"""

import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from halfeven.errors import UnsupportedModel

_MACHINERY = (
    frozenset({"torch", "functorch", "onnxscript", "onnx_ir", "onnx", "keras", "halfeven"}) | sys.stdlib_module_names
)
_STACK_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)')
_NODE = re.compile(r"Error when translating node %(\w+)")
_OPERATOR = re.compile(r"No ONNX function found for .*?op='([\w.]+)'")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_DATA_DEPENDENT = ("GuardOnDataDependentSymNode", "DynamicOutputShapeException", "DataDependentOutputException")
LENGTH = 200


def not_captured(error: BaseException, module: str) -> UnsupportedModel:
    """The error for a module that torch.export could not trace."""
    where = user_line(error)
    at = f" at {where}" if where else ""
    if any(type(cause).__name__ in _DATA_DEPENDENT for cause in _chain(error)):
        return UnsupportedModel(
            f"{module} cannot be exported: it stops{at}, where Python needs a value that only running the model gives "
            "(an if, a loop, int() or item() on a tensor). Write it with torch.where or torch.cond, or move it out of "
            "forward; or give the modules around it, one by one."
        )
    return UnsupportedModel(
        f"{module} cannot be exported: it stops{at} with {brief(error)} Write that line with plain torch operations, "
        "or export the module to ONNX in another way and give the file."
    )


def not_translated(error: BaseException, module: str, program: Any) -> UnsupportedModel:
    """The error for a traced program, a torch ExportedProgram, of which no ONNX graph could be made."""
    messages = [str(cause) for cause in _chain(error)]
    where = next((at for text in messages if (node := _NODE.search(text)) and (at := _origin(program, node[1]))), "")
    operator = next((found[1] for text in messages if (found := _OPERATOR.search(text))), "")
    what = f"ONNX has no counterpart of {operator}" if operator else f"the translation to ONNX failed: {brief(error)}"
    return UnsupportedModel(
        f"{module} cannot be exported: {what}{f' ({where})' if where else ''}. Replace it by other operations, or "
        "leave that part out of the module."
    )


def brief(error: BaseException) -> str:
    """The kind of an error and the first line of its message, ended by a full stop."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    told = " ".join(lines[: 1 + lines[0].startswith("Exception encountered when calling")]) if lines else ""  # Keras
    text = f"{type(error).__name__}: {told}" if lines else type(error).__name__
    return (text[:LENGTH] + "..." if len(text) > LENGTH else text).rstrip(".") + "."


def user_line(error: BaseException) -> str:
    """`file:line, in function: 'code'` of the user's innermost frame; empty if there is none."""
    found = ""
    for frame, line in (step for cause in _chain(error) for step in traceback.walk_tb(cause.__traceback__)):
        package = str(frame.f_globals.get("__name__", "torch")).partition(".")[0]
        if package not in _MACHINERY or package == "__main__":
            code = frame.f_code
            found = _described(code.co_filename, line, code.co_name)
    return found


def _described(file: str, line: int, name: str) -> str:
    code = linecache.getline(file, line).strip()
    return f"{file}:{line}, in {name}" + (f": '{code}'" if code else "")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error's causes, first cause first, and then itself."""
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _chain(cause)
    yield error


def _origin(program: Any, name: str) -> str:
    """The user's line from which the node `name` of a traced program, or of its decomposition, came."""
    for graph in (program.graph, program.run_decompositions().graph):
        for node in graph.nodes:
            if node.name == name:
                stack = _STACK_LINE.findall(node.meta.get("stack_trace") or "")
                own = [(file, int(line), where) for file, line, where in stack if not _in_torch(file)]
                return _described(*own[-1]) if own else ""
    return ""


def _in_torch(file: str) -> bool:
    folder = str(sys.modules["torch"].__path__[0])
    return file.startswith(folder)
