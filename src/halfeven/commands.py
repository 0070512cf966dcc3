"""What each command does: arguments to a call of `api`, its result to text or JSON."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfeven import api
from halfeven.cli import step_options
from halfeven.errors import BadOption
from halfeven.exporters.formats import FORMATS, exporter_named, format_of
from halfeven.graph.model import spare
from halfeven.importers.models import read_model
from halfeven.options import check_setting
from halfeven.printing import print_inspection, print_json, print_result, print_verification, say
from halfeven.progress import Report, terminal
from halfeven.report.inspection import inspect_draft
from halfeven.run.specs import external_files
from halfeven.stats.record import Record
from halfeven.wording import counted

QUANTIZE = (
    "target",
    "preprocess",
    "labels",
    "holdout",
    "limit",
    "config",
    "plan",
    "stats",
    "io",
    "format",
    "skip",
    "seed",
)
INPUTS = ("model", "quantized", "a", "b", "data", "labels", "holdout", "stats", "plan", "config", "merge")


def quantize(args: argparse.Namespace) -> int:
    """`halfeven quantize`."""
    model = Path(args.model)
    suffix = FORMATS[args.format].suffix if args.format else ".onnx"
    output = Path(args.output) if args.output else model.parent / f"{model.stem}.int8{suffix}"
    if model.is_file():  # else the loader says what is wrong
        check_outputs(args, {"-o": output, "--save-plan": args.save_plan})
    quiet_libraries()
    spare(output, _weights_of(model))  # as `save` does, but before the work
    chosen = format_of(output, args.format)
    exporter_named(chosen)  # says what is missing, before the work
    with progress_of(args) as progress:
        result = api.quantize(
            args.model,
            args.data,
            **{"format": chosen, **settings_of(args, *QUANTIZE)},
            verify=not args.no_verify,
            progress=progress,
            **step_options(args),
        )
        progress("write", 0, None)
        result = replace(result, notes=(*result.notes, *result.save(output, chosen)))
    if args.save_plan:
        result.plan.save(args.save_plan)
    seen = inspect_draft(result.draft)
    if args.json:
        verified = None if result.verification is None else result.verification.to_json()
        more = {k: v for k, v in seen.to_json().items() if k != "tensors"}
        print_json({"output": str(output), "verification": verified, **more, "notes": list(result.notes)})
    elif not args.quiet:
        print_result(result.source, output, seen, result.verification, result.notes)
    return 0


def calibrate(args: argparse.Namespace) -> int:
    """`halfeven calibrate`."""
    check_outputs(args, {"-o": args.output})
    if args.merge:
        record = _merged(args)
    elif args.data is None:
        raise BadOption("calibrate needs --data: the samples to collect statistics from.")
    else:
        quiet_libraries()
        with progress_of(args) as progress:
            record = api.calibrate(
                args.model,
                args.data,
                **settings_of(args, "target", "preprocess", "limit", "config", "stats"),
                progress=progress,
                **step_options(args),
            )
    record.save(args.output)
    if args.json:
        print_json({"output": args.output, "tensors": len(record.observations), "samples": record.samples})
    elif not args.quiet:
        tensors, samples = counted(len(record.observations), "tensor"), counted(record.samples, "sample")
        say(f"{args.output}: {tensors} over {samples}")
    return 0


def _merged(args: argparse.Namespace) -> Record:
    """The statistics of several files as one."""
    for name in ("data", "stats", "preprocess", "limit", "target", "config"):
        if getattr(args, name) is not None:
            raise BadOption(f"--merge only puts statistics together: leave --{name} out.")
    if given := step_options(args):
        raise BadOption(f"--merge only puts statistics together: leave the option {next(iter(given))} out.")
    record = Record.load(args.model)
    for path in args.merge:
        record = record.merge(Record.load(path))
    return record


def inspect(args: argparse.Namespace) -> int:
    """`halfeven inspect`."""
    check_outputs(args, {"--save-plan": args.save_plan})
    quiet_libraries()
    with progress_of(args) as progress:
        seen, draft = api.inspect(
            args.model,
            args.data,
            **settings_of(args, "target", "preprocess", "config"),
            progress=progress,
            **step_options(args),
        )
    if args.save_plan:
        draft.plan.save(args.save_plan)
    if args.json:
        print_json(seen.to_json())
    elif not args.quiet:
        print_inspection(seen, Path(args.model).name, everything=args.all)
    return 0


def verify(args: argparse.Namespace) -> int:
    """`halfeven verify`."""
    quiet_libraries()
    with progress_of(args) as progress:
        settings = settings_of(args, "preprocess", "labels", "limit")
        found = api.verify(args.model, args.quantized, args.data, **settings, progress=progress)
    if args.json:
        print_json(found.to_json())
    elif not args.quiet:
        print_verification(found)
    return 0


def demo(args: argparse.Namespace) -> int:
    """`halfeven demo`."""
    from halfeven.demo import run

    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise BadOption(f"-o '{folder}' is a file; give the name of a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    quiet_libraries()
    with progress_of(args) as progress:
        result, verification, output = run(folder, progress)
    if args.json:
        print_json({"output": str(output), "verification": verification.to_json(), "notes": list(result.notes)})
    elif not args.quiet:
        say("Fashion-MNIST MobileNetV2: 200 calibration pictures, 1000 labelled test pictures")
        print_result(result.source, output, inspect_draft(result.draft), verification, result.notes)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "quantize": quantize,
    "calibrate": calibrate,
    "inspect": inspect,
    "verify": verify,
    "demo": demo,
}


@contextmanager
def progress_of(args: argparse.Namespace) -> Iterator[Report]:
    """Bars, unless they are not wanted; from the start, as loading takes a while."""
    with terminal(args.quiet or args.json) as progress:
        progress("prepare", 0, None)
        yield progress


def settings_of(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The settings that were given."""
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    return {name: check_setting(name, value) for name, value in given.items()}


def check_outputs(args: argparse.Namespace, outputs: dict[str, str | Path | None]) -> None:
    """Fail before the work, not after it, and never write over what is read."""
    paths = {flag: Path(path) for flag, path in outputs.items() if path is not None}
    for flag, path in paths.items():
        if path.is_dir():
            raise BadOption(f"{flag} '{path}' is a folder; give the name of a file.")
        if path.exists() and not path.is_file():
            raise BadOption(f"{flag} '{path}' is no ordinary file; give another name.")
        if not path.parent.is_dir():
            raise BadOption(f"{flag} '{path}': there is no folder '{path.parent}'. Make it first, or choose another.")
        if not os.access(path.parent, os.W_OK):
            raise BadOption(f"{flag} '{path}': folder '{path.parent}' cannot be written to. Choose another.")
        for name, given in _inputs(args):
            if path.exists() and given.exists() and path.samefile(given):
                raise BadOption(f"{flag} '{path}' is the file given as {name}. Choose another name.")
    if len({path.absolute() for path in paths.values()}) < len(paths):
        raise BadOption(f"{' and '.join(paths)} name the same file. Choose another name for one.")


def _weights_of(model: Path) -> Iterator[Path]:
    """The files that hold a model's weights; it is loaded when they are asked for."""
    yield from external_files(read_model(model)[0])


def _inputs(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """The files that the command reads, each with what it was given as."""
    found = []
    for name in INPUTS:
        value = getattr(args, name, None)
        shown = name.upper() if name in ("model", "quantized", "a", "b") else f"--{name}"
        found += [(shown, Path(v)) for v in (value if isinstance(value, list) else [value]) if v is not None]
    return found


def quiet_libraries() -> None:
    """Let the libraries underneath keep their remarks to themselves."""
    import logging

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
