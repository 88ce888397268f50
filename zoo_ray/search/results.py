"""What a search has found: its trials as rows, the best among them, what mattered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo_ray.search.space import Values
from zoo_ray.search.trials import Status
from zoo_ray.zoo.boosting import Floats

_BINS = 4
_DEALS = 1000


@dataclass(frozen=True)
class Row:
    """A trial in the table of results.

    Attributes:
        trial: its number, from 1.
        members_per_episode: of its zoos.
        prefix: whether this is the zoo that the trial was with fewer members per episode: the
            first of each, where draws do not look at losses.
        values: what it tried.
        status, problem, episodes: how it ended.
        members, images: what it asked for and would cost alone, over all seeds; images are
            training samples of all members, repeats included, times epochs.
        score: the metric, mean over the seeds; NaN if there is none.
        scores: of each seed.
        accuracy: validation average accuracy, mean over the seeds.
        digests: its members.
    """

    trial: int
    members_per_episode: int
    prefix: bool
    values: Values
    status: Status
    problem: str | None
    episodes: int
    members: int
    images: int
    score: float
    scores: Sequence[float]
    accuracy: float
    digests: Sequence[str]

    @property
    def name(self) -> str:
        """What tables and figures call it."""
        return f"{self.trial}.{self.members_per_episode}" if self.prefix else str(self.trial)


@dataclass(frozen=True)
class Findings:
    """What stands out among rows.

    Attributes:
        best: of the complete ones, that of the best score; of equals the cheapest, then the first.
        near: the cheapest that is as good as the best, within a standard error of it.
        front: those that no other beats in score at the same or less cost, by cost.
    """

    best: Row
    near: Row
    front: list[Row]


def findings(
    rows: Sequence[Row], *, maximised: bool, validation_samples: int | None
) -> Findings | None:
    """What stands out among complete trials; None if there are none.

    Args:
        rows: of the trials.
        maximised: whether more of the score is better.
        validation_samples: of which the score is the share that is right, the same ones for every
            seed. They give it its standard error, which is not 0 where all are right (Agresti &
            Coull 1998). None: it is no such share, and none is as good as the best.
    """
    complete = [row for row in rows if row.status == "complete" and not math.isnan(row.score)]
    if not complete:
        return None
    sign = 1 if maximised else -1
    by_cost = sorted(complete, key=lambda row: (row.images, -sign * row.score, row.trial))
    best = max(by_cost, key=lambda row: sign * row.score)
    near = best
    if validation_samples is not None:
        samples = validation_samples + 4
        share = (best.score * validation_samples + 2) / samples
        error = math.sqrt(share * (1 - share) / samples)
        near = next(row for row in by_cost if best.score - row.score <= error)
    front: list[Row] = []
    for row in by_cost:
        if not front or sign * (row.score - front[-1].score) > 0:
            front.append(row)
    return Findings(best, near, front)


def importance(rows: Sequence[Row], keys: Sequence[str]) -> Mapping[str, float | None]:
    """How much each key matters by itself: the share of the scores' variance that lies between
    its values (the correlation ratio), 0 to 1; numbers of many values in four bins of equal size.

    None where it cannot be told from chance: of the same scores dealt to the trials at random, one
    in twenty has as large a share or a larger one (a permutation test). Of few trials that is so
    whatever they score.
    """
    done = judged(rows)
    scores = np.array([row.score for row in done])
    if len(set(scores.tolist())) < 2:
        return dict.fromkeys(keys)
    scores = (scores - scores.mean()) / scores.std()
    dealt = np.random.default_rng(0)  # the same for the same trials
    found: dict[str, float | None] = {}
    for key in keys:
        groups = np.array(_groups([row.values[key] for row in done]))
        share = _share(scores, groups)
        chance = [_share(dealt.permutation(scores), groups) for _ in range(_DEALS - 1)]
        as_large = 1 + sum(other >= share - 1e-9 for other in chance)  # it is a deal itself
        found[key] = share if as_large < _DEALS / 20 else None
    return found


def judged(rows: Sequence[Row]) -> list[Row]:
    """The rows that `importance` looks at."""
    done = (row for row in rows if row.status == "complete" and not row.prefix)
    return [row for row in done if not math.isnan(row.score)]


def _share(scores: Floats, groups: npt.NDArray[np.int64]) -> float:
    """Of the variance between groups; of scores of mean 0 and variance 1."""
    sizes = np.bincount(groups)
    sums = np.bincount(groups, weights=scores)
    return float((sums**2 / np.maximum(sizes, 1)).sum() / len(scores))


def _groups(values: Sequence[object]) -> list[int]:
    """A small number for each value, the same for the same; few for numbers of many values."""
    distinct = sorted(set(values), key=lambda value: (str(type(value)), value))
    numbers = {value: number for number, value in enumerate(distinct)}
    places = [numbers[value] for value in values]
    if len(distinct) <= 2 * _BINS or any(isinstance(value, str) for value in values):
        return places
    return [place * _BINS // len(distinct) for place in places]
