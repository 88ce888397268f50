"""Zoos grown on a real Ray: the same as in one process, whatever dies on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from processes import pids_of, wait_until
from ray.util.state import list_placement_groups

from zoo_ray.cluster.driver import RunDriver
from zoo_ray.config import read_config
from zoo_ray.errors import UserError
from zoo_ray.run import grow
from zoo_ray.store import Store

pytestmark = pytest.mark.usefixtures("ray_cluster")

WORKER = "ray::RayTrainWorker"
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def quickstart(store, **keys):
    """The quickstart, of one epoch unless said otherwise."""
    overrides = [f"{key}={value}" for key, value in ({"recipe.epochs": 1} | keys).items()]
    return read_config(QUICKSTART, overrides=[f"store={store}", *overrides])


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """The quickstart's zoo, grown in this process."""
    store = tmp_path_factory.mktemp("oracle")
    return grow(quickstart(store, **{"workers.count": 0}), name="quickstart")


@pytest.mark.parametrize("speculate", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_workers_grow_the_zoo_of_one_process(oracle, tmp_path, speculate):
    """The first two episodes are certain; of the rest, a worker of two does its share early."""
    keys = {"workers.count": 2, "workers.speculate": str(speculate).lower()}
    seen = []
    result = grow(quickstart(tmp_path, **keys), name="quickstart", on_progress=seen.append)
    assert result.growth.digest() == oracle.growth.digest()
    assert result.read == 0
    assert result.fitted - result.speculative.fitted + result.speculative.used == 5
    assert (result.speculative.used > 0) == speculate
    assert any(not fit.certain for progress in seen for fit in progress.fits) == speculate
    assert 0 < result.first_fit_s < result.wall_s
    # Without speculation just the first two are fitted side by side, perhaps between two looks.
    assert max(len(progress.fits) for progress in seen) == 2 or not speculate
    assert seen[-1].work_share == 1.0
    times = Store(str(tmp_path)).read_timeline("runs/quickstart")
    published = {fit.digest for fit in times if fit.ending == "published"}
    assert published >= {member.digest for member in result.growth.members()}
    assert {fit.workers for fit in times} == {2}
    assert any(not fit.certain for fit in times) == speculate


@pytest.mark.slow
@pytest.mark.parametrize("joined", [False, True])
def test_workers_find_what_a_notebook_has_put_on_its_path(oracle, tmp_path, joined):
    """Neither the script's folder nor the working directory holds zoo_ray, nor does the system."""
    address = ray.get_runtime_context().gcs_address if joined else None
    script = f"""
import sys
sys.path.append({str(QUICKSTART.parents[1])!r})
import zoo_ray
overrides = ["store={tmp_path / "store"}", "recipe.epochs=1", "workers.count=1"]
config = zoo_ray.read_config({str(QUICKSTART)!r}, overrides=overrides)
run = zoo_ray.grow(config, name="zoo", address={address!r})
print(*(member.digest for member in run.members))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    digests = [member.digest for member in oracle.growth.members()]
    assert done.stdout.split() == digests


def test_one_worker_that_fits_three_members_at_once_grows_the_same_zoo(oracle, tmp_path):
    """As on a GPU."""
    keys = {"workers.count": 1, "workers.fits": 3, "workers.cpus": 1}
    seen = []
    result = grow(quickstart(tmp_path, **keys), name="quickstart", on_progress=seen.append)
    assert result.growth.digest() == oracle.growth.digest()
    assert max(len(progress.fits) for progress in seen) == 3


def test_names_of_runs_and_tasks_may_be_of_any_script(tmp_path):
    keys = {"benchmark.tasks": [[0, 1], [2, 3]], "benchmark.rotate": [0, 10]}
    stores = [tmp_path / str(count) for count in (0, 1)]
    digests = [
        grow(
            quickstart(store, **keys, **{"workers.count": count}), name="Zoö für 動物"
        ).growth.digest()
        for count, store in enumerate(stores)
    ]
    assert digests[0] == digests[1]


def test_a_grown_zoo_is_read_and_not_fitted(oracle):
    again = grow(quickstart(oracle.store, **{"workers.count": 2}), name="quickstart")
    assert (again.fitted, again.read) == (0, 5)
    assert again.first_fit_s is None
    assert again.growth.digest() == oracle.growth.digest()


def once(condition, action):
    """A progress callback that acts the first time that a condition holds."""
    done = threading.Event()

    def look(progress):
        if not done.is_set() and condition(progress):
            done.set()
            action()

    return look, done


def half_way(progress):
    return progress.members_done and any(fit.epochs_done for fit in progress.fits)


def kill(victim):
    os.kill(pids_of(victim)[0], signal.SIGKILL)


# Long enough to be killed in the middle, and with checkpoints to go on from.
LONG = {
    "benchmark.tasks": [[0, 1], [2, 3], [4, 5]],
    "recipe.epochs": 10,
    "workers.count": 2,
    "workers.checkpoint_s": 0.3,
}


@pytest.fixture(scope="module")
def long_oracle(tmp_path_factory):
    store = tmp_path_factory.mktemp("oracle")
    return grow(quickstart(store, **LONG | {"workers.count": 0}), name="quickstart")


def test_a_killed_worker_is_replaced_and_its_fit_goes_on_elsewhere(long_oracle, tmp_path):
    before = []

    def kill_one():
        before.extend(pids_of(WORKER))
        kill(WORKER)

    killer, killed = once(half_way, kill_one)
    after = set()

    def look(progress):
        killer(progress)
        after.update(pids_of(WORKER))

    result = grow(quickstart(tmp_path, **LONG), name="quickstart", on_progress=look)
    assert killed.is_set()
    assert result.growth.digest() == long_oracle.growth.digest()
    assert (result.fitted, result.read) == (3, 0)
    assert before[1] in after  # the other one was left alone
    published = {path.parent.name for path in tmp_path.glob("members/*/member.json")}
    assert not published & {path.parent.name for path in tmp_path.glob("progress/*/*")}


@pytest.mark.slow
def test_a_killed_driver_is_told_again_and_no_fit_is_lost(long_oracle, tmp_path):
    killer, killed = once(half_way, lambda: kill("ray::RunDriver"))
    workers, steps = set(), {}

    def look(progress):
        killer(progress)
        workers.update(pids_of(WORKER))
        for fit in progress.fits:
            assert fit.epochs_done >= steps.get(fit.digest, 0)
            steps[fit.digest] = fit.epochs_done

    result = grow(quickstart(tmp_path, **LONG), name="quickstart", on_progress=look)
    assert killed.is_set()
    assert result.growth.digest() == long_oracle.growth.digest()
    assert (result.fitted, result.read) == (3, 0)
    assert len(workers) == 2
    assert {pointer["first_step"] for pointer in pointers(tmp_path)} == {0}


@pytest.mark.slow
def test_a_worker_that_hangs_loses_its_fit_to_another(long_oracle, tmp_path):
    def stop_one():
        os.kill(max(pids_of(WORKER)), signal.SIGSTOP)  # the lower may be of a run that has ended

    hang, hung = once(half_way, stop_one)
    result = grow(
        quickstart(tmp_path, **LONG | {"workers.fit_timeout_s": 15}),
        name="quickstart",
        on_progress=hang,
    )
    assert hung.is_set()
    assert result.growth.digest() == long_oracle.growth.digest()


@pytest.mark.slow
def test_a_fit_that_yields_goes_on_later(long_oracle, tmp_path, monkeypatch):
    class Hesitant(RunDriver):
        """Has every fit yield once."""

        def __init__(self):
            super().__init__()
            self.told = set()

        async def report(self, worker, digest, progress):
            answer = await super().report(worker, digest, progress)
            if answer != "go on" or digest in self.told:
                return answer
            self.told.add(digest)
            return "yield"

    monkeypatch.setattr("zoo_ray.cluster.session.RunDriver", Hesitant)
    config = quickstart(tmp_path, **LONG | {"workers.checkpoint_s": 60})  # none but of yielding
    result = grow(config, name="quickstart")
    assert result.growth.digest() == long_oracle.growth.digest()
    assert all(pointer["first_step"] for pointer in pointers(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [WORKER, "ray::TrainController"])
def test_a_group_that_gives_up_is_followed_by_another(long_oracle, tmp_path, victim):
    def kill_all():
        for pid in pids_of(victim):
            os.kill(pid, signal.SIGKILL)

    killer, killed = once(half_way, kill_all)
    result = grow(quickstart(tmp_path, **LONG), name="quickstart", on_progress=killer)
    assert killed.is_set()
    assert result.growth.digest() == long_oracle.growth.digest()


@pytest.mark.slow
def test_a_spec_that_kills_worker_after_worker_ends_the_run(tmp_path):
    kills = []

    def kill_whoever_fits(progress):
        for fit in progress.fits:
            life = pids_of(WORKER)
            if fit.epochs_done and life and life[0] not in kills:
                kills.append(life[0])
                os.kill(life[0], signal.SIGKILL)

    config = quickstart(tmp_path, **LONG | {"workers.count": 1, "recipe.epochs": 1000})
    # Two members are certain from the start, and the store answers for either first.
    told = r"^member 1 of episode [12]: the worker ended .*; see (.*)$"
    with pytest.raises(UserError, match=told):
        grow(config, name="quickstart", on_progress=kill_whoever_fits)
    assert len(kills) >= 3  # one that was killed before it asked for a lease does not count
    (log,) = tmp_path.glob("runs/quickstart/failures/member-[12]-1.log")
    assert "worker's stderr" in log.read_text()


@pytest.mark.slow
def test_a_stopped_run_leaves_nothing_on_its_cluster_and_goes_on(long_oracle, tmp_path):
    command = [sys.executable, "run_cluster.py", "train", str(QUICKSTART), "--json"]
    address = ray.get_runtime_context().gcs_address
    command += ["--address", address, "--store", str(tmp_path)]
    command += [f"--set={key}={value}" for key, value in LONG.items()]
    first = subprocess.Popen(
        command, cwd=QUICKSTART.parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wait_until(lambda: list(tmp_path.glob("progress/*/*")) or first.poll() is not None)
    first.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    assert b"stopped; to go on: python" in first.communicate()[1]
    assert first.returncode == 143
    assert time.monotonic() - sent < 3
    wait_until(lambda: not pids_of(WORKER) + pids_of("ray::RunDriver") + pids_of("ray::TrainContr"))
    wait_until(lambda: ray.available_resources().get("CPU") == 2)
    assert all(group.state == "REMOVED" for group in list_placement_groups(address))
    published = {path.parent.name for path in tmp_path.glob("members/*/member.json")}
    done = subprocess.run(command, cwd=QUICKSTART.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["digest"] == long_oracle.growth.digest()
    assert (found["read"], found["fitted"]) == (len(published), 3 - len(published))


def test_a_failed_fit_ends_the_run_with_one_line(tmp_path):
    config = quickstart(tmp_path, **{"workers.count": 2, "recipe.lr": 1e5, "recipe.epochs": 1})
    line = r"^member 1 of episode \d: .*try a smaller recipe\.lr.*; see (.*)$"
    with pytest.raises(UserError, match=line) as caught:
        grow(config, name="quickstart")
    log = Path(re.match(line, str(caught.value))[1])
    assert log.parent == tmp_path / "runs/quickstart/failures"
    assert "Traceback" in log.read_text()


def test_more_than_the_cluster_can_have_is_refused_and_nothing_is_written(tmp_path):
    config = quickstart(tmp_path / "store", **{"workers.count": 1, "workers.gpus": 1})
    with pytest.raises(UserError, match=r"^workers\.gpus = 1, .* has or can launch 0 GPUs"):
        grow(config, name="quickstart", address="auto")
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_run_waits_as_long_as_others_have_the_cluster(oracle, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    monkeypatch.setattr("zoo_ray.cluster.workers.GROUP_START_FAILURES", 1)
    monkeypatch.setattr("zoo_ray.cluster.session._WAITS_S", 2)

    @ray.remote(num_cpus=2)
    class Others:
        def are_there(self):
            return True

    others = Others.remote()
    assert ray.get(others.are_there.remote())
    threading.Timer(20, ray.kill, args=[others]).start()
    result = grow(quickstart(tmp_path), name="quickstart")
    assert result.growth.digest() == oracle.growth.digest()
    assert "waiting for a worker with 1 CPU: 0 of 2 CPUs are free" in caplog.text


@pytest.mark.slow
def test_a_notebook_goes_on_after_an_interrupt(oracle, tmp_path):
    script = f"""
import _thread, threading, time
import ray, zoo_ray
from zoo_ray.cluster.session import _Groups
overrides = ["store={tmp_path}", "recipe.epochs=1", "workers.count=1"]
config = zoo_ray.read_config({str(QUICKSTART)!r}, overrides=overrides)
longer = zoo_ray.read_config({str(QUICKSTART)!r}, overrides=[*overrides, "recipe.epochs=10_000"])
run, end = _Groups._run, _Groups.end
def interrupted(after_s):
    threading.Timer(after_s, _thread.interrupt_main).start()
    try:
        zoo_ray.grow(longer, name="longer")
    except KeyboardInterrupt:
        print("interrupted", ray.is_initialized())
def twice(groups):
    threading.Timer(0.2, _thread.interrupt_main).start()
    end(groups)
def late(groups, **group):  # as on a machine that is slow to import Ray Train
    time.sleep(7)
    run(groups, **group)
interrupted(4)  # while Ray starts
_Groups.end = twice
interrupted(10)  # while its workers start, or fit
_Groups._run = late
interrupted(10)
_Groups._run, _Groups.end = run, end
print(*(member.digest for member in zoo_ray.grow(config, name="zoo").members))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=QUICKSTART.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[:-1] == ["interrupted False"] * 3
    digests = [member.digest for member in oracle.growth.members()]
    assert done.stdout.splitlines()[-1].split() == digests


@pytest.mark.slow
def test_one_worker_on_a_local_ray_wherever_others_run(oracle, tmp_path):
    command = [sys.executable, "run_cluster.py", "train", str(QUICKSTART), "--workers=1", "--json"]
    done = subprocess.run(
        [*command, "--store", str(tmp_path), "--set=recipe.epochs=1"],
        cwd=QUICKSTART.parents[1],
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == oracle.growth.digest()


def pointers(store):
    return [json.loads(path.read_text()) for path in store.glob("members/*/member.json")]
