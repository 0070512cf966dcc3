"""The machines whose integers can be computed, by name: a runtime, and the instruction set after the @."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper

from halfeven.draft import Batch
from halfeven.errors import BadOption
from halfeven.run.integer.documented import DOCUMENTED
from halfeven.run.integer.litert import LITERT
from halfeven.run.integer.machine import Machine
from halfeven.run.integer.ncnn import NCNN
from halfeven.run.integer.onnxruntime import ARM64, X86_AVX2, X86_AVX2_INT8, X86_VNNI, X86_VNNI_INT8
from halfeven.run.integer.openvino import OPENVINO_CPU
from halfeven.run.integer.own import INTEGER
from halfeven.run.ort import OrtExecutor
from halfeven.run.processor import on_arm

MACHINES: Mapping[str, Machine] = {
    m.name: m
    for m in (
        *(X86_VNNI, X86_VNNI_INT8, X86_AVX2, X86_AVX2_INT8, ARM64),
        *LITERT,
        *NCNN,
        OPENVINO_CPU,
        INTEGER,
        *DOCUMENTED,
    )
}


def machine_named(name: str) -> Machine:
    """The machine of that name.

    Raises:
        BadOption: there is none.
    """
    if name in MACHINES:
        return MACHINES[name]
    near = get_close_matches(name, MACHINES, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(MACHINES)}."
    raise BadOption(f"There is no machine {name!r}. {hint}")


@cache
def this_machine() -> Machine:
    """What ONNX Runtime is on this processor, found by a product that saturates where there is no VNNI."""
    if on_arm():
        return ARM64
    kinds = [("a", TensorProto.UINT8, [1, 64]), ("b", TensorProto.INT8, [64, 16])]
    inputs = [helper.make_tensor_value_info(*kind) for kind in kinds]
    made = [helper.make_tensor_value_info("y", TensorProto.INT32, [1, 16])]
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "pairs", inputs, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds: Batch = {"a": np.full((1, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)}
    found = np.asarray(OrtExecutor(ir.from_proto(model), threads=1)(feeds)["y"])
    return X86_VNNI if (found == 64 * 255 * 127).all() else X86_AVX2
