"""Quantization-aware training: prepare a network, train it with your own loop, export what was trained.

    network = halfeven.prepare(module, example_inputs, data=calibration)      an nn.Module
    ... your loop: optimizer, scheduler, AMP, DDP ...
    halfeven.export(network, "model.onnx")
    halfeven.conform(network, data, ("onnxruntime", "litert", "c"))           run, and compared with the simulators
    halfeven.restore(module, network)                                         the weights, back in your module

What `prepare` returns is the quantized graph itself: ranges are calibrated as by `quantize`, and the exported file
computes what its forward pass does. PyTorch is imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from halfeven import api
from halfeven.draft import Draft, Progress, no_progress
from halfeven.errors import BadOption
from halfeven.feeding import open_data
from halfeven.graph.bits import Bits, parts_of, with_bits
from halfeven.graph.model import load
from halfeven.graph.plan import DYNAMIC, Plan
from halfeven.graph.weight_codes import WEIGHT_CODES, weight_params
from halfeven.importers.modules import read_given
from halfeven.numerics.grid import Grid, IntGrid
from halfeven.numerics.scheme import QParams
from halfeven.options import all_options, make_steps
from halfeven.report.inspection import inspect_draft
from halfeven.run import torch as from_torch
from halfeven.run.torch_keras import is_keras
from halfeven.run.torch_weights import buffers, dropouts, learned, momenta, tensors_of
from halfeven.targets.check import refuse
from halfeven.wording import counted

if TYPE_CHECKING:
    from halfeven.report.conform import Conformity
    from halfeven.training.arguments import Arguments
    from halfeven.training.network import QuantizedNetwork

SKIPPED = ("equalize", "gptq", "absorb", "correct")  # they choose weights, which training does
RENEWED = (
    "the plan's scales are of equalized channels, and training leaves channels as they are: the scales are taken anew "
    "from the data, all else is as the plan has it"
)
FOLDED = """it was folded into its layer. Prepare with batchnorm='krishnamoorthi', and let no other scale or shift \
stand between a layer and its normalization."""
TRAINED = ("static", "weight-only")
STATIC = "training is of static plans, whose activations have scales from data, or of weights alone."
SAMPLES = 8
"""How many samples `conform` runs if nothing else is said."""


def prepare(
    model: api.Model,
    example_inputs: Any = None,
    *,
    data: Any = None,
    target: str | None = None,
    plan: Plan | str | Path | None = None,
    batchnorm: str = "krishnamoorthi",
    scales: str = "log",
    learn_zero_point: bool = False,
    method: str = "lsq",
    rounding: str = "file",
    weight_bits: int | str | None = None,
    activation_bits: int | None = None,
    first_and_last: int | None = None,
    progress: Progress = no_progress,
    **options: Any,
) -> QuantizedNetwork:
    """A network to train, from a module, an ONNX model or a path.

    Args:
        model: torch.nn.Module or Keras model (then with `example_inputs`), path or ONNX model.
        example_inputs: What the module's forward takes; without `data` the ranges are calibrated with it.
        data: To calibrate with, as for `quantize`.
        target: Name of the target.
        plan: A plan to follow, calibrated or not, such as that of `search`, whose weights have bits of their own.
            Scales of equalized channels are taken anew from the data, as training leaves channels as they are.
        batchnorm: "krishnamoorthi", "jacob" or "frozen" keep BatchNormalization alive, as
            `training.batchnorm` says; "folded" trains the folded weights.
        scales: "log" trains the logarithm of each scale, "linear" the scale itself (LSQ as published; give it a rate of
            its own), "fixed" leaves them as calibrated, "moving" follows the ranges of what passes.
        learn_zero_point: Train zero points too (LSQ+).
        method: "lsq", or what `training.methods` has: "pact", "dorefa", "dsq", "stochastic", joined by "+".
        rounding: Whose rule breaks the ties of feature maps: "file", as the exported ONNX has it, half to even; or
            "device", as the target rounds. `network.rounding` changes it at any time; the exported file is the same.
        weight_bits: Of the inner layers: 2 to 16; 1 or "binary", "ternary" or "log2"; None: as the target has them.
        activation_bits: Between them: 2 to 16, or None.
        first_and_last: Bits of the first and the last layer, and of what the first one reads, and the last; or None.
        progress: Called with (task, done, total).
        options: Those of the steps, as for `quantize`; `prefer` is "size" if not given: all is quantized that can be.

    Returns:
        The network; its `notes` say what `quantize` would: what stays float, what the data lack.

    Raises:
        QuantError: one of its children says what is wrong with model, data or options.
    """
    from halfeven.training.origin import network_of

    if batchnorm not in (kinds := ("krishnamoorthi", "jacob", "frozen", "folded")):
        raise BadOption(f"batchnorm {batchnorm!r}: choose one of {', '.join(kinds)}.")
    if rounding not in ("file", "device"):
        raise BadOption(f"rounding {rounding!r}: choose 'file' or 'device'.")
    if scales not in ("log", "linear", "fixed", "moving"):
        raise BadOption(f"scales {scales!r}: choose one of log, linear, fixed, moving.")
    if not isinstance(learn_zero_point, bool):
        raise BadOption(f"learn_zero_point {learn_zero_point!r}: expected true or false.")
    if (mode := options.get("mode", "static")) not in TRAINED:
        raise BadOption(f"mode {mode!r}: {STATIC} Leave mode out; `quantize` needs no training for it.")
    bits = Bits(weight_bits, activation_bits, first_and_last)
    source, said = float_model(model, example_inputs)
    takes, example = _taken(model, example_inputs, source)
    given = [example] if data is None and example is not None else _flattened(data, takes)
    plan, renewed = _of_channels_as_they_are(plan)
    returns = _returned(model, example_inputs, source)
    result = api.quantize(
        source,
        given,
        target=target,
        plan=plan,
        verify=False,
        skip=SKIPPED,
        progress=progress,
        **({} if plan is not None else {"prefer": "size"}) | options,
    )
    if anew := [quantizer.reason for quantizer in result.plan.groups.values() if quantizer.method == DYNAMIC]:
        raise BadOption(f"The plan has activations whose scales each run finds ({anew[0]}): {STATIC}")
    draft, codes = _in_bits(result.draft, bits, options, progress)
    network = network_of(
        draft,
        source,
        batchnorm=batchnorm,  # type: ignore[arg-type]
        scales=scales,  # type: ignore[arg-type]
        learn_zero_point=learn_zero_point,
        method=method,
        codes=codes,
        rounding=rounding,  # type: ignore[arg-type]
        parameters=learned(model).keys() - buffers(model) if from_torch.is_module(model) else (),
    )
    network.takes, network.returns = takes, returns
    frozen = _keep_frozen(network, model, source)
    network.notes = (*said, *renewed, *result.notes, *_floats(result.draft), *network.notes, *frozen)
    return network


def _of_channels_as_they_are(plan: Plan | str | Path | None) -> tuple[Plan | None, tuple[str, ...]]:
    """The plan, without its scales if they are of equalized channels; and what is to be said of that."""
    plan = Plan.load(plan) if isinstance(plan, str | Path) else plan
    if plan is None or not plan.scaling:
        return plan, ()
    return plan.uncalibrated(), (RENEWED,)


def _in_bits(
    draft: Draft, bits: Bits, options: Mapping[str, Any], progress: Progress
) -> tuple[Draft, dict[int, QParams[Grid]]]:
    """The draft that the file is made of, and the parameters of groups whose codes in training are of fewer bits."""
    codes: dict[int, QParams[Grid]] = {g: p for g, q in draft.plan.groups.items() if q.bits and (p := q.rounding)}
    if bits == Bits():
        return draft, codes
    if codes and (bits.weights, bits.outer) != (None, None):
        raise BadOption("weight_bits and first_and_last: the plan says the bits of its weights. Leave them out.")
    model, before = draft.model, draft.plan
    changed = with_bits(model, before, bits)
    fields = {name: value for name, value in options.items() if name in all_options()}
    after = make_steps(fields)["calibrate"](replace(draft, plan=changed), (), progress).plan
    inner, special = parts_of(model, before).weights, WEIGHT_CODES.get(bits.weights or 0)
    for group, quantizer in after.groups.items():
        grid = special if special is not None and group in inner else quantizer.scheme.grid
        old = before.groups[group].scheme.grid
        if quantizer.role == "bias" or grid == old:
            continue
        if isinstance(grid, IntGrid) and grid.bits > old.bits:
            before = before.with_group(group, quantizer)
        elif quantizer.role == "weight":
            codes[group] = weight_params(model, after, group, grid)
        elif quantizer.params is not None:
            codes[group] = quantizer.params
    refuse(draft.target, model, before)
    return replace(draft, plan=before), codes


def export(trained: Draft | QuantizedNetwork, path: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Write a calibrated draft or a trained network: as `api.export` does, whose arguments and errors these are.

    Of a network, what is returned begins with the quantizers whose scales training has driven to nothing.
    """
    if isinstance(trained, Draft):
        return api.export(trained, path, format)
    draft = draft_of_trained(trained)
    return (*draft.notes, *api.export(draft, path, format))


