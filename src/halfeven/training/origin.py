"""Where a network that is trained came from, and the way back to a draft.

An `Origin` is plain data, so that a network can be copied and pickled: the float graph as ONNX bytes, the target's
name, and the plan as JSON. `draft_of` puts the trained weights and scales back into both; what is exported is that
draft, so nothing stands between training and the file.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

import onnx
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.graph.plan import Plan
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import QParams
from halfeven.targets import target_named
from halfeven.training.batchnorm import Kind, LiveNorm, Normed, live_norms
from halfeven.training.derived import derived
from halfeven.training.network import QuantizedNetwork, Scales
from halfeven.training.program import Constants, Program, constants_of, program_of, tensor_of
from halfeven.training.pytorch import Tensor, torch


@dataclass(frozen=True)
class Origin:
    """A float graph, a target and a calibrated plan."""

    model: bytes
    target: str
    plan: str

    @classmethod
    def of(cls, draft: Draft) -> "Origin":
        """Of a calibrated draft.

        Raises:
            BadOption: the model is larger than one ONNX message can be (2 GB).
        """
        proto = ir.to_proto(draft.model)
        if proto.ByteSize() >= 2**31:
            raise BadOption("Training holds the network in one message of at most 2 GB; this one is larger.")
        return cls(proto.SerializeToString(), draft.target.name, json.dumps(draft.plan.to_json()))

    def draft(self) -> Draft:
        """The draft as it was."""
        model = ir.from_proto(onnx.load_model_from_string(self.model))
        return Draft(model, target_named(self.target), Plan.from_json(json.loads(self.plan)))


def network_of(
    draft: Draft,
    source: ir.Model | None = None,
    *,
    batchnorm: Kind | Literal["folded"] = "krishnamoorthi",
    scales: Scales = "log",
    learn_zero_point: bool = False,
) -> QuantizedNetwork:
    """The network that trains a calibrated draft.

    Args:
        draft: With parameters for every group.
        source: The float model that the draft was prepared from; with it BatchNormalization behind a convolution is
            kept alive, as `batchnorm` says (see `training.batchnorm`), unless that is "folded".
        batchnorm: What becomes of BatchNormalization.
        scales: How scales are trained: "log", "linear" or "fixed".
        learn_zero_point: Whether zero points are.

    Raises:
        UnsupportedModel: an operator that PyTorch does not run here.
        BadOption: a group of the plan has no parameters.
    """
    program, constants = program_of(draft.model, draft.plan), constants_of(draft.model)
    norms: dict[str, LiveNorm] = {}
    if source is not None:
        found, before = live_norms(source, draft.model) if batchnorm != "folded" else ({}, source)
        constants = _unfolded(constants, draft.model, found, before)
        norms = {name: LiveNorm(norm, cast("Kind", batchnorm)) for name, norm in found.items()}
        program, constants = _rooted(program, constants, source)
    network = QuantizedNetwork(
        program, constants, draft.plan.groups, norms, scales=scales, learn_zero_point=learn_zero_point
    )
    network.origin = Origin.of(draft)
    return network


def _rooted(program: Program, constants: Constants, source: ir.Model) -> tuple[Program, Constants]:
    """The program beginning at the tensors of the source: weights that preparing made of others are made anew."""
    parts = derived(source, constants.trained.keys())
    trained = {n: t for n, t in constants.trained.items() if n not in parts.made | parts.unlearned} | parts.weights
    fixed = {**constants.fixed, **parts.settings, **{n: constants.trained[n] for n in parts.unlearned}}
    return replace(program, preamble=parts.instructions), Constants(trained, fixed)


def _unfolded(constants: Constants, folded: ir.Model, norms: Mapping[str, Normed], before: ir.Model) -> Constants:
    """Constants with the tensors of layers and normalizations in place of those folded from them."""
    gone = {
        value.name
        for node in folded.graph
        if node.name in norms
        for value in node.inputs[1:3]
        if value is not None and len(value.uses()) == 1
    }
    trained = {name: tensor for name, tensor in constants.trained.items() if name not in gone}
    fixed = {name: tensor for name, tensor in constants.fixed.items() if name not in gone}
    for norm in norms.values():
        for name in norm.tensors:
            tensor = before.graph.initializers[name].const_value
            assert tensor is not None
            trained[name] = tensor_of(tensor)
    return Constants(trained, fixed)


def draft_of(network: QuantizedNetwork) -> Draft:
    """The draft with the weights and scales that the network has now.

    Raises:
        BadOption: training has made a scale or a weight infinite or NaN; it is named.
    """
    draft: Draft = network.origin.draft()
    graphs = (draft.model.graph, *draft.model.graph.subgraphs())
    values = {v.name: v for graph in graphs for v in graph.initializers.values()}
    for name, weight in _trained(network, draft).items():
        if not bool(weight.isfinite().all()):
            raise BadOption(f"Weight '{name}' is not finite any more: training diverged. Lower the learning rate.")
        values[name].const_value = ir.tensor(weight.detach().cpu().float().numpy().copy(), name=name)
    groups = dict(draft.plan.groups)
    for group, quantizer in groups.items():
        if quantizer.role != "bias":
            params = cast("QParams[IntGrid]", network.quantizer(group).to_params())
            groups[group] = replace(quantizer, params=params)
    return replace(draft, plan=replace(draft.plan, groups=groups))


def _trained(network: QuantizedNetwork, draft: Draft) -> dict[str, Tensor]:
    """The tensors of the folded graph: those trained as they are, and those folded now as in evaluation."""
    with torch.no_grad():
        made = network.derived()
    tensors, live = {**network.weights(), **made}, network.live_norms()
    known = {name for graph in (draft.model.graph, *draft.model.graph.subgraphs()) for name in graph.initializers}
    alone = {name for norm in live.values() for name in norm.norm.tensors}
    found = {name: tensor for name, tensor in tensors.items() if name not in alone and name in known}
    for node in draft.model.graph:
        norm = live.get(node.name or "")
        if norm is not None:
            with torch.no_grad():
                parts = norm.folded(
                    network.tensors(norm.norm, made), tensors[norm.norm.mean], tensors[norm.norm.variance]
                )
            found.update({v.name or "": part for v, part in zip(node.inputs[1:3], parts, strict=True) if v is not None})
    return found
