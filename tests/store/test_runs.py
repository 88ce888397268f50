"""Whole runs on a folder and on an S3 server, with what may happen to their stores."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from zoo_ray.config import read_config
from zoo_ray.run import grow
from zoo_ray.store import Store
from zoo_ray.store.upkeep import verify

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"


@pytest.fixture
def config(run_config, address):
    return run_config().model_copy(update={"store": address})


def damage(store, path, how):
    payload = store.files.read(path)
    if how == "missing":
        store.files.delete(path)
    elif how == "truncated":
        store.files.replace(path, payload[:-10])
    else:
        store.files.replace(path, payload[:-10] + bytes([payload[-10] ^ 1]) + payload[-9:])


@pytest.mark.parametrize("how", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("what", ["predictions", "member.json"])
def test_a_damaged_member_is_named_and_fitted_again(config, caplog, what, how):
    first = grow(config, name="run")
    store = Store(config.store)
    digest = first.growth.members()[1].digest
    (path,) = (entry.path for entry in store.files.list(f"members/{digest}") if what in entry.path)
    damage(store, path, how)
    problems = verify(store).problems
    assert problems
    assert all(digest in problem.problem for problem in problems)
    again = grow(config, name="run")
    assert (again.fitted, again.read) == (1, 2)
    assert again.growth.digest() == first.growth.digest()
    if (what, how) != ("member.json", "missing"):
        assert f"{store.shown}/{path}" in caplog.text
    assert verify(store).problems == []


def test_damaged_weights_are_found_by_verify_and_fitted_again(config):
    first = grow(config, name="run")
    store = Store(config.store)
    digest = first.growth.members()[0].digest
    (path,) = (e.path for e in store.files.list(f"members/{digest}") if "weights" in e.path)
    damage(store, path, "flipped")
    for repair in (False, True):
        (problem,) = verify(store, repair=repair).problems
        assert path in problem.problem
    assert grow(config, name="run").fitted == 1
    assert verify(store).problems == []


def test_a_stale_process_never_shortens_what_a_run_has_recorded(config, run_config):
    short = run_config(benchmark={"tasks": [[0, 1], [2, 3]]})
    short = short.model_copy(update={"store": config.store})
    store = Store(config.store)

    def overtake(progress):
        """While the short stream is still growing, another process grows the long one."""
        if progress.members_done and store.read_run("run") and overtake.once:
            overtake.once = False
            grow(config, name="run")

    overtake.once = True
    grow(short, name="run", on_progress=overtake)
    assert not overtake.once
    assert len(store.read_run("run").tasks) == 3
    assert max(store.read_table("run", "episodes.parquet")["episode"]) == 3
    assert max(store.read_table("run", "results.parquet")["episode"]) == 3


def restart(server, *, away_s):
    server.kill()
    time.sleep(away_s)
    server.start()


def test_a_server_that_restarts_in_the_middle_of_a_run_changes_nothing(
    run_config, s3_server, s3_address
):
    oracle = grow(run_config(), name="run")
    threads = []

    def restart_once(progress):
        if progress.members_done and not threads:
            threads.append(threading.Thread(target=restart, args=[s3_server], kwargs={"away_s": 1}))
            threads[0].start()

    config = run_config().model_copy(update={"store": s3_address})
    result = grow(config, name="run", on_progress=restart_once)
    threads[0].join()
    assert result.growth.digest() == oracle.growth.digest()
    assert grow(config, name="run").fitted == 0


@pytest.mark.slow
def test_the_quickstart_on_ray_with_a_bucket_whose_server_restarts(tmp_path, s3_server, s3_address):
    command = [sys.executable, "run_cluster.py", "train", str(QUICKSTART), "--json"]
    command += ["--workers=2", "--set=recipe.epochs=2", "--set=workers.checkpoint_s=0.5"]
    with (tmp_path / "stderr").open("w") as errors:
        run = subprocess.Popen(
            [*command, "--store", s3_address],
            cwd=ROOT,
            env=os.environ | s3_server.environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        store = Store(s3_address)
        while run.poll() is None and not list(store.members()):
            time.sleep(0.2)
        restart(s3_server, away_s=3)
        found = json.loads(run.communicate()[0].splitlines()[-1])
    assert run.returncode == 0, (tmp_path / "stderr").read_text()
    assert (found["fitted"], found["read"]) == (5, 0)
    overrides = ["workers.count=0", "recipe.epochs=2", f"store={tmp_path}/store"]
    oracle = grow(read_config(QUICKSTART, overrides=overrides), name="quickstart")
    assert found["digest"] == oracle.growth.digest()
    again = subprocess.run(
        [*command, "--store", s3_address], cwd=ROOT, capture_output=True, text=True
    )
    found = json.loads(again.stdout.splitlines()[-1])
    assert (found["fitted"], found["read"]) == (0, 5)
