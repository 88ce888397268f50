"""Which members may be fitted now. Pure functions of the rules and of what is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zoo_ray.own_code import is_own
from zoo_ray.rules import Rules
from zoo_ray.zoo.boosting import Floats, draw_noise, draw_tasks
from zoo_ray.zoo.forecast import Forecast, Predictor, Standing, mean_change
from zoo_ray.zoo.weights import task_weights

URGENCY = 0.97
"""Worth of a member an episode later: what is wanted next is what the others wait for. Replayed,
0.97 gives about 5% more speed than 1 (two tasks per member, 4 workers), and 0.9 no more."""

# After so many slots without a likely draw, what comes later is likelier still to be unlikely.
_HOPELESS = 20


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

    These are the next one; the episodes up to b, which draw every task; all of them where the draw
    does not look at losses; and the closing rounds once all of the stream's are.

    Args:
        complete: how many episodes have all their members.
    """
    if rules.arriving:
        blind = rules.mode in ("uniform", "pairs") or rules.past_tasks == 0
        last = rules.tasks if blind else min(max(complete, rules.past_tasks) + 1, rules.tasks)
        if last == rules.tasks:
            last = rules.episodes
    else:
        takes_all = rules.tasks_per_member >= rules.tasks
        last = rules.episodes if takes_all else min(complete + 1, rules.episodes)
    return range(complete + 1, last + 1)


def draw_episode(
    rules: Rules, *, episode: int, weights: Floats, members: Floats | None = None
) -> list[Draw]:
    """The draws of one episode's members.

    Args:
        episode: from 1.
        weights: boosting weights of the tasks that it chooses from; not read in a mode, or in an
            early episode, that does not look at them.
        members: how many members these tasks have, those of earlier episodes that are still to
            come included; read by closing rounds, and where there is a `count_penalty`.
    """
    known, newest = rules.known(episode), rules.newest(episode)
    indices = range(rules.members_at(episode))
    if rules.mode == "pairs":
        sets = [newest, *((past, *newest) for past in range(known))]
        return [Draw(Slot(episode, index), tasks) for index, tasks in enumerate(sets)]
    if rules.arriving and not newest:
        return _closing_draws(rules, episode=episode, members=members)
    count = rules.tasks_at(episode) - len(newest)
    if rules.mode == "uniform" or count in (0, known):
        weights = np.ones(known)  # their losses do not matter, and may not be known yet
    weights = _weighed(rules, weights, members)
    return [
        Draw(
            slot=Slot(episode, index),
            tasks=(
                *draw_tasks(
                    weights=weights,
                    count=count,
                    seed=rules.seed,
                    episode=rules.key(episode),
                    index=index,
                ),
                *newest,
            ),
        )
        for index in indices
    ]


def _closing_draws(rules: Rules, *, episode: int, members: Floats | None) -> list[Draw]:
    """Tasks of the fewest members first; of equals, the draw's noise decides."""
    assert members is not None
    members = members.copy()
    draws = []
    for index in range(rules.members_per_episode):
        noise = draw_noise(rules.seed, rules.key(episode), index, rules.tasks)
        order = np.lexsort((-noise, members))
        chosen = np.sort(order[: rules.tasks_at(episode)])
        members[chosen] += 1  # also those of one round are spread
        draws.append(Draw(Slot(episode, index), tuple(chosen.tolist())))
    return draws


def _weighed(rules: Rules, weights: Floats, members: Floats | None) -> Floats:
    """Weights of the draw: those of boosting, less for tasks that have many members."""
    if rules.count_penalty == 0:
        return weights
    assert members is not None
    return weights / np.maximum(members, 1.0) ** rules.count_penalty


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
    # What is not guessed: the rounds of a multi-task zoo.
    if settled.stop > rules.tasks or not rules.arriving:
        return []
    forecast = predict(standings)
    having = np.array(standings[-1].members if standings else (), dtype=np.float64)
    found: list[Prospect] = []
    missing = hopeless = 0
    for episode in range(len(standings) + 1, rules.tasks + 1):
        if episode not in settled and (missing >= count or hopeless >= _HOPELESS):
            break
        members, known, whole = np.zeros(episode - 1), dict[int, float](), True
        outlook = _outlook(rules, episode, forecast, episode in settled, having)
        for draw, inclusion, options in outlook:
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
        if rules.count_penalty or is_own(rules.weights):
            more = np.sum([slot.inclusion for slot in outlook], axis=0)
            having = np.append(having + more, rules.members_per_episode)
    return sorted(found, key=lambda prospect: -prospect.worth)


