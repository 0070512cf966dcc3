"""Where a network that is trained came from, and the way back to a draft.

An `Origin` is plain data, so that a network can be copied and pickled: the float graph as ONNX bytes, the target's
name, the plan as JSON, and the shapes of one sample, which formats with fixed lengths need. `draft_of` puts the trained
weights and scales back into both graph and plan; what is exported is that draft, so nothing stands between training and
the file.

Where training has other codes than the file (`graph.weight_codes`), the file's plan is that of the origin. It gets the
trained scale; a weight gets the values it has in training, which are codes of the file times that scale; an activation
gets a Clip to the ends of its codes.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import onnx
import onnx_ir as ir

from halfeven.draft import Draft
from halfeven.errors import BadOption
from halfeven.graph.bits import clip_wires
from halfeven.graph.plan import Plan, Site
from halfeven.graph.weights import array_at, put_constant
from halfeven.numerics.grid import Grid, IntGrid
from halfeven.numerics.scheme import QParams, Scheme
from halfeven.targets import target_named
from halfeven.training.batchnorm import Kind, LiveNorm, LoneNorm
from halfeven.training.biases import with_biases
from halfeven.training.derived import derived, is_weight
from halfeven.training.methods import idle_methods, step_of
from halfeven.training.network import QUANTIZERS, QuantizedNetwork, Rounds
from halfeven.training.normed import Normed, norms_of
from halfeven.training.planned import Scales
from halfeven.training.program import Constants, Program, constants_of, program_of, tensor_of
from halfeven.training.pytorch import Tensor, torch
from halfeven.training.watch import bad_parameter, readers_of
from halfeven.wording import counted


@dataclass(frozen=True)
class Origin:
    """A float graph, a target, a calibrated plan, and shapes by value name."""

    model: bytes
    target: str
    plan: str
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, draft: Draft) -> "Origin":
        """Of a calibrated draft.

        Raises:
            BadOption: the model is larger than one ONNX message can be (2 GB).
        """
        proto = ir.to_proto(draft.model)
        if proto.ByteSize() >= 2**31:
            raise BadOption("Training holds the network in one message of at most 2 GB; this one is larger.")
        return cls(proto.SerializeToString(), draft.target.name, json.dumps(draft.plan.to_json()), dict(draft.shapes))

    def draft(self) -> Draft:
        """The draft as it was."""
        model = ir.from_proto(onnx.load_model_from_string(self.model))
        return Draft(model, target_named(self.target), Plan.from_json(json.loads(self.plan)), shapes=self.shapes)


def network_of(
    draft: Draft,
    source: ir.Model | None = None,
    *,
    batchnorm: Kind | Literal["folded"] = "krishnamoorthi",
    scales: Scales = "log",
    learn_zero_point: bool = False,
    method: str = "lsq",
    codes: Mapping[int, QParams[Grid]] | None = None,
    rounding: Rounds = "file",
    parameters: Collection[str] = (),
) -> QuantizedNetwork:
    """The network that trains a calibrated draft.

    Args:
        draft: With parameters for every group.
        source: The float model that the draft was prepared from; with it BatchNormalization is
            kept alive, as `batchnorm` says (see `training.batchnorm`), unless that is "folded".
        batchnorm: What becomes of BatchNormalization.
        scales: How scales are trained: "log", "linear", "fixed" or "moving".
        learn_zero_point: Whether zero points are.
        method: Names of `training.methods`, joined by "+".
        codes: Parameters of the groups that are trained with other codes than the draft's.
        rounding: Whose rule breaks the ties of feature maps, the "file"'s or the target "device"'s.
        parameters: Names of those of the module that `source` was made from; of one element, only they are trained.

    Raises:
        UnsupportedModel: an operator that PyTorch does not run here.
        BadOption: a group of the plan has no parameters.
    """
    program, constants = program_of(draft.model, draft.plan), constants_of(draft.model, parameters)
    norms: dict[str, LoneNorm] = {}
    notes: tuple[str, ...] = ()
    if source is not None:
        known = norms_of(source, draft.model)
        found = known.live if batchnorm != "folded" else {}
        constants = _unfolded(constants, draft.model, found, known.before)
        norms = {name: _norm(norm, cast("Kind", batchnorm), constants) for name, norm in found.items()}
        if known.others and batchnorm != "folded":
            what = counted(len(known.others), "BatchNormalization")
            notes = (f"{what} folded together with other operators, and trained so: '{known.others[0]}'",)
        fresh = [name for name, norm in found.items() if _untrained(constants.trained, norm)]
        if fresh:
            what = counted(len(fresh), "BatchNormalization")
            notes += (
                f"{what} with a mean of 0 and a variance of 1, as before any training: scales were calibrated for "
                "values that training will change at once; train the network in float first",
            )
        program, constants = _rooted(program, constants, source, parameters)
    network = QuantizedNetwork(
        program,
        constants,
        draft.plan.groups,
        norms,
        scales=scales,
        learn_zero_point=learn_zero_point,
        method=method,
        codes=codes,
        given=_given(draft),
        device_rounding=draft.target.numerics.rounding,
    )
    network.rounding = rounding
    weights = [network.quantizer(g).scheme.grid for g, q in draft.plan.groups.items() if q.role == "weight"]
    idle = idle_methods(method, scales, learn_zero_point, weights)
    network.origin, network.notes = Origin.of(draft), (*notes, *idle)
    if source is not None:
        given = {name for name, value in source.graph.initializers.items() if is_weight(value, parameters)}
        network.lacking = tuple(sorted(given - network.paths.keys() - constants.fixed.keys()))
    return network


def _norm(norm: Normed, kind: Kind, constants: Constants) -> LoneNorm:
    """The normalization as a module; with its layer it keeps what each channel is multiplied with, without its sign."""
    if not norm.weight:
        return LoneNorm(norm, kind)
    scale, variance = constants.trained[norm.scale], constants.trained[norm.variance]
    return LiveNorm(norm, kind, (scale / torch.sqrt(variance + norm.epsilon)).abs())


def _untrained(trained: Mapping[str, Tensor], norm: Normed) -> bool:
    """Whether running statistics are a mean of 0 and a variance of 1 throughout, as before any training."""
    return not bool(trained[norm.mean].any()) and bool((trained[norm.variance] == 1).all())


def _given(draft: Draft) -> frozenset[int]:
    """The groups whose scale and zero point the target's kernels give, such as those of a Softmax in LiteRT."""
    rules = [(node, draft.target.rule(node.op_type)) for node in draft.model.graph if node.domain == ""]
    fixed = [node.outputs[0].name or "" for node, rule in rules if rule is not None and rule.fixed is not None]
    return frozenset(group for name in fixed if (group := draft.plan.sites.get(Site(name))) is not None)


