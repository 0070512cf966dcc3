"""The C++ headers that Python does not bind give NumPy's bits, over a million elements for each rule and flavour.

Rounding, stochastic rounding, multipliers, requantization, packing, matrix product and convolution: NumPy's arrays go
to cpp/tests/exchange.cpp in a file, whose form that program describes, and what comes back is compared bit for bit.
Half of the data looks for trouble: ties and their neighbours, the ends of the types, 2**23 and beyond.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from halfeven.errors import BadOption
from halfeven.numerics import integer_ops, multiplier, packing
from halfeven.numerics.requant import Requant, requantize
from halfeven.numerics.rounding import Rounding, stochastic

CPP = Path(__file__).parents[2] / "cpp"
COMPILER = next((found for name in (os.environ.get("CXX"), "c++", "g++") if name and (found := shutil.which(name))), "")
OPTIONS = ["-std=c++17", "-O3", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-ffp-contract=off"]
ROUND, STOCHASTIC, RESCALE, REQUANTIZE, PACK, UNPACK, GEMM, CONV = range(8)
MILLION = 1_000_000

Exchange = Callable[..., bytes]

pytestmark = [
    pytest.mark.skipif(not CPP.is_dir(), reason="the C++ sources are not here"),
    pytest.mark.skipif(not COMPILER, reason="no C++ compiler found"),
]


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    """Sends requests to the program and gives all its answers, one after another."""
    folder = tmp_path_factory.mktemp("exchange")
    program, requests, answers = (folder / name for name in ("exchange", "requests", "answers"))
    source = [f"-I{CPP / 'include'}", str(CPP / "tests" / "exchange.cpp"), "-o", str(program)]
    compiled = subprocess.run([COMPILER, *OPTIONS, *source], capture_output=True, text=True, timeout=300)
    assert compiled.returncode == 0, compiled.stderr

    def send(*each: bytes) -> bytes:
        requests.write_bytes(b"".join(each))
        done = subprocess.run([program, requests, answers], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        return answers.read_bytes()

    return send


def request(*words: int, arrays: tuple[np.ndarray, ...] = ()) -> bytes:
    return np.array(words, np.int64).tobytes() + b"".join(array.tobytes() for array in arrays)


def same(answers: bytes, *expected: np.ndarray) -> None:
    """`answers` are the bits of these arrays and nothing more; a NaN may be any."""
    at = 0
    for want in expected:
        found = np.frombuffer(answers, want.dtype, want.size, at).reshape(want.shape)
        at += want.nbytes
        if want.dtype.kind == "f":
            want, found = (np.where(np.isnan(x), x.dtype.type(np.nan), x).view(f"i{x.itemsize}") for x in (want, found))
        np.testing.assert_array_equal(found, want)
    assert at == len(answers)


# ---- rounding ----------------------------------------------------------------------------------------------------


def floats(rng: np.random.Generator, dtype: type[np.floating]) -> np.ndarray:
    """Half a million of any bits, as many ties and their neighbours, then what lies where halves end, and specials."""
    info, word = np.finfo(dtype), np.dtype(f"i{np.dtype(dtype).itemsize}")
    limits = np.iinfo(word)
    bits = rng.integers(limits.min, limits.max, MILLION // 2, word, endpoint=True).view(dtype)
    size = np.exp2(rng.uniform(0, info.nmant, MILLION // 2))
    ties = (np.rint(size) + rng.choice([-0.5, 0.5], size.size)).astype(dtype) * rng.choice([-1, 1], size.size)
    near = np.nextafter(ties.astype(dtype), rng.choice(np.array([-np.inf, 0, np.inf], dtype), size.size))
    end = np.ldexp(1.0, info.nmant - 1) + rng.integers(0, 2**22, MILLION // 8) / 2
    special = np.array([0.0, -0.0, 0.5, -0.5, np.nan, np.inf, -np.inf, info.max, info.tiny, info.smallest_subnormal])
    half = np.nextafter(dtype(0.5), dtype(0))
    return np.concatenate([bits, ties, near, end, -end, special, [half, -half]], dtype=dtype, casting="unsafe")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", Rounding)
def test_each_rule_rounds_a_million_floats_alike(exchange: Exchange, rule: Rounding, dtype: type) -> None:
    x = floats(np.random.default_rng(11), dtype)
    assert (x.dtype, x.size >= MILLION) == (dtype, True)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        want = rule(x)
    number = list(Rounding).index(rule)
    same(exchange(request(ROUND, number, 8 * x.itemsize, x.size, arrays=(x,))), want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stochastic_rounding_of_the_same_draws_is_the_same(exchange: Exchange, dtype: type) -> None:
    x = floats(np.random.default_rng(12), dtype)
    with np.errstate(invalid="ignore"):
        want = stochastic(x, np.random.default_rng(13))
    drawn = np.random.default_rng(13).random(x.shape)
    same(exchange(request(STOCHASTIC, 8 * x.itemsize, x.size, arrays=(x, drawn))), want)


# ---- multipliers -------------------------------------------------------------------------------------------------

SETTLED: dict[Requant, Callable[[np.ndarray], multiplier.Multiplier]] = {
    Requant.DOUBLE_ROUNDING: multiplier.litert_multiplier,
    Requant.NEON: multiplier.litert_multiplier,
    Requant.SINGLE_ROUNDING: lambda m: multiplier.litert_multiplier(m, single_rounding=True),
    Requant.INT16X8: multiplier.int16x8_multiplier,
    Requant.RNDNU: multiplier.rndnu_multiplier,
    Requant.RNDNU16: multiplier.rndnu16_multiplier,
    Requant.QNNPACK: multiplier.qnnpack_multiplier,
    Requant.Q8_8: multiplier.q8_8_multiplier,
    Requant.SHIFT_HALF_UP: multiplier.shift_multiplier,
}
# Lowest and highest multiplier of a flavour; others take what float32 holds.
BELOW_256, BELOW_1 = (float(np.nextafter(np.float32(end), np.float32(0))) for end in (256, 1))
RANGES = {
    Requant.DOUBLE_ROUNDING: (2.0**-40, 2.0**31 - 1),
    Requant.NEON: (2.0**-40, 2.0**31 - 1),
    Requant.SINGLE_ROUNDING: (2.0**-40, 2.0**40),
    Requant.INT16X8: (2.0**-40, 2.0**14 * (1 - 2**-30)),
    Requant.RNDNU: (2.0**-32, BELOW_256),
    Requant.RNDNU16: (2.0**-32, BELOW_256),
    Requant.QNNPACK: (2.0**-32, BELOW_1),
    Requant.Q8_8: (2.0**-8, 2.0**7),
}
ANY_FLOAT = (float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max))


def numbers_of(flavour: Requant) -> tuple[int, int]:
    """The flavour and the rule as the headers count them; those of shifts are one flavour there."""
    shift = list(Requant).index(Requant.SHIFT_HALF_EVEN)
    number = min(list(Requant).index(flavour), shift)
    rule = Rounding(flavour.removeprefix("shift_")) if number == shift else Rounding.HALF_UP
    return number, list(Rounding).index(rule)


def multipliers(rng: np.random.Generator, flavour: Requant, count: int) -> np.ndarray:
    """Over the flavour's range, evenly in the exponent, the ends and common quotients first."""
    if flavour.startswith("shift_"):
        usual = np.exp2([-62, -31, -9, -1, 0, 1, 7, 30])
        return np.concatenate([usual, np.exp2(rng.integers(-62, 31, count - usual.size))])
    low, high = RANGES.get(flavour, ANY_FLOAT)
    usual = np.array([low, high, 0.00371, 1 / 3, 0.75, 2**-9, 0.5, 1 - 2**-20, 1.0, 1.7, 4.0, 37.3, 2**-31, 1e-7])
    usual = usual[(low <= usual) & (usual <= high)]
    spread = np.exp2(rng.uniform(np.log2(low), np.log2(high), count - usual.size))
    return np.concatenate([usual, np.clip(spread, low, high)])


