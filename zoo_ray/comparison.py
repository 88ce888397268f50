"""A comparison: one stream, several configurations, several seeds; each zoo is a run."""

import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal, get_args

from zoo_ray.benchmarks import Source
from zoo_ray.config import RunConfig, override, shown, validate_config, vary
from zoo_ray.errors import UserError
from zoo_ray.keys import hash_bits
from zoo_ray.members.spec import Precision
from zoo_ray.outcomes import Outcome, Spread, difference, forward_transfer, interval_95
from zoo_ray.plan import Plan, plan_on_ray
from zoo_ray.progress import Progress, SearchProgress, training_samples
from zoo_ray.replay import Tally, not_shared, replay
from zoo_ray.rules import Mode
from zoo_ray.run import (
    record_run,
    recorded_precision,
    refuse_other_configuration,
    write_pictures,
    write_results,
)
from zoo_ray.store import Store, check_name, comparison_folder, run_folder, zoo_name
from zoo_ray.stored_studies import BegunRecord, ComparisonRecord, refuse_other_study
from zoo_ray.zoo.growth import Growth
from zoo_ray.zoo.metrics import Metrics

_METRICS = Metrics._fields
_BASELINES: tuple[Mode, ...] = ("isolated", "multihead")
_VARIED = ("zoo", "recipe")
_MOST_MATCHED = 1000
_LONG = 50


@dataclass(frozen=True)
class Contender:
    """A configuration to be compared, by the name that tables call it."""

    name: str
    config: RunConfig


def contenders_of(
    config: RunConfig, *, modes: Sequence[Mode] = (), varied: Sequence[Sequence[str]] = ()
) -> list[Contender]:
    """What a comparison compares, in order: the modes, then what is varied.

    Args:
        config: a run.
        modes: it is grown in each of these; none given: in its own, and, where nothing is varied,
            as Isolated and Multi-head.
        varied: it is grown with each of these values too, as of `varied_contender`.

    Raises:
        UserError: a mode, key or value is not allowed.
    """
    own = config.zoo.mode
    for mode in modes:
        if mode not in get_args(Mode):
            raise UserError(f"--modes {shown(mode)}: a mode is one of {', '.join(get_args(Mode))}")
    baselines = () if varied else (mode for mode in _BASELINES if mode != own)
    found = [mode_contender(config, mode) for mode in modes or (own, *baselines)]
    return [*found, *(varied_contender(config, items) for items in varied)]


def mode_contender(config: RunConfig, mode: Mode) -> Contender:
    """A configuration in another mode, without the keys of `zoo` that have no meaning there."""
    return Contender(mode, config.model_copy(update={"zoo": config.zoo.in_mode(mode)}))


def varied_contender(config: RunConfig, items: Sequence[str]) -> Contender:
    """A configuration with other values of `zoo` and `recipe`.

    Args:
        config: what is varied.
        items: `key.key=value`, as of `zoo_ray.config.read_config`.

    Raises:
        UserError: a key or value is not allowed.
    """
    raw = config.model_dump(mode="json", exclude_unset=True)
    if not items or not all(isinstance(item, str) for item in items):
        raise UserError(f"--vary {shown(items)}: give KEY=VALUE, as zoo.sharpness=2")
    for item in items:
        key = item.partition("=")[0].strip()
        section, _, last = key.partition(".")
        if section not in _VARIED or not last or key == "zoo.seed":
            raise UserError(
                f"--vary {item}: what is compared differs in keys of zoo and recipe, as "
                "zoo.tasks_per_member=3 (seeds are given by --seeds)"
            )
        override(raw, item, named_by="--vary")
    name = ", ".join(item.strip().removeprefix("zoo.") for item in items)
    return Contender(name, validate_config(raw, source=f"--vary {' '.join(items)}"))


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What growing the zoos of a comparison, search or competition study took.

    Attributes:
        name: of the comparison, search or study.
        store: address of the store.
        seeds: of the zoos.
        asked: members that all zoos have, shared ones counted for each.
        fitted: members that this command fitted.
        read: the others, each counted once.
        files: where the results are.
        wall_s: seconds that the command took.
    """

    name: str
    store: str
    seeds: Sequence[int]
    asked: int
    fitted: int
    read: int
    files: Sequence[str]
    wall_s: float

    def took(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "asked": self.asked,
            "fitted": self.fitted,
            "read": self.read,
            "wall_s": round(self.wall_s, 3),
        }


@dataclass(frozen=True, kw_only=True)
class ComparisonResult(StudyResult):
    """What a comparison has shown, and what it took.

    Attributes:
        outcomes: of the contenders; differences are to the first.
    """

    outcomes: Sequence[Outcome]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`: a contract that scripts rely on."""
        return {
            "comparison": self.name,
            "store": self.store,
            "contenders": outcome_dicts(self.outcomes),
            "seeds": list(self.seeds),
            **self.took(),
        }


