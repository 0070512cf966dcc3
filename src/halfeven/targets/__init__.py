"""Hardware, as tables."""

from halfeven.errors import BadOption
from halfeven.targets.integer import INTEGER
from halfeven.targets.onnxruntime import ONNXRUNTIME, ONNXRUNTIME_ARM
from halfeven.targets.openvino import OPENVINO
from halfeven.targets.target import Target
from halfeven.targets.tensorrt import TENSORRT

TARGETS: dict[str, Target] = {t.name: t for t in (ONNXRUNTIME, ONNXRUNTIME_ARM, OPENVINO, TENSORRT, INTEGER)}


def target_named(name: str) -> Target:
    """The target of a name.

    Raises:
        BadOption: there is none; the message lists those there are.
    """
    if name not in TARGETS:
        raise BadOption(f"--target '{name}' is not known. Choose one of: {', '.join(TARGETS)}.")
    return TARGETS[name]
