"""Comparisons and competition studies as the store holds them."""

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple, Self, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError, model_validator

from zoo_ray.diary import FitTime
from zoo_ray.errors import UserError
from zoo_ray.store import KINDS, Store, check_name, comparison_folder, run_folder, zoo_name
from zoo_ray.stored import StoredRun
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.competition import Competition

COMPETING = ("pairs", "together")
"""What the zoos of a competition study are called."""

_FILES = {"compare": "comparison.json", "compete": "competition.json"}
"""The record that each command writes."""

_OF_COMPETITION = re.compile(rf"(.+)\.(?:{'|'.join(COMPETING)})\.-?\d+")

Number = Annotated[float, Field(allow_inf_nan=False)]
Matrix = list[list[Number | None]]

R = TypeVar("R", bound=BaseModel)


class SpreadRecord(BaseModel):
    """A number over seeds; see `zoo_ray.outcomes.Spread`."""

    mean: Number
    sd: Number | None
    by_seed: list[Number] = Field(min_length=1)


class ContenderRecord(BaseModel):
    """A contender, as a comparison's record names it; see `zoo_ray.outcomes.Outcome`."""

    name: str
    mode: str
    runs: list[str] = Field(min_length=1)
    members: int
    images: Number
    average_accuracy: SpreadRecord | None = None
    learning_accuracy: SpreadRecord | None = None
    backward_transfer: SpreadRecord | None = None
    forgetting: SpreadRecord | None = None
    difference: SpreadRecord | None = None
    forward_transfer: SpreadRecord | None = None
    problem: str | None = None


class ComparisonRecord(BaseModel):
    """A comparison's `comparison.json`."""

    format_version: Literal[1]
    contenders: list[ContenderRecord] = Field(min_length=1)
    earlier_runs: list[str] = []

    def runs(self, _name: str) -> list[str]:
        """Names of the runs that it is about."""
        return [run for contender in self.contenders for run in contender.runs]


class CompetitionRecord(BaseModel):
    """A study's `competition.json`; see `zoo_ray.compete.CompetitionResult`."""

    format_version: Literal[1]
    tasks: list[str] = Field(min_length=2)
    seeds: list[int] = []
    alone: list[Number]
    gain: Matrix
    gain_by_seed: list[Matrix] = Field(min_length=1)
    together: Matrix
    earlier_runs: list[str] = []

    def runs(self, name: str) -> list[str]:
        """Names of the runs that it is about."""
        return [zoo_name(name, zoo, seed) for seed in self.seeds for zoo in COMPETING]

    @model_validator(mode="after")
    def _fits_its_tasks(self) -> Self:
        count = len(self.tasks)
        square = {(count, count)}
        matrices = [self.gain, *self.gain_by_seed, self.together]
        shapes = {(len(matrix), len(row)) for matrix in matrices for row in matrix}
        if shapes != square or len(self.alone) != count:
            raise ValueError("its matrices are not of as many rows as it has tasks")
        off_diagonal = (
            gain[i][j]
            for gain in [self.gain, *self.gain_by_seed]
            for i in range(count)
            for j in range(count)
            if i != j
        )
        if None in off_diagonal or None in self.together[-1]:
            raise ValueError("numbers are missing")
        return self


@dataclass(frozen=True, kw_only=True)
class StoredStudy:
    """Runs that were grown together.

    Attributes:
        name: of the comparison or study.
        store: where it is.
        run_names: of its runs.
    """

    name: str
    store: Store
    run_names: Sequence[str]

    def timeline(self) -> list[FitTime]:
        """Who fitted what and when; empty if nothing was recorded.

        Raises:
            UserError: it cannot be read.
        """
        folders = [comparison_folder(self.name), *map(run_folder, self.run_names)]
        return [fit for folder in folders for fit in self.store.read_timeline(folder)]

    def first_run(self) -> StoredRun | None:
        """The first of its runs that can still be read."""
        for name in self.run_names:
            with contextlib.suppress(UserError):  # it was removed
                return StoredRun(self.store, name)
        return None


@dataclass(frozen=True, kw_only=True)
class StoredCompetition(StoredStudy):
    """What a study of task competition has shown; see `zoo_ray.compete.CompetitionResult`."""

    tasks: Sequence[str]
    mean: Competition
    by_seed: Sequence[Competition]
    together: Floats


