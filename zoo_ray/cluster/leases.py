"""Which worker fits what: a state machine without Ray or I/O, whose diary alone has a clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo_ray.diary import Diary, Ending
from zoo_ray.zoo.growth import Wanted

MAX_LOST_FITS = 3
"""A spec whose worker ended so often is not given to another."""

Turn = tuple[int, ...]
"""Which specs come first: those of the lower turn, whenever they were offered."""

MUCH_BETTER = 3.0
"""A speculative fit is left for another that is worth so many times as much. Replayed, any
factor from 1.5 to 8 gives some percent more speed and 5% to 20% fewer fits than none."""


@dataclass(frozen=True, eq=False)
class Worker:
    """What fits one member at a time, a process or a thread of one, as it names itself.

    Attributes:
        rank: its place among a run's workers; a process that dies is followed by another of the
            same rank.
        id: unique to it.
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


Answer = Literal["go on", "yield", "drop"]
"""What a worker is told of the fit that it reports: to go on with it; to leave it with a
checkpoint, as there is something more urgent; or without one, as the zoo will not want it."""


@dataclass
class _Seat:
    worker: Worker
    heard_at: float
    lease: Wanted | None = None
    worth: float | None = None  # None: the spec is certain
    had_company: bool = False  # while it held the lease, at its place


