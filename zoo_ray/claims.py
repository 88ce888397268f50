"""What a run under way says of the members it needs, so that nobody collects them."""

import math
import time
from collections.abc import Sequence

from zoo_ray.store import Store

# Members younger than a day are never collected: a run need not say it more often.
_EVERY_S = 600.0


class Claims:
    """Names a run's members in its folder from time to time, while none of its tables does."""

    def __init__(self, store: Store, *, run: str) -> None:
        self._store = store
        self._run = run
        self._made_at = -math.inf

    def are_due(self) -> bool:
        """Whether they have not been made for a while."""
        return time.monotonic() - self._made_at > _EVERY_S

    def make(self, digests: Sequence[str]) -> None:
        """Claim members, by digest.

        Raises:
            UserError: the store cannot be written.
        """
        self._made_at = time.monotonic()
        self._store.write_wanted(self._run, digests)
