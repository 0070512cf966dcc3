"""Equalize: channels of one tensor brought to like ranges, where the network does not notice.

A per-tensor scale serves its widest channel; the others get few codes. Where tensors pass only through operators that
commute with a positive factor per channel (ReLU, pooling, Add of two such tensors), channel c may be multiplied by s_c
if the layers that make it multiply their output channel by s_c and the layers that read it divide by it (Nagel et al.
2019, arXiv:1906.04721, section 4.1; the factor of a whole residual stream is shared). Per-channel weight scales absorb
both at no loss in the maker and in a depthwise reader; in another reader, quiet channels' weights shrink beside loud
ones. So s_c = (R / (h m_c))^a, within 1 and `limit`, where m_c is the largest magnitude seen in channel c, R that of
the tensor, h a headroom for what was not seen, and a in 0, 0.1 .. 1 minimises the error expected at the readers'
outputs (uniform rounding errors):

    sum_o sum_c w_oc^2 D^2 / (12 s_c^2)  +  sum_o (max_c |w_oc / s_c| / 127)^2 / 12 * sum_c s_c^2 E[x_c^2]

with D the tensor's step after scaling. Clip(0, b) becomes Relu and Min(b s_c): the same function, channel by channel;
once quantized, both vanish into the saturation of the codes. A target that fuses clamps of one bound alone keeps its
Clip(0, b): there s_c is at most b / (h k_c), at least 1, with k_c the largest seen behind the Clip, so that nothing
below the headroom is cut that was not cut before.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from operator import length_hint
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.data.lead import few
from halfeven.draft import Batch, Draft, Progress, Samples, Unscaled
from halfeven.graph import ops
from halfeven.graph.clamps import clamp_bounds
from halfeven.graph.edit import add_initializer, unused, value_names
from halfeven.graph.weights import array_at, put_constant, shared, weigh
from halfeven.memory import forget_models
from halfeven.numerics.tally import PLAIN
from halfeven.stats.channels import ChannelRange
from halfeven.steps.watching import Run, Watching

Doubles = npt.NDArray[np.float64]
TRANSPARENT = frozenset({"Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Add"})


@dataclass(frozen=True)
class Equalize:
    """Cross-layer equalization by activation ranges, of single tensors and of whole residual streams."""

    name: ClassVar[str] = "equalize"
    samples: int = 32
    """How many samples the channels' ranges are taken from, whichever order they come in; 0 leaves the step out."""
    limit: float = 8.0
    """The largest factor."""
    headroom: float = 1.5
    """How much more than the samples showed a channel may reach before it sets the tensor's range."""

    def __call__(self, draft: Draft, data: Samples, progress: Progress) -> Draft:
        """The draft with scaled weights; its outputs are those before, up to rounding."""
        if self.samples <= 0:
            return draft
        model = draft.model.clone()
        sites = {site.value for site, g in draft.plan.sites.items() if draft.plan.groups[g].role == "activation"}
        streams = [s for s in find_streams(model) if s.scalable(draft.plan.floats) and s.names & sites]
        if not streams:
            return draft
        missing = {n for s in streams for n in s.names & sites} - set(draft.channels)
        watching = Watching.of(replace(draft, unscaled=None), missing)
        seen = {**draft.channels, **(_observe(watching, self.samples, data, progress) if missing else {})}
        forget_models(weigh(draft.model))
        done, capped, plan, state = 0, 0, draft.plan, hashlib.sha256()
        by_name: dict[str, npt.NDArray[np.float32]] = {}
        bounded = False
        taken = value_names(model) if draft.target.clamp_by_channel else None
        for stream in streams:
            ranges = [seen[name] for name in sorted(stream.names & sites) if name in seen]
            limits: Doubles | float = self.limit
            if not draft.target.clamp_by_channel and ranges:
                limits = np.minimum(limits, _below_clips(stream, seen, ranges, self.headroom))
            factors = best_factors(stream, ranges, limits, self.headroom) if ranges else None
            if factors is not None and factors.max() > 1.0 + 1e-6:
                capped += bool(np.less(limits, self.limit).any())
                single = factors.astype(np.float32)  # so that a float32 product is what the bounds by channel are
                factors = single.astype(np.float64)
                by_name.update(dict.fromkeys(stream.names, single))
                bounded |= bool(stream.clips) and draft.target.clamp_by_channel
                for consumer, bias in stream.scale(factors, model, taken).items():
                    plan = plan.reading(consumer, 2, bias)
                state.update(repr(sorted(stream.names)).encode() + factors.tobytes())
                done += 1
        if done == 0:
            return draft.noting(*watching.said)
        notes = [f"equalized {done} of {len(streams)} tensors and residual streams by channel"]
        if capped:
            notes[0] += f", {capped} of them so far as a clamp of one bound allows: {draft.target.name} fuses no other"
        before = Unscaled(model, draft.model, by_name) if bounded else None
        scaling = state.hexdigest()[:16]
        scaled = replace(draft, model=model, channels=seen, plan=plan, scaling=scaling, unscaled=before)
        return scaled.noting(*notes, *watching.said)


