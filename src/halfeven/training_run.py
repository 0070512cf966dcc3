"""`halfeven train`: arguments to a call of `ready_loop.train`, its result to text or JSON."""

import argparse
from dataclasses import replace
from pathlib import Path

from halfeven import ready_loop
from halfeven.commands import check_outputs, progress_of, quiet_libraries, settings_of
from halfeven.exporters.formats import exporter_named, format_of
from halfeven.graph.model import load, spare
from halfeven.printing import print_json, print_result
from halfeven.report.inspection import inspect_draft
from halfeven.run.specs import external_files

TRAINED = (
    "weight_bits", "activation_bits", "first_and_last", "method", "scales", "learn_zero_point", "batchnorm",
    "rounding",
)  # fmt: skip
RECIPE = (
    "epochs", "batch", "rate", "scale_rate", "warmup", "frozen", "distill", "features", "feature_tensors", "damping",
    "lower_from", "seed",
)  # fmt: skip


def train(args: argparse.Namespace) -> int:
    """Train, judge, write."""
    model = Path(args.model)
    output = Path(args.output) if args.output else model.parent / f"{model.stem}.int8.onnx"
    check_outputs(args, {"-o": output, "--save-state": args.save_state})
    quiet_libraries()
    source = load(args.model)
    spare(output, external_files(source))
    chosen = format_of(output, args.format)
    exporter_named(chosen)  # says what is missing, before the work
    recipe = {name: value for name in RECIPE if (value := getattr(args, name)) is not None}
    given = settings_of(args, "preprocess", "labels", "holdout", "limit", "target", "plan", "config")
    given |= {name: value for name in TRAINED if (value := getattr(args, name)) is not None}
    if given.get("weight_bits", "").isdecimal():
        given["weight_bits"] = int(given["weight_bits"])
    with progress_of(args) as progress:
        result, network = ready_loop.train(
            source, args.data, device=args.device, recipe=recipe, progress=progress, name=model.name, **given
        )
        progress("write", 0, None)
        said = result.save(output, chosen)
        if args.save_state:
            ready_loop.save_state(network, args.save_state)
    result = replace(result, notes=(*result.notes, *said))
    seen = inspect_draft(result.draft)
    if args.json:
        verified = None if result.verification is None else result.verification.to_json()
        more = {k: v for k, v in seen.to_json().items() if k != "tensors"}
        print_json({"output": str(output), "verification": verified, **more, "notes": list(result.notes)})
    elif not args.quiet:
        print_result(result.source, output, seen, result.verification, result.notes)
    return 0
