"""The arguments of each command.

Those of steps, targets and formats are added only to the command that runs, as their tables must be imported for it;
nothing heavy is imported before.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost a tenth of the start
if TYPE_CHECKING:
    from typing import Any

DATA = "pictures, recordings, .npz, .npy, or a text file of paths"
STEPS_OF = {
    "quantize": ("simplify", "place", "absorb", "equalize", "expect", "observe", "calibrate", "gptq", "half"),
    "calibrate": ("simplify", "place", "equalize", "observe"),
    "inspect": ("simplify", "place"),
    "plot": ("simplify", "place", "equalize", "observe", "calibrate"),
    "search": ("simplify", "place"),
}
METAVARS = {"keep_float": "PATTERN", "reduce_range": "PATTERN", "tensors": "PATTERN=METHOD", "calibrate": "METHOD"}
WITHOUT = {
    **dict.fromkeys(("calibrate", "plot"), ("observe_moments", "observe_vectors")),
    "search": ("bits", "conv_bits"),  # it has --bits of its own
}


def _quantize(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model")
    _data_options(sub, f"{DATA}; without it: synthetic samples", "preprocess", "limit", "labels")
    sub.add_argument("-o", "--output", metavar="FILE", help="where to write (default: MODEL with .int8.onnx)")
    _format_option(sub)
    sub.add_argument(
        "--holdout", metavar="DATA", help="data to verify with (default: a fifth of --data, at most 32 samples)"
    )
    sub.add_argument("--stats", metavar="FILE", help="statistics from `halfeven calibrate`")
    sub.add_argument("--plan", metavar="FILE", help="follow this plan (JSON) instead of placing")
    sub.add_argument("--save-plan", metavar="FILE", help="write the plan as JSON")
    _choice(sub, "--io", ("float", "uint8", "int8"), "type of floating-point inputs and outputs (default: float)")
    sub.add_argument(
        "--skip",
        action="append",
        metavar="STEP",
        help="leave out an optional step: equalize, gptq, absorb, expect, correct; repeatable",
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


def _plot(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model")
    _data_options(sub, DATA, "preprocess", "limit", required=True)
    sub.add_argument("-o", "--output", metavar="FOLDER", default="plots", help="for the pictures (default: plots)")
    _choice(sub, "--picture", ("png", "svg"), "format of the pictures (default: png)", default="png")
    sub.add_argument("--samples", type=_whole, metavar="N", default=8, help="one curve each (default: 8)")
    sub.add_argument("--layers", type=_whole, metavar="N", default=10, help="whose weights are shown (default: 10)")
    text = "activation or weight whose mapping is shown (default: the first activation)"
    sub.add_argument("--tensor", metavar="NAME", help=text)


def _verify(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model")
    sub.add_argument("quantized", metavar="QUANTIZED", help="quantized model: ONNX, or a file that a runtime reads")
    _data_options(sub, DATA, "preprocess", "limit", "labels", required=True)


def _export(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "model", metavar="MODEL", help="ONNX with QuantizeLinear and DequantizeLinear; with --plan: the float model"
    )
    sub.add_argument("-o", "--output", metavar="FILE", required=True, help="where to write")
    _format_option(sub)
    text = "scales for the float model: a plan, or what another tool wrote (encodings, a cache, a QDQ model)"
    sub.add_argument("--plan", "--encodings", metavar="FILE", help=text)
    _target_option(sub, "what the file is for (default: what the model or the format is for)")
    text = "tensorrt-cache: the number in its first line, of your TensorRT (default: 8601, which is 8.6.1)"
    sub.add_argument("--runtime-version", metavar="N", help=text)
    _data_options(sub, "one sample, for the lengths of open axes; without it a synthetic one", "preprocess")


def _diff(sub: argparse.ArgumentParser) -> None:
    what = "a plan, encodings, a calibration cache or a QDQ model"
    sub.add_argument("a", metavar="A", help=what)
    sub.add_argument("b", metavar="B", help="another, of the same network")
    sub.add_argument("--model", metavar="MODEL", help="the float ONNX model")
    _data_options(sub, "with --model: what each difference costs, in SQNR on these data", "preprocess", "limit")
    _target_option(sub, "whose table names the schemes (default: onnxruntime)")
    sub.add_argument("--all", action="store_true", help="list every difference")


def _conform(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="ONNX with QuantizeLinear and DequantizeLinear")
    text = "which: onnxruntime, litert, litert@optimized-x86 (on Arm litert@optimized-arm64), litert@reference, "
    text += "tflite-micro, c, openvino, ncnn, executorch"
    sub.add_argument(
        "--runtimes", metavar="NAMES", default="onnxruntime,litert", help=f"{text} (default: the first two)"
    )
    _data_options(sub, f"{DATA}; 8 samples if --limit does not say", "preprocess", "limit", "labels")
    sub.add_argument("--all", action="store_true", help="list every tensor that differs")


def _simulate(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="ONNX with QuantizeLinear and DequantizeLinear, or .tflite")
    text = (
        "the machine, such as onnxruntime@x86-avx2, litert@optimized-arm64, ncnn@arm64, vitis-dpu, integer; several, "
        "with commas between them, or all, give a table of where each parts from --against"
    )
    sub.add_argument("--profile", metavar="NAME", required=True, help=text)
    text = "the machine to compare it with (default: onnxruntime@x86-vnni)"
    sub.add_argument("--against", metavar="NAME", default="onnxruntime@x86-vnni", help=text)
    _data_options(sub, f"{DATA}; 8 samples if --limit does not say", "preprocess", "limit", "labels")
    sub.add_argument("--all", action="store_true", help="list every tensor that differs, and every layer")


def _search(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model")
    _data_options(sub, DATA, "preprocess", "limit", required=True)
    text = "where to write the plan (default: MODEL with .plan.json); what was measured is kept beside it"
    sub.add_argument("-o", "--output", metavar="FILE", help=text)
    sub.add_argument("--bits", metavar="LIST", help="widths that a weight may have, from 2 to 8 (default: 2,4,8)")
    text = "bits that a weight may have in the mean over all elements (default: 4.5)"
    sub.add_argument("--budget", type=_number, metavar="BITS", help=text)
    text = "to measure with; each is a run for each weight and width (default: 16)"
    sub.add_argument("--samples", type=_whole, metavar="N", help=text)
    text = "end measuring after so long and choose by what is known; the same command goes on there"
    sub.add_argument("--minutes", type=_number, metavar="M", help=text)
    sub.add_argument(
        "--holdout", metavar="DATA", help="data to judge with (default: a fifth of --data, at most 32 samples)"
    )


def _train(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="float ONNX model")
    text = f"{DATA}, to train with; without labels the network learns from the float one"
    _data_options(sub, text, "preprocess", "limit", "labels", required=True)
    sub.add_argument("-o", "--output", metavar="FILE", help="where to write (default: MODEL with .int8.onnx)")
    _format_option(sub)
    sub.add_argument(
        "--holdout", metavar="DATA", help="data to judge with (default: a fifth of --data, at most 32 samples)"
    )
    sub.add_argument("--plan", metavar="FILE", help="follow this plan (JSON) instead of placing")
    _target_option(sub, "what the model will run on (default: onnxruntime)")
    text = "TOML file: settings, [prepare] for what is trained, [recipe], tables of steps; flags overrule it"
    sub.add_argument("--config", metavar="FILE", help=text)
    sub.add_argument("--device", metavar="DEVICE", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    sub.add_argument("--save-state", metavar="FILE", help="write the trained network's state_dict too")
    group = sub.add_argument_group("what is trained")
    group.add_argument(
        "--weight-bits", metavar="BITS", help="2 to 16, 1 or binary, ternary, log2 (default: the target's)"
    )
    group.add_argument("--activation-bits", type=_whole, metavar="BITS", help="2 to 16 (default: the target's)")
    text = "of the first and the last layer, and of what the first reads, and the last (default: 8 if the target has 8)"
    group.add_argument("--first-and-last", type=_whole, metavar="BITS", help=text)
    text = "lsq (default), pact, dorefa, dsq, stochastic, or several with + between"
    group.add_argument("--method", metavar="METHOD", help=text)
    _choice(group, "--scales", ("log", "linear", "fixed", "moving"), "how scales are trained (default: log)")
    text = "whose rule breaks ties: the ONNX file's, half to even (default), or the target device's"
    _choice(group, "--rounding", ("file", "device"), text)
    group.add_argument(
        "--learn-zero-point", action="store_const", const=True, help="train the zero points of affine codes too (LSQ+)"
    )
    text = "what becomes of BatchNormalization behind a convolution (default: krishnamoorthi)"
    _choice(group, "--batchnorm", ("krishnamoorthi", "jacob", "frozen", "folded"), text)
    group = sub.add_argument_group("the recipe")
    for flag, kind, text in (
        ("--epochs", _whole, "passes over the data (default: 3)"),
        ("--batch", _whole, "samples in a step (default: 16)"),
        ("--rate", _number, "learning rate of weights (default: 0.0001)"),
        ("--scale-rate", _number, "of scales and zero points (default: 0.001)"),
        ("--warmup", _number, "share of steps in which the rates rise (default: 0.05)"),
        ("--frozen", _number, "share of steps at the end with BatchNormalization frozen (default: 1, all)"),
        ("--distill", _number, "weight of learning from what the float network returns (default: 1)"),
        ("--features", _number, "weight of learning from tensors inside the float network (default: 0)"),
        ("--damping", _number, "of weights that oscillate between two codes (default: 0)"),
        ("--lower-from", _whole, "bits to begin with, which fall to those of the codes by half of the steps"),
        ("--seed", _whole, "of the order of samples (default: 0)"),
    ):
        group.add_argument(flag, type=kind, metavar=flag.strip("-").upper().replace("-", "_"), help=text)
    text = "with --features, which: on names of tensors or nodes (default: sums of residual blocks); repeatable"
    group.add_argument("--feature-tensors", action="append", metavar="PATTERN", help=text)


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
    "plot": _plot,
    "verify": _verify,
    "export": _export,
    "diff": _diff,
    "conform": _conform,
    "simulate": _simulate,
    "search": _search,
    "train": _train,
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


def _target_option(sub: argparse.ArgumentParser, what: str) -> None:
    from halfeven.targets import TARGETS

    _choice(sub, "--target", tuple(TARGETS), f"{what}: {', '.join(TARGETS)}", metavar="TARGET")


def _format_option(sub: argparse.ArgumentParser) -> None:
    from halfeven.exporters.formats import FORMATS

    text = f"of the file that is written (default: by its suffix; .onnx: qdq): {', '.join(FORMATS)}"
    _choice(sub, "--format", tuple(FORMATS), text, metavar="FORMAT")


def target_options(sub: argparse.ArgumentParser, command: str) -> None:
    """The target, and the options of the steps that the command takes."""
    _target_option(sub, "what the model will run on (default: that of the format, else onnxruntime)")
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
        if option.kind is bool and not option.many:
            group.add_argument(option.flag, action="store_const", const=True, dest=dest, help=text)
        elif option.many:
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
        near = nearest(word, choices)
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


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like this one; empty when none is."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(known), 1)), "")
