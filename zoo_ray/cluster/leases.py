"""Which worker fits what: a state machine without Ray, clock or I/O."""

from dataclasses import dataclass, field
from typing import Any

from zoo_ray.zoo.growth import Wanted

MAX_LOST_FITS = 3
"""A spec whose worker ended so often is not given to another."""


@dataclass(frozen=True, eq=False)
class Worker:
    """A worker's process, as it names itself.

    Attributes:
        rank: its place among a run's workers; a process that dies is followed by another of the
            same rank.
        id: unique to the process.
        node: the node it runs on.
        place: what it computes on (a GPU, a CPU), unique in the cluster: workers that share a GPU
            have one place.
        handle: for whoever wants to end it; not looked at here.
    """

    rank: int
    id: str
    node: str
    place: str
    handle: Any = None


@dataclass
class _Seat:
    worker: Worker
    heard_at: float
    lease: Wanted | None = None


@dataclass
class Leases:
    """Specs wait in the order in which they were offered; a worker holds one at a time."""

    _waiting: dict[str, Wanted] = field(default_factory=dict)
    _seats: dict[int, _Seat] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _lost: dict[str, int] = field(default_factory=dict)
    _alone: set[str] = field(default_factory=set)

    # ---- specs

    def offer(self, wanted: Wanted) -> None:
        """Add a spec to those that wait for a worker."""
        self._waiting[wanted.spec.digest] = wanted

    def end(self, digest: str) -> None:
        """Forget a spec, whoever holds it: it was fitted, or is not wanted any more."""
        self._waiting.pop(digest, None)
        self._alone.discard(digest)
        for seat in self._seats.values():
            if seat.lease is not None and seat.lease.spec.digest == digest:
                seat.lease = None

    def retry_alone(self, worker: Worker, digest: str) -> bool:
        """Take a spec back from a worker whose place had not enough memory for it, to be fitted
        where no other is.

        Returns:
            Whether that is worth trying: it may have had company, and this is the first time.
        """
        seat = self._seat(worker)
        if seat is None or seat.lease is None or seat.lease.spec.digest != digest:
            return False
        shares = any(
            other is not seat and other.worker.place == worker.place
            for other in self._seats.values()
        )
        if digest in self._alone or not shares:
            return False
        self._alone.add(digest)
        self._take_back(seat)
        return True

    def lost_too_often(self) -> Wanted | None:
        """A waiting spec that has cost too many workers, if there is one."""
        return next((w for d, w in self._waiting.items() if not self._hopeful(d)), None)

    def held(self) -> dict[int, Wanted]:
        """What each rank is fitting."""
        return {
            rank: seat.lease for rank, seat in sorted(self._seats.items()) if seat.lease is not None
        }

    # ---- workers

    def predecessor(self, worker: Worker) -> Worker | None:
        """The worker whose rank, and spec, a new worker inherits; None if it does not."""
        seat = self._seats.get(worker.rank)
        inherits = seat is not None and seat.worker.id != worker.id and seat.lease is not None
        return seat.worker if seat is not None and inherits else None

    def join(self, worker: Worker, *, now: float) -> None:
        """Take note of a worker. One that is new at its rank took the place of a dead one, whose
        spec goes to whoever asks next."""
        seat = self._seats.get(worker.rank)
        if worker.id in self._gone or (seat is not None and seat.worker.id == worker.id):
            return
        if seat is not None:
            self.dismiss(seat.worker)
        self._seats[worker.rank] = _Seat(worker, heard_at=now)

    def take(self, worker: Worker, *, now: float) -> Wanted | None:
        """The spec that a worker is to fit next; None if there is none for it.

        A worker that asks again without having delivered is told again what it holds. A call of a
        dead worker may still be waiting when its successor has come: it gets nothing.
        """
        seat = self._seat(worker)
        if seat is None:
            return None
        seat.heard_at = now
        if seat.lease is None:
            digest = self._choose(seat)
            seat.lease = None if digest is None else self._waiting.pop(digest)
        return seat.lease

    def claim(self, worker: Worker, digest: str, *, now: float) -> None:
        """Hear from a worker that it is fitting a spec. A driver that has restarted learns so what
        it had leased: a spec that waits is then taken to be that worker's."""
        self.join(worker, now=now)
        seat = self._seat(worker)
        if seat is None:
            return
        seat.heard_at = now
        if seat.lease is None and digest in self._waiting:
            seat.lease = self._waiting.pop(digest)

    def quiet(self, *, now: float, for_s: float) -> list[Worker]:
        """The workers that hold a spec and have not been heard of for so many seconds."""
        return [
            seat.worker
            for seat in self._seats.values()
            if seat.lease is not None and now - seat.heard_at > for_s
        ]

    def dismiss(self, worker: Worker, *, excused: bool = False) -> None:
        """Take the spec of a worker that is dead or hangs, for whoever asks next.

        Args:
            worker: the one that is not to be waited for.
            excused: the spec is not to blame (the worker's node was taken away).
        """
        seat = self._seat(worker)
        if seat is None:
            return
        self._gone.add(worker.id)
        if seat.lease is not None:
            digest = seat.lease.spec.digest
            self._lost[digest] = self._lost.get(digest, 0) + (not excused)
            self._take_back(seat)

    def is_gone(self, worker: Worker) -> bool:
        """Whether a worker was dismissed, or another has taken its place."""
        return worker.id in self._gone

    # ---- within

    def _seat(self, worker: Worker) -> _Seat | None:
        """A worker's seat, unless it is gone."""
        seat = self._seats.get(worker.rank)
        present = seat is not None and seat.worker.id == worker.id and not self.is_gone(worker)
        return seat if present else None

    def _take_back(self, seat: _Seat) -> None:
        assert seat.lease is not None
        self._waiting = {seat.lease.spec.digest: seat.lease, **self._waiting}
        seat.lease = None

    def _hopeful(self, digest: str) -> bool:
        return self._lost.get(digest, 0) < MAX_LOST_FITS

    def _choose(self, seat: _Seat) -> str | None:
        company = self._company(seat)
        if company and self._alone & (company | self._waiting.keys()):
            return None  # one is fitted alone here, or is to be as soon as a place is empty
        return next((digest for digest in self._waiting if self._hopeful(digest)), None)

    def _company(self, seat: _Seat) -> set[str]:
        """Digests of what the others of a seat's place are fitting."""
        return {
            other.lease.spec.digest
            for other in self._seats.values()
            if other is not seat
            and other.worker.place == seat.worker.place
            and other.lease is not None
        }
