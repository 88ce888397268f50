"""What an autoscaler may launch, and a run that has it launch that."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import descendants, free_ports, lives, wait_until
from test_grow import QUICKSTART, quickstart

from zoo_ray.cluster.autoscaler import Autoscaling, of_raycluster
from zoo_ray.run import grow

ROOT = Path(__file__).parents[2]


def read(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def most(config):
    return config.most("CPU"), config.most("GPU")


def test_what_the_cluster_on_aws_may_launch():
    assert most(Autoscaling.model_validate(read("cluster.yaml"))) == (8 * 4, 8)


@pytest.mark.parametrize(
    ("path", "spec"),
    [
        ("kuberay_job.yaml", lambda resource: resource["spec"]["rayClusterSpec"]),
        # Beside the cluster the file holds what it needs.
        ("kuberay_cluster.yaml", lambda resource: resource["spec"]),
    ],
)
def test_what_a_cluster_on_kubernetes_may_launch(path, spec):
    text = (ROOT / "configs/clusters" / path).read_text(encoding="utf-8")
    (resource,) = (it for it in yaml.safe_load_all(text) if it["kind"].startswith("Ray"))
    cluster = {"metadata": {"name": "x", "namespace": "y"}, "spec": spec(resource)}
    (group,) = cluster["spec"]["workerGroupSpecs"]
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert most(of_raycluster(cluster)) == (group["maxReplicas"] * cpus, group["maxReplicas"])
    cluster["spec"]["enableInTreeAutoscaling"] = False
    assert of_raycluster(cluster) is None


def test_a_type_of_nodes_may_be_as_many_as_all():
    kinds = {"head": {"resources": {"CPU": 2}}, "a": {"resources": {"CPU": 4}}, "b": {}}
    config = {"available_node_types": kinds, "head_node_type": "head", "max_workers": 3}
    assert most(Autoscaling.model_validate(config | {"provider": {}})) == (2 + 3 * 4, 0)
    kinds["a"]["max_workers"] = 2
    assert most(Autoscaling.model_validate(config)) == (2 + 2 * 4, 0)


def test_all_types_together_are_as_many_as_the_cluster_may_have():
    kinds = {
        "head": {"resources": {"CPU": 2}},
        "small": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 3},
        "large": {"resources": {"CPU": 16}, "max_workers": 2},
    }
    config = {"available_node_types": kinds, "head_node_type": "head", "max_workers": 4}
    assert most(Autoscaling.model_validate(config)) == (2 + 2 * 16 + 2 * 4, 3)


HEAD_ID = "f" * 51 + "00000"
# A provider of Ray's that launches nodes as processes of this machine.
FAKE = """
cluster_name: fake
max_workers: 2
upscaling_speed: 10
idle_timeout_minutes: 5
provider:
  type: fake_multinode
  gcs_address: {address}
  launch_multiple: true
  disable_node_updaters: true
  disable_launch_config_check: true
  foreground_node_launch: true
  worker_liveness_check: false
head_node_type: ray.head.default
available_node_types:
  ray.head.default: {{resources: {{CPU: 0}}, node_config: {{}}, max_workers: 0}}
  cpu:
    resources: {{CPU: 1, object_store_memory: 200000000}}
    node_config: {{}}
    min_workers: 0
    max_workers: 2
auth: {{}}
file_mounts: {{}}
file_mounts_sync_continuously: false
cluster_synced_files: []
initialization_commands: []
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
head_start_ray_commands: []
worker_start_ray_commands: []
"""


@pytest.fixture
def from_zero(tmp_path):
    """The address of a head without CPUs, whose autoscaler launches nodes on this machine."""
    port, dashboard, agent = free_ports(3)
    (host,) = subprocess.check_output(["hostname", "-I"], text=True).split()[:1]
    path = tmp_path / "autoscaling.yaml"
    path.write_text(FAKE.format(address=f"{host}:{port}"))
    words = ["start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
    words += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    words += [f"--autoscaling-config={path}", "--object-store-memory=300000000"]
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), *words],
            env=os.environ | fake | {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID},
            stdout=log,
            stderr=log,
        )
    wait_until(lambda: "block forever" in (tmp_path / "ray.log").read_text(), seconds=120)
    yield f"{host}:{port}"
    left = descendants(head.pid)  # nodes that were launched outlive their autoscaler
    head.terminate()
    head.wait(60)
    for pid in filter(lives, left):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_from_zero_nodes_are_launched_for_a_run(from_zero, tmp_path):
    words = ["--set=recipe.epochs=1", f"--address={from_zero}", f"--store={tmp_path}", "--json"]
    done = subprocess.run(
        [sys.executable, ROOT / "run_cluster.py", "train", str(QUICKSTART), *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    config = quickstart(tmp_path / "here", **{"recipe.epochs": 1, "workers.count": 0})
    assert result["digest"] == grow(config, name="here").growth.digest()
