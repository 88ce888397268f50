"""The driver: the actor that holds the zoo's state and leases specs to workers."""

import asyncio
import time

import ray

from zoo_ray.claims import Claims
from zoo_ray.cluster.desk import Desk
from zoo_ray.cluster.health import end, is_alive, is_dead, worker_log
from zoo_ray.cluster.job import Job
from zoo_ray.cluster.leases import MAX_LOST_FITS, Answer, Worker
from zoo_ray.errors import UserError
from zoo_ray.failures import FailedFit, record_failure
from zoo_ray.members.member import FitProgress
from zoo_ray.progress import NONE, FitState, Progress, Speculative, Work
from zoo_ray.replay import drop, fold, not_shared
from zoo_ray.store import CorruptMember, Store
from zoo_ray.zoo.growth import Growth, Wanted

_LOOK_UPS = 10
# Workers report about twice a second: after so long, all that live have said what they hold.
_ALL_HEARD_S = 2.0
_REPORTED_S = 1.0
# Look-ups under way at a time: one for a certain member should not wait for hundreds of others.
_LOOK_UPS_AT_ONCE = 16
# After so long without a report, a worker is asked after: its successor may be long in coming.
_QUIET_S = 3.0
_WATCH_S = 1.0


class Driver:
    """Grows a zoo with a group of workers that pull specs.

    It keeps nothing that the store, its job and its workers cannot tell again: restarted, it reads
    the store, hears what is being fitted, and goes on. Store I/O runs in threads, so that it always
    answers.
    """

    def __init__(self) -> None:
        # No arguments: those of an actor that restarts would have to outlive its creator.
        self._restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._started = asyncio.Event()
        self._leasing = asyncio.Event()
        self._changed = asyncio.Condition()
        self._advancing = asyncio.Lock()
        self._running: asyncio.Task[str | None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _begin(self, job: Job, seen: Progress | None) -> None:
        self._job = job
        self._seen = seen
        self._store = Store(job.store)
        self._growth = Growth(tasks=job.tasks, rules=job.rules, recipe=job.recipe)
        self._claims = Claims(self._store, run=job.run)
        self._desk = Desk(self._growth, speculate=job.speculate)
        self._leases = self._desk.leases
        self._corrupt: set[str] = set()
        self._fit_progress: dict[str, FitProgress] = {}
        self._work: Work | None = None
        self._fitted: set[str] = set()
        self._early: set[str] = set()
        self._first_fit = seen.first_fit if seen else None
        self._error: str | None = None
        self._started.set()
        if not self._restarted:
            self._leasing.set()

    # ---- for the entrypoint

    async def run(self, job: Job, seen: Progress | None) -> str | None:
        """Grow a zoo to its end. Asked again, it waits for the same end.

        Args:
            job: what to do.
            seen: the last that was heard of a driver that did it before; its counts go on.

        Returns:
            None if the zoo is complete, else a line for people that says why not.
        """
        if self._running is None:
            self._begin(job, seen)
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
        fitted, before = (self._seen.fitted, self._seen.speculative) if self._seen else (0, NONE)
        early = self._early & self._fitted
        return self._work.progress(
            fitted=fitted + len(self._fitted),
            first_fit=self._first_fit,
            fits=fits,
            speculative=Speculative(
                fitted=before.fitted + len(early),
                used=before.used + sum(map(self._growth.needs, early)),
            ),
        )

    # ---- for workers

    async def lease(self, worker: Worker) -> Wanted | None:
        """The spec that a worker is to fit next; waits for one, and is None when all is over."""
        await self._leasing.wait()
        workers = self._leases.workers
        await self._join(worker)
        if self._leases.workers != workers or self._desk.to_look_up():
            self._start_advancing()  # what is worth an early fit depends on how many fit
        async with self._changed:  # from the look to the wait: no offer may come in between
            while not self._over() and not self._leases.is_gone(worker):
                wanted = self._leases.take(worker, now=time.monotonic())
                if wanted is not None:
                    self._first_fit = self._first_fit or time.time()
                    self._note_if_early(wanted.spec.digest)
                    return wanted
                await self._changed.wait()
        return None

    async def report(self, worker: Worker, digest: str, progress: FitProgress) -> Answer:
        """Note how far a fit is; returns whether to go on with it."""
        await self._started.wait()
        self._leases.claim(worker, digest, now=time.monotonic())
        self._fit_progress[digest] = progress
        if self._work is None:
            return "go on"  # the store is still being read: nobody knows what the zoo will want
        self._note_if_early(digest)
        if self._over():
            return "drop" if self._growth.finished else "yield"
        return self._desk.answer(worker, digest)

    async def give_back(self, worker: Worker, digest: str) -> None:
        """Hear from a worker that it has left a fit, as it was told to."""
        await self._started.wait()
        self._desk.give_back(worker, digest)
        self._fit_progress.pop(digest, None)
        await self._advance()

    async def published(self, digest: str) -> None:
        """Fold in a member that a worker has published."""
        await self._started.wait()
        self._fitted.add(digest)
        self._desk.published(digest)
        self._fit_progress.pop(digest, None)
        if not self._growth.may_want(digest):
            return
        for _ in range(_LOOK_UPS):
            if await self._deliver(digest):
                await self._advance()
                return
            if self._over():
                return
            if digest in self._corrupt:  # it was damaged since, and is missing now
                self._corrupt.discard(digest)
                self._desk.damaged(digest)
                await self._advance()
                return
            await asyncio.sleep(1)  # a shared folder may show a file late on other nodes
        await self._end(not_shared(self._store))

    async def cannot_work(self, message: str) -> None:
        """End the run, since a worker cannot start: its successor could not either."""
        await self._started.wait()
        await self._end(f"a worker cannot start: {message}")

    async def failed(self, worker: Worker, digest: str, failed: FailedFit) -> None:
        """Take note that a fit has no usable result, which ends the run if it is certain.

        Where several share a GPU, one that ran out of memory is first tried again alone.
        """
        await self._leasing.wait()  # until then a driver that has restarted knows no specs
        self._fit_progress.pop(digest, None)
        wanted = {w.spec.digest: w for w in self._growth.wanted()}.get(digest)
        if wanted is None:  # nobody may ever ask for it, or another worker has delivered it
            self._leases.avoid(digest)
            await self._advance()
        elif failed.out_of_memory and self._leases.retry_alone(worker, digest):
            await self._notify()
        else:
            await self._fail(wanted, failed)

    # ---- within

    def _note_if_early(self, digest: str) -> None:
        if not self._growth.needs(digest):
            self._early.add(digest)

    def _over(self) -> bool:
        return self._growth.finished or self._error is not None

    async def _run(self) -> str | None:
        await self._advance()
        if self._restarted:
            await asyncio.sleep(_ALL_HEARD_S)
            await self._advance()  # now that it is known how many workers there are
            await asyncio.sleep(_REPORTED_S)  # and they say again what they hold
            self._leasing.set()
        self._work = Work(self._growth)
        watching = asyncio.create_task(self._watch_leases())
        async with self._changed:
            await self._changed.wait_for(self._over)
        watching.cancel()
        return self._error

    async def _join(self, worker: Worker) -> None:
        if predecessor := self._leases.predecessor(worker):
            await self._dismiss(predecessor)
        self._leases.join(worker, now=time.monotonic())

    async def _watch_leases(self) -> None:
        """Take the specs of workers that are dead or hang."""
        while True:
            await asyncio.sleep(_WATCH_S)
            now, timeout_s = time.monotonic(), self._job.fit_timeout_s
            hung = self._leases.quiet(now=now, for_s=timeout_s)
            for worker in self._leases.quiet(now=now, for_s=min(_QUIET_S, timeout_s)):
                if worker in hung:
                    await asyncio.to_thread(end, worker.handle)
                elif not await asyncio.to_thread(is_dead, worker.handle, worker.node):
                    continue
                await self._dismiss(worker)

    async def _dismiss(self, worker: Worker) -> None:
        # A spec is not to blame for a node that was taken away with its worker.
        excused = not await asyncio.to_thread(is_alive, worker.node)
        self._leases.dismiss(worker, excused=excused)
        await self._fail_the_hopeless(worker)
        await self._notify()

    async def _fail_the_hopeless(self, last: Worker) -> None:
        """End the run if a spec has cost too many workers, of which `last` was the last."""
        lost = self._leases.lost_too_often()
        if lost is not None and self._error is None:
            message = f"the worker ended or hung each of the {MAX_LOST_FITS} times it was fitted"
            log = await asyncio.to_thread(worker_log, last.handle)
            await self._fail(lost, FailedFit(message, log))

    async def _fail(self, wanted: Wanted, failed: FailedFit) -> None:
        line = await asyncio.to_thread(
            record_failure, self._store, run=self._job.run, wanted=wanted, failed=failed
        )
        await self._end(line)

    def _start_advancing(self) -> None:
        task = asyncio.create_task(self._advance())
        self._tasks.add(task)  # asyncio itself keeps no task alive
        task.add_done_callback(self._tasks.discard)

    async def _advance(self) -> None:
        """Look up the members that are wanted, or may be, in the store; offer the missing ones."""
        async with self._advancing:
            while not self._over() and (new := self._desk.to_look_up()):
                await asyncio.gather(*map(self._look_up, new[:_LOOK_UPS_AT_ONCE]))
        await self._claim()
        await self._notify()

    async def _look_up(self, wanted: Wanted) -> None:
        digest = wanted.spec.digest
        # While the store was asked, a worker may have published it.
        if not await self._deliver(digest) and self._growth.may_want(digest):
            self._corrupt.discard(digest)
            self._desk.missing(wanted)
            await self._notify()  # not all who wait here wait for a spec

    async def _claim(self) -> None:
        if self._over() or not self._claims.are_due(self._growth.certain_members):
            return
        try:
            await asyncio.to_thread(self._claims.make, self._growth.digests())
        except UserError as error:
            await self._end(str(error))

    async def _deliver(self, digest: str) -> bool:
        try:
            stored = await asyncio.to_thread(self._store.read_predictions, digest)
            if stored is None:
                return False
            # Here and not in the thread: the zoo is only ever touched by the event loop.
            fold(self._growth, self._store, digest, stored)
            self._leases.end(digest)
            return True
        except CorruptMember as error:
            self._corrupt.add(digest)
            try:
                await asyncio.to_thread(drop, self._store, digest, error)
            except UserError as problem:
                await self._end(str(problem))
        except UserError as error:
            await self._end(str(error))
        except Exception as error:  # the run must not wait for ever for a member that cannot come
            await self._end(f"reading a member: {type(error).__name__}: {error}")
        return False

    async def _end(self, error: str) -> None:
        self._error = self._error or error
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
