"""Numbers over seeds."""

import math

import pytest

from zoo_ray.outcomes import Spread, difference_text, interval_95, spread_text


def test_an_interval_is_students():
    low, high = interval_95(Spread.of([0.01, 0.02, 0.03]))
    half = 4.302653 * 0.01 / math.sqrt(3)  # t of two degrees of freedom, from a printed table
    assert (low, high) == pytest.approx((0.02 - half, 0.02 + half))
    assert interval_95(Spread.of([0.01])) is None


def test_a_star_says_that_a_difference_is_none_of_chance():
    assert difference_text(Spread.of([0.01, 0.02, 0.03])) == "+2.00 ± 1.00"
    assert difference_text(Spread.of([0.018, 0.02, 0.022])) == "+2.00 ± 0.20*"
    assert difference_text(Spread.of([-0.018, -0.02, -0.022])) == "-2.00 ± 0.20*"
    assert difference_text(Spread.of([0.01])) == "+1.00"
    assert difference_text(None) == spread_text(None) == "-"
