"""A driver of many zoos, whose workers fit for all of them."""

import asyncio
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from zoo_ray.cluster.driver import Driver
from zoo_ray.cluster.job import Job
from zoo_ray.cluster.session import work
from zoo_ray.errors import without_credentials
from zoo_ray.failures import FailedFit, record_failure
from zoo_ray.members.spec import Recipe
from zoo_ray.progress import SearchProgress
from zoo_ray.rules import Rules
from zoo_ray.task import Task
from zoo_ray.zoo.growth import Growth, Wanted


@dataclass(frozen=True)
class ZooJob:
    """A zoo: which members it has, how each is fitted, and the order in which the job's tasks
    arrive, by position."""

    rules: Rules
    recipe: Recipe
    arrivals: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class ZoosJob(Job):
    """What the driver of a comparison is told.

    Attributes:
        zoos: to grow; members of the first ones are fitted first.
    """

    zoos: Sequence[ZooJob]


class ZoosDriver(Driver):
    """Grows zoos in groups, called trials: a member that cannot be fitted ends all of a trial."""

    def _begin(self, job: Job, seen: SearchProgress | None) -> None:
        super()._begin(job, seen)
        self._zoos: dict[int, list[Growth]] = {}
        self._problems: dict[int, str] = {}
        self._failed: dict[str, str] = {}
        self._needed_ever: set[str] = set()

    async def progress(self) -> SearchProgress | None:
        """What is being fitted."""
        if not self._started.is_set():
            return None
        return SearchProgress(
            members_done=len(self._taken),
            waiting=self._leases.waiting,
            first_fit=self._first_fit,
            fits=self._fits(),
            problems=dict(self._problems),
        )

    def _take_in(self, trial: int, zoos: Sequence[ZooJob]) -> None:
        """Have a trial more; specs of trials of lower numbers are fitted first."""
        growths = [
            Growth(
                tasks=[self._job.tasks[task] for task in zoo.arrivals],
                rules=zoo.rules,
                recipe=zoo.recipe,
                score_test=False,
            )
            for zoo in zoos
        ]
        self._zoos[trial] = growths
        for number, growth in enumerate(growths):
            self._desk.add(growth, turn=(trial, number))
        self._drop_problems()

    def _forget(self, trial: int) -> None:
        for number in range(len(self._zoos.pop(trial, []))):
            self._desk.remove((trial, number))

    def _needed(self) -> Set[str]:
        for growths in self._zoos.values():
            self._needed_ever.update(*(growth.certain for growth in growths))
        return self._needed_ever

    async def _run(self) -> str | None:
        # What was claimed before, by trials that have ended or by another command, stays claimed.
        self._needed_ever.update(await asyncio.to_thread(self._store.read_wanted, self._job.folder))
        return await super()._run()

    async def _fail(self, wanted: Wanted, failed: FailedFit) -> None:
        """A spec that cannot be fitted ends the trials that want it, now or later; not the
        others."""
        digest = wanted.spec.digest
        line = await asyncio.to_thread(
            record_failure,
            self._store,
            folder=self._job.folder,
            wanted=wanted,
            failed=failed,
            of=digest[:12],
        )
        self._failed[digest] = without_credentials(" ".join(line.split()))
        self._leases.end(digest, "failed")
        await self._end_trials(digest)

    async def _heed_problems(self) -> None:
        if self._drop_problems():
            await self._notify()

    def _drop_problems(self) -> list[int]:
        """End the trials whose zoos cannot grow on."""
        stuck = {t: g.problem for t, zoos in self._zoos.items() for g in zoos if g.problem}
        for trial, problem in stuck.items():
            self._problems[trial] = problem
            self._forget(trial)
        return list(stuck)

    async def _missing(self, wanted: Wanted) -> None:
        if wanted.spec.digest in self._failed:
            await self._end_trials(wanted.spec.digest)
        else:
            await super()._missing(wanted)

    async def _end_trials(self, digest: str) -> None:
        """End the trials that want a member that cannot be fitted."""
        for trial in {turn[0] for turn in self._desk.who_wants(digest)}:
            self._problems[trial] = self._failed[digest]
            self._forget(trial)
        await self._notify()


class CompareDriver(ZoosDriver):
    """The driver of a comparison: it grows the zoos of its job, each by itself."""

    def _begin(self, job: ZoosJob, seen: SearchProgress | None) -> None:  # type: ignore[override]
        super()._begin(job, seen)
        for number, zoo in enumerate(job.zoos):
            self._take_in(number, [zoo])

    async def progress(self) -> SearchProgress | None:
        """What is being fitted, and which zoos are grown."""
        progress = await super().progress()
        return progress and replace(progress, grown=self._grown())

    def _grown(self) -> list[int]:
        return [number for number, zoos in self._zoos.items() if all(g.finished for g in zoos)]

    def _over(self) -> bool:
        return len(self._grown()) == len(self._zoos) or self._error is not None


def grow_zoos(
    job: ZoosJob, *, tasks: Sequence[Task], on_progress: Callable[[SearchProgress], None]
) -> dict[int, str]:
    """Grow zoos on the joined cluster, or on a local Ray, sharing workers and members.

    Args:
        job: what to do; its store is one that every node sees.
        tasks: the stream.
        on_progress: called about twice a second.

    Returns:
        Why those that could not be grown could not, by their positions.

    Raises:
        UserError: the workers ended early, a worker cannot work, the store fails, or another
            command is at this comparison.
    """
    seen: Any = work(job, CompareDriver, tasks=tasks, on_progress=on_progress)
    return dict(seen.problems) if seen else {}
