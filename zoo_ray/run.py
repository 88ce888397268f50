"""A run: from a configuration to a grown zoo and its record in the store."""

import contextlib
import platform
import shlex
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from zoo_ray.benchmarks import Source
from zoo_ray.config import RunConfig, ZooConfig, shown
from zoo_ray.errors import UserError
from zoo_ray.members.spec import RECIPE_DEFAULTS, Precision
from zoo_ray.own_code import find_own, is_own
from zoo_ray.plan import Plan, plan_on_ray
from zoo_ray.progress import Progress, Speculative
from zoo_ray.replay import Tally, not_shared, replay
from zoo_ray.run_tables import write_run_tables
from zoo_ray.store import RunRecord, SearchRecord, Store, TaskRecord, check_name, run_folder
from zoo_ray.store.store import OWN_CODE
from zoo_ray.task import Task
from zoo_ray.zoo.boosting import Floats
from zoo_ray.zoo.growth import Growth
from zoo_ray.zoo.metrics import Metrics

if TYPE_CHECKING:
    from zoo_ray.report.drawing import Drawing


@dataclass(frozen=True)
class RunResult:
    """A grown zoo, and what growing it took.

    Attributes:
        name: of the run.
        store: address of the store.
        growth: the zoo.
        fitted: members of the zoo that this call published.
        read: members used from the store.
        speculative: members that this call fitted before they were certain to be wanted.
        first_fit_s: seconds from the command's start to the first fit's; None if nothing was
            fitted.
        wall_s: seconds that the command took.
        figure: path of the accuracy figure.
    """

    name: str
    store: str
    growth: Growth
    fitted: int
    read: int
    speculative: Speculative
    first_fit_s: float | None
    wall_s: float
    figure: str

    @property
    def metrics(self) -> Metrics:
        """The field's metrics of the grown zoo."""
        return self.growth.metrics()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`: a contract that scripts rely on."""
        return {
            "run": self.name,
            "store": self.store,
            "episodes": len(self.growth.episodes),
            "members": len(self.growth.members()),
            "fitted": self.fitted,
            "read": self.read,
            "speculative": self.speculative._asdict(),
            **self.metrics._asdict(),
            "accuracy": without_nan(self.growth.accuracy()),
            "digest": self.growth.digest(),
            "first_fit_s": self.first_fit_s and round(self.first_fit_s, 3),
            "wall_s": round(self.wall_s, 3),
        }


def without_nan(matrix: Floats) -> list[list[float | None]]:
    """A matrix as JSON has it: null where there is no number."""
    return [[None if value != value else value for value in row] for row in matrix.tolist()]


class Prepared(NamedTuple):
    """A run before anything is fitted: its plan, its store, and its record if it has one."""

    plan: Plan
    store: Store
    record: RunRecord | None


def prepare(
    config: RunConfig,
    *,
    name: str,
    address: str | None = None,
    until: contextlib.ExitStack,
    source: Source | None = None,
    start: bool = False,
) -> Prepared:
    """Resolve a run and hold it against what the store has under its name. Writes nothing.

    Args:
        config: what to run.
        name: of the run.
        address, until: of a Ray cluster to join, if any, and what leaves it.
        source: the data where `benchmark.dataset` is `arrays`, as `arrays_source` makes them.
        start: whether a new run may start a Ray; see `zoo_ray.plan.plan_on_ray`.

    Raises:
        UserError: anything outside the program is not as it must be; see the message.
    """
    store = Store(config.store)
    record = store.read_run(check_name(name))
    store.files.check_writable()
    plan = plan_on_ray(
        config,
        address=address,
        until=until,
        start=start and record is None,
        precision=recorded_precision(config, record),
        source=source,
    )
    if record is not None:
        refuse_other_configuration(plan, record, name=name)
    return Prepared(plan, store, record)


def grow(
    config: RunConfig,
    *,
    name: str,
    address: str | None = None,
    source: Source | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    started: float | None = None,
) -> RunResult:
    """Grow a zoo, or go on growing it, and record it in the store.

    The same name with the same configuration goes on where the store ends: what is finished is
    read, not fitted.

    Args:
        config: what to run.
        name: of the run, unique in the store.
        address: of a Ray cluster (`auto`: the one this machine belongs to); None: a local Ray,
            started if anything is left to fit, unless `workers.count` is 0.
        source: the data where `benchmark.dataset` is `arrays`, as `arrays_source` makes them.
        on_progress: called about twice a second.
        started: when the command began, in seconds since the epoch; now if not given.

    Raises:
        UserError: anything outside the program is not as it must be; see the message.
    """
    started = started or time.time()
    with contextlib.ExitStack() as until_grown:
        plan, store, record = prepare(
            config, name=name, address=address, until=until_grown, source=source, start=True
        )
        growth = plan.growth()
        tally = Tally(call=uuid.uuid4().hex)
        replay(growth, store, tally=tally)
        record_run(store, plan, record, name=name)
        progress = None
        if not growth.ended:
            progress = _grow(plan, growth, store, name=name, tally=tally, on_progress=on_progress)
        if growth.problem:
            raise UserError(growth.problem)
    figure = f"{store.shown}/{run_folder(name)}/report/accuracy.png"
    if write_results(plan, growth, store, name=name):
        from zoo_ray.report.drawings import accuracy_drawing  # imports matplotlib

        drawing = accuracy_drawing(growth.accuracy(), [task.name for task in growth.tasks])
        write_pictures([drawing], store, run_folder(name), of=name)
    first_fit = progress.first_fit if progress else None
    return RunResult(
        name=name,
        store=store.address,
        growth=growth,
        fitted=len(tally.ours),
        read=len(tally.others),
        first_fit_s=None if first_fit is None else first_fit - started,
        speculative=progress.speculative if progress else Speculative(),
        wall_s=time.time() - started,
        figure=figure,
    )


def write_pictures(
    drawings: "Sequence[Drawing]", store: Store, folder: str, *, of: str
) -> list[str]:
    """Write figures as PNG, each with a title that names what it is of; returns where they are."""
    return [
        store.write_file(folder, f"report/{drawing.name}.png", drawing.png(of=of))
        for drawing in drawings
    ]


def _grow(
    plan: Plan,
    growth: Growth,
    store: Store,
    *,
    name: str,
    tally: Tally,
    on_progress: Callable[[Progress], None],
) -> Progress | None:
    if plan.workers.count == 0:
        from zoo_ray.sequential import grow_here  # imports torch, which takes seconds

        return grow_here(
            folder=run_folder(name),
            growth=growth,
            store=store,
            tasks=plan.tasks,
            device=plan.workers.device,
            checkpoint_s=plan.config.workers.checkpoint_s,
            tally=tally,
            on_progress=on_progress,
        )
    from zoo_ray.cluster.job import RunJob
    from zoo_ray.cluster.session import grow_on_ray  # imports Ray

    job = RunJob(
        **plan.job(folder=run_folder(name), store=store.address, call=tally.call),
        speculate=plan.config.workers.speculate,
        rules=plan.rules,
        recipe=plan.recipe,
    )
    progress = grow_on_ray(job, tasks=plan.tasks, on_progress=on_progress)
    # The store is the state: what the workers published is read from there like anything else.
    replay(growth, store, tally=tally)
    if not growth.finished:
        raise UserError(not_shared(store))
    return progress


# ---- the record of a run


def versions() -> dict[str, str]:
    """Of Python and the packages that decide what a run gives."""
    packages = ("torch", "ray", "numpy", "pyarrow")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def task_records(tasks: Sequence[Task]) -> list[TaskRecord]:
    """A stream, as records name it."""
    return [
        TaskRecord(
            name=task.name,
            classes=list(task.classes),
            digest=task.digest,
            image_shape=task.image_shape,
        )
        for task in tasks
    ]


def _run_record(plan: Plan) -> RunRecord:
    return RunRecord(
        config=plan.config.model_dump(mode="json"),
        recipe=plan.recipe.to_dict(),
        zoo=plan.config.zoo.model_dump(mode="json"),
        tasks=task_records(plan.tasks),
        episodes=plan.rules.episodes,
        versions=versions(),
        weights_source=plan.rules.weights_source,
    )


def record_run(store: Store, plan: Plan, record: RunRecord | None, *, name: str) -> None:
    """Record what a run is to be.

    Args:
        store: where.
        plan: of the run.
        record: that the store had of it, if any.
        name: of the run.

    Raises:
        UserError: another command has begun a run of this name and another configuration.
    """
    now = _run_record(plan)
    # Another command may have begun a run of this name, or lengthened it, since we looked.
    for write in (store.create_run, store.lengthen_run):
        if record is None or len(record.tasks) < len(now.tasks):
            record = write(name, now)
            refuse_other_configuration(plan, record, name=name)
            _keep_own_code(store, plan, name=name)


def _keep_own_code(store: Store, plan: Plan, *, name: str) -> None:
    """Keep the files of the user's own network and rule, for people: they change, and the zoo can
    then be neither grown on nor asked."""
    for own in filter(is_own, (plan.recipe.network, plan.rules.weights)):
        module = own.rpartition(".")[0]
        store.write_file(run_folder(name), f"{OWN_CODE}/{module}.py", find_own(own).content)


def recorded_precision(
    config: RunConfig, record: RunRecord | SearchRecord | None
) -> Precision | None:
    """What `precision: auto` stands for in a run or search, by its record."""
    if record is None or config.recipe.precision != "auto":
        return None
    precision = record.recipe.get("precision")
    return precision if precision in ("float32", "bfloat16") else None


# What `auto` leaves open is resolved: people write other keys.
_RESOLVED = {
    "crop": ("augment", "; auto crops unless recipe.epochs is 1"),
    "flip": ("flip", "; auto flips colour images, and nothing is flipped without recipe.augment"),
}


def refuse_other_configuration(plan: Plan, record: RunRecord, *, name: str) -> None:
    """Raise UserError unless a plan is that of a recorded run, or of a longer stream: all else that
    decides members must be the same."""
    now = _run_record(plan)
    zoo_defaults = ZooConfig().model_dump(mode="json")  # of keys that are newer than the record
    differing = []
    for section, before, after in (
        ("recipe", RECIPE_DEFAULTS | record.recipe, RECIPE_DEFAULTS | now.recipe),
        ("zoo", zoo_defaults | record.zoo, now.zoo),
    ):
        for key, value in after.items():
            if before.get(key) == value:
                continue
            if key == "trunk":
                differing.append("recipe.network (its file, or its arguments)")
                continue
            written, why = _RESOLVED.get(key, (key, ""))
            differing.append(f"{section}.{written} (was {before.get(key)!r}, is {value!r}{why})")
    if not differing and record.weights_source != now.weights_source:
        differing.append("zoo.weights (its file)")
    if others := other_tasks(record.tasks, now.tasks):
        differing += [others, *other_benchmark(record.config, now.config)]
    elif len(now.tasks) > len(record.tasks) and not plan.rules.can_be_lengthened:
        differing.append("benchmark.tasks (only a stream that ends with its last task can grow)")
    if differing:
        raise UserError(
            f"--name {name}: this run exists in store {plan.config.store} with another "
            f"configuration: {'; '.join(differing)}; {another_name(name, plan.config.store)}"
        )


def other_tasks(before: Sequence[TaskRecord], now: Sequence[TaskRecord]) -> str | None:
    """Where a stream departs from the recorded one, for people; None: it is that, or longer."""
    theirs, ours = ([task.digest for task in tasks] for tasks in (before, now))
    if ours[: len(theirs)] == theirs:
        return None
    if ours == theirs[: len(ours)]:
        return f"benchmark.tasks (were {len(theirs)}, are the first {len(ours)} of them)"
    if set(theirs) <= set(ours):
        return "benchmark (its tasks arrive in another order)"
    place, was, task = next(
        (place, was, task)
        for place, (was, task) in enumerate(zip(before, now, strict=False), start=1)
        if was.digest != task.digest
    )
    if was.name != task.name:
        return f"benchmark.tasks (task {place} was {was.name!r}, is {task.name!r})"
    what = "other images or labels" if was.classes == task.classes else "other classes"
    return f"benchmark (task {place}, {task.name!r}, has {what})"


def other_benchmark(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys of `benchmark` beside `tasks` that two configurations differ in, for people."""
    was = before.get("benchmark", {})
    return [
        f"benchmark.{key} (was {shown(was[key])}, is {shown(value)})"
        for key, value in now["benchmark"].items()
        if key != "tasks" and was.get(key, value) != value
    ]


def another_name(name: str, store: str) -> str:
    """What to do where a name is another configuration's."""
    remove = shlex.join(["run_cluster.py", "rm", name, "--store", store])
    return f"give another --name, or remove what has this one: {remove}"


def write_results(plan: Plan, growth: Growth, store: Store, *, name: str) -> bool:
    """Record a grown zoo; returns whether no other command grows it on."""
    write_run_tables(growth, store, name=name)
    record = store.read_run(name)
    if record is not None and len(record.tasks) > len(growth.tasks):
        return False
    record_run(store, plan, record, name=name)  # it may have been removed since
    store.clear_wanted(run_folder(name))
    return True
