"""Halfeven: neural-network quantization in which the integers you simulate are the integers your device computes.

Names resolve on first use, so that `import halfeven` costs nothing.
"""

from importlib import import_module

from halfeven.version import __version__

_HOMES = {
    "halfeven.api": ("Result", "calibrate", "export", "inspect", "load", "quantize", "verify"),
    "halfeven.draft": ("Draft", "pipeline"),
    "halfeven.errors": ("BadCalibration", "BadOption", "QuantError", "UnsupportedByTarget", "UnsupportedModel"),
    "halfeven.graph.plan": ("Plan", "Quantizer", "Site"),
    "halfeven.numerics.grid": ("IntGrid",),
    "halfeven.numerics.rounding": ("Rounding",),
    "halfeven.numerics.scheme": ("QParams", "Scheme"),
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
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'halfeven' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
