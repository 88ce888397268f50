"""Which worker fits what: a state machine without Ray, clock or I/O."""

from dataclasses import dataclass, field

from zoo_ray.zoo.growth import Wanted

MAX_LOST_FITS = 3
"""A spec whose worker, or whose worker's group, ended so often is not given to another."""


@dataclass
class _Worker:
    id: str
    lease: Wanted | None = None


@dataclass
class Leases:
    """Specs wait in the order in which they were offered; a worker holds one at a time."""

    _waiting: dict[str, Wanted] = field(default_factory=dict)
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _lost: dict[str, int] = field(default_factory=dict)

    def offer(self, wanted: Wanted) -> None:
        """Add a spec to those that wait for a worker."""
        self._waiting[wanted.spec.digest] = wanted

    def take(self, *, rank: int, worker: str) -> Wanted | None:
        """The spec that a worker is to fit next; None if none waits.

        A worker that asks again without having delivered is told again what it holds. A worker
        that is new at its rank took the place of a dead one, whose spec goes to whoever asks next.

        A call of a dead worker may still be waiting when its successor has come: it gets nothing.

        Args:
            rank: of the worker in its group.
            worker: unique to its process.
        """
        if worker in self._gone:
            return None
        present = self._workers.get(rank)
        if present is None or present.id != worker:
            present = self._replace(rank, worker)
        if present.lease is None:
            hopeful = (d for d in self._waiting if self._lost.get(d, 0) < MAX_LOST_FITS)
            digest = next(hopeful, None)
            present.lease = None if digest is None else self._waiting.pop(digest)
        return present.lease

    def end(self, digest: str) -> None:
        """Forget a spec, whoever holds it: it was fitted, or is not wanted any more."""
        self._waiting.pop(digest, None)
        for worker in self._workers.values():
            if worker.lease is not None and worker.lease.spec.digest == digest:
                worker.lease = None

    def held(self) -> dict[int, Wanted]:
        """What each rank is fitting."""
        return {
            rank: worker.lease
            for rank, worker in sorted(self._workers.items())
            if worker.lease is not None
        }

    def lost_too_often(self) -> Wanted | None:
        """A waiting spec that has cost too many workers, if there is one."""
        return next(
            (w for d, w in self._waiting.items() if self._lost.get(d, 0) >= MAX_LOST_FITS), None
        )

    def is_gone(self, worker: str) -> bool:
        """Whether another worker has taken this one's place."""
        return worker in self._gone

    def _replace(self, rank: int, worker: str) -> _Worker:
        before = self._workers.get(rank)
        if before is not None:
            self._gone.add(before.id)
            if before.lease is not None:
                digest = before.lease.spec.digest
                self._lost[digest] = self._lost.get(digest, 0) + 1
                self._waiting = {digest: before.lease, **self._waiting}
        self._workers[rank] = _Worker(worker)
        return self._workers[rank]
