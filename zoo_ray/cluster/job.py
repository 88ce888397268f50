"""What the entrypoint, the driver and the workers agree on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo_ray.members.spec import Recipe
from zoo_ray.offer import WorkerPlan
from zoo_ray.task import TaskLabels
from zoo_ray.zoo.schedule import Rules

DRIVER_AWAY_S = 60.0
"""How long those who talk to a driver wait for one that restarts."""


@dataclass(frozen=True)
class Job:
    """What a driver and its workers are told.

    Attributes:
        run: name of the run.
        store: address of the store.
        call: names the command that grows the run; each member it publishes is marked with it.
        tasks: the stream, without images.
        images: references to the tasks with their images, in Ray's object store, in stream order.
        rules, recipe: of the zoo.
        workers: the group to start.
        speculate, checkpoint_s, fit_timeout_s: see `zoo_ray.config.WorkersConfig`.
    """

    run: str
    store: str
    call: str
    tasks: Sequence[TaskLabels]
    images: Sequence[Any]
    rules: Rules
    recipe: Recipe
    workers: WorkerPlan
    speculate: bool
    checkpoint_s: float
    fit_timeout_s: float
