"""Kill anything, at any time: every disturbed run must end in the undisturbed run's digest.

    python tests/chaos/chaos.py --rounds 20

Each round grows a zoo on a cluster of two nodes with one worker each, kills -9 one thing (a worker,
the driver, the entrypoint, or the second node's raylet) at a time drawn uniformly between the first
lease and the last publication, and gives the same command again if that ended it. It fails unless
the digest is the undisturbed one, no finished member was fitted again, and nothing of the run is
left on the cluster.
"""

import argparse
import json
import math
import os
import random
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from processes import free_ports, pids_of  # noqa: E402

FAULTS = ("worker", "driver", "entrypoint", "node")
# Digits, as they need no files; checkpoints every second.
KEYS = {
    "benchmark.tasks": [[0, 1], [2, 3], [4, 5], [6, 7]],
    "workers.count": 2,
    "workers.checkpoint_s": 1,
}
POLL_S = 0.1
LEAST_FIT_S = 5.0
"""A fit must last longer than what is done to it."""


@dataclass
class Round:
    """What a run went through.

    Attributes:
        fault: what was to be killed; None: nothing.
        after_s: when, in seconds after the first lease.
        struck: whether it was: it may have been gone, or the run over.
        wall_s: from the first lease to the end, whatever came in between.
        published_s: from the first lease to the last publication.
        commands: how often the command was given.
        digest: of the zoo.
        finished_at_fault: members that were finished then.
        refitted: members that were fitted again though they were finished.
        resumed: members whose fit went on from a checkpoint.
        shortest_fit_s: of the members fitted in one go.
        left: what was left on the cluster.
    """

    fault: str | None
    after_s: float | None = None
    struck: bool = False
    wall_s: float = 0.0
    published_s: float = 0.0
    commands: int = 0
    digest: str = ""
    finished_at_fault: int = 0
    refitted: int = 0
    resumed: int = 0
    shortest_fit_s: float = 0.0
    left: list[str] = field(default_factory=list)


class Arena:
    """A cluster of two nodes on this machine, one worker each. A context manager."""

    def __enter__(self) -> "Arena":
        # One token for all processes of the cluster and all that talk to it.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        from zoo_ray.cluster.session import _quiet

        _quiet()
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "include_dashboard": True,
                "dashboard_port": free_ports(1)[0],
                "object_store_memory": 200_000_000,
            },
        )
        self._second = self._add_node()
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        """Of the head."""
        return self._cluster.address

    def strike(self, fault: str, *, entrypoint: subprocess.Popen) -> bool:
        """Kill something; returns whether it was there."""
        if fault == "entrypoint":
            entrypoint.kill()
            return True
        if fault == "node":
            self._cluster.remove_node(self._second, allow_graceful=False)
            return True
        title = {"worker": "ray::RayTrainWorker", "driver": "ray::RunDriver"}[fault]
        pids = pids_of(title)
        if pids:
            os.kill(random.choice(pids), signal.SIGKILL)
        return bool(pids)

    def mend(self, fault: str | None) -> None:
        """Bring the second node back."""
        if fault == "node":
            self._second = self._add_node()

    def left(self) -> list[str]:
        """Actors and reservations that are there when no run is, after time enough to go."""
        from ray.util.state import list_actors, list_placement_groups

        deadline = time.monotonic() + 20
        while True:
            actors = list_actors(address=self.address)
            groups = list_placement_groups(address=self.address)
            left = [
                f"actor {actor.class_name}"
                for actor in actors
                # Ray Train's own, one for all jobs of a cluster.
                if actor.state != "DEAD" and actor.class_name != "_AutoscalingCoordinatorActor"
            ]
            left += [f"reservation {g.state}" for g in groups if g.state != "REMOVED"]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.5)

    def _add_node(self) -> object:
        return self._cluster.add_node(num_cpus=1, object_store_memory=200_000_000)


