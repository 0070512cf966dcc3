"""Encodings of AIMET, QNN and SNPE, read: versions up to 0.6.1, 1.0.0, 2.0.0 and 2.1.0 (`exporters.tables.aimet`).

    up to 1.0.0    symmetric: codes of int8, unless the offset says that they have none below zero or lack the lowest;
                   else those of uint8; zero_point = lowest code - offset
    2.0.0          output_dtype and y_zero_point, as they stand
    LPBQ           of all from 1.0.0 on: the product of both scales in float32, as AIMET's own graph computes it

Tensors that a file has in float stay float. A file without a version is AIMET's 0.4 or PPQ's for QNN, whose offset has
the other sign: `min` tells which. Floats of 8 bits and int2 codes between the integers are refused.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from halfeven.errors import UnsupportedModel
from halfeven.graph.encodings import Encoding, grid_of
from halfeven.graph.plan import Plan
from halfeven.importers.tables import reading as r
from halfeven.importers.tables.placing import needed, plan_from
from halfeven.importers.tables.shaping import block_axes, blocked, shaped, tiles
from halfeven.numerics.conventions import Canonical, Fields, to_canonical
from halfeven.numerics.grid import IntGrid
from halfeven.numerics.scheme import Scheme, Tiling, ZeroRule
from halfeven.targets.target import Target

Read: TypeAlias = Callable[[str, Any, ir.Model], Encoding | None]
SECTIONS = ("activation_encodings", "param_encodings")
MOST_AXES = 8


def read_aimet(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of an encodings file of any version.

    Raises:
        BadOption: it is malformed, or there is no model.
        UnsupportedModel: it does not fit the model, or holds what no plan can.
    """
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    with r.entry(path, "encodings"):
        listed = data["encodings"] if "encodings" in data else [data[section] for section in SECTIONS]
        if "encodings" in data or all(isinstance(section, list) for section in listed):
            found = listed if "encodings" in data else [one for section in listed for one in section]
            read: Read = _of_200 if "encodings" in data else _of_100
            named = [(r.text(one["name"], "name"), one) for one in r.listed({"encodings": found}, "encodings")]
        else:
            both = {section: r.items(data, section) for section in SECTIONS}
            named = [pair for section in both.values() for pair in section.items()]
            read = _of_ppq if "version" not in data and _counts_from_zero_point(named) else _of_061
    return plan_from(_entries(path, named, read, graph), graph, target, f"'{path.name}'")


def read_ppq_qnn(path: Path, model: ir.Model | None, target: Target) -> Plan:
    """The plan of PPQ's file for QNN; raises as `read_aimet`."""
    data = r.read_json(path)
    graph = needed(model, f"'{path}'")
    with r.entry(path, "encodings"):
        named = [pair for section in SECTIONS for pair in r.items(data, section).items()]
    return plan_from(_entries(path, named, _of_ppq, graph), graph, target, f"'{path.name}'")


def _entries(path: Path, named: Sequence[tuple[str, Any]], read: Read, model: ir.Model) -> Iterator[Encoding]:
    for name, one in named:
        with r.entry(path, name):
            found = read(name, one, model)
            if found is not None:
                yield found


def _of_061(name: str, found: Any, model: ir.Model) -> Encoding | None:
    """A list of encodings, one for each channel."""
    if not isinstance(found, list) or not found:
        raise TypeError(f"a list of encodings was expected, found {found!r:.40}")
    if any(r.text(one.get("dtype", "int"), "dtype") != "int" for one in found):
        return None
    return shaped(model, name, [_legacy(one, one["bitwidth"], one.get("is_symmetric", False)) for one in found])


