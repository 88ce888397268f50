"""A search under way: which trials there are, what each has reported, which come next."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from zoo_ray.errors import UserError
from zoo_ray.search.config import SearchConfig
from zoo_ray.search.space import Dimension, Values
from zoo_ray.zoo.growth import Growth

OPTUNA_BATCH = 4
"""So many trials know of the same ones before them: their values, then, do not depend on which of
them ends first."""

Status = Literal["running", "complete", "stopped", "failed"]


class ZooReport(NamedTuple):
    """One of a trial's zoos, after an episode.

    Attributes:
        scores: the metrics so far, on validation parts; by their names without `validation_`.
        digests: of the episode's members.
        images: that these are fitted on: training samples, repeats included, times epochs.
        fitted: the members that this command has fitted, of those.
    """

    scores: dict[str, float | None]
    digests: tuple[str, ...]
    images: int
    fitted: frozenset[str]


EpisodeReport = Sequence[ZooReport]
"""What a trial reports of an episode, for each of its seeds."""


def zoo_report(growth: Growth, *, episode: int, epochs: int, ours: Set[str]) -> ZooReport:
    """What a zoo was after an episode.

    Args:
        growth: has completed the episode.
        episode: from 1.
        epochs: of the recipe.
        ours: digests of members that this command has fitted, at least those of the episode.
    """
    members = growth.episodes[episode - 1].members
    digests = tuple(member.digest for member in members)
    return ZooReport(
        scores=growth.metrics("validation", episode=episode)._asdict(),
        digests=digests,
        images=epochs * sum(member.samples for member in members),
        fitted=frozenset(digest for digest in digests if digest in ours),
    )


@dataclass
class Trial:
    """One zoo for each seed, grown under one choice of values.

    Attributes:
        number: from 0.
        values: what it tries.
        status: how it stands.
        problem: why it failed.
        reports: one for each complete episode.
    """

    number: int
    values: Values
    status: Status = "running"
    problem: str | None = None
    reports: list[EpisodeReport] = field(default_factory=list)

    @property
    def episodes(self) -> int:
        """How many are complete."""
        return len(self.reports)

    @property
    def images(self) -> int:
        """What it would cost alone: images that its members are fitted on."""
        return sum(zoo.images for report in self.reports for zoo in report)

    @property
    def digests(self) -> list[str]:
        """Its members, zoo by zoo, each in the order of its episodes."""
        zoos = zip(*self.reports, strict=True)
        return [digest for zoo in zoos for episode in zoo for digest in episode.digests]

    @property
    def fitted(self) -> set[str]:
        """Those of its members that this command has fitted, for whichever trial."""
        return {digest for report in self.reports for zoo in report for digest in zoo.fitted}

    def scores(self, metric: str) -> list[float]:
        """A metric after the last complete episode, for each seed; NaN where it has no meaning."""
        name = metric.removeprefix("validation_")
        if not self.reports:
            return []
        values = [zoo.scores[name] for zoo in self.reports[-1]]
        return [math.nan if value is None else value for value in values]

    def score(self, metric: str) -> float:
        """The mean of `scores`; NaN before the first episode."""
        scores = self.scores(metric)
        return float(np.mean(scores)) if scores else math.nan


class Trials:
    """The trials of a search, in order of their numbers.

    Args:
        config: the search.
        at_once: most trials under way.

    Attributes:
        all: the trials begun.

    Raises:
        UserError: the search needs a package that is not there.
    """

    def __init__(self, config: SearchConfig, *, at_once: int) -> None:
        self.all: list[Trial] = []
        self._config = config
        self._at_once = at_once
        self._optuna = _Optuna(config) if config.searcher == "optuna" else None

    @property
    def running(self) -> list[Trial]:
        """Those under way."""
        return [trial for trial in self.all if trial.status == "running"]

    @property
    def all_begun(self) -> bool:
        """Whether there are no more to begin."""
        full = len(self.all) >= self._config.trials
        most, running = self._config.budget.members, bool(self.running)
        # What runs may be stopped, and ask for fewer members than it would in full.
        return full or (most is not None and not running and not self._fits(most))

    def begin(self) -> Trial | None:
        """The next trial; None: not now, or `all_begun`."""
        most = self._config.budget.members
        if self.all_begun or len(self.running) >= self._at_once:
            return None
        if most is not None and not self._fits(most):
            return None
        number = len(self.all)
        if self._optuna is None:
            values = self._config.values(number)
        elif all(trial.status != "running" for trial in self.all[: _batch_start(number)]):
            values = self._optuna.values(self.all[: _batch_start(number)])
        else:
            return None
        self.all.append(Trial(number, values))
        return self.all[-1]

    def _fits(self, most: int) -> bool:
        """Whether another trial fits into a budget of members."""
        asked = sum(
            len(trial.digests)
            if trial.status in ("complete", "stopped")
            else self._config.members(trial.values)
            for trial in self.all
        )
        if self._optuna is None and len(self.all) < self._config.trials:
            more = self._config.members(self._config.values(len(self.all)))
        else:
            more = self._config.most_members
        return asked + more <= most


def _batch_start(number: int) -> int:
    return number - number % OPTUNA_BATCH


class _Optuna:
    """Optuna's study (tree-structured Parzen estimator, Bergstra 2011), asked in batches."""

    def __init__(self, config: SearchConfig) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                "searcher = optuna: the package optuna is not installed; pip install 'optuna>=4,<6'"
                ", or use searcher: random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._failed = optuna.trial.TrialState.FAIL
        self._metric = config.metric
        self._space = {key: _distribution(d) for key, d in config.dimensions.items()}
        self._study = optuna.create_study(
            direction="maximize" if config.maximised else "minimize",
            sampler=optuna.samplers.TPESampler(seed=config.seed % 2**32),
        )
        self._asked: list[Any] = []
        self._told = 0

    def values(self, ended: Sequence[Trial]) -> Values:
        """Values for the next trial, given all of those of earlier batches."""
        for trial, asked in zip(ended[self._told :], self._asked[self._told :], strict=False):
            score = trial.score(self._metric)
            if trial.status == "failed" or math.isnan(score):
                self._study.tell(asked, state=self._failed)
            else:
                self._study.tell(asked, score)
        self._told = len(ended)
        asked = self._study.ask(fixed_distributions=self._space)
        self._asked.append(asked)
        return {key: asked.params[key] for key in self._space}


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions as d

    if dimension.kind == "choice":
        return d.CategoricalDistribution(dimension.values)
    low, high = dimension.values
    if dimension.kind == "randint":
        return d.IntDistribution(low, high - 1)
    return d.FloatDistribution(low, high, log=dimension.kind == "loguniform")
