"""What a search is: read from YAML, validated at the door."""

import math
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from zoo_ray.config import (
    Auto,
    Count,
    Number,
    RunConfig,
    Section,
    as_items,
    as_path,
    override,
    read_mapping,
    read_run_mapping,
    read_sections,
    shown,
    validate,
    vary,
)
from zoo_ray.errors import UserError
from zoo_ray.rules import Rules
from zoo_ray.search.space import KINDS, Dimension, Values, ends, grid_values, sample

MetricName = Literal[
    "validation_average_accuracy",
    "validation_learning_accuracy",
    "validation_backward_transfer",
    "validation_forgetting",
]
DEFAULT_METRIC: MetricName = "validation_average_accuracy"
DEFAULT_VALIDATION = 0.1
MOST_TRIALS = 10_000
"""More than Ray's Tune bears in one search."""

Whole = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31)]
MEMBERS_PER_EPISODE = "zoo.members_per_episode"
_OF_SIZE = (MEMBERS_PER_EPISODE, "zoo.mode", "zoo.rounds", "zoo.warm_start", "zoo.closing_rounds")
_SEARCHED = ("zoo", "recipe")
_OF_PAST_TASKS = ("validation_backward_transfer", "validation_forgetting")


class DimensionConfig(Section):
    """The values that one key may take; just one of these is given."""

    choice: list[bool | int | float | str] | None = None
    """Any of these values."""
    randint: tuple[Whole, Whole] | None = None
    """Whole numbers from the first up to, and without, the second."""
    uniform: tuple[Number, Number] | None = None
    """Numbers between the two."""
    loguniform: tuple[Number, Number] | None = None
    """Numbers between the two, each order of magnitude as likely as the others."""

    @model_validator(mode="after")
    def _is_one(self) -> "DimensionConfig":
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise ValueError(f"give just one of {', '.join(KINDS)}")
        kind, values = self.dimension
        if kind == "choice":
            if not values:
                raise ValueError("choice is empty; give one value at least")
            if len({repr(value) for value in values}) < len(values):
                raise ValueError("choice names a value twice; once is enough")
        elif not values[0] < values[1]:
            raise ValueError(f"{kind}: the first number must be less than the second")
        elif kind == "loguniform" and values[0] <= 0:
            raise ValueError("loguniform: both numbers must be more than 0")
        return self

    @property
    def dimension(self) -> Dimension:
        """The same, as the sampler takes it."""
        kind = next(kind for kind in KINDS if getattr(self, kind) is not None)
        return Dimension(kind, tuple(getattr(self, kind)))


class BudgetConfig(Section):
    """When a search starts no more trials."""

    members: Count | None = None
    """When its trials have asked for so many members, shared ones counted for each."""
    hours: Annotated[Number, Field(gt=0, le=1e5)] | None = None
    """When it has gone on for so long; trials under way end then, too."""


