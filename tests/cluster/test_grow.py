"""Zoos grown on a real Ray: the same as in one process, whatever dies on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zoo_ray.config import read_config
from zoo_ray.errors import UserError
from zoo_ray.run import grow

pytestmark = pytest.mark.usefixtures("ray_cluster")

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def quickstart(store, **keys):
    overrides = [f"{key}={value}" for key, value in keys.items()]
    return read_config(QUICKSTART, overrides=[f"store={store}", *overrides])


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """The quickstart's zoo, grown in this process."""
    store = tmp_path_factory.mktemp("oracle")
    return grow(quickstart(store, **{"workers.count": 0}), name="quickstart")


def test_any_number_of_workers_grows_the_same_zoo(oracle, tmp_path):
    for workers in (1, 2):
        seen = []
        result = grow(
            quickstart(tmp_path / str(workers), **{"workers.count": workers}),
            name="quickstart",
            on_progress=seen.append,
        )
        assert result.growth.digest() == oracle.growth.digest()
        assert (result.fitted, result.read) == (5, 0)
        assert 0 < result.first_fit_s < result.wall_s
        assert max(len(progress.fits) for progress in seen) == workers
        assert seen[-1].work_share == 1.0


def test_a_grown_zoo_is_read_and_not_fitted(oracle):
    again = grow(quickstart(oracle.store, **{"workers.count": 2}), name="quickstart")
    assert (again.fitted, again.read) == (0, 5)
    assert again.first_fit_s is None
    assert again.growth.digest() == oracle.growth.digest()


@pytest.mark.parametrize("victim", ["ray::RayTrainWorker", "ray::Driver"])
def test_a_killed_worker_or_driver_changes_nothing(oracle, tmp_path, victim):
    killed = threading.Event()

    def kill_once(progress):
        if not killed.is_set() and progress.members_done and progress.fits:
            killed.set()
            os.kill(pids_of(victim)[0], signal.SIGKILL)

    result = grow(
        quickstart(tmp_path, **{"workers.count": 2}), name="quickstart", on_progress=kill_once
    )
    assert killed.is_set()
    assert result.growth.digest() == oracle.growth.digest()
    assert (result.fitted, result.read) == (5, 0)


def test_a_failed_fit_ends_the_run_with_one_line(tmp_path):
    config = quickstart(tmp_path, **{"workers.count": 2, "recipe.lr": 1e5, "recipe.epochs": 1})
    with pytest.raises(UserError, match=r"^member 1 of episode \d: .*try a smaller recipe\.lr"):
        grow(config, name="quickstart")


def test_more_than_the_cluster_can_have_is_refused_and_nothing_is_written(tmp_path):
    config = quickstart(tmp_path / "store", **{"workers.count": 1, "workers.gpus": 1})
    with pytest.raises(UserError, match=r"^workers\.gpus = 1, .* has or can launch 0 GPUs"):
        grow(config, name="quickstart", address="auto")
    assert not (tmp_path / "store").exists()


def test_a_local_ray_is_started_wherever_others_run(oracle, tmp_path):
    command = [sys.executable, "run_cluster.py", "train", str(QUICKSTART), "--workers=1", "--json"]
    done = subprocess.run(
        [*command, "--store", str(tmp_path)],
        cwd=QUICKSTART.parents[1],
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == oracle.growth.digest()


def pids_of(title):
    """Processes of this test's Ray that call themselves so."""

    def read(pid, file):
        try:
            return Path(f"/proc/{pid}/{file}").read_text()
        except OSError:
            return ""

    children = {}
    for path in Path("/proc").iterdir():
        if stat := path.name.isdigit() and read(path.name, "stat"):
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(path.name))
    below = children.get(os.getpid(), [])
    for pid in below:
        below.extend(children.get(pid, []))
    return [pid for pid in below if read(pid, "cmdline").startswith(title)]
