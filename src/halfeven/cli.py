"""The command line: `halfeven quantize | calibrate | inspect | verify | demo | completions`.

Exit status: 0 done; 1 an unexpected fault; 2 wrong options, configuration or unwritable output; 3 the model; 4 the data;
5 the target (nothing could be quantized); 130 interrupted. Errors are one sentence on standard error; --debug shows the
traceback. Nothing heavy is imported before a command needs it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from halfeven.errors import QuantError

Command = Callable[[argparse.Namespace], int]

EPILOG = """examples:
  halfeven quantize mobilenet_v2.onnx --data photos/ --preprocess imagenet -o mobilenet_v2.int8.onnx
  halfeven quantize model.onnx --data calib.npz --target openvino --calibrate mse --keep-float 'head/*'
  halfeven quantize model.onnx                       no data: synthetic samples, and it says what that costs
  halfeven inspect model.onnx --target onnxruntime   what will be quantized, what stays float and why
  halfeven verify model.onnx model.int8.onnx --data holdout/
  halfeven calibrate model.onnx --data photos/ -o stats.json
  halfeven quantize model.onnx --stats stats.json
"""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; options of steps are added to `command` only, as they need the steps to be imported."""
    from halfeven.version import __version__

    parser = argparse.ArgumentParser(
        prog="halfeven",
        description="Quantize ONNX models: a float model in, a smaller, faster, verified INT8 model out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"halfeven {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--quiet", action="store_true", help="no progress, no report; errors still speak")
        sub.add_argument("--json", action="store_true", help="the report as one JSON object on standard output")
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        return sub

    sub = add("quantize", "quantize a float model", "halfeven quantize model.onnx --data photos/ --preprocess imagenet -o out.onnx")
    sub.add_argument("model", help="float ONNX model")
    _data_options(sub, "pictures, recordings, .npz, .npy, or a text file of paths; without it: synthetic samples")
    sub.add_argument("-o", "--output", help="where to write (default: MODEL with .int8.onnx)")
    sub.add_argument("--holdout", help="data to verify with; default: a fifth of --data, at most 32 samples")
    sub.add_argument("--stats", help="statistics from `halfeven calibrate`")
    sub.add_argument("--plan", help="follow this plan (JSON) instead of placing")
    sub.add_argument("--save-plan", metavar="FILE", help="write the plan as JSON")
    sub.add_argument("--io", choices=("float", "uint8", "int8"), help="type of floating-point inputs and outputs")
    sub.add_argument("--skip", action="append", metavar="STEP", help="leave out an optional step: equalize, gptq")
    sub.add_argument("--seed", type=int, help="of synthetic samples (default 0)")
    sub.add_argument("--no-verify", action="store_true", help="do not compare with the float model")
    _target_options(sub, command == "quantize")

    sub = add("calibrate", "collect statistics for later runs, or merge them", "halfeven calibrate model.onnx --data photos/ -o stats.json")
    sub.add_argument("model", help="float ONNX model; with --merge: the first statistics file")
    _data_options(sub, "pictures, recordings, .npz, .npy, or a text file of paths")
    sub.add_argument("-o", "--output", required=True, help="where to write the statistics (JSON)")
    sub.add_argument("--merge", nargs="+", metavar="FILE", help="merge these statistics into the first")
    sub.add_argument("--stats", help="take channel ranges over from these, so that the results can be merged")
    _target_options(sub, command == "calibrate")

    sub = add("inspect", "show what would be quantized, what stays float, and why", "halfeven inspect model.onnx --target onnxruntime")
    sub.add_argument("model", help="float ONNX model")
    _data_options(sub, "data for one sample; without it a synthetic one")
    sub.add_argument("--all", action="store_true", help="list every float node with its reason, and every tensor")
    sub.add_argument("--save-plan", metavar="FILE", help="write the plan, not yet calibrated, as JSON")
    _target_options(sub, command == "inspect")

    sub = add("verify", "compare a float and a quantized model on data", "halfeven verify model.onnx model.int8.onnx --data holdout/")
    sub.add_argument("model", help="float ONNX model")
    sub.add_argument("quantized", help="quantized ONNX model")
    _data_options(sub, "pictures, recordings, .npz, .npy, or a text file of paths", required=True)

    sub = add("demo", "quantize the network and data shipped with Halfeven", "halfeven demo -o demo-out")
    sub.add_argument("-o", "--output", default="demo-out", help="folder for the models (default: demo-out)")

    sub = add("completions", "print a completion script for a shell", "halfeven completions bash > ~/.local/share/bash-completion/completions/halfeven")
    sub.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _data_options(sub: argparse.ArgumentParser, what: str, required: bool = False) -> None:
    sub.add_argument("--data", required=required, help=what)
    sub.add_argument("--preprocess", help="for pictures and recordings: a preset and changes to it, such as imagenet,color=BGR")
    sub.add_argument("--labels", help="classes of the samples: .json, .txt, .csv or .npy")
    sub.add_argument("--limit", type=int, help="use at most so many samples")


def _target_options(sub: argparse.ArgumentParser, with_steps: bool) -> None:
    sub.add_argument("--target", help="onnxruntime (default), onnxruntime-arm, openvino, tensorrt, integer")
    sub.add_argument("--config", help="TOML file with the same options")
    if not with_steps:
        return
    from halfeven.options import all_options

    group = sub.add_argument_group("options of steps")
    for option in all_options().values():
        kind: dict[str, object] = {"action": "append"} if option.many else {"type": option.kind}
        text = option.help.replace("%", "%%")
        default = "" if option.many else f" (default: {option.default})"
        choices = option.choices or None
        metavar = None if choices else option.field.upper()
        group.add_argument(
            option.flag, dest=f"step:{option.name}", help=text + default, choices=choices, metavar=metavar, **kind  # type: ignore[arg-type]
        )


def step_options(args: argparse.Namespace) -> dict[str, object]:
    """The options of steps that were given."""
    given = {k.removeprefix("step:"): v for k, v in vars(args).items() if k.startswith("step:") and v is not None}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(words[0] if words else None).parse_args(words)
    try:
        return _command(args.command)(args)
    except QuantError as error:
        if args.debug:
            raise
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
        print(f"halfeven: error: {error}{notes}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("halfeven: interrupted; no file was changed", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except MemoryError:
        print("halfeven: error: there is not enough memory. Use fewer or smaller samples (--limit).", file=sys.stderr)
        return 1
    except Exception as error:
        if args.debug:
            raise
        print(
            f"halfeven: error: unexpected {type(error).__name__}: {error}. This is a defect; run again with --debug and "
            "report what it prints.",
            file=sys.stderr,
        )
        return 1


def _command(name: str) -> Command:
    if name == "completions":
        from halfeven.completions import print_completions

        return print_completions
    from halfeven import commands

    return commands.COMMANDS[name]
