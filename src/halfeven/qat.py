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
from halfeven.graph.plan import Plan
from halfeven.graph.weight_codes import WEIGHT_CODES, weight_params
from halfeven.importers.modules import read_given
from halfeven.numerics.grid import Grid, IntGrid
from halfeven.numerics.scheme import QParams
from halfeven.options import all_options, make_steps
from halfeven.run import torch as from_torch
from halfeven.run.torch_keras import is_keras
from halfeven.run.torch_weights import dropouts, learned, tensors_of
from halfeven.targets.check import refuse
from halfeven.wording import counted

if TYPE_CHECKING:
    from halfeven.report.conform import Conformity
    from halfeven.training.network import QuantizedNetwork

SKIPPED = ("equalize", "gptq", "absorb", "correct")  # they choose weights, which training does
RENEWED = (
    "the plan's scales are of equalized channels, and training leaves channels as they are: the scales are taken anew "
    "from the data, all else is as the plan has it"
)
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
        plan: A plan to follow, calibrated or not. Scales of equalized channels are taken anew from the data, as
            training leaves channels as they are.
        batchnorm: "krishnamoorthi", "jacob" or "frozen" keep BatchNormalization behind a convolution alive, as
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
    bits = Bits(weight_bits, activation_bits, first_and_last)
    given = [example_inputs] if data is None and example_inputs is not None else data
    source, said = float_model(model, example_inputs)
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
    )
    network.returns = returns
    network.notes = (*said, *renewed, *result.notes, *network.notes, *keep_frozen(network, model, source))
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
    if bits == Bits():
        return draft, {}
    model, before = draft.model, draft.plan
    changed = with_bits(model, before, bits)
    fields = {name: value for name, value in options.items() if name in all_options()}
    calibrate = make_steps(fields)["calibrate"]
    after = calibrate(replace(draft, plan=changed), (), progress).plan
    codes: dict[int, QParams[Grid]] = {}
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
    settings = {"preprocess": preprocess, "labels": labels, "limit": limit}
    feed = open_data(source, data, settings, held_out=False)
    return run_beside(held, list(feed.calibration), runtimes, labels=feed.labels, progress=progress)


def restore(module: Any, network: QuantizedNetwork) -> Any:
    """Give the weights of a trained network back to the module it was made from; returns the module.

    Raises:
        BadOption: a parameter of the module was folded into another, or has another shape.
    """
    from halfeven.training.origin import network_in
    from halfeven.training.pytorch import torch

    own, trained = tensors_of(module), network_in(network).weights()
    lost = [name for name, tensor in own.items() if isinstance(tensor, torch.nn.Parameter) and name not in trained]
    if lost:
        raise BadOption(
            f"'{lost[0]}' of the module is not in the trained network (one of {len(lost)}): it was folded into its "
            "layer. Prepare with batchnorm='krishnamoorthi', and from this module."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            if name in trained:
                if tensor.shape != trained[name].shape:
                    raise BadOption(f"'{name}' has shape {tuple(tensor.shape)}, trained {tuple(trained[name].shape)}.")
                tensor.copy_(trained[name])
    return module


def float_model(model: api.Model, example_inputs: Any) -> tuple[ir.Model, tuple[str, ...]]:
    """The float model as ONNX, and what making it for training has to say."""
    source, notes = read_given(model, example_inputs)
    if not from_torch.is_module(model) or not (dropped := dropouts(model)):
        return source, notes
    more = f" and {counted(len(dropped) - 1, 'other part')}" if len(dropped) > 1 else ""
    said = "the network drops nothing in training, as the exported graph drops nothing: dropout of"
    return source, (*notes, f"{said} '{dropped[0]}'{more}")


def keep_frozen(network: QuantizedNetwork, model: api.Model, source: ir.Model) -> tuple[str, ...]:
    """Keep out of training what the module, if it is one, keeps out, and say so."""
    if not from_torch.is_module(model):
        return ()
    from halfeven.training.frozen import freeze

    return freeze(network, learned(model), set(source.graph.initializers), norms=is_keras(model))


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