@dataclass(frozen=True, eq=False)
class Stream:
    """Values that must share a factor per channel, and the nodes around them."""

    values: tuple[ir.Value, ...]
    makers: tuple[ir.Node, ...]
    readers: tuple[ir.Node, ...]
    clips: tuple[ir.Node, ...]

    @property
    def names(self) -> set[str]:
        """The names of the values."""
        return {v.name for v in self.values if v.name}

    def scalable(self, floats: Mapping[str, str]) -> bool:
        """Whether it pays: makers and readers with weights of their own, and no Clip that stays a float operator."""
        if any(shared(node, 1) for node in (*self.makers, *self.readers)):
            return False
        return bool(self.makers and self.readers) and not any(clip.name in floats for clip in self.clips)

    def scale(self, s: Doubles, model: ir.Model, taken: set[str] | None) -> dict[str, str]:
        """Multiply channel c of the values by s_c, in the makers' weights, and undo it in the readers'.

        Returns the names of the makers' biases, by maker. `taken` are the names of the model's values, to which those
        of the bounds by channel are added; without it a Clip stays as it is.
        """
        biases: dict[str, str] = {}
        for node in self.makers:
            weight = _weights(node)
            put_constant(node, 1, (weight * s.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32), model)
            bias = array_at(node, 2)
            if bias is not None:
                new = (bias.astype(np.float64) * s).astype(np.float32)
                biases[node.name or ""] = put_constant(node, 2, new, model)
        for node in self.readers:
            weight = _weights(node)
            shape = (-1, *[1] * (weight.ndim - 1)) if ops.is_depthwise(node) else (1, -1, *[1] * (weight.ndim - 2))
            put_constant(node, 1, (weight / s.reshape(shape)).astype(np.float32), model)
        if taken is not None:
            for node in self.clips:
                _bound_by_channel(node, s, taken)
        return biases


def _weights(node: ir.Node) -> Doubles:
    weight = array_at(node, 1)
    assert weight is not None
    return weight.astype(np.float64)


def find_streams(model: ir.Model) -> Iterator[Stream]:
    """Yield the sets of values that are tied by operators which commute with a factor per channel."""
    parent: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        parent.setdefault(value, value)
        while parent[value] is not value:
            value = parent[value]
        return value

    for node in model.graph:
        if node.op_type == "Conv" or _transparent(node):
            root(node.outputs[0])
        if _transparent(node):
            for port in ops.data_ports(node):
                parent[root(node.inputs[port])] = root(node.outputs[0])  # type: ignore[arg-type]
    groups: dict[ir.Value, list[ir.Value]] = {}
    for value in list(parent):
        groups.setdefault(root(value), []).append(value)
    for values in groups.values():
        stream = _stream(values)
        if stream is not None:
            yield stream


def _transparent(node: ir.Node) -> bool:
    """Whether f(s x) = s f(x) for a positive factor per channel (axis 1), and the node has no constant in the way."""
    if node.op_type not in TRANSPARENT or node.domain != "" or len(node.outputs) != 1:
        return False
    if node.op_type == "Add":
        shapes = [v.shape for v in node.inputs if v is not None]
        return len(ops.data_ports(node)) == 2 and shapes[0] == shapes[-1] and shapes[0] is not None
    if node.op_type == "Clip":
        low, high = clamp_bounds(node)
        return low == 0.0 and not np.isnan(high)
    return True


def _stream(values: list[ir.Value]) -> Stream | None:
    """The stream, or None when a value is an input, an output, or met by an operator that would notice."""
    makers, readers, clips, inside = [], [], [], set(values)
    for value in values:
        node = value.producer()
        if node is None or value.is_graph_output():
            return None
        if node.op_type == "Conv":
            if ops.constant_of(node.inputs[1]) is None or (ops.bias_of(node) and array_at(node, 2) is None):
                return None
            makers.append(node)
        elif node.op_type == "Clip":
            clips.append(node)
        elif not _transparent(node):
            return None
        for use in value.uses():
            if use.node.op_type == "Conv" and use.idx == 0 and ops.constant_of(use.node.inputs[1]) is not None:
                if ops.attribute(use.node, "group", 1) != 1 and not ops.is_depthwise(use.node):
                    return None
                readers.append(use.node)
            elif not _transparent(use.node) or use.node.outputs[0] not in inside:
                return None
    return Stream(tuple(values), tuple(makers), tuple(readers), tuple(clips))


