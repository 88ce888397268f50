"""Comparisons, searches and competition studies as the store holds them."""

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from zoo_ray.counts import counted
from zoo_ray.diary import FitTime
from zoo_ray.errors import UserError
from zoo_ray.outcomes import Spread, percent
from zoo_ray.search.config import DEFAULT_METRIC, MEMBERS_PER_EPISODE, MetricName
from zoo_ray.search.results import Findings, Row, importance
from zoo_ray.store import (
    KINDS,
    SearchRecord,
    Store,
    check_name,
    comparison_folder,
    run_folder,
    search_folder,
    zoo_name,
)
from zoo_ray.store.store import TRIALS
from zoo_ray.stored import StoredRun
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.competition import Competition

COMPETING = ("pairs", "together")
"""What the zoos of a competition study are called."""

_OF_COMPETITION = re.compile(rf"(.+)\.(?:{'|'.join(COMPETING)})\.-?\d+")

Matrix = list[list[float | None]]


class _Finite(BaseModel):
    """A record, or a part of one, whose numbers are all finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class ContenderRecord(_Finite):
    """A contender, as a comparison's record names it; see `zoo_ray.outcomes.Outcome`."""

    name: str
    mode: str
    runs: list[str] = Field(min_length=1)
    members: int
    images: float
    average_accuracy: Spread | None = None
    learning_accuracy: Spread | None = None
    backward_transfer: Spread | None = None
    forgetting: Spread | None = None
    difference: Spread | None = None
    forward_transfer: Spread | None = None
    problem: str | None = None


class StudyRecord(_Finite):
    """What a comparison, or a competition study, has recorded.

    Attributes:
        command: that records it.
        file: where, in the study's folder.
        earlier_runs: that the study has grown before, with other contenders or seeds: they are
            removed with it.
    """

    command: ClassVar[Literal["compare", "compete"]]
    file: ClassVar[str]
    format_version: Literal[1]
    earlier_runs: list[str] = []

    @classmethod
    def read(cls, store: Store, name: str) -> Self | None:
        """The record of a study; None if there is none of this name.

        Raises:
            UserError: it cannot be read.
        """
        path = f"{comparison_folder(name)}/{cls.file}"
        document = store.files.read(path)
        if document is None:
            return None
        try:
            return cls.model_validate_json(document)
        except ValidationError as error:
            raise UserError(
                f"{store.shown}/{path}: not a record that this zoo_ray can read "
                f"({error.errors()[0]['msg']}); {cls.command} writes it anew"
            ) from None

    @classmethod
    def write(cls, store: Store, name: str, values: Mapping[str, Any], *, runs: list[str]) -> str:
        """Record what a study of these runs has shown; returns the file's path."""
        earlier = [run for run in _runs_grown_for(store, name) if run not in runs]
        record = {"format_version": 1, **values, "earlier_runs": earlier}
        text = json.dumps(record, indent=1, allow_nan=False)
        return store.write_file(comparison_folder(name), cls.file, text.encode())

    def runs(self, name: str, /) -> list[str]:
        """Names of the runs that the study of a name is about."""
        raise NotImplementedError


class ComparisonRecord(StudyRecord):
    """A comparison's record."""

    command = "compare"
    file = "comparison.json"
    contenders: list[ContenderRecord] = Field(min_length=1)

    def runs(self, _name: str, /) -> list[str]:
        """Names of the runs that it is about."""
        return [run for contender in self.contenders for run in contender.runs]


class CompetitionRecord(StudyRecord):
    """A competition study's record; see `zoo_ray.competition.CompetitionResult`."""

    command = "compete"
    file = "competition.json"
    tasks: list[str] = Field(min_length=2)
    seeds: list[int] = []
    alone: list[float]
    alone_by_seed: list[list[float]] = []
    gain: Matrix
    gain_by_seed: list[Matrix] = Field(min_length=1)
    together: Matrix

    def runs(self, name: str, /) -> list[str]:
        """Names of the runs that it is about."""
        return [zoo_name(name, zoo, seed) for seed in self.seeds for zoo in COMPETING]

    @model_validator(mode="after")
    def _fits_its_tasks(self) -> Self:
        gains = [self.gain, *self.gain_by_seed]
        for key in ("seeds", "alone_by_seed"):
            if (given := getattr(self, key)) and len(given) != len(self.gain_by_seed):
                raise ValueError("it has not as many gains as seeds")
        lengths = {len(alone) for alone in (self.alone, *self.alone_by_seed)}
        for matrix in (*gains, self.together):
            lengths |= {len(matrix), *map(len, matrix)}
        if lengths != {len(self.tasks)}:
            raise ValueError("its matrices are not of as many rows as it has tasks")
        off_diagonal = [row[:i] + row[i + 1 :] for gain in gains for i, row in enumerate(gain)]
        if any(None in row for row in (*off_diagonal, self.together[-1])):
            raise ValueError("numbers are missing")
        return self


