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
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from halfeven.draft import Step
from halfeven.errors import BadOption
from halfeven.steps.calibrate import Calibrate
from halfeven.steps.equalize import Equalize
from halfeven.steps.gptq import Gptq
from halfeven.steps.observe import Observe
from halfeven.steps.place import Place
from halfeven.steps.simplify import Simplify
from halfeven.steps.trace import Trace

STEPS: dict[str, type[Step]] = {
    "simplify": Simplify,
    "trace": Trace,
    "place": Place,
    "equalize": Equalize,
    "observe": Observe,
    "calibrate": Calibrate,
    "gptq": Gptq,
}
OPTIONAL = ("equalize", "gptq")
SHORT = {
    ("calibrate", "method"): "calibrate",
    ("calibrate", "percentile"): "percentile",
    ("calibrate", "tensors"): "tensors",
    ("place", "keep_float"): "keep_float",
    ("place", "prefer"): "prefer",
}


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
    return Option(step, f.name, name, str if many or choices else kind, many, choices, f.default, " ".join(text.split()))


def _field_texts(cls: type) -> dict[str, str]:
    """The string literal under each field."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[before.target.id] = str(after.value.value)  # type: ignore[union-attr]
    return found


def make_steps(options: Mapping[str, object], skip: tuple[str, ...] = ()) -> dict[str, Step]:
    """The default steps with options set.

    Raises:
        BadOption: an unknown option or step to skip, or a value of the wrong kind.
    """
    known = all_options()
    for name in skip:
        if name not in OPTIONAL:
            raise BadOption(f"--skip '{name}': only {' and '.join(OPTIONAL)} can be left out.")
    steps: dict[str, Step] = {name: cls() for name, cls in STEPS.items() if name not in skip}
    for name, value in options.items():
        option = known.get(name)
        if option is None:
            raise BadOption(f"There is no option '{name}'.{_near(name, known)}")
        if option.step in steps:
            steps[option.step] = replace(steps[option.step], **{option.field: _fitting(option, value)})  # type: ignore[type-var]
    return steps


def _fitting(option: Option, value: object) -> object:
    if option.many:
        items = (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
        return tuple(str(item) for item in items)
    if option.choices and value not in option.choices:
        raise BadOption(f"{option.flag} {value!r}: choose one of {', '.join(option.choices)}.")
    if option.kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, option.kind) or isinstance(value, bool) is not (option.kind is bool):
        raise BadOption(f"{option.flag} {value!r}: expected {option.kind.__name__}, for instance {option.default!r}.")
    return value


def _near(name: str, known: Mapping[str, object]) -> str:
    near = get_close_matches(name, known, 1)
    return f" Did you mean '{near[0]}'?" if near else f" There are: {', '.join(known)}."


def read_config(path: str | Path, settings: tuple[str, ...]) -> tuple[dict[str, object], dict[str, object]]:
    """A TOML file: top-level `settings`, and options in tables named after steps.

    Raises:
        BadOption: the file cannot be read, or holds an unknown table or key.
    """
    import tomllib

    try:
        data = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BadOption(f"--config '{path}' cannot be read: {error}.") from error
    by_field = {(o.step, o.field): o.name for o in all_options().values()}
    top: dict[str, object] = {}
    options: dict[str, object] = {}
    for key, value in data.items():
        if isinstance(value, dict) and key in STEPS:
            for name, inner in value.items():
                if (key, name) not in by_field:
                    names = {f: 1 for s, f in by_field if s == key}
                    raise BadOption(f"--config '{path}': [{key}] has no option '{name}'.{_near(name, names)}")
                options[by_field[key, name]] = inner
        elif key in settings and (not isinstance(value, dict) or key == "preprocess"):
            top[key] = value
        else:
            raise BadOption(f"--config '{path}': '{key}' is not known.{_near(key, dict.fromkeys((*settings, *STEPS)))}")
    return top, options
