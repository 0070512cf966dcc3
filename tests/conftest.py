"""Models from ONNX text whose weights need no values, samples for them, and drafts decided so far."""

import gc
import importlib
import os
import pkgutil
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

import halfeven
from halfeven.draft import Batch, Draft, pipeline
from halfeven.graph.prepare import prepare
from halfeven.numerics.scheme import QParams
from halfeven.steps.place import Place
from halfeven.steps.trace import Trace
from halfeven.targets.target import Target

HEADER = '<ir_version: 8, opset_import: ["" : {}, "custom" : 1]>\n'
Data = list[tuple[str, Batch]]


def pytest_configure(config: pytest.Config) -> None:
    """With `-n`, before the test processes start: there is one for each core, so each multiplies with one thread."""
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    else:
        gc.disable()  # until all tests are collected, which leaves no garbage


def pytest_collection_finish() -> None:
    """Libraries and tests stay: looking for old models need not look through them.

    Hypothesis also draws constants of the modules that are loaded. Where its draws are to be the same every time, all
    are, whatever tests ran in this process before.
    """
    if "CI" in os.environ:
        names = [module.name for module in pkgutil.walk_packages(halfeven.__path__, "halfeven.", lambda name: None)]
        for name in names:
            with warnings.catch_warnings(), suppress(ImportError):  # of PyTorch, where it is not installed
                warnings.simplefilter("ignore")
                if name != "halfeven.__main__":
                    importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _built(text: str, opset: int = 17, **given: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(HEADER.format(opset) + text)
    made = {name for node in proto.graph.node for name in node.output} | {t.name for t in proto.graph.initializer}
    weights = [info for info in proto.graph.value_info if info.name not in made]
    for info in weights:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        rng = np.random.default_rng(zlib.crc32(info.name.encode()))
        drawn = rng.normal(0, 1 / np.sqrt(max(np.prod(shape[1:]), 1)), shape)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        array = np.asarray(given.get(info.name, drawn), dtype)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
    kept = [info for info in proto.graph.value_info if info.name in made]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    return ir.from_proto(proto)


def _samples(model: ir.Model, count: int = 8, scale: float = 1.0, seed: int = 0) -> Data:
    def drawn(value: ir.Value, rng: np.random.Generator) -> np.ndarray:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [dim if isinstance(dim, int) else 2 for dim in value.shape]
        return np.asarray(rng.normal(0, scale, shape) > 0 if value.dtype == ir.DataType.BOOL else
                          rng.integers(0, 4, shape) if value.dtype.is_integer() else
                          rng.normal(0, scale, shape), value.dtype.numpy())  # fmt: skip

    rngs = [np.random.default_rng((seed, i)) for i in range(count)]
    return [(f"sample {i}", {str(v.name): drawn(v, rng) for v in model.graph.inputs}) for i, rng in enumerate(rngs)]


def _placed(model: ir.Model, target: Target, data: Sequence[tuple[str, Batch]], **options: object) -> Draft:
    return pipeline(Trace(), Place(**options))(Draft(prepare(model)[0], target), data)  # type: ignore[arg-type]


def _tied(draft: Draft) -> Draft:
    plan = draft.plan
    for group, quantizer in plan.groups.items():
        if quantizer.params is not None:
            scale = np.exp2(np.ceil(np.log2(quantizer.params.scale))).astype(np.float32)
            params = QParams(quantizer.scheme, scale, quantizer.params.zero_point)
            plan = plan.with_group(group, replace(quantizer, params=params))
    return replace(draft, plan=plan)


@pytest.fixture(scope="session")
def build() -> Callable[..., ir.Model]:
    """`build(text, opset=17, **weights)`: `<float[4,3] w>` declares a weight, random by its name if it is not given."""
    return _built


@pytest.fixture(scope="session")
def samples() -> Callable[..., Data]:
    """`samples(model, count=8, scale=1, seed=0)`: normal feeds, labelled "sample 0" and on; open dimensions are 2."""
    return _samples


@pytest.fixture(scope="session")
def placed() -> Callable[..., Draft]:
    """`placed(model, target, data, **options of Place)`: prepared, traced and placed."""
    return _placed


@pytest.fixture(scope="session")
def tied() -> Callable[[Draft], Draft]:
    """`tied(draft)`: with scales that are powers of two: sums and products then fall on ties, again and again."""
    return _tied