def _bound_by_channel(clip: ir.Node, s: Doubles, taken: set[str]) -> None:
    """Clip(x, 0, b) -> Min(Relu(x), b s_c)."""
    source, out, bound = clip.inputs[0], clip.outputs[0], clamp_bounds(clip)[1]
    assert source is not None
    assert clip.graph is not None
    relu = ir.Node("", "Relu", [source], num_outputs=1, name=clip.name)
    relu.outputs[0].name = unused(f"{out.name}_relu", taken)
    relu.outputs[0].type, relu.outputs[0].shape = out.type, out.shape
    name = unused(f"{out.name}_bound", taken)
    rank = len(out.shape) if out.shape is not None else 4
    bounds = (bound * s).astype(np.float32).reshape(1, -1, *[1] * (rank - 2))
    assert isinstance(clip.graph, ir.Graph)
    limit = add_initializer(clip.graph, name, ir.tensor(bounds, name=name))
    least = ir.Node("", "Min", [relu.outputs[0], limit], num_outputs=1, name=f"{clip.name}_bound")
    clip.append([relu, least])
    final, new = out.name, least.outputs[0]
    new.type, new.shape = out.type, out.shape
    out.replace_all_uses_with(new, replace_graph_outputs=True)
    clip.graph.remove(clip, safe=True)
    out.name, new.name = None, final


def _below_clips(
    stream: Stream, seen: Mapping[str, ChannelRange], ranges: list[ChannelRange], headroom: float
) -> Doubles:
    """The largest factors by which channels may be multiplied in front of clips that keep their bound."""
    size = np.maximum.reduce([r.high for r in ranges])
    found = np.full(size.shape, np.inf)
    for clip in stream.clips:
        behind = seen.get(clip.outputs[0].name or "")
        reach = size if behind is None or len(behind.high) != len(size) else behind.high
        with np.errstate(divide="ignore", invalid="ignore"):
            most = clamp_bounds(clip)[1] / (headroom * np.maximum(reach, 0.0))
        found = np.minimum(found, np.where(np.isnan(most), 1.0, most))
    return np.maximum(found, 1.0)


def best_factors(stream: Stream, ranges: list[ChannelRange], limit: Doubles | float, headroom: float) -> Doubles | None:
    """The factors of least expected error, as the module's text defines it; None for channels that do not fit."""
    low = np.minimum.reduce([r.low for r in ranges])
    high = np.maximum.reduce([r.high for r in ranges])
    square = np.mean([r.square for r in ranges], axis=0)
    size = np.maximum(high, -low)
    widest = float(size.max())
    if widest <= 0 or any(len(r.low) != len(low) for r in ranges):
        return None
    size = np.maximum(size, widest * 1e-6)
    readers = [Reader.of(node) for node in stream.readers]
    powers = [1.0] if all(reader.largest is None for reader in readers) else [i / 10 for i in range(11)]
    candidates = [np.clip((widest / size / headroom) ** a, 1.0, limit) for a in powers]
    errors = [sum(reader.error(s, low, high, square, len(ranges)) for reader in readers) for s in candidates]
    chosen: Doubles = candidates[int(np.argmin(errors))]
    return chosen


@dataclass(frozen=True, eq=False)
class Reader:
    """What the error at a reader's outputs depends on."""

    energy: Doubles
    """Sum of squared weights of each channel that is read, (channels,)."""
    largest: Doubles | None
    """Largest magnitude of the weights in a window, (outputs, channels); None if depthwise."""
    window: float
    """Elements of a window."""

    @classmethod
    def of(cls, node: ir.Node) -> "Reader":
        """Of a Conv."""
        weight = _weights(node)
        window = float(np.prod(weight.shape[2:]))
        if ops.is_depthwise(node):
            return cls((weight.reshape(len(weight), -1) ** 2).sum(1), None, window)
        energy = (weight.swapaxes(0, 1).reshape(weight.shape[1], -1) ** 2).sum(1)
        return cls(energy, np.abs(weight.reshape(*weight.shape[:2], -1)).max(2), window)

    def error(self, s: Doubles, low: Doubles, high: Doubles, square: Doubles, tensors: int) -> float:
        """That of the factors `s`, as the module's text defines it."""
        step = ((high * s).max() - (low * s).min()) / 255
        if self.largest is None:
            return float((self.energy * step**2 / 12 / s**2).sum())
        rounding = tensors * (self.energy * step**2 / 12 / s**2).sum()
        steps = (self.largest / s).max(1) / 127
        return float(rounding + (steps**2 / 12).sum() * (square * s**2).sum() * self.window)


def _observe(watching: Watching, count: int, data: Samples, progress: Progress) -> dict[str, ChannelRange]:
    def watch(run: Run, item: tuple[int, tuple[str, Batch]]) -> dict[str, ChannelRange]:
        return {
            name: ChannelRange.of(x, some.lying.get(name, PLAIN).block, watching.threads)
            for some in run(item[1][1], item[1][0])
            for name, x in some.values.items()
            if name in watching.sizes and x.ndim >= 2 and x.size
        }

    found: dict[str, ChannelRange] = {}
    progress("equalize", 0, count)  # which samples, their digests say: of many large files that takes a while
    for i, seen in enumerate(watching(watch, few(data, count), min(length_hint(data), count))):
        for name, new in seen.items():
            found[name] = found[name].merge(new) if name in found else new
        progress("equalize", i + 1, count)
    return found