def _of_100(name: str, one: Any, model: ir.Model) -> Encoding | None:
    """One encoding with lists of scales and offsets."""
    if r.text(one["dtype"], "dtype") != "INT":
        return None
    kind, scales, offsets = one["enc_type"], r.listed(one, "scale"), r.listed(one, "offset")
    if kind not in ("PER_TENSOR", "PER_CHANNEL", "PER_BLOCK", "LPBQ"):
        raise UnsupportedModel(f"'{name}' is encoded as {kind!r:.40}; scales by tensor, channel and block can be read.")
    if any(r.flat(one.get("zero_point_shift", 0.0))):
        raise UnsupportedModel(f"'{name}' has codes between the integers (zero_point_shift), which no plan holds.")
    bits = one["bw"]
    if kind == "LPBQ":
        bits, scales = one["compressed_bw"], _of_lpbq(one, scales, offsets)
        offsets = [-(1 << (r.whole(bits, "compressed_bw", 2, 16) - 1))] * len(scales)
    pairs = zip(scales, offsets, strict=True)
    found = [_legacy({"scale": s, "offset": o}, bits, one["is_sym"]) for s, o in pairs]
    if kind not in ("PER_BLOCK", "LPBQ"):
        return shaped(model, name, found)
    output, summed, dims = block_axes(model, name)
    run = r.whole(one["block_size"], "block_size", 1)
    shape = tuple(d if i == output else -(-d // run) if i == summed else 1 for i, d in enumerate(dims))
    order = (shape[output], shape[summed]) if output > summed and len(dims) == 2 else shape
    scale, zero = (np.array(v).reshape(order) for v in ([c.scale for c in found], [c.zero_point for c in found]))
    if output > summed and len(dims) == 2:  # the file has output channels first
        scale, zero = scale.T, zero.T
    tiling = tiles(len(dims), shape, dims, summed, run)
    return blocked(model, name, scale, zero, _scheme(found[0].low, found[0].high, tiling, zero))


def _of_lpbq(one: Any, scales: list[Any], offsets: list[Any]) -> list[float]:
    """The products of block and channel scales, by channel, then block."""
    middle = -(1 << (r.whole(one["bw"], "bw", 2, 32) - 1))
    if not r.truth(one["is_sym"], "is_sym") or any(offset != middle for offset in offsets):
        raise ValueError(f"LPBQ is symmetric, with offsets of {middle}")
    factors = _array(scales, "scale", r.scale)
    steps = _array(list(r.flat(one["per_block_int_scale"])), "per_block_int_scale", _step)
    if not factors.size or steps.size % factors.size:
        raise ValueError(f"{steps.size} multiples for {factors.size} channels")
    return [float(scale) for scale in (steps.reshape(factors.size, -1) * factors[:, None]).ravel()]


def _of_200(name: str, one: Any, model: ir.Model) -> Encoding | None:
    """One encoding as ONNX QuantizeLinear has it."""
    kind = re.fullmatch(r"(u?)int(\d+)", r.text(one["output_dtype"], "output_dtype"))
    if kind is None or not 2 <= int(kind[2]) <= 32:
        raise UnsupportedModel(f"'{name}' has codes of type {one['output_dtype']!r:.40}; plans hold integers.")
    grid = IntGrid(int(kind[2]), not kind[1])
    scale = _scales(one)
    zeros = one.get("y_zero_point")
    if zeros is None:
        zero = np.zeros(scale.shape, np.int64)
    else:
        zero = np.array([r.whole(z, "y_zero_point") for z in r.flat(zeros)], np.int64).reshape(scale.shape)
    axis = r.whole(one["axis"], "axis", -8, 7) if one.get("axis") is not None else None
    if one.get("block_size") is None:
        pairs = zip(scale.ravel(), zero.ravel(), strict=True)
        return shaped(model, name, [Canonical(float(s), int(z), grid.low, grid.high) for s, z in pairs], axis)
    dims = block_axes(model, name)[2]
    if axis is None or not -len(dims) <= axis < len(dims) or scale.ndim != len(dims):
        raise ValueError(f"block scales of {scale.ndim} axes along axis {axis} of a tensor of shape {list(dims)}")
    tiling = tiles(len(dims), scale.shape, dims, axis % len(dims), r.whole(one["block_size"], "block_size", 1))
    return blocked(model, name, scale, zero, _scheme(grid.low, grid.high, tiling, zero))


def _scales(one: Any) -> npt.NDArray[np.float32]:
    """The scales of an encoding, in their shape; of LPBQ the products."""
    if "per_block_int_scale" in one:
        factors = _array(one["per_channel_float_scale"], "per_channel_float_scale", r.scale)
        return factors * _array(one["per_block_int_scale"], "per_block_int_scale", _step)
    meta = one["y_scale"]
    if not isinstance(meta, dict):
        return _array(meta, "y_scale", r.scale)
    steps, factors = _array(meta["x"], "x", _step), _array(meta["x_scale"], "x_scale", r.scale)
    if factors.ndim == 1:
        axis = r.whole(meta["axis"], "axis", 0, steps.ndim - 1)
        factors = factors.reshape([-1 if i == axis else 1 for i in range(steps.ndim)])
    return steps * factors


def _array(value: Any, what: str, read: Callable[[Any, str], float]) -> npt.NDArray[np.float32]:
    """Numbers in nested lists of one shape."""
    shape, inner = [], value
    while isinstance(inner, list):
        shape.append(len(inner))
        inner = inner[0] if inner else None
    if len(shape) > MOST_AXES:
        raise ValueError(f"{what}: lists are nested {len(shape)} deep")
    found = [read(one, what) for one in r.flat(value)]
    return np.array(found, np.float32).reshape(shape)


def _step(value: Any, what: str) -> float:
    return float(r.whole(value, what, 1, 2**24))


def _scheme(low: int, high: int, tiling: Tiling, zeros: npt.NDArray[np.int64]) -> Scheme:
    grid = grid_of(low, high)
    assert grid is not None
    return Scheme(grid, tiling, zero_point=ZeroRule.FREE if zeros.any() else ZeroRule.NONE)


def _legacy(one: Any, bits: Any, symmetric: Any) -> Canonical:
    """An encoding up to 1.0.0."""
    width, offset = r.whole(bits, "bitwidth", 2, 32), r.whole(one["offset"], "offset", -(2**32), 2**32)
    half = 1 << (width - 1)
    signed = r.truth(symmetric, "is_symmetric") and offset != 0
    low = (1 - half if offset == 1 - half else -half) if signed else 0
    fields: Fields = {"scale": r.scale(one["scale"]), "offset": offset, "bitwidth": width}
    if one.get("min") is not None:
        fields["min"] = r.number(one["min"], "min")
    return to_canonical("aimet", fields, low=low, high=half - 1 if signed else 2 * half - 1, lossy=True)


def _of_ppq(name: str, found: Any, model: ir.Model) -> Encoding | None:
    """A list of PPQ's: codes from `min` and `max`, offset = zero point."""
    if not isinstance(found, list) or not found:
        raise TypeError(f"a list of encodings was expected, found {found!r:.40}")
    codes = []
    for one in found:
        scale, zero = r.scale(one["scale"]), r.whole(one["offset"], "offset")
        low, high = (round(r.number(one[key], key) / scale) + zero for key in ("min", "max"))
        codes.append(Canonical(scale, zero, r.whole(low, "lowest code"), r.whole(high, "highest code")))
    return shaped(model, name, codes)


def _counts_from_zero_point(named: Sequence[tuple[str, Any]]) -> bool:
    """Whether some entry's `min` is not scale * offset, so that the offset is no AIMET offset."""
    for _, found in named:
        for one in found if isinstance(found, list) else []:
            if isinstance(one, dict) and {"min", "scale", "offset"} <= one.keys():
                least, scale, offset = (r.number(one[key], key) for key in ("min", "scale", "offset"))
                if abs(least - scale * offset) > scale / 2:
                    return True
    return False