def grow(
    arena: Arena, *, epochs: int, fault: str | None = None, after_s: float | None = None
) -> Round:
    """Grow a zoo in a new store, disturbed once."""
    found = Round(fault, after_s)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        seen = _Store(store)
        command = [sys.executable, "run_cluster.py", "train", "configs/quickstart.yaml", "--json"]
        command += ["--address", arena.address, "--store", str(store)]
        command += [f"--set=recipe.epochs={epochs}"]
        command += [f"--set={key}={json.dumps(value)}" for key, value in KEYS.items()]
        while True:
            found.commands += 1
            with (Path(folder) / "stderr").open("w+") as errors:
                entrypoint = subprocess.Popen(
                    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
                )
                while entrypoint.poll() is None:
                    time.sleep(POLL_S)
                    seen.look()
                    is_due = seen.first_lease and time.time() - seen.first_lease > (after_s or 0)
                    if fault and not found.struck and is_due:
                        found.finished_at_fault = len(seen.finished)
                        found.struck = arena.strike(fault, entrypoint=entrypoint)
                output = entrypoint.communicate()[0]
                errors.seek(0)
                problem = errors.read()
            if entrypoint.returncode == 0:
                break
            if fault is None or found.commands > 3:
                raise SystemExit(f"{fault or 'undisturbed'}: {problem}")
        found.digest = json.loads(output.splitlines()[-1])["digest"]
        found.wall_s = time.time() - seen.first_lease
        found.published_s = max(seen.finished.values()) - seen.first_lease
        found.refitted = len(seen.refitted)
        pointers = [json.loads(path.read_text()) for path in store.glob("members/*/member.json")]
        found.resumed = sum(pointer["first_step"] > 0 for pointer in pointers)
        found.shortest_fit_s = min(
            (pointer["fit_s"] for pointer in pointers if not pointer["first_step"]), default=0.0
        )
    found.left = arena.left()
    arena.mend(fault)
    return found


class _Store:
    """What can be seen of a run from its store's files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.first_lease: float | None = None
        self.finished: dict[str, float] = {}
        self.refitted: set[str] = set()

    def look(self) -> None:
        """Take note of what is there."""
        fitting = {path.parent.name for path in self._folder.glob("progress/*/*.safetensors")}
        if fitting and self.first_lease is None:
            self.first_lease = time.time() - KEYS["workers.checkpoint_s"]
        for path in self._folder.glob("members/*/member.json"):
            self.finished.setdefault(path.parent.name, time.time())
        # A member's checkpoints go when it is published; who makes new ones fits it again.
        self.refitted |= {d for d in fitting if time.time() - self.finished.get(d, 1e12) > 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Run rounds, print what each cost, and say whether all held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the result as stdout's last line")
    arguments = parser.parse_args(argv)
    random.seed(arguments.seed)
    # Each kind equally often, in random order.
    faults = [FAULTS[number % len(FAULTS)] for number in range(arguments.rounds)]
    random.shuffle(faults)
    with Arena() as arena:
        epochs = 20
        while (undisturbed := grow(arena, epochs=epochs)).shortest_fit_s < LEAST_FIT_S:
            epochs = math.ceil(1.2 * epochs * LEAST_FIT_S / undisturbed.shortest_fit_s)
        _tell(undisturbed)
        rounds = []
        for fault in faults:
            struck = False
            while not struck:  # a run may be over a little earlier than the undisturbed one
                after_s = random.uniform(0, undisturbed.published_s)
                rounds.append(grow(arena, epochs=epochs, fault=fault, after_s=after_s))
                struck = rounds[-1].struck
                _tell(rounds[-1])
    result = summary(undisturbed, rounds)
    print(json.dumps(result, indent=None if arguments.json else 2))
    return 0 if result["held"] else 1


def summary(undisturbed: Round, rounds: Sequence[Round]) -> dict:
    """What came out: whether every promise held, and the median seconds each fault cost."""
    held = [
        found.digest == undisturbed.digest and not found.refitted and not found.left
        for found in rounds
    ]
    lost_s = {
        fault: [
            found.wall_s - undisturbed.wall_s
            for found in rounds
            if found.fault == fault and found.struck
        ]
        for fault in FAULTS
    }
    return {
        "held": all(held) and not undisturbed.left,
        "rounds": sum(found.struck for found in rounds),
        "undisturbed_s": round(undisturbed.wall_s, 1),
        "shortest_fit_s": round(undisturbed.shortest_fit_s, 1),
        "refitted": sum(found.refitted for found in rounds),
        "resumed": sum(found.resumed for found in rounds),
        "faults": {
            fault: {
                "count": len(lost),
                "lost_s": round(statistics.median(lost), 1),
                "most_lost_s": round(max(lost), 1),
            }
            for fault, lost in lost_s.items()
            if lost
        },
    }


def _tell(found: Round) -> None:
    print(json.dumps(asdict(found)), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