class SearchConfig(Section):
    """All that a search needs: the YAML file's top level."""

    base: RunConfig
    """The run that is varied: a mapping, or the path of a run's YAML file."""
    space: dict[str, DimensionConfig] = Field(min_length=1)
    """What is varied: any key of `zoo` or `recipe`, as `zoo.tasks_per_member`."""
    samples: Annotated[Count, Field(le=MOST_TRIALS)] | Literal["grid"] = "grid"
    """Trials: so many, or every combination of the choices."""
    searcher: Literal["random", "optuna"] = "random"
    """`optuna` chooses values by what the trials before have given (needs the package optuna)."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha` stops trials early that are worse than most at the same episode (Li et al. 2020)."""
    grace_episodes: Count | None = None
    """Episodes before `asha` stops a trial; null: one more than tasks per member, up to which
    trials may not differ."""
    metric: MetricName = DEFAULT_METRIC
    """What the best has most of (least of forgetting); the mean over the seeds."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**63, strict=True)]] | None = Field(
        default=None, min_length=1
    )
    """A trial grows a zoo for each; null: the base's zoo.seed."""
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] = 0
    """Decides the samples."""
    trials_at_once: Count | Auto = "auto"
    """Trials under way; `auto`: as many as workers, and 4 at least (of `optuna`, always 4: what it
    learns from decides what it tries)."""
    budget: BudgetConfig = BudgetConfig()

    @field_validator("base", mode="after")
    @classmethod
    def _has_a_validation_part(cls, base: RunConfig) -> RunConfig:
        benchmark = base.benchmark
        if "validation" not in benchmark.model_fields_set:
            return vary(base, {"benchmark.validation": DEFAULT_VALIDATION}, source="base")
        if benchmark.validation == 0:
            raise UserError(
                "base.benchmark.validation = 0: a search is judged on validation samples; leave it "
                f"out for {DEFAULT_VALIDATION}"
            )
        return base

    @field_validator("base", mode="after")
    @classmethod
    def _has_workers(cls, base: RunConfig) -> RunConfig:
        if base.workers.count == 0:
            raise UserError("base.workers.count = 0: a search needs Ray's workers; 1 is enough")
        return base

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice; once is enough")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self) -> "SearchConfig":
        for key, values in self.space.items():
            if key.partition(".")[0] not in _SEARCHED:
                raise UserError(
                    f"space.{key}: a search varies keys of zoo and recipe, as recipe.lr; its "
                    "trials share the rest"
                )
            if key == "zoo.seed":
                raise UserError(
                    "space.zoo.seed: give seeds instead, which each trial averages over"
                )
            for end in ends(values.dimension):
                vary(self.base, {key: end}, source="space")
        names = [key for key, values in self.space.items() if values.choice is None]
        if self.samples == "grid" and names:
            raise UserError(
                f"samples = grid: space.{names[0]} has no end of values; give a number of "
                "samples, or a choice"
            )
        if self.samples == "grid" and self.trials > MOST_TRIALS:
            raise UserError(
                f"samples = grid: {self.trials:,} combinations; give a number of samples, or fewer "
                "choices"
            )
        if self.samples == "grid" and self.searcher == "optuna":
            raise UserError("searcher = optuna: give a number of samples")
        most = self.budget.members
        if most is not None and most < self.least_members:
            raise UserError(
                f"budget.members = {most}: a trial asks for {self.least_members} at least; give "
                "more"
            )
        if len(self.base.benchmark.tasks) == 1 and self.metric in _OF_PAST_TASKS:
            raise UserError(f"metric = {self.metric}: it has no meaning for a stream of one task")
        if self.metric != DEFAULT_METRIC and not all(rules.arriving for rules in self._all_rules()):
            raise UserError(
                f"metric = {self.metric}: it has no meaning where all tasks are there from the "
                f"start; use {DEFAULT_METRIC}"
            )
        self._check_asha()
        return self

    def _check_asha(self) -> None:
        if self.scheduler == "none":
            return
        episodes = self.most_episodes
        most = self.most_tasks_per_member
        if self.grace_episodes is not None and self.grace_episodes <= most:
            raise UserError(
                f"grace_episodes = {self.grace_episodes}: up to episode {most} (the most tasks per "
                "member) trials may not differ; give more, or leave it out"
            )
        if self.grace >= episodes:
            raise UserError(
                f"scheduler = asha: the first {self.grace} of {episodes} episodes are its grace; "
                "there is nothing to stop early; use none"
            )

    @property
    def most_tasks_per_member(self) -> int:
        """Of all trials."""
        space = self.space.get("zoo.tasks_per_member")
        if space is None:
            return self.base.zoo.tasks_per_member
        values = ends(space.dimension)
        return max(value for value in values if isinstance(value, int))

    @property
    def grace(self) -> int:
        """Episodes before a trial may be stopped."""
        return self.grace_episodes or self.most_tasks_per_member + 1

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """The space, as the sampler takes it."""
        return {key: values.dimension for key, values in self.space.items()}

    @property
    def trials(self) -> int:
        """How many there are without a budget."""
        if self.samples == "grid":
            return math.prod(len(dimension.values) for dimension in self.dimensions.values())
        return self.samples

    def values(self, number: int) -> Values:
        """The values of a trial, by its number; not of `optuna`, which chooses them."""
        if self.samples == "grid":
            return grid_values(self.dimensions, number=number)
        return sample(self.dimensions, seed=self.seed, number=number)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of every trial's zoos."""
        return [self.base.zoo.seed] if self.seeds is None else self.seeds

    def members(self, values: Values) -> int:
        """How many members a trial asks for."""
        return self.rules(values).members * len(self.all_seeds)

    def rules(self, values: Values) -> Rules:
        """Which members a trial's zoos have."""
        zoo = {
            key.removeprefix("zoo."): value
            for key, value in values.items()
            if key.startswith("zoo.")
        }
        return self.base.model_copy(update={"zoo": self.base.zoo.model_copy(update=zoo)}).rules

    def members_per_episode(self, values: Values) -> int:
        """Of a trial's zoos."""
        return int(values.get(MEMBERS_PER_EPISODE, self.base.zoo.members_per_episode))

    @property
    def least_members(self) -> int:
        """How many members a trial asks for at least."""
        return min(rules.members for rules in self._all_rules()) * len(self.all_seeds)

    @property
    def most_members(self) -> int:
        """How many members a trial asks for at most."""
        return max(rules.members for rules in self._all_rules()) * len(self.all_seeds)

    @property
    def most_episodes(self) -> int:
        """How many episodes a trial has at most."""
        return max(rules.episodes for rules in self._all_rules())

    def _all_rules(self) -> list[Rules]:
        """Of the trials that are extreme in what decides how many members there are."""
        keys = [key for key in _OF_SIZE if key in self.space]
        values = product(*(_extremes(self.space[key].dimension) for key in keys))
        return [self.rules(dict(zip(keys, some, strict=True))) for some in values]

    def run_config(self, values: Values, *, seed: int) -> RunConfig:
        """The run that a trial is for one of its seeds.

        Raises:
            UserError: the values do not go together.
        """
        return vary(self.base, {**values, "zoo.seed": seed}, source="space")

    @property
    def maximised(self) -> bool:
        """Whether more of the metric is better."""
        return is_maximised(self.metric)

    @property
    def is_share(self) -> bool:
        """Whether it is the share of the validation samples that is right."""
        return self.metric not in _OF_PAST_TASKS


