"""Halfeven: neural-network quantization in which the integers you simulate are the integers your device computes.

Names resolve on first use, so that `import halfeven` costs nothing. `FakeQuantizer` needs PyTorch (halfeven[torch]) and
is left out of `__all__`, so that `from halfeven import *` works without it.
"""

from importlib import import_module

from halfeven.deferred import defer
from halfeven.version import __version__

defer()

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost a tenth of the start
if TYPE_CHECKING:
    from halfeven.api import calibrate, inspect, load, quantize, verify
    from halfeven.bit_search import search
    from halfeven.deployment import compare, open_quantized
    from halfeven.draft import Draft, pipeline
    from halfeven.errors import BadCalibration, BadOption, QuantError, UnsupportedByTarget, UnsupportedModel
    from halfeven.graph.plan import Plan, Quantizer, Site
    from halfeven.numerics.grid import IntGrid
    from halfeven.numerics.rounding import Rounding
    from halfeven.numerics.scheme import QParams, Scheme
    from halfeven.qat import conform, export, prepare, restore
    from halfeven.ready_loop import train
    from halfeven.result import Result
    from halfeven.stats.record import Record
    from halfeven.steps.calibrate import Calibrate
    from halfeven.steps.equalize import Equalize
    from halfeven.steps.gptq import Gptq
    from halfeven.steps.observe import Observe
    from halfeven.steps.place import Place
    from halfeven.steps.simplify import Simplify
    from halfeven.steps.trace import Trace
    from halfeven.targets import TARGETS
    from halfeven.targets.target import Target
    from halfeven.training.quantizer import FakeQuantizer as FakeQuantizer

_HOMES = {
    "halfeven.api": ("calibrate", "inspect", "load", "quantize", "verify"),
    "halfeven.bit_search": ("search",),
    "halfeven.deployment": ("compare", "open_quantized"),
    "halfeven.draft": ("Draft", "pipeline"),
    "halfeven.errors": ("BadCalibration", "BadOption", "QuantError", "UnsupportedByTarget", "UnsupportedModel"),
    "halfeven.graph.plan": ("Plan", "Quantizer", "Site"),
    "halfeven.numerics.grid": ("IntGrid",),
    "halfeven.numerics.rounding": ("Rounding",),
    "halfeven.numerics.scheme": ("QParams", "Scheme"),
    "halfeven.qat": ("conform", "export", "prepare", "restore"),
    "halfeven.ready_loop": ("train",),
    "halfeven.result": ("Result",),
    "halfeven.stats.record": ("Record",),
    "halfeven.steps.calibrate": ("Calibrate",),
    "halfeven.steps.equalize": ("Equalize",),
    "halfeven.steps.gptq": ("Gptq",),
    "halfeven.steps.observe": ("Observe",),
    "halfeven.steps.place": ("Place",),
    "halfeven.steps.simplify": ("Simplify",),
    "halfeven.steps.trace": ("Trace",),
    "halfeven.targets": ("TARGETS",),
    "halfeven.targets.target": ("Target",),
    "halfeven.training.quantizer": ("FakeQuantizer",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "TARGETS",
    "BadCalibration",
    "BadOption",
    "Calibrate",
    "Draft",
    "Equalize",
    "Gptq",
    "IntGrid",
    "Observe",
    "Place",
    "Plan",
    "QParams",
    "QuantError",
    "Quantizer",
    "Record",
    "Result",
    "Rounding",
    "Scheme",
    "Simplify",
    "Site",
    "Target",
    "Trace",
    "UnsupportedByTarget",
    "UnsupportedModel",
    "__version__",
    "calibrate",
    "compare",
    "conform",
    "export",
    "inspect",
    "load",
    "open_quantized",
    "pipeline",
    "prepare",
    "quantize",
    "restore",
    "search",
    "train",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'halfeven' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
