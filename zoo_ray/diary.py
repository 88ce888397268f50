"""Notes who fits what and when, and keeps it in the store."""

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

from zoo_ray.errors import UserError
from zoo_ray.store import Ending, FitTime, Store

_EVERY_S = 10.0
# Each writing names all fits: those of a large zoo are written less often, and so are fits that
# just go on.
_MANY = 1000
_MANY_EVERY_S = 60.0

log = logging.getLogger("zoo_ray")


class _Begun(NamedTuple):
    at: float
    certain: bool
    digest: str


class Diary:
    """What one session's workers have fitted, from when to when.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._session = uuid.uuid4().hex
        self._begun: dict[int, _Begun] = {}
        self._ended: list[tuple[int, _Begun, float, Ending]] = []
        self.notes = 0
        """How often anything was noted."""

    def begin(self, worker: int, digest: str, *, certain: bool) -> None:
        """Note that a worker begins to fit a member."""
        self._begun[worker] = _Begun(self._clock(), certain, digest)
        self.notes += 1

    def end(self, worker: int, ending: Ending) -> None:
        """Note how the fit ended that a worker had begun."""
        begun = self._begun.pop(worker, None)
        if begun is not None:  # else the diary was closed before
            self._ended.append((worker, begun, max(begun.at, self._clock()), ending))
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
        now = self._clock()
        everything = list(self._ended)
        everything += [
            (w, begun, max(begun.at, now), "open") for w, begun in [*self._begun.items()]
        ]
        workers = max([workers, *(worker + 1 for worker, *_ in everything)])
        return [
            FitTime(
                session=self._session,
                workers=workers,
                worker=worker,
                begin=begun.at,
                end=end,
                certain=begun.certain,
                digest=begun.digest,
                ending=ending,
            )
            for worker, begun, end, ending in everything
        ]


class Timeline:
    """Keeps a diary in a folder of the store, beside what earlier sessions left there.

    What is killed has written all but its last seconds.

    Args:
        diary: to keep.
        store: where.
        folder: of the run, search or comparison.
        workers: how many there are to be.
    """

    def __init__(self, diary: Diary, store: Store, *, folder: str, workers: int) -> None:
        self._diary = diary
        self._store = store
        self._folder = folder
        self._workers = workers
        self._notes = 0
        self._written_at = time.monotonic()
        self._writing = threading.Lock()

    def is_due(self) -> bool:
        """Whether it is time to write."""
        since = time.monotonic() - self._written_at
        if self._diary.notes == self._notes:
            return self._diary.under_way > 0 and since > _MANY_EVERY_S
        return since > (_EVERY_S if self._diary.notes <= _MANY else _MANY_EVERY_S)

    def write(self) -> None:
        """Write what there is; may run in a thread beside whoever notes.

        A store that cannot be written is told in the log: no zoo is the worse for it.
        """
        with self._writing:  # nothing older comes after
            self._notes, self._written_at = self._diary.notes, time.monotonic()
            try:
                fits = self._diary.fits(workers=self._workers)
                self._store.write_timeline(self._folder, fits)
            except UserError as error:
                log.warning("the time line is not written: %s", error)