class _Outlook(NamedTuple):
    """A slot's likeliest draw, each past task's probability to be drawn, and what the draw may be,
    with the probabilities."""

    likeliest: Draw
    inclusion: Floats
    options: list[tuple[Draw, float]]


def _outlook(
    rules: Rules, episode: int, forecast: Forecast, settled: bool, members: Floats
) -> list[_Outlook]:
    weights = task_weights(rules, losses=forecast.losses, members=members)
    if settled:
        draws = draw_episode(rules, episode=episode, weights=weights, members=members)
        return [_Outlook(draw, _share(draw), []) for draw in draws]
    indices = range(rules.members_per_episode)
    noise = np.stack([draw_noise(rules.seed, episode, index, episode - 1) for index in indices])
    scores = np.log(_weighed(rules, weights, members)) + noise
    errors = rules.sharpness * forecast.weight_errors
    inclusion, likeliest = _odds(scores, errors, count=rules.past_tasks)
    slots = []
    for index, sets in zip(indices, likeliest, strict=True):
        slot = Slot(episode, index)
        options = [(Draw(slot, (*tasks, episode - 1)), chance) for tasks, chance in sets]
        slots.append(_Outlook(options[0][0], inclusion[index], options))
    return slots


def _share(draw: Draw) -> Floats:
    *past, newest = draw.tasks
    share = np.zeros(newest)
    share[past] = 1.0
    return share


def _odds(
    scores: Floats, errors: Floats, *, count: int
) -> tuple[Floats, list[list[tuple[tuple[int, ...], float]]]]:
    """How likely tasks are to be drawn, from their scores and these scores' errors.

    Args:
        scores: shape (draws, tasks).
        errors: standard deviations of the scores, shape (tasks,).
        count: how many tasks each draw takes.

    Returns:
        The probability of each task to be among the drawn, shape (draws, tasks); and for each draw,
        the likeliest set of tasks, and what the likeliest exchange makes of it, each with its
        probability.
    """
    order = np.argpartition(-scores, (count - 1, count), axis=1)
    edge = np.take_along_axis(scores, order[:, count - 1 : count + 1], axis=1)
    distances = np.abs(scores - edge.mean(axis=1, keepdims=True))
    # The logistic distribution function at 1.702 z is within 0.01 of the normal one at z.
    odds = np.exp(-1.702 * distances / np.maximum(errors, 1e-9))
    drawn = order[:, :count]
    inside = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(inside, drawn, True, axis=1)
    inclusion = np.where(inside, 1.0, odds) / (1 + odds)
    leaving = np.where(inside, odds, -1.0).argmax(axis=1)
    entering = np.where(inside, -1.0, odds).argmax(axis=1)
    rows = np.arange(len(scores))
    exchange = odds[rows, leaving] * odds[rows, entering]
    sums = (odds * inside).sum(axis=1) * (odds * ~inside).sum(axis=1)
    likeliest = []
    for row, tasks in enumerate(drawn.tolist()):
        # Sets that differ by n exchanges have odds that sum to about
        # (sum in x sum out)^n / n!^2.
        all_sets = _bessel_i0(float(sums[row]))
        other = {*tasks, int(entering[row])} - {int(leaving[row])}
        likeliest.append(
            [
                (tuple(sorted(tasks)), 1 / all_sets),
                (tuple(sorted(other)), float(exchange[row]) / all_sets),
            ]
        )
    return inclusion, likeliest


def _bessel_i0(x: float) -> float:
    """The sum of x^n / n!^2 over all n, I0(2 sqrt x); for one number, faster than np.i0."""
    total = term = 1.0
    n = 0
    while term > 1e-6 * total:
        n += 1
        term *= x / (n * n)
        total += term
    return total
