"""The entries of a table: a calibrated draft, tensor by tensor.

    activation    one entry for each value that is quantized, in the order of the graph
    weight        one for each constant of a layer, and each constant operand, in the order of their readers
    bias          scale = input scale * weight scale, derived as it is for the device

A table speaks of a float model. That is not the file a user began with: BatchNorm is folded, channels are equalized,
weights are rounded. So it is written beside the table, as TABLE.float.onnx, and the names in the table are its own.
"""

from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import UnsupportedByTarget
from halfeven.files import write_text
from halfeven.graph.biases import bias_params
from halfeven.graph.bits import stored_grid
from halfeven.graph.encodings import Encoding
from halfeven.graph.plan import DYNAMIC, Quantizer, Site
from halfeven.graph.saving import save, spare
from halfeven.numerics.scheme import QParams
from halfeven.run.specs import external_files
from halfeven.targets.check import refuse
from halfeven.wording import counted


def entries_of(draft: Draft) -> list[Encoding]:
    """The entries of a calibrated draft.

    Raises:
        UnsupportedByTarget: a group has no parameters; a tensor has different ones for different readers, which a
            table, knowing names alone, cannot say; or the target cannot run the plan.
    """
    refuse(draft.target, draft.model, draft.plan)
    order = {name: i for i, name in enumerate(_names(draft.model))}
    nodes = {node.name or "": node for node in draft.model.graph}
    sites: dict[str, list[Site]] = {}
    for site in sorted(draft.plan.sites, key=lambda s: (order.get(s.value, -1), s.value, s.consumer, s.port)):
        if draft.plan.groups[draft.plan.sites[site]].method != DYNAMIC:
            sites.setdefault(site.value, []).append(site)
    return [_entry(draft, name, places, nodes) for name, places in sites.items()]


def activations_of(entries: list[Encoding], what: str) -> list[Encoding]:
    """The entries of activations, for a table that holds no others.

    Raises:
        UnsupportedByTarget: there is none, so that the table would say nothing.
    """
    found = [entry for entry in entries if entry.role == "activation"]
    if not found:
        raise UnsupportedByTarget(
            f"No activation of the network has a scale, and {what} holds no others: nothing would be written. Quantize "
            "with --mode static, or choose a format that holds weights."
        )
    return found


def of_codes(entries: list[Encoding], what: str, bits: int = 8, *, reduced: bool = False) -> None:
    """Refuse activations and weights that are not of so many bits; `reduced`: but for weights stored in as many.

    Raises:
        UnsupportedByTarget: names the tensor and what it is.
    """
    for entry in entries:
        grid = entry.params.scheme.grid
        held = stored_grid(grid) if reduced and entry.role == "weight" else grid
        if entry.role != "bias" and held.bits != bits:
            raise UnsupportedByTarget(
                f"'{entry.name}' is {entry.params.scheme}; {what} holds {bits} bits only. Choose another format, or "
                "change the plan."
            )


def write_table(draft: Draft, path: Path, text: str) -> list[str]:
    """Write a table and, beside it, the float model that its names are of; the sentences that say so."""
    beside = path.with_name(f"{path.name}.float.onnx")
    spare(beside, external_files(draft.model))
    save(draft.model, beside)
    write_text(path, text)
    notes = [
        f"the names in '{path.name}' are those of '{beside.name}', written beside it: the float network as it was "
        "calibrated, BatchNorm folded and channels equalized"
    ]
    dynamic = sum(draft.plan.groups[g].method == DYNAMIC for g in draft.plan.sites.values())
    if dynamic:
        notes.append(
            f"{counted(dynamic, 'activation')} quantized anew in each run, not in the table: no scale is known"
        )
    return notes


def reads_codes(draft: Draft, node: ir.Node) -> bool:
    """Whether a node reads some activation as codes."""
    found = (draft.plan.seen_by(v.name or "", node.name or "", i) for i, v in enumerate(node.inputs) if v is not None)
    return any(quantizer is not None and quantizer.role == "activation" for quantizer in found)


def without_biases(entries: list[Encoding]) -> tuple[list[Encoding], list[str]]:
    """The entries that are no bias, and the sentence that says how many were left out."""
    kept = [entry for entry in entries if entry.role != "bias"]
    left = len(entries) - len(kept)
    why = "the format has no biases; the device derives input scale * weight scale"
    return kept, [f"{counted(left, 'bias tensor')} left out: {why}"] if left else []


def _names(model: ir.Model) -> Iterator[str]:
    """Values in the order of the graph; constants where they are first read."""
    yield from (value.name or "" for value in model.graph.inputs)
    for node in model.graph:
        yield from (v.name or "" for v in node.inputs if v is not None and v.producer() is None)
        yield from (v.name or "" for v in node.outputs)


def _entry(draft: Draft, name: str, sites: list[Site], nodes: dict[str, ir.Node]) -> Encoding:
    first, *others = [(site, *_params(draft, site, nodes)) for site in sites]
    for site, quantizer, params in others:
        if quantizer.role != first[1].role or not _same(params, first[2]):
            raise UnsupportedByTarget(
                f"'{name}' is quantized in one way for {first[0]} and in another for {site}; a table of scales knows "
                "one for each tensor. Give both the same in the plan, or choose --format qdq."
            )
    role, params = first[1].role, first[2]
    everyone = role == "activation" and any(not site.consumer for site in sites)
    return Encoding(name, params, role, () if everyone else tuple((site.consumer, site.port) for site in sites))


def _params(draft: Draft, site: Site, nodes: dict[str, ir.Node]) -> tuple[Quantizer, QParams]:
    quantizer = draft.plan.groups[draft.plan.sites[site]]
    if quantizer.role == "bias":
        return quantizer, bias_params(draft.plan, nodes[site.consumer], quantizer)
    if quantizer.params is None:
        raise UnsupportedByTarget(f"{site} has no scale: run Calibrate before the export.")
    return quantizer, quantizer.params


def _same(a: QParams, b: QParams) -> bool:
    return (
        a.scheme == b.scheme
        and a.scale.tobytes() == b.scale.tobytes()
        and a.zero_point.tobytes() == b.zero_point.tobytes()
    )
