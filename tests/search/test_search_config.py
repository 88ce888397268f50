"""What a search may be, and what is said of one that may not."""

from pathlib import Path

import pytest
import yaml

from zoo_ray.errors import UserError
from zoo_ray.search.config import differences, read_search

BASE = {
    "benchmark": {"dataset": "digits", "tasks": [[0, 1], [2, 3], [4, 5], [6, 7]]},
    "store": "a_store",
}
SPACE = {"zoo.tasks_per_member": {"choice": [1, 2]}, "zoo.members_per_episode": {"choice": [1, 3]}}


SEARCHES = Path(__file__).parents[2] / "configs" / "searches"


@pytest.mark.parametrize("path", sorted(SEARCHES.iterdir()), ids=lambda path: path.name)
def test_the_searches_that_come_with_zoo_ray_are_valid(path):
    assert read_search(path).trials == 12


@pytest.fixture
def read(tmp_path):
    """Writes and reads a search; a key of None is left out."""

    def make(overrides=(), **keys):
        raw = {
            key: value for key, value in ({"base": BASE, "space": SPACE} | keys).items() if value
        }
        (tmp_path / "search.yaml").write_text(
            yaml.safe_dump(raw, sort_keys=False), encoding="utf-8"
        )
        return read_search(tmp_path / "search.yaml", overrides=overrides)

    return make


def test_a_grid_has_every_combination(read):
    search = read()
    values = [tuple(search.values(number).values()) for number in range(search.trials)]
    assert values == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert search.base.benchmark.validation == 0.1
    assert [search.members(search.values(number)) for number in range(2)] == [4, 12]
    assert search.all_seeds == [0]


def test_a_trial_is_a_run(read):
    search = read(seeds=[3, 4])
    run = search.run_config({"zoo.tasks_per_member": 2, "recipe.lr": 0.5}, seed=4)
    assert (run.zoo.tasks_per_member, run.recipe.lr, run.zoo.seed) == (2, 0.5, 4)
    assert run.benchmark == search.base.benchmark
    assert search.members({}) == 8


def test_the_base_may_be_a_file_and_keys_be_overridden(read, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(BASE), encoding="utf-8")
    overrides = ["base.recipe.epochs=2", "space.recipe.lr={uniform: [0.1, 0.2]}", "samples=3"]
    search = read(overrides, base="run.yaml")
    assert search.base.recipe.epochs == 2
    assert list(search.dimensions) == [*SPACE, "recipe.lr"]
    assert 0.1 <= search.values(2)["recipe.lr"] < 0.2