def outcome_dicts(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as plain values."""

    def plain(spread: Spread | None) -> dict[str, Any] | None:
        return None if spread is None else asdict(spread) | {"by_seed": list(spread.by_seed)}

    return [
        {
            "name": outcome.name,
            "mode": outcome.rules.mode,
            "runs": list(outcome.runs),
            "members": outcome.members,
            "images": round(outcome.images),
            "guessed": outcome.guessed,
            **{metric: plain(outcome.spread(metric)) for metric in _METRICS},
            "difference": plain(gained := difference(outcome, outcomes[0])),
            "difference_interval_95": gained and interval_95(gained),
            "forward_transfer": plain(forward_transfer(outcome, outcomes)),
            "problem": outcome.problem,
        }
        for outcome in outcomes
    ]


@dataclass(frozen=True)
class Zoo:
    """A contender's zoo for one seed, as a run of its own."""

    run: str
    plan: Plan
    growth: Growth


@dataclass(frozen=True)
class Grown:
    """What contenders have grown.

    Attributes:
        store: where it is.
        plan: what all have in common.
        contenders: the given ones, and the matched ones.
        zoos: for each of them one for each seed.
        problems: why zoos could not be grown, by run.
        tally: counts the members.
    """

    store: Store
    plan: Plan
    contenders: Sequence[Contender]
    zoos: Sequence[Sequence[Zoo]]
    problems: dict[str, str]
    tally: Tally

    @property
    def asked(self) -> int:
        """Members that all zoos have, shared ones counted for each."""
        return sum(zoo.plan.rules.members for group in self.zoos for zoo in group)


def compare(
    config: RunConfig,
    *,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    name: str,
    shuffle: bool = False,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[SearchProgress, int], None] = lambda _progress, _asked: None,
    started: float | None = None,
) -> ComparisonResult:
    """Grow the zoos of all contenders for all seeds, and record each as a run in the store.

    They share workers and members. The same command goes on where the store ends. Isolated is also
    grown with as many members as come nearest to the images of the first contender that is not: one
    member per task and many differ in transfer and in ensembling at once.

    Args:
        config: benchmark, workers and store of all.
        contenders: what is compared, one at least; their names are distinct.
        seeds: one at least; distinct.
        name: of the comparison, unique in the store.
        shuffle: whether the tasks arrive in an order of their own for each seed, which is then the
            benchmark's `order_seed`.
        address: of a Ray cluster (`auto`: the one this machine belongs to); None: a local Ray,
            started if anything is left to fit, unless `workers.count` is 0.
        source: the data where `benchmark.dataset` is `arrays`, as `arrays_source` makes them.
        on_progress: called about twice a second, with how many members all zoos have.
        started: when the command began, in seconds since the epoch; now if not given.

    Raises:
        UserError: anything outside the program is not as it must be, or no zoo could be grown; see
            the message.
    """
    started = started or time.time()
    grown = grow_all(
        config,
        contenders=contenders,
        seeds=seeds,
        name=name,
        command="compare",
        shuffle=shuffle,
        address=address,
        source=source,
        on_progress=on_progress,
    )
    outcomes = [
        _outcome(contender, group, grown.problems)
        for contender, group in zip(grown.contenders, grown.zoos, strict=True)
    ]
    return ComparisonResult(
        name=name,
        store=grown.store.address,
        seeds=seeds,
        outcomes=outcomes,
        asked=grown.asked,
        fitted=len(grown.tally.ours),
        read=len(grown.tally.others),
        files=_write(outcomes, grown.store, name=name),
        wall_s=time.time() - started,
    )


