"""What commands print: sentences and tables that fit 80 columns, or one JSON object.

Lines are broken between words at the width of the terminal (80 where there is none); in tables, words that are too
long are folded, never cut.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING

from halfeven.wording import counted, share

if TYPE_CHECKING:
    from halfeven.bit_search import Search
    from halfeven.numerics.number import Spelled
    from halfeven.report.beside import Beside
    from halfeven.report.conform import Conformity
    from halfeven.report.differences import Comparison
    from halfeven.report.inspection import Inspection
    from halfeven.report.judging import Judgement
    from halfeven.report.simulate import Divergence
    from halfeven.report.survey import Survey
    from halfeven.report.verify import Verification

REASONS = 6
NOTES = 12
DIFFERENCES = 20
LOSS = ": integers would save less time than the conversions around them cost"


def print_json(data: object) -> None:
    """One object, and nothing else."""
    json.dump(data, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def say(text: str, indent: str = "") -> None:
    """A sentence, its further lines indented."""
    width = max(get_terminal_size().columns, 40) - 1
    print(fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def _remarks(kind: str, sentences: Iterable[str]) -> None:
    for text in sentences:
        say(f"{kind}: {text}", "  ")


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...], numbers: tuple[int, ...] = ()) -> None:
    """Columns under their heads; those at `numbers` are flush right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=any(head), pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for i, title in enumerate(head):
        justify = "right" if i in numbers else "left"
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(text) for text in row))
    console = Console(highlight=False, width=max(get_terminal_size().columns, 40))
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_result(
    source: str, output: Path, seen: "Inspection", verification: "Verification | None", notes: Sequence[str]
) -> None:
    """What became of a model, what it cost, and what stays float."""
    print(f"{source} -> {output}")
    if verification is not None:
        print_verification(verification)
    else:
        print("not compared with the float model")
    say(f"{seen.layers[0]} of {seen.layers[1]} layers quantized for {seen.target}")
    _print_floats([row for row in seen.reasons() if not row[1].startswith("shape and index")])
    print_notes(notes)


def print_notes(notes: Sequence[str]) -> None:
    """The first few notes, and how many more there are."""
    _remarks("note", notes[:NOTES])
    if len(notes) > NOTES:
        print(f"and {len(notes) - NOTES} more notes; --json has them all")


def print_verification(found: "Verification") -> None:
    """The cost in one sentence, the figures, the warnings."""
    say(found.sentence)
    print()
    _table(found.rows(), ("", "float", "INT8", ""), numbers=(1, 2))
    print()
    _remarks("warning", found.warnings)


def _print_floats(reasons: Sequence[tuple[int, str, str]], most: int = REASONS) -> None:
    if not reasons:
        return
    print("stays float:")
    for count, reason, example in reasons[:most]:
        why = reason + LOSS if reason.startswith("does not pay") else reason
        say(f"  {' ' * (4 - len(str(count)))}{counted(count, 'node')}: {why} ({example})", "       ")
    if len(reasons) > most:
        print(f"       and {len(reasons) - most} more; `halfeven inspect` lists all")


def print_inspection(seen: "Inspection", model: str, *, everything: bool) -> None:
    """What would be quantized, in counts; what stays float, by reason or (`everything`) one by one."""
    before, after = seen.weights
    print(f"{model} for {seen.target}")
    print(f"  layers   {seen.layers[0]} of {seen.layers[1]} become integer")
    print(f"  nodes    {seen.nodes[0]} of {seen.nodes[1]} become integer")
    print(f"  weights  {before / 1e6:.2f} MB -> {after / 1e6:.2f} MB ({after / max(before, 1):.2f} x)")
    _print_floats(seen.reasons(), len(seen.floats))
    if everything:
        print()
        _table([(name, op, why) for name, (op, why) in seen.floats.items()], ("float node", "operator", "reason"))
        print()
        _table(
            [(tensor, str(group), scheme) for tensor, scheme, group in seen.groups], ("tensor", "group", "scheme"), (1,)
        )
    _remarks("note", seen.notes)


