"""A cluster of several hosts, from `ray up` to `ray down`, by what docs/cluster.md tells a user."""

import json
import re
import subprocess
import time

import pytest
import yaml
from hosts import ROOT, SHARED, Hosts, why_not
from processes import wait_until

from zoo_ray.config import read_config
from zoo_ray.run import grow

pytestmark = pytest.mark.slow

ON_PREMISES = ROOT / "configs" / "clusters" / "on_premises.yaml"
QUICKSTART = "configs/quickstart.yaml"
URL = "http://127.0.0.1:8265"  # of the tunnel that `ray dashboard` makes
# Long enough that a host dies in the middle of fits, with checkpoints to go on from.
KEYS = {"recipe.epochs": 15, "workers.checkpoint_s": 1}
ASK = f"import urllib.request; urllib.request.urlopen('{URL}/api/jobs/')"


@pytest.fixture
def hosts():
    if reason := why_not():
        pytest.skip(reason)
    with Hosts(3) as hosts:
        yield hosts


def cluster_file(hosts):
    """The on-premises file for these hosts: their addresses, the ssh user and key, and packages
    that are there; small, as they are all this machine."""
    config = yaml.safe_load(ON_PREMISES.read_text())
    head, *workers = hosts.addresses
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"]["ssh_user"] = "root"
    config["setup_commands"] = [c for c in config["setup_commands"] if "pip install" not in c]
    assert len(config["setup_commands"]) == 3
    for role, cpus in (("head", 0), ("worker", 1)):
        small = f"ray start --num-cpus={cpus} --object-store-memory=100000000 "
        key = f"{role}_start_ray_commands"
        config[key] = [command.replace("ray start ", small) for command in config[key]]
    text = yaml.safe_dump(config)
    assert hosts.run("bash", "-c", 'echo "$0" > /tmp/cluster.yaml', text).returncode == 0
    return "/tmp/cluster.yaml"


def zoo(hosts, *words, code=0):
    """Runs a command of ours on the laptop."""
    done = hosts.run("python", "run_cluster.py", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_a_zoo_grows_on_hosts_of_which_one_dies(hosts, tmp_path):
    began = time.monotonic()

    def tell(what):
        print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)

    file = cluster_file(hosts)
    # The machine is not to be touched: what `ray stop` sees is within the hosts.
    assert "raylet" not in hosts.run("ps", "-A").stdout
    assert hosts.run("ray", "get-auth-token", "--generate").returncode == 0
    up = hosts.run("ray", "up", "--yes", "--no-config-cache", file)
    assert up.returncode == 0, up.stdout + up.stderr
    tell("ray up")
    tunnel = hosts.start(
        *("ray", "dashboard", file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # A request without the token is refused.
    wait_until(lambda: "HTTP Error 401" in hosts.run("python", "-c", ASK).stderr)

    def nodes():
        ask = "bash -ic 'RAY_AUTH_MODE=token ray list nodes --format json'"
        listed = re.search(r"^\[.*\]", hosts.on(hosts.addresses[0], ask).stdout, re.S | re.M)
        return [node["state"] for node in json.loads(listed[0])] if listed else []

    wait_until(lambda: nodes().count("ALIVE") == 3, seconds=240)
    tell("three hosts")

    store = f"{SHARED}/zoos"
    overrides = [f"--set={key}={value}" for key, value in KEYS.items()]
    train = ["train", QUICKSTART, "--store", store, "--workers", "2", *overrides, "--json"]
    job = json.loads(zoo(hosts, "submit", "--json", "--", *train))["id"]
    tell(f"submitted {job}")

    # Both fit, far from the end, and have left checkpoints.
    wait_until(lambda: len(found(hosts, f"{store}/progress", "*.safetensors")) >= 2, seconds=240)
    for address in hosts.addresses[1:]:
        assert hosts.on(address, "pgrep -fc ^ray::RayTrainWorker").stdout == "1\n"
    hosts.cut_off(hosts.addresses[2])
    finished = found(hosts, f"{store}/members", "member.json")
    assert len(finished) < 4
    tell(f"a host is dead, {len(finished)} members finished")

    log = zoo(hosts, "logs", "-f", job)
    tell("the zoo is grown")
    result = json.loads(next(line for line in log.splitlines() if line.startswith("{")))
    assert (result["read"], result["fitted"]) == (0, 5)
    (state,) = json.loads(zoo(hosts, "jobs", "--json"))["jobs"]
    assert (state["state"], state["done"]) == ("succeeded", "episode 5/5")
    resumed = [
        json.loads(hosts.run("cat", path).stdout)["first_step"]
        for path in found(hosts, f"{store}/members", "member.json")
    ]
    assert any(resumed), "the dead host's fit went on from its checkpoint"

    down = hosts.run("ray", "down", "--yes", file)
    tell("ray down")
    assert down.returncode == 0, down.stdout + down.stderr
    # The head's Ray is stopped; the other host's ends when it has missed the head for a minute.
    wait_until(
        lambda: (
            not any(
                int(hosts.on(address, "pgrep -c raylet").stdout) for address in hosts.addresses[:2]
            )
        ),
        seconds=180,
    )
    tell("no Ray is left")
    tunnel.kill()
    tunnel.wait()

    values = KEYS | {"workers.count": 0, "store": str(tmp_path)}
    here = read_config(
        ROOT / QUICKSTART, overrides=[f"{key}={value}" for key, value in values.items()]
    )
    assert result["digest"] == grow(here, name="quickstart").growth.digest()


def found(hosts, folder, name):
    """Paths of the files of a name in a folder that all hosts see."""
    return hosts.run("find", folder, "-name", name).stdout.split()