@pytest.mark.parametrize("flavour", SETTLED)
def test_a_million_multipliers_become_the_same_mantissas_and_shifts(exchange: Exchange, flavour: Requant) -> None:
    rng = np.random.default_rng(14)
    real = multipliers(rng, flavour, MILLION)
    if not flavour.startswith("shift_"):  # of these, a fifth near what carries into the next power, and near halves
        coarse = np.exp2(np.rint(np.log2(real[::5]))) * (1 - rng.integers(0, 20, real[::5].size) * 2.0**-34)
        real[::5] = np.clip(coarse, *RANGES[flavour])
    want = SETTLED[flavour](real)
    parts = np.stack([np.ones(real.size), want.mantissa, want.shift], axis=1).astype(np.int32)
    same(exchange(request(RESCALE, *numbers_of(flavour), real.size, arrays=(real,))), parts)


@pytest.mark.parametrize("flavour", SETTLED)
def test_what_a_flavour_cannot_express_is_refused_in_both(exchange: Exchange, flavour: Requant) -> None:
    wide = np.exp2(np.arange(-80, 80) + 0.25)
    real = np.concatenate([[0.0, -1.0, np.nan, np.inf], wide, np.exp2(np.arange(-80.0, 80)), RANGES.get(flavour, ())])

    def taken(one: float) -> bool:
        try:
            requantize(np.zeros(1, np.int32), one, 0, -128, 127, flavour)
        except BadOption:
            return False
        return True

    answers = np.frombuffer(exchange(request(RESCALE, *numbers_of(flavour), real.size, arrays=(real,))), np.int32)
    assert [bool(valid) for valid in answers[::3]] == [taken(float(one)) for one in real]