_RECORDS: tuple[type[StudyRecord], ...] = (ComparisonRecord, CompetitionRecord)


class BegunRecord(BaseModel):
    """Which runs a comparison or study grows, recorded before any is."""

    file: ClassVar[str] = "begun.json"
    runs: list[str] = Field(min_length=1)

    @classmethod
    def read(cls, store: Store, name: str) -> Self | None:
        """The record of a study; None if there is none, or none that can be read."""
        document = store.files.read(f"{comparison_folder(name)}/{cls.file}")
        with contextlib.suppress(ValidationError):
            return None if document is None else cls.model_validate_json(document)
        return None

    @classmethod
    def write(cls, store: Store, name: str, *, runs: Sequence[str]) -> None:
        """Record that a study begins to grow runs; those that it has grown before stay its own."""
        record = cls(runs=list(dict.fromkeys([*runs, *_runs_grown_for(store, name)])))
        store.write_file(comparison_folder(name), cls.file, record.model_dump_json().encode())


class _Asked(BaseModel):
    """What of a search's configuration is needed to read its table."""

    metric: MetricName
    space: dict[str, Any] = Field(min_length=1)


_ROWS = TypeAdapter(list[Row])


@dataclass(frozen=True, kw_only=True)
class StoredStudy:
    """Zoos that were grown together.

    Attributes:
        name: of the comparison, search or study.
        store: where it is.
        folder: where in the store.
        run_names: of its runs; a search's zoos are none.
    """

    name: str
    store: Store
    folder: str
    run_names: Sequence[str] = ()

    def timeline(self) -> list[FitTime]:
        """Who fitted what and when; empty if nothing was recorded.

        Raises:
            UserError: it cannot be read.
        """
        folders = [self.folder, *map(run_folder, self.run_names)]
        return [fit for folder in folders for fit in self.store.read_timeline(folder)]

    def first_run(self) -> StoredRun | None:
        """The first of its runs that can still be read."""
        for name in self.run_names:
            with contextlib.suppress(UserError):  # it was removed
                return StoredRun(self.store, name)
        return None


@dataclass(frozen=True, kw_only=True)
class StoredCompetition(StoredStudy):
    """What a study of task competition has shown; see `zoo_ray.competition.CompetitionResult`."""

    seeds: Sequence[int]
    tasks: Sequence[str]
    mean: Competition
    by_seed: Sequence[Competition]
    together: Floats

    def __repr__(self) -> str:
        return (
            f"competition study {self.name}: {len(self.tasks)} tasks, "
            f"{counted(len(self.by_seed), 'seed')}, average accuracy alone "
            f"{percent(float(self.mean.alone.mean()))}"
        )

    def records(self) -> list[dict[str, Any]]:
        """The accuracy that each task gains from each other with each seed, a row each, as
        `pandas.DataFrame` takes them."""
        return [
            {
                "seed": seed,
                "task": self.tasks[task],
                "other": self.tasks[other],
                "gain": float(one.gain[task, other]),
            }
            for seed, one in zip(self.seeds, self.by_seed, strict=True)
            for task, other in np.argwhere(~np.isnan(one.gain))
        ]


@dataclass(frozen=True, kw_only=True)
class StoredComparison(StoredStudy):
    """A comparison, and the runs of each contender that can still be read.

    Attributes:
        contenders: in order.
        runs: for each of them, by seed.
    """

    contenders: Sequence[ContenderRecord]
    runs: Sequence[Sequence[StoredRun]]

    def __repr__(self) -> str:
        means = {c.name: c.average_accuracy.mean for c in self.contenders if c.average_accuracy}
        best = max(means, key=means.__getitem__, default=None)
        return (
            f"comparison {self.name}: {counted(len(self.contenders), 'contender')}, "
            f"{counted(len(self.run_names), 'zoo')}"
            + ("" if best is None else f", best average accuracy {percent(means[best])} ({best})")
        )

    def records(self) -> list[dict[str, Any]]:
        """Every zoo that can still be read, a row each, as `pandas.DataFrame` takes them."""
        return [
            {
                "contender": contender.name,
                "mode": contender.mode,
                "seed": run.rules.seed,
                "run": run.name,
                "members": len(run.members),
                **run.metrics._asdict(),
            }
            for contender, several in zip(self.contenders, self.runs, strict=True)
            for run in several
        ]