def conform(
    model: api.Model | Draft | QuantizedNetwork,
    data: Any = None,
    runtimes: Sequence[str] = ("onnxruntime", "litert"),
    *,
    preprocess: Any = None,
    labels: Any = None,
    limit: int | None = SAMPLES,
    progress: Progress = no_progress,
) -> Conformity:
    """Run a quantized network in runtimes, and each beside the simulator of its arithmetic, integer by integer.

    Args:
        model: ONNX with QuantizeLinear and DequantizeLinear or its path, a calibrated draft, or a trained network.
        data: As for `quantize`.
        runtimes: Of "onnxruntime", "litert" (or one set of its kernels: "litert@xnnpack", "litert@optimized-x86", on
            Arm "litert@xnnpack-arm64", "litert@optimized-arm64"; "litert@reference"), "tflite-micro", "c" (compiled
            here), "openvino", "ncnn", "executorch". Each is given the file that `export` writes.
        preprocess: As for `quantize`.
        labels: As for `quantize`; the outputs of each runtime are then counted as right or wrong.
        limit: Use at most so many samples.
        progress: Called with (task, done, total).

    Returns:
        Of each of `runtimes` the integers compared and those that differ, the first place, and a `sentence`.

    Raises:
        BadOption: there is no such runtime. One that is not installed, or cannot take the network, is `refused`.
    """
    from halfeven.report.conform import conform as run_beside

    trained = from_torch.is_module(model)
    held = draft_of_trained(model) if trained else model if isinstance(model, Draft) else load(model)
    source = held.model if isinstance(held, Draft) else held
    feed = open_data(source, data, {"preprocess": preprocess, "labels": labels, "limit": limit}, held_out=False)
    return run_beside(held, list(feed.calibration), runtimes, labels=feed.labels, progress=progress)


