"""Drivers: the actors that hold zoos and lease specs to workers."""

import asyncio
import time
from collections.abc import Set
from typing import Any, Literal

import ray

from zoo_ray.claims import Claims
from zoo_ray.cluster.desk import Desk
from zoo_ray.cluster.health import end, is_alive, is_dead, worker_log
from zoo_ray.cluster.job import Job, RunJob
from zoo_ray.cluster.leases import MAX_LOST_FITS, Answer, Worker
from zoo_ray.cluster.watching import DriverMetrics, write_log
from zoo_ray.errors import UserError
from zoo_ray.failures import FailedFit, record_failure
from zoo_ray.members.member import FitProgress
from zoo_ray.progress import NONE, FitState, Progress, Speculative, Work
from zoo_ray.replay import drop, fold, not_shared
from zoo_ray.run_tables import RunTablesWriter
from zoo_ray.store import CorruptMember, Store
from zoo_ray.timeline import TimelineWriter
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
    """Has workers that pull specs fit the members of one or more zoos.

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

    def _begin(self, job: Any, seen: Any) -> None:
        self._job: Job = job
        self._store = Store(job.store)
        self._claims = Claims(self._store, folder=job.folder)
        self._desk = Desk(speculate=job.speculate)
        self._leases = self._desk.leases
        self._timeline = TimelineWriter(
            self._leases.diary, self._store, folder=job.folder, workers=job.workers.at_once
        )
        self._fit_progress: dict[str, FitProgress] = {}
        self._fitted: set[str] = set()
        self._ours: set[str] = set()
        self._taken: set[str] = set()
        self._early: set[str] = set()
        self._first_fit: float | None = seen.first_fit if seen else None
        self._has_read = False
        self._error: str | None = None
        self._metrics = DriverMetrics(job.folder)
        write_log(job.folder)
        self._started.set()
        if not self._restarted:
            self._leasing.set()

    # ---- what there are two kinds of

    def _over(self) -> bool:
        """Whether there is nothing left to fit."""
        raise NotImplementedError

    def _needed(self) -> Set[str]:
        """Digests of the members that are to be claimed in the store."""
        raise NotImplementedError

    async def _heed_problems(self) -> None:
        """Heed that a zoo cannot grow on; see `Growth.problem`."""
        raise NotImplementedError

    async def _fail(self, wanted: Wanted, failed: FailedFit) -> None:
        """Take note that a member cannot be fitted."""
        raise NotImplementedError

    # ---- for the entrypoint

    async def run(self, job: Job, seen: Any) -> str | None:
        """Do a job to its end. Asked again, it waits for the same end.

        Args:
            job: what to do.
            seen: the last that was heard of a driver that did it before; its counts go on.

        Returns:
            None if all was done, else a line for people that says why not.
        """
        if self._running is None:
            self._begin(job, seen)
            self._running = asyncio.create_task(self._run())
        return await asyncio.shield(self._running)

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
        if not self._has_read:
            return "go on"  # the store is still being read: nobody knows what will be wanted
        self._note_if_early(digest)
        if self._over():
            return "yield" if self._error else "drop"
        return self._desk.answer(worker, digest)

    async def give_back(self, worker: Worker, digest: str) -> None:
        """Hear from a worker that it has left a fit, as it was told to."""
        await self._started.wait()
        self._desk.give_back(worker, digest)
        self._fit_progress.pop(digest, None)
        await self._advance()

    async def published(self, digest: str) -> None:
        """Take in a member that a worker has published."""
        await self._started.wait()
        self._fitted.add(digest)
        self._desk.published(digest)
        self._fit_progress.pop(digest, None)
        if not self._desk.may_want(digest):
            return
        for _ in range(_LOOK_UPS):
            found = await self._deliver(digest)
            if found == "damaged":  # since, and it is missing now
                self._desk.damaged(digest)
            if found != "missing":
                await self._advance()
                return
            if self._over():
                return
            await asyncio.sleep(1)  # a shared folder may show a file late on other nodes
        await self._end(not_shared(self._store))

    async def cannot_work(self, message: str) -> None:
        """End the run, since a worker lacks what all need: its successor would, too."""
        await self._started.wait()
        await self._end(f"a worker cannot work: {message}")

    async def failed(self, worker: Worker, digest: str, failed: FailedFit) -> None:
        """Take note that a fit has no usable result, which matters if it is certain.

        Where several share a GPU, one that ran out of memory is first tried again alone.
        """
        await self._leasing.wait()  # until then a driver that has restarted knows no specs
        self._fit_progress.pop(digest, None)
        if not self._desk.wants(digest):  # it may never be, or another worker has delivered it
            self._leases.avoid(digest)
            await self._advance()
        elif failed.out_of_memory and self._leases.retry_alone(worker, digest):
            await self._notify()
        else:
            await self._fail(self._desk.wanted(digest), failed)

    # ---- within

    def _store_is_read(self) -> None:
        self._has_read = True

    def _fits(self) -> tuple[FitState, ...]:
        names = {task.digest: task.name for task in self._job.tasks}
        return tuple(
            FitState.of(
                wanted,
                names=names,
                certain=self._desk.wants(wanted.spec.digest),
                worker=f"worker {rank}",
                progress=self._fit_progress.get(wanted.spec.digest),
            )
            for rank, wanted in self._leases.held().items()
        )

    def _note_if_early(self, digest: str) -> None:
        if not self._desk.needs(digest):
            self._early.add(digest)

    async def _run(self) -> str | None:
        await self._advance()
        if self._restarted:
            await asyncio.sleep(_ALL_HEARD_S)
            await self._advance()  # now that it is known how many workers there are
            await asyncio.sleep(_REPORTED_S)  # and they say again what they hold
            self._leasing.set()
        self._store_is_read()
        watching = asyncio.create_task(self._watch_leases())
        async with self._changed:
            await self._changed.wait_for(self._over)
        watching.cancel()
        self._leases.diary.close("lost" if self._error else "left")
        await asyncio.to_thread(self._timeline.write)
        self._tell_metrics()
        return self._error

    def _tell_metrics(self) -> None:
        self._metrics.tell(
            fitted=len(self._fitted),
            taken=len(self._taken),
            waiting=self._leases.waiting,
            fits=len(self._leases.held()),
            accuracy=self._accuracies(),
        )

    def _accuracies(self) -> dict[str, float]:
        """Of the tasks seen, by name, where there is one zoo."""
        return {}

    async def _write_tables(self) -> None:
        """Write what the zoo is so far, where there is one."""

    async def _join(self, worker: Worker) -> None:
        if predecessor := self._leases.predecessor(worker):
            await self._dismiss(predecessor)
        self._leases.join(worker, now=time.monotonic())

    async def _watch_leases(self) -> None:
        """Take the specs of workers that are dead or hang."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._timeline.is_due():
                await asyncio.to_thread(self._timeline.write)
            await self._write_tables()
            self._tell_metrics()
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
        """Give up a spec that has cost too many workers, of which `last` was the last."""
        lost = self._leases.lost_too_often()
        if lost is not None and self._error is None:
            message = f"the worker ended or hung each of the {MAX_LOST_FITS} times it was fitted"
            log = await asyncio.to_thread(worker_log, last.handle)
            await self._fail(lost, FailedFit(message, log))

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
        if await self._deliver(digest) != "here" and self._desk.may_want(digest):
            await self._missing(wanted)

    async def _missing(self, wanted: Wanted) -> None:
        """Offer a member that the store does not hold."""
        self._desk.missing(wanted)
        await self._notify()  # not all who wait here wait for a spec

    async def _claim(self) -> None:
        if self._over() or not self._claims.are_due(len(self._needed())):
            return
        try:
            await asyncio.to_thread(self._claims.make, frozenset(self._needed()))
        except UserError as error:
            await self._end(str(error))

    async def _deliver(self, digest: str) -> Literal["here", "missing", "damaged"]:
        """Take in a member, if the store holds it."""
        try:
            stored = await asyncio.to_thread(self._store.read_predictions, digest)
            if stored is None:
                return "missing"
            # Here and not in the thread: a zoo is only ever touched by the event loop.
            fold(self._desk, self._store, digest, stored)
            await self._heed_problems()
            self._taken.add(digest)
            if stored.call == self._job.call:
                self._ours.add(digest)
            return "here"
        except CorruptMember as error:
            try:
                await asyncio.to_thread(drop, self._store, digest, error)
                return "damaged"
            except UserError as problem:
                await self._end(str(problem))
        except UserError as error:
            await self._end(str(error))
        except Exception as error:  # the run must not wait for ever for a member that cannot come
            await self._end(f"reading a member: {type(error).__name__}: {error}")
        return "missing"

    async def _end(self, error: str) -> None:
        self._error = self._error or error
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


