"""The command `halfeven plot`: pictures of activations, weights and the mapping of one tensor."""

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

from halfeven import api
from halfeven.cli import step_options
from halfeven.commands import progress_of, quiet_libraries, settings_of
from halfeven.errors import BadOption
from halfeven.feeding import open_data
from halfeven.options import read_config
from halfeven.printing import print_json, say
from halfeven.report.plots import plot_activations, plot_weights
from halfeven.report.plots_canvas import need_matplotlib
from halfeven.report.plots_mapping import check_tensor, plot_mapping, values_of
from halfeven.wording import counted


def plot(args: argparse.Namespace) -> int:
    """`halfeven plot`."""
    need_matplotlib()
    if args.samples < 1 or args.layers < 1:
        raise BadOption("--samples and --layers: expected whole numbers of at least 1.")
    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise BadOption(f"-o '{folder}' is a file; give the name of a folder.")
    quiet_libraries()
    with progress_of(args) as progress:
        settings: dict[str, Any] = settings_of(args, "target", "preprocess", "limit", "config")
        if args.tensor:
            before = {key: value for key, value in settings.items() if key != "limit"}
            check_tensor(
                api.inspect(args.model, args.data, progress=progress, **before, **step_options(args))[1], args.tensor
            )
        _make(folder)
        result = api.quantize(
            args.model, args.data, verify=False, skip=("gptq",), progress=progress, **settings, **step_options(args)
        )
        if "config" in settings:
            settings = {**read_config(settings["config"], api.SETTINGS)[0], **settings}
        draft, suffix = result.draft, args.picture
        values = values_of(draft, args.tensor or "")
        samples = list(islice(open_data(draft.model, args.data, settings, held_out=False).calibration, args.samples))
        progress("draw", 0, None)
        paths = [
            *plot_activations(draft, samples, folder, suffix),
            *plot_weights(draft, folder, suffix, args.layers),
            *plot_mapping(values, folder, suffix),
        ]
    if args.json:
        print_json({"files": [str(path) for path in paths], "samples": [label for label, _ in samples]})
    elif not args.quiet:
        say(f"{counted(len(paths), 'picture')} of {counted(len(samples), 'sample')} in {folder}:")
        for path in paths:
            print(f"  {path.name}")
    return 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadOption(f"-o '{folder}': the folder cannot be made ({error.strerror}). Choose another.") from error
