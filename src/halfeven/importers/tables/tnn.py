"""TNN's files, read: the scales of a quantized network, by whatever tool, as a plan for the float model that it is of.

    blob scale       codes -128..127 of the value of the blob's name; zero points where a newer tool wrote them
    layer's scale    f32(s_x s_w): the weight's scale is the float32 near scale / s_x whose product with s_x it is

The quotient need not be the scale that the weight had, but has the same product, so the layer computes the same. Names
that the model lacks are those of TNN's own blobs. Weights and biases are not read: the file's are those of a network
whose BatchNormalization is folded, and whose channels may be equalized, so that is the float model to give.
The format is described in `halfeven.run.tnn_file`.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.graph.encodings import Encoding
from halfeven.graph.plan import Plan
from halfeven.importers.tables import reading as r
from halfeven.importers.tables.placing import needed, plan_from
from halfeven.importers.tables.shaping import shaped
from halfeven.numerics.conventions import Canonical
from halfeven.run.tnn_file import Layer, TnnNetwork, Weights, read_tnn
from halfeven.targets.target import Target

Floats = npt.NDArray[np.float32]


def read_tnn_plan(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of a .tnnproto file and the .tnnmodel file beside it.

    Raises:
        BadOption: a file is not there, a scale makes no sense, or there is no model.
        UnsupportedModel: a file is damaged, or names nothing that the model has.
    """
    network = read_tnn(path)
    graph = needed(model, f"'{path}'")
    nodes = {node.name or "": node for node in graph.graph}
    entries: list[Encoding] = []
    for blob, held in network.scales.items():
        with r.entry(path, blob):
            entries.append(shaped(graph, blob, _codes(held)))
    for layer in network.layers:
        node = nodes.get(layer.name)
        if node is None or not layer.quantized or layer.name not in network.weights:
            continue
        with r.entry(path, layer.name):
            value = node.inputs[1] if len(node.inputs) > 1 else None
            if value is None:
                raise ValueError(f"{node.op_type} has no weight")
            scales = _weight_scales(layer, network)
            entries.append(shaped(graph, value.name or "", [Canonical(s, 0, -127, 127) for s in scales]))
    return plan_from(entries, graph, target, f"'{path.name}'", complete=True)


def _codes(held: Weights) -> list[Canonical]:
    scales = held.values.ravel().tolist()
    zeros = [0] * len(scales) if held.zero_points is None else held.zero_points.ravel().tolist()
    pairs = zip(scales, zeros, strict=True)
    return [Canonical(r.scale(scale), int(zero), -128, 127) for scale, zero in pairs]


def _weight_scales(layer: Layer, network: TnnNetwork) -> list[float]:
    held, read = network.weights[layer.name], network.scales.get(layer.inputs[0])
    if held.scale is None or read is None or read.values.size != 1:
        raise ValueError("it has no scales, or what it reads has not one")
    if held.zero_points is not None and held.zero_points.any():
        raise ValueError("its weights have zero points")
    products = np.array([r.scale(s) for s in held.scale.ravel().tolist()], np.float32)
    return [float(s) for s in _quotients(products, np.float32(r.scale(float(read.values.ravel()[0]))))]


def _quotients(products: Floats, factor: np.float32) -> Floats:
    """The numbers nearest to the quotients whose products with the factor are these, where there are such."""
    found = np.asarray(products / factor, np.float32)
    for toward in (np.float32(0), np.float32(np.inf)):
        near = np.nextafter(np.asarray(products / factor, np.float32), toward)
        better = (found * factor != products) & (near * factor == products)
        found = np.where(better, near, found)
    return found
