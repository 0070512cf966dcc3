"""Allocation: one width for each weight, so that the errors sum to the least that a budget of bits allows.

    minimise    sum of errors[i, c_i]     subject to     sum of costs[i, c_i] <= budget

That is the multiple-choice knapsack. Two answers, of which the second is built on the first:

    Lagrangian  each weight has its points (cost, error) and their lower convex hull. Beginning with the least costs,
                the step of the steepest slope is taken next, whichever weight has it. After each step the choice is the
                best there is for the cost that it has (Shoham and Gersho 1988, "Efficient bit allocation for an
                arbitrary set of quantizers"; HAWQ-V2, arXiv:1911.03852, takes its choice from the Pareto front of
                summed sensitivities). A budget between two of these leaves room over; what a part of the next step
                would give is a bound that no choice beats (Sinha and Zoltners 1979).
    exact       weights are added one by one, and of all choices for those so far the ones are kept that no other beats
                in both cost and error (Nemhauser and Ullmann 1969) and whose bound, that of the weights still to come
                included, is below the best answer known. What is left at the end is the optimum.

Bounds leave few choices, also for hundreds of weights. Should there be more than `MOST`, the Lagrangian answer, filled
up with the steps that still fit, is given, and `bound` says how far the optimum may lie below it.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from halfeven.errors import BadOption

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
MOST = 200_000


@dataclass(frozen=True)
class Allocation:
    """Which of its widths each weight has, what that costs, and the sum of errors; no choice has less than `bound`."""

    choice: tuple[int, ...]
    cost: int
    error: float
    bound: float

    @property
    def exact(self) -> bool:
        """Whether nothing within the budget can be better."""
        return self.bound >= self.error


class _Step(NamedTuple):
    """From one point of a hull to the next."""

    slope: float
    weight: int
    to: int
    cost: int
    error: float


def allocate(errors: Doubles, costs: Counts, budget: int, most: int = MOST) -> Allocation:
    """The choice of the least sum of errors within a budget.

    Args:
        errors: (weights, widths), finite, at least 0.
        costs: The same shape, at least 0.
        budget: What the costs may sum to.
        most: How many partial choices may be kept.

    Raises:
        BadOption: the least costs are beyond the budget.
    """
    hulls = [_hull(e, c) for e, c in zip(errors, costs, strict=True)]
    if (least := sum(int(c[hull[0]]) for c, hull in zip(costs, hulls, strict=True))) > budget:
        raise BadOption(f"The budget is {budget}, and the least that the choices cost is {least}.")
    filled = _filled(errors, costs, hulls, budget)
    return _improved(errors, costs, hulls, budget, filled, most)


def front(errors: Doubles, costs: Counts) -> list[Allocation]:
    """The Lagrangian choices, from the least cost on: each is the best there is for what it costs."""
    hulls = [_hull(e, c) for e, c in zip(errors, costs, strict=True)]
    choice = [hull[0] for hull in hulls]
    found = [_allocation(errors, costs, choice)]
    for step in _steps(errors, costs, hulls):
        choice[step.weight] = step.to
        found.append(_allocation(errors, costs, choice))
    return found


def _allocation(errors: Doubles, costs: Counts, choice: list[int], bound: float | None = None) -> Allocation:
    rows = np.arange(len(choice))
    error = float(errors[rows, choice].sum())
    return Allocation(tuple(choice), int(costs[rows, choice].sum()), error, error if bound is None else bound)


def _hull(errors: Doubles, costs: Counts) -> list[int]:
    """The widths on the lower convex hull of one weight, from the least cost to the least error."""
    hull: list[int] = []
    for i in np.lexsort((errors, costs)).tolist():
        if hull and errors[i] >= errors[hull[-1]]:
            continue  # dearer and no better
        while len(hull) > 1 and _slope(errors, costs, hull[-1], i) <= _slope(errors, costs, hull[-2], hull[-1]):
            hull.pop()
        hull.append(i)
    return hull


def _slope(errors: Doubles, costs: Counts, a: int, b: int) -> float:
    return float((errors[b] - errors[a]) / (costs[b] - costs[a]))


def _steps(errors: Doubles, costs: Counts, hulls: list[list[int]]) -> list[_Step]:
    """All steps, the steepest first; those of one weight are in order, as hulls are convex."""
    found = []
    for weight, hull in enumerate(hulls):
        e, c = errors[weight], costs[weight]
        found += [_Step(_slope(e, c, a, b), weight, b, int(c[b] - c[a]), float(e[b] - e[a])) for a, b in pairwise(hull)]
    return sorted(found, key=lambda step: step.slope)  # stable: equal slopes of a weight stay in order


def _filled(errors: Doubles, costs: Counts, hulls: list[list[int]], budget: int) -> Allocation:
    """The Lagrangian answer with every later step that fits, and the bound."""
    choice, stopped, bound = [hull[0] for hull in hulls], set[int](), None
    now = _allocation(errors, costs, choice)
    cost, error = now.cost, now.error
    for step in _steps(errors, costs, hulls):
        if step.weight in stopped:
            continue
        if cost + step.cost > budget:
            bound = error + (budget - cost) * step.slope if bound is None else bound
            stopped.add(step.weight)
            continue
        choice[step.weight], cost, error = step.to, cost + step.cost, error + step.error
    return _allocation(errors, costs, choice, bound)


class _Rest(NamedTuple):
    """The weights from one on: what they cost and err at least costs, and how errors fall with further cost."""

    cost: int
    error: float
    costs: Doubles
    errors: Doubles

    def bound(self, left: Counts) -> Doubles:
        """No choice of these within `left` has less error; infinite where none is within."""
        found = self.error + np.interp((left - self.cost).astype(np.float64), self.costs, self.errors)
        return np.where(left < self.cost, np.inf, found)


def _rests(errors: Doubles, costs: Counts, hulls: list[list[int]]) -> list[_Rest]:
    """For each weight, and behind the last, those from it on."""
    steps, found = _steps(errors, costs, hulls), []
    for start in range(len(hulls) + 1):
        own = [step for step in steps if step.weight >= start]
        cost = sum(int(costs[i, hulls[i][0]]) for i in range(start, len(hulls)))
        error = sum(float(errors[i, hulls[i][0]]) for i in range(start, len(hulls)))
        sums = (np.cumsum([0.0, *values]) for values in ([s.cost for s in own], [s.error for s in own]))
        found.append(_Rest(cost, error, *sums))
    return found


def _improved(
    errors: Doubles, costs: Counts, hulls: list[list[int]], budget: int, known: Allocation, most: int
) -> Allocation:
    """What is better than the answer known, the optimum; that itself where nothing is, or there is too much to keep."""
    limit = known.error * (1 - 1e-12)
    rests = _rests(errors, costs, hulls)
    cost, error = np.zeros(1, np.int64), np.zeros(1)
    ways: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]] = []
    widths = errors.shape[1]
    for i, rest in enumerate(rests[1:]):
        new_cost, new_error = (cost[:, None] + costs[i]).ravel(), (error[:, None] + errors[i]).ravel()
        below = np.flatnonzero(new_error + rest.bound(budget - new_cost) < limit)
        below = below[np.lexsort((new_error[below], new_cost[below]))]
        least = np.minimum.accumulate(np.concatenate(([np.inf], new_error[below])))[:-1]
        kept = below[new_error[below] < least]
        if not kept.size:
            return Allocation(known.choice, known.cost, known.error, known.error)
        if kept.size > most:
            return known
        ways.append(((kept // widths).astype(np.int32), (kept % widths).astype(np.int16)))
        cost, error = new_cost[kept], new_error[kept]
    at, choice = int(np.argmin(error)), list[int]()
    for before, taken in reversed(ways):
        choice.append(int(taken[at]))
        at = int(before[at])
    return _allocation(errors, costs, choice[::-1])
