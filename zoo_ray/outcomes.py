"""What came of the configurations of a comparison: means over seeds, and paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from zoo_ray.members.spec import Recipe
from zoo_ray.rules import Rules
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.metrics import Metrics


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        mean: of the seeds.
        sd: sample standard deviation; None for one seed.
        by_seed: the numbers.
    """

    mean: float
    sd: float | None
    by_seed: Annotated[tuple[float, ...], Field(min_length=1)]

    @staticmethod
    def of(values: Sequence[float | None]) -> "Spread | None":
        """The spread of numbers; None if there are none, or one has no meaning."""
        numbers = tuple(value for value in values if value is not None)
        if not numbers or len(numbers) < len(values):
            return None
        sd = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
        return Spread(float(np.mean(numbers)), sd, numbers)


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:z.2f}%"  # z: what rounds to 0 has no minus


def spread_text(spread: Spread | None, *, sign: str = "") -> str:
    """A share over seeds, in percent."""
    if spread is None:
        return "-"
    mean = f"{100 * spread.mean:{sign}z.2f}"
    return mean if spread.sd is None else f"{mean} ± {100 * spread.sd:.2f}"


def difference_text(spread: Spread | None) -> str:
    """A paired difference, in percent; with a star where it is not 0, by its interval."""
    low, high = (spread and interval_95(spread)) or (0.0, 0.0)
    return spread_text(spread, sign="+") + ("*" if low > 0 or high < 0 else "")


def interval_95(spread: Spread) -> tuple[float, float] | None:
    """Where the mean of so many seeds lies in 95 of 100 cases (Student's t); None for one seed."""
    if spread.sd is None:
        return None
    from scipy.special import stdtrit

    count = len(spread.by_seed)
    half = float(stdtrit(count - 1, 0.975)) * spread.sd / math.sqrt(count)
    return spread.mean - half, spread.mean + half


def clear_shares(by_seed: Sequence[Floats]) -> tuple[float, float]:
    """Shares of the numbers that are clearly above, and below, 0: the 95% interval of their mean
    over the seeds leaves it out.

    Args:
        by_seed: two arrays of one shape at least; NaN in all of them: no number.
    """
    columns = np.stack([one[~np.isnan(one)] for one in by_seed], axis=1).tolist()
    intervals = [interval_95(spread) for column in columns if (spread := Spread.of(column))]
    above = sum(low > 0 for low, _ in filter(None, intervals))
    below = sum(high < 0 for _, high in filter(None, intervals))
    return above / len(columns), below / len(columns)


@dataclass(frozen=True)
class Outcome:
    """One configuration, grown for every seed.

    Attributes:
        name: what tables and figures call it.
        runs: names of its zoos' runs, one for each seed.
        rules, recipe: of its first zoo.
        metrics: of each zoo, on the test parts; empty if one could not be grown.
        members: of a zoo.
        images: that a zoo's members are fitted on, mean over the seeds: training samples, repeats
            included, times epochs.
        guessed: most tasks that no member of a zoo knows, of which it predicts any class alike.
        problem: why a zoo could not be grown.
    """

    name: str
    runs: Sequence[str]
    rules: Rules
    recipe: Recipe
    metrics: Sequence[Metrics]
    members: int
    images: float
    guessed: int = 0
    problem: str | None = None

    def spread(self, metric: str) -> Spread | None:
        """A metric over the seeds, by its name in `Metrics`."""
        return Spread.of([getattr(zoo, metric) for zoo in self.metrics])


def difference(outcome: Outcome, reference: Outcome) -> Spread | None:
    """How much more average accuracy an outcome has than another, seed by seed."""
    return _paired(outcome, reference, "average_accuracy")


def forward_transfer(outcome: Outcome, outcomes: Sequence[Outcome]) -> Spread | None:
    """Learning accuracy minus that of Isolated, paired by seed, recipe and members per episode.

    A task has no head before it arrives, so the zero-shot definition (Lopez-Paz & Ranzato 2017)
    does not apply. None where there is no such Isolated, or no tasks arrive.
    """
    isolated = [
        other
        for other in outcomes
        if other.rules.mode == "isolated"
        and other.recipe == outcome.recipe
        and other.rules.members_per_episode == outcome.rules.members_per_episode
    ]
    if outcome.rules.mode == "isolated" or not isolated:
        return None
    return _paired(outcome, isolated[0], "learning_accuracy")


def _paired(outcome: Outcome, other: Outcome, metric: str) -> Spread | None:
    ours, theirs = outcome.spread(metric), other.spread(metric)
    if ours is None or theirs is None:
        return None
    return Spread.of([a - b for a, b in zip(ours.by_seed, theirs.by_seed, strict=True)])
