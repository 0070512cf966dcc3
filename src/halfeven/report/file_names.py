"""A .tflite file's network beside the ONNX network that it was written from: names and layouts made the same.

    values    a tensor of codes is called X_quantized in the file, where the network has a site of X
    nodes     an operator is named after what it makes; of a constant with one reader at a port in both, it is that node
    moved     codes that the file moves once more (a Pad, a Transpose) have parameters that both have: they are no place
    feeds     a file's axes of four are channels last: what it takes and gives is fitted as for its runtime

A name that the other side has is left as it is, so other networks are not taken for this one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from halfeven.draft import Batch
from halfeven.graph.plan import Plan, Site
from halfeven.numerics.scheme import QParams
from halfeven.report.sides import SUFFIX
from halfeven.run.litert import Port
from halfeven.run.ort import OrtExecutor
from halfeven.run.runtimes import RUNTIMES, Fitted

Ends = Mapping[tuple[str, int], set[str]]


def named_as(plan: Plan, other: Plan) -> Plan:
    """The plan of a file with its places called as those of another plan, where that has them; groups are kept."""
    theirs, ours = ({site.value for site in one.sites} for one in (other, plan))
    names = {
        name: bare
        for name in ours
        if (bare := name.removesuffix(SUFFIX)) != name and name not in theirs and bare in theirs - ours
    }
    own = {site: group for site, group in plan.sites.items() if not _moved(site, plan, names, theirs)}
    valued = {replace(site, value=names.get(site.value, site.value)): group for site, group in own.items()}
    mine, known = _ends(valued), _ends(other.sites)
    return replace(plan, sites={_read_as(site, mine, known): group for site, group in valued.items()})


def _moved(site: Site, plan: Plan, names: Mapping[str, str], theirs: set[str]) -> bool:
    """Whether a value of the file alone holds codes of both, moved: its name begins with that of one of equal scale."""
    if site.value in names or site.value in theirs:
        return False
    params = plan.groups[plan.sites[site]].params
    both = {*names, *theirs}
    sources = [one for one in plan.sites if one.value in both and site.value.startswith(f"{one.value}_")]
    return any(_alike(params, plan.groups[plan.sites[one]].params) for one in sources)


def _alike(one: QParams | None, other: QParams | None) -> bool:
    if one is None or other is None:
        return False
    pairs = ((one.scale, other.scale), (one.zero_point, other.zero_point))
    return all(np.array_equal(a.ravel(), b.ravel()) for a, b in pairs)


def _ends(sites: Mapping[Site, int]) -> Ends:
    """The consumers of each value at each port."""
    found: dict[tuple[str, int], set[str]] = {}
    for site in sites:
        if site.consumer:
            found.setdefault((site.value, site.port), set()).add(site.consumer)
    return found


def _read_as(site: Site, mine: Ends, known: Ends) -> Site:
    """The site, its consumer called as the only one there is on the other side."""
    place = site.value, site.port
    if site.consumer and len(mine[place]) == len(known.get(place, ())) == 1:
        return replace(site, consumer=next(iter(known[place])))
    return site


@dataclass(frozen=True, eq=False)
class _Ported:
    """An ONNX network with the ports of the file that it was read from."""

    model: ir.Model
    run: OrtExecutor

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What it takes."""
        fed = [value for value in self.model.graph.inputs if value.name not in self.model.graph.initializers]
        return tuple(_port(value) for value in fed)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What it gives."""
        return tuple(_port(value) for value in self.model.graph.outputs)

    def __call__(self, feeds: Batch) -> Batch:
        """Run once."""
        return self.run(feeds)


def _port(value: ir.Value) -> Port:
    shape = tuple(n if isinstance(n, int) else 1 for n in value.shape or ())
    return Port(value.name or "", shape, (value.dtype or ir.DataType.FLOAT).numpy())


def as_source(model: ir.Model, source: ir.Model) -> Fitted:
    """The network of a file, to be called as the float model `source` is."""
    takes = tuple(v.name or "" for v in source.graph.inputs if v.name not in source.graph.initializers)
    gives = tuple(v.name or "" for v in source.graph.outputs)
    return Fitted(_Ported(model, OrtExecutor(model)), RUNTIMES[".tflite"], takes, gives)


def fed_as(model: ir.Model, source: ir.Model, data: Sequence[tuple[str, Batch]]) -> list[tuple[str, Batch]]:
    """Samples of the float model as the network of a file takes them."""
    fitted = as_source(model, source)
    return [(label, fitted.fed(feeds)) for label, feeds in data]