def restore(module: Any, network: QuantizedNetwork) -> Any:
    """Give the weights of a trained network back to the module it was made from; returns the module.

    Running statistics and their counts of batches are given back too. A parameter that forward does not use stays.

    Raises:
        BadOption: a parameter of the module was folded into another, or has another shape, or what was trained has no
            place in the module. Then the module is as before.
    """
    from halfeven.training.origin import moved, network_in
    from halfeven.training.pytorch import torch

    own, inner = tensors_of(module), network_in(network)
    trained, renamed = inner.weights(), inner.renamed
    trained |= {name: trained.pop(there) for name, there in renamed.items() if there in trained}
    there = trained.keys() | inner.unused | inner.fixed.names()  # a bound of Clip, say, is as it was
    missing = [name for name, tensor in own.items() if isinstance(tensor, torch.nn.Parameter) and name not in there]
    if missing:
        first = next((name for name in missing if name in inner.lacking), missing[0])
        why = "give the module that the network was prepared from."
        if first in inner.lacking:
            why = FOLDED if momenta(module) else "it was folded into another tensor, and not trained as it is."
        raise BadOption(f"'{first}' of the module is not in the trained network (one of {len(missing)}): {why}")
    if homeless := sorted(moved(inner) - own.keys() - set(renamed.values())):
        raise BadOption(
            f"'{homeless[0]}' was trained (one of {len(homeless)}), and the module has no such tensor, so it would "
            "compute something else. Give the module that the network was prepared from."
        )
    for name in own.keys() & trained.keys():
        if own[name].shape != trained[name].shape:
            raise BadOption(f"'{name}' has shape {tuple(own[name].shape)}, trained {tuple(trained[name].shape)}.")
    with torch.no_grad():
        for name in own.keys() & trained.keys():
            own[name].copy_(trained[name])
    return module


