"""Promised: an allocation is within its budget, and no other choice of widths within it has less error; where it is not
exact its bound holds. The front's choices are the best for what they cost.
"""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfeven.errors import BadOption
from halfeven.stats.allocation import allocate, front

WIDTHS = (2, 4, 8)
problems = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(0, 60), min_size=3, max_size=3), min_size=n, max_size=n),
        st.lists(st.integers(1, 40), min_size=n, max_size=n),
        st.floats(0, 1),
    )
)


def best(errors: np.ndarray, costs: np.ndarray, budget: int) -> float:
    """By trying all."""
    rows = np.arange(len(errors))
    sums = [(costs[rows, c].sum(), errors[rows, c].sum()) for c in map(list, product(range(3), repeat=len(errors)))]
    return float(min(error for cost, error in sums if cost <= budget))


@given(problems)
@settings(max_examples=300, deadline=None)
def test_no_other_choice_within_the_budget_has_less_error(problem: tuple[list[list[int]], list[int], float]) -> None:
    errors, sizes, share = np.array(problem[0], np.float64), np.array(problem[1]), problem[2]
    costs = sizes[:, None] * np.array(WIDTHS)
    budget = int(costs.min(1).sum() + share * (costs.max(1).sum() - costs.min(1).sum()))
    optimum = best(errors, costs, budget)
    rows = np.arange(len(errors))
    for most in (200_000, 0):
        found = allocate(errors, costs, budget, most)
        assert found.cost == costs[rows, found.choice].sum() <= budget
        assert found.error == pytest.approx(errors[rows, found.choice].sum())
        assert found.bound <= optimum * (1 + 1e-9)
        assert found.error >= optimum * (1 - 1e-9)
        if found.exact:
            assert found.error == pytest.approx(optimum)
    assert allocate(errors, costs, budget).exact
    for point in front(errors, costs):
        assert point.error == pytest.approx(best(errors, costs, point.cost))


def test_hundreds_of_weights_are_allocated_exactly() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 100_000, 300)
    errors = rng.lognormal(0, 2, (300, 1)) * 4.0 ** -np.array([2, 3, 4, 6, 8]) * rng.lognormal(0, 0.3, (300, 5))
    costs = sizes[:, None] * np.array([2, 3, 4, 6, 8])
    found = allocate(errors, costs, int(4.5 * sizes.sum()))
    assert found.exact
    before = [point for point in front(errors, costs) if point.cost <= 4.5 * sizes.sum()][-1]
    assert found.error <= before.error


def test_a_budget_below_the_least_cost_is_refused() -> None:
    with pytest.raises(BadOption, match="the least that the choices cost is 2"):
        allocate(np.ones((1, 2)), np.array([[2, 4]]), 1)
