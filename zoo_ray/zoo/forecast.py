"""What the losses will be once members that are still to come are there.

A guess, for choosing what to fit early: the zoo that is grown does not depend on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from zoo_ray.zoo.boosting import Floats


class Standing(NamedTuple):
    """What a complete episode left behind: each task's loss and number of members, in stream
    order, both of shape (episode,)."""

    losses: Floats
    members: Sequence[int]


@dataclass(frozen=True)
class Forecast:
    """Guessed losses, and how far each may be off.

    Attributes:
        known: each task's loss with the members that are there, shape (tasks seen,).
        change: log of the factor by which members to come are guessed to change it.
        errors: standard deviation of the log of each guessed loss; 0: it is known.
        gains: log of the factor by which a member more changes each task's loss.
        gain_error: its standard deviation.
        newest: log of the loss of a task with its first members, its standard deviation, and the
            task's gain.
    """

    known: Floats
    change: Floats
    errors: Floats
    gains: Floats
    gain_error: float
    newest: tuple[float, float, float]

    @staticmethod
    def at(
        losses: Floats,
        *,
        gains: float | Floats,
        gain_error: float,
        newest: tuple[float, float, float],
    ) -> "Forecast":
        """The guess for now: the losses as they are. `gains` may be one for all tasks."""
        nothing = np.zeros(len(losses))
        return Forecast(losses, nothing, nothing, nothing + gains, gain_error, newest)

    @property
    def losses(self) -> Floats:
        """The guessed losses."""
        return self.known * np.exp(self.change)

    @property
    def weight_errors(self) -> Floats:
        """Standard deviation of each task's log boosting weight."""
        losses = self.losses
        mean = losses.mean()
        return self.errors * losses / mean if mean else self.errors

    def after(self, members: Floats, known: Mapping[int, float]) -> "Forecast":
        """The guess for an episode later.

        Args:
            members: how many members that are not there yet the episode is expected to give each
                of the tasks seen before it, shape (tasks seen,).
            known: losses of tasks with the episode's members that are there, by position; of the
                newest task too, if all its members are.
        """
        first, first_error, gain = self.newest
        errors = np.sqrt(self.errors**2 + self.gain_error**2 * members)
        now = replace(
            self,
            known=np.append(self.known, np.exp(first)),
            change=np.append(self.change + self.gains * members, 0.0),
            errors=np.append(errors, first_error),
            gains=np.append(self.gains, gain),
        )
        for task, loss in known.items():
            now.known[task] = loss
        if len(self.known) in known:
            now.errors[-1] = 0.0
        return now


# Episodes that a guess looks back at: more would take time where there are a thousand.
_RECENT = 50

Predictor = Callable[[Sequence[Standing]], Forecast]


def mean_change(standings: Sequence[Standing]) -> Forecast:
    """Each member more changes a task's loss as it did on average so far.

    Of the guesses tried, the best: on recorded 20-task zoos, 8 workers were 5.5 and 6.2 times as
    fast as one with it (5 and 2 tasks per member), 5.0 and 5.6 with losses left as they are, 5.3
    and 6.2 with the change fitted to the number of members (`bench/schedule.py` has both).
    """
    run = past_changes(standings)
    gain, gain_error = with_prior(run.gains, mean=-0.2, deviation=0.2)
    first, first_error = with_prior(run.firsts, mean=-0.7, deviation=0.5)
    newest = (first, first_error, gain)
    return Forecast.at(run.losses, gains=gain, gain_error=gain_error, newest=newest)


class PastChanges(NamedTuple):
    """What a run's losses did, in logarithms.

    Attributes:
        losses: the present ones, of the tasks seen.
        gains: change of a task's loss for a member more, each time that a task got some.
        members: how many the task had then.
        firsts: each task's loss with its first members.
    """

    losses: Floats
    gains: list[float]
    members: list[int]
    firsts: list[float]


def past_changes(standings: Sequence[Standing]) -> PastChanges:
    """What the losses of a run did so far, or in as many episodes as are worth looking at."""
    nothing = Standing(np.zeros(0), ())
    recent = [nothing, *standings][-_RECENT:]
    gains: list[float] = []
    members: list[int] = []
    firsts: list[float] = []
    for before, now in pairwise(recent):
        had = np.array(before.members, dtype=int)
        more = now.members[: len(had)] - had
        gained = np.flatnonzero(more)
        logs, logs_before = (np.log(np.maximum(s.losses, 1e-9)) for s in (now, before))
        gains += ((logs[gained] - logs_before[gained]) / more[gained]).tolist()
        members += had[gained].tolist()
        firsts.append(float(logs[-1]))
    return PastChanges(recent[-1].losses, gains, members, firsts)


def with_prior(seen: Sequence[float], *, mean: float, deviation: float) -> tuple[float, float]:
    """Mean and standard deviation of numbers seen and two made up, a deviation off either side."""
    known = np.array([mean - deviation, mean + deviation, *seen])
    return float(known.mean()), float(known.std())
