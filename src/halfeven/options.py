"""Options: each exists once, as a field of a step; the configuration file and the command line are derived from here.

    field                 Python and TOML                  command line
    Calibrate.method      quantize(..., calibrate="mse")   --calibrate mse
                          [calibrate] method = "mse"
    Equalize.samples      equalize_samples=64              --equalize-samples 64
                          [equalize] samples = 64

A field is called STEP_FIELD; the few that everybody uses have the short names of `SHORT`.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from math import inf, isfinite
from pathlib import Path
from typing import Any, get_args

from halfeven.draft import Step
from halfeven.errors import BadOption
from halfeven.exporters.formats import FORMATS
from halfeven.exporters.interface import TYPES
from halfeven.graph.plan import Plan
from halfeven.stats.estimate import METHODS
from halfeven.steps.absorb import Absorb
from halfeven.steps.calibrate import Calibrate, MatchTensors
from halfeven.steps.correct import Correct
from halfeven.steps.equalize import Equalize
from halfeven.steps.expect import Expect
from halfeven.steps.follow import FollowPlan
from halfeven.steps.gptq import Gptq
from halfeven.steps.half import Half
from halfeven.steps.observe import Observe
from halfeven.steps.place import Place
from halfeven.steps.simplify import Simplify
from halfeven.steps.trace import Trace
from halfeven.targets import TARGETS

STEPS: dict[str, type[Step]] = {
    "simplify": Simplify,
    "trace": Trace,
    "place": Place,
    "absorb": Absorb,
    "equalize": Equalize,
    "expect": Expect,
    "observe": Observe,
    "calibrate": Calibrate,
    "correct": Correct,
    "gptq": Gptq,
    "half": Half,
}
DATA_FREE = ("absorb", "expect", "correct")
"""Steps for want of data."""
OPTIONAL = ("equalize", "gptq", *DATA_FREE)
SHORT = {
    ("calibrate", "method"): "calibrate",
    ("calibrate", "percentile"): "percentile",
    ("calibrate", "tensors"): "tensors",
    ("place", "keep_float"): "keep_float",
    ("place", "prefer"): "prefer",
    ("place", "mode"): "mode",
    ("place", "bits"): "bits",
    ("place", "conv_bits"): "conv_bits",
    ("place", "reduce_range"): "reduce_range",
    ("place", "activation_bits"): "activation_bits",
    ("place", "block"): "block",
    ("place", "block_scales"): "block_scales",
    ("place", "zero_points"): "zero_points",
    ("half", "dtype"): "float_dtype",
    ("half", "keep_fp32"): "keep_fp32",
}
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
LIMITS: dict[str, tuple[float, float]] = {  # by name; of other numbers: 0 or more
    "simplify_opset": (13, inf),
    "equalize_limit": (1, inf),
    "equalize_headroom": (1, inf),
    "observe_elements": (1, inf),
    "observe_vectors": (1, inf),
    "percentile": (50.01, 100),
    "calibrate_p": (1, 16),
    "calibrate_sigmas": (0.01, inf),
    "gptq_damping": (1e-9, inf),
    "half_headroom": (1, inf),
}
COUNTS = {"limit": 1, "seed": 0}
TRAINING = ("prepare", "recipe")
TABLES = ("preprocess", *TRAINING)
"""Settings that may be, and those of training that must be, tables."""
WORDS = {"target": tuple(TARGETS), "io": tuple(TYPES), "format": tuple(FORMATS)}


@dataclass(frozen=True)
class Option:
    """One field of one step, as users name it."""

    step: str
    field: str
    name: str
    kind: type
    many: bool
    choices: tuple[str, ...]
    default: object
    help: str

    @property
    def flag(self) -> str:
        """As on the command line."""
        return "--" + self.name.replace("_", "-")


@cache
def all_options() -> dict[str, Option]:
    """Every option by its Python name."""
    found = {}
    for step, cls in STEPS.items():
        texts = _field_texts(cls)
        for f in fields(cls):  # type: ignore[arg-type]
            option = _option(step, f, texts.get(f.name, ""))
            found[option.name] = option
    return found


def _option(step: str, f: "Field[Any]", text: str) -> Option:
    kind = f.type if isinstance(f.type, type) else type(f.default)
    choices = tuple(str(c) for c in get_args(f.type)) if str(f.type).startswith("typing.Literal") else ()
    many = isinstance(f.default, tuple)
    name = SHORT.get((step, f.name), f"{step}_{f.name}")
    return Option(
        step, f.name, name, str if many or choices else kind, many, choices, f.default, " ".join(text.split())
    )


def _field_texts(cls: type) -> dict[str, str]:
    """The string literal under each field."""
    source = inspect.getsource(sys.modules[cls.__module__])  # of the class itself it takes ten times as long
    text = re.search(rf"^class {cls.__name__}\b.*\n(?:[ \t].*\n|\n)*", source, re.MULTILINE)
    body = ast.parse(text[0]).body[0] if text else None
    assert isinstance(body, ast.ClassDef)
    found = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[before.target.id] = str(after.value.value)  # type: ignore[union-attr]
    return found


def make_steps(options: Mapping[str, object], skip: tuple[str, ...] = ()) -> dict[str, Step]:
    """The default steps with options set.

    Raises:
        BadOption: an unknown option or step to skip, or a value of the wrong kind or out of range.
    """
    known = all_options()
    for name in skip:
        if name not in OPTIONAL:
            raise BadOption(f"--skip '{name}': only {', '.join(OPTIONAL[:-1])} and {OPTIONAL[-1]} can be left out.")
    steps: dict[str, Step] = {name: cls() for name, cls in STEPS.items() if name not in skip}
    for name, value in options.items():
        option = known.get(name)
        if option is None:
            raise BadOption(f"There is no option '{name}'.{_near(name, known)}")
        fitting = _fitting(option, value, option.flag)
        if option.step in steps:
            steps[option.step] = replace(steps[option.step], **{option.field: fitting})  # type: ignore[type-var]
    return steps


def ordered_steps(
    options: Mapping[str, object],
    skip: tuple[str, ...],
    plan: Plan | str | Path | None,
    *,
    data: bool,
    stats: bool,
) -> list[Step]:
    """The steps in order; those for want of data only where there are neither data nor statistics.

    Nor do they change a model whose plan is of its channels as they are; a plan of scaled ones may have been made so.

    Raises:
        BadOption: an option has no such value, or is settled by the plan.
    """
    plan = Plan.load(plan) if isinstance(plan, str | Path) else plan
    no_moments = "gptq" in skip or (stats and not data)
    steps = make_steps({"observe_moments": 0, **options} if no_moments else options, skip)
    if plan is not None:
        _refuse_placing(options)
        steps["place"] = FollowPlan(plan, uncorrected="correct" in steps and not (data or stats))
    for name in DATA_FREE if data or stats or (plan is not None and not plan.scaling) else ():
        steps.pop(name, None)
    listed = list(steps.values())
    calibrate = steps["calibrate"]
    assert isinstance(calibrate, Calibrate)
    listed.insert(list(steps).index("place") + 1, MatchTensors(calibrate.tensors))
    return listed


def _refuse_placing(options: Mapping[str, object]) -> None:
    """Nothing that a plan has settled may be asked for beside it.

    Raises:
        BadOption: an option of the step `place` is given.
    """
    known = all_options()
    if found := [known[name].flag for name in options if name in known and known[name].step == "place"]:
        what = " and ".join(filter(None, (", ".join(found[:-1]), found[-1])))
        raise BadOption(
            f"--plan says what is quantized and how, so {what} would do nothing: leave "
            f"{'it' if len(found) == 1 else 'them'} out, or leave out --plan to place anew."
        )


def _fitting(option: Option, value: object, where: str) -> object:
    """The value in the option's kind, if it has it."""
    if option.many:
        return _texts(value, where, "head/*=minmax" if option.name == "tensors" else "head/*")
    if option.choices:
        if value not in option.choices:
            near = _nearest(value, option.choices)
            raise BadOption(f"{where} {value!r}: choose one of {', '.join(option.choices)}.{near}")
        return value
    if option.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, option.kind) or isinstance(value, bool) is not (option.kind is bool):
        raise BadOption(f"{where} {value!r}: expected {KINDS[option.kind]}, for instance {option.default!r}.")
    if option.name == "calibrate" and value not in METHODS:
        near = _nearest(value, METHODS)
        raise BadOption(f"{where} {value!r}: there is no such method; choose one of {', '.join(METHODS)}.{near}")
    if isinstance(value, int | float):
        low, high = LIMITS.get(option.name, (0, inf))
        if not (low <= value <= high and isfinite(value)):
            limits = f"of at least {low:g}" if high == inf else f"from {low:g} to {high:g}"
            raise BadOption(f"{where} {value}: expected {KINDS[option.kind]} {limits}, for instance {option.default}.")
    return value


