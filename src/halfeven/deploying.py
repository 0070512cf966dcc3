"""The commands around quantized networks: `halfeven export` and `halfeven diff`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from halfeven import deployment
from halfeven.commands import check_outputs, progress_of, quiet_libraries, settings_of
from halfeven.errors import BadOption
from halfeven.exporters.formats import FORMATS, exporter_named, format_of
from halfeven.printing import print_comparison, print_json, print_notes, say
from halfeven.report.inspection import inspect_draft


def export(args: argparse.Namespace) -> int:
    """`halfeven export`."""
    check_outputs(args, {"-o": args.output})
    quiet_libraries()
    output, chosen = Path(args.output), format_of(args.output, args.format)
    exporter = exporter_named(chosen)  # says what is missing, before the work
    options = {} if args.runtime_version is None else {"version": args.runtime_version}
    if not set(options) <= set(FORMATS[chosen].takes):
        having = ", ".join(name for name, entry in FORMATS.items() if "version" in entry.takes)
        raise BadOption(f"--runtime-version: {chosen} names no version of its runtime; {having} do. Leave it out.")
    with progress_of(args) as progress:
        more = settings_of(args, "target", "preprocess")
        draft = deployment.open_quantized(args.model, args.plan, format=chosen, data=args.data, **more)
        progress("write", 0, None)
        said = exporter(draft, output, **options)
    notes = tuple(dict.fromkeys((*draft.notes, *said)))
    seen = inspect_draft(draft)
    if args.json:
        more = {k: v for k, v in seen.to_json().items() if k in ("target", "layers", "nodes")}
        print_json({"output": str(output), "format": chosen, **more, "notes": list(notes)})
    elif not args.quiet:
        say(f"{Path(args.model).name} -> {output}: {FORMATS[chosen].what}, for {seen.target}")
        say(f"{seen.layers[0]} of {seen.layers[1]} layers quantized")
        print_notes(notes)
    return 0


def diff(args: argparse.Namespace) -> int:
    """`halfeven diff`."""
    quiet_libraries()
    with progress_of(args) as progress:
        given = settings_of(args, "target", "preprocess", "limit")
        found = deployment.compare(args.a, args.b, model=args.model, data=args.data, progress=progress, **given)
    if args.json:
        print_json(found.to_json())
    elif not args.quiet:
        print_comparison(found, everything=args.all)
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"export": export, "diff": diff}
