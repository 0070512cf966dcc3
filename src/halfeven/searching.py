"""`halfeven search`: arguments to a call of `bit_search.search`, its result to text or JSON."""

import argparse
from pathlib import Path

from halfeven import bit_search
from halfeven.cli import step_options
from halfeven.commands import check_outputs, progress_of, quiet_libraries, settings_of
from halfeven.errors import BadOption
from halfeven.printing import print_json, print_search

SETTINGS = ("target", "preprocess", "holdout", "limit", "config")
GIVEN = ("budget", "samples", "minutes")


def search(args: argparse.Namespace) -> int:
    """Measure, choose, write."""
    model = Path(args.model)
    output = Path(args.output) if args.output else model.parent / f"{model.stem}.plan.json"
    kept = output.with_name(f"{output.name.removesuffix('.json')}.sensitivities.json")
    check_outputs(args, {"-o": output, "(beside -o)": kept})
    quiet_libraries()
    given = settings_of(args, *SETTINGS)
    given |= {name: value for name in GIVEN if (value := getattr(args, name)) is not None}
    if args.bits is not None:
        given["bits"] = _listed(args.bits)
    with progress_of(args) as progress:
        found = bit_search.search(
            args.model, args.data, sensitivities=kept, progress=progress, **given, **step_options(args)
        )
    found.save(output)
    if args.json:
        print_json({"output": str(output), "sensitivities": str(kept), **found.to_json()})
    elif not args.quiet:
        print_search(model.name, output, kept, found)
    return 0


def _listed(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadOption(f"--bits {text}: expected whole numbers with commas between them, such as 2,4,8.") from None
