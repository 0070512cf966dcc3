"""Promised: pictures whose red and blue seem exchanged are told of, with the order that they are not in yet."""

import numpy as np
import pytest

from halfeven.report.colors import suspicious_colors

SURE, UNSURE = np.eye(10)[[0] * 8] * 9.0, np.zeros((8, 10))


@pytest.mark.parametrize(("order", "other"), [("RGB", "BGR"), ("BGR", "RGB")])
def test_the_order_to_try_is_the_other_one(order: str, other: str) -> None:
    said = suspicious_colors(UNSURE, SURE, order)
    assert said is not None
    assert said.endswith(f"Try --preprocess ...,color={other}.")


def test_pictures_in_the_right_order_are_not_suspected() -> None:
    assert suspicious_colors(SURE, UNSURE) is None
    assert suspicious_colors(SURE, SURE, "BGR") is None
