"""The commands that compare integers: `halfeven conform` and `halfeven simulate`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halfeven.commands import progress_of, quiet_libraries, settings_of
from halfeven.errors import BadOption
from halfeven.feeding import Run, samples_of
from halfeven.graph.model import load
from halfeven.importers.models import is_tflite, read_as_stored
from halfeven.printing import print_conformity, print_json, print_notes, print_simulation, print_survey
from halfeven.report.conform import conform as run_beside
from halfeven.report.conform import to_json
from halfeven.report.judging import Judgement, judged
from halfeven.report.sides import refuse_real
from halfeven.report.survey import Survey, profiles_named, surveyed

SAMPLES = 8
"""How many samples are run if nothing else is said."""


def conform(args: argparse.Namespace) -> int:
    """`halfeven conform`."""
    quiet_libraries()
    with progress_of(args) as progress:
        if Path(args.model).is_file() and is_tflite(Path(args.model)):
            raise BadOption(
                f"{args.model} is a LiteRT file; `conform` writes one itself, of an ONNX network with QuantizeLinear "
                "and DequantizeLinear. Give that, or simulate the file: halfeven simulate."
            )
        model = load(args.model)
        refuse_real(model)
        held = _samples(args, model)
        names = [name.strip() for name in args.runtimes.split(",")]
        found = run_beside(model, held.data, names, labels=held.labels, progress=progress)
    if args.json:
        print_json({**to_json(found), "notes": held.notes})
    elif not args.quiet:
        print_conformity(Path(args.model).name, found, everything=args.all)
        print_notes(held.notes)
    return 0


def simulate(args: argparse.Namespace) -> int:
    """`halfeven simulate`."""
    quiet_libraries()
    profiles = profiles_named(args.profile)
    with progress_of(args) as progress:
        model = read_as_stored(args.model)[0]
        held = _samples(args, model)
        found: Judgement | Survey = (
            judged(args.model, held.data, profiles[0], args.against, held.labels)
            if len(profiles) == 1
            else surveyed(args.model, held.data, profiles, args.against, labels=held.labels, progress=progress)
        )
    if args.json:
        print_json({**found.to_json(), "notes": [*found.to_json().get("notes", ()), *held.notes]})
    elif not args.quiet:
        if isinstance(found, Survey):
            print_survey(Path(args.model).name, found, everything=args.all)
        else:
            print_simulation(found, everything=args.all)
        print_notes(held.notes)
    return 0


def _samples(args: argparse.Namespace, model: Any) -> Run:
    return samples_of(model, args.data, {"limit": SAMPLES, **settings_of(args, "preprocess", "labels", "limit")})


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"conform": conform, "simulate": simulate}
