"""Record how zoos grow: every member's predictions on the training parts, and its fit's time.

    python bench/record.py bench/streams/short.yaml recordings/short --seeds 5

`bench/schedule.py` replays the recordings. Two zoos are grown at a time, each in one process.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recording import RecordedMember, Recording

from zoo_ray.config import read_config
from zoo_ray.members.fit import fit
from zoo_ray.plan import plan_run
from zoo_ray.task import Part, Task


def main(argv: Sequence[str] | None = None) -> int:
    """Grow the zoos that are not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="a run's configuration")
    parser.add_argument("folder", type=Path, help="where the recordings go")
    parser.add_argument("--tasks-per-member", type=int, nargs="+", default=[5, 2], metavar="B")
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    zoos = [(b, seed) for seed in range(arguments.seeds) for b in arguments.tasks_per_member]
    work = partial(record, arguments.config, arguments.folder, tuple(arguments.set))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for line in pool.map(work, zoos):
            print(line, file=sys.stderr, flush=True)
    return 0


def record(config: Path, folder: Path, overrides: Sequence[str], zoo: tuple[int, int]) -> str:
    """Grow and record one zoo; returns a line for people."""
    b, seed = zoo
    path = folder / f"b{b}-seed{seed}.npz"
    if path.exists():
        return f"{path}: is there"
    settings = [f"zoo.tasks_per_member={b}", f"zoo.seed={seed}", "workers.count=0"]
    plan = plan_run(read_config(config, overrides=[*settings, *overrides]))
    # A replay looks at training parts alone.
    tasks = [replace(task, validation=_none(task), test=_none(task)) for task in plan.tasks]
    recording = Recording([task.without_images() for task in tasks], plan.rules, plan.recipe, {})
    growth = recording.growth()
    while not growth.finished:
        wanted = growth.wanted()[0]
        digest = wanted.spec.digest
        member = fit(spec=wanted.spec, tasks=[tasks[position] for position in wanted.tasks])
        recording.members[digest] = RecordedMember(
            [prediction["train"] for prediction in member.predictions], member.fit_s
        )
        recording.deliver(growth, digest)
    recording.save(path)
    mean = growth.episodes[-1].losses.mean()
    return f"{path}: mean loss {mean:.3f}, relative spread {recording.spread():.2f}"


def _none(task: Task) -> Part:
    return Part(task.test.images[:0], task.test.labels[:0])


if __name__ == "__main__":
    sys.exit(main())