# ---- requantization ----------------------------------------------------------------------------------------------

INT32 = np.iinfo(np.int32)
# code of exchange.cpp, zero point, low, high
KINDS = [
    (-8, 0, -128, 127),
    (-8, -3, -128, 96),
    (8, 131, 0, 255),
    (8, 7, 7, 200),
    (-16, 0, -32768, 32767),
    (-16, 1201, 1201, 32767),
]
CODES = {-8: np.int8, 8: np.uint8, -16: np.int16, 0: np.int32}


def accumulators(rng: np.random.Generator, real: np.ndarray, shape: tuple[int, ...], bits: int = 32) -> np.ndarray:
    """int64, in equal parts: uniform, small, at ties of `real` (C, 1) and next to them, from 2**23 on, at the ends."""
    most = (1 << (bits - 1)) - 1
    step = rng.integers(-300, 300, shape) * rng.choice([1, 100], shape) + 0.5
    ties = np.rint(np.clip(step / real, -most, most)) + rng.integers(-1, 2, shape)
    beyond = (2 ** rng.integers(23, bits - 1, shape) + rng.integers(-300, 300, shape)) * rng.choice([-1, 1], shape)
    ends = np.where(rng.random(shape) < 0.5, -most - 1 + rng.integers(0, 40, shape), most - rng.integers(0, 40, shape))
    parts = [rng.integers(-most - 1, most + 1, shape), rng.integers(-5000, 5000, shape), ties, beyond, ends]
    return np.clip(np.choose(rng.integers(0, 5, shape), parts), -most - 1, most).astype(np.int64)


def ways(flavour: Requant) -> Iterator[tuple[int, int, int, int, int]]:
    """Code, zero point, low, high and the bits of accumulators: the kernels' types, then one by one and wide."""
    for kind in KINDS:
        yield (*kind, 32)
    exact = not flavour.startswith("float32_")
    limits = (INT32.min, INT32.max) if exact else (-(2**23), 2**23 - 1)  # beyond, floats do not hold all codes
    bits = 48 if flavour is Requant.INT16X8 else 32
    yield 0, 12345, *limits, bits
    yield 0, 0, *limits, bits


