"""What work under way says of the members it needs, so that nobody collects them."""

import math
import threading
import time
from collections.abc import Set

from zoo_ray.store import Store

# Each claim names all members: those of a large zoo are not written with every episode.
_MANY = 1000
_MANY_EVERY_S = 60.0


class Claims:
    """Names the members of a run, search or comparison in its folder as they become certain, while
    none of its tables does.

    What was killed has said what it needs, too.
    """

    def __init__(self, store: Store, *, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._made = 0
        self._making = threading.Lock()
        self._made_at = -math.inf

    def are_due(self, members: int) -> bool:
        """Whether there are more members to be claimed than when it was done last."""
        just_made = time.monotonic() - self._made_at < _MANY_EVERY_S
        return members > self._made and not (members > _MANY and just_made)

    def make(self, digests: Set[str]) -> None:
        """Claim members, by digest. Of claims made at once, in threads, the larger one stays.

        Raises:
            UserError: the store cannot be written.
        """
        with self._making:
            if len(digests) < self._made:
                return
            self._made, self._made_at = len(digests), time.monotonic()
            self._store.write_wanted(self._folder, sorted(digests))