class RunDriver(Driver):
    """The driver of a run: it grows one zoo."""

    def _begin(self, job: RunJob, seen: Progress | None) -> None:
        super()._begin(job, seen)
        self._seen = seen
        self._growth = Growth(tasks=job.tasks, rules=job.rules, recipe=job.recipe)
        self._tables = RunTablesWriter(self._store, job.folder.partition("/")[2])
        self._desk.add(self._growth, turn=())

    async def progress(self) -> Progress | None:
        """How far the run is; None while the store is still being read."""
        if not self._started.is_set() or not self._has_read:
            return None
        fitted, before = (self._seen.fitted, self._seen.speculative) if self._seen else (0, NONE)
        early = self._early & self._fitted
        return self._work.progress(
            fitted=fitted + len(self._fitted),
            first_fit=self._first_fit,
            fits=self._fits(),
            speculative=Speculative(
                fitted=before.fitted + len(early),
                used=before.used + sum(map(self._growth.needs, early)),
            ),
        )

    def _store_is_read(self) -> None:
        super()._store_is_read()
        self._work = Work(self._growth)

    def _over(self) -> bool:
        return self._growth.finished or self._error is not None

    async def _heed_problems(self) -> None:
        if self._growth.problem:
            await self._end(self._growth.problem)

    def _needed(self) -> Set[str]:
        return self._growth.certain

    def _accuracies(self) -> dict[str, float]:
        tasks, episodes = self._growth.tasks, self._growth.episodes
        seen = episodes[-1].test_accuracy.tolist() if episodes else []
        return {task.name: accuracy for task, accuracy in zip(tasks, seen, strict=False)}

    async def _write_tables(self) -> None:
        growth = self._growth
        if self._tables.is_due(growth):
            await asyncio.to_thread(self._tables.write, list(growth.episodes), growth.tasks)

    async def _fail(self, wanted: Wanted, failed: FailedFit) -> None:
        self._leases.end(wanted.spec.digest, "failed")
        line = await asyncio.to_thread(
            record_failure, self._store, folder=self._job.folder, wanted=wanted, failed=failed
        )
        await self._end(line)
