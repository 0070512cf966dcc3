"""The commands that compare integers: `halfeven conform` and `halfeven simulate`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from halfeven.commands import progress_of, quiet_libraries, settings_of
from halfeven.feeding import open_data
from halfeven.graph.model import load
from halfeven.importers.models import read_as_stored
from halfeven.printing import print_conformity, print_json, print_simulation
from halfeven.report.conform import conform as run_beside
from halfeven.report.conform import to_json
from halfeven.report.judging import judged

SAMPLES = 8
"""How many samples are run if nothing else is said."""


def conform(args: argparse.Namespace) -> int:
    """`halfeven conform`."""
    quiet_libraries()
    with progress_of(args) as progress:
        model = load(args.model)
        feed = open_data(model, args.data, _settings(args), held_out=False)
        names = [name.strip() for name in args.runtimes.split(",")]
        found = run_beside(model, list(feed.calibration), names, labels=feed.labels, progress=progress)
    if args.json:
        print_json(to_json(found))
    elif not args.quiet:
        print_conformity(Path(args.model).name, found, everything=args.all)
    return 0


def simulate(args: argparse.Namespace) -> int:
    """`halfeven simulate`."""
    quiet_libraries()
    with progress_of(args):
        model = read_as_stored(args.model)[0]
        feed = open_data(model, args.data, _settings(args), held_out=False)
        found = judged(args.model, list(feed.calibration), args.profile, args.against, feed.labels)
    if args.json:
        print_json(found.to_json())
    elif not args.quiet:
        print_simulation(found, everything=args.all)
    return 0


def _settings(args: argparse.Namespace) -> dict[str, object]:
    return {"limit": SAMPLES, **settings_of(args, "preprocess", "labels", "limit")}


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"conform": conform, "simulate": simulate}