@pytest.mark.parametrize("flavour", Requant)
def test_each_flavour_gives_a_million_accumulators_the_same_codes(exchange: Exchange, flavour: Requant) -> None:
    rng = np.random.default_rng(15)
    channels, total = 24, 0
    for code, zero, low, high, bits in ways(flavour):
        real = multipliers(rng, flavour, channels)
        shape = (3, channels, 1 + MILLION // 8 // 3 // channels)
        acc = accumulators(rng, real[:, None], shape, bits)
        want = requantize(acc, real[:, None], zero, low, high, flavour).astype(CODES[code])
        arrays = (real, acc if code == 0 else acc.astype(np.int32))
        words = (REQUANTIZE, *numbers_of(flavour), zero, low, high, code, *shape)
        same(exchange(request(*words, arrays=arrays)), want)
        total += acc.size
        assert len(np.unique(want.ravel()[::7])) > min(200, (high - low) // 2)  # the data does not only saturate
    assert total >= MILLION


# ---- packing -----------------------------------------------------------------------------------------------------


def codes_of(rng: np.random.Generator, bits: int, count: int, signed: bool) -> np.ndarray:
    low = -(1 << (bits - 1)) if signed else 0
    return rng.integers(low, low + (1 << bits), count).astype(np.int8 if signed else np.uint8)


@pytest.mark.parametrize("order", ["low", "high"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_million_codes_are_packed_and_unpacked_alike(exchange: Exchange, bits: int, order: packing.Order) -> None:
    rng = np.random.default_rng(16)
    requests, expected = [], []
    for signed in (True, False):
        for count in (*range(20), MILLION // 2 + 3):
            words = (bits, ("low", "high").index(order), -8 if signed else 8, count)
            codes = codes_of(rng, bits, count, signed)
            data = rng.integers(0, 256, packing.packed_size(count, bits)).astype(np.uint8)  # no zeros in the padding
            requests += [request(PACK, *words, arrays=(codes,)), request(UNPACK, *words, arrays=(data,))]
            expected.append(packing.pack(codes, bits, order))
            expected.append(packing.unpack(data, bits, count, signed=signed, order=order))
    same(exchange(*requests), *expected)


# ---- matrix product and convolution ------------------------------------------------------------------------------

TYPES = [(np.int8, np.int8), (np.uint8, np.int8), (np.uint8, np.uint8), (np.int16, np.int8)]


def any_codes(rng: np.random.Generator, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform, or the ends of the type alone."""
    info = np.iinfo(dtype)
    if rng.random() < 0.7:
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return rng.choice(np.array([info.min, info.max], dtype), shape, p=[0.8, 0.2])


def offsets(rng: np.random.Generator, dtype: type, rows: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Whether they are sent, zero points of weights of `dtype`, and biases, of which some carry sums beyond 32 bits."""
    info = np.iinfo(dtype)
    if rng.random() < 0.2:
        return 0, np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    most = rng.choice([2**10, 2**30, 2**31 - 1])
    zeros = rng.integers(info.min, info.max, rows, np.int32, endpoint=True)
    return 1, zeros, rng.integers(-most, most, rows, np.int32)


def sums(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is expected of the kernel, the reference, and its word on whether all fit in 32 bits."""
    narrow = integer_ops.wrap(wide, 32)
    acc = narrow.astype(np.int32)
    return acc, acc, np.array([(narrow == wide).all()], np.int32)


def gemm_case(rng: np.random.Generator, types: int, shape: tuple[int, int, int]) -> tuple[bytes, tuple]:
    m, n, k = shape
    left, right = TYPES[types]
    a, b = any_codes(rng, left, (m, k)), any_codes(rng, right, (n, k))
    given, zeros, bias = offsets(rng, right, n)
    za, row = int(rng.integers(np.iinfo(left).min, np.iinfo(left).max)), int(rng.integers(0, 2))
    wide = integer_ops.matmul(a, b.T, za, zeros, bias, accumulator_bits=64)
    want = sums(np.ascontiguousarray(wide.T) if row else wide)
    sent = (zeros, bias, a, b) if given else (a, b)
    return request(GEMM, types, za, row, given, m, n, k, arrays=sent), want


def same_sums(exchange: Exchange, cases: list[tuple[bytes, tuple]]) -> None:
    """All of the cases agree; they are many, and some wrap."""
    expected = [array for _, want in cases for array in want]
    same(exchange(*(sent for sent, _ in cases)), *expected)
    assert sum(want[0].size for _, want in cases) >= MILLION
    assert {int(want[2][0]) for _, want in cases} == {0, 1}


def test_matrix_products_of_a_million_sums_are_the_same(exchange: Exchange) -> None:
    rng = np.random.default_rng(17)
    shapes = [tuple(int(size) for size in rng.integers((0, 0, 0), (14, 14, 70))) for _ in range(300)]
    shapes += [(1, 1, 70001), (5, 9, 4099), (1001, 259, 19), (641, 403, 37), (513, 511, 8), (1023, 257, 33)]
    same_sums(exchange, [gemm_case(rng, types, shape) for shape in shapes for types in range(len(TYPES))])


def window(rng: np.random.Generator, most: int) -> tuple[int, int, int, int, int, int]:
    """In, kernel, stride, dilation, pads: of one axis, so that the kernel fits."""
    size, kernel, stride, dilation, begin, end = (int(rng.integers(1, top)) for top in (most, 6, 4, 4, 5, 5))
    begin, end = begin - 1, end - 1
    reach = dilation * (kernel - 1) + 1
    return max(size, reach - begin - end, 1), kernel, stride, dilation, begin, end


def conv_case(rng: np.random.Generator, types: int, most: int) -> tuple[bytes, tuple]:
    data, weights = TYPES[types]
    batch, groups, group_in, group_out = (int(rng.integers(1, top)) for top in (4, 5, 5, 8))
    y, x = window(rng, most), window(rng, most)
    image = any_codes(rng, data, (batch, groups * group_in, y[0], x[0]))
    weight = any_codes(rng, weights, (groups * group_out, group_in, y[1], x[1]))
    given, zeros, bias = offsets(rng, weights, groups * group_out)
    zi = int(rng.integers(np.iinfo(data).min, np.iinfo(data).max, endpoint=True))
    geometry = {"strides": (y[2], x[2]), "pads": (y[4], x[4], y[5], x[5]), "dilations": (y[3], x[3]), "groups": groups}
    wide = integer_ops.conv2d(image, weight, zi, zeros, bias, **geometry, accumulator_bits=64)
    channels = (groups * group_in, groups * group_out)
    sent = (zeros, bias, image, weight) if given else (image, weight)
    return request(CONV, types, zi, given, batch, *channels, groups, *y, *x, arrays=sent), sums(wide)


def test_convolutions_of_a_million_sums_are_the_same(exchange: Exchange) -> None:
    rng = np.random.default_rng(18)
    same_sums(exchange, [conv_case(rng, case % len(TYPES), 40) for case in range(800)])
