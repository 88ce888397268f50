"""The driver: the actor that holds the zoo's state and leases specs to workers."""

import asyncio
import time

from zoo_ray.cluster.job import Job
from zoo_ray.cluster.leases import Leases
from zoo_ray.errors import UserError
from zoo_ray.members.member import FitProgress
from zoo_ray.progress import FitState, Progress, Work
from zoo_ray.replay import deliver, not_shared, read_stored
from zoo_ray.store import Store
from zoo_ray.zoo.growth import Growth, Wanted

_LOOK_UPS = 10


class Driver:
    """Grows a zoo with a group of workers that pull specs.

    It keeps nothing that the store and its job cannot rebuild: restarted, it reads the store and
    goes on. Store I/O runs in threads, so that it always answers.
    """

    def __init__(self) -> None:
        # No arguments: those of an actor that restarts would have to outlive its creator.
        self._started = asyncio.Event()
        self._changed = asyncio.Condition()
        self._advancing = asyncio.Lock()
        self._running: asyncio.Task[str | None] | None = None

    def _begin(self, job: Job) -> None:
        self._job = job
        self._store = Store(job.store)
        self._growth = Growth(tasks=job.tasks, rules=job.rules, recipe=job.recipe)
        self._leases = Leases()
        self._looked_up: set[str] = set()
        self._fit_progress: dict[str, FitProgress] = {}
        self._work: Work | None = None
        self._fitted: set[str] = set()
        self._first_fit: float | None = None
        self._error: str | None = None
        self._started.set()

    # ---- for the entrypoint

    async def run(self, job: Job) -> str | None:
        """Grow a zoo to its end. Asked again, it waits for the same end.

        Returns:
            None if the zoo is complete, else a line for people that says why not.
        """
        if self._running is None:
            self._begin(job)
            self._running = asyncio.create_task(self._run())
        return await asyncio.shield(self._running)

    async def progress(self) -> Progress | None:
        """How far the run is; None while the store is still being read."""
        if not self._started.is_set() or self._work is None:
            return None
        fits = tuple(
            FitState.of(
                wanted,
                self._growth,
                worker=f"worker {rank}",
                progress=self._fit_progress.get(wanted.spec.digest),
            )
            for rank, wanted in self._leases.held().items()
        )
        return self._work.progress(fitted=len(self._fitted), first_fit=self._first_fit, fits=fits)

    # ---- for workers

    async def lease(self, rank: int, worker: str) -> Wanted | None:
        """The spec that a worker is to fit next; waits for one, and is None when all is over.

        Args:
            rank: of the worker in its group.
            worker: unique to the worker's process.
        """
        await self._started.wait()
        async with self._changed:  # from the look to the wait: no offer may come in between
            while not self._over() and not self._leases.is_gone(worker):
                wanted = self._leases.take(rank=rank, worker=worker)
                if wanted is not None:
                    self._first_fit = self._first_fit or time.time()
                    return wanted
                if lost := self._leases.lost_too_often():
                    self._error = f"{lost.name}: its workers ended each time it was fitted"
                    self._changed.notify_all()
                    return None
                await self._changed.wait()
        return None

    async def report(self, digest: str, progress: FitProgress) -> None:
        """Note how far a fit is."""
        await self._started.wait()
        self._fit_progress[digest] = progress

    async def published(self, digest: str) -> None:
        """Fold in a member that a worker has published."""
        await self._started.wait()
        self._fitted.add(digest)
        self._leases.end(digest)
        self._fit_progress.pop(digest, None)
        for _ in range(_LOOK_UPS):
            if await self._deliver(digest):
                await self._advance()
                return
            if self._over():
                return
            await asyncio.sleep(1)  # a shared folder may show a file late on other nodes
        await self._end(not_shared(self._store))

    async def failed(self, digest: str, message: str) -> None:
        """End the run, since a fit has no usable result."""
        await self._started.wait()
        names = [wanted.name for wanted in self._growth.wanted() if wanted.spec.digest == digest]
        await self._end(": ".join([*names, message]))

    # ---- within

    def _over(self) -> bool:
        return self._growth.finished or self._error is not None

    async def _run(self) -> str | None:
        await self._advance()
        self._work = Work(self._growth)
        if not self._over():
            group = asyncio.create_task(self._fit_with_workers())
            async with self._changed:
                await self._changed.wait_for(self._over)
            if self._error is None:
                # The workers' calls for another lease are answered now, so they end at once.
                await asyncio.wait({group}, timeout=30)
        return self._error

    async def _fit_with_workers(self) -> None:
        import ray

        from zoo_ray.cluster.workers import run_group  # imports Ray Train, which takes a second

        this_actor = ray.get_runtime_context().current_actor
        try:
            await asyncio.to_thread(run_group, self._job, this_actor)
            problem = "nothing is known of why"
        except Exception as error:  # whatever it is, nobody fits any more
            problem = f"{type(error).__name__}: {error}"
        if not self._over():
            await self._end(f"the workers ended: {problem}")

    async def _advance(self) -> None:
        """Look up each newly wanted member in the store; offer those that are not there."""
        async with self._advancing:
            while new := [w for w in self._growth.wanted() if w.spec.digest not in self._looked_up]:
                for wanted in new:
                    digest = wanted.spec.digest
                    self._looked_up.add(digest)
                    # While the store was asked, a worker may have published it.
                    if not await self._deliver(digest) and self._growth.wants(digest):
                        async with self._changed:
                            self._leases.offer(wanted)
                            self._changed.notify()
        async with self._changed:
            self._changed.notify_all()

    async def _deliver(self, digest: str) -> bool:
        try:
            stored = await asyncio.to_thread(read_stored, self._store, digest)
        except UserError as error:
            await self._end(str(error))
            return False
        except Exception as error:  # the run must not wait for ever for a member that cannot come
            await self._end(f"reading a member: {type(error).__name__}: {error}")
            return False
        # Here and not in the thread: the zoo is only ever touched by the event loop.
        return deliver(self._growth, self._store, digest, stored)

    async def _end(self, error: str) -> None:
        self._error = self._error or error
        async with self._changed:
            self._changed.notify_all()
