"""Hardware, as tables."""

from halfeven.errors import BadOption
from halfeven.targets.executorch import EXECUTORCH
from halfeven.targets.horizon import HORIZON, HORIZON_BEFORE_3_0_31, HORIZON_INT16
from halfeven.targets.integer import INTEGER
from halfeven.targets.litert import LITERT, LITERT_INT16
from halfeven.targets.mnn import MNN
from halfeven.targets.ncnn import NCNN, NCNN_X86
from halfeven.targets.onnxruntime import ONNXRUNTIME, ONNXRUNTIME_ARM
from halfeven.targets.openvino import OPENVINO
from halfeven.targets.target import Target
from halfeven.targets.tensorrt import TENSORRT
from halfeven.targets.tnn import TNN
from halfeven.targets.vitis import VITIS_DPU

_ALL = (
    *(ONNXRUNTIME, ONNXRUNTIME_ARM, OPENVINO, TENSORRT, INTEGER, NCNN, NCNN_X86),
    *(LITERT, LITERT_INT16, EXECUTORCH, MNN, TNN, HORIZON, HORIZON_BEFORE_3_0_31, HORIZON_INT16, VITIS_DPU),
)
TARGETS: dict[str, Target] = {t.name: t for t in _ALL}


def target_named(name: str) -> Target:
    """The target of a name.

    Raises:
        BadOption: there is none; the message lists those there are.
    """
    if name not in TARGETS:
        raise BadOption(f"--target '{name}' is not known. Choose one of: {', '.join(TARGETS)}.")
    return TARGETS[name]
