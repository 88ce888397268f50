"""Commands as jobs of a real cluster, by the command line."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from processes import free_ports, pids_of, wait_until
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_placement_groups
from test_grow import LONG, QUICKSTART

from zoo_ray.cluster.session import _quiet
from zoo_ray.config import read_config
from zoo_ray.run import grow

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def head():
    """A cluster of one node that takes jobs, whatever else runs on this machine."""
    _quiet()
    ports = free_ports(2)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 2,
            "include_dashboard": True,
            # By default the same for every Ray.
            "dashboard_port": ports[0],
            "dashboard_agent_listen_port": ports[1],
            "object_store_memory": 200_000_000,
            "_system_config": {"metrics_report_interval_ms": 500},
        },
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture
def url(head):
    return f"http://{head.head_node.webui_url}"


@pytest.fixture
def cluster(head):
    return head.address


@pytest.fixture
def command(cluster, tmp_path):
    """Runs a command from another folder, as another process; gives its JSON, or what it says."""

    def run(*words, code=0, address=cluster, **env):
        verb, *rest = words
        done = subprocess.run(
            [sys.executable, ROOT / "run_cluster.py", verb, "--address", address, *rest],
            cwd=tmp_path,
            env=os.environ | env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        if code:
            assert done.stderr.count("\n") == 1
            return done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_a_job_that_is_stopped_and_resumed_gives_the_zoo_and_fits_nothing_twice(
    command, head, cluster, tmp_path
):
    overrides = [f"--set={key}={value}" for key, value in LONG.items()]
    train = ["train", str(QUICKSTART), "--name", "my zoo", *overrides, "--json"]
    first = command("submit", "--json", "--", *train)["id"]
    assert first.startswith("my-zoo-")
    # The submitting process is gone; the store is where it would be without a cluster.
    wait_until(lambda: list(tmp_path.glob("zoo_store/progress/*/*")), seconds=120)
    (job,) = command("jobs", "--json")["jobs"]
    assert (job["id"], job["run"], job["state"]) == (first, "my zoo", "running")
    assert job["done"] == "episode 0/3"
    assert f"job {first} is at it" in command("submit", "--", *train, code=2)

    assert command("stop", first, "--json")["stopped"]
    wait_until(lambda: not pids_of("ray::RayTrainWorker") + pids_of("ray::RunDriver"))
    wait_until(lambda: not left_on(cluster))
    assert command("status", "my zoo", "--json")["state"] == "stopped"
    published = {path.parent.name for path in tmp_path.glob("zoo_store/members/*/member.json")}

    second = command("resume", "my zoo", "--json")["id"]
    seen = set()

    def all_metrics():
        seen.update(metrics(head))
        return seen >= METRICS

    wait_until(all_metrics, seconds=240)
    log = logs(second, cluster, "-f")
    assert log.returncode == 0, log.stderr
    result = json.loads(next(line for line in log.stdout.splitlines() if line.startswith("{")))
    assert (result["read"], result["fitted"]) == (len(published), 3 - len(published))
    values = LONG | {"workers.count": 0, "store": str(tmp_path / "here")}
    here = read_config(QUICKSTART, overrides=[f"{key}={value}" for key, value in values.items()])
    assert result["digest"] == grow(here, name="here").growth.digest()
    pointers = [json.loads(p.read_text()) for p in tmp_path.glob("zoo_store/members/*/member.json")]
    assert len(pointers) == 3
    assert published or any(pointer["first_step"] for pointer in pointers)

    job = command("status", second, "--json")
    assert (job["state"], job["done"]) == ("succeeded", "episode 3/3")
    assert job["accuracy"] == pytest.approx(result["average_accuracy"], abs=0.00051)
    assert not command("stop", second, "--json")["stopped"]


METRICS = {
    *("members_fitted", "members_waiting", "fits", "driver_ms_per_member", "test_accuracy"),
    "fit_seconds",
}


def metrics(head):
    """Names of our metrics for this run, as Prometheus reads them."""
    node = head.head_node
    with urllib.request.urlopen(
        f"http://{node.node_ip_address}:{node.metrics_export_port}"
    ) as page:
        found = re.findall(r"^ray_zoo_ray_(\w+?)(?:_total|_sum)?{(.*)}", page.read().decode(), re.M)
    return {name for name, labels in found if 'run="runs/my zoo"' in labels}


def left_on(cluster):
    """What lives on a cluster, and what is reserved there."""
    actors = {a.class_name for a in list_actors(address=cluster) if a.state != "DEAD"}
    groups = [g for g in list_placement_groups(address=cluster) if g.state != "REMOVED"]
    # Ray Train's own, one for all jobs of a cluster.
    return [*(actors - {"_AutoscalingCoordinatorActor"}), *groups]


def test_a_node_that_joins_is_used(command, head, cluster, tmp_path):
    values = {"recipe.epochs": 300, "workers.checkpoint_s": 0.3}
    words = [f"--set={key}={value}" for key, value in values.items()]
    words = ["train", str(QUICKSTART), *words, "--name", "growing"]
    job = command("submit", "--json", "--", *words)["id"]
    # A second node of one machine unpacks the job's code where the first has it: what runs there
    # must have read it.
    wait_until(lambda: list(tmp_path.glob("zoo_store/progress/*/*")), seconds=120)
    node = head.add_node(num_cpus=1)

    def works_there():
        return [
            actor
            for actor in list_actors(address=cluster)
            if actor.class_name == "RayTrainWorker" and actor.node_id == node.node_id
        ]

    wait_until(works_there, seconds=120)
    assert command("stop", job, "--json")["stopped"]
    assert "a node has joined, with room for 1 workers" in logs(job, cluster).stdout
    head.remove_node(node)


def logs(job, cluster, *options):
    words = ["logs", *options, job, "--address", cluster]
    return subprocess.run(
        [sys.executable, ROOT / "run_cluster.py", *words], capture_output=True, text=True
    )


def test_a_job_that_fails_says_so(command, cluster):
    words = ["train", str(QUICKSTART), "--set", "recipe.lr=1e5", "--set", "recipe.epochs=1"]
    job = command("submit", "--json", "--", *words)["id"]
    log = logs(job, cluster, "-f")
    assert log.returncode == 1
    assert "try a smaller recipe.lr" in log.stdout


OTHER = """
import sys
from ray.cluster_utils import Cluster
ports = dict(zip(("dashboard_port", "dashboard_agent_listen_port"), map(int, sys.argv[1:])))
cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": True, **ports})
print("up", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def test_beside_another_ray_a_run_of_this_machine_keeps_its_workers(tmp_path):
    # What Ray Train asks whether a run lives asked the cluster that was last started, and ended
    # the workers if that one, open to all, knew nothing of them.
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, *map(str, free_ports(2))],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout.readline() == b"up\n"
    words = [f"--set={key}={value}" for key, value in (LONG | {"recipe.epochs": 300}).items()]
    run = subprocess.Popen(
        [sys.executable, ROOT / "run_cluster.py", "train", str(QUICKSTART), *words],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    seen = set()

    def fits():
        seen.update(pids_of("ray::RayTrainWorker", of=run.pid))
        return len(list(tmp_path.glob("zoo_store/progress/*"))) == 2

    try:
        wait_until(fits, seconds=120)
        for _ in range(30):  # it asks every second
            time.sleep(0.1)
            fits()
        assert len(seen) == 2
    finally:
        run.terminate()
        other.stdin.close()
        run.wait(60)
        other.wait(60)


def test_what_no_cluster_answers_to(command, url):
    assert "knows no such job or run" in command("logs", "nothing", code=2)
    assert "no Ray cluster answers" in command("jobs", address="http://127.0.0.1:1", code=2)
    assert "no Ray cluster answers" in command("jobs", address="127.0.0.1:1", code=2)
    said = command("jobs", address=url, code=2, RAY_AUTH_TOKEN="wrong")
    assert "this cluster asks for its token" in said
    here = command("submit", "--", "train", str(QUICKSTART), address=url, code=2)
    assert "store = zoo_store: a folder of this machine, which the cluster does not see" in here
    assert "goes before --" in command(
        "submit", "--", "train", str(QUICKSTART), "--address", "auto", code=2
    )
    assert "give a command after --" in command("submit", "--", "report", "x", code=2)


def test_a_request_without_the_token_is_refused(url):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{url}/api/jobs/")
    assert refused.value.code == 401