def _rooted(
    program: Program, constants: Constants, source: ir.Model, parameters: Collection[str]
) -> tuple[Program, Constants]:
    """The program beginning at the tensors of the source: weights that preparing made of others are made anew."""
    single = constants.single & constants.fixed.keys() if parameters else frozenset()
    parts = derived(source, {**constants.trained, **dict.fromkeys(sorted(single))}, parameters)
    trained = {n: t for n, t in constants.trained.items() if n not in parts.made | parts.unlearned} | parts.weights
    kept = {n: t for n, t in constants.fixed.items() if n not in parts.made}
    unlearned = {n: t for n, t in constants.trained.items() if n in parts.unlearned}
    fixed = {**kept, **parts.settings, **unlearned}
    return replace(program, preamble=parts.instructions), Constants(trained, fixed)


def _unfolded(constants: Constants, folded: ir.Model, norms: Mapping[str, Normed], before: ir.Model) -> Constants:
    """Constants with the tensors of layers and normalizations in place of those folded from them."""
    gone = _made_by_folding(folded, norms)
    trained = {name: tensor for name, tensor in constants.trained.items() if name not in gone}
    live = {name for norm in norms.values() for name in norm.tensors}
    fixed = {name: tensor for name, tensor in constants.fixed.items() if name not in gone | live}
    for norm in norms.values():
        for name in norm.tensors:
            tensor = before.graph.initializers[name].const_value
            assert tensor is not None
            trained[name] = tensor_of(tensor)
    return replace(constants, trained=trained, fixed=fixed)


def _made_by_folding(folded: ir.Model, norms: Mapping[str, Normed]) -> set[str]:
    """The weights and biases that live normalizations were folded into."""
    nodes = [node for node in folded.graph if node.name in norms and norms[node.name or ""].weight]
    values = [value for node in nodes for value in node.inputs[1:3] if value is not None and len(value.uses()) == 1]
    return {value.name or "" for value in values} | {norm.apart for norm in norms.values() if norm.apart}


def draft_of(network: QuantizedNetwork) -> Draft:
    """The draft with the weights and scales that the network has now.

    Raises:
        BadOption: training has made a scale or a weight infinite or NaN; it is named.
    """
    draft: Draft = network.origin.draft()
    graphs = (draft.model.graph, *draft.model.graph.subgraphs())
    values = {v.name: v for graph in graphs for v in graph.initializers.values()}
    if parameter := bad_parameter(network):
        raise BadOption(f"Parameter {parameter} is not finite: training diverged. Lower its rate.")
    for name, weight in _trained(network, draft).items():
        if not bool(weight.isfinite().all()):
            raise BadOption(f"Weight '{name}' is not finite any more: training diverged. Lower the learning rate.")
        values[name].const_value = ir.tensor(weight.detach().cpu().float().numpy().copy(), name=name)
    with torch.no_grad():
        stretches = network.stretches()
    groups, bounds = dict(draft.plan.groups), {}
    others: set[int] = set()
    for group, quantizer in groups.items():
        if quantizer.role == "bias":
            continue
        own, grid = _params(network, group, stretches.get(group)), quantizer.scheme.grid
        other = own.scheme.grid != grid
        if other or network.quantizer(group).method.tanh:
            others.add(group)
        if other and quantizer.role == "activation" and isinstance(own.scheme.grid, IntGrid):
            zero, scale = int(own.zero_point.ravel()[0]), own.scale.ravel()[0]
            bounds[group] = (
                np.float32(own.scheme.grid.low - zero) * scale,
                np.float32(own.scheme.grid.high - zero) * scale,
            )
        params = _in_file(own, quantizer.scheme) if other else cast("QParams[IntGrid]", own)
        groups[group] = replace(quantizer, params=params)
    other_values = {group: stretches.get(group) for group in others}
    plan = _with_values(network, draft.model, replace(draft.plan, groups=groups), other_values)
    plan = with_biases(draft.model, plan, network.biases)
    return replace(draft, plan=clip_wires(draft.model, plan, bounds)).noting(*_held(network))


