"""Comparisons on a real Ray: zoos that share workers and members."""

import os
import signal
from pathlib import Path

import pytest
from processes import pids_of

from zoo_ray.comparison import compare, mode_contender, varied_contender
from zoo_ray.config import read_config
from zoo_ray.store import Store

pytestmark = pytest.mark.usefixtures("ray_cluster")

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
MODES = ("continual", "isolated", "multihead", "multitask")


def quickstart(store, *, workers):
    keys = {
        "store": store,
        "workers.count": workers,
        "recipe.epochs": 1,
        "benchmark.samples_per_class": 40,
    }
    return read_config(QUICKSTART, overrides=[f"{key}={value}" for key, value in keys.items()])


def contenders(config):
    several = [mode_contender(config, mode) for mode in MODES]
    several.append(varied_contender(config, ["zoo.closing_rounds=2", "zoo.replay=0.5"]))
    bad = [varied_contender(config, [item]) for item in ("zoo.weights=toys.late", "recipe.lr=1e6")]
    return [*several, *bad]


def members(store, result):
    return {
        run: Store(str(store)).read_table(run, "episodes.parquet")["predictions_sha256"]
        for outcome in result.outcomes
        if outcome.problem is None
        for run in outcome.runs
    }


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_zoos_on_workers_are_those_of_one_process(tmp_path, killed):
    """Also if the driver is killed in the middle; and one that cannot be fitted ends alone."""
    here, there = tmp_path / "here", tmp_path / "there"
    alone, seeds = quickstart(here, workers=0), [0, 1] if killed else [0]
    expected = compare(alone, contenders=contenders(alone), seeds=seeds, name="c", shuffle=True)
    config = quickstart(there, workers=2)
    victims, kept = [], []

    def look(progress, _asked):
        if progress.grown:
            tables = {*(there / "runs").glob("*/confusion.parquet")}
            kept.append(len(tables) >= len(progress.grown))
        if killed and not victims and progress.members_done > 5:
            victims.extend(pids_of("ray::CompareDriver"))
            os.kill(victims[0], signal.SIGKILL)

    result = compare(
        config,
        contenders=contenders(config),
        seeds=seeds,
        name="c",
        shuffle=True,
        on_progress=look,
    )
    assert bool(victims) == killed
    assert kept
    assert all(kept)
    assert members(there, result) == members(here, expected)
    assert [o.metrics for o in result.outcomes] == [o.metrics for o in expected.outcomes]
    assert [o.images for o in result.outcomes] == [o.images for o in expected.outcomes]
    assert (result.fitted, result.read) == (expected.fitted, 0)
    *good, ruled, bad, matched = result.outcomes
    assert [o.problem for o in (*good, matched)] == [None] * 6
    assert "recipe.lr" in bad.problem
    assert "too late" in ruled.problem
    # What the failed zoo may yet want is claimed; the others are runs.
    assert Store(str(there)).read_wanted("comparisons/c")
    again = compare(
        config, contenders=[*contenders(config)[:5]], seeds=seeds, name="c", shuffle=True
    )
    assert again.fitted == 0
    assert not Store(str(there)).read_wanted("comparisons/c")
