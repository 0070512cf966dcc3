"""Codebook grids: a code is an index into a table of values, which need not be evenly spaced.

value = values[code] * scale. The code of x is that of the nearest value; midway between two it is the lower one, as in
the comparisons of bitsandbytes. Beyond the ends it is the end; NaN gets code 0.

`fit_codebook` finds the table of least squared error (one-dimensional k-means), over the distinct values of x with
their counts, c of them:

    c <= levels        the values themselves: no error
    c <= EXACT         the best table there is, by dynamic programming over the sorted values:
                       error(k, j) = min over i of error(k - 1, i) + (squared error of values i..j about their mean)
    more               k-means++ seeds drawn with `rng`, then Lloyd's iterations on sorted values until nothing moves

NF4 is the table of 16 quantiles of a normal distribution, zero among them, scaled to [-1, 1].

Sources: Gong et al. 2014, arXiv:1412.6115, and Han et al. 2016, arXiv:1510.00149, section 3 (k-means of weights);
Arthur and Vassilvitskii 2007 (k-means++); Wang and Song 2011, R Journal 3(2) (one-dimensional k-means is a dynamic
programme); Dettmers et al. 2023, arXiv:2305.14314, appendix E (NF4).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadCalibration, BadOption

EXACT = 1024  # distinct values up to which the best table is searched for
ROUNDS = 300
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CodebookGrid:
    """A table of values.

    Holds: 1 to 65536 finite float32 values, strictly increasing, one of them not zero.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        table = np.array(self.values, np.float64)
        if not 1 <= table.size <= 65536:
            raise BadOption(f"CodebookGrid: {table.size} values; a codebook has 1 to 65536.")
        if not np.isfinite(table).all() or (np.diff(table) <= 0).any() or not table.any():
            raise BadOption("CodebookGrid: values must be finite and strictly increasing, one of them not zero.")
        if (table.astype(np.float32) != table).any():
            raise BadOption("CodebookGrid: each value must be a float32; round the table before.")

    @property
    def bits(self) -> int:
        """The width of a code."""
        return max((len(self.values) - 1).bit_length(), 1)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """uint8, or uint16 for more than 256 values."""
        return np.dtype(np.uint8 if len(self.values) <= 256 else np.uint16)

    @property
    def high(self) -> float:
        """The largest magnitude at scale 1."""
        return max(abs(self.values[0]), abs(self.values[-1]))

    def __str__(self) -> str:
        """`codebook of 16`."""
        return f"codebook of {len(self.values)}"

    def encode(self, ratio: npt.NDArray[np.floating]) -> npt.NDArray[np.unsignedinteger]:
        """Indices of the values nearest to `ratio` = x / scale."""
        table = np.array(self.values, np.float64)
        codes = np.searchsorted((table[1:] + table[:-1]) / 2, ratio.astype(np.float64))
        return np.where(np.isnan(ratio), 0, codes).astype(self.dtype)

    def decode(self, codes: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Values at scale 1, in float32."""
        values: npt.NDArray[np.float32] = np.array(self.values, np.float32)[codes]
        return values


def fit_codebook(x: npt.NDArray[np.floating], levels: int, rng: np.random.Generator) -> CodebookGrid:
    """The codebook of at most `levels` values that fits `x` best, to be used at scale 1.

    Raises:
        BadOption: levels is not 1 to 65536.
        BadCalibration: `x` is empty, not finite, or zero throughout.
    """
    if not 1 <= levels <= 65536:
        raise BadOption(f"fit_codebook: {levels} levels asked for; a codebook has 1 to 65536.")
    if not x.size or not np.isfinite(x).all() or not x.any():
        raise BadCalibration("fit_codebook: a codebook is fitted to finite values, one of them not zero.")
    values, counts = np.unique(x.astype(np.float32).astype(np.float64), return_counts=True)
    if values.size <= levels:
        centers = values
    elif values.size <= EXACT:
        centers = _best(values, counts, levels)
    else:
        centers = _lloyd(values, counts, _seeds(values, counts, levels, rng))
    table = np.unique(centers.astype(np.float32))
    return CodebookGrid(tuple(table.tolist()))


def _sums(values: Values, counts: npt.NDArray[np.int64]) -> tuple[Values, Values, Values]:
    """Running count, sum and sum of squares, each with a leading 0; values are taken about their mean."""
    return tuple(np.concatenate(([0.0], np.cumsum(counts * values**power))) for power in range(3))  # type: ignore[return-value]


def _best(values: Values, counts: npt.NDArray[np.int64], levels: int) -> Values:
    """Centres of least squared error; levels < len(values) <= EXACT."""
    middle = np.average(values, weights=counts)  # sums about the mean keep their digits
    n, s, q = _sums(values - middle, counts)
    i, j = np.arange(values.size)[:, None], np.arange(1, values.size + 1)[None, :]
    number = np.maximum(n[j] - n[i], 1)
    cost = np.where(i < j, np.maximum(q[j] - q[i] - (s[j] - s[i]) ** 2 / number, 0.0), np.inf)
    error, cuts = cost[0], []
    for _ in range(1, levels):
        total = (
            np.concatenate(([np.inf], error[:-1]))[:, None] + cost
        )  # the last group starts at i: the rest ends there
        cuts.append(total.argmin(0))
        error = total.min(0)
    borders = [values.size]
    for cut in reversed(cuts):
        borders.append(int(cut[borders[-1] - 1]))
    starts, ends = np.array([*borders[1:], 0]), np.array(borders)
    return np.sort((s[ends] - s[starts]) / (n[ends] - n[starts]) + middle)


def _seeds(values: Values, counts: npt.NDArray[np.int64], levels: int, rng: np.random.Generator) -> Values:
    """k-means++: each next centre is drawn in proportion to the squared distance from those there are."""
    centers = [values[rng.choice(values.size, p=counts / counts.sum())]]
    distance = (values - centers[0]) ** 2
    while len(centers) < levels:
        weight = np.cumsum(counts * distance)
        # side="right" never lands on a value of weight 0, which is a centre already
        drawn = int(np.searchsorted(weight, rng.random() * weight[-1], side="right"))
        centers.append(values[min(drawn, values.size - 1)])
        distance = np.minimum(distance, (values - centers[-1]) ** 2)
    return np.unique(centers)


def _lloyd(values: Values, counts: npt.NDArray[np.int64], centers: Values) -> Values:
    """Move each centre to the mean of what is nearest to it, until none moves."""
    n, s, _ = _sums(values, counts)
    for _ in range(ROUNDS):
        borders = np.searchsorted(values, (centers[1:] + centers[:-1]) / 2)
        edges = np.concatenate(([0], borders, [values.size]))
        number = n[edges[1:]] - n[edges[:-1]]
        means = (s[edges[1:]] - s[edges[:-1]]) / np.maximum(number, 1)
        moved = np.where(number > 0, means, centers)
        if (moved == centers).all():
            break
        centers = moved
    return centers


NF4 = CodebookGrid(
    tuple(
        float(np.float32(value))
        for value in (
            *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
            *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
            *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
            *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
        )
    )
)