def _params(network: QuantizedNetwork, group: int, stretch: Tensor | None) -> QParams[Grid]:
    """What a quantizer has been trained to, which an error names."""
    try:
        return network.quantizer(group).to_params(stretch)
    except BadOption as error:
        where = f"{QUANTIZERS}.{group}, of {readers_of(network, group)}"
        raise BadOption(f"{where}: {error} Training diverged: lower the rate of scales.") from error


def _held(network: QuantizedNetwork) -> Iterator[str]:
    """Sentences on the quantizers whose scales training has driven to nothing."""
    for group, layer in getattr(network, QUANTIZERS).items():
        if count := layer.held_scales():
            scales = f"{count} of {counted(layer.scale.numel(), 'scale')} is" if count == 1 else f"{count} scales are"
            yield (
                f"{QUANTIZERS}.{group}: {scales} driven to nothing by training, and held at 1/1024 of what calibration "
                "gave: lower the rate of scales, or prepare with scales='log'"
            )


def moved(network: QuantizedNetwork) -> set[str]:
    """The names of the parameters and running statistics that are not as they were in the float graph."""
    graph = network.origin.draft().model.graph
    before = {v.name: v.const_value for g in (graph, *graph.subgraphs()) for v in g.initializers.values()}
    kept = {path for path, _ in network.named_buffers()} - {
        network.paths[name] for live in network.live_norms().values() for name in (live.norm.mean, live.norm.variance)
    }
    found = set()
    for name, tensor in network.weights().items():
        then = before.get(name)
        if network.paths[name] not in kept and (then is None or not torch.equal(tensor.cpu(), tensor_of(then))):
            found.add(name)
    return found


def network_in(module: Any) -> QuantizedNetwork:
    """The network itself, from inside what DDP, AveragedModel, torch.compile and the like put around it.

    Raises:
        BadOption: there is none.
    """
    found = module
    while not isinstance(found, QuantizedNetwork):
        inner = getattr(found, "module", getattr(found, "_orig_mod", None))
        if not isinstance(inner, torch.nn.Module):
            raise BadOption(f"{type(module).__name__} is no network to train: give what `prepare` returned.")
        found = inner
    return found


def _in_file(own: QParams[Grid], scheme: Scheme) -> QParams:
    """The file's parameters for values that were trained in other codes."""
    return QParams(scheme, step_of(torch.tensor(own.scale), own.scheme.grid).numpy(), own.zero_point)


def _with_values(network: QuantizedNetwork, model: ir.Model, plan: Plan, groups: Mapping[int, Tensor | None]) -> Plan:
    """The plan, after the weights of `groups`, each with its stretch, were given the values they have in training."""
    nodes = {node.name or "": node for node in model.graph}
    for site, group in sorted(plan.sites.items()):
        if group not in groups or plan.groups[group].role != "weight":
            continue
        node, layer = nodes[site.consumer], network.quantizer(group)
        array = array_at(node, site.port)
        assert array is not None
        device = layer.scale_and_zero_point()[0].device
        weight = torch.tensor(array.astype(np.float32), device=device)
        values = layer.values(weight, groups[group]).cpu().numpy()
        plan = plan.reading(site.consumer, site.port, put_constant(node, site.port, values, model))
    return plan


def _trained(network: QuantizedNetwork, draft: Draft) -> dict[str, Tensor]:
    """The tensors of the folded graph: those trained as they are, and those folded now as in evaluation."""
    with torch.no_grad():
        made = network.derived()
    tensors, live = {**network.weights(), **made}, network.live_norms()
    known = {name for graph in (draft.model.graph, *draft.model.graph.subgraphs()) for name in graph.initializers}
    folded = _made_by_folding(draft.model, {name: norm.norm for name, norm in live.items()})
    found = {name: tensor for name, tensor in tensors.items() if name in known and name not in folded}
    for node in draft.model.graph:
        norm = live.get(node.name or "")
        if isinstance(norm, LiveNorm):
            held = network.tensors(norm.norm, made)
            with torch.no_grad():
                weight, bias = norm.folded(held, held[norm.norm.mean], held[norm.norm.variance])
            names = [value.name or "" for value in node.inputs[1:3] if value is not None]
            found.update(zip([names[0], norm.norm.apart or names[-1]], (weight, bias), strict=True))
    return found
