"""A search: from its configuration to trials, the best of them, and their record in the store."""

import contextlib
import shlex
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from zoo_ray.address import is_remote
from zoo_ray.benchmarks import Source
from zoo_ray.comparison import StudyResult
from zoo_ray.config import validate_config
from zoo_ray.errors import UserError
from zoo_ray.offer import WorkerPlan
from zoo_ray.plan import Plan, plan_on_ray
from zoo_ray.progress import SearchProgress
from zoo_ray.replay import Tally, damaged, fold, not_shared, predictions_of, replay
from zoo_ray.run import (
    another_name,
    other_benchmark,
    other_tasks,
    recorded_precision,
    task_records,
    versions,
    write_pictures,
)
from zoo_ray.search.config import DEFAULT_METRIC, SearchConfig, differences
from zoo_ray.search.config import MEMBERS_PER_EPISODE as _M
from zoo_ray.search.results import Findings, Row, findings, importance
from zoo_ray.search.space import Values
from zoo_ray.search.trials import OPTUNA_BATCH, EpisodeReport, Trial, Trials, zoo_report
from zoo_ray.store import (
    CorruptMember,
    SearchRecord,
    Store,
    StoredPredictions,
    check_name,
    search_folder,
)
from zoo_ray.store.store import TRIALS
from zoo_ray.zoo.growth import Growth
from zoo_ray.zoo.schedule import settled_episodes
from zoo_ray.zoo.weights import with_source

_FEW_TRIALS = 4
_KEPT = 500
"""Members whose predictions are kept in memory while trials that share them are read."""


