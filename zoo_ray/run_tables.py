"""A run's tables in the store: what its zoo is after each episode."""

import logging
import time
from collections.abc import Sequence

import numpy as np

from zoo_ray.errors import UserError
from zoo_ray.store import Store
from zoo_ray.task import TaskLabels
from zoo_ray.zoo.growth import Episode, Growth

_EVERY_S = 2.0
_COST = 50
"""Each writing names all episodes: it is done again after as many times as long as it took."""

log = logging.getLogger("zoo_ray")


class RunTablesWriter:
    """Keeps the tables of a run while its zoo grows.

    What is killed has written all but its last episodes.

    Args:
        store: where.
        name: of the run.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._written = 0
        self._next = time.monotonic()

    def is_due(self, growth: Growth) -> bool:
        """Whether it is time to write."""
        return len(growth.episodes) > self._written and time.monotonic() >= self._next

    def write(self, episodes: Sequence[Episode], tasks: Sequence[TaskLabels]) -> None:
        """Write the episodes of a zoo so far, and no confusion; may run in a thread beside it.

        A store that cannot be written is told in the log: no zoo is the worse for it.
        """
        began = time.monotonic()
        self._written = len(episodes)
        try:
            _write(self._store, self._name, episodes, tasks)
        except UserError as error:
            log.warning("the tables are not written: %s", error)
        now = time.monotonic()
        self._next = now + max(_EVERY_S, _COST * (now - began))


def write_run_tables(growth: Growth, store: Store, *, name: str) -> None:
    """Write all that a zoo is.

    Args:
        growth: the zoo.
        store: where.
        name: of the run.

    Raises:
        UserError: the store cannot be written.
    """
    confusion = _confusion_columns(growth)
    _write(store, name, growth.episodes, growth.tasks, confusion=confusion)


def _write(
    store: Store,
    name: str,
    episodes: Sequence[Episode],
    tasks: Sequence[TaskLabels],
    *,
    confusion: dict[str, list[int]] | None = None,
) -> None:
    members = [(episode, member) for episode in episodes for member in episode.members]
    seen = [(e, task) for e, episode in enumerate(episodes) for task in range(len(episode.losses))]
    store.write_results(
        name,
        episodes={
            "episode": [member.slot.episode for _, member in members],
            "index": [member.slot.index for _, member in members],
            "tasks": [list(member.tasks) for _, member in members],
            "digest": [member.digest for _, member in members],
            "predictions_sha256": [member.predictions_sha256 for _, member in members],
            "weights": [episode.weights.tolist() for episode, _ in members],
        },
        results={
            "episode": [e + 1 for e, _ in seen],
            "task": [task for _, task in seen],
            "task_name": [tasks[task].name for _, task in seen],
            "members": [episodes[e].members_of_task[task] for e, task in seen],
            "loss": [episodes[e].losses[task] for e, task in seen],
            "validation_accuracy": [
                _or_none(episodes[e].validation_accuracy[task]) for e, task in seen
            ],
            "test_accuracy": [episodes[e].test_accuracy[task] for e, task in seen],
        },
        confusion=confusion,
    )


def _confusion_columns(growth: Growth) -> dict[str, list[int]]:
    rows = [
        (len(growth.episodes), task, label, taken_for, int(count))
        for task in range(growth.rules.seen(len(growth.episodes)))
        for (label, taken_for), count in np.ndenumerate(growth.confusion(task))
        if count
    ]
    keys = ("episode", "task", "label", "taken_for", "samples")
    return {key: [row[place] for row in rows] for place, key in enumerate(keys)}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
