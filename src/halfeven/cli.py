"""The command line: `halfeven quantize | calibrate | inspect | verify | export | diff | ...`.

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
from collections.abc import Callable, Sequence

from halfeven.arguments import ARGUMENTS, STEPS_OF, nearest, target_options
from halfeven.errors import BadOption, QuantError
from halfeven.wording import EPILOG, EXAMPLES, SUMMARIES, USAGES

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost a tenth of the start
if TYPE_CHECKING:
    from typing import Any, NoReturn

Command = Callable[[argparse.Namespace], int]
INTERRUPTED = "interrupted; no half-written file is left"
SPIN = ("OPENBLAS_THREAD_TIMEOUT", "18")
"""Threads of NumPy's BLAS wait for work for 2^18 cycles, not 2^26: loading NumPy alone took 50 ms of a second core."""


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
            target_options(sub, name)
        if name != "completions":
            sub.add_argument("--quiet", action="store_true", help="no progress, no report; errors still speak")
            sub.add_argument("--json", action="store_true", help="the report as one JSON object on standard output")
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


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
        near = nearest(first, ARGUMENTS)
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
    if flag in flags:
        return f"{flag} belongs to the command; write it behind: halfeven {command} ... {flag}."
    near = nearest(flag, flags)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        os.environ.setdefault(*SPIN)
    if not words:
        build_parser().print_help(sys.stderr)
        return 2
    try:
        args = _parsed(words)
        command = _command(args.command)
        if argv is None:
            from halfeven.memory import keep_modules

            keep_modules()
        status = command(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        return 0
    except Exception as error:
        if _interrupted(error):
            return _fail(INTERRUPTED, 130)
        if "--debug" in words:
            raise
        return _explain(error)
    return status


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a library that is being imported makes an ImportError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


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

    gc.disable()  # imports leave no garbage, and looking for some takes a while
    try:
        return _imported(name)
    finally:
        gc.freeze()  # modules stay: looking for old models need not look through them
        gc.enable()


def _imported(name: str) -> Command:
    from halfeven import commands

    if name == "train":
        from halfeven.training_run import train

        return train
    if name == "search":
        from halfeven.searching import search

        return search
    if name == "plot":
        from halfeven.plotting import plot

        return plot
    if name in ("conform", "simulate"):
        from halfeven import conforming

        return conforming.COMMANDS[name]
    if name in ("export", "diff"):
        from halfeven import deploying

        return deploying.COMMANDS[name]
    return commands.COMMANDS[name]
