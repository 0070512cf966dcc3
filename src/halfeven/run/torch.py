"""From a PyTorch module to a float ONNX model; the one door to `torch` outside of training.

    module, example -> torch.export -> torch.onnx (not optimized) -> names -> compared with the module -> model

The exporter is told not to optimize: its optimizer folds BatchNormalization and renames what it folds, while without
it every parameter arrives unchanged under its own name, and `graph.prepare` folds with checks. Opset 20 is the first
with Gelu as one operator, and no version converter runs.

The batch is left open if the first axis of the inputs really is one (`torch_batch`), and torch.export can follow it;
otherwise the model keeps the example's shapes, and a note says why. PyTorch is imported when a function is called.
"""

import inspect
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import onnx_ir as ir

from halfeven.errors import BadCalibration, BadOption, UnsupportedModel
from halfeven.run.ort import OrtExecutor
from halfeven.run.torch_batch import as_array, is_stacked, largest_gap, pair_of_rows
from halfeven.run.torch_call import Call, bind, named_tensors, with_names
from halfeven.run.torch_failure import brief, not_captured, not_translated, user_line
from halfeven.run.torch_graph import tidy
from halfeven.run.torch_keras import as_module, is_keras, is_wrapped, place, tracing
from halfeven.run.torch_weights import inside

OPSET = 20
TOLERANCE = 1e-4
"""Largest difference between module and model, as a fraction of an output's largest magnitude."""

