"""The ready loop: train a model quantized on data, judge it on what was held out, and keep its state.

    result, network = halfeven.train("model.onnx", data, labels=labels, recipe={"epochs": 2})

The network is that of `qat.prepare`, the loop `training.loop`. PyTorch is imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from halfeven import api
from halfeven.draft import Progress, no_progress
from halfeven.errors import BadOption
from halfeven.exporters.onnx import to_qdq
from halfeven.feeding import Feed, open_data
from halfeven.files import write_file
from halfeven.graph.plan import Plan
from halfeven.options import TRAINING, all_options, read_config
from halfeven.qat import draft_of_trained, float_model, prepare
from halfeven.report.verify import compare_models
from halfeven.result import Result
from halfeven.run import torch as from_torch
from halfeven.run.specs import file_size

if TYPE_CHECKING:
    from halfeven.training.loop import Recipe
    from halfeven.training.network import QuantizedNetwork

SETTINGS = ("target", "preprocess", "labels", "holdout", "limit")
PREPARED = ("batchnorm", "scales", "learn_zero_point", "method", "rounding", "weight_bits", "activation_bits",
            "first_and_last")  # fmt: skip
"""What `prepare` has of its own: how to train."""
ELSEWHERE = ("model", "data", "plan", "example_inputs", "progress", "calibrate_with", "device", "name", "config")
"""What `train` is given by its caller."""


def train(
    model: api.Model,
    data: Any,
    *,
    labels: Any = None,
    preprocess: Any = None,
    holdout: Any = None,
    limit: int | None = None,
    target: str | None = None,
    plan: Plan | str | Path | None = None,
    example_inputs: Any = None,
    calibrate_with: int = 128,
    device: str = "cpu",
    name: str = "model",
    progress: Progress = no_progress,
    recipe: Mapping[str, Any] | Recipe | None = None,
    config: str | Path | None = None,
    **options: Any,
) -> tuple[Result, QuantizedNetwork]:
    """Train a model quantized, by the ready loop, and judge it on what was held out; arguments as for `quantize`.

    Args:
        model: Path, ONNX model, or module with `example_inputs`.
        data: To train with; every n-th sample is held out, unless `holdout` gives other data.
        labels: Classes; without them the network learns from the float one alone.
        preprocess: As for `quantize`.
        holdout: As for `quantize`.
        limit: As for `quantize`.
        target: Name of the target.
        plan: A plan to follow.
        example_inputs: Of a module.
        calibrate_with: How many samples the ranges begin with.
        device: Where to train: "cpu", "cuda", "cuda:1" and so on.
        name: What the result calls the model.
        progress: Called with (task, done, total).
        recipe: Fields of `training.loop.Recipe`, or one, which overrules all of the file's.
        config: TOML file: `SETTINGS` at its top, tables of steps, `PREPARED` in [prepare], and [recipe]. What is given
            here overrules it.
        options: Those of `prepare` and of the steps.

    Returns:
        The result, as `quantize` gives it, and the trained network, as `prepare` makes it of the model.
    """
    from halfeven.training.loop import fit
    from halfeven.training.pytorch import torch

    settings: dict[str, Any] = {"labels": labels, "preprocess": preprocess, "holdout": holdout, "limit": limit}
    settings, chosen, options = _configured(config, {**settings, "target": target}, recipe or {}, options)
    target = settings.pop("target")
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise BadOption(f"--device '{device}': PyTorch finds no such device here. Use cpu.")
    source, said = float_model(model, example_inputs)
    feed = open_data(source, data, {**settings, "seed": chosen.seed}, held_out=True)
    some = [sample for _, sample in feed.some(calibrate_with)]
    given = (model, example_inputs) if from_torch.is_module(model) else (source, None)  # a module says what it trains
    network = prepare(*given, data=some, target=target, plan=plan, progress=progress, **options).to(device)
    fit(network, _readers(feed), chosen, progress)
    draft = draft_of_trained(network.cpu())
    quantized = to_qdq(draft)
    found = compare_models(
        source,
        quantized,
        feed.held_out,
        sizes=(file_size(source), file_size(quantized)),
        labels=feed.labels,
        progress=progress,
    )
    return Result(
        draft, quantized, found, tuple(dict.fromkeys((*said, *network.notes, *draft.notes, *feed.said()))), name
    ), network


def _configured(
    config: str | Path | None, given: Mapping[str, Any], recipe: Mapping[str, Any] | Recipe, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Recipe, dict[str, Any]]:
    """Settings, recipe and options: the file's, overruled by what was given."""
    from halfeven.training.loop import Recipe

    if not isinstance(recipe, Mapping | Recipe):
        raise BadOption(f"recipe {recipe!r}: expected a Recipe, or its fields by name, such as {{'epochs': 2}}.")
    if strays := [f.name for f in fields(Recipe) if f.name in options]:
        raise BadOption(f"{strays[0]} is of the recipe: write recipe={{'{strays[0]}': {options[strays[0]]!r}}}.")
    top, steps = read_config(config, (*SETTINGS, *TRAINING)) if config is not None else ({}, {})
    table, ours = (dict(cast("Mapping[str, Any]", top.get(name, {}))) for name in TRAINING)
    _refuse_strays(table, f"--config '{config}': [prepare]", [f.name for f in fields(Recipe)])
    settings = {name: top.get(name) if value is None else value for name, value in given.items()}
    whole = asdict(recipe) if isinstance(recipe, Recipe) else recipe
    return settings, Recipe.of({**ours, **whole}), {**steps, **table, **options}


def _refuse_strays(table: Mapping[str, Any], where: str, recipe: Sequence[str]) -> None:
    """Pass if all of [prepare] is `PREPARED`.

    Raises:
        BadOption: something is not; it says where to write it.
    """
    strays = [name for name in table if name not in PREPARED]
    if not strays:
        return
    name, option = strays[0], all_options().get(strays[0])
    if name in SETTINGS:
        hint = f" Write {name} at the top of the file."
    elif name in ELSEWHERE:
        hint = f" Give {name} to train itself, not in a file."
    elif name in recipe:
        hint = f" Write {name} in [recipe]."
    elif option is not None:
        hint = f" Write it as {option.field} in a table [{option.step}]."
    else:
        near = get_close_matches(name, PREPARED, 1)
        hint = f" Did you mean '{near[0]}'?" if near else f" There are: {', '.join(PREPARED)}."
    raise BadOption(f"{where} has no option '{name}'.{hint}")


def save_state(network: QuantizedNetwork, path: str | Path) -> None:
    """Write the network's state_dict for `torch.load(path, weights_only=True)`, beside and then renamed."""
    from halfeven.training.pytorch import torch

    write_file(Path(path), lambda stream: torch.save(network.state_dict(), stream))


def _readers(feed: Feed) -> list[Any]:
    """A call that reads each calibration sample, with its class."""

    def reading(label: str, read: Callable[[], Any]) -> Any:
        classes = feed.labels.get(label)
        one = next(iter(classes)) if classes is not None and len(classes) == 1 else None
        return lambda: (read(), one)

    return [reading(label, read) for label, read in feed.calibration.source.readers()]