@dataclass(frozen=True, kw_only=True)
class StoredComparison(StoredStudy):
    """A comparison, and the runs of each contender that can still be read.

    Attributes:
        contenders: in order.
        runs: for each of them, by seed.
    """

    contenders: Sequence[ContenderRecord]
    runs: Sequence[Sequence[StoredRun]]


class Stored(NamedTuple):
    """What names stand for in a store."""

    runs: Sequence[StoredRun]
    comparison: StoredComparison | None
    competition: StoredCompetition | None


def find_stored(store: Store, names: Sequence[str]) -> Stored:
    """Read what names stand for: runs, and one comparison or competition study at most.

    A name may be a run's and a study's. A run of a competition study brings it along.

    Args:
        store: which exists.
        names: one at least.

    Raises:
        UserError: a name stands for nothing, two studies are named, or something cannot be read.
    """
    runs: list[StoredRun] = []
    comparison: StoredComparison | None = None
    competition: StoredCompetition | None = None
    for name in names:
        compared, competed = read_comparison(store, name), read_competition(store, name)
        is_study = compared is not None or competed is not None
        if is_study and (comparison is not None or competition is not None):
            raise UserError(f"{name}: a report shows one comparison or study; give it alone")
        comparison, competition = compared or comparison, competed or competition
        if not is_study or store.read_run(name) is not None:
            runs.append(StoredRun(store, name))
    if comparison is None and competition is None and runs:
        stem = _OF_COMPETITION.fullmatch(runs[0].name)
        competition = read_competition(store, stem[1]) if stem else None
    return Stored(runs, comparison, competition)


def read_competition(store: Store, name: str) -> StoredCompetition | None:
    """A study of task competition; None if there is none of this name.

    Raises:
        UserError: it cannot be read.
    """
    record = _competition_record(store, name)
    if record is None:
        return None
    alone = np.array(record.alone)
    return StoredCompetition(
        name=name,
        store=store,
        run_names=record.runs(name),
        tasks=record.tasks,
        mean=Competition(alone, _matrix(record.gain)),
        by_seed=[Competition(alone, _matrix(gain)) for gain in record.gain_by_seed],
        together=_matrix(record.together),
    )


def read_comparison(store: Store, name: str) -> StoredComparison | None:
    """A comparison; None if there is none of this name.

    Raises:
        UserError: it cannot be read.
    """
    record = _comparison_record(store, name)
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
    for other, file in _FILES.items():
        path = f"{comparison_folder(name)}/{file}"
        if other != command and store.files.read(path) is not None:
            raise UserError(
                f"--name {name}: {store.shown}/{path} is what {other} recorded under this name; "
                "give another --name"
            )


def earlier_runs(store: Store, name: str, runs: Sequence[str]) -> list[str]:
    """Runs that a comparison or study has grown before, with other contenders or seeds.

    Its next record goes on naming them: they are removed with it.

    Args:
        store: which has its record as it is so far, if any.
        name: of the comparison or study.
        runs: that the next record is about.
    """
    return [run for run in _runs_grown_for(store, name) if run not in runs]


def _runs_grown_for(store: Store, name: str) -> list[str]:
    """Runs that a comparison or study has grown, as far as its records can be read.

    A name like theirs does not make a run one of them: `train` may have grown it.
    """
    runs: dict[str, None] = {}
    for read in (_comparison_record, _competition_record):  # an older store may have both
        with contextlib.suppress(UserError):
            if (record := read(store, name)) is not None:
                runs |= dict.fromkeys([*record.runs(name), *record.earlier_runs])
    return [run for run in runs if run.startswith(f"{name}.")]


def _comparison_record(store: Store, name: str) -> ComparisonRecord | None:
    return _read(ComparisonRecord, store, name, command="compare")


def _competition_record(store: Store, name: str) -> CompetitionRecord | None:
    return _read(CompetitionRecord, store, name, command="compete")


def _read(kind: type[R], store: Store, name: str, *, command: str) -> R | None:
    path = f"{comparison_folder(name)}/{_FILES[command]}"
    document = store.files.read(path)
    if document is None:
        return None
    try:
        return kind.model_validate_json(document)
    except ValidationError as error:
        raise UserError(
            f"{store.shown}/{path}: not a record that this zoo_ray can read "
            f"({error.errors()[0]['msg']}); {command} writes it anew"
        ) from None


def _matrix(rows: Matrix) -> Floats:
    return np.array([[math.nan if value is None else value for value in row] for row in rows])
