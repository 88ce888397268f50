"""A plan: a configuration with its data read and all that it leaves open resolved."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from zoo_ray.benchmarks import Source, load_stream
from zoo_ray.benchmarks.names import printable
from zoo_ray.config import RunConfig
from zoo_ray.counts import counted
from zoo_ray.errors import UserError
from zoo_ray.members.hardware import resolve_precision
from zoo_ray.members.spec import Precision, Recipe
from zoo_ray.networks import check_image_shape
from zoo_ray.offer import Offer, WorkerPlan, plan_workers, this_machine
from zoo_ray.own_code import UnusableCode, is_own
from zoo_ray.rules import Rules
from zoo_ray.task import Task, same_shape
from zoo_ray.zoo.growth import Growth
from zoo_ray.zoo.weights import with_source

log = logging.getLogger("zoo_ray")

_QUICK_S = 0.5


@dataclass(frozen=True)
class Plan:
    """A run resolved: what would be grown, and who would fit it.

    Attributes:
        recipe: resolved.
        members: that there may be to fit, of all zoos that are grown with it.
        auto: what `precision: auto` stands for, if that was decided before.
        arrivals: positions of its tasks among those of the plan that it varies; empty: it varies
            none.
    """

    config: RunConfig
    tasks: Sequence[Task]
    rules: Rules
    recipe: Recipe
    members: int
    workers: WorkerPlan
    offer: Offer
    auto: Precision | None
    arrivals: Sequence[int] = ()

    def growth(self, *, score_test: bool = True) -> Growth:
        """The zoo, without members."""
        labels = [task.without_images() for task in self.tasks]
        return Growth(tasks=labels, rules=self.rules, recipe=self.recipe, score_test=score_test)

    def job(self, *, folder: str, store: str, call: str) -> dict[str, Any]:
        """What any driver is told of a plan: values of `zoo_ray.cluster.job.Job`."""
        workers = self.config.workers
        return {
            "folder": folder,
            "store": store,
            "call": call,
            "tasks": [task.without_images() for task in self.tasks],
            "workers": self.workers,
            "most_workers": max(self.members, self.workers.count)
            if workers.count == "auto"
            else self.workers.count,
            "checkpoint_s": workers.checkpoint_s,
            "fit_timeout_s": workers.fit_timeout_s,
        }

    def vary(self, config: RunConfig) -> "Plan":
        """The plan of a run with the same data and workers, and another zoo, recipe, or order of
        the tasks.

        Raises:
            UserError: the network does not take these images, or a rule of weights is not usable.
        """
        shape = same_shape(list(self.tasks))
        assert shape is not None
        _check_image_size(config, shape)
        recipe = _resolve_recipe(
            config, channels=shape[2], precision=self.auto, workers=self.workers
        )
        ours = self.config.benchmark.arrivals
        arrivals = [ours.index(given) for given in config.benchmark.arrivals]
        return replace(
            self,
            config=config,
            tasks=[self.tasks[task] for task in arrivals],
            rules=with_source(config.rules),
            recipe=recipe,
            arrivals=arrivals,
        )


def plan_run(
    config: RunConfig,
    *,
    offer: Offer | None = None,
    precision: Precision | None = None,
    members: int | None = None,
    source: Source | None = None,
    meanwhile: Callable[[WorkerPlan], None] = lambda _: None,
) -> Plan:
    """Read the data and resolve all that a configuration leaves open.

    Args:
        config: what to run.
        offer: what the cluster has; None: this machine.
        members: that there may be to fit; None: those of this zoo.
        source: the data, as `load_stream` takes them.
        precision: what `precision: auto` stands for, if the run has decided it before.
        meanwhile: called with the workers planned while the data are read, unless that is quick:
            what is wrong with small data should show at once.

    Raises:
        UserError: the data, the workers or the network do not allow it.
    """
    offer = offer or this_machine()
    rules = with_source(config.rules)
    members = members or rules.members
    # Before the data are read: a slip in `workers` should not take as long to see as a download.
    workers = plan_workers(
        config.workers,
        threads=config.recipe.threads,
        members=members,
        offer=offer,
        one_at_a_time=bool(config.recipe.dropout) or is_own(config.recipe.network),
    )
    with ThreadPoolExecutor(1) as reader:
        stream = reader.submit(load_stream, config.benchmark, source)
        if not wait([stream], timeout=_QUICK_S).done:
            meanwhile(workers)
        tasks = stream.result()
    shape = same_shape(tasks)
    if shape is None:
        raise UserError(
            "benchmark.dataset: images differ in size or channels between tasks; make them equal "
            "(in height and width by benchmark.image_size)"
        )
    _check_image_size(config, shape)
    trivial = [task.name for task in tasks if len(task.classes) == 1]
    if trivial:
        log.warning(
            "benchmark.tasks: %s one class (the first: %s), which is predicted whatever is learned",
            f"{counted(len(trivial), 'task')} {'has' if len(trivial) == 1 else 'have'}",
            trivial[0],
        )
    recipe = _resolve_recipe(config, channels=shape[2], precision=precision, workers=workers)
    return Plan(
        config=config,
        tasks=tasks,
        rules=rules,
        recipe=recipe,
        members=members,
        workers=workers,
        offer=offer,
        auto=precision,
    )


def plan_on_ray(
    config: RunConfig,
    *,
    address: str | None,
    until: contextlib.ExitStack,
    start: bool,
    precision: Precision | None = None,
    members: int | None = None,
    source: Source | None = None,
) -> Plan:
    """`plan_run` on the Ray that there is to be until a stack is closed; without workers on none.

    Args:
        config, precision, members, source: as of `plan_run`.
        address: of a cluster, which is joined; None: this machine.
        until: what closes it.
        start: whether a local Ray is started while the data are read, if that takes a while.

    Raises:
        UserError: as `plan_run`; or the cluster cannot be joined.
    """
    offer = None
    if address is not None and config.workers.count != 0:
        from zoo_ray.cluster.session import cluster_offer, joined  # imports Ray

        until.enter_context(joined(address))
        offer = cluster_offer()

    def start_ray(workers: WorkerPlan) -> None:
        if start and workers.count:
            from zoo_ray.cluster.session import local_ray  # imports Ray

            until.enter_context(local_ray())

    return plan_run(
        config,
        offer=offer,
        precision=precision,
        members=members,
        source=source,
        meanwhile=start_ray,
    )


def _resolve_recipe(
    config: RunConfig, *, channels: int, precision: Precision | None, workers: WorkerPlan
) -> Recipe:
    recipe = config.recipe
    crop = recipe.epochs > 1 if recipe.augment == "auto" else recipe.augment
    flip = channels == 3 if recipe.flip == "auto" else recipe.flip
    if recipe.average_flips and not (crop and flip):
        _warn_once(
            "recipe.average_flips: true averages predictions over mirrored images, which networks "
            "are fitted on with recipe.flip: true and recipe.augment: true alone"
        )
    # As in the published code, whose files may name one.
    if recipe.dropout and recipe.network == "small_conv":
        _warn_once(f"recipe.dropout = {recipe.dropout:g}: small_conv has no place for it")
    if recipe.precision != "auto":
        precision = recipe.precision
    return Recipe(
        network=recipe.network,
        epochs=recipe.epochs,
        batch=recipe.batch,
        lr=recipe.lr,
        l2=recipe.l2,
        crop=crop,
        flip=crop and flip,
        precision=precision or resolve_precision(gpu=workers.gpus > 0),
        threads=recipe.threads,
        dropout=0.0 if recipe.network == "small_conv" else recipe.dropout,
        trunk=_trunk_key(config) if is_own(recipe.network) else "",
        schedule=recipe.schedule,
        average_flips=recipe.average_flips,
    )


@cache  # not once for each zoo of a comparison
def _warn_once(what: str) -> None:
    log.warning(what)


def _trunk_key(config: RunConfig) -> str:
    from zoo_ray.networks.own import trunk_key  # imports torch

    return trunk_key(config.recipe.network, config.recipe.network_arguments)


def _check_own_network(config: RunConfig, shape: tuple[int, int, int]) -> None:
    from zoo_ray.networks.own import check_trunk  # imports torch

    try:
        check_trunk(config.recipe.network, key=_trunk_key(config), image_shape=shape)
    except UnusableCode as error:
        raise UserError(
            f"recipe.network = {config.recipe.network}: {error}; the README says what is asked of "
            "a network of your own"
        ) from None


def _check_image_size(config: RunConfig, shape: tuple[int, int, int]) -> None:
    if is_own(config.recipe.network):
        return _check_own_network(config, shape)
    try:
        check_image_shape(config.recipe.network, shape)
    except ValueError as error:
        raise UserError(
            f"recipe.network = {config.recipe.network}: {error} "
            f"(benchmark.dataset = {printable(config.benchmark.dataset, limit=200)}); scale them "
            "by benchmark.image_size, or use another dataset"
        ) from None
