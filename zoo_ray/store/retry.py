"""Trying again what may work in a moment."""

import logging
import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from zoo_ray.errors import UserError

PATIENCE_S = 60.0
"""How long a store may be away before the work on it ends."""

LONGEST_WAIT_S = 5.0

log = logging.getLogger("zoo_ray")

T = TypeVar("T")


class StoreFailed(UserError):
    """A store cannot be read or written, or does not answer."""


class UnreadableFile(UserError):
    """A file of a store cannot be read, while the store itself answers.

    Attributes:
        problem: what it is, the first half of the message.
        advice: what to do, the other.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem = problem
        self.advice = advice


class Trouble(NamedTuple):
    """What an error means: a few words without secrets, whether it may pass, what to do, and
    whether it is of a file alone, of which nothing follows for others."""

    reason: str
    passing: bool
    advice: str = ""
    of_file: bool = False


def persist(
    action: Callable[[], T],
    *,
    what: str,
    diagnose: Callable[[Exception], Trouble | None],
    patience_s: float,
) -> T:
    """Do something, again and again while its errors may pass, with growing pauses.

    Args:
        action: what to do; must be harmless to do twice.
        what: names the store and the operation in the error.
        diagnose: what an error means; None: it is none of ours, and is raised.
        patience_s: how long after the first error another attempt may begin.

    Raises:
        StoreFailed: it did not work.
        UnreadableFile: so, with a file alone.
    """
    deadline = None
    pause = 0.05
    while True:
        try:
            return action()
        except Exception as error:
            trouble = diagnose(error)
            if trouble is None:
                raise
        if trouble.of_file:
            raise UnreadableFile(f"{what} ({trouble.reason})", trouble.advice) from None
        if not trouble.passing:
            raise StoreFailed(f"{what} ({trouble.reason}); {trouble.advice}") from None
        now = time.monotonic()
        if deadline is None:
            deadline = now + patience_s
            log.warning("%s (%s); trying again for %g s", what, trouble.reason, patience_s)
        if now >= deadline:
            raise StoreFailed(
                f"{what} ({trouble.reason}, tried for {patience_s:g} s); once the store is back, "
                "the same command goes on where it ended"
            ) from None
        # Spread, or all who lost the store together would ask together again.
        time.sleep(min(pause * random.uniform(0.5, 1), deadline - now))
        pause = min(2 * pause, LONGEST_WAIT_S)