def grow_all(
    config: RunConfig,
    *,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    name: str,
    command: Literal["compare", "compete"],
    shuffle: bool = False,
    address: str | None,
    source: Source | None,
    on_progress: Callable[[SearchProgress, int], None],
) -> Grown:
    """Grow and record the zoos of contenders.

    Args:
        command: whose zoos they are; for `compare`, Isolated is also grown with as many members as
            come nearest to the images of the first contender that is not.
        config, contenders, seeds, name, shuffle, address, source, on_progress: as of `compare`.

    Raises:
        UserError: as `compare`.
    """
    _check_distinct(contenders, seeds)
    store = Store(config.store)
    folder = comparison_folder(name)
    refuse_other_study(store, name, command=command)
    with contextlib.ExitStack() as until_grown:
        auto, is_begun = _recorded(contenders, seeds, store, name)
        plan = plan_on_ray(
            config,
            address=address,
            until=until_grown,
            start=not is_begun,
            precision=auto,
            members=len(seeds) * sum(contender.config.rules.members for contender in contenders),
            source=source,
        )
        if command == "compare":
            contenders = [*contenders, *_matched(contenders, plan)]
        zoos = [
            [_zoo(contender, seed, plan, name=name, shuffle=shuffle) for seed in seeds]
            for contender in contenders
        ]
        everyone = [zoo for group in zoos for zoo in group]
        records = [store.read_run(check_name(zoo.run)) for zoo in everyone]
        for zoo, record in zip(everyone, records, strict=True):
            if record is not None:
                refuse_other_configuration(zoo.plan, record, name=zoo.run)
        BegunRecord.write(store, name, runs=[zoo.run for zoo in everyone])
        for zoo, record in zip(everyone, records, strict=True):
            record_run(store, zoo.plan, record, name=zoo.run)
        tally = Tally(call=uuid.uuid4().hex)
        recorded: set[str] = set()

        def keep(zoo: Zoo) -> None:
            if zoo.run not in recorded:
                replay(zoo.growth, store, tally=tally)
                if zoo.growth.finished:
                    write_results(zoo.plan, zoo.growth, store, name=zoo.run)
                    recorded.add(zoo.run)

        for zoo in everyone:
            keep(zoo)
        problems = _grow(
            everyone,
            plan,
            store,
            folder=folder,
            tally=tally,
            keep=keep,
            on_progress=on_progress,
        )
        problems |= {zoo.run: zoo.growth.problem for zoo in everyone if zoo.growth.problem}
    if len(problems) == len(everyone):
        raise UserError(f"no zoo could be grown; the first: {next(iter(problems.values()))}")
    if not problems:  # else what the others have fitted may yet be wanted
        store.clear_wanted(folder)
    return Grown(store, plan, contenders, zoos, problems, tally)


def _check_distinct(contenders: Sequence[Contender], seeds: Sequence[int]) -> None:
    labels = [_label(contender) for contender in contenders]
    for key, values in (("--modes and --vary", labels), ("--seeds", seeds)):
        twice = [str(value) for value in values if list(values).count(value) > 1]
        if twice:
            raise UserError(f"{key}: {twice[0]} is given twice; once is enough")


def _recorded(
    contenders: Sequence[Contender], seeds: Sequence[int], store: Store, name: str
) -> tuple[Precision | None, bool]:
    """What `precision: auto` stands for by the runs' records, and whether there are any."""
    auto, is_begun = None, False
    for contender, seed in product(contenders, seeds):
        record = store.read_run(_run_name(name, contender, seed))
        is_begun = is_begun or record is not None
        auto = recorded_precision(contender.config, record)
        if auto is not None:  # all others are of the same
            break
    return auto, is_begun


def _matched(contenders: Sequence[Contender], plan: Plan) -> list[Contender]:
    """Isolated with the number of members whose images come nearest to those of the first zoo that
    is not."""
    others = [c for c in contenders if c.config.zoo.mode != "isolated"]
    matched = []
    for contender in contenders if others else ():
        zoo = contender.config.zoo
        if zoo.mode != "isolated":
            continue
        ours = _images(plan.vary(contender.config)) / zoo.members_per_episode
        members = round(_images(plan.vary(others[0].config)) / ours)
        if zoo.members_per_episode < members <= _MOST_MATCHED:
            more = zoo.model_copy(update={"members_per_episode": members})
            config = contender.config.model_copy(update={"zoo": more})
            matched.append(Contender(f"{contender.name} x {members}", config))
    return matched


def _images(plan: Plan) -> float:
    return training_samples(plan.growth()).total * plan.recipe.epochs


def _zoo(contender: Contender, seed: int, plan: Plan, *, name: str, shuffle: bool) -> Zoo:
    keys = ("zoo.seed", "benchmark.order_seed") if shuffle else ("zoo.seed",)
    plan = plan.vary(vary(contender.config, dict.fromkeys(keys, seed), source="--seeds"))
    return Zoo(_run_name(name, contender, seed), plan, plan.growth())


def _run_name(name: str, contender: Contender, seed: int) -> str:
    return zoo_name(name, _label(contender), seed)


def _label(contender: Contender) -> str:
    words = contender.name.replace(", ", ",").replace(" ", "-")
    label = "".join(c if c.isascii() and (c.isalnum() or c in "._=+,-") else "-" for c in words)
    if label != words or len(label) > _LONG:
        label = f"{label[:_LONG]}-{hash_bits(contender.name):016x}"
    return label


