"""Promised: fake quantization has NumPy's bits for every grid, with every tiling, on CPU (with C++ and without) and CUDA,
over a million random and adversarial numbers a family; half precision is NumPy's value, rounded once; what makes no sense
is refused.
"""

# ruff: noqa: E402

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from halfeven.errors import BadCalibration, BadOption
from halfeven.numerics import blocks, floats, native
from halfeven.numerics.binary import BinaryGrid, TernaryGrid
from halfeven.numerics.codebook import NF4, CodebookGrid
from halfeven.numerics.floats import FloatGrid, Specials
from halfeven.numerics.grid import INT8, INT8_NARROW, INT16, INT32, UINT8, Grid, IntGrid
from halfeven.numerics.logs import LogGrid
from halfeven.numerics.quantize import fake_quantize as numpy_fake_quantize
from halfeven.numerics.quantize import quantize
from halfeven.numerics.rounding import Rounding
from halfeven.numerics.scheme import PER_TENSOR, QParams, Scheme, Tiling, ZeroRule, per_channel, per_group
from halfeven.training.blocks import BlockFakeQuantizer, fake_quantize_blocks
from halfeven.training.fake_quantize import fake_quantize
from halfeven.training.integers import integer_codes
from halfeven.training.tiles import tiles_of

INTS = [INT8, UINT8, INT8_NARROW, INT16, IntGrid(16, False), INT32, IntGrid(32, False), IntGrid(24), IntGrid(23, False),
        IntGrid(4), IntGrid(2), IntGrid(1)]  # fmt: skip
FLOATS = [floats.FLOAT32, floats.FLOAT16, floats.BFLOAT16, floats.FLOAT8_E4M3, floats.FLOAT8_E4M3FN,
          floats.FLOAT8_E4M3FNUZ, floats.FLOAT8_E5M2, floats.FLOAT8_E5M2FNUZ, floats.FLOAT6_E2M3, floats.FLOAT6_E3M2,
          floats.FLOAT4_E2M1, floats.FLOAT8_E8M0, floats.FLOAT64, floats.saturating(floats.FLOAT16),
          FloatGrid(4, 3, Specials.FN), FloatGrid(4, 3, Specials.FNUZ), FloatGrid(5, 2), FloatGrid(3, 2, bias=9)]  # fmt: skip
LOGS = [LogGrid(4), LogGrid(8, steps=16), LogGrid(5, signed=False), LogGrid(4, flush=False), LogGrid(4, zero=False),
        LogGrid(3, False, 3, False), LogGrid(16, steps=256)]  # fmt: skip
TABLES = [NF4, CodebookGrid((-2.5, 0.0, 1.0)), CodebookGrid((3.0,)), CodebookGrid(tuple(np.arange(1.0, 400.0)))]
SIGNS = [BinaryGrid(), TernaryGrid()]
OTHERS: list[Grid] = [*FLOATS, *LOGS, *TABLES, *SIGNS]
LAYOUTS = {
    "per tensor": (PER_TENSOR, (41, 5, 8)),
    "first axis": (per_channel(0), (6, 90)),
    "middle axis": (per_channel(1), (41, 5, 8)),
    "last axis": (per_channel(2), (13, 3, 33)),
    "groups": (per_group(2, 1, 32), (3, 96)),
    "groups that rows share": (Tiling(((1, 32),)), (3, 96)),
    "tiles": (Tiling(((0, 2), (2, 4))), (6, 3, 8)),
    "scales on both sides of an axis": (Tiling(((0, 1), (2, 1))), (6, 3, 8)),
    "empty": (per_channel(1), (0, 4, 3)),
    "a single number": (PER_TENSOR, ()),
}
Adversaries = Callable[..., np.ndarray]
Bits = Callable[[object], np.ndarray]


