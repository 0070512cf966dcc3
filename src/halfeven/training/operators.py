"""The table of ONNX operators that run in PyTorch, with gradients where they have any."""

from halfeven.training.operators_layers import LAYERS
from halfeven.training.operators_pointwise import POINTWISE, Operator
from halfeven.training.operators_sequences import SEQUENCES
from halfeven.training.operators_shapes import SHAPES

OPERATORS: dict[str, Operator] = {**POINTWISE, **SHAPES, **LAYERS, **SEQUENCES}