@dataclass(frozen=True, kw_only=True)
class StoredSearch(StoredStudy):
    """What a search has found.

    Attributes:
        metric: what its trials were judged by.
        keys: that were searched.
        rows: its trials, and the smaller zoos within them.
        findings: what stands out; None: no trial was complete.
        test_accuracy: of the best, mean over the seeds; None: it was not scored, or recorded.
        best: its configuration as YAML; empty: there is none.
    """

    metric: MetricName
    keys: Sequence[str]
    rows: Sequence[Row]
    findings: Findings | None
    test_accuracy: float | None
    best: str

    def __repr__(self) -> str:
        trials = sum(not row.prefix for row in self.rows)
        found, words = self.findings, self.metric.replace("_", " ")
        return f"search {self.name}: {counted(trials, 'trial')}" + (
            "" if found is None else f", best {words} {percent(found.best.score)}"
        )

    @property
    def importance(self) -> Mapping[str, float | None]:
        """Of the searched keys; see `zoo_ray.search.results.importance`."""
        return importance(self.rows, self.keys)

    def records(self) -> list[dict[str, Any]]:
        """Every trial, a row each, as `pandas.DataFrame` takes them."""
        return [
            {
                "trial": row.name,
                **row.values,
                MEMBERS_PER_EPISODE: row.members_per_episode,
                "status": row.status,
                "members": row.members,
                "images": row.images,
                self.metric: row.score,
            }
            for row in self.rows
        ]


Study = StoredComparison | StoredCompetition | StoredSearch


class Stored(NamedTuple):
    """What names stand for in a store."""

    runs: Sequence[StoredRun]
    studies: Sequence[Study]


def find_stored(store: Store, names: Sequence[str]) -> Stored:
    """Read what names stand for: runs, and one comparison, search or competition study at most.

    A name may be a run's and a study's. A run of a competition study brings it along.

    Args:
        store: which exists.
        names: one at least.

    Raises:
        UserError: a name stands for nothing, two studies are named, or something cannot be read.
    """
    runs: list[StoredRun] = []
    studies: list[Study] = []
    for name in names:
        found = find_studies(store, name)
        if found and studies:
            raise UserError(f"{name}: a report shows one comparison or study; give it alone")
        studies += found
        if not found or store.read_run(name) is not None:
            # Side by side are ends of streams.
            runs.append(StoredRun(store, name, grown=len(names) > 1))
    if not studies and runs and (stem := _OF_COMPETITION.fullmatch(runs[0].name)):
        studies += filter(None, [_read_competition(store, stem[1])])
    return Stored(runs, studies)


def find_studies(store: Store, name: str) -> list[Study]:
    """What a name stands for, runs apart: mostly one thing, but things of different kinds may have
    one name.

    Raises:
        UserError: something cannot be read; or there is but a search, and it has not ended.
    """
    searched = store.read_search(name)
    found = (
        _read_competition(store, name),
        _read_comparison(store, name),
        None if searched is None else _read_trials(store, name, searched),
    )
    studies: list[Study] = [study for study in found if study is not None]
    if studies or store.read_run(name) is not None:
        return studies
    if searched is not None:
        raise UserError(
            f"{store.shown}/{search_folder(name)}: the search has not ended yet; the command that "
            "began it goes on"
        )
    if (begun := BegunRecord.read(store, name)) is not None:
        raise UserError(
            f"{store.shown}/{comparison_folder(name)}: the comparison has not ended yet; the "
            "command that began it goes on, and each of its runs can be asked for as soon as it is "
            f"grown: {begun.runs[0]} ..."
        )
    return studies


def _read_trials(store: Store, name: str, record: SearchRecord) -> StoredSearch | None:
    """A search; None: it has not ended yet."""
    columns = store.read_trials(name)
    if columns is None:
        return None
    folder = search_folder(name)
    try:
        asked = _Asked.model_validate(record.search)
        if not columns["digests"]:
            raise ValueError
        trials = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        keys = list(asked.space)
        rows = _ROWS.validate_python([_row(trial, asked.metric, keys) for trial in trials])
        scored = next((t.get("test_average_accuracy") for t in trials if t["best"]), None)
        return StoredSearch(
            name=name,
            store=store,
            folder=folder,
            metric=asked.metric,
            keys=keys,
            rows=rows,
            findings=_findings(trials, rows),
            test_accuracy=None if scored is None else float(scored),
            best=(store.files.read(f"{folder}/best.yaml") or b"").decode(),
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{store.shown}/{folder}/{TRIALS}: not the table of this search; tune writes it anew"
        ) from None


def _row(trial: Mapping[str, Any], metric: str, keys: Sequence[str]) -> dict[str, Any]:
    """A row of the table of trials, as `Row` has it."""
    alike = ("trial", "prefix", "status", "problem", "episodes", "members", "images", "digests")
    score, accuracy = (
        math.nan if value is None else value
        for value in (trial[metric], trial.get(DEFAULT_METRIC))  # older tables lack the second
    )
    return {
        **{key: trial[key] for key in alike},
        "members_per_episode": trial[MEMBERS_PER_EPISODE],
        "values": {key: trial[key] for key in keys},
        "score": score,
        "scores": trial["by_seed"],
        "accuracy": accuracy,
    }