def _texts(value: object, where: str, example: str) -> tuple[str, ...]:
    """One text or several, as a tuple."""
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise BadOption(f"{where} {value!r}: expected a list of texts, for instance ['{example}'].")
    return tuple(items)


def _near(name: str, known: Iterable[str]) -> str:
    known = list(known)
    return _nearest(name, known) or f" There are: {', '.join(known)}."


def _nearest(word: object, known: Iterable[str]) -> str:
    near = get_close_matches(str(word), known, 1)
    return f" Did you mean '{near[0]}'?" if near else ""


def read_config(path: str | Path, settings: tuple[str, ...]) -> tuple[dict[str, object], dict[str, object]]:
    """A TOML file: top-level `settings`, and options in tables named after steps.

    Raises:
        BadOption: the file cannot be read, or holds an unknown table or key, or a value of the wrong kind.
    """
    import tomllib

    where = f"--config '{path}':"
    try:
        data = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise BadOption(f"{where} it cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise BadOption(f"{where} it is not TOML: {error}.") from error
    top: dict[str, object] = {}
    options: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, dict) and key in STEPS:
            options.update(_table(key, value, where))
        elif key in settings and (not isinstance(value, dict) or key in TABLES):
            top[key] = check_setting(key, value, f"{where} {key} =")
        else:
            raise BadOption(f"{where} {_misplaced(key, settings)}")
    return top, options


