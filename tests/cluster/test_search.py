"""Searches on a real Ray: every trial's zoo is what it would be alone, whatever is shared."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet
import pytest
import ray
import yaml
from processes import pids_of, wait_until
from toys import RULE

import zoo_ray
from zoo_ray import own_code
from zoo_ray.config import read_config
from zoo_ray.errors import UserError
from zoo_ray.run import grow
from zoo_ray.search.config import read_search
from zoo_ray.tuning import search

pytestmark = pytest.mark.usefixtures("ray_cluster")

ROOT = Path(__file__).parents[2]
SPACE = {
    "zoo.tasks_per_member": {"choice": [1, 2]},
    "zoo.members_per_episode": {"choice": [1, 3]},
    "recipe.lr": {"choice": [0.01, 100_000.0]},  # with the second, no fit ends well
}


@pytest.fixture
def write(tmp_path, idx_dataset):
    """Writes a search over tiny zoos; gives its path."""

    def make(**keys):
        base = {
            "benchmark": {
                "dataset": idx_dataset,
                "tasks": [[0, 1], [2, 3], [4, 5], [0, 2]],
                "validation": 0.2,
            },
            "recipe": {"epochs": 1, "batch": 8, "precision": "float32"},
            "workers": {"count": 2},
            "store": str(tmp_path / "store"),
        }
        raw = {"base": base, "space": SPACE, "trials_at_once": 3} | keys
        path = tmp_path / "pairs.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        return path

    return make


DIVERGED = {"weights are no longer finite numbers", "the loss became nan in epoch 1"}


def table(tmp_path, *, name="store/searches/pairs"):
    """A search's rows, but for how trials diverged: that is said of the member that failed first,
    which one of several at once is."""
    path = tmp_path / name / "trials.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    for row in rows:
        if row["problem"]:
            assert row["problem"].partition(": ")[2].partition(";")[0] in DIVERGED
            row["problem"] = "diverged"
    return rows


def test_trials_share_two_workers_and_their_members(write, tmp_path):
    config = read_search(write())
    found = search(config, name="pairs")
    rows = table(tmp_path)
    assert [row["status"] for row in rows[:8]] == ["complete", "failed"] * 4
    assert {row["problem"] for row in rows[1:8:2]} == {"diverged"}
    assert all(row["members"] == 0 for row in rows[1:8:2])
    # The trial of three members an episode, each of one task, has the zoo of two in it.
    (prefix,) = rows[8:]
    assert (prefix["trial"], prefix["prefix"], prefix["zoo.members_per_episode"]) == (3, True, 2)
    distinct = {digest for row in rows for digest in row["digests"]}
    assert found.asked == 4 + 12 + 4 + 12
    assert (found.fitted, found.read) == (len(distinct), 0)
    assert found.to_dict()["shared"] == round(1 - len(distinct) / 32, 4)

    alone = {}
    for row in [*rows[:8:2], prefix]:
        values = {key: row[key] for key in SPACE}
        run = config.run_config(values, seed=0)
        run = run.model_copy(update={"workers": run.workers.model_copy(update={"count": 0})})
        result = grow(run, name=f"alone {row['trial']} {row['prefix']}")
        members = result.growth.members()
        assert [member.digest for member in members] == row["digests"]
        assert row["images"] == sum(member.samples for member in members)
        accuracy = result.growth.accuracy("validation")[-1].mean()
        assert row["validation_average_accuracy"] == accuracy
        alone[row["trial"], row["prefix"]] = result
    best = alone[found.findings.best.trial, found.findings.best.prefix]
    assert found.digests == [best.growth.digest()]
    assert found.test_accuracy == best.metrics.average_accuracy

    stored = zoo_ray.tune(config, name="pairs")
    assert [row for row in stored.rows if row.score == row.score] == [
        row for row in found.rows if row.score == row.score
    ]
    assert [row.name for row in stored.rows] == [row.name for row in found.rows]
    assert stored.findings == found.findings
    assert (stored.importance, stored.test_accuracy) == (found.importance, found.test_accuracy)
    assert {fit.digest for fit in stored.timeline() if fit.ending == "published"} == distinct

    trained = grow(read_config(tmp_path / "store/searches/pairs/best.yaml"), name="best")
    assert (trained.fitted, trained.growth.digest()) == (0, best.growth.digest())
    final = read_config(tmp_path / "store/searches/pairs/final.yaml")
    # Every search has a file of this name.
    text = (tmp_path / "store/searches/pairs/final.yaml").read_text()
    assert text.splitlines()[1].endswith("/searches/pairs/final.yaml --name pairs.final")
    assert final.benchmark.validation == 0
    with pytest.raises(UserError, match=r"--name pairs: this search .* seeds \(was None, is \[7\]"):
        search(read_search(write(seeds=[7])), name="pairs")


def test_a_search_goes_on_with_the_rules_it_was_begun_with(
    write, write_module, tmp_path, monkeypatch
):
    def cut_short(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo_ray.tuning._grow", cut_short)
    module = write_module(RULE)
    space = {"zoo.weights": {"choice": ["boosting", f"{module}.easiest"]}}
    config = read_search(write(space=space))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(config, name="rules")
    (tmp_path / f"{module}.py").write_text(RULE + "\n")
    own_code._load.cache_clear()
    with pytest.raises(UserError, match=r"--name rules: .*: zoo\.weights \(its file\); give"):
        search(config, name="rules")
    path = tmp_path / "store/searches/rules/search.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_source": ""}))
    with pytest.raises(KeyboardInterrupt):  # an older record has the base's rule alone
        search(config, name="rules")
    nowhere = read_search(write(space={"zoo.weights": {"choice": ["nowhere.rule"]}}))
    with pytest.raises(UserError, match=r"zoo\.weights = nowhere\.rule: there is no module nowh"):
        search(nowhere, name="none")


@pytest.mark.slow
def test_an_interrupted_search_leaves_no_trial_behind(write, tmp_path):
    def interrupt(progress, _trials):
        if progress.members_done >= 2:
            raise KeyboardInterrupt

    threads = {*threading.enumerate()}
    config = read_search(write())
    with pytest.raises(KeyboardInterrupt):
        search(config, name="pairs", on_progress=interrupt)
    assert {*threading.enumerate()} <= threads
    wait_until(lambda: not pids_of("ray::SearchDriver"))
    search(config, name="pairs")
    assert len(table(tmp_path)) == 9


@pytest.mark.slow
def test_eight_trials_at_once_on_two_cpus_and_the_same_again(write, tmp_path):
    config = read_search(write(trials_at_once=8))
    fitted = search(config, name="pairs").fitted
    rows = table(tmp_path)
    again = search(config, name="pairs")
    assert (again.fitted, again.read) == (0, fitted)
    assert table(tmp_path) == rows


@pytest.mark.slow
def test_where_all_trials_fail_the_first_says_why(write, tmp_path):
    config = read_search(write(space={"recipe.lr": {"choice": [1e5, 2e5]}}))
    with pytest.raises(UserError, match=r"all 2 trials failed; the first: member 1 of episode"):
        search(config, name="pairs")
    assert [row["status"] for row in table(tmp_path)] == ["failed", "failed"]
    assert list(tmp_path.glob("store/searches/pairs/failures/*-member-*.log"))


SAMPLED = {
    "zoo.tasks_per_member": {"choice": [1, 2]},
    "zoo.members_per_episode": {"randint": [1, 3]},
    "recipe.lr": {"loguniform": [0.001, 0.1]},
}


@pytest.mark.slow
@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_each_searcher_gives_the_same_trials_again(write, tmp_path, searcher, monkeypatch):
    config = read_search(write(space=SAMPLED, samples=6, searcher=searcher, seeds=[0, 1]))
    search(config, name="pairs")
    rows = [row for row in table(tmp_path) if not row["prefix"]]
    assert [row["status"] for row in rows] == ["complete"] * 6
    assert len({row["recipe.lr"] for row in rows}) == 6
    assert all(len(row["by_seed"]) == 2 for row in rows)
    whole = table(tmp_path)
    assert search(config, name="again").fitted == 0
    assert table(tmp_path, name="store/searches/again") == whole
    monkeypatch.setattr("zoo_ray.tuning._grow", None)  # nor is there a Ray, where all was read
    again = search(config, name="pairs")
    assert (again.fitted, again.read) == (0, len({d for row in rows for d in row["digests"]}))
    assert table(tmp_path) == whole


@pytest.mark.slow
def test_asha_stops_trials_early_and_a_budget_ends_the_search(write, tmp_path):
    space = {"recipe.lr": {"loguniform": [0.0001, 0.1]}}
    asha = {"scheduler": "asha", "samples": 12, "trials_at_once": 4}
    base = {"base": yaml.safe_load(write().read_text())["base"] | {"zoo": {"tasks_per_member": 1}}}
    found = search(read_search(write(space=space, **asha, **base)), name="pairs")
    rows = table(tmp_path)
    assert {row["status"] for row in rows} == {"complete", "stopped"}
    assert all(row["episodes"] >= 2 for row in rows)
    assert found.findings.best.episodes == 4
    budget = read_search(write(space=space, samples=12, budget={"members": 9}, **base))
    assert search(budget, name="less").trials == 2


@pytest.mark.slow
def test_a_killed_search_goes_on_and_ends_as_an_undisturbed_one(write, tmp_path):
    keys = {"space": SAMPLED, "samples": 6}
    base = yaml.safe_load(write().read_text())["base"]
    base |= {"recipe": {"epochs": 8, "batch": 8}, "store": str(tmp_path / "undisturbed")}
    undisturbed = search(read_search(write(base=base, **keys)), name="pairs")
    base["store"] = str(tmp_path / "store")
    command = [sys.executable, "run_cluster.py", "tune", str(write(base=base, **keys)), "--json"]
    command += ["--address", ray.get_runtime_context().gcs_address]
    first = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    half = undisturbed.fitted // 2
    wait_until(lambda: len(list(tmp_path.glob("store/members/*/member.json"))) >= half)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    wait_until(lambda: not pids_of("ray::SearchDriver"))
    done = len(list(tmp_path.glob("store/members/*/member.json")))
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    found = json.loads(second.stdout)
    assert found["fitted"] + done == undisturbed.fitted
    assert table(tmp_path, name="undisturbed/searches/pairs") == table(tmp_path)
    wait_until(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["SearchDriver", "RayTrainWorker", "ResourceTrainable"])
def test_whatever_dies_the_table_is_the_same(write, tmp_path, victim):
    base = yaml.safe_load(write().read_text())["base"] | {"recipe": {"epochs": 4, "batch": 8}}
    keys = {"space": SAMPLED, "samples": 6}
    killed = []

    def kill(progress, _trials):
        if not killed and progress.members_done > 5:
            killed.extend(pids_of(f"ray::{victim}")[:1])
            os.kill(killed[0], signal.SIGKILL)

    config = read_search(write(base=base, **keys))
    disturbed = search(config, name="pairs", on_progress=kill)
    assert killed
    again = search(config, name="again")
    assert (again.fitted, again.read) == (0, disturbed.fitted)
    assert table(tmp_path) == table(tmp_path, name="store/searches/again")