def _findings(trials: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> Findings | None:
    """What stands out, as the table of trials marks it.

    Raises:
        ValueError: what it marks cannot be.
    """
    best, near, front = (
        [row for trial, row in zip(trials, rows, strict=True) if trial.get(mark)]
        for mark in ("best", "near", "front")
    )
    if not best:
        return None
    complete = [row for row in rows if row.status == "complete"]
    if best[0] not in complete or not front or not all(row.scores for row in complete):
        raise ValueError
    # Older tables do not mark the cheapest that is as good.
    return Findings(best[0], (near or best)[0], sorted(front, key=lambda row: row.images))


def _read_competition(store: Store, name: str) -> StoredCompetition | None:
    """A study of task competition; None if there is none of this name.

    Raises:
        UserError: it cannot be read.
    """
    record = CompetitionRecord.read(store, name)
    if record is None:
        return None
    # Older records have of what is reached alone but the mean.
    alone_by_seed = record.alone_by_seed or [record.alone] * len(record.gain_by_seed)
    return StoredCompetition(
        name=name,
        store=store,
        folder=comparison_folder(name),
        run_names=record.runs(name),
        # Older records do not name their seeds.
        seeds=record.seeds or range(len(record.gain_by_seed)),
        tasks=record.tasks,
        mean=Competition(np.array(record.alone), _matrix(record.gain)),
        by_seed=[
            Competition(np.array(alone), _matrix(gain))
            for alone, gain in zip(alone_by_seed, record.gain_by_seed, strict=True)
        ],
        together=_matrix(record.together),
    )


def _read_comparison(store: Store, name: str) -> StoredComparison | None:
    """A comparison; None if there is none of this name.

    Raises:
        UserError: it cannot be read.
    """
    record = ComparisonRecord.read(store, name)
    if record is None:
        return None
    runs: list[list[StoredRun]] = []
    for contender in record.contenders:
        runs.append([])
        for run in contender.runs:
            with contextlib.suppress(UserError):  # it was removed, or could not be grown
                runs[-1].append(StoredRun(store, run))
    return StoredComparison(
        name=name,
        store=store,
        folder=comparison_folder(name),
        run_names=record.runs(name),
        contenders=record.contenders,
        runs=runs,
    )


class Removed(NamedTuple):
    """What was removed: its kind (a value of `KINDS`), the runs that went with it, and how many
    files there were."""

    kind: str
    runs: Sequence[str]
    files: int


def remove_stored(store: Store, name: str, *, kind: str | None = None) -> Removed:
    """Remove what a name stands for, but no members; with a comparison or study go its runs.

    Args:
        store: which exists.
        name: of a run, search, comparison, or study of task competition.
        kind: which of them (a value of `KINDS`), where the name stands for several.

    Raises:
        UserError: it stands for nothing, or for several things.
    """
    folders = {KINDS[parent]: f"{parent}/{check_name(name)}" for parent in KINDS}
    found = [it for it in folders if kind in (None, it) and any(store.files.list(folders[it]))]
    if not found:
        raise UserError(
            f"store {store.shown}: no {kind or 'run'} {name!r}; run_cluster.py runs shows what "
            "there is"
        )
    if len(found) > 1:
        raise UserError(
            f"{name} is a {' and a '.join(found)}; give --kind with one of {', '.join(found)}"
        )
    runs = _runs_grown_for(store, name) if found == ["comparison"] else []
    paths = [*map(run_folder, runs), folders[found[0]]]
    return Removed(found[0], runs, sum(map(store.remove, paths)))


def refuse_other_study(store: Store, name: str, *, command: str) -> None:
    """Raise UserError if a name is taken by what the other of compare and compete has recorded."""
    for other in _RECORDS:
        path = f"{comparison_folder(name)}/{other.file}"
        if other.command != command and store.files.read(path) is not None:
            raise UserError(
                f"--name {name}: {store.shown}/{path} is what {other.command} recorded under this "
                "name; give another --name"
            )


def _runs_grown_for(store: Store, name: str) -> list[str]:
    """Runs that a comparison or study has grown, as far as its records can be read.

    A name like theirs does not make a run one of them: `train` may have grown it.
    """
    begun = BegunRecord.read(store, name)
    runs = dict.fromkeys(begun.runs if begun else ())
    for kind in _RECORDS:  # an older store may have both
        with contextlib.suppress(UserError):
            if (record := kind.read(store, name)) is not None:
                runs |= dict.fromkeys([*record.runs(name), *record.earlier_runs])
    return [run for run in runs if run.startswith(f"{name}.")]


def _matrix(rows: Matrix) -> Floats:
    return np.array([[math.nan if value is None else value for value in row] for row in rows])