def _table(step: str, values: Mapping[str, object], where: str) -> dict[str, object]:
    """The options of one step's table."""
    options = {o.field: o for o in all_options().values() if o.step == step}
    for field in values:
        if field not in options:
            raise BadOption(f"{where} [{step}] has no option '{field}'.{_near(field, options)}")
    return {options[f].name: _fitting(options[f], v, f"{where} [{step}] {f} =") for f, v in values.items()}


def _misplaced(key: str, settings: tuple[str, ...]) -> str:
    """What to write instead of an unknown top-level key."""
    option = all_options().get(key)
    if option is not None:
        return f"'{key}' is not known here. Write it as {option.field} in a table [{option.step}]."
    return f"'{key}' is not known.{_near(key, (*settings, *STEPS))}"


def check_setting(name: str, value: object, where: str = "") -> object:
    """A setting that is no step's: `value`, if it is of the kind that `name` has.

    Raises:
        BadOption: it is not; `where` begins the sentence, by default the flag.
    """
    where = where or f"--{name}"
    if value is None:
        return None
    if name in COUNTS:
        if not isinstance(value, int) or isinstance(value, bool) or value < COUNTS[name]:
            raise BadOption(f"{where} {value!r}: expected a whole number of at least {COUNTS[name]}.")
    elif name in WORDS:
        if not isinstance(value, str):
            raise BadOption(f"{where} {value!r}: expected a text such as '{WORDS[name][0]}'.")
        if value not in WORDS[name]:
            raise BadOption(f"{where} '{value}': choose one of {', '.join(WORDS[name])}.{_nearest(value, WORDS[name])}")
    elif name in TRAINING:
        if not isinstance(value, dict):
            raise BadOption(f"{where} {value!r}: expected a table, [{name}].")
    elif name == "preprocess":
        if isinstance(value, int | float | list):
            raise BadOption(f"{where} {value!r}: expected a text such as 'imagenet', or a table of options.")
    elif name == "skip":
        return _texts(value, where, OPTIONAL[0])
    return value
