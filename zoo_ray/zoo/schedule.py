"""Which members may be fitted now. Pure functions of the rules and of what is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from zoo_ray.zoo.boosting import Floats, boosting_weights, draw_noise, draw_tasks
from zoo_ray.zoo.forecast import Forecast, Predictor, Standing, mean_change

URGENCY = 0.97
"""Worth of a member an episode later: what is wanted next is what the others wait for. Replayed,
0.97 gives about 5% more speed than 1 (two tasks per member, 4 workers), and 0.9 no more."""

# After so many slots without a likely draw, what comes later is likelier still to be unlikely.
_HOPELESS = 20

Mode = Literal["continual", "isolated", "uniform"]


@dataclass(frozen=True)
class Rules:
    """What decides which members a zoo has.

    Attributes:
        tasks: length of the stream.
        mode: see `zoo_ray.config.ZooConfig`.
        tasks_per_member: b, the newest task included.
        members_per_episode: m.
        seed: the run's seed.
    """

    tasks: int
    mode: Mode
    tasks_per_member: int
    members_per_episode: int
    seed: int

    @property
    def past_tasks(self) -> int:
        """How many past tasks a member is given beside the newest, where there are so many."""
        return 0 if self.mode == "isolated" else self.tasks_per_member - 1

    def tasks_at(self, episode: int) -> int:
        """How many tasks the members of an episode are fitted on."""
        return min(self.past_tasks + 1, episode)

    @property
    def members(self) -> int:
        """How many members the grown zoo has."""
        return self.tasks * self.members_per_episode


@dataclass(frozen=True, order=True)
class Slot:
    """A member's place in the zoo. Slots sort in the order in which members are averaged.

    Attributes:
        episode: from 1.
        index: within the episode, from 0.
    """

    episode: int
    index: int


class Draw(NamedTuple):
    """A slot, and the positions of the tasks that its member is fitted on, in stream order."""

    slot: Slot
    tasks: tuple[int, ...]


def settled_episodes(rules: Rules, *, complete: int) -> range:
    """The episodes after the complete ones whose draws no loss can change any more.

    These are the next one; the episodes up to b, which draw every task; and all of them where the
    draw does not look at losses.

    Args:
        complete: how many episodes have all their members.
    """
    if rules.mode != "continual" or rules.past_tasks == 0:
        last = rules.tasks
    else:
        last = min(max(complete + 1, rules.past_tasks + 1), rules.tasks)
    return range(complete + 1, last + 1)


def draw_episode(rules: Rules, *, episode: int, weights: Floats) -> list[Draw]:
    """The draws of one episode's members.

    Args:
        episode: from 1; its newest task has position episode - 1.
        weights: boosting weights of the episode - 1 past tasks; not read in a mode, or in an
            early episode, that does not look at them.
    """
    past = episode - 1
    if rules.mode == "uniform":
        weights = np.ones(past)
    if rules.past_tasks >= past:
        weights = np.ones(past)  # every past task is drawn: their losses may not be known yet
    return [
        Draw(
            slot=Slot(episode, index),
            tasks=(
                *draw_tasks(
                    weights=weights,
                    count=rules.past_tasks,
                    seed=rules.seed,
                    episode=episode,
                    index=index,
                ),
                past,
            ),
        )
        for index in range(rules.members_per_episode)
    ]


class Prospect(NamedTuple):
    """A draw that may come out so.

    Attributes:
        draw: the draw.
        chance: the probability that it does.
        worth: orders prospects: the chance, less for those that are wanted late.
    """

    draw: Draw
    chance: float
    worth: float


def prospects(
    rules: Rules,
    standings: Sequence[Standing],
    *,
    count: int,
    least: float = 0.0,
    fold: Callable[[Draw], Mapping[int, float] | None] = lambda _: None,
    predict: Predictor = mean_change,
) -> list[Prospect]:
    """The likeliest draws of the episodes that no loss settles yet, most worth a fit first.

    The draw is applied to guessed losses. Its noise is a function of the seed, so it comes out
    otherwise only if an error of the guess lifts a task over one that outdid it; the chance is that
    of no such thing, with normal errors (in their logistic approximation), each task by itself.

    Args:
        rules: of the zoo.
        standings: of the complete episodes.
        count: how many draws to look for. Those of the episodes next to come are looked at first.
        least: leave out those less likely than this.
        fold: asked for the likeliest member of each slot ahead, in order. If it is there already,
            folds it in, and gives the losses of its tasks with all that were folded in, by
            position, or nothing if that is too much work; if it is not there, None.
        predict: guesses losses.
    """
    settled = settled_episodes(rules, complete=len(standings))
    if settled.stop > rules.tasks:
        return []
    forecast = predict(standings)
    found: list[Prospect] = []
    missing = hopeless = 0
    for episode in range(len(standings) + 1, rules.tasks + 1):
        if episode not in settled and (missing >= count or hopeless >= _HOPELESS):
            break
        members, known, whole = np.zeros(episode - 1), dict[int, float](), True
        for draw, inclusion, options in _outlook(rules, episode, forecast, episode in settled):
            losses = fold(draw)
            missing += losses is None and episode not in settled
            if losses:
                known |= losses
            else:
                members += inclusion
                whole = False
            urgency = URGENCY ** (episode - settled.stop)
            likely = [(d, chance) for d, chance in options if chance >= least]
            hopeless = 0 if likely or not options else hopeless + 1
            found += [Prospect(d, chance, chance * urgency) for d, chance in likely]
        if not whole:
            known.pop(episode - 1, None)
        forecast = forecast.after(members, known)
    return sorted(found, key=lambda prospect: -prospect.worth)


class _Outlook(NamedTuple):
    """A slot's likeliest draw, each past task's probability to be drawn, and what the draw may be,
    with the probabilities."""

    likeliest: Draw
    inclusion: Floats
    options: list[tuple[Draw, float]]


def _outlook(rules: Rules, episode: int, forecast: Forecast, settled: bool) -> list[_Outlook]:
    weights = boosting_weights(forecast.losses)
    if settled:
        draws = draw_episode(rules, episode=episode, weights=weights)
        return [_Outlook(draw, _share(draw), []) for draw in draws]
    indices = range(rules.members_per_episode)
    noise = np.stack([draw_noise(rules.seed, episode, index, episode - 1) for index in indices])
    odds = _Odds(np.log(weights) + noise, forecast.weight_errors, count=rules.past_tasks)
    slots = []
    for index, sets in zip(indices, odds.likeliest(), strict=True):
        slot = Slot(episode, index)
        options = [(Draw(slot, (*tasks, episode - 1)), chance) for tasks, chance in sets]
        slots.append(_Outlook(options[0][0], odds.inclusion[index], options))
    return slots


def _share(draw: Draw) -> Floats:
    *past, newest = draw.tasks
    share = np.zeros(newest)
    share[past] = 1.0
    return share


class _Odds:
    """How likely tasks are to be drawn, from their scores and these scores' errors.

    Args:
        scores: shape (draws, tasks).
        errors: standard deviations of the scores, shape (tasks,).
        count: how many tasks each draw takes.

    Attributes:
        inclusion: probability of each task to be among the drawn, shape (draws, tasks).
    """

    def __init__(self, scores: Floats, errors: Floats, *, count: int) -> None:
        order = np.argpartition(-scores, (count - 1, count), axis=1)
        edge = np.take_along_axis(scores, order[:, count - 1 : count + 1], axis=1)
        distances = np.abs(scores - edge.mean(axis=1, keepdims=True))
        # The logistic distribution function at 1.702 z is within 0.01 of the normal one at z.
        odds = np.exp(-1.702 * distances / np.maximum(errors, 1e-9))
        self._drawn = order[:, :count]
        inside = np.zeros(scores.shape, dtype=bool)
        np.put_along_axis(inside, self._drawn, True, axis=1)
        self.inclusion = np.where(inside, 1.0, odds) / (1 + odds)
        self._leaving, self._entering = np.where(inside, odds, -1.0), np.where(inside, -1.0, odds)
        self._sums = np.stack([(odds * inside).sum(axis=1), (odds * ~inside).sum(axis=1)], axis=1)

    def likeliest(self) -> list[list[tuple[tuple[int, ...], float]]]:
        """For each draw, the likeliest set of tasks, and what the likeliest exchange makes of it,
        each with its probability."""
        leaving, entering = self._leaving.argmax(axis=1), self._entering.argmax(axis=1)
        rows = np.arange(len(leaving))
        exchange = self._leaving[rows, leaving] * self._entering[rows, entering]
        result = []
        for row, drawn in enumerate(self._drawn.tolist()):
            # Sets that differ by n exchanges have odds that sum to about
            # (sum in x sum out)^n / n!^2.
            all_sets = _bessel_i0(float(self._sums[row].prod()))
            other = {*drawn, int(entering[row])} - {int(leaving[row])}
            result.append(
                [
                    (tuple(sorted(drawn)), 1 / all_sets),
                    (tuple(sorted(other)), float(exchange[row]) / all_sets),
                ]
            )
        return result


def _bessel_i0(x: float) -> float:
    """The sum of x^n / n!^2 over all n, I0(2 sqrt x); for one number, faster than np.i0."""
    total = term = 1.0
    n = 0
    while term > 1e-6 * total:
        n += 1
        term *= x / (n * n)
        total += term
    return total
