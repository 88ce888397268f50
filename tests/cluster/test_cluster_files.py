"""The files that describe clusters, against the schemas of those who read them."""

import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster.yaml"
ON_PREMISES = ROOT / "configs" / "clusters" / "on_premises.yaml"
KUBERAY = sorted((ROOT / "configs" / "clusters").glob("kuberay_*.yaml"))


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [AWS, ON_PREMISES], ids=lambda path: path.name)
def test_ray_takes_the_file(path):
    validate_config(prepare_config(read(path)))


@pytest.mark.parametrize("path", [AWS, ON_PREMISES], ids=lambda path: path.name)
def test_no_ray_starts_without_a_token_or_with_an_open_dashboard(path):
    config = read(path)
    assert any(target.endswith("/.ray/auth_token") for target in config["file_mounts"])
    for role in ("head", "worker"):
        (start,) = (line for line in config[f"{role}_start_ray_commands"] if "ray start" in line)
        assert "RAY_AUTH_MODE=token" in start
        assert ("--dashboard-host=127.0.0.1" in start) == (role == "head")


def test_what_is_mounted_is_there():
    for path in (AWS, ON_PREMISES):
        for source in read(path)["file_mounts"].values():
            assert source.startswith("~") or (ROOT / source).is_file()


def test_aws_workers_are_launched_from_zero_and_the_head_fits_nothing():
    config = read(AWS)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    (worker,) = types.values()
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    assert worker["resources"]["GPU"] == 1


def test_images_are_of_the_ray_that_is_required():
    (ray,) = re.findall(r"^ray\[.*\]>=([\d.]+),", (ROOT / "requirements.txt").read_text(), re.M)
    docker = read(AWS)["docker"]
    images = [docker["head_image"], docker["worker_image"]]
    images += re.findall(r"RAY=(.*)", (ROOT / "configs/clusters/Dockerfile").read_text())
    assert all(re.match(rf"(rayproject/ray:)?{re.escape(ray)}\.\d+-py311", i) for i in images)
    for path in KUBERAY:
        assert re.findall(r'rayVersion: "([\d.]+)\.\d+"', path.read_text()) == [ray]


def an_object(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, NUMBER, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
# Of KubeRay's custom resources (ray.io/v1, version 1.6), the fields that we use.
POD = an_object(
    ("spec",),
    spec=an_object(
        ("containers",),
        serviceAccountName=TEXT,
        containers={
            "type": "array",
            "items": an_object(
                ("name", "image"),
                name=TEXT,
                image=TEXT,
                resources=an_object(requests=TEXTS, limits=TEXTS),
            ),
        },
    ),
)
CLUSTER = an_object(
    ("headGroupSpec",),
    rayVersion=TEXT,
    authOptions=an_object(mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=an_object(idleTimeoutSeconds=NUMBER),
    headGroupSpec=an_object(
        ("template",),
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=TEXTS,
        template=POD,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": an_object(
            ("groupName", "template"),
            groupName=TEXT,
            replicas=NUMBER,
            minReplicas=NUMBER,
            maxReplicas=NUMBER,
            rayStartParams=TEXTS,
            template=POD,
        ),
    },
)
JOB = an_object(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=NUMBER,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=NUMBER,
    rayClusterSpec=CLUSTER,
)


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_kuberay_takes_the_file(path):
    resource = read(path)
    kinds = {"RayCluster": CLUSTER, "RayJob": JOB}
    schema = an_object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"enum": list(kinds)},
        metadata=an_object(("name",), name={"type": "string", "pattern": "^[a-z0-9-]{1,47}$"}),
        spec=kinds[resource["kind"]],
    )
    jsonschema.validate(resource, schema)
    spec = resource["spec"].get("rayClusterSpec", resource["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_the_job_on_kubernetes_is_a_command_of_ours(monkeypatch):
    import run_cluster

    monkeypatch.chdir(ROOT)
    entrypoint = read(ROOT / "configs" / "clusters" / "kuberay_job.yaml")["spec"]["entrypoint"]
    words = shlex.split(entrypoint.replace("zoo_ray/configs/", "configs/"))
    assert words[:3] == ["python", "zoo_ray/run_cluster.py", "train"]
    arguments = run_cluster._parser().parse_args(words[2:])
    config = run_cluster._config(arguments)
    assert (config.workers.gpus, config.workers.count) == (1, 4)
    assert config.store.startswith("s3://")
