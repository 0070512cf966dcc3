"""From a graph with QuantizeLinear and DequantizeLinear to operators on codes.

A stub of the signature; the body follows.
"""

import onnx_ir as ir

from halfeven.graph.network import Network


def lower(model: ir.Model) -> Network:
    """The network of a QDQ model."""
    raise NotImplementedError
