"""What each command does: arguments to a call of `api`, its result to text or JSON."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from halfeven import api
from halfeven.cli import step_options
from halfeven.errors import BadOption
from halfeven.graph.files import write_text
from halfeven.progress import terminal
from halfeven.report.inspection import Inspection
from halfeven.report.verify import Verification
from halfeven.stats.record import Record


def quantize(args: argparse.Namespace) -> int:
    """`halfeven quantize`."""
    output = Path(args.output) if args.output else Path(args.model).with_suffix(".int8.onnx")
    _writable(output)
    if output.exists() and Path(args.model).exists() and output.samefile(args.model):
        raise BadOption(f"-o '{output}' is the float model itself. Choose another name.")
    _quiet_libraries()
    with terminal(args.quiet or args.json) as progress:
        result = api.quantize(
            args.model,
            args.data,
            **_settings(args, "target", "preprocess", "labels", "holdout", "limit", "config", "plan", "stats", "io", "skip", "seed"),
            verify=not args.no_verify,
            progress=progress,
            **step_options(args),
        )
    result.save(output)
    if args.save_plan:
        result.plan.save(args.save_plan)
    if args.json:
        seen = api.inspect_draft(result.draft).to_json()
        seen.pop("tensors")
        verified = None if result.verification is None else result.verification.to_json()
        _print_json({"output": str(output), "verification": verified, **seen, "notes": list(result.notes)})
    elif not args.quiet:
        _print_result(result, output)
    return 0


def calibrate(args: argparse.Namespace) -> int:
    """`halfeven calibrate`."""
    _writable(Path(args.output))
    _quiet_libraries()
    if args.merge:
        record = Record.load(args.model)
        for path in args.merge:
            record = record.merge(Record.load(path))
    elif args.data is None:
        raise BadOption("calibrate needs --data: the samples to collect statistics from.")
    else:
        with terminal(args.quiet or args.json) as progress:
            record = api.calibrate(
                args.model,
                args.data,
                **_settings(args, "target", "preprocess", "limit", "config", "stats"),
                progress=progress,
                **step_options(args),
            )
    write_text(Path(args.output), json.dumps(record.to_json()))
    if args.json:
        _print_json({"output": args.output, "tensors": len(record.observations), "samples": record.samples})
    elif not args.quiet:
        print(f"{args.output}: {len(record.observations)} tensors over {record.samples} samples")
    return 0


def inspect(args: argparse.Namespace) -> int:
    """`halfeven inspect`."""
    _quiet_libraries()
    with terminal(args.quiet or args.json) as progress:
        seen, draft = api.inspect(
            args.model,
            args.data,
            **_settings(args, "target", "preprocess", "config"),
            progress=progress,
            **step_options(args),
        )
    if args.save_plan:
        draft.plan.save(args.save_plan)
    if args.json:
        _print_json(seen.to_json())
    elif not args.quiet:
        _print_inspection(seen, args.model, args.all)
    return 0


def verify(args: argparse.Namespace) -> int:
    """`halfeven verify`."""
    _quiet_libraries()
    with terminal(args.quiet or args.json) as progress:
        found = api.verify(
            args.model, args.quantized, args.data, **_settings(args, "preprocess", "labels", "limit"), progress=progress
        )
    if args.json:
        _print_json(found.to_json())
    elif not args.quiet:
        _print_verification(found, "float", "INT8")
    return 0


def demo(args: argparse.Namespace) -> int:
    """`halfeven demo`."""
    from halfeven.demo import run

    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    _quiet_libraries()
    with terminal(args.quiet or args.json) as progress:
        result, verification, output = run(folder, progress)
    if args.json:
        _print_json({"output": str(output), "verification": verification.to_json(), "notes": list(result.notes)})
    elif not args.quiet:
        print("Fashion-MNIST MobileNetV2: 200 calibration pictures, judged on 1000 labelled test pictures\n")
        _print_verification(verification, "float", "INT8")
        print(f"\nwritten: {output}")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "quantize": quantize,
    "calibrate": calibrate,
    "inspect": inspect,
    "verify": verify,
    "demo": demo,
}


def _settings(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _writable(path: Path) -> None:
    """Fail before the work, not after it."""
    if path.is_dir():
        raise BadOption(f"-o '{path}' is a folder; give the name of a file.")
    if not path.parent.is_dir():
        raise BadOption(f"-o '{path}': there is no folder '{path.parent}'. Make it first, or choose another.")


def _quiet_libraries() -> None:
    import logging

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)


def _print_json(data: object) -> None:
    json.dump(data, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


def _table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=any(head), pad_edge=False)
    for i, title in enumerate(head):
        table.add_column(title, justify="right" if 0 < i < len(head) - 1 else "left", overflow="fold")
    for row in rows:
        table.add_row(*(text.replace("[", "\\[") for text in row))
    Console(highlight=False).print(table)


def _say(kind: str, sentences: Iterable[str]) -> None:
    from rich.console import Console

    style = {"warning": "bold red", "note": "dim"}[kind]
    for text in sentences:
        Console(highlight=False, soft_wrap=True).print(f"{kind}: {text}", style=style, markup=False)


def _print_result(result: api.Result, output: Path) -> None:
    seen = api.inspect_draft(result.draft)
    print(f"{result.source} -> {output}")
    print(f"{seen.layers[0]} of {seen.layers[1]} layers quantized for {seen.target}")
    if result.verification is not None:
        _print_verification(result.verification, "float", "INT8")
    floats = [row for row in seen.reasons() if not row[1].startswith("shape and index")]
    if floats:
        print("stays float:")
        for count, why, example in floats[:6]:
            print(f"  {count:4d} nodes: {why}  ({example})")
    _say("note", result.notes)


def _print_verification(found: Verification, first: str, second: str) -> None:
    print(f"verified on {found.samples} samples in ONNX Runtime:")
    _table(found.rows(), ("", first, second, ""))
    _say("warning", found.warnings)


def _print_inspection(seen: Inspection, model: str, everything: bool) -> None:
    before, after = seen.weights
    print(f"{model} for {seen.target}")
    print(f"  layers     {seen.layers[0]} of {seen.layers[1]} become integer")
    print(f"  nodes      {seen.nodes[0]} of {seen.nodes[1]} become integer")
    print(f"  weights    {before / 1e6:.2f} MB -> {after / 1e6:.2f} MB ({after / max(before, 1):.2f} x)")
    if seen.floats:
        print("stays float:")
    for count, why, example in seen.reasons():
        print(f"  {count:4d} nodes: {why}  ({example})")
    if everything:
        _table([(name, op, why) for name, (op, why) in seen.floats.items()], ("float node", "operator", "reason"))
        _table([(tensor, str(group), scheme) for tensor, scheme, group in seen.groups], ("tensor", "group", "scheme"))
    _say("note", seen.notes)