@dataclass(frozen=True, kw_only=True)
class SearchResult(StudyResult):
    """What a search has found, and what it took.

    Attributes:
        rows: its trials, and the smaller zoos within them.
        findings: what stands out; None: no trial was complete.
        importance: of the searched keys; see `zoo_ray.search.results.importance`.
        trials: how many there were.
        digests: of the best trial's zoos, by seed.
        test_accuracy: of the best: average accuracy on the test part, mean over the seeds.
    """

    rows: Sequence[Row]
    findings: Findings | None
    importance: dict[str, float | None]
    trials: int
    digests: Sequence[str]
    test_accuracy: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`: a contract that scripts rely on."""
        found = self.findings
        best = found and {
            "trial": found.best.trial,
            "values": dict(found.best.values),
            "members": found.best.members,
            "images": found.best.images,
            "digests": list(self.digests),
            "cheapest_near_equal": found.near.name,
        }
        return {
            "search": self.name,
            "trials": self.trials,
            "asked": self.asked,
            "fitted": self.fitted,
            "read": self.read,
            "shared": round(1 - self.fitted / self.asked, 4) if self.asked else None,
            "best": best,
            "best_validation_accuracy": found and found.best.accuracy,
            "best_test_accuracy": self.test_accuracy,
            "wall_s": round(self.wall_s, 3),
        }


class _Prepared(NamedTuple):
    """A search before anything is fitted."""

    name: str
    config: SearchConfig
    plan: Plan
    store: Store


def search(
    config: SearchConfig,
    *,
    name: str,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[SearchProgress, Trials], None] = lambda _progress, _trials: None,
    started: float | None = None,
) -> SearchResult:
    """Grow the zoos of all trials, and record what they show in the store.

    The same name with the same configuration goes on where the store ends: trials are begun anew,
    and their finished members are read, not fitted. The test parts are not looked at until the
    best trial is fixed.

    Args:
        config: what to search.
        name: of the search, unique in the store.
        address: of a Ray cluster (`auto`: the one this machine belongs to); None: a local Ray.
        source: the data where the base's `benchmark.dataset` is `arrays`.
        on_progress: called about twice a second.
        started: when the command began, in seconds since the epoch; now if not given.

    Raises:
        UserError: anything outside the program is not as it must be, or every trial failed; see
            the message.
    """
    started = started or time.time()
    store = Store(config.base.store)
    record = store.read_search(check_name(name))
    before = store.read_trials(name) or {}
    ended_before = {*before.get("status", [])} == {"complete"}
    with contextlib.ExitStack() as until_done:
        plan = plan_on_ray(
            config.base,
            address=address,
            until=until_done,
            start=not ended_before,
            precision=recorded_precision(config.base, record),
            members=config.trials * config.most_members,
            source=source,
        )
        _check_validation(plan)
        prepared = _Prepared(name, config, plan, store)
        _record(prepared, record)
        # Whatever becomes of this command, the members of an earlier one stay claimed.
        claimed = {*store.read_wanted(search_folder(name)), *chain(*before.get("digests", []))}
        store.write_wanted(search_folder(name), sorted(claimed))
        tally = Tally(call=uuid.uuid4().hex)
        trials = _read_again(prepared, on_progress) if ended_before else None
        if trials is None:
            trials = Trials(config, at_once=_trials_at_once(config, plan.workers))
            _grow(prepared, trials, tally=tally, on_progress=on_progress)
    rows = [_row(trial, config) for trial in trials.all]
    rows += _prefixes(rows, prepared)
    found = findings(
        rows,
        maximised=config.maximised,
        validation_samples=(
            sum(len(task.validation) for task in plan.tasks) if config.is_share else None
        ),
    )
    if not trials.all:  # nor is there anything to write over what an earlier command found
        raise UserError(
            f"budget.members = {config.budget.members}: a trial asks for {config.most_members} "
            "members; give more"
        )
    store.write_trials(name, _columns(rows, config, found, test_accuracy=None))
    problems = [trial.problem for trial in trials.all if trial.problem is not None]
    if len(problems) == len(trials.all):
        several = f"all {len(problems)} trials failed; the first"
        raise UserError(f"{several if len(problems) > 1 else 'the trial failed'}: {problems[0]}")
    # The best is fixed now: its test parts may be scored.
    zoos: Sequence[Growth] = []
    test_accuracy = None
    if found:
        zoos = _zoos(found.best.values, prepared, tally=tally)
        test_accuracy = float(np.mean([zoo.metrics().average_accuracy for zoo in zoos]))
        store.write_trials(name, _columns(rows, config, found, test_accuracy=test_accuracy))
    weight = importance(rows, list(config.space))
    files = _write_results(prepared, rows, found, weight)
    fitted = set[str]().union(*(trial.fitted for trial in trials.all))
    distinct = {digest for trial in trials.all for digest in trial.digests}
    return SearchResult(
        name=name,
        store=store.address,
        seeds=config.all_seeds,
        rows=rows,
        findings=found,
        importance=dict(weight),
        trials=len(trials.all),
        asked=sum(len(trial.digests) for trial in trials.all),
        fitted=len(fitted),
        read=len(distinct - fitted),
        digests=[zoo.digest() for zoo in zoos],
        test_accuracy=test_accuracy,
        files=files,
        wall_s=time.time() - started,
    )


def _check_validation(plan: Plan) -> None:
    for task in plan.tasks:
        if len(task.validation) == 0:
            raise UserError(
                f"base.benchmark.validation = {plan.config.benchmark.validation:g}: nothing is "
                f"left for the validation part of task {task.name}; give more"
            )


def _read_again(
    prepared: _Prepared, on_progress: Callable[[SearchProgress, Trials], None]
) -> Trials | None:
    """The trials of a search that has ended, from the store alone; None: that does not hold all."""
    config = prepared.config
    if config.scheduler != "none" or config.budget.hours is not None:
        return None  # which trials were stopped, and when, the store does not say
    trials = Trials(config, at_once=_trials_at_once(config, prepared.plan.workers))
    read = _reader(prepared.store)
    members: set[str] = set()
    while (trial := trials.begin()) is not None:
        try:
            zoos = _grown(trial.values, prepared, read)
        except UserError:  # a member is missing, or damaged
            return None
        trial.reports = _reports(zoos)
        trial.status = "complete"
        members.update(trial.digests)
        progress = SearchProgress(len(members), waiting=0, first_fit=None, fits=(), problems={})
        on_progress(progress, trials)
    return trials


def _reports(zoos: Sequence[Growth]) -> list[EpisodeReport]:
    """What a trial reports of its zoos, all of whose members were there."""
    ours: frozenset[str] = frozenset()
    return [
        [zoo_report(zoo, episode=e, epochs=zoo.recipe.epochs, ours=ours) for zoo in zoos]
        for e in range(1, zoos[0].rules.episodes + 1)
    ]


def _trials_at_once(config: SearchConfig, workers: WorkerPlan) -> int:
    if config.trials_at_once != "auto":
        return config.trials_at_once
    return OPTUNA_BATCH if config.searcher == "optuna" else max(_FEW_TRIALS, workers.at_once)


def _grow(
    prepared: _Prepared,
    trials: Trials,
    *,
    tally: Tally,
    on_progress: Callable[[SearchProgress, Trials], None],
) -> None:
    from zoo_ray.cluster.job import Job
    from zoo_ray.cluster.search import search_on_ray  # imports Ray's Tune
    from zoo_ray.cluster.zoos import ZooJob

    plan, store = prepared.plan, prepared.store
    folder = search_folder(prepared.name)

    def zoos(trial: Trial) -> list[ZooJob]:
        plans = _plans(trial.values, prepared)
        return [ZooJob(plan.rules, plan.recipe, plan.arrivals) for plan in plans]

    def keep(results: str) -> None:
        for entry in store.files.list(f"{folder}/tensorboard"):
            store.files.delete(entry.path)
        for path in Path(results).glob("tune/*/events.out.tfevents.*"):
            file = f"tensorboard/{path.parent.name}/{path.name}"
            store.write_file(folder, file, path.read_bytes())

    job = Job(**plan.job(folder=folder, store=store.address, call=tally.call), speculate=False)
    search_on_ray(
        prepared.config,
        job,
        tasks=plan.tasks,
        trials=trials,
        zoos=zoos,
        keep=keep,
        on_progress=lambda progress: on_progress(progress, trials),
    )


# ---- a trial's zoos, again, from the store


def _plans(values: Values, prepared: _Prepared) -> list[Plan]:
    config, plan = prepared.config, prepared.plan
    return [plan.vary(config.run_config(values, seed=seed)) for seed in config.all_seeds]


def _reader(store: Store) -> Callable[[str], StoredPredictions]:
    """Reads members by their digests, those read last not again."""
    return lru_cache(_KEPT)(partial(predictions_of, store))


def _grown(
    values: Values, prepared: _Prepared, read: Callable[[str], StoredPredictions]
) -> list[Growth]:
    """Zoos whose members are all in the store, test parts not scored; UserError: one is not, or
    is damaged."""
    zoos = [one.growth(score_test=False) for one in _plans(values, prepared)]
    for zoo in zoos:
        while not zoo.ended:
            for digest in [wanted.spec.digest for wanted in zoo.wanted()]:
                try:
                    fold(zoo, prepared.store, digest, read(digest))
                except CorruptMember as error:
                    raise damaged(error) from None
        if zoo.problem:
            raise UserError(zoo.problem)
    return zoos


def _zoos(values: Values, prepared: _Prepared, *, tally: Tally) -> list[Growth]:
    zoos = [one.growth() for one in _plans(values, prepared)]
    for zoo in zoos:
        replay(zoo, prepared.store, tally=tally)
        if not zoo.finished:
            raise UserError(not_shared(prepared.store))
    return zoos


def _row(trial: Trial, config: SearchConfig) -> Row:
    return Row(
        trial=trial.number + 1,
        members_per_episode=config.members_per_episode(trial.values),
        prefix=False,
        values=trial.values,
        status=trial.status,
        problem=trial.problem,
        episodes=trial.episodes,
        members=len(trial.digests),
        images=trial.images,
        score=trial.score(config.metric),
        scores=trial.scores(config.metric),
        accuracy=trial.score("validation_average_accuracy"),
        digests=trial.digests,
    )


def _prefixes(rows: Sequence[Row], prepared: _Prepared) -> list[Row]:
    """Rows of the smaller zoos within trials: where draws look neither at losses nor at other
    members, the first of each episode are what a trial of fewer members per episode would be."""
    tried = [dict(row.values) | {_M: row.members_per_episode} for row in rows]
    found = []
    for row in rows:
        if row.status != "complete" or row.members_per_episode == 1:
            continue
        rules = _plans(row.values, prepared)[0].rules
        blind = len(settled_episodes(rules, complete=0)) == rules.episodes
        if not blind or rules.count_penalty or rules.closing_rounds:
            continue
        read = _reader(prepared.store)
        for fewer in range(1, row.members_per_episode):
            values = dict(row.values) | {_M: fewer}
            if values not in tried:
                tried.append(values)
                reports = _reports(_grown(values, prepared, read))
                trial = Trial(row.trial - 1, values, status="complete", reports=reports)
                found.append(replace(_row(trial, prepared.config), prefix=True))
    return found


# ---- the record of a search


def _record(prepared: _Prepared, record: SearchRecord | None) -> None:
    name, config, plan, store = prepared
    now = SearchRecord(
        search=config.model_dump(mode="json"),
        samples=config.trials,
        recipe=plan.recipe.to_dict(),
        tasks=task_records(plan.tasks),
        versions=versions(),
        weights_source=_weights_source(config, plan),
    )
    # Another command may have begun a search of this name since we looked.
    there = store.record_search(name, now) if record is None else record
    differing = differences(there.search, config)
    path = f"{store.shown}/{search_folder(name)}/search.json"
    base = validate_config(there.search["base"], source=path)
    differing += [
        f"base.{key}"
        for key in ("zoo", "recipe")
        if getattr(base, key) != getattr(config.base, key)
    ]
    if [task.digest for task in there.tasks] != [task.digest for task in now.tasks]:
        longer = f"benchmark.tasks (were {len(there.tasks)}, are {len(now.tasks)})"
        others = other_benchmark(there.search["base"], now.search["base"])
        differing += [
            f"base.{it}" for it in (other_tasks(there.tasks, now.tasks) or longer, *others)
        ]
    # Older records have the base's rule alone.
    same = there.weights_source in (now.weights_source, plan.rules.weights_source)
    if not same and not differing:
        differing.append("zoo.weights (its file)")
    if differing:
        raise UserError(
            f"--name {name}: this search exists in store {store.shown} with another "
            f"configuration: {'; '.join(differing)}; "
            f"{another_name(name, config.base.store)}"
        )
    store.record_search(name, now)


def _weights_source(config: SearchConfig, plan: Plan) -> str:
    """What tells the user's rules of weights, of the base and searched, from other versions."""
    searched = config.space.get("zoo.weights")
    names = [plan.rules.weights, *(searched.dimension.values if searched else ())]
    rules = [with_source(replace(plan.rules, weights=name, weights_source="")) for name in names]
    return " ".join(sorted({rule.weights_source for rule in rules} - {""}))


def _columns(
    rows: Sequence[Row],
    config: SearchConfig,
    found: Findings | None,
    *,
    test_accuracy: float | None,
) -> dict[str, list[Any]]:
    """The table of trials; the test part is scored of the best alone."""
    best, near, front = (found.best, found.near, found.front) if found else (None, None, [])
    columns: dict[str, list[Any]] = {
        "trial": [row.trial for row in rows],
        "prefix": [row.prefix for row in rows],
    }
    for key in dict.fromkeys((*config.space, _M)):
        if key == _M:
            columns[key] = [row.members_per_episode for row in rows]
        else:
            columns[key] = _one_type([row.values[key] for row in rows])
    more: dict[str, list[Any]] = {
        "status": [row.status for row in rows],
        "problem": [row.problem for row in rows],
        "episodes": [row.episodes for row in rows],
        "members": [row.members for row in rows],
        "images": [row.images for row in rows],
        DEFAULT_METRIC: [None if row.accuracy != row.accuracy else row.accuracy for row in rows],
        config.metric: [None if row.score != row.score else row.score for row in rows],
        "by_seed": [list(row.scores) for row in rows],
        "test_average_accuracy": [test_accuracy if row is best else None for row in rows],
        "best": [row is best for row in rows],
        "near": [row is near for row in rows],
        "front": [any(row is other for other in front) for row in rows],
        "digests": [list(row.digests) for row in rows],
    }
    return columns | more


def _one_type(values: list[Any]) -> list[Any]:
    """Values of a column: numbers of both kinds as floats, other mixtures as text."""
    kinds = {type(value) for value in values}
    if len(kinds) <= 1:
        return values
    return [float(v) for v in values] if kinds == {int, float} else [str(v) for v in values]


def train_words(store: Store, name: str, kind: str) -> list[str]:
    """The words of the command that grows a search's `best` or `final`."""
    file = f"{kind}.yaml"
    if not is_remote(store.address):  # what is in a bucket must be fetched first
        file = f"{store.shown}/{search_folder(name)}/{file}"
    return ["train", file, "--name", f"{name}.{kind}"]


def _write_results(
    prepared: _Prepared, rows: Sequence[Row], found: Findings | None, weight: Any
) -> list[str]:
    from zoo_ray.report.study_drawings import search_drawings  # imports matplotlib

    name, config, _, store = prepared
    folder = search_folder(name)
    store.clear_wanted(folder)
    written = [f"{store.shown}/{folder}/{TRIALS}"]
    if found is None:
        return written
    best = found.best
    best_plan = _plans(best.values, prepared)[0]
    for kind, validation, comment in (
        ("best", None, "its members are in the store: train reads them"),
        ("final", 0.0, "fitted on all training samples, the validation part among them"),
    ):
        run = best_plan.config.model_dump(mode="json")
        run["recipe"]["precision"] = best_plan.recipe.precision
        if validation is not None:
            run["benchmark"]["validation"] = validation
        text = f"# The best of search {name} (trial {best.trial}); {comment}.\n"
        # By the file's name alone, another search's best would be another run of the same name.
        text += f"# {shlex.join(['python', 'run_cluster.py', *train_words(store, name, kind)])}\n"
        text += yaml.safe_dump(run, sort_keys=False, default_flow_style=None, allow_unicode=True)
        written.append(store.write_file(folder, f"{kind}.yaml", text.encode()))
    drawings = search_drawings(rows, found, weight, metric=config.metric)
    return written + write_pictures(drawings, store, folder, of=name)