@dataclass
class Leases:
    """Certain specs wait by turn and in the order in which they were offered, speculative ones in
    that of their worth; a worker holds one at a time. The diary notes who held what."""

    diary: Diary = field(default_factory=Diary)
    _waiting: dict[str, Wanted] = field(default_factory=dict)
    _turns: dict[str, Turn] = field(default_factory=dict)
    _early: dict[str, tuple[Wanted, float]] = field(default_factory=dict)
    _seats: dict[int, _Seat] = field(default_factory=dict)
    _held: dict[str, _Seat] = field(default_factory=dict)
    _working: dict[str, dict[int, _Seat]] = field(default_factory=dict)  # by place and rank
    _yielding: set[str] | None = None  # digests; None: to be found out anew
    _gone: set[str] = field(default_factory=set)
    _lost: dict[str, int] = field(default_factory=dict)
    _alone: set[str] = field(default_factory=set)
    _suspects: set[str] = field(default_factory=set)
    _avoided: set[str] = field(default_factory=set)

    # ---- specs

    def offer(self, wanted: Wanted, *, turn: Turn = ()) -> None:
        """Add a certain spec to those that wait for a worker, unless one is at it already."""
        digest = wanted.spec.digest
        self._early.pop(digest, None)
        self._turns[digest] = turn
        if digest in self._held:
            self._held[digest].worth = None
        else:
            self._waiting[digest] = wanted
        self._yielding = None

    def consider(self, wanted: Wanted, *, worth: float) -> None:
        """Add a speculative spec, with what it is worth to have it early."""
        digest = wanted.spec.digest
        if not any(digest in others for others in (self._waiting, self._held, self._avoided)):
            self._early[digest] = (wanted, worth)
            self._yielding = None

    def reconsider(self, worths: Mapping[str, float]) -> None:
        """Tell what the speculative specs are worth now, by digest. One of none is not leased any
        more, and the worker that holds it is to drop it."""
        self._early = {
            digest: (wanted, worths[digest])
            for digest, (wanted, _) in self._early.items()
            if digest in worths
        }
        for digest, seat in self._held.items():
            if seat.worth is not None:
                seat.worth = worths.get(digest, 0.0)
        self._yielding = None

    @property
    def waiting(self) -> int:
        """How many certain specs wait for a worker."""
        return len(self._waiting)

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._seats)

    def avoid(self, digest: str, ending: Ending = "failed") -> None:
        """Lease a spec no more unless it is certain: its fit has failed, or cost a worker."""
        self._avoided.add(digest)
        self.end(digest, ending)

    def withdraw(self, digest: str) -> None:
        """Lease a spec to nobody more, unless it is offered again; who holds it drops it."""
        self._waiting.pop(digest, None)
        if digest in self._held:
            self._held[digest].worth = 0.0
        self._yielding = None

    def end(self, digest: str, ending: Ending = "published") -> None:
        """Forget a spec, whoever holds it: it was fitted, or is not wanted any more."""
        self._waiting.pop(digest, None)
        self._turns.pop(digest, None)
        self._early.pop(digest, None)
        self._alone.discard(digest)
        self._yielding = None
        if digest in self._held:
            self._clear(self._held[digest], ending)

    def answer(self, worker: Worker, digest: str) -> Answer:
        """What to tell a worker of the speculative fit that it reports.

        Where certain specs wait, as many of the fits worth least are to yield; others yield to
        speculative specs that wait and are worth much more, one to each.
        """
        seat = self._seat(worker)
        if seat is None or self._held.get(digest) is not seat:
            return "yield"
        if seat.worth == 0:
            return "drop"
        if self._yielding is None:  # asked twice a second by every worker
            self._yielding = self._find_yielding()
        return "yield" if digest in self._yielding else "go on"

    def give_back(self, worker: Worker, digest: str) -> None:
        """Hear from a worker that it has left a fit, as it was told to."""
        seat = self._seat(worker)
        if seat is not None and self._held.get(digest) is seat:
            self._take_back(seat, "left")

    def retry_alone(self, worker: Worker, digest: str) -> bool:
        """Take a certain spec back from a worker whose place had not enough memory for it, to be
        fitted where no other is.

        Returns:
            Whether that is worth trying: it may have had company, and this is the first time.
        """
        seat = self._seat(worker)
        if seat is None or self._held.get(digest) is not seat:
            return False
        shares = any(
            other is not seat and other.worker.place == worker.place
            for other in self._seats.values()
        )
        if digest in self._alone or not shares:
            return False
        self._alone.add(digest)
        seat.worth = None
        self._take_back(seat, "failed")
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
            self._choose(seat)
        return seat.lease

    def claim(self, worker: Worker, digest: str, *, now: float) -> None:
        """Hear from a worker that it is fitting a spec. A driver that has restarted learns so what
        it had leased: a spec that waits is then taken to be that worker's."""
        seat = self._seat(worker)
        if seat is None:
            self.join(worker, now=now)
            seat = self._seat(worker)
        if seat is None:
            return
        seat.heard_at = now
        if seat.lease is None and digest in self._waiting:
            self._give(seat, self._waiting.pop(digest), None)
        elif seat.lease is None and digest in self._early:
            self._give(seat, *self._early.pop(digest))

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
            if not excused and seat.had_company:
                # Any of those fitted there may be to blame: the second time it is tried alone.
                excused = True
                if seat.worth is None and digest in self._suspects:
                    self._alone.add(digest)
                self._suspects.add(digest)
            if seat.worth is not None and not excused:
                self.avoid(digest, "lost")
                return
            self._lost[digest] = self._lost.get(digest, 0) + (not excused)
            self._take_back(seat, "lost")

    def is_gone(self, worker: Worker) -> bool:
        """Whether a worker was dismissed, or another has taken its place."""
        return worker.id in self._gone

    # ---- within

    def _seat(self, worker: Worker) -> _Seat | None:
        """A worker's seat, unless it is gone."""
        seat = self._seats.get(worker.rank)
        present = seat is not None and seat.worker.id == worker.id and not self.is_gone(worker)
        return seat if present else None

    def _give(self, seat: _Seat, wanted: Wanted, worth: float | None) -> None:
        assert wanted.spec.digest not in self._held
        seat.lease, seat.worth = wanted, worth
        company = self._working.setdefault(seat.worker.place, {})
        seat.had_company = bool(company)
        for other in company.values():
            other.had_company = True
        company[seat.worker.rank] = seat
        self.diary.begin(seat.worker.rank, wanted.spec.digest, certain=worth is None)
        self._held[wanted.spec.digest] = seat
        self._yielding = None

    def _clear(self, seat: _Seat, ending: Ending) -> None:
        assert seat.lease is not None
        self.diary.end(seat.worker.rank, ending)
        del self._held[seat.lease.spec.digest]
        del self._working[seat.worker.place][seat.worker.rank]
        seat.lease = None
        self._yielding = None

    def _find_yielding(self) -> set[str]:
        worst = [
            (seat.worth, digest) for digest, seat in self._held.items() if seat.worth is not None
        ]
        waiting = len(self._waiting)
        if not worst or not (waiting or self._early):
            return set()
        better = [worth for _, worth in self._early.values()]
        if not waiting and max(better) <= MUCH_BETTER * min(worst)[0]:
            return set()  # mostly so
        worst.sort()
        better.sort(reverse=True)
        for_better = {
            digest
            for (worth, digest), other in zip(worst[waiting:], better, strict=False)
            if other > MUCH_BETTER * worth
        }
        return {digest for _, digest in worst[:waiting]} | for_better

    def _take_back(self, seat: _Seat, ending: Ending) -> None:
        assert seat.lease is not None
        digest = seat.lease.spec.digest
        if seat.worth is None:
            self._waiting = {digest: seat.lease, **self._waiting}
        elif seat.worth > 0:
            self._early[digest] = (seat.lease, seat.worth)
        self._clear(seat, ending)

    def _hopeful(self, digest: str) -> bool:
        return self._lost.get(digest, 0) < MAX_LOST_FITS

    def _choose(self, seat: _Seat) -> None:
        company = self._company(seat) if self._alone else None
        if company and self._alone & (company | self._waiting.keys()):
            return  # one is fitted alone here, or is to be as soon as a place is empty
        hopeful = (digest for digest in self._waiting if self._hopeful(digest))
        digest = min(hopeful, key=self._rank, default=None)
        if digest is not None:
            self._give(seat, self._waiting.pop(digest), None)
        elif self._early:
            digest = max(self._early, key=lambda digest: self._early[digest][1])
            self._give(seat, *self._early.pop(digest))

    def _rank(self, digest: str) -> tuple[bool, Turn]:
        """Those of the lowest turn go first; before them those that must be alone, as long as they
        wait nobody has company."""
        return digest not in self._alone, self._turns.get(digest, ())

    def _company(self, seat: _Seat) -> set[str]:
        """Digests of what the others of a seat's place are fitting."""
        return {
            other.lease.spec.digest
            for other in self._working.get(seat.worker.place, {}).values()
            if other is not seat and other.lease is not None
        }
