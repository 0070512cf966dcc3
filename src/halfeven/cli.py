"""The command line: `halfeven quantize | calibrate | inspect | verify | demo | number | completions`.

Exit status: 0 done; 1 an unexpected fault; 2 wrong options, configuration or unwritable output; 3 the model; 4 the
data; 5 the target (nothing could be quantized); 130 interrupted. Errors are one sentence on standard error; --debug
shows the traceback.

Nothing heavy is imported before a command needs it: arguments are added only to the command that runs, as those of
steps need the steps to be imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence

from halfeven.errors import BadOption, QuantError
from halfeven.wording import EPILOG, EXAMPLES, SUMMARIES, USAGES

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost a tenth of the start
if TYPE_CHECKING:
    from typing import Any, NoReturn

Command = Callable[[argparse.Namespace], int]

DATA = "pictures, recordings, .npz, .npy, or a text file of paths"
STEPS_OF = {
    "quantize": ("simplify", "place", "equalize", "observe", "calibrate", "gptq"),
    "calibrate": ("simplify", "place", "equalize", "observe"),
    "inspect": ("simplify", "place"),
}
METAVARS = {"keep_float": "PATTERN", "tensors": "PATTERN=METHOD", "calibrate": "METHOD"}
WITHOUT = {"calibrate": ("observe_moments", "observe_vectors")}


class Parser(argparse.ArgumentParser):
    """A parser whose faults are BadOption, in a sentence, as all others are."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where the options are listed."""
        text = message.removeprefix("argument ").replace("the following arguments are required:", "missing:")
        raise BadOption(f"{text.rstrip('.')}. See `{self.prog} --help`.")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal. The parent would ask `shutil`, whose import takes a tenth of the time of `--help`."""

    def __init__(self, prog: str, **more: Any) -> None:
        given = os.environ.get("COLUMNS", "")
        columns = int(given) if given.isdecimal() else 0
        if not columns:
            try:
                columns = os.get_terminal_size(sys.stdout.fileno()).columns
            except (OSError, ValueError, AttributeError):  # no terminal, or no file
                columns = 80
        super().__init__(prog, **{"width": (columns or 80) - 2, **more})


def build_parser(command: str | None = None) -> Parser:
    """The parser of all commands; of `command` it has all arguments, of the others none."""
    from halfeven.version import __version__

    parser = Parser(
        prog="halfeven",
        description="Quantize ONNX models: float in; smaller, faster, verified INT8 out.",
        epilog=EPILOG,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"halfeven {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, arguments in ARGUMENTS.items():
        summary, examples = SUMMARIES[name], EXAMPLES[name]
        if name != command:
            commands.add_parser(name, help=summary, add_help=False, formatter_class=Formatter)
            continue
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog="\n  ".join(("examples:" if len(examples) > 1 else "example:", *examples)),
            formatter_class=Formatter,
            allow_abbrev=False,
            usage=f"halfeven {USAGES.get(name, name)} [options]",
        )
        arguments(sub)
        if name in STEPS_OF:
            _target_options(sub, name)
        if name != "completions":
            sub.add_argument("--quiet", action="store_true", help="no progress, no report; errors still speak")
            sub.add_argument("--json", action="store_true", help="the report as one JSON object on standard output")
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _quantize(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model")
    _data_options(sub, f"{DATA}; without it: synthetic samples", "preprocess", "limit", "labels")
    sub.add_argument("-o", "--output", metavar="FILE", help="where to write (default: MODEL with .int8.onnx)")
    sub.add_argument(
        "--holdout", metavar="DATA", help="data to verify with (default: a fifth of --data, at most 32 samples)"
    )
    sub.add_argument("--stats", metavar="FILE", help="statistics from `halfeven calibrate`")
    sub.add_argument("--plan", metavar="FILE", help="follow this plan (JSON) instead of placing")
    sub.add_argument("--save-plan", metavar="FILE", help="write the plan as JSON")
    _choice(sub, "--io", ("float", "uint8", "int8"), "type of floating-point inputs and outputs (default: float)")
    sub.add_argument(
        "--skip", action="append", metavar="STEP", help="leave out an optional step, equalize or gptq; repeatable"
    )
    sub.add_argument("--seed", type=_whole, metavar="N", help="of synthetic samples (default: 0)")
    sub.add_argument("--no-verify", action="store_true", help="do not compare with the float model; use all --data")


def _calibrate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model; with --merge: the first statistics file")
    _data_options(sub, DATA, "preprocess", "limit")
    sub.add_argument("-o", "--output", metavar="FILE", required=True, help="where to write the statistics (JSON)")
    sub.add_argument("--merge", nargs="+", metavar="FILE", help="merge these statistics into the first")
    sub.add_argument(
        "--stats", metavar="FILE", help="take channel ranges over from these, so that the results can be merged"
    )


def _inspect(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model")
    _data_options(sub, "data for one sample; without it a synthetic one", "preprocess")
    sub.add_argument("--all", action="store_true", help="list every float node with its reason, and every tensor")
    sub.add_argument("--save-plan", metavar="FILE", help="write the plan, not yet calibrated, as JSON")


def _verify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model")
    sub.add_argument("quantized", metavar="QUANTIZED", help="quantized ONNX model")
    _data_options(sub, DATA, "preprocess", "limit", "labels", required=True)


def _demo(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-o", "--output", metavar="FOLDER", default="demo-out", help="for the model (default: demo-out)")


def _number_options(sub: argparse.ArgumentParser) -> None:
    import re

    sub._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)  # else -1e5 is taken for a flag
    sub.add_argument("number", metavar="NUMBER", help="such as 123.45, -1e-3, inf, nan; with --hex: A1C7D.FF, 42F6E666")
    sub.add_argument(
        "--q", metavar="M.N", help="fixed point: M integer bits with the sign, N fraction bits; uM.N: no sign"
    )
    sub.add_argument(
        "--hex", action="store_true", help="NUMBER is hexadecimal: a bit pattern, or with a point a number"
    )
    sub.add_argument("--scale", type=_number, metavar="S", help="in int8 and uint8 with this scale")
    sub.add_argument("--zero-point", type=_whole, metavar="Z", help="with --scale (default: 0 for int8, 128 for uint8)")


def _completions(sub: argparse.ArgumentParser) -> None:
    _choice(sub, "shell", ("bash", "zsh", "fish"), "bash, zsh or fish")


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "quantize": _quantize,
    "calibrate": _calibrate,
    "inspect": _inspect,
    "verify": _verify,
    "demo": _demo,
    "number": _number_options,
    "completions": _completions,
}


def _data_options(sub: argparse.ArgumentParser, what: str, *more: str, required: bool = False) -> None:
    sub.add_argument("--data", metavar="DATA", required=required, help=what)
    if "preprocess" in more:
        text = "for pictures and recordings: a preset and changes to it, such as imagenet,color=BGR"
        sub.add_argument("--preprocess", metavar="PRESET", help=text)
    if "labels" in more:
        sub.add_argument("--labels", metavar="FILE", help="classes of the samples: .json, .txt, .csv or .npy")
    if "limit" in more:
        sub.add_argument("--limit", type=_whole, metavar="N", help="use at most so many samples")


def _target_options(sub: argparse.ArgumentParser, command: str) -> None:
    from halfeven.targets import TARGETS

    text = f"what the model will run on (default: onnxruntime): {', '.join(TARGETS)}"
    _choice(sub, "--target", tuple(TARGETS), text, metavar="TARGET")
    sub.add_argument("--config", metavar="FILE", help="TOML file with the same options; flags overrule it")
    _step_options(sub, command)


def _step_options(sub: argparse.ArgumentParser, command: str) -> None:
    from halfeven.options import all_options

    group = sub.add_argument_group("options of steps")
    for option in all_options().values():
        if option.step not in STEPS_OF[command] or option.name in WITHOUT.get(command, ()):
            continue
        text = option.help.replace("%", "%%")
        dest, metavar = f"step:{option.name}", METAVARS.get(option.name, option.field.upper())
        if option.many:
            group.add_argument(option.flag, action="append", dest=dest, metavar=metavar, help=f"{text} Repeatable.")
        elif option.choices:
            _choice(group, option.flag, option.choices, f"{text} (default: {option.default})", dest=dest)
        else:
            kind = {int: _whole, float: _number}.get(option.kind, str)
            described = f"{text} (default: {option.default})"
            group.add_argument(option.flag, dest=dest, type=kind, metavar=metavar, help=described)


def _choice(sub: Any, flag: str, choices: Sequence[str], text: str, **more: Any) -> None:
    """Add an argument with choices; a word that is none of them is answered with the nearest."""

    def one_of(word: str) -> str:
        if word in choices:
            return word
        near = _near(word, choices)
        hint = f"did you mean '{near}'? Known are" if near else "choose one of"
        raise argparse.ArgumentTypeError(f"'{word}' is not known; {hint} {', '.join(choices)}")

    sub.add_argument(flag, type=one_of, choices=choices, help=text, **more)


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found '{word}'") from None


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found '{word}'") from None


def step_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of steps that were given."""
    given = {k.removeprefix("step:"): v for k, v in vars(args).items() if k.startswith("step:") and v is not None}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments.

    Raises:
        BadOption: an unknown command or option, with the nearest that there is; a value of the wrong kind.
    """
    first = words[0]
    if not first.startswith("-") and first not in ARGUMENTS:
        near = _near(first, ARGUMENTS)
        hint = f"Did you mean '{near}'?" if near else f"There are {', '.join(ARGUMENTS)}."
        raise BadOption(f"'{first}' is not a command. {hint}")
    parser = build_parser(next((word for word in words if not word.startswith("-")), None))
    args, rest = parser.parse_known_args(words)
    if rest:
        raise BadOption(_unknown(parser, args.command, rest[0]))
    return args


def _unknown(parser: Parser, command: str, word: str) -> str:
    """A sentence about a word that the command does not take."""
    if not word.startswith("-"):
        return f"'{word}' is one argument too many. See `halfeven {command} --help`; quote patterns such as 'head/*'."
    flag = word.split("=")[0]
    flags = flags_of(parser, command)
    near = _near(flag, flags)
    if near:
        return f"halfeven {command} has no option {flag}. Did you mean {near}?"
    other = next((name for name in ARGUMENTS if flag in flags_of(build_parser(name), name)), None)
    hint = f"`halfeven {other}` has it" if other else f"`halfeven {command} --help` lists them"
    return f"halfeven {command} has no option {flag}; {hint}."


def subparser(parser: argparse.ArgumentParser, command: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found = commands.choices[command]
    assert isinstance(found, argparse.ArgumentParser)
    return found


def flags_of(parser: argparse.ArgumentParser, command: str) -> list[str]:
    """The options of one command, as written."""
    return [flag for action in subparser(parser, command)._actions for flag in action.option_strings]


def _near(word: str, known: Iterable[str]) -> str:
    """The known word that is most like this one; empty when none is."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), 1)), "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        build_parser().print_help(sys.stderr)
        return 2
    try:
        args = _parsed(words)
        status = _command(args.command)(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted; no half-written file is left", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        return 0
    except Exception as error:
        if "--debug" in words:
            raise
        return _explain(error)
    return status


def _explain(error: Exception) -> int:
    if isinstance(error, QuantError):
        return _fail(f"error: {error}", error.exit_code)
    if isinstance(error, MemoryError):
        return _fail("error: there is not enough memory. Use fewer or smaller samples (--limit).", 1)
    if isinstance(error, OSError) and error.strerror:
        about = f"'{error.filename}'" if error.filename else "standard output"
        return _fail(f"error: {about}: {error.strerror}.", 2)
    said = f"{type(error).__name__}: {error}".rstrip(".")
    return _fail(f"error: unexpected {said}. This is a defect; run again with --debug and report what it prints.", 1)


def _fail(text: str, status: int) -> int:
    print(f"halfeven: {text}", file=sys.stderr)
    return status


def _command(name: str) -> Command:
    if name == "completions":
        from halfeven.completions import print_completions

        return print_completions
    if name == "number":
        from halfeven.number import print_number

        return print_number
    import gc

    from halfeven import commands

    gc.freeze()  # modules stay: looking for old models need not look through them
    return commands.COMMANDS[name]
