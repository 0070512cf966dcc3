"""Where a network that is trained came from, and the way back to a draft.

An `Origin` is plain data, so that a network can be copied and pickled: the float graph as ONNX bytes, the target's
name, and the plan as JSON. `draft_of` puts the trained weights and scales back into both; what is exported is that
draft, so nothing stands between training and the file.
"""

import json
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.graph.plan import Plan
from halfeven.targets import target_named
from halfeven.training.network import QuantizedNetwork
from halfeven.training.program import constants_of, program_of


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


def network_of(draft: Draft, *, learn_scale: bool = True, learn_zero_point: bool = False) -> QuantizedNetwork:
    """The network that trains a calibrated draft.

    Raises:
        UnsupportedModel: an operator that PyTorch does not run here.
        BadOption: a group of the plan has no parameters.
    """
    program, constants = program_of(draft.model, draft.plan), constants_of(draft.model)
    network = QuantizedNetwork(
        program, constants, draft.plan.groups, learn_scale=learn_scale, learn_zero_point=learn_zero_point
    )
    network.origin = Origin.of(draft)
    return network


def draft_of(network: QuantizedNetwork) -> Draft:
    """The draft with the weights and scales that the network has now.

    Raises:
        BadOption: training has made a scale or a weight infinite or NaN; it is named.
    """
    draft = network.origin.draft()
    values = {
        v.name: v for graph in (draft.model.graph, *draft.model.graph.subgraphs()) for v in graph.initializers.values()
    }
    for name, weight in network.weights().items():
        if not bool(weight.isfinite().all()):
            raise BadOption(f"Weight '{name}' is not finite any more: training diverged. Lower the learning rate.")
        values[name].const_value = ir.tensor(weight.detach().cpu().float().numpy().copy(), name=name)
    groups = {}
    for group, quantizer in draft.plan.groups.items():
        trained = quantizer.role != "bias"
        groups[group] = replace(quantizer, params=network.quantizer(group).to_params()) if trained else quantizer
    return replace(draft, plan=replace(draft.plan, groups=groups))
