"""FollowPlan: a plan made before, edited perhaps, instead of placing anew.

A node that the plan lists in `floats` is float in the file: what the plan quantizes around it goes.

    inputs, weights, bias      their sites at the node go
    output                     each integer reader quantizes it for itself, with the scale it had
    what the layer had fused   an activation behind a layer listed is float with it; before one that is listed the layer
                               gets a scale for what it hands on
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import onnx_ir as ir

from halfeven.draft import Draft, Progress, Samples
from halfeven.errors import BadOption
from halfeven.graph import ops
from halfeven.graph.plan import DYNAMIC, FOUND, LPBQ, Plan, Quantizer, Site
from halfeven.stats.estimate import METHODS
from halfeven.wording import counted

UNCORRECTED = (
    "biases are as in the model: the plan does not say whether it was made without data, where they are corrected for "
    "rounded weights; to have that, quantize without --plan"
)
OTHER = "The plan is of another model or another version of it."


@dataclass(frozen=True)
class FollowPlan:
    """Take a plan instead of placing; it must be of this model."""

    name: ClassVar[str] = "follow plan"
    plan: Plan
    uncorrected: bool = False
    """Whether a run without a plan would now correct biases (steps/correct.py)."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with the plan.

        Raises:
            BadOption: the plan names a value, a node, an input of a node or a method that there is not.
        """
        _refuse_strangers(draft.model, self.plan)
        for group, quantizer in self.plan.groups.items():
            _refuse_method(self.plan, group, quantizer)
        plan, changed = with_floats(draft.model, self.plan)
        followed = replace(draft, plan=plan).noting(*_said(self.plan, changed))
        return followed.noting(UNCORRECTED) if self.uncorrected and not self.plan.scaling else followed


def _refuse_strangers(model: ir.Model, plan: Plan) -> None:
    """Everything that the plan names must be in the model."""
    nodes = {node.name or "": node for node in model.graph.all_nodes()}
    values = {v.name for n in model.graph for v in n.outputs} | {v.name for v in model.graph.inputs}
    values |= set(model.graph.initializers)
    for site in plan.sites:
        if site.value not in values or (site.consumer and site.consumer not in nodes):
            raise BadOption(f"--plan: the model has no {site}. {OTHER}")
        inputs = nodes[site.consumer].inputs if site.consumer else ()
        read = {port for port, value in enumerate(inputs) if value is not None and value.name == site.value}
        if site.consumer and site.port not in read:
            at = f"it does so at {', '.join(map(str, sorted(read)))}" if read else OTHER
            raise BadOption(f"--plan: node '{site.consumer}' does not read '{site.value}' at input {site.port}; {at}")
    for name in plan.floats:
        if name not in nodes:
            raise BadOption(f"--plan: `floats` lists '{name}', but the model has no such node. {OTHER}")


def _refuse_method(plan: Plan, group: int, quantizer: Quantizer) -> None:
    """A method must be one of calibration; of weights and biases there is one."""
    method, weight = quantizer.method, quantizer.role != "activation"
    known = ("minmax",) if weight else (*METHODS, DYNAMIC)
    if method in ("", *known) or (method in FOUND and not weight):
        return
    if method == LPBQ and quantizer.role == "weight" and quantizer.params is not None:
        return
    where = next((f" ({site})" for site in plan.members(group)), "")
    if method == LPBQ and quantizer.role == "weight":
        raise BadOption(
            f"--plan: group {group}{where} has the method '{LPBQ}' and no `params`; such scales are chosen with "
            "--block-scales integer, not by a plan. Put the `params` back, or take the `method` out."
        )
    what = f"the method of a {quantizer.role} is minmax" if weight else f"choose one of {', '.join(METHODS)}"
    raise BadOption(f"--plan: group {group}{where} has the method '{method}'; {what}.")


def _said(plan: Plan, changed: Iterable[str]) -> Iterator[str]:
    """What a reader of the plan must know."""
    pinned = sum(q.params is not None and q.role == "activation" and bool(q.method) for q in plan.groups.values())
    if pinned:
        yield (
            f"{counted(pinned, 'activation scale')} of the plan are kept as they are, whatever `method` says beside "
            "them; take the `params` out of a group to have it calibrated by that method"
        )
    names = list(changed)
    if names:
        shown = ", ".join(f"'{name}'" for name in names[:3]) + (", ..." if len(names) > 3 else "")
        nodes = counted(len(names), "node")
        yield f"the plan quantizes what its `floats` lists: {nodes} now float in the file ({shown})"


def with_floats(model: ir.Model, plan: Plan) -> tuple[Plan, list[str]]:
    """The plan without what it quantizes around the nodes that it lists in `floats`.

    Args:
        model: Prepared; the plan's.
        plan: One that placement made is given back as it is.

    Returns:
        The plan, and the nodes at which it changed, in the order of the graph.
    """
    edit = _Edit(model, dict(plan.groups), dict(plan.sites), dict(plan.floats))
    for node in model.graph:
        edit.visit(node)
    if not edit.changed:
        return plan, []
    used = set(edit.sites.values())
    groups = {group: quantizer for group, quantizer in edit.groups.items() if group in used}
    return replace(plan, groups=groups, sites=edit.sites, floats=edit.floats), edit.changed


@dataclass
class _Edit:
    """A plan while nodes become float."""

    model: ir.Model
    groups: dict[int, Quantizer]
    sites: dict[Site, int]
    floats: dict[str, str]
    changed: list[str] = field(default_factory=list)

    def visit(self, node: ir.Node) -> None:
        """Make the node float, if it is listed, or was part of a layer that is."""
        name = node.name or ""
        before = self._fused_to(node)
        if name not in self.floats and before is not None and (before.name or "") in self.changed:
            self.floats[name] = f"its layer '{before.name}' is float"
        own = [site for site in self.sites if site.consumer == name]
        shared = [v for v in node.outputs if Site(v.name or "") in self.sites]
        if name not in self.floats or not (own or shared):
            return
        if before is not None and shared and any(site.consumer == before.name for site in self.sites):
            self._hand_on(before, self.groups[self.sites[Site(shared[0].name or "")]])
        for site in own:
            del self.sites[site]
        for value in shared:
            self._by_reader(value)
        self.changed.append(name)

    def _fused_to(self, node: ir.Node) -> ir.Node | None:
        """What makes the node's only activation, if no quantizer stands between the two."""
        ports = ops.data_ports(node)
        value = node.inputs[ports[0]] if len(ports) == 1 else None
        sites = () if value is None else (Site(value.name or ""), Site(value.name or "", node.name or "", ports[0]))
        return None if value is None or any(site in self.sites for site in sites) else value.producer()

    def _hand_on(self, layer: ir.Node, like: Quantizer) -> None:
        """Give a layer whose activation leaves it a scale of its own for its output."""
        group = max(self.groups) + 1
        self.groups[group] = replace(like, params=None, method="", reason=f"output of {layer.op_type} '{layer.name}'")
        self.sites[Site(layer.outputs[0].name or "")] = group

    def _by_reader(self, value: ir.Value) -> None:
        """Where a value was quantized for all readers, let each that is integer do it for itself."""
        group = self.sites.pop(Site(value.name or ""))
        for use in value.uses():
            reader = use.node
            integer = reader.graph is self.model.graph and (reader.name or "") not in self.floats
            if integer and use.idx in ops.data_ports(reader):
                self.sites.setdefault(Site(value.name or "", reader.name or "", use.idx), group)
