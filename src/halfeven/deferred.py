"""SymPy, loaded when it is used.

onnx-ir imports SymPy for arithmetic on named dimensions, which few models need and Halfeven never asks for: a fifth of
a second and 33 MB. While onnx-ir is being imported, SymPy and onnx-ir's parser of dimensions, the one module that uses
it at once, are therefore put in place empty; the first look at what is not there fills them in. Whoever imports SymPy
otherwise gets it as ever, and whoever has it already is not concerned.
"""

import sys

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost a tenth of the start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
else:
    ModuleType = type(sys)

WAITS = ("sympy", "onnx_ir._symbolic_shapes")
ASKED_OF_MODULES = frozenset({"__all__", "__path__", "__version__"})
"""Special names that are a use of a module. For others, tools look into every module that is loaded."""


class _Empty(ModuleType):
    """A module whose body has not run yet."""

    def __getattr__(self, name: str) -> object:
        waiting = self.__dict__.get("waiting")
        if waiting is None or (name.startswith("__") and name not in ASKED_OF_MODULES):
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
        with waiting.lock:  # a second thread comes through when the first is done
            if waiting.filling:  # the body itself asks, for what it has not defined yet
                raise AttributeError(f"module '{self.__name__}' has no attribute '{name}' yet")
            if "waiting" in self.__dict__:
                waiting.fill(self)
        return getattr(self, name)


class _Later:
    """A loader that makes an empty module, and can fill it. `spec` is the real one."""

    def __init__(self, spec: "ModuleSpec") -> None:
        from threading import RLock

        self.spec, self.lock, self.filling = spec, RLock(), False

    def create_module(self, spec: "ModuleSpec") -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self.spec.origin
        module.__dict__["waiting"] = self

    def fill(self, module: ModuleType) -> None:
        """Give the module its real spec and run its body."""
        spec, own = self.spec, module.__dict__
        own.update(__spec__=spec, __loader__=spec.loader, __package__=spec.parent)
        if spec.submodule_search_locations is not None:
            own["__path__"] = spec.submodule_search_locations
        assert spec.loader is not None
        self.filling = True
        try:
            spec.loader.exec_module(module)
        finally:
            self.filling = False
        del own["waiting"]
        module.__class__ = ModuleType


class _Finder:
    """Finds the modules that wait, while onnx-ir is being imported."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: ModuleType | None = None
    ) -> "ModuleSpec | None":
        importer = sys.modules.get("onnx_ir") if name in WAITS else None
        if not getattr(getattr(importer, "__spec__", None), "_initializing", False):
            return None
        from importlib.machinery import ModuleSpec, PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        return ModuleSpec(name, _Later(spec), origin=spec.origin)  # type: ignore[arg-type]


def defer() -> None:
    """Let what `WAITS` names wait, from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
