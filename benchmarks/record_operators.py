r"""Record what small random operators give in ONNX Runtime and LiteRT on processors that the tests do not run on.

    python benchmarks/record_operators.py draw tests/golden/ort_operators.npz
    qemu-x86_64 -cpu Haswell python benchmarks/record_operators.py run tests/golden/ort_operators.npz x86_avx2
    qemu-aarch64 -cpu cortex-a76 -L ROOT ROOT/usr/bin/python3.11 benchmarks/record_operators.py run \
        tests/golden/ort_operators.npz arm64

    python benchmarks/record_operators.py litert tests/golden/litert_operators.npz \
        --through "qemu-aarch64 -cpu cortex-a76 -L ROOT ROOT/usr/bin/python3.11"

The operators are those of `onnx_graphs` and `litert_graphs`, the first draws of each kind that are small and whose
outputs hold many codes; half of them have powers of two as scales, so that ties are common. `draw` writes models and
inputs, `run` adds the outputs of the processor that it runs on; `litert` does both, LiteRT in the Python of another
processor. A recording is an .npz: `CASE/model`, a file as bytes, `CASE/x/NAME` its inputs, `CASE/PLACE/NAME` its
outputs there. The same version of NumPy draws the same operators.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

sys.path.insert(0, str(Path(__file__).parent))
from onnx_graphs import OPERATORS, Array, Builder

from halfeven.graph.lower import lower
from halfeven.graph.names import name_everything
from halfeven.run.integer.executor import IntegerExecutor
from halfeven.run.integer.machines import machine_named
from halfeven.run.ort import OrtExecutor

Cases = dict[str, dict[str, Array]]
"""Arrays by case, and what they are."""
Choice = Callable[[onnx.ModelProto], bool]
BYTES, CODES = 3_200, 16
"""The most that a model, its inputs and outputs may hold; the fewest values that an output must have."""
CANDIDATES, DRAWS = 8, 50_000
"""How many graphs one is chosen from, and how many are drawn before a kind is given up."""
TURNS = (("exact", False, True), ("any", False, False), ("signed", True, False))
"""Of each kind: codes of uint8 with powers of two as scales, with any scale, and codes of int8."""
PLACES = {
    ("x86_avx2", False): "onnxruntime@x86-avx2",
    ("x86_avx2", True): "onnxruntime@x86-avx2+int8",
    ("arm64", False): "onnxruntime@arm64",
    ("arm64", True): "onnxruntime@arm64",
}
"""Machines of ONNX Runtime by place, and by whether activations are of int8."""


def _windows(groups: str, dilated: bool) -> Choice:
    """Convolutions with one group, several, or one a channel; dilated or not."""

    def chosen(model: onnx.ModelProto) -> bool:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        held = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        shape = next(one.dims for one in model.graph.initializer if one.name == "w")
        kind = "whole" if held["group"] == 1 else "depthwise" if shape[1] == 1 else "grouped"
        return kind == groups and (max(held["dilations"]) > 1) == dilated and int(np.prod(shape[1:])) > 3

    return chosen


KINDS: dict[str, tuple[str, Choice]] = {
    "Conv": ("Conv", _windows("whole", False)),
    "Conv, dilated": ("Conv", _windows("whole", True)),
    "Conv, grouped": ("Conv", _windows("grouped", False)),
    "Conv, depthwise": ("Conv", _windows("depthwise", False)),
    **{name: (name, lambda model: True) for name in OPERATORS if name not in ("Conv", "MaxPool")},
}


def drawn(kind: str, turn: int, seed: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Of the first small random models of a kind that are all on codes the one with most outputs, and its inputs.

    Raises:
        ValueError: there are too few.
    """
    (operator, chosen), (_, signed, ties) = KINDS[kind], TURNS[turn]
    found: list[tuple[int, onnx.ModelProto, dict[str, Array]]] = []
    for number in range(DRAWS):
        builder = Builder(np.random.default_rng([seed, turn, number]), signed, ties)
        proto = OPERATORS[operator](builder)
        size = proto.ByteSize() + sum(x.nbytes for x in builder.feeds.values())
        if size < BYTES and chosen(proto) and (made := _made(proto, builder.feeds, signed)) * 2 < BYTES - size:
            found += [(made, proto, builder.feeds)] if made else []
        if len(found) == CANDIDATES:
            return max(found, key=lambda one: one[0])[1:]
    raise ValueError(f"{kind}: {len(found)} of {DRAWS:,} graphs are small enough; raise BYTES.")


def _made(proto: onnx.ModelProto, feeds: dict[str, Array], signed: bool) -> int:
    """The bytes of the outputs; 0 where a machine computes some of it on real numbers, or values are few."""
    model = ir.from_proto(proto)
    name_everything(model)
    for place in ("x86_avx2", "arm64"):
        executor = IntegerExecutor(lower(model), machine_named(PLACES[place, signed]), threads=1)
        if _real(executor) - {"DynamicQuantizeLinear"}:
            return 0
    found = [np.asarray(x) for x in executor(feeds).values()]
    return sum(x.nbytes for x in found) if np.unique(found[0]).size >= CODES else 0


