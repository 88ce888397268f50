"""Tables for the terminal."""

import io

import pytest
from rich.console import Console

from zoo_ray.members.spec import Recipe
from zoo_ray.outcomes import Outcome
from zoo_ray.report.tables import comparison_table
from zoo_ray.rules import Rules
from zoo_ray.zoo.metrics import Metrics

RECIPE = Recipe("small_conv", 1, 16, 0.01, 0.0, False, False, "float32", 1)


def outcome(name, mode, accuracy, images):
    rules = Rules(tasks=2, mode=mode, seed=0, tasks_per_member=1, members_per_episode=1)
    metrics = [Metrics(accuracy + seed / 30, accuracy, -0.123, 0.1) for seed in range(3)]
    return Outcome(name, ["a", "b", "c"], rules, RECIPE, metrics, members=2, images=images)


def shown(width):
    outcomes = [
        outcome("continual", "continual", 1.0, 90_000),
        outcome("isolated", "isolated", 0.5, 123),
    ]
    out = io.StringIO()
    Console(file=out, width=width).print(comparison_table(outcomes, title="c"))
    return out.getvalue()


def digits(text):
    return sorted(c for c in text if c.isdigit() or c == "k")


@pytest.mark.parametrize("width", [200, 100, 80, 50])
def test_numbers_are_never_cut_however_narrow_the_terminal(width):
    assert digits(shown(width)) == digits(shown(500))