def print_comparison(found: "Comparison", *, everything: bool) -> None:
    """Both as a whole, then the differences, the dearest first where they were measured."""
    first, second = found.names
    count = counted(len(found.differences), "difference")
    say(f"{first} and {second}: {count} in {counted(found.places, 'place')}")
    if found.samples:
        whole = " and ".join("no SQNR" if s is None else f"SQNR {_db(s)}" for s in found.whole)
        say(f"as a whole: {whole} against the float model (on {counted(found.samples, 'sample')})")
    shown = found.differences if everything else found.differences[:DIFFERENCES]
    if shown:
        print()
        head, rows = ("where", "what"), [(_places(one.places), "; ".join(one.texts)) for one in shown]
        if found.samples:
            figures = [tuple("" if s is None else _db(s) for s in one.alone) for one in shown]
            table = [(*row, *pair) for row, pair in zip(rows, figures, strict=True)]
            _table(table, (*head, "alone in A", "alone in B"), numbers=(2, 3))
        else:
            _table(rows, head)
        print()
    if len(shown) < len(found.differences):
        print(f"and {len(found.differences) - len(shown)} more; --all lists them")
    print_notes(found.notes)


def _places(places: Sequence[str]) -> str:
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{places[0]}{more}"


def _db(sqnr: float) -> str:
    return "exact" if sqnr == float("inf") else f"{sqnr:.1f} dB"


def print_formats(number: str, rows: "Sequence[Spelled]") -> None:
    """A number in its formats: values first, then bits."""
    print(number)
    print()
    values = [(r.format, r.value, "" if r.error is None else f"{r.error:.3g}", r.below, r.above) for r in rows]
    _table(values, ("", "value", "error", "next below", "next above"), numbers=(2,))
    print()
    _table([(r.format, r.hex, r.bits, r.formula) for r in rows], ("", "hex", "bits", "value"))


def print_search(model: str, output: Path, kept: Path, found: "Search") -> None:
    """The choice, beside uniform widths; the front; where things are."""
    print(f"{model} -> {output}")
    say(f"{found.sentence}, of {counted(len(found.widths), 'weight')} for {found.target}")
    measured, judged = found.samples
    print()
    rows = [(p.name, f"{p.bits:.2f}", _db(p.predicted_db), _db(p.measured_db or 0.0)) for p in found.compared()]
    _table(rows, ("weights of", "mean bits", "predicted SQNR", "measured SQNR"), numbers=(1, 2, 3))
    print()
    _table(
        [(f"{p.bits:.2f}", _db(p.predicted_db)) for p in found.shown_front()],
        ("mean bits", "best predicted SQNR"),
        numbers=(0, 1),
    )
    print()
    say(
        f"predicted from {counted(measured, 'sample')}, one weight at a time; measured on {counted(judged, 'sample')} "
        "held out; weights alone, activations in float"
    )
    say(f"sensitivities are kept in {kept}: another --budget costs no further measuring")
    print_notes(found.notes)


def print_conformity(model: str, found: "Conformity", *, everything: bool) -> None:
    """A sentence for each runtime, a table of their outputs, and (`everything`) the tensors that differ."""
    print(f"{model} on {counted(found.samples, 'sample')}")
    for one in found.runtimes:
        say(one.sentence, "  ")
        _remarks("  note", one.notes)
    print()
    head = ("runtime", "codes", "differ", "outputs beside ONNX Runtime", "same top-1", "accuracy")
    _table([_beside(one) for one in found.runtimes if not one.refused], head, numbers=(1, 2))
    for one in found.runtimes:
        _divergences(list(one.tensors.values()), everything)


def _beside(one: "Beside") -> tuple[str, ...]:
    effect = one.effect
    db = "" if effect.fidelity is None else f"{effect.fidelity.sqnr_db:.1f} dB"
    return (
        one.runtime,
        f"{one.compared:,}" if one.tensors else "",
        f"{one.differing:,}" if one.tensors else "",
        "equal" if db == "inf dB" else db,
        f"{effect.equal} of {effect.rows}" if effect.rows else "",
        f"{100 * effect.hits[1] / effect.labelled:.1f} %" if effect.labelled else "",
    )


