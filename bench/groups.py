"""How should a run's workers be grouped in Ray Train, where nodes come and go?

    python bench/groups.py --json

Four ways, each on a cluster of its own: one group that restarts as a whole, one elastic group, one
group of replicas, and a group of replicas for each node, which is ours. The cluster is of real
Ray nodes, all on this machine: a head without CPUs and two nodes with two each. The workers are
real too, but sleep where ours would fit. Then, one after another: a worker is killed, a node is
lost, a node takes its place, and one more joins. Measured after each: worker seconds that stay
idle though a node has room for them, seconds until all work, fits that are cut short though their
worker was not touched, and the share of a processor that Ray Train's controllers take.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from processes import free_ports  # noqa: E402

ROWS = {
    "one": "one group, restarted as a whole",
    "elastic": "one elastic group",
    "replicas": "one group of replicas",
    "per_node": "a group of replicas for each node (ours)",
}
OURS = "per_node"
EVENTS = {
    "start": "start",
    "killed": "a worker is killed",
    "lost": "a node is lost",
    "replaced": "a node takes its place",
    "joined": "one more joins",
}
CPUS = 2
MOST = 3 * CPUS
TICK_S = 0.1
# A worker that did not tick for so long is gone, or was told to be.
GONE_S = 1.5


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one way, or each in a process of its own."""
    arguments = _parser().parse_args(argv)
    if arguments.row:
        print(json.dumps(measure(arguments.row, settle_s=arguments.settle_s)))
        return 0
    found = {}
    for row in ROWS:
        print(f"{ROWS[row]} ...", file=sys.stderr)
        command = [sys.executable, __file__, "--row", row, f"--settle-s={arguments.settle_s}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[row] = json.loads(done.stdout.splitlines()[-1])
    idle_s = {row: sum(event["idle_s"] for event in found[row].values()) for row in ROWS}
    result = {
        "idle_s": {row: round(total, 1) for row, total in idle_s.items()},
        "ratio": round(min(idle_s[row] for row in ROWS if row != OURS) / idle_s[OURS], 2),
        "rows": found,
    }
    if arguments.json:
        print(json.dumps(result))
    else:
        _show(found, idle_s)
    return 0


def _show(found: dict[str, dict[str, dict[str, Any]]], idle_s: dict[str, float]) -> None:
    table = Table("way", "event", "idle, worker s", "all back, s", "fits cut", "controllers, % CPU")
    for row, events in found.items():
        for event, seen in events.items():
            full = f"never ({seen['workers']} of {seen['room']})"
            if seen["full_s"] is not None:
                full = f"{seen['full_s']:.1f}"
            table.add_row(
                ROWS[row] if event == "start" else "",
                EVENTS[event],
                f"{seen['idle_s']:.1f}",
                full,
                str(seen["fits_cut"]),
                f"{seen['controllers_cpu_percent']:.0f}",
            )
        table.add_row("", "in all", f"{idle_s[row]:.1f}", end_section=True)
    Console().print(table)


def measure(row: str, *, settle_s: float) -> dict[str, dict[str, Any]]:
    """What happens to the workers of one way of grouping them."""
    import ray
    from ray.cluster_utils import Cluster

    from zoo_ray.cluster.session import _quiet

    _quiet()
    dashboard, agent = free_ports(2)  # by default the same for every Ray
    head = {
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_port": dashboard,
        "dashboard_agent_listen_port": agent,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    # Else Ray's helpers ask whichever was last started on this machine.
    os.environ["RAY_ADDRESS"] = cluster.address
    nodes = [cluster.add_node(num_cpus=CPUS) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    at_head = {"node:__internal_head__": 0.001}
    watch = ray.remote(_Watch).options(num_cpus=0, resources=at_head).remote()
    stop = threading.Event()
    found: dict[str, dict[str, Any]] = {}
    controllers = _Controllers()

    def living() -> dict[str, tuple[str, int]]:
        workers: dict[str, tuple[str, int]] = ray.get(watch.living.remote())
        return workers

    def after(event: str, do: Callable[[], list[str] | None], *, room: int) -> None:
        """Do something to the cluster, which may take workers, and see what becomes of others."""
        before = set(living())
        cpu_s = controllers.cpu_s()
        began = last = time.monotonic()
        taken = set(do() or ())
        idle_s, full_s = 0.0, None
        while last - began < settle_s:
            time.sleep(TICK_S)
            working = len(living().keys() - taken)
            now = time.monotonic()
            idle_s += max(room - working, 0) * (now - last)
            last = now
            if working < room:
                full_s = None
            elif full_s is None:
                full_s = round(now - began, 1)
        found[event] = {
            "idle_s": round(idle_s, 1),
            "full_s": full_s,
            "workers": working,
            "room": room,
            "fits_cut": len(before - living().keys() - taken),
            "controllers_cpu_percent": round(100 * (controllers.cpu_s() - cpu_s) / (last - began)),
        }
        print(f"  {EVENTS[event]}: {found[event]}", file=sys.stderr)

    def kill_one() -> list[str]:
        process, (_, pid) = next(iter(living().items()))
        os.kill(pid, signal.SIGKILL)
        return [process]

    def lose_one() -> list[str]:
        node = nodes.pop()
        taken = [process for process, (where, _) in living().items() if where == node.node_id]
        cluster.remove_node(node, allow_graceful=False)
        return taken

    def add() -> None:
        nodes.append(cluster.add_node(num_cpus=CPUS))

    after("start", lambda: _start(row, watch, stop), room=2 * CPUS)
    after("killed", kill_one, room=2 * CPUS)
    after("lost", lose_one, room=CPUS)
    after("replaced", add, room=2 * CPUS)
    after("joined", add, room=3 * CPUS)
    stop.set()
    # Groups without a place never end; they go with this process and its cluster.
    ray.shutdown()
    with contextlib.suppress(Exception):
        cluster.shutdown()
    return found


class _Watch:
    """Hears from the workers."""

    def __init__(self) -> None:
        self._lives: dict[str, tuple[float, str, int]] = {}

    def tick(self, process: str, node: str, pid: int) -> None:
        """A worker is at work."""
        self._lives[process] = time.monotonic(), node, pid

    def living(self) -> dict[str, tuple[str, int]]:
        """Node and pid of those that were heard of a moment ago."""
        since = time.monotonic() - GONE_S
        return {
            process: (node, pid)
            for process, (last, node, pid) in self._lives.items()
            if last > since
        }


def _sleep(config: dict[str, Any]) -> None:
    """A worker that sleeps instead of fitting."""
    import ray

    process, node = uuid.uuid4().hex, ray.get_runtime_context().get_node_id()
    while True:
        ray.get(config["driver"].tick.remote(process, node, os.getpid()))
        time.sleep(TICK_S)


def _start(row: str, watch: Any, stop: threading.Event) -> None:
    """Start the groups, from threads, as a run does; our own code, but for what differs."""
    from ray.train.backend import BackendConfig

    from zoo_ray.cluster import workers
    from zoo_ray.cluster.job import Job
    from zoo_ray.cluster.session import _Groups
    from zoo_ray.offer import WorkerPlan

    workers.pull = _sleep
    plan = WorkerPlan(count=2 * CPUS, cpus=1, gpus=0, fits=1)
    job = Job("runs/x", "/nowhere", "x", (), plan, MOST, False, 10, 10)
    if row == "per_node":
        groups = _Groups(job, watch)

        def welcome() -> None:
            while not stop.wait(0.5):
                groups.welcome()

        threading.Thread(target=welcome, daemon=True).start()
        return
    if row != "replicas":
        workers._IndependentWorkers = BackendConfig
    size: Any = (1, MOST) if row == "elastic" else 2 * CPUS
    group = {"job": job, "driver": watch, "first_rank": 0, "size": size, "over": stop}
    threading.Thread(target=workers.run_group, kwargs=group, daemon=True).start()


class _Controllers:
    """The controllers of Ray Train's that this process's Ray has, or had."""

    def __init__(self) -> None:
        self._ticks: dict[int, int] = {}

    def cpu_s(self) -> float:
        """CPU seconds of them all, as far as those that ended were seen."""
        from ray.util.state import list_actors

        for actor in list_actors(filters=[("class_name", "=", "TrainController")]):
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{actor.pid}/stat").read_text().rpartition(")")[2].split()
                self._ticks[actor.pid] = int(stat[11]) + int(stat[12])
        return sum(self._ticks.values()) / os.sysconf("SC_CLK_TCK")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", choices=list(ROWS), help="one way alone, as JSON")
    parser.add_argument("--settle-s", type=float, default=30, help="how long each event is watched")
    parser.add_argument("--json", action="store_true", help="the result as stdout's last line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
