"""Keeps a diary of fits in the store."""

import logging
import threading
import time

from zoo_ray.diary import Diary
from zoo_ray.errors import UserError
from zoo_ray.store import Store

_EVERY_S = 10.0
# Each writing names all fits: those of a large zoo are written less often, and so are fits that
# just go on.
_MANY = 1000
_MANY_EVERY_S = 60.0

log = logging.getLogger("zoo_ray")


class TimelineWriter:
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