def print_simulation(found: "Judgement", *, everything: bool) -> None:
    """Where two machines part, what their outputs become, and what to do."""
    effect = found.effect
    say(found.simulation.sentence)
    if effect.fidelity is not None and effect.fidelity.sqnr_db < float("inf"):
        say(f"outputs: {effect.fidelity.sqnr_db:.1f} dB beside those of {found.simulation.against}")
    if effect.rows:
        print(f"same top-1: {effect.equal} of {effect.rows}")
    if effect.labelled:
        ours, theirs = effect.hits[1], effect.hits[0]
        print(f"right: {ours} of {effect.labelled}, {theirs} there")
    _remarks("note", found.simulation.notes)
    told, option = found.advised(everything=everything)
    if told:
        _advice(f"advice: {told}", option)
    for what, held in (("saturate", found.simulation.saturating), ("wrap", found.simulation.wrapping)):
        layers = sorted(held.items(), key=lambda item: -item[1])
        shown = layers if everything else layers[:NOTES]
        if shown:
            print()
            _table([(name, f"{count:,}") for name, count in shown], (f"layer that can {what}", "pairs"), numbers=(1,))
        if len(layers) > len(shown):
            print(f"and {len(layers) - len(shown)} more; --all lists them")
    _divergences(list(found.simulation.tensors.values()), everything)


def _advice(text: str, option: str) -> None:
    """Sentences, and the option that they end in: in one line, however long, to be copied."""
    say(text, "  ")
    if option:
        print(f"  {option}")


def print_survey(model: str, found: "Survey", *, everything: bool) -> None:
    """A row for each machine, then why others cannot run it, and what to do."""
    print(f"{model} on {counted(found.samples, 'sample')}; each machine beside {found.against}")
    print()
    judged = [row.judgement for row in found.rows if row.judgement is not None]
    head = ("machine", "tensors", "first", "steps", "outputs", "same top-1", "accuracy")
    _table([_row(one) for one in judged], head, numbers=(1, 2, 3, 4, 5, 6))
    print()
    print("tensors: how many have codes that differ; first, steps: of the first of them the share, by how much")
    parted = [one.simulation for one in judged if one.simulation.first is not None]
    layers = dict.fromkeys(s.first.layer for s in parted if s.first is not None)
    for layer in layers:
        names = [s.profile for s in parted if s.first is not None and s.first.layer == layer]
        say(f"first at '{layer}': {', '.join(names)}", "  ")
    for why, profiles in found.refusals.items():
        say(f"{', '.join(profiles)} cannot run it: {why}", "  ")
    for (why, option), profiles in found.remarks(everything=everything).items():
        _advice(f"{', '.join(profiles)}: {why}", option)
    for one in judged if everything else ():
        if one.parted:
            print(f"\n{one.simulation.profile}")
            _divergences(one.parted, everything)


def _row(one: "Judgement") -> tuple[str, ...]:
    simulation, effect = one.simulation, one.effect
    first, db = simulation.first, None if effect.fidelity is None else effect.fidelity.sqnr_db
    return (
        simulation.profile,
        f"{len(one.parted)} of {len(simulation.tensors)}",
        "" if first is None else share(first.differing, first.compared).replace("below ", "<"),
        "" if first is None else str(first.step),
        "" if db is None else "equal" if db == float("inf") else f"{db:.1f} dB",
        f"{effect.equal} of {effect.rows}" if effect.rows else "",
        f"{100 * effect.hits[1] / effect.labelled:.1f} %" if effect.labelled else "",
    )


def _divergences(tensors: Sequence["Divergence"], everything: bool) -> None:
    """The tensors that differ, the first few unless all are asked for."""
    differing = [d for d in tensors if d.differing]
    if not differing or not everything:
        return
    print()
    made = [
        (d.layer, f"{d.differing:,}", f"{d.compared:,}", share(d.differing, d.compared), str(d.step)) for d in differing
    ]
    _table(made, ("layer whose output differs", "codes", "of", "rate", "steps"), numbers=(1, 2, 3, 4))