def float_model(model: api.Model, example_inputs: Any) -> tuple[ir.Model, tuple[str, ...]]:
    """The float model as ONNX, and what making it for training has to say."""
    source, notes = read_given(model, example_inputs)
    if not from_torch.is_module(model) or not (dropped := dropouts(model)):
        return source, notes
    more = f" and {counted(len(dropped) - 1, 'other part')}" if len(dropped) > 1 else ""
    said = "the network drops nothing in training, as the exported graph drops nothing: dropout of"
    return source, (*notes, f"{said} '{dropped[0]}'{more}")


def _keep_frozen(network: QuantizedNetwork, model: api.Model, source: ir.Model) -> tuple[str, ...]:
    """Keep out of training what the module, if it is one, keeps out, and say so."""
    if not from_torch.is_module(model):
        return ()
    from halfeven.training.frozen import follow, freeze

    follow(network, momenta(model))
    own, constants = learned(model), _constants(source)
    others = {name.rpartition("_")[0]: name for name in constants - own.keys() if name.rpartition("_")[2].isdigit()}
    network.renamed = {name: others[name] for name in own.keys() - constants if name in others}
    network.unused = frozenset(own.keys() - constants - network.renamed.keys())
    others_of = network.renamed.values()
    return freeze(network, own, constants, renamed=others_of, buffers=buffers(model), norms=is_keras(model))


def _constants(source: ir.Model) -> set[str]:
    """The names of the constants of a model as it was given."""
    names = {name for graph in source.graphs() for name in graph.initializers}
    made = (
        value.name or "" for node in source.graph.all_nodes() if node.op_type == "Constant" for value in node.outputs
    )
    return names | set(made)


def _floats(draft: Draft) -> tuple[str, ...]:
    """Which nodes stay float in training as in the file, and why; of those that compute with numbers."""
    reasons = [reason for reason in inspect_draft(draft).reasons() if not reason[1].startswith("shape and index")]
    return tuple(f"{counted(n, 'node')} in float, in training too: {why} ({some})" for n, why, some in reasons)


def _taken(model: api.Model, example_inputs: Any, source: ir.Model) -> tuple[Arguments | None, Any]:
    """How a module is called, if not simply with its tensors; and the example as data."""
    if not from_torch.is_module(model):
        return None, example_inputs
    from halfeven.training.arguments import Arguments, Input

    names = [value.name or "" for value in source.graph.inputs]
    signature, nests, tensors = from_torch.arguments_of(model, example_inputs, [Input(name) for name in names])
    takes = Arguments.of(signature, nests)
    if takes.flat(names):
        return None, example_inputs
    return takes, dict(zip(names, tensors, strict=True))


def _flattened(data: Any, takes: Arguments | None) -> Any:
    """Data whose samples may be given as calls of the module, by the names of the graph's inputs."""
    if takes is None or not isinstance(data, list | tuple):
        return data
    return [takes.sample(item) for item in data]


def _returned(model: api.Model, example_inputs: Any, source: ir.Model) -> Any:
    """What a module returns, the name of an output in the place of each tensor; None of what is no module."""
    if not from_torch.is_module(model):
        return None
    names = [value.name or "" for value in source.graph.outputs]
    return from_torch.structure_of(model, example_inputs, names)


def draft_of_trained(network: Any) -> Draft:
    """The draft that a trained network, or what a wrapper holds, is exported as; errors as of `training.origin`."""
    from halfeven.training.origin import draft_of, network_in

    return draft_of(network_in(network))
