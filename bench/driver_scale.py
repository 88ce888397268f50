"""What does the driver cost a member, where zoos and clusters are large?

    python bench/driver_scale.py --json

The driver's state machine (all but Ray and the store) grows a zoo with simulated workers that pull,
report 120 times a fit (twice a second for a minute), and whose predictions are made up.
Only CPU time within the state machine counts. The growth with tasks and with members comes from
smaller zoos, run after the large one.
"""

import argparse
import heapq
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from zoo_ray.cluster.desk import Desk
from zoo_ray.cluster.leases import Worker
from zoo_ray.members.spec import Recipe
from zoo_ray.rules import Rules
from zoo_ray.task import Predictions, TaskLabels
from zoo_ray.zoo.growth import Growth, Wanted

RECIPE = Recipe("small_conv", 5, 16, 0.01, 1e-5, True, True, "float32", 1)
CLASSES, TRAIN, TEST = 5, 500, 100
FIT_S = 60.0
REPORTS_PER_FIT = 120


class Cluster:
    """Simulated workers around a desk, and the CPU time that the desk takes."""

    def __init__(self, rules: Rules, *, workers: int) -> None:
        rng = np.random.default_rng(0)
        self._rng = rng
        self._tasks = [
            TaskLabels(
                str(number),
                tuple("abcde"),
                f"{number:064x}",
                rng.integers(0, CLASSES, TRAIN),
                rng.integers(0, CLASSES, 0),
                rng.integers(0, CLASSES, TEST),
            )
            for number in range(rules.tasks)
        ]
        self._skill = rng.normal(1.5, 0.7, rules.tasks)
        self._ends: list[tuple[float, int]] = []
        self._holds: dict[int, Wanted] = {}
        self._idle: set[int] = set()
        self.fitted = 0
        self.cpu_s = 0.0
        began = time.process_time()
        self._growth = Growth(tasks=self._tasks, rules=rules, recipe=RECIPE)
        self._desk = Desk(self._growth, speculate=True)
        self._team = [Worker(rank=i, id=str(i), node="", place=str(i)) for i in range(workers)]
        for worker in self._team:
            self._desk.leases.join(worker, now=0.0)
        self._look_up()
        self.cpu_s += time.process_time() - began
        self._idle = set(range(workers))
        self._lease(now=0.0)

    def grow(self, on_member) -> None:
        """Grow the zoo to its end."""
        desk, growth = self._desk, self._growth
        while not growth.finished:
            now, rank = heapq.heappop(self._ends)
            wanted = self._holds.pop(rank)
            digest = wanted.spec.digest
            predictions = [self._predictions(task) for task in wanted.tasks]
            self.fitted += 1
            began = time.process_time()
            desk.published(digest)
            if growth.may_want(digest):
                growth.deliver(digest, predictions, predictions_sha256=digest)
            self._look_up()
            left = self._report(now=now)
            self.cpu_s += time.process_time() - began
            if left:
                self._ends = [end for end in self._ends if end[1] not in left]
                heapq.heapify(self._ends)
            self._idle |= left | {rank}
            self._lease(now=now)
            on_member(rules_done(growth))

    def _look_up(self) -> None:
        while not self._growth.finished and (new := self._desk.to_look_up()):
            for wanted in new:
                self._desk.missing(wanted)

    def _report(self, *, now: float) -> set[int]:
        """As many reports as there are for each fit that ends; returns who left its fit."""
        left = set()
        for _ in range(min(REPORTS_PER_FIT, len(self._holds))):
            rank, wanted = next(iter(self._holds.items()))
            worker, digest = self._team[rank], wanted.spec.digest
            del self._holds[rank]
            self._desk.leases.claim(worker, digest, now=now)
            if self._desk.answer(worker, digest) == "go on":
                self._holds[rank] = wanted  # the last to report again
            else:
                self._desk.give_back(worker, digest)
                left.add(rank)
        return left

    def _lease(self, *, now: float) -> None:
        for rank in sorted(self._idle):
            began = time.process_time()
            wanted = self._desk.leases.take(self._team[rank], now=now)
            self.cpu_s += time.process_time() - began
            if wanted is None:
                break
            self._idle.discard(rank)
            self._holds[rank] = wanted
            heapq.heappush(self._ends, (now + FIT_S * self._rng.uniform(0.8, 1.2), rank))

    def _predictions(self, task: int) -> Predictions:
        labels = self._tasks[task]
        parts: Predictions = {}
        for part, samples in (("train", TRAIN), ("validation", 0), ("test", TEST)):
            logits = self._rng.normal(size=(samples, CLASSES)).astype(np.float32)
            logits[np.arange(samples), labels.labels(part)] += self._skill[task]
            odds = np.exp(logits)
            parts[part] = odds / odds.sum(axis=1, keepdims=True)
        return parts


def rules_done(growth: Growth) -> int:
    """Members of complete episodes."""
    return len(growth.episodes) * growth.rules.members_per_episode


def measure(rules: Rules, *, workers: int, console: Console) -> tuple[float, int]:
    """CPU milliseconds per member, and fits done."""
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task(f"{rules.tasks} tasks, {rules.members} members", total=rules.members)
        cluster = Cluster(rules, workers=workers)
        cluster.grow(lambda done: bars.update(bar, completed=done))
    return 1000 * cluster.cpu_s / rules.members, cluster.fitted


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the large zoo, and smaller ones beside it."""
    arguments = _parser().parse_args(argv)
    console = Console(stderr=True)
    tasks, workers = arguments.tasks, arguments.workers
    rules = Rules(tasks, "continual", arguments.tasks_per_member, arguments.members_per_episode, 0)
    half = max(rules.members_per_episode // 2, 1)
    zoos = {
        "as asked": rules,
        "half the tasks": replace(rules, tasks=max(tasks // 2, 1)),
        "half the members": replace(rules, members_per_episode=half),
    }
    table = Table("zoo", "tasks", "members", "fits", "ms per member")
    found = {}
    for name, zoo in zoos.items():
        ms, fits = measure(zoo, workers=workers, console=console)
        if name == "as asked":
            rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found[name] = ms
        console.print(f"{name}: {ms:.2f} ms per member, {fits} fits")
        table.add_row(name, str(zoo.tasks), str(zoo.members), str(fits), f"{ms:.2f}")
    console.print(table)
    ms = found["as asked"]
    console.print(
        f"twice the tasks: {ms / found['half the tasks']:.2f} times the time per member; "
        f"twice the members: {ms / found['half the members']:.2f} times"
    )
    result = {
        "ms_per_member": round(ms, 3),
        "members": rules.members,
        "tasks": tasks,
        "rss_mb": round(rss_mb),
    }
    if arguments.json:
        print(json.dumps(result))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--tasks-per-member", type=int, default=20)
    parser.add_argument("--members-per-episode", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="the result as stdout's last line")
    return parser


if __name__ == "__main__":
    sys.exit(main())
