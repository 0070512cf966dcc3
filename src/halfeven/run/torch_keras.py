"""A Keras model of the PyTorch backend, as a module that torch.export traces like any other.

    Keras                              the module
    variable, by its path              parameter of that name: conv2d/kernel ("." becomes "_")
    inputs                             arguments of `forward`: the names of Input(name=...), otherwise input, input_1
    training=False                     always
    layer, model in a model            the path of the nodes it makes: block/conv2d

Keras reads its weights from variables, where the tracer, which exchanges a module's parameters, would not see them;
`keras.StatelessScope` gives the parameters in their place. In it nothing is assigned either, so that the model is
unchanged. Layers do not hold their parts as a PyTorch module does; hooks note which one is computing. The weights are
the model's own: the same memory, with the same `requires_grad`.

Keras is never imported here: whoever has a Keras model has imported it. Source: keras.io, `keras.StatelessScope`.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from halfeven.errors import BadOption, UnsupportedModel

LAYER = "halfeven.layer"
"""Key of a traced node's metadata: the path of the layer that computed it, and the layer's class."""


def is_keras(obj: object) -> bool:
    """Whether `obj` is a Keras model that PyTorch computes.

    Raises:
        BadOption: It is one that something else computes.
    """
    model = getattr(sys.modules.get("keras"), "Model", None)
    if model is None or not isinstance(obj, model):
        old = getattr(sys.modules.get("tf_keras"), "Model", None)
        if old is not None and isinstance(obj, old):
            raise _other("tensorflow, by tf_keras")
        return False
    backend = sys.modules["keras"].config.backend()
    if backend != "torch":
        raise _other(backend)
    return True


def _other(backend: str) -> BadOption:
    return BadOption(
        f"This Keras model computes with {backend}, and only PyTorch's backend can be read from memory: set "
        "KERAS_BACKEND=torch before keras is imported and load it again, or write it with "
        "model.export('model.onnx', format='onnx') or as .tflite, and give that file."
    )


def as_module(model: Any) -> Any:
    """The module.

    Raises:
        BadOption: The model has not been built, so it has no weights.
        UnsupportedModel: A layer computes in half precision.
    """
    if not model.built:
        raise BadOption(
            f"The Keras model '{model.name}' is not built and has no weights yet: begin it with keras.Input, or call "
            "it once; then train it or load its weights."
        )
    for path, layer in _layers(model):
        if layer.compute_dtype in ("float16", "bfloat16"):
            raise UnsupportedModel(
                f"Layer '{path}' of the Keras model '{model.name}' computes in {layer.compute_dtype}; quantization "
                "starts from float32. Call keras.config.set_dtype_policy('float32'), make the model anew and load its "
                "weights."
            )
    torch = sys.modules["torch"]
    module = type(type(model).__name__, (torch.nn.Module,), {"forward": _forward(model)})()
    named = variables(model)
    for name, variable in named.items():
        module.register_parameter(name, variable.value)
    module.__dict__["keras_model"], module.__dict__["variables"] = model, named
    return module.eval()


def is_wrapped(module: Any) -> bool:
    """Whether `module` is what `as_module` returned."""
    return "keras_model" in module.__dict__


def variables(model: Any) -> dict[str, Any]:
    """The model's floating-point variables, each under the name that its tensor has in the exported model."""
    nn = sys.modules["torch"].nn
    found: dict[str, Any] = {}
    for variable in model.variables:
        value = variable.value
        if isinstance(value, nn.Parameter) and value.is_floating_point():
            name, count = variable.path.replace(".", "_"), 1
            while name in found:
                name, count = f"{variable.path.replace('.', '_')}_{count}", count + 1
            found[name] = variable
    return found


def dropping(model: Any) -> list[str]:
    """The paths of the layers that drop values in training."""
    rates = ("rate", "dropout", "recurrent_dropout")
    found = []
    for path, layer in _layers(model):
        kind = any(part.__name__.endswith("Dropout") for part in type(layer).__mro__)
        names = rates if kind else rates[1:]
        if any(isinstance(rate := getattr(layer, name, 0), float) and rate > 0 for name in names):
            found.append(path)
    return found


def moving_means(model: Any) -> dict[str, tuple[float | None, str, int]]:
    """Of each normalization, by the name of its mean: the share of the statistics that is new; they are not counted."""
    layers = [layer for _, layer in _layers(model) if getattr(layer, "moving_mean", None) is not None]
    names = {id(variable): name for name, variable in variables(model).items()}
    return {names[id(layer.moving_mean)]: (1 - float(layer.momentum), "", 0) for layer in layers}


@contextmanager
def tracing(module: Any) -> Iterator[None]:
    """While a wrapped model is traced: the nodes keep what the hooks note."""
    from torch.fx import traceback

    with traceback.preserve_node_meta() if is_wrapped(module) else ExitStack():
        yield


def place(program: Any) -> None:
    """Give the nodes of a traced program the paths of their layers, where the exporter to ONNX looks for them."""
    for node in program.graph.nodes:
        path, kind = (node.meta.get("custom") or {}).get(LAYER) or ("", "")
        if path and "nn_module_stack" in node.meta:
            node.meta["nn_module_stack"] = {**node.meta["nn_module_stack"], path: (path, kind)}


def _layers(model: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The layers with their paths, those of models in the model after the model."""
    found = []
    for layer in getattr(model, "layers", ()):
        path = f"{prefix}{layer.name}"
        found += [(path, layer), *_layers(layer, f"{path}/")]
    return found


def _forward(model: Any) -> Callable[..., Any]:
    """`forward` of the module, with the model's inputs as its arguments."""
    inputs = getattr(model, "inputs", None)  # a subclass of Model has none

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        keras = sys.modules["keras"]
        state = [(variable, getattr(self, name)) for name, variable in self.variables.items()]
        with _noting(model), keras.StatelessScope(state_mapping=state):
            if inputs and (len(inputs) > 1 or isinstance(getattr(model, "input", None), dict)):
                args = (keras.tree.pack_sequence_as(model.input, list(args)),)
            return model(*args, **kwargs, training=False)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    if inputs:
        parameters = [inspect.Parameter(name, kind) for name in _argument_names(inputs)]
    else:
        known = inspect.signature(model.call).parameters.values()
        parameters = [
            p.replace(annotation=inspect.Parameter.empty) for p in known if p.name not in ("training", "mask")
        ]
    signature = inspect.Signature([inspect.Parameter("self", kind), *parameters])
    forward.__signature__ = signature  # type: ignore[attr-defined]
    return forward


def _argument_names(inputs: Any) -> list[str]:
    given = [re.sub(r"\W", "_", str(tensor.name)) for tensor in inputs]
    own = [f"input_{i}" if i else "input" for i in range(len(given))]
    if any(name.startswith("keras_tensor") or name == "self" or not name.isidentifier() for name in given):
        return own
    return given if len(set(given)) == len(given) else own


@contextmanager
def _noting(model: Any) -> Iterator[None]:
    """While the model runs, tell a tracer which layer computes."""
    from torch.fx.traceback import annotate

    open_notes: list[Any] = []

    def enter(path: str, kind: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            note = annotate({LAYER: (path, kind)})
            note.__enter__()
            open_notes.append(note)

        return hook

    def leave(*_: Any) -> None:
        open_notes.pop().__exit__(None, None, None)

    with ExitStack() as stack:
        for path, layer in _layers(model):
            stack.callback(layer.register_forward_pre_hook(enter(path, type(layer).__name__)).remove)
            stack.callback(layer.register_forward_hook(leave).remove)
        try:
            yield
        finally:
            while open_notes:
                leave()
