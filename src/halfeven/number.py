"""`halfeven number`: what one number is in each format, as a table or as JSON."""

import argparse
from dataclasses import asdict

from halfeven.errors import BadOption
from halfeven.numerics.number import Spelled, spell, spell_quantized
from halfeven.printing import print_formats, print_json


def print_number(args: argparse.Namespace) -> int:
    """Run the command."""
    rows = _rows(args)
    if args.json:
        print_json({"number": args.number, "formats": [asdict(row) for row in rows]})
    elif not args.quiet:
        print_formats(args.number, rows)
    return 0


def _rows(args: argparse.Namespace) -> tuple[Spelled, ...]:
    if args.scale is None:
        if args.zero_point is not None:
            raise BadOption("--zero-point goes with --scale; give both, or neither.")
        return spell(args.number, q=args.q, pattern=args.hex)
    if args.q is not None or args.hex:
        raise BadOption(f"--scale and {'--hex' if args.hex else '--q'} are two readings of the number; give one.")
    return spell_quantized(args.number, args.scale, args.zero_point)