def is_maximised(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric != "validation_forgetting"


def read_search(path: str | Path, *, overrides: Iterable[str] = ()) -> SearchConfig:
    """Read a search's configuration.

    Args:
        path: a YAML file; the path of `base` in it is relative to it.
        overrides: `key.key=value` items, as of `read_config`; keys of the base begin with `base.`.

    Raises:
        UserError: a file is missing or is not YAML, or a key or value is not allowed.
    """
    path = as_path(path)
    raw = read_mapping(path)
    if "base" not in raw and "benchmark" in raw:
        raise UserError(
            f"{path}: this is a run, not a search; train takes it, and tune takes a file whose "
            "base is a run, as configs/searches/members_and_tasks.yaml"
        )
    _read_base(raw, folder=path.parent, named_by=str(path))
    for item in as_items(overrides):
        override(raw, item)
        _read_base(raw, folder=Path(), named_by=f"--set {item}")
    return validate(SearchConfig, raw, source=str(path))


def _extremes(dimension: Dimension) -> list[Any]:
    """Of numbers the least and the most; of others all."""
    values = ends(dimension)
    numbers = all(type(value) is int for value in values)
    return sorted({min(values), max(values)}) if numbers else values


def _read_base(raw: dict[str, Any], *, folder: Path, named_by: str) -> None:
    """Read the base from its file; and let keys of the space be nested, as `--set` makes them."""
    base = raw.get("base")
    if isinstance(base, str):
        raw["base"] = read_run_mapping(folder / base, named_by=f"{named_by}: base")
    elif isinstance(base, dict):
        read_sections(base, folder=folder, named_by=named_by)
    space = raw.get("space")
    if isinstance(space, dict):
        for section in (*_SEARCHED, "recipe.network_arguments"):
            if isinstance(space.get(section), dict):
                for key, values in space.pop(section).items():
                    space[f"{section}.{key}"] = values


def differences(before: Mapping[str, Any], after: SearchConfig) -> list[str]:
    """The keys by which a recorded search differs from another, where it matters to the trials.

    Args:
        before: the record's `search`.
        after: the search now.
    """
    now = after.model_dump(mode="json")
    free = {"base", "trials_at_once", "budget"}
    if _lengthens(before, now):
        free.add("samples")
    return [
        f"{key} (was {shown(before.get(key))}, is {shown(value)})"
        for key, value in now.items()
        if key not in free and before.get(key) != value
    ]


def _lengthens(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the trials of a search are the first of another's."""
    few, many = before.get("samples"), now.get("samples")
    return isinstance(few, int) and isinstance(many, int) and few <= many
