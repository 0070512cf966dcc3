"""The parts of the .tflite schema that are read: names of operators and types, and the fields of operators' options.

`OPERATORS[code]` is an operator's name. `OPTIONS[name]` tells which of the union's tables holds its options, and
their fields: the n-th name is slot n, `b`, `i`, `f`, `?` its kind (int8, int32, float32, bool), a figure behind `=`
what holds where it is left out (else 0). Enumerations used in them:

    Padding       0 SAME, 1 VALID
    activation    0 none, 1 RELU, 2 RELU_N1_TO_1 (-1..1), 3 RELU6 (0..6), 4 TANH, 5 SIGN_BIT
    MirrorPad     0 REFLECT, 1 SYMMETRIC

Source: tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from halfeven.importers.litert.flatbuffer import Table

_NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM
MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN
EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2
GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG
SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT
UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE
MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND
SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D
IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE
READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU
DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD STABLEHLO_DIVIDE
STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP STABLEHLO_CONCATENATE
STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS
STABLEHLO_AND STABLEHLO_COSINE STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE
STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT STABLEHLO_SUBTRACT STABLEHLO_TANH
STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE
STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE
STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE
STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
"""
OPERATORS = tuple(_NAMES.split())

TYPES: Mapping[int, ir.DataType] = {
    0: ir.DataType.FLOAT,
    1: ir.DataType.FLOAT16,
    2: ir.DataType.INT32,
    3: ir.DataType.UINT8,
    4: ir.DataType.INT64,
    6: ir.DataType.BOOL,
    7: ir.DataType.INT16,
    9: ir.DataType.INT8,
    10: ir.DataType.DOUBLE,
    12: ir.DataType.UINT64,
    15: ir.DataType.UINT32,
    16: ir.DataType.UINT16,
    17: ir.DataType.INT4,
    18: ir.DataType.BFLOAT16,
}
"""Element types that can be read, by their number in the schema."""

OTHER_TYPES: Mapping[int, str] = {
    **{5: "string", 8: "complex64", 11: "complex128", 13: "resource", 14: "variant"},
    **{19: "int2", 20: "uint4", 21: "float8_e4m3fn", 22: "float8_e5m2"},
}
"""Those that cannot: a graph may hold them only where nothing reads them."""


@dataclass(frozen=True)
class Options:
    """The fields of one kind of options: name, kind, default, by slot."""

    table: int
    fields: tuple[tuple[str, str, float], ...]

    def read(self, table: Table | None) -> dict[str, int | float | bool]:
        """Their values; the defaults where there is no table."""
        return {
            name: default if table is None else table.number(slot, kind, default)
            for slot, (name, kind, default) in enumerate(self.fields)
        }


def _options(table: int, text: str) -> Options:
    fields = []
    for word in text.split():
        name, _, kind = word.partition(":")
        kind, _, default = kind.partition("=")
        fields.append((name, kind, float(default) if kind == "f" else int(default or 0)))
    return Options(table, tuple(fields))


_CONV = "padding:b stride_w:i stride_h:i"
_ARITHMETIC = "activation:b"
OPTIONS: Mapping[str, Options] = {
    "ADD": _options(11, _ARITHMETIC),
    "ARG_MAX": _options(40, "type:b"),
    "ARG_MIN": _options(57, "type:b"),
    "AVERAGE_POOL_2D": _options(5, _CONV + " width:i height:i activation:b"),
    "BATCH_MATMUL": _options(101, "adj_x:? adj_y:?"),
    "CONCATENATION": _options(10, "axis:i activation:b"),
    "CONV_2D": _options(1, _CONV + " activation:b dilation_w:i=1 dilation_h:i=1"),
    "CUMSUM": _options(102, "exclusive:? reverse:?"),
    "DEPTHWISE_CONV_2D": _options(2, _CONV + " multiplier:i activation:b dilation_w:i=1 dilation_h:i=1"),
    "DEPTH_TO_SPACE": _options(94, "block:i"),
    "DIV": _options(29, _ARITHMETIC),
    "FULLY_CONNECTED": _options(8, "activation:b format:b keep_dims:?"),
    "GATHER": _options(23, "axis:i batch_dims:i"),
    "GELU": _options(116, "approximate:?"),
    "L2_NORMALIZATION": _options(12, _ARITHMETIC),
    "LEAKY_RELU": _options(75, "alpha:f=0"),
    "MAX_POOL_2D": _options(5, _CONV + " width:i height:i activation:b"),
    "MEAN": _options(27, "keep_dims:?"),
    "MIRROR_PAD": _options(77, "mode:b"),
    "MUL": _options(21, _ARITHMETIC),
    "ONE_HOT": _options(61, "axis:i"),
    "PACK": _options(59, "count:i axis:i"),
    "REDUCE_ALL": _options(27, "keep_dims:?"),
    "REDUCE_ANY": _options(27, "keep_dims:?"),
    "REDUCE_MAX": _options(27, "keep_dims:?"),
    "REDUCE_MIN": _options(27, "keep_dims:?"),
    "REDUCE_PROD": _options(27, "keep_dims:?"),
    "RESIZE_BILINEAR": _options(15, "width:i height:i align_corners:? half_pixel_centers:?"),
    "RESIZE_NEAREST_NEIGHBOR": _options(74, "align_corners:? half_pixel_centers:?"),
    "REVERSE_SEQUENCE": _options(87, "seq_dim:i batch_dim:i"),
    "SOFTMAX": _options(9, "beta:f=0"),
    "SPACE_TO_DEPTH": _options(19, "block:i"),
    "SPLIT": _options(35, "count:i"),
    "SPLIT_V": _options(79, "count:i"),
    "STRIDED_SLICE": _options(32, "begin_mask:i end_mask:i ellipsis_mask:i new_axis_mask:i shrink_mask:i offset:?"),
    "SUB": _options(28, _ARITHMETIC),
    "SUM": _options(27, "keep_dims:?"),
    "TRANSPOSE_CONV": _options(49, _CONV + " activation:b"),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _options(71, "activation:b cell_clip:f=0 projection_clip:f=0 time_major:?"),
    "UNPACK": _options(64, "count:i axis:i"),
}