LOGGERS = ("torch", "torch.export", "torch.onnx", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir")


def is_module(obj: object) -> bool:
    """Whether `obj` is a torch.nn.Module, as Keras models are too; PyTorch is not imported to find out.

    Raises:
        BadOption: It is a Keras model that does not compute with PyTorch.
    """
    is_keras(obj)
    nn = getattr(sys.modules.get("torch"), "nn", None)
    return nn is not None and isinstance(obj, nn.Module)


def from_module(
    module: Any,
    example_inputs: Any,
    *,
    dynamic_batch: bool = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> tuple[ir.Model, list[str]]:
    """Export a module to ONNX, in evaluation mode, and check that the model computes what the module computes.

    Args:
        module: A torch.nn.Module with float32 weights; afterwards it is as before, its training flags included.
        example_inputs: What forward is called with: a tensor, a tuple in order, or a dict by name. Arrays become
            tensors; tensors go to the module's device.
        dynamic_batch: Leave the first axis open, as "batch", where the module admits it.
        input_names: Names of the inputs, in order; otherwise forward's own.
        output_names: Names of the outputs, in order; otherwise the keys of the dict that forward returns, or
            "output", or "output_0", "output_1" and so on.

    Returns:
        The model, its parameters named by the keys of state_dict (of the module inside, for DataParallel and
        torch.compile; the first key of a shared tensor), and notes for the user.

    Raises:
        BadOption: PyTorch or onnxscript is missing, or `example_inputs` or names do not fit.
        UnsupportedModel: The module cannot be exported, or its model gives something else; the line is named.
    """
    torch = _torch()
    inner = _unwrapped(module, torch)
    _check_weights(inner, torch)
    call, notes = bind(inner, example_inputs, lambda leaf: _on_device(leaf, inner, torch))
    if any(part.training for part in inner.modules()):
        notes.append("the module was in training mode; it is exported in evaluation mode, and was set back")
    source = _Source(inner, call, tuple(input_names or ()), tuple(output_names or ()))
    _check_names(source, named_tensors(source.run(call), source.name))
    if not dynamic_batch:
        model, more = source.exported(call)
        return model, notes + more
    reason = "the rows of a batch influence each other, or the first axis of the first input is not the batch"
    try:
        if (rows := _rows(source)) is not None:
            model, more = source.exported(*rows)
            return model, notes + more
    except (BadOption, UnsupportedModel) as error:
        reason = _why_fixed(error)
    model, more = source.exported(call)
    return model, [*notes, f"the inputs keep the shapes of example_inputs, the batch too: {reason}", *more]


def structure_of(module: Any, example_inputs: Any, names: Sequence[str]) -> Any:
    """What forward returns, the name of an output of the model that `from_module` gives in the place of each tensor.

    Raises:
        BadOption: as `from_module`.
    """
    torch = _torch()
    inner = _unwrapped(module, torch)
    call, _ = bind(inner, example_inputs, lambda leaf: _on_device(leaf, inner, torch))
    return with_names(_Source(inner, call, (), ()).run(call), names)


def arguments_of(
    module: Any, example_inputs: Any, places: Sequence[Any]
) -> tuple[inspect.Signature, dict[str, Any], list[Any]]:
    """Forward's signature; its arguments by name, with `places` for the tensors, in order; and the tensors.

    Raises:
        BadOption: as `from_module`.
    """
    inner = _unwrapped(module, torch := _torch())
    call, _ = bind(inner, example_inputs, lambda leaf: _on_device(leaf, inner, torch))
    signature = inspect.signature(inner.forward)
    args, kwargs = with_names((call.args, call.kwargs), places)
    return signature, dict(signature.bind(*args, **kwargs).arguments), call.tensors


@dataclass(frozen=True, eq=False)
class _Source:
    """A module to export; `call` is the user's example, and the names are empty where the user gave none."""

    module: Any
    call: Call
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def name(self) -> str:
        return type(self.module).__name__

    def run(self, call: Call) -> Any:
        """What the module returns in evaluation mode."""
        with _unchanged(self.module), _quiet():
            try:
                return self.module(*call.args, **call.kwargs)
            except Exception as error:
                at = user_line(error)
                raise BadOption(
                    f"{self.name} fails on example_inputs{f' at {at}' if at else ''}: {brief(error)} "
                    "Give inputs that the module itself can run."
                ) from error

    def exported(self, call: Call, batched: Sequence[bool] = ()) -> tuple[ir.Model, list[str]]:
        """The model traced from `call`, checked on it and on the user's example, and notes.

        `batched` says which tensors of the call have the batch, left open, as first axis.
        """
        program = _captured(self, call, batched)
        model, written = _translated(self, program)
        results = named_tensors(self.run(call), self.name)
        found, expected = (len(model.graph.inputs), len(model.graph.outputs)), (len(call.tensors), len(results))
        if found != expected:
            raise UnsupportedModel(
                f"{self.name} was exported with {found[0]} inputs and {found[1]} outputs; expected {expected[0]} and "
                f"{expected[1]}. Export the module to ONNX in another way and give the file."
            )
        if both := set(self.outputs) & set(self.inputs or (str(value.name) for value in model.graph.inputs)):
            raise BadOption(f"output_names: {sorted(both)} are names of inputs. Give each tensor its own name.")
        keys, layers = _first_keys(self.module), is_wrapped(self.module)
        notes = tidy(model, self.inputs, self.outputs or tuple(results), keys, layers=layers)
        _verify(self, model, call)
        if call is not self.call:
            _verify(self, model, self.call)
        if written:
            notes.append(f"forward writes to {written}; the model starts from their present values in each run")
        return model, notes


def _torch() -> Any:
    try:
        import_module("onnxscript")
        return import_module("torch")
    except ImportError:
        raise BadOption("PyTorch models need torch and onnxscript: pip install 'halfeven[torch]'") from None


def _unwrapped(module: Any, torch: Any) -> Any:
    """The module itself, without what torch.compile and the parallel containers put around it; Keras' as a module."""
    module = inside(module)
    if is_keras(module):
        return as_module(module)
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModel(
            f"{type(module).__name__} is a TorchScript module, which torch.export does not read. Give the module that "
            "it was scripted or traced from, or an ONNX file."
        )
    return module


def _check_weights(module: Any, torch: Any) -> None:
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float16, torch.bfloat16):
            raise UnsupportedModel(
                f"{type(module).__name__} holds '{name}' as {str(tensor.dtype).removeprefix('torch.')}; quantization "
                "starts from float32. Give copy.deepcopy(module).float(), and float32 example_inputs."
            )


def _check_names(source: _Source, results: dict[str, Any]) -> None:
    for option, names, count in (
        ("input_names", source.inputs, len(source.call.tensors)),
        ("output_names", source.outputs, len(results)),
    ):
        if names and (len(names) != count or len(set(names)) != count or "" in names):
            raise BadOption(f"{option}: {source.name} needs {count} different names, found {list(names)}.")


def _on_device(leaf: Any, module: Any, torch: Any) -> Any:
    """A tensor, from a tensor or an array, where the module's weights are."""
    first = next(iter(module.parameters()), None)
    tensor = torch.from_numpy(np.array(leaf)) if isinstance(leaf, np.ndarray) else leaf.detach()
    return tensor if first is None else tensor.to(first.device)


def _first_keys(module: Any) -> dict[str, str]:
    first: dict[int, str] = {}
    return {key: first.setdefault(id(tensor), key) for key, tensor in module.state_dict(keep_vars=True).items()}


@contextmanager
def _unchanged(module: Any) -> Iterator[None]:
    """Evaluation mode without gradients; then attributes, training flags and buffers are what they were before.

    torch.export leaves symbolic tensors behind in attributes that forward assigns.
    """
    parts = [(part, dict(part.__dict__)) for part in module.modules()]
    tables = [part.__dict__[key] for part, _ in parts for key in ("_buffers", "_parameters", "_modules")]
    contents = [dict(table) for table in tables]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    torch = sys.modules["torch"]
    try:
        with torch.no_grad():
            module.eval()
            yield
    finally:
        for part, attributes in parts:
            part.__dict__.clear()
            part.__dict__.update(attributes)
        for table, content in zip(tables, contents, strict=True):
            table.clear()
            table.update(content)
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing that the exporter, or forward in its many runs, prints, logs or warns of is shown; errors are."""
    levels = [(logger, logger.level) for logger in map(logging.getLogger, LOGGERS)]
    try:
        for logger, _ in levels:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)


def _captured(source: _Source, call: Call, batched: Sequence[bool]) -> Any:
    """The traced program, a torch ExportedProgram."""
    export = import_module("torch.export")
    shapes: Any = export.ShapesCollection() if batched else None
    for tensor, has_rows in zip(call.tensors, batched, strict=False):
        if has_rows:
            shapes[tensor] = {0: export.Dim("batch")}
    with _unchanged(source.module), _quiet():
        try:
            with tracing(source.module):
                program = export.export(source.module, call.args, call.kwargs, dynamic_shapes=shapes)
        except Exception as error:
            raise not_captured(error, source.name) from error
    if is_wrapped(source.module):
        place(program)
    return program


def _translated(source: _Source, program: Any) -> tuple[ir.Model, list[str]]:
    """The ONNX model of a traced program, and the names of buffers that the program writes."""
    onnx = import_module("torch.onnx")
    with _unchanged(source.module), _quiet():
        try:
            made = onnx.export(program, (), dynamo=True, optimize=False, opset_version=OPSET, verbose=False)
        except Exception as error:
            raise not_translated(error, source.name, program) from error
    return made.model, sorted(made.exported_program.graph_signature.buffers_to_mutate.values())


def _rows(source: _Source) -> tuple[Call, list[bool]] | None:
    """The example as a batch of two rows, and which tensors have them; None if the rows are not independent."""
    first, second, both, batched = pair_of_rows(source.call.tensors)
    calls = [source.call.with_tensors(tensors) for tensors in (first, second, both)]
    one, other, joint = ([*named_tensors(source.run(call), source.name).values()] for call in calls)
    if not any(batched) or not is_stacked(one, other, joint):
        return None
    return calls[2], batched


def _why_fixed(error: BadOption | UnsupportedModel) -> str:
    cause = error.__cause__
    if isinstance(error, BadOption):
        return f"forward fails on a batch of another size ({brief(cause or error)})"
    if "Constraints violated" in str(cause):
        return "forward computes with the number of rows as a constant"
    return f"the export with an open batch failed ({brief(cause or error)})"


def _verify(source: _Source, model: ir.Model, call: Call) -> None:
    """Compare model and module on one call.

    Raises:
        UnsupportedModel: ONNX Runtime cannot run the model, or an output differs by more than TOLERANCE.
    """
    expected = named_tensors(source.run(call), source.name)
    feeds = {str(value.name): as_array(t) for value, t in zip(model.graph.inputs, call.tensors, strict=True)}
    try:
        found = OrtExecutor(model, optimize=False)(feeds, "example_inputs")
    except BadCalibration as error:
        raise UnsupportedModel(f"{source.name} was exported, but {error}") from error
    for (name, value), tensor in zip(found.items(), expected.values(), strict=True):
        if (gap := largest_gap(as_array(tensor), np.asarray(value))) > TOLERANCE:
            raise _mismatch(source, call, name, gap)


def _mismatch(source: _Source, call: Call, name: str, gap: float) -> UnsupportedModel:
    once, again = (named_tensors(source.run(call), source.name).values() for _ in range(2))
    if any(largest_gap(as_array(a), as_array(b)) > TOLERANCE for a, b in zip(once, again, strict=True)):
        return UnsupportedModel(
            f"{source.name} gives another '{name}' each time it is run on the same input. Take what is random out of "
            "forward, such as a dropout that ignores evaluation mode."
        )
    return UnsupportedModel(
        f"{source.name} was exported, but its model gives another '{name}' than the module: they differ by {gap:.2g} "
        f"of the largest value, more than {TOLERANCE:g}. Export the module to ONNX in another way and give the file."
    )
