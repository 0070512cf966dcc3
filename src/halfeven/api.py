"""The jobs: quantize, calibrate, inspect, verify, as one call each.

    result = halfeven.quantize("mobilenet_v2.onnx", data="photos/", preprocess="imagenet")
    print(result.summary())
    result.save("mobilenet_v2.int8.onnx")

Experts put steps together themselves: `load`, `pipeline(Simplify(), Trace(), Place(), ...)`, `export`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import onnx_ir as ir

from halfeven.draft import Draft, Progress, no_progress, pipeline
from halfeven.errors import BadCalibration, BadOption, UnsupportedByTarget, UnsupportedModel
from halfeven.exporters.formats import exporter_named, format_of, target_of
from halfeven.exporters.interface import integer_interface
from halfeven.exporters.onnx import to_qdq
from halfeven.feeding import Feed, open_data
from halfeven.graph import model as files
from halfeven.graph.plan import Plan
from halfeven.graph.widen import widened
from halfeven.importers.models import read_model
from halfeven.importers.modules import read_given
from halfeven.options import check_setting, make_steps, ordered_steps, read_config
from halfeven.report.colors import suspect_colors
from halfeven.report.comparable import unverified
from halfeven.report.inspection import Inspection, inspect_draft
from halfeven.report.own_float import own_float
from halfeven.report.verify import Verification, compare_file, compare_models
from halfeven.result import Result
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import bytes_of, open_file, runtime_of
from halfeven.run.specs import external_files, file_size, model_digest
from halfeven.stats.observation import Observation
from halfeven.stats.record import Record
from halfeven.steps.pictures import PinBytes, with_pictures
from halfeven.targets import target_named
from halfeven.version import __version__
from halfeven.wording import counted

Model: TypeAlias = "str | Path | ir.Model | Any"
SETTINGS = ("target", "preprocess", "labels", "holdout", "limit", "io", "format", "skip", "seed")


def load(model: Model, target: str = "onnxruntime", example_inputs: Any = None) -> Draft:
    """A draft of a float model: a path (.onnx, .tflite), an onnx.ModelProto, an onnx_ir.Model, a module with inputs."""
    read, notes = read_given(model, example_inputs)
    return Draft(read, target_named(target)).noting(*notes)


def export(draft: Draft, path: str | Path, format: str | None = None) -> tuple[str, ...]:
    """Write a calibrated draft in a format of `halfeven.exporters.formats`; by default that of the suffix (.onnx: qdq).

    Returns:
        Sentences on what was converted, left in float or left out.

    Raises:
        BadOption: the suffix tells no format, or the file cannot be written.
        UnsupportedByTarget: the target or the format cannot hold the draft's plan; nothing is written.
    """
    return exporter_named(format_of(path, format))(draft, Path(path))


def quantize(
    model: Model,
    data: Any = None,
    *,
    target: str | None = None,
    preprocess: Any = None,
    labels: Any = None,
    holdout: Any = None,
    limit: int | None = None,
    example_inputs: Any = None,
    config: str | Path | None = None,
    plan: Plan | str | Path | None = None,
    stats: Record | str | Path | None = None,
    io: str | None = None,
    format: str | None = None,
    skip: Sequence[str] | None = None,
    seed: int | None = None,
    verify: bool = True,
    progress: Progress = no_progress,
    **options: object,
) -> Result:
    """Quantize a float model.

    Args:
        model: Path, ONNX model, or torch.nn.Module or Keras model (then with `example_inputs`).
        data: Folder of pictures or recordings, .npz, .npy, text file of paths, arrays, an iterable or DataLoader.
            None: synthetic samples; the notes say so.
        target: Name of the target (`halfeven.TARGETS`); "onnxruntime" if neither this nor `config` says.
        preprocess: Preset or options for pictures, for instance "imagenet" (see `data.preprocess`).
        labels: Classes of the samples, where the data do not carry them.
        holdout: Other data to verify with; without it a fifth of `data`, up to 32 samples, is held out.
        limit: Use at most so many samples.
        example_inputs: For a torch module: what its forward takes.
        config: TOML file with the same options.
        plan: A plan to follow instead of placing: its groups, schemes and pinned parameters.
        stats: Statistics from `calibrate`, to calibrate without data or with less.
        io: "float" (the default), "uint8" or "int8": type of the model's floating-point inputs and outputs.
        format: The format that the result is meant for; it chooses the target where none is named.
        skip: Optional steps to leave out: "equalize", "gptq"; without data also "absorb", "expect", "correct".
        seed: Of synthetic samples; 0 by default.
        verify: Compare with the float model at the end; a note says where ONNX Runtime cannot, for want of bfloat16.
        progress: Called as (task, done, total or None).
        **options: Fields of the steps, such as calibrate="mse", keep_float=("head/*",), prefer="size".

    Raises:
        QuantError: one of its children says what is wrong with model, data or options.
    """
    given = {
        "target": target,
        "preprocess": preprocess,
        "labels": labels,
        "holdout": holdout,
        "limit": limit,
        "io": io,
        "format": format,
        "skip": skip,
        "seed": seed,
    }
    settings, chosen = _configured(config, given, options)
    draft = load(model, str(settings["target"]), example_inputs)
    reads, asked = frozenset(external_files(draft.model)), settings
    draft, settings, inside = with_pictures(draft, settings)
    source, floating = draft.model, OrtExecutor(_runnable(draft.model))
    feed = open_data(draft.model, data, settings, held_out=verify, measured=stats is not None)
    draft = _with_record(draft, stats, model_digest(draft.model))
    steps = ordered_steps(chosen, tuple(settings["skip"]), plan, data=data is not None, stats=stats is not None)
    if inside:
        steps.insert([step.name for step in steps].index("match tensors"), PinBytes())
    given_stats = draft.stats
    draft = pipeline(*steps)(draft, feed.calibration, progress)
    _refuse_noise(draft, given_stats if data is None and stats is not None else draft.stats)
    if chosen.get("mode") != "float" or chosen.get("float_dtype", "fp32") == "fp32":
        _refuse_nothing(draft)
    quantized = to_qdq(draft)
    verification = None
    if verify:
        sizes = file_size(model if isinstance(model, str | Path) else source, reads), file_size(quantized)
        told: dict[str, Any] = {"sizes": sizes, "labels": feed.labels, "signed": _signed(draft), "progress": progress}
        try:
            verification = compare_models(floating, quantized, feed.held_out, **told)
        except UnsupportedModel as error:
            draft = draft.noting(unverified(quantized, error))
    quantized = integer_interface(quantized, draft, str(settings["io"]), pictures=bool(inside))
    quantized.metadata_props.update(_provenance(draft, {**settings, "preprocess": asked["preprocess"]}, chosen, feed))
    order = "RGB" if feed.preprocess is None else feed.preprocess.color
    colors = suspect_colors(floating, feed.calibration, order) if feed.colored else ()
    said = (*inside, *draft.notes, *feed.said(), *colors)
    return Result(draft, quantized, verification, tuple(dict.fromkeys(said)), _name(model), reads, str(settings["io"]))


def calibrate(
    model: Model,
    data: Any,
    *,
    target: str | None = None,
    preprocess: Any = None,
    limit: int | None = None,
    example_inputs: Any = None,
    config: str | Path | None = None,
    stats: Record | str | Path | None = None,
    progress: Progress = no_progress,
    **options: object,
) -> Record:
    """Statistics of every tensor that would be quantized, for all estimators at once; arguments as for `quantize`.

    `stats`: a record made elsewhere whose channel ranges are taken over, so that both can be merged.
    """
    settings, chosen = _configured(config, {"target": target, "preprocess": preprocess, "limit": limit}, options)
    draft = load(model, str(settings["target"]), example_inputs)
    feed = open_data(draft.model, data, settings, held_out=False)
    digest = model_digest(draft.model)
    if stats is not None:
        taken = _with_record(draft, stats, digest)
        draft = replace(draft, shapes=taken.shapes, sizes=taken.sizes, channels=taken.channels)
    steps = make_steps({**chosen, "observe_moments": 0})
    for name in ("simplify", "trace", "place", "equalize", "observe"):  # one by one: each frees the model before it
        draft = pipeline(steps[name])(draft, feed.calibration, progress)
    count = next((o.moving.samples for o in draft.stats.values() if o.moving is not None), feed.calibration.passed)
    return Record(digest, (feed.digest,), count, draft.stats, draft.channels, draft.shapes, draft.sizes, draft.scaling)


def inspect(
    model: Model,
    data: Any = None,
    *,
    target: str | None = None,
    preprocess: Any = None,
    example_inputs: Any = None,
    config: str | Path | None = None,
    progress: Progress = no_progress,
    **options: object,
) -> tuple[Inspection, Draft]:
    """What would be quantized, what would stay float and why; without data the shapes of a synthetic sample."""
    settings, chosen = _configured(config, {"target": target, "preprocess": preprocess}, options)
    draft = load(model, str(settings["target"]), example_inputs)
    feed = open_data(draft.model, data, {**settings, "limit": 1}, held_out=False)
    steps = make_steps(chosen)
    draft = pipeline(steps["simplify"], steps["trace"], steps["place"])(draft, feed.calibration, progress)
    return inspect_draft(draft), draft


def verify(
    model: Model,
    quantized: Model,
    data: Any,
    *,
    preprocess: Any = None,
    labels: Any = None,
    limit: int | None = None,
    progress: Progress = no_progress,
) -> Verification:
    """Compare a float model and a quantized one on data; arguments as for `quantize`.

    `quantized` may be a file of another runtime (`halfeven.run.runtimes`), where it is run.
    """
    first, runtime = read_model(model)[0], runtime_of(quantized)
    settings, told = {"preprocess": preprocess, "labels": labels, "limit": limit}, dict[str, Any]()
    if runtime is not None and isinstance(quantized, (str, Path)):
        other = open_file(quantized, first)
        feed = open_data(first, data, settings, held_out=False)
        sizes, own = (file_size(model), bytes_of(quantized)), own_float(first, runtime)
        told = {"sizes": sizes, "labels": feed.labels, "progress": progress}
        found = compare_file(_runnable(first), other, feed.calibration, own_float=own, **told)
        return replace(found, warnings=(*found.warnings, *feed.said()))
    second = files.load(quantized)
    _same_interface(first, second)
    feed = open_data(first, data, settings, held_out=False)
    told = {"sizes": (file_size(model), file_size(quantized)), "labels": feed.labels, "progress": progress}
    try:
        found = compare_models(_runnable(first), second, feed.calibration, **told)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{_name(quantized)}: {unverified(second, error)}.") from error
    return replace(found, warnings=(*found.warnings, *feed.said()))


def _runnable(model: ir.Model) -> ir.Model:
    """What a float model is compared as: itself, but in float32 for float64, in which ONNX Runtime has no Conv."""
    return widened(model, [ir.DataType.DOUBLE])[0]


def _same_interface(first: ir.Model, second: ir.Model) -> None:
    for what in ("inputs", "outputs"):
        a, b = ([v.name for v in getattr(m.graph, what)] for m in (first, second))
        if a != b:
            raise BadOption(f"The models cannot be compared: the first has {what} {a}, the second {b}.")


def _configured(
    config: str | Path | None, given: Mapping[str, object], options: Mapping[str, object]
) -> tuple[dict[str, Any], dict[str, object]]:
    """Settings and step options: the file's, overruled by what was given."""
    defaults: dict[str, object] = {"io": "float", "skip": (), "seed": 0}
    top, chosen = read_config(config, SETTINGS) if config is not None else ({}, {})
    said = {k: check_setting(k, v) for k, v in given.items() if v is not None}
    settings: dict[str, Any] = {**dict.fromkeys(SETTINGS), **defaults, **top, **said}
    settings["target"] = settings["target"] or target_of(settings["format"] or "qdq")
    return settings, {**chosen, **options}


