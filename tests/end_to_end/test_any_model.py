"""Any ONNX model in: what ONNX Runtime runs is quantized for every target, or refused in a sentence that says why.

Of each network of any_model.txt, for each target: the file is valid ONNX with the inputs, outputs, names and documentation
of its source; nothing in it leads nowhere; what the plan calls quantized is; and it computes what the source computes, up to
the noise of 8 bits, on samples that did not calibrate. Networks that text cannot say, and refusals, follow.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest

import halfeven
from halfeven import TARGETS

Feeds = dict[str, np.ndarray]
Build = Callable[..., onnx.ModelProto]
Draw = Callable[..., list[Feeds]]
Ran = Callable[..., list[dict[str, object]]]
Sqnr = Callable[..., float]
ProtoOf = Callable[..., onnx.ModelProto]

CASES = Path(__file__).with_name("any_model.txt")
PLAIN = "g (float[N,8] x) => (float[N,4] y) <float[8,8] w, float[8,4] v> { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"
each_target = pytest.mark.parametrize("target", list(TARGETS))


@dataclass
class Case:
    """One titled network of the file."""

    title: str
    options: dict[str, str] = field(default_factory=dict)
    graph: str = ""


def _cases() -> Iterator[Case]:
    for block in CASES.read_text("utf-8").split("\n# ")[1:]:
        title, *lines = block.splitlines()
        case = Case(title)
        for line in lines:
            if option := re.fullmatch(r"([a-z.A-Z]+): (.*)", line):
                case.options[option[1]] = option[2]
            else:
                case.graph += line + "\n"
        yield case


def _stacked(samples: list[Feeds]) -> Feeds:
    return {name: np.stack([feeds[name] for feeds in samples]) for name in samples[0]}


def _quantized(proto: onnx.ModelProto, data: object, target: str = "onnxruntime", **options: object) -> halfeven.Result:
    return halfeven.quantize(proto, data, target=target, **{"verify": False, "prefer": "size", **options})  # type: ignore[arg-type]


_floats: dict[str, tuple[onnx.ModelProto, list[Feeds], list[Feeds], list[dict[str, object]]]] = {}


def _float(case: Case, build: Build, draw: Draw, ran: Ran) -> tuple[onnx.ModelProto, list[Feeds], list[Feeds], list[dict[str, object]]]:
    """The case's network, samples to calibrate with, others, and its outputs on these; the same for all targets."""
    if case.title not in _floats:
        options = case.options
        proto = build(case.graph, int(options.get("opset", 17)), int(options.get("ir", 8)), options.get("imports", ""))
        judged = draw(proto, 4, 1, options)
        _floats[case.title] = proto, draw(proto, 16, 0, options), judged, ran(proto.SerializeToString(), judged)
    return _floats[case.title]


@each_target
@pytest.mark.parametrize("case", list(_cases()), ids=lambda case: case.title)
def test_a_network_goes_in_and_comes_out_quantized(
    case: Case, target: str, build: Build, draw: Draw, ran: Ran, sqnr: Sqnr, proto_of: ProtoOf
) -> None:
    source, samples, judged, wanted = _float(case, build, draw, ran)
    result = _quantized(source, _stacked(samples), target)
    quantized = proto_of(source, result)
    weights = [group for group in result.plan.sites.values() if result.plan.groups[group].role == "weight"]
    assert len(weights) >= int(case.options.get("layers", 1))
    found = ran(quantized.SerializeToString(), judged)
    for name, first in wanted[0].items():
        pairs = [[np.asarray(row[name]) for row in rows] for rows in (wanted, found)]
        assert [a.dtype for a in pairs[0]] == [a.dtype for a in pairs[1]]
        if "varies" not in case.options:
            assert [a.shape for a in pairs[0]] == [a.shape for a in pairs[1]]
            if np.asarray(first).dtype.kind == "f":
                assert sqnr(*pairs) >= float(case.options.get("sqnr", 15)), name
