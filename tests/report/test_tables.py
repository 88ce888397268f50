"""Tables for the terminal."""

import io

import numpy as np
import pytest
from rich.console import Console

from zoo_ray.members.spec import Recipe
from zoo_ray.outcomes import Outcome
from zoo_ray.report.tables import comparison_table, competition_table, search_table
from zoo_ray.rules import Rules
from zoo_ray.zoo.competition import Competition, mean_competition
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


def test_trials_are_headed_by_the_metric_whole():
    """A search without trials has a header too."""
    keys = ["zoo.tasks_per_member", "recipe.lr"]
    table = search_table([], None, keys=keys, metric="validation_average_accuracy", title="s")
    Console(file=(out := io.StringIO()), width=80).print(table)
    assert "validation" in out.getvalue()


def test_what_a_task_gains_has_its_spread_over_seeds():
    """The first task's gain is the same with every seed, the second's is not."""
    by_seed = [
        Competition(np.array([0.5, 0.5]), np.array([[np.nan, 0.02], [gain, np.nan]]))
        for gain in (-0.01, 0.03)
    ]
    tables = {
        seeds: competition_table(
            mean_competition(by_seed[:seeds]), by_seed=by_seed[:seeds], tasks=["a", "b"], title="c"
        )
        for seeds in (1, 2)
    }
    out = io.StringIO()
    Console(file=out, width=150).print(tables[2])
    one, other = (line.split("│")[1:-1] for line in out.getvalue().splitlines() if "50.00%" in line)
    assert [cell.strip() for cell in one] == [
        *("1  a", "50.00%", "+2.00±0.00*", "2 (+2.00)", "2 (+2.00)", "+1.00±2.83"),
    ]
    assert [cell.strip() for cell in other][2] == "+1.00±2.83"
    assert "in 100% of the cases there is a gain (clearly in 50%, clearly a loss in 0%)" in (
        " ".join(out.getvalue().split())
    )
    Console(file=(alone := io.StringIO()), width=150).print(tables[1])
    assert "±" not in alone.getvalue()
    assert "clearly" not in alone.getvalue()