def _grow(
    zoos: Sequence[Zoo],
    plan: Plan,
    store: Store,
    *,
    folder: str,
    tally: Tally,
    keep: Callable[[Zoo], None],
    on_progress: Callable[[SearchProgress, int], None],
) -> dict[str, str]:
    """Grow what is not finished, and record each zoo as soon as it is; returns why zoos could not
    be grown, by run."""
    left = [zoo for zoo in zoos if not zoo.growth.ended]
    asked = sum(zoo.plan.rules.members for zoo in zoos)

    def look(progress: SearchProgress) -> None:
        for number in progress.grown:
            keep(left[number])
        on_progress(progress, asked)

    if plan.workers.count == 0:
        return _grow_here(left, plan, store, tally, keep=keep, on_progress=look)
    if left:
        from zoo_ray.cluster.zoos import ZooJob, ZoosJob, grow_zoos  # imports Ray

        plans = [zoo.plan for zoo in left]
        job = ZoosJob(
            **plan.job(folder=folder, store=store.address, call=tally.call),
            speculate=False,
            zoos=[ZooJob(plan.rules, plan.recipe, plan.arrivals) for plan in plans],
        )
        problems = grow_zoos(job, tasks=plan.tasks, on_progress=look)
        for number, zoo in enumerate(left):
            keep(zoo)
            if not zoo.growth.ended and number not in problems:
                raise UserError(not_shared(store))
        return {left[number].run: line for number, line in problems.items()}
    return {}


def _grow_here(
    zoos: Sequence[Zoo],
    plan: Plan,
    store: Store,
    tally: Tally,
    *,
    keep: Callable[[Zoo], None],
    on_progress: Callable[[SearchProgress], None],
) -> dict[str, str]:
    from zoo_ray.failures import SpecFailed
    from zoo_ray.sequential import grow_here  # imports torch, which takes seconds

    problems: dict[str, str] = {}
    failed: dict[str, str] = {}

    def show(progress: Progress) -> None:
        on_progress(
            SearchProgress(
                members_done=len(tally.ours | tally.others),
                waiting=progress.members - progress.members_done,
                first_fit=progress.first_fit,
                fits=progress.fits,
                problems={},
            )
        )

    for zoo in zoos:
        try:
            grow_here(
                folder=run_folder(zoo.run),
                growth=zoo.growth,
                store=store,
                tasks=zoo.plan.tasks,
                device=plan.workers.device,
                checkpoint_s=plan.config.workers.checkpoint_s,
                tally=tally,
                on_progress=show,
                failed=failed,
            )
            keep(zoo)
        except SpecFailed as error:
            problems[zoo.run] = failed[error.digest] = str(error)
    return problems


def _outcome(contender: Contender, zoos: Sequence[Zoo], problems: dict[str, str]) -> Outcome:
    problem = next((problems[zoo.run] for zoo in zoos if zoo.run in problems), None)
    plan = zoos[0].plan
    if problem is None:
        samples = [sum(member.samples for member in zoo.growth.members()) for zoo in zoos]
        images = plan.recipe.epochs * sum(samples) / len(zoos)
    return Outcome(
        name=contender.name,
        runs=[zoo.run for zoo in zoos],
        rules=plan.rules,
        recipe=plan.recipe,
        metrics=[] if problem else [zoo.growth.metrics() for zoo in zoos],
        members=plan.rules.members,
        images=0.0 if problem else images,
        guessed=0 if problem else max(_unknown_tasks(zoo.growth) for zoo in zoos),
        problem=problem,
    )


def _unknown_tasks(growth: Growth) -> int:
    return growth.episodes[-1].members_of_task.count(0)


def _write(outcomes: Sequence[Outcome], store: Store, *, name: str) -> list[str]:
    from zoo_ray.report.study_drawings import contenders_drawing  # imports matplotlib

    values = {"contenders": outcome_dicts(outcomes)}
    runs = [run for outcome in outcomes for run in outcome.runs]
    files = [ComparisonRecord.write(store, name, values, runs=runs)]
    grown = [outcome for outcome in outcomes if outcome.problem is None]
    if not grown:
        return files
    drawing = contenders_drawing(
        [outcome.name for outcome in grown],
        [spread.by_seed for outcome in grown if (spread := outcome.spread("average_accuracy"))],
        [outcome.images for outcome in grown],
    )
    return files + write_pictures([drawing], store, comparison_folder(name), of=name)
