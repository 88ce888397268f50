"""Which trials come next, and what they add up to."""

import math
import sys

import pytest

from zoo_ray.config import validate_config
from zoo_ray.errors import UserError
from zoo_ray.search.config import SearchConfig
from zoo_ray.search.trials import Trials, ZooReport

BASE = validate_config(
    {"benchmark": {"dataset": "digits", "tasks": [[0, 1], [2, 3], [4, 5]], "validation": 0.1}},
    source="BASE",
)
LR = {"recipe.lr": {"loguniform": [0.001, 1.0]}}


def search(**keys):
    return SearchConfig.model_validate({"base": BASE, "space": LR, "samples": 10} | keys)


def report(score, *, digests=("a",), fitted=(), images=10):
    scores = dict.fromkeys(("average_accuracy", "learning_accuracy"), score)
    return (ZooReport(scores | {"forgetting": None}, tuple(digests), images, frozenset(fitted)),)


def finish(trial, score=0.5, *, episodes=3):
    trial.reports += [report(score, digests=[f"{trial.number}.{e}"]) for e in range(episodes)]
    trial.status = "complete"


def test_so_many_at_once_and_no_more_than_there_are():
    trials = Trials(search(samples=3), at_once=2)
    first, second = trials.begin(), trials.begin()
    assert (first.number, second.number) == (0, 1)
    assert trials.begin() is None
    assert not trials.all_begun
    finish(first)
    assert trials.begin().number == 2
    assert trials.all_begun
    assert trials.begin() is None
    assert [trial.number for trial in trials.running] == [1, 2]


def test_a_budget_counts_what_trials_ask_for():
    trials = Trials(search(budget={"members": 7}), at_once=4)
    first, second = trials.begin(), trials.begin()  # 3 members each
    assert trials.begin() is None
    assert not trials.all_begun  # one may be stopped, and ask for fewer
    finish(first, episodes=1)
    assert trials.begin().number == 2
    finish(second)
    assert trials.begin() is None
    finish(trials.all[2])
    assert trials.all_begun


def test_a_trial_adds_up_its_zoos():
    trial = Trials(search(seeds=[1, 2]), at_once=1).begin()
    assert math.isnan(trial.score("validation_average_accuracy"))
    assert trial.digests == []
    one = report(0.25, digests=["a"], fitted=["a"]) + report(0.75, digests=["b"])
    two = report(0.5, digests=["c"]) + report(1.0, digests=["a"], fitted=["a"], images=7)
    trial.reports += [one, two]
    assert trial.episodes == 2
    assert trial.images == 37
    assert trial.digests == ["a", "c", "b", "a"]
    assert trial.fitted == {"a"}
    assert trial.scores("validation_learning_accuracy") == [0.5, 1.0]
    assert trial.score("validation_average_accuracy") == 0.75
    assert math.isnan(trial.score("validation_forgetting"))


def optuna_values(order):
    """The values of ten trials of which, of each four, those in `order` end first."""
    trials = Trials(search(searcher="optuna"), at_once=4)
    values = []
    while not trials.all_begun or trials.running:
        while (trial := trials.begin()) is not None:
            values.append(trial.values["recipe.lr"])
        waiting = {trial.number % 4: trial for trial in trials.running}
        trial = waiting[next(number for number in order if number in waiting)]
        finish(trial, -abs(math.log(trial.values["recipe.lr"] / 0.03)))
        if trial.number == 5:
            trial.status = "failed"
    return values


def test_optuna_does_not_depend_on_which_trial_ends_first():
    values = optuna_values([0, 1, 2, 3])
    assert len(set(values)) == 10
    assert optuna_values([3, 1, 0, 2]) == values


def test_optuna_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="the package optuna is not installed; pip install"):
        Trials(search(searcher="optuna"), at_once=4)


def test_optuna_takes_every_kind_of_dimension():
    space = LR | {
        "zoo.tasks_per_member": {"choice": [1, 2]},
        "zoo.members_per_episode": {"randint": [1, 3]},
        "recipe.l2": {"uniform": [0.0, 0.1]},
    }
    trial = Trials(search(searcher="optuna", space=space), at_once=1).begin()
    assert list(trial.values) == list(space)
    assert trial.values["zoo.members_per_episode"] in (1, 2)