def _with_record(draft: Draft, stats: Record | str | Path | None, digest: str) -> Draft:
    if stats is None:
        return draft
    record = stats if isinstance(stats, Record) else Record.load(stats)
    if record.model != digest:
        raise BadCalibration(f"The statistics are of model {record.model}, this one is {digest}: calibrate it anew.")
    return replace(
        draft,
        stats=record.observations,
        channels=record.channels,
        shapes=record.shapes,
        sizes=record.sizes,
        stats_scaling=record.scaling,
    )


def _refuse_noise(draft: Draft, given: Mapping[str, Observation]) -> None:
    """Nothing that statistics lack may have been measured on synthetic samples."""
    if lacking := sorted(set(draft.stats) - set(given)):
        raise BadCalibration(
            f"The statistics lack {counted(len(lacking), 'tensor')}, the first being '{lacking[0]}'. Give the options "
            "that `halfeven calibrate` was given, or --data to measure them on."
        )


def _refuse_nothing(draft: Draft) -> None:
    found = inspect_draft(draft)
    if found.layers[0] or any(q.role == "weight" for q in draft.plan.groups.values()):
        return
    why = "; ".join(f"{counted(n, 'node')}: {reason}" for n, reason, _ in found.reasons()[:3]) or "it has no layer"
    dear = any("--prefer size" in why for why in draft.plan.floats.values())
    helps = "; --prefer size quantizes the weights all the same" if dear else ""
    raise UnsupportedByTarget(
        f"Nothing was quantized for {draft.target.name}, so no file was written: {why}. `halfeven inspect` lists every "
        f"node{helps}."
    )


def _provenance(draft: Draft, settings: Mapping[str, Any], options: Mapping[str, object], feed: Feed) -> dict[str, str]:
    said = {k: v for k, v in {**settings, **options}.items() if k not in ("holdout", "labels") and v not in (None, ())}
    return {
        "halfeven.version": __version__,
        "halfeven.target": draft.target.name,
        "halfeven.plan": draft.plan.digest,
        "halfeven.data": feed.digest,
        "halfeven.options": json.dumps(said, sort_keys=True, default=str),
    }


def _signed(draft: Draft) -> bool:
    return any(q.role == "activation" and q.scheme.grid.signed for q in draft.plan.groups.values())


def _name(model: Model) -> str:
    return Path(model).name if isinstance(model, (str, Path)) else type(model).__name__
