"""Notes who fits what, from when to when."""

import time
import uuid
from collections.abc import Callable
from typing import Literal, NamedTuple

Ending = Literal["published", "left", "lost", "failed", "open"]
"""How a fit ended: its member exists; it was told to stop, for something better or because nobody
wants it; its worker ended or hung; it has no usable result; or nothing is known, since whoever kept
the table ended first."""


class FitTime(NamedTuple):
    """A worker's time on a member.

    Attributes:
        session: names the life of the driver that noted it. Times of two sessions may be of two
            machines' clocks.
        workers: how many the session has.
        worker: which of them, from 0.
        begin, end: seconds since the epoch.
        certain: whether the member was certain to be wanted when the fit began.
        digest: of the member.
        ending: how it ended.
    """

    session: str
    workers: int
    worker: int
    begin: float
    end: float
    certain: bool
    digest: str
    ending: Ending


class Diary:
    """What one session's workers have fitted, from when to when.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._session = uuid.uuid4().hex
        self._begun: dict[int, FitTime] = {}
        self._ended: list[FitTime] = []
        self.notes = 0
        """How often anything was noted."""

    def begin(self, worker: int, digest: str, *, certain: bool) -> None:
        """Note that a worker begins to fit a member."""
        now = self._clock()
        # Of 0 workers: how many there are, `fits` is told.
        self._begun[worker] = FitTime(self._session, 0, worker, now, now, certain, digest, "open")
        self.notes += 1

    def end(self, worker: int, ending: Ending) -> None:
        """Note how the fit ended that a worker had begun."""
        begun = self._begun.pop(worker, None)
        if begun is not None:  # else the diary was closed before
            self._ended.append(self._until_now(begun)._replace(ending=ending))
            self.notes += 1

    def close(self, ending: Ending) -> None:
        """Note that all fits under way ended, too."""
        for worker in list(self._begun):
            self.end(worker, ending)

    @property
    def under_way(self) -> int:
        """How many fits have begun and not ended."""
        return len(self._begun)

    def fits(self, *, workers: int) -> list[FitTime]:
        """All fits so far; those under way end now, and openly.

        Args:
            workers: how many there are to be.
        """
        fits = [*self._ended, *map(self._until_now, [*self._begun.values()])]
        workers = max([workers, *(fit.worker + 1 for fit in fits)])
        return [fit._replace(workers=workers) for fit in fits]

    def _until_now(self, fit: FitTime) -> FitTime:
        return fit._replace(end=max(fit.begin, self._clock()))  # a clock may be set back
