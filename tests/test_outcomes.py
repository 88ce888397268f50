"""Numbers over seeds."""

import math

import numpy as np
import pytest

from zoo_ray.outcomes import (
    Spread,
    clear_shares,
    difference_text,
    interval_95,
    percent,
    spread_text,
)


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


def test_zero_has_no_minus():
    assert [percent(share) for share in (-1e-17, -0.0, -1e-4)] == ["0.00%", "0.00%", "-0.01%"]
    spread = Spread.of([-1e-6, 0.0])
    assert (spread_text(spread), difference_text(spread)) == ("0.00 ± 0.00", "+0.00 ± 0.00")


def test_what_is_clearly_above_or_below_nothing():
    """A mean of 3 seeds is clear beyond 4.303 standard errors."""
    by_seed = [[np.nan, 0.10, 0.0], [-0.2, np.nan, 0.3], [0.1, 0.2, np.nan]]
    noise = [[0.0, 0.001, 0.0], [0.0, 0.0, 0.9], [0.3, -0.2, 0.0]]
    seeds = [np.array(by_seed) + sign * np.array(noise) for sign in (-1, 0, 1)]
    # Of the six, 0.10 is clear above, -0.2 below; 0 has no spread, and the rest has much.
    assert clear_shares(seeds) == (1 / 6, 1 / 6)
    assert clear_shares([seeds[0]]) == (0, 0)