def borders(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Where the code changes, and the values themselves, at scale 1."""
    if isinstance(grid, IntGrid):
        return rng.integers(min(grid.low, -300), max(grid.high, 300), 5000) / 2
    if isinstance(grid, BinaryGrid | TernaryGrid):
        return np.array([0.0, 0.5, 1.0, -0.5, -1.0])
    if isinstance(grid, CodebookGrid):
        values = np.array(grid.values)
    elif isinstance(grid, LogGrid):
        values = np.concatenate([grid.magnitudes(), grid.midpoints(), -grid.magnitudes()]).astype(np.float64)
    else:
        codes = np.arange(1 << grid.bits) if grid.bits <= 16 else rng.integers(0, 2**grid.bits, 5000, dtype=np.uint64)
        values = grid.decode(codes.astype(grid.dtype))
    values = np.sort(np.clip(values[np.isfinite(values)], -3.4e38, 3.4e38))
    return np.concatenate([values, (values[1:] + values[:-1]) / 2])


def params_on(rng: np.random.Generator, grid: Grid, tiling: Tiling, shape: tuple[int, ...]) -> QParams[Grid]:
    scale_shape = tiling.scale_shape(shape)
    scale = rng.choice(np.float32([2**-4, 0.0123, 1, 1.1754944e-38, 3e37, 0.37]), scale_shape).astype(np.float32)
    zero, rule, limit = np.zeros(scale_shape, np.int32), ZeroRule.NONE, None
    if isinstance(grid, IntGrid):
        chosen = rng.integers(grid.low, min(grid.high, 2**31 - 1), scale_shape, endpoint=True)
        zero, rule = (chosen * rng.integers(0, 2, scale_shape)).astype(np.int32), ZeroRule.FREE
    if isinstance(grid, TernaryGrid) and rng.random() < 0.5:
        limit = (scale * np.float32(0.7)).astype(np.float32)
    return QParams(Scheme(grid, tiling, zero_point=rule), np.asarray(scale), np.asarray(zero), limit)


def in_torch(x: np.ndarray, params: QParams[Grid], device: str, rounding: Rounding = Rounding.HALF_EVEN) -> np.ndarray:
    limit = None if params.threshold is None else torch.tensor(params.threshold, device=device)
    scale, zero = (torch.tensor(part, device=device) for part in (params.scale, params.zero_point))
    found = fake_quantize(
        torch.tensor(x, device=device), scale, zero, params.scheme.grid, threshold=limit, rounding=rounding
    )
    return found.cpu().numpy()  # type: ignore[no-any-return]


def in_numpy(x: np.ndarray, params: QParams[Grid], rounding: Rounding = Rounding.HALF_EVEN) -> np.ndarray:
    with native.use_numpy(), np.errstate(invalid="ignore", over="ignore"):
        return numpy_fake_quantize(x, params, rounding)


@pytest.mark.parametrize("grid", [*INTS, *OTHERS], ids=str)
def test_every_grid_has_the_same_bits_with_every_tiling(
    grid: Grid, device: str, adversaries: Adversaries, bits: Bits
) -> None:
    rng = np.random.default_rng(5)
    for layout, (tiling, shape) in LAYOUTS.items():
        x = adversaries(rng, int(np.prod(shape)), borders(grid, rng), 2.0**-4).reshape(shape)
        params = params_on(rng, grid, tiling, shape)
        np.testing.assert_array_equal(bits(in_torch(x, params, device)), bits(in_numpy(x, params)), layout)


@pytest.mark.parametrize(
    "family", [INTS, FLOATS, LOGS, TABLES, SIGNS], ids=["ints", "floats", "logs", "tables", "signs"]
)
def test_a_million_numbers_of_each_family_have_the_same_bits(
    family: list[Grid], device: str, adversaries: Adversaries, bits: Bits
) -> None:
    rng, count = np.random.default_rng(6), (1 << 20) // len(family) + 1
    for grid in family:
        for scale, size in ((2.0**-4, count // 2 + 1), (0.0123, count // 2 + 1)):
            zero = 3 if isinstance(grid, IntGrid) and grid.high > 3 else 0
            rule = ZeroRule.FREE if isinstance(grid, IntGrid) else ZeroRule.NONE
            params = QParams(Scheme(grid, zero_point=rule), np.float32([scale]), np.array([zero], np.int32))
            x = adversaries(rng, size, borders(grid, rng), scale)
            np.testing.assert_array_equal(bits(in_torch(x, params, device)), bits(in_numpy(x, params)), str(grid))


@pytest.mark.parametrize("rule", Rounding)
@pytest.mark.parametrize("grid", [INT8, IntGrid(23), INT32, *FLOATS], ids=str)
def test_every_rounding_rule_has_the_same_bits(
    grid: Grid, rule: Rounding, device: str, adversaries: Adversaries, bits: Bits
) -> None:
    rng = np.random.default_rng(7)
    x = adversaries(rng, 4000, borders(grid, rng))
    rest = ZeroRule.FREE if isinstance(grid, IntGrid) else ZeroRule.NONE
    params = QParams(Scheme(grid, zero_point=rest), np.float32([1]), np.array([0], np.int32))
    np.testing.assert_array_equal(bits(in_torch(x, params, device, rule)), bits(in_numpy(x, params, rule)))


@pytest.mark.parametrize("grid", [INT8, INT32, *FLOATS, *LOGS, NF4, *SIGNS], ids=str)
def test_other_precisions_are_the_value_rounded_once(
    grid: Grid, device: str, adversaries: Adversaries, bits: Bits
) -> None:
    rng = np.random.default_rng(8)
    x = torch.tensor(adversaries(rng, 20_000, borders(grid, rng), 0.37))
    rule = ZeroRule.FREE if isinstance(grid, IntGrid) else ZeroRule.NONE
    params = QParams(Scheme(grid, zero_point=rule), np.float32([0.37]), np.array([0], np.int32))
    for dtype in (torch.float16, torch.bfloat16):
        found = in_torch(x.to(dtype).float().numpy(), params, device)
        expected = torch.tensor(in_numpy(x.to(dtype).float().numpy(), params)).to(dtype)
        scale, zero = torch.tensor(params.scale, device=device), torch.tensor(params.zero_point, device=device)
        narrow = fake_quantize(x.to(dtype).to(device), scale, zero, grid)
        assert narrow.dtype == dtype
        np.testing.assert_array_equal(bits(narrow.float().cpu()), bits(expected.float()))
        np.testing.assert_array_equal(bits(torch.tensor(found).to(dtype).float()), bits(expected.float()))
    double = x.double().numpy() * (1 + 2.0**-30)
    np.testing.assert_array_equal(
        bits(in_torch(double, params, device)), bits(in_numpy(double, params).astype(np.float64))
    )


@pytest.mark.parametrize("grid", [INT16, INT8, IntGrid(16, False), INT32, IntGrid(32, False), IntGrid(4)], ids=str)
def test_codes_are_those_of_numpy_and_saturate_at_the_ends(
    grid: IntGrid, device: str, adversaries: Adversaries
) -> None:
    rng = np.random.default_rng(9)
    x = adversaries(rng, 1 << 17, borders(grid, rng), 2.0**-4)
    params = QParams(Scheme(grid, zero_point=ZeroRule.FREE), np.float32([2**-4]), np.array([3], np.int32))
    scale, zero = torch.tensor(params.scale, device=device), torch.tensor(params.zero_point, device=device)
    found = integer_codes(torch.tensor(x, device=device), scale, zero, grid).cpu().numpy()
    np.testing.assert_array_equal(found, quantize(x, params), strict=True)
    assert (found.min(), found.max()) == (grid.low, grid.high)


def test_int16_is_clipped_to_its_range_by_hand() -> None:
    x = torch.tensor([-4e4, -32768.5, -2.5, -0.0, 1.5, 32767.5, 1e9])
    codes = integer_codes(x, torch.ones(()), torch.zeros((), dtype=torch.int32), INT16)
    assert codes.dtype == torch.int16
    assert codes.tolist() == [-32768, -32768, -2, 0, 2, 32767, 32767]


def test_memory_in_another_order_has_the_same_bits(device: str, bits: Bits) -> None:
    x = np.random.default_rng(10).normal(0, 2, (2, 8, 5, 7)).astype(np.float32)
    last = torch.tensor(x, device=device).to(memory_format=torch.channels_last)
    for grid in (INT8, floats.FLOAT8_E4M3FN, LogGrid(4), NF4):
        params = params_on(np.random.default_rng(0), grid, Tiling(((1, 4),)), x.shape)
        scale, zero = torch.tensor(params.scale, device=device), torch.tensor(params.zero_point, device=device)
        np.testing.assert_array_equal(bits(fake_quantize(last, scale, zero, grid).cpu()), bits(in_numpy(x, params)))


FORMATS = [blocks.MXFP8_E4M3, blocks.MXFP8_E5M2, blocks.MXFP6_E3M2, blocks.MXFP6_E2M3, blocks.MXFP4, blocks.MXINT8,
           blocks.NVFP4, blocks.INT4_INT8, blocks.NF4_DOUBLE]  # fmt: skip


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_block_formats_have_the_same_bits(form: blocks.BlockFormat, device: str, bits: Bits) -> None:
    rng = np.random.default_rng(11)
    length = 256 * form.length
    x = rng.standard_normal((8, length), np.float32) * np.exp2(
        rng.integers(-140, 120, (8, length // form.length))
    ).astype(np.float32).repeat(form.length, 1)
    x[0, : length // 2] = 0
    x[1, : form.length] = 1e-45
    found = BlockFakeQuantizer(form)(torch.tensor(x, device=device)).cpu()
    np.testing.assert_array_equal(bits(found), bits(blocks.encode_blocks(x, form).decode()))
    half = torch.tensor(x, device=device).half()
    half = torch.where(half.isinf(), 1.0, half)
    expected = blocks.encode_blocks(half.float().cpu().numpy(), form).decode()
    np.testing.assert_array_equal(
        bits(fake_quantize_blocks(half, form).float().cpu()), bits(torch.tensor(expected).half().float())
    )


def test_blocks_of_zeros_and_of_the_smallest_numbers_have_the_same_bits(device: str, bits: Bits) -> None:
    for form in FORMATS:
        for number in (0.0, -1e-45, 3e-44, 1e-38):
            x = np.full((2, 256 * form.length), number, np.float32)
            found = fake_quantize_blocks(torch.tensor(x, device=device), form).cpu()
            np.testing.assert_array_equal(bits(found), bits(blocks.encode_blocks(x, form).decode()), form.name)


def test_an_empty_tensor_has_empty_blocks() -> None:
    for form in (blocks.MXFP4, blocks.NVFP4):
        assert fake_quantize_blocks(torch.zeros(0, 64), form).shape == (0, 64)


def test_what_makes_no_sense_is_refused() -> None:
    x, one, zero = torch.zeros(4, 6), torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int32)
    with pytest.raises(BadOption, match=r"scale of shape \(3, 4\) does not fit a tensor of shape \(4, 6\)"):
        fake_quantize(x, torch.ones(3, 4), torch.zeros(3, 4, dtype=torch.int32), INT8)
    with pytest.raises(BadOption, match="another shape"):
        fake_quantize(x, one, torch.zeros(4, 1, dtype=torch.int32), INT8)
    with pytest.raises(BadOption, match=r"torch\.int64; floats are quantized"):
        fake_quantize(x.long(), one, zero, INT8)
    for grid in (LogGrid(4), NF4, BinaryGrid()):
        with pytest.raises(BadOption, match="no ties"):
            fake_quantize(x, one, zero, grid, rounding=Rounding.FLOOR)
    with pytest.raises(BadOption, match="no axis"):
        fake_quantize_blocks(torch.tensor(1.0), blocks.MXFP4)
    with pytest.raises(BadCalibration, match="infinities and NaN"):
        fake_quantize_blocks(torch.full((32,), torch.nan), blocks.MXFP4)
    with pytest.raises(BadOption, match="does not fit"):
        tiles_of((4,), (0,))