def test_arguments_of_ones_own_network_may_be_searched(read):
    space = {"recipe.network_arguments.width": {"choice": [8, 16]}}
    base = BASE | {"recipe": {"network": "nets.Tiny", "network_arguments": {"depth": 2}}}
    search = read(base=base, space=space)
    nested = read(["space.recipe.network_arguments.width={choice: [8, 16]}"], base=base)
    assert list(nested.dimensions) == [*SPACE, "recipe.network_arguments.width"]
    for found in (search, nested):
        arguments = found.run_config(found.values(1), seed=0).recipe.network_arguments
        assert arguments == {"depth": 2, "width": 16}
    with pytest.raises(UserError, match="are for a network of your own; small_conv takes none"):
        read(space=space)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"space": None}, "space is missing"),
        ({"space": {"zoo.task": {"choice": [1]}}}, "unknown key zoo.task; allowed here: mode, "),
        ({"space": {"lr": {"choice": [1]}}}, "space.lr: a search varies keys of zoo and recipe"),
        ({"space": {"workers.count": {"choice": [1]}}}, "its trials share the rest"),
        ({"space": {"zoo.seed": {"choice": [1]}}}, "give seeds instead"),
        ({"space": {"recipe.lr": {"choice": []}}}, r"space.recipe.lr .* choice is empty"),
        ({"space": {"recipe.lr": {"choice": [1, 1]}}}, "choice names a value twice"),
        ({"space": {"recipe.lr": {}}}, "give just one of choice, randint, uniform, loguniform"),
        ({"space": {"recipe.lr": {"normal": [0, 1]}}}, "unknown key space.recipe.lr.normal"),
        ({"space": {"recipe.lr": {"uniform": [2, 1]}}}, "first number must be less"),
        ({"space": {"recipe.lr": {"loguniform": [0, 1]}}}, "both numbers must be more than 0"),
        ({"space": {"recipe.lr": {"uniform": [0, 1]}}, "samples": 3}, "recipe.lr = 0.0: "),
        ({"space": {"recipe.batch": {"randint": [1, 2.5]}}}, r"batch.randint \(item 2\) = 2.5"),
        ({"space": {"recipe.lr": {"uniform": [0.1, 1]}}}, "space.recipe.lr has no end of values"),
        ({"space": {f"recipe.{k}": {"choice": [*range(1, 99)]} for k in ("lr", "l2", "batch")}},
         "941,192 combinations"),
        ({"metric": "accuracy"}, "metric = 'accuracy': Input should be 'validation_average"),
        ({"samples": 10_001}, "samples = 10001: Input should be less than or equal to 10000"),
        ({"seeds": [1, 1]}, "a seed is named twice"),
        ({"searcher": "optuna"}, "searcher = optuna: give a number of samples"),
        ({"scheduler": "asha", "grace_episodes": 2}, "grace_episodes = 2: up to episode 2"),
        ({"scheduler": "asha", "grace_episodes": 4}, "the first 4 of 4 episodes are its grace"),
        ({"budget": {"members": 0.5}}, "budget.members = 0.5"),
        ({"budget": {"members": 3}}, "budget.members = 3: a trial asks for 4 at least"),
        ({"space": {"zoo": [1]}}, r"space.zoo = \[1\]"),
        ({"space": {"recipe.lr.x": {"choice": [1]}}, "base": BASE | {"recipe": {"lr": 0.1}}},
         "space: recipe.lr.x: lr has no keys"),
        ({"metric": "validation_forgetting",
          "base": BASE | {"benchmark": {"dataset": "digits", "tasks": [[0, 1]]}}},
         "metric = validation_forgetting: it has no meaning for a stream of one task"),
        ({"base": BASE | {"workers": {"count": 0}}}, "base.workers.count = 0: a search needs Ray"),
        ({"base": BASE | {"benchmark": BASE["benchmark"] | {"validation": 0}}},
         "base.benchmark.validation = 0: a search is judged on validation samples"),
        ({"base": "no.yaml"}, "search.yaml: base: .*no.yaml: no such file"),
        ({"base": None, "space": None, **BASE}, "this is a run, not a search"),
        ({"nonsense": 1}, "unknown key nonsense; allowed here: base, space, "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(read, keys, said):
    with pytest.raises(UserError, match=said) as caught:
        read(**keys)
    assert "\n" not in str(caught.value)
    assert "search.yaml: " in str(caught.value)


def test_asha_waits_until_trials_may_differ(read):
    search = read(scheduler="asha")
    assert (search.most_tasks_per_member, search.grace) == (2, 3)
    assert read(scheduler="asha", grace_episodes=3, space={"recipe.lr": {"choice": [1]}}).grace == 3


def test_a_search_may_be_lengthened_and_not_changed(read):
    lr = {"recipe.lr": {"uniform": [0.1, 1]}}
    before = read(space=lr, samples=3).model_dump(mode="json")
    assert differences(before, read(space=lr, samples=9, budget={"members": 4})) == []
    assert differences(before, read(space=lr, samples=2)) == ["samples (was 3, is 2)"]
    (problem,) = differences(before, read(space=lr, samples=3, seeds=[5]))
    assert problem == "seeds (was None, is [5])"
    assert differences(before, read()) != []
