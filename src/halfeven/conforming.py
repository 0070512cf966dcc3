"""The commands that compare integers: `halfeven conform` and `halfeven simulate`."""

import argparse
from collections.abc import Callable
from pathlib import Path

from halfeven.commands import progress_of, quiet_libraries, settings_of
from halfeven.feeding import open_data
from halfeven.graph.model import load
from halfeven.importers.models import read_as_stored
from halfeven.printing import print_conformity, print_json, print_simulation, print_survey
from halfeven.report.conform import conform as run_beside
from halfeven.report.conform import to_json
from halfeven.report.judging import judged
from halfeven.report.survey import profiles_named, surveyed

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
    profiles = profiles_named(args.profile)
    with progress_of(args) as progress:
        model = read_as_stored(args.model)[0]
        feed = open_data(model, args.data, _settings(args), held_out=False)
        data = list(feed.calibration)
        if len(profiles) == 1:
            found = judged(args.model, data, profiles[0], args.against, feed.labels)
        else:
            survey = surveyed(args.model, data, profiles, args.against, labels=feed.labels, progress=progress)
    if args.json:
        print_json(found.to_json() if len(profiles) == 1 else survey.to_json())
    elif args.quiet:
        return 0
    elif len(profiles) == 1:
        print_simulation(found, everything=args.all)
    else:
        print_survey(Path(args.model).name, survey, everything=args.all)
    return 0


def _settings(args: argparse.Namespace) -> dict[str, object]:
    return {"limit": SAMPLES, **settings_of(args, "preprocess", "labels", "limit")}


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"conform": conform, "simulate": simulate}
