"""What stands out among trials, and which key mattered."""

import math

import pytest

from zoo_ray.search.results import Row, findings, importance


def row(trial, score, images, *, status="complete", **values):
    return Row(
        trial=trial,
        members_per_episode=1,
        prefix=False,
        values=values,
        status=status,
        problem=None,
        episodes=3,
        members=3,
        images=images,
        score=score,
        scores=[score],
        accuracy=score,
        digests=[],
    )


def names(rows):
    return [found.name for found in rows]


def test_the_front_is_what_nobody_beats_for_less():
    rows = [row(1, 0.7, 30), row(2, 0.5, 10), row(3, 0.5, 20), row(4, 0.9, 90), row(5, 0.7, 40)]
    found = findings(rows, maximised=True, validation_samples=100)
    assert names(found.front) == ["2", "1", "4"]
    assert found.best.name == "4"


def test_of_equals_the_cheapest_is_best_and_then_the_first():
    rows = [row(1, 0.9, 30), row(2, 0.9, 20), row(3, 0.9, 20)]
    found = findings(rows, maximised=True, validation_samples=100)
    assert (found.best.name, found.near.name) == ("2", "2")
    assert names(found.front) == ["2"]


@pytest.mark.parametrize(("samples", "near"), [(100, "1"), (10_000, "2")])
def test_the_cheapest_near_equal_is_within_a_standard_error(samples, near):
    rows = [row(1, 0.88, 10), row(2, 0.9, 20)]  # 3 points of a hundred samples, 0.3 of 10,000
    assert findings(rows, maximised=True, validation_samples=samples).near.name == near


def test_none_is_near_the_best_where_the_score_is_no_share_of_samples():
    rows = [row(1, 0.9, 10), row(2, 0.9001, 20)]
    assert findings(rows, maximised=True, validation_samples=None).near.name == "2"


def test_all_right_is_not_without_error():
    rows = [row(1, 0.99, 10), row(2, 1.0, 20)]
    assert findings(rows, maximised=True, validation_samples=100).near.name == "1"


def test_less_may_be_better():
    rows = [row(1, 0.2, 10), row(2, 0.1, 20), row(3, 0.3, 5)]
    found = findings(rows, maximised=False, validation_samples=10_000)
    assert found.best.name == "2"
    assert names(found.front) == ["3", "1", "2"]


def test_only_complete_trials_count():
    rows = [row(1, 0.9, 1, status="stopped"), row(2, math.nan, 1, status="failed")]
    assert findings(rows, maximised=True, validation_samples=9) is None
    found = findings([*rows, row(3, 0.1, 5)], maximised=True, validation_samples=9)
    assert found.best.name == "3"


def test_importance_is_the_share_of_variance_between_values():
    rows = [
        row(n, 0.5 + 0.1 * (n % 2) + 0.01 * (n // 2 % 2), 1, a=n % 2, b=n // 2 % 2, c=n, d="x")
        for n in range(8)
    ]
    found = importance(rows, ["a", "b", "c", "d"])
    assert found["a"] == pytest.approx(100 / 101)
    assert found["b"] is None  # as chance has it
    assert found["c"] is None  # each trial has its own
    assert found["d"] is None  # and here all have one


def test_of_few_trials_importance_cannot_be_told():
    """Where 3 of 5 trials score otherwise than 2, one deal in ten splits them as a key does."""
    rows = [row(n, 0.5 + 0.1 * (n > 2), 1, a=n > 2) for n in range(5)]
    assert importance(rows, ["a"]) == {"a": None}


def test_numbers_of_many_values_are_binned():
    rows = [row(n, n / 100, 1, lr=n / 7, flat=(37 * n) % 100) for n in range(100)]
    found = importance(rows, ["lr", "flat"])
    assert found["lr"] == pytest.approx(15 / 16, abs=0.01)
    assert found["flat"] is None


def test_importance_of_values_that_cannot_be_ordered_together():
    values = [True, "auto", False, "auto"] * 5
    rows = [row(n, n % 4 + n / 100, 1, x=value) for n, value in enumerate(values)]
    assert 0 < importance(rows, ["x"])["x"] < 1
    assert importance([], ["x"]) == {"x": None}
    assert importance(rows[:1], ["x"]) == {"x": None}
