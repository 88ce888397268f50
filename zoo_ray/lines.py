"""Lines about work under way, as a command without a terminal writes them and `jobs` reads them."""

import re
import time
from datetime import timedelta
from typing import NamedTuple

from zoo_ray.counts import counted
from zoo_ray.progress import Progress, SearchProgress

# Earlier, one fit's first seconds would stand for all.
_LEAST_SHARE = 0.02
_LINE = re.compile(
    r"(?P<done>episode \d+/\d+|\d+ of \d+ trials|\d+ of at most \d+ members)\b.*?"
    r"(?:  (?:accuracy|best|best validation) (?P<accuracy>[\d.]+)%)?(?:  left (?P<left>[^ ].*))?"
)
_RESULT = re.compile(
    r"average accuracy +(?P<accuracy>[\d.]+)%|test accuracy of the best: (?P<best>[\d.]+)%"
)
_ENDED = re.compile(r"(?P<done>[\d,]+ members? asked for): .*")


class Line(NamedTuple):
    """What a line says.

    Attributes:
        done: how far the work is, as `episode 3/5`.
        accuracy: mean over the tasks seen, or of the best trial, in percent.
        left: until it is done, as `0:12:30`.
    """

    done: str
    accuracy: str | None = None
    left: str | None = None


def run_line(progress: Progress) -> str:
    """The line about a run."""
    early, accuracy = progress.speculative, progress.test_accuracy
    waiting = not progress.fits and progress.members_done < progress.members
    status = (
        f"episode {progress.episodes_done}/{progress.episodes}  "
        f"members {progress.members_done}/{progress.members}  "
        f"work {progress.work_share:.0%}"
        + ("  waiting for workers" if waiting else "")
        + (f"  early {early.used} of {early.fitted} used" if early.fitted else "")
        + ("" if accuracy is None else f"  accuracy {100 * accuracy:.1f}%")
    )
    return with_time_left(status, share=progress.work_share, since=progress.first_fit)


def search_status(progress: SearchProgress, *, ended: int, trials: int, best: float | None) -> str:
    """How a search is.

    Args:
        progress: of its driver.
        ended, trials: how many trials are over, and how many there will be.
        best: the best trial's metric so far, 0 to 1.
    """
    return f"{ended} of {trials} trials, {progress.members_done} members" + (
        "" if best is None else f"  best validation {100 * best:z.1f}%"
    )


def comparison_status(progress: SearchProgress, *, asked: int) -> str:
    """How zoos are that have `asked` members if they share none."""
    return f"{progress.members_done} of at most {asked} members, {progress.waiting} waiting"


def with_time_left(status: str, *, share: float, since: float | None) -> str:
    """A line: the status, and the time left, which a progress bar has its own way to tell.

    Args:
        status: to begin with.
        share: of the work that is done.
        since: when its first fit began, in seconds since the epoch; None: it has not.
    """
    if since is None or not _LEAST_SHARE <= share < 1:
        return status
    left = (time.time() - since) * (1 - share) / share
    return f"{status}  left {timedelta(seconds=round(left))}"


def study_line(*, asked: int, fitted: int, read: int, wall_s: float) -> str:
    """The line about zoos that were grown together, when they are."""
    return (
        f"{counted(asked, 'member')} asked for: {fitted} fitted, {read} read from the store, the "
        f"rest shared; in {wall_s:.1f} s"
    )


def last_line(log: str) -> Line | None:
    """What the last of such lines in a log says, or the result where there are none: all was read
    from the store."""
    lines = [line.strip() for line in reversed(log.splitlines())]
    results = filter(None, map(_RESULT.fullmatch, lines))
    result = next((found["accuracy"] or found["best"] for found in results), None)
    for line in lines:
        if found := _ENDED.fullmatch(line):  # with progress from before the end above it
            return Line(found["done"], result)
        if found := _LINE.fullmatch(line):
            return Line(found["done"], found["accuracy"], found["left"])
    return None if result is None else Line("all read", result)
