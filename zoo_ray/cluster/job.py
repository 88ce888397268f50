"""What the entrypoint, the driver and the workers agree on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo_ray.members.spec import Recipe
from zoo_ray.offer import WorkerPlan
from zoo_ray.rules import Rules
from zoo_ray.task import TaskLabels

DRIVER_AWAY_S = 60.0
"""How long those who talk to a driver wait for one that restarts."""


@dataclass(frozen=True)
class Job:
    """What a driver and its workers are told.

    Attributes:
        folder: of the run, search or comparison in the store.
        store: address of the store.
        call: names the command that does the job; each member it publishes is marked with it.
        tasks: the stream, without images.
        workers: the group to start.
        most_workers: as many as may work once nodes have joined that were not there at the start.
        speculate, checkpoint_s, fit_timeout_s: see `zoo_ray.config.WorkersConfig`.
        images: references to the tasks with their images, in Ray's object store, by digest; empty
            until they are there.
    """

    folder: str
    store: str
    call: str
    tasks: Sequence[TaskLabels]
    workers: WorkerPlan
    most_workers: int
    speculate: bool
    checkpoint_s: float
    fit_timeout_s: float
    images: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunJob(Job):
    """What the driver of a run is told.

    Attributes:
        rules, recipe: of the zoo.
    """

    rules: Rules
    recipe: Recipe