def _real(executor: IntegerExecutor) -> set[str]:
    """The kinds of operators that are computed on real numbers."""
    whole = {id(op) for op in executor.integer_ops}
    return {op.kind for op in executor.network.ops if id(op) not in whole}


def draw(seed: int) -> Cases:
    """Cases of all kinds of ONNX operators, without outputs."""
    cases: Cases = {}
    for kind in KINDS:
        for turn, (title, _, _) in enumerate(TURNS):
            proto, feeds = drawn(kind, turn, seed)
            held: dict[str, Array] = {"model": np.frombuffer(proto.SerializeToString(), np.uint8)}
            cases[f"{kind}, {title}"] = held | {f"x/{name}": x for name, x in feeds.items()}
            print(f"{kind}, {title}: {sum(x.nbytes for x in held.values())} bytes", flush=True)
    return cases


def run(cases: Cases, place: str) -> None:
    """Add what ONNX Runtime gives on this processor."""
    for name, case in cases.items():
        model = ir.from_proto(onnx.load_from_string(case["model"].tobytes()))
        feeds = {key.removeprefix("x/"): x for key, x in case.items() if key.startswith("x/")}
        found = OrtExecutor(model, threads=1, signed=name.endswith("signed"))(feeds)
        case |= {f"{place}/{output}": np.asarray(x) for output, x in found.items()}


def litert(seed: int, command: str) -> Cases:
    """Cases of all kinds of LiteRT's operators, with what its two sets of kernels give on another processor."""
    from exactness_litert import ELSEWHERE, Elsewhere

    cases: Cases = {}
    sets = {name: Elsewhere(command, kernels) for name, kernels in ELSEWHERE.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.tflite"
        for kind, content, feeds in _files(seed):
            path.write_bytes(content)
            found = {f"{name}/y": one(path, list(feeds.values())) for name, one in sets.items()}
            held: dict[str, Array] = {"model": np.frombuffer(content, np.uint8)}
            cases[kind] = held | {f"x/{name}": x for name, x in feeds.items()} | found
            print(f"{kind}: {sum(x.nbytes for x in cases[kind].values())} bytes", flush=True)
    return cases


def _files(seed: int) -> Iterator[tuple[str, bytes, dict[str, Array]]]:
    """Of the first small .tflite files of each kind the one whose output has most values, with its inputs."""
    from exactness_litert import fed
    from litert_graphs import OPERATORS, Draw

    from halfeven.exporters.litert.flatbuffer import to_bytes
    from halfeven.importers.litert.reader import import_tflite

    for place, (kind, graph) in enumerate(OPERATORS.items()):
        found: list[tuple[int, bytes, dict[str, Array]]] = []
        for number in range(DRAWS):
            draws = Draw(np.random.default_rng([seed, place, number]), number % 2 == 1)
            made = graph(draws)
            if sum(int(np.prod(tensor.shape)) for tensor in made.tensors) > BYTES:
                continue
            content, feeds = to_bytes(made), fed(made, draws)
            model = import_tflite(memoryview(content), kind).model
            name_everything(model)
            (y,) = IntegerExecutor(lower(model), machine_named("litert@xnnpack-arm64"), threads=1)(feeds).values()
            found.append((np.unique(y).size, content, feeds))
            if len(found) == CANDIDATES:
                yield kind, *max(found, key=lambda one: one[0])[1:]
                break
        else:
            raise ValueError(f"{kind}: {len(found)} of {DRAWS:,} graphs are small enough; raise BYTES.")


def opened(path: Path) -> Cases:
    """The cases of a recording."""
    cases: Cases = {}
    with np.load(path) as held:
        for key in held.files:
            name, _, field = key.partition("/")
            cases.setdefault(name, {})[field] = held[key]
    return cases


def save(path: Path, cases: Cases) -> None:
    """Write a recording."""
    arrays: dict[str, Any] = {f"{name}/{key}": x for name, case in cases.items() for key, x in case.items()}
    np.savez_compressed(path, **arrays)
    print(f"{path}: {len(cases)} cases, {path.stat().st_size:,} bytes")


def main() -> None:
    """Draw, run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "run", "litert"))
    parser.add_argument("path", type=Path)
    parser.add_argument("place", nargs="?", choices=("x86_avx2", "arm64"), help="of `run`: what this processor is")
    parser.add_argument("--through", default="", help="of `litert`: the command of a Python on Arm64")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.what == "draw":
        cases = draw(options.seed)
    elif options.what == "litert":
        cases = litert(options.seed, options.through)
    else:
        cases = opened(options.path)
        run(cases, options.place)
    save(options.path, cases)


if __name__ == "__main__":
    main()
