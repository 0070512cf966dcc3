"""Quantized networks on their way to runtimes: opened from what others wrote, compared, and ready to be exported.

draft = halfeven.open_quantized("theirs.onnx")                        a QDQ model, by whatever tool
draft = halfeven.open_quantized("model.onnx", plan="encodings.json")  a float model and scales made elsewhere
notes = halfeven.export(draft, "model.tflite")
found = halfeven.compare("ours.onnx", "theirs.onnx", model="model.onnx", data="photos/")
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from halfeven.draft import Draft, Progress, no_progress, pipeline
from halfeven.errors import BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.formats import FORMATS, target_of
from halfeven.exporters.onnx import to_qdq
from halfeven.feeding import open_data
from halfeven.graph.constants import lift_constants
from halfeven.graph.names import name_everything
from halfeven.graph.plan import Plan, changes
from halfeven.graph.prepare import inline_functions, prepare
from halfeven.importers.biases import biases_as_target_takes
from halfeven.importers.formats import import_plan, sniff
from halfeven.importers.models import read_as_stored, read_model
from halfeven.importers.qdq import draft_of
from halfeven.importers.shifting import as_target_takes
from halfeven.options import check_setting
from halfeven.report.differences import Comparison, gathered, measured, outputs_of, whole_sqnr
from halfeven.report.file_names import as_source, fed_as, named_as
from halfeven.run.ort import OrtExecutor
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.trace import Trace
from halfeven.targets import TARGETS, target_named
from halfeven.targets.target import Target
from halfeven.wording import counted

WHOLE = ("qdq", "tflite")
"""Formats that hold the network too."""

SAMPLES = 8
"""How many samples a comparison runs if nothing else is said."""


def open_quantized(
    model: str | Path | ir.Model,
    plan: Plan | str | Path | None = None,
    *,
    target: str | None = None,
    format: str | None = None,
    data: Any = None,
    preprocess: Any = None,
) -> Draft:
    """A draft, with scales pinned, of a QDQ model, or of a float model and a plan made elsewhere.

    Args:
        model: With `plan` the float model, else ONNX with QuantizeLinear and DequantizeLinear.
        plan: A plan, or a file of any format in `halfeven.importers.formats`. Weights that it gives no scale get that
            of their own range.
        target: Name of the target; by default the one the model says it was made for, or that of `format`.
        format: What the draft will be exported to.
        data: One sample of it tells how long open axes are, where the format must know; a synthetic one if not given.
        preprocess: As for `quantize`.

    Raises:
        UnsupportedModel: the model cannot be read, or has no quantization in it.
        BadOption: the plan cannot be read, is of another model, or of an equalized one.
    """
    loaded, notes = read_as_stored(model) if plan is None else read_model(model)
    chosen = _target(loaded, target, format)
    if plan is None:
        return _traced(_fitted(draft_of(loaded, chosen).noting(*notes)), format, data, preprocess)
    draft, missing = _followed(loaded, plan, chosen)
    if missing:
        raise BadOption(f"--plan: the model has no {missing[0]}. The plan is of another model or version of it.")
    if draft.plan.scaling:
        raise BadOption(
            "--plan: its scales belong to the network with equalized channels, which the float model is not. Export "
            "the quantized ONNX file, or make the plan with --skip equalize."
        )
    lacking = [q for q in draft.plan.groups.values() if q.params is None and q.role == "weight"]
    draft = _fitted(pipeline(Calibrate())(draft) if lacking else draft)
    return _traced(draft, format, data, preprocess)


def _traced(draft: Draft, format: str | None, data: Any, preprocess: Any) -> Draft:
    """The draft with the shapes that one sample gives, where the format needs them and the model leaves them open."""
    inputs = [v for v in draft.model.graph.inputs if v.name not in draft.model.graph.initializers]
    whole = all(v.shape is not None and all(isinstance(d, int) for d in v.shape) for v in inputs)
    if data is None and (whole or format is None or FORMATS[format].suffix == ".onnx"):
        return draft
    feed = open_data(draft.model, data, {"preprocess": preprocess, "limit": 1}, held_out=False)
    draft = pipeline(Trace())(draft, feed.calibration)
    shapes = ", ".join(f"'{name}' {list(draft.shapes[name])}" for v in inputs if (name := v.name or "") in draft.shapes)
    said = "" if data is not None else "; --data gives others"
    return draft.noting(f"inputs have the lengths of one sample: {shapes}{said}")


def _fitted(draft: Draft) -> Draft:
    """The draft with codes of the sign that its target takes, and biases of the kind."""
    plan, count = as_target_takes(draft.plan, draft.target)
    model, plan, said = biases_as_target_takes(draft.model, plan, draft.target)
    if count:
        groups = counted(count, "scale")
        note = f"{groups} moved between unsigned and signed codes, zero points with them: the values are the same"
        said = [note, *said]
    return replace(draft, model=model, plan=plan).noting(*said)


def compare(
    a: str | Path | Plan,
    b: str | Path | Plan,
    *,
    model: str | Path | ir.Model | None = None,
    data: Any = None,
    target: str | None = None,
    preprocess: Any = None,
    limit: int | None = None,
    progress: Progress = no_progress,
) -> Comparison:
    """What differs between two quantizations of a network; with a float `model` and `data` also what that costs.

    Args:
        a: A plan, or a file of any format in `halfeven.importers.formats`.
        b: Another.
        model: The float model; some formats cannot be read without.
        data: As for `quantize`; each difference is measured on `limit` samples, by default 8.
        target: Whose table names the schemes that files leave open; "onnxruntime" by default.
        preprocess: As for `quantize`.
        limit: Use at most so many samples.
        progress: Called as (task, done, total or None).

    Raises:
        BadOption, UnsupportedModel: a file cannot be read, or does not fit the model.
        BadCalibration: the data do not fit the model.
    """
    if data is not None and model is None:
        raise BadOption("To measure what differences cost, give the float model too (--model).")
    source = None if model is None else read_model(model)[0]
    chosen = target_named(str(check_setting("target", target) or next(iter(TARGETS))))
    floats = [] if source is None else [_named(source), prepare(source)[0]]
    opened = [_side(one, floats, chosen) for one in (a, b)]
    plans = [side.plan for side, _ in opened]
    stored = [_of_file(one) for one in (a, b)]
    for i in range(2):
        plans[i] = named_as(plans[i], plans[1 - i]) if stored[i] else plans[i]
    tells = [tells for _, tells in opened]
    nodes = set[str].intersection(*({node.name or "" for node in side.model.graph.all_nodes()} for side, _ in opened))
    told = nodes if all(tells) and stored[0] != stored[1] else None
    found = [
        c
        for c in changes(plans[0], plans[1])
        if c.kind != "node" or (all(tells) and _fate(c.where, plans) and (told is None or c.where in told))
    ]
    differences, notes = gathered(found), [n for side, _ in opened for n in side.notes]
    names = _shown(a, "a"), _shown(b, "b")
    places = len(set(plans[0].sites) | set(plans[1].sites))
    if data is None or source is None:
        return Comparison(names, places, tuple(differences), notes=tuple(dict.fromkeys(notes)))
    settings = {"preprocess": preprocess, "limit": check_setting("limit", limit) or SAMPLES}
    feed = open_data(source, data, settings, held_out=False)
    samples = list(feed.calibration)
    reference = outputs_of(source, samples)
    sides = opened[0][0], opened[1][0]
    whole = tuple(_whole(side, reference, samples, source if own else None)
                  for side, own in zip(sides, stored, strict=True))  # fmt: skip
    fed = [fed_as(side.model, source, samples) if own else samples for side, own in zip(sides, stored, strict=True)]
    ranked = measured(differences, sides, floats, (fed[0], fed[1]), progress)
    if unknown := sum(one.cost is None and one.kinds != ("node",) for one in ranked):
        notes.append(
            f"{counted(unknown, 'difference')} could not be measured alone: no scale, or weights that are not those of "
            "the float model (equalized, or with BatchNormalization folded in another way)"
        )
    said = tuple(dict.fromkeys([*notes, *feed.said()]))
    return Comparison(names, places, tuple(ranked), (whole[0], whole[1]), len(samples), said)


def _fate(node: str, plans: Sequence[Plan]) -> bool:
    """Whether a node is float in one plan alone: the reasons may be worded in two ways."""
    return (node in plans[0].floats) != (node in plans[1].floats)


def _target(model: ir.Model, target: str | None, format: str | None) -> Target:
    if target is not None:
        return target_named(str(check_setting("target", target)))
    made_for = model.metadata_props.get("halfeven.target", "")
    if format is None and made_for in TARGETS:
        return TARGETS[made_for]
    return TARGETS[target_of(format or "qdq", made_for)]


def _named(model: ir.Model) -> ir.Model:
    """The model as it is, but with constants lifted and everything named."""
    copy = model.clone()
    inline_functions(copy)
    name_everything(copy)
    lift_constants(copy)
    return copy


def _followed(model: ir.Model, plan: Plan | str | Path, target: Target) -> tuple[Draft, list[str]]:
    """The plan on whichever form of the model has more of its places, and what is missing there."""
    best: tuple[Draft, list[str]] | None = None
    refused: UnsupportedModel | None = None
    for form in (prepare(model)[0], _named(model)):
        try:
            read = plan if isinstance(plan, Plan) else import_plan(plan, form, target)
        except UnsupportedModel as error:  # names what this form lacks; the other may have it
            refused = refused or error
            continue
        missing = _missing(form, read)
        if best is None or len(missing) < len(best[1]):
            best = Draft(form, target, read), missing
    if best is None:
        assert refused is not None
        raise refused
    return best


def _missing(model: ir.Model, plan: Plan) -> list[str]:
    nodes = {node.name for node in model.graph.all_nodes()}
    values = {v.name for n in model.graph for v in n.outputs} | {v.name for v in model.graph.inputs}
    values |= set(model.graph.initializers)
    return [str(s) for s in sorted(plan.sites) if s.value not in values or (s.consumer and s.consumer not in nodes)]


def _side(given: str | Path | Plan, floats: Sequence[ir.Model], target: Target) -> tuple[Draft, bool]:
    """One of two to compare, and whether it tells which nodes stay float."""
    kind = "plan" if isinstance(given, Plan) else sniff(given)
    if kind in WHOLE:
        stored = read_as_stored(given)[0]
        try:
            return draft_of(stored, target), True
        except UnsupportedModel as error:
            raise UnsupportedModel(f"'{given}': {error}") from error
    if not floats:
        plan = given if isinstance(given, Plan) else import_plan(given, None, target, kind)
        return Draft(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10), target, plan), kind == "plan"
    draft, missing = _followed(floats[0], given, target)
    sites = {site: g for site, g in draft.plan.sites.items() if str(site) not in set(missing)}
    notes = []
    if missing:
        notes.append(f"'{given}': {counted(len(missing), 'place')} not in the model, the first being {missing[0]}")
    if draft.plan.scaling:
        notes.append(f"'{given}': its scales belong to equalized channels; on the model given they fit less well")
    return replace(draft, plan=replace(draft.plan, sites=sites)).noting(*notes), kind == "plan"


def _whole(side: Draft, reference: Any, samples: Any, source: ir.Model | None) -> float | None:
    """SQNR of all of a side at once, of a file's as the float model `source` is called; None: it cannot be written."""
    lenient = replace(side, target=replace(side.target, rules=(), takes=()))
    try:
        written = to_qdq(lenient)
        run = OrtExecutor(written) if source is None else as_source(written, source)
        return whole_sqnr(reference, run, samples)
    except UnsupportedByTarget:
        return None


def _of_file(given: object) -> bool:
    """Whether a side is a .tflite file, whose names and layouts are its own."""
    return isinstance(given, (str, Path)) and sniff(given) == "tflite"


def _shown(given: object, name: str) -> str:
    return Path(given).name if isinstance(given, (str, Path)) else name
