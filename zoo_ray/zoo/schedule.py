"""Which members may be fitted now. Pure functions of the rules and of what is known."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from zoo_ray.zoo.boosting import Floats, draw_tasks

Mode = Literal["continual", "isolated", "uniform"]


@dataclass(frozen=True)
class Rules:
    """What decides which members a zoo has.

    Attributes:
        tasks: length of the stream.
        mode: see `zoo_ray.config.ZooConfig`.
        tasks_per_member: b, the newest task included.
        members_per_episode: m.
        seed: the run's seed.
    """

    tasks: int
    mode: Mode
    tasks_per_member: int
    members_per_episode: int
    seed: int

    @property
    def past_tasks(self) -> int:
        """How many past tasks a member is given beside the newest, where there are so many."""
        return 0 if self.mode == "isolated" else self.tasks_per_member - 1

    def tasks_at(self, episode: int) -> int:
        """How many tasks the members of an episode are fitted on."""
        return min(self.past_tasks + 1, episode)

    @property
    def members(self) -> int:
        """How many members the grown zoo has."""
        return self.tasks * self.members_per_episode


@dataclass(frozen=True, order=True)
class Slot:
    """A member's place in the zoo. Slots sort in the order in which members are averaged.

    Attributes:
        episode: from 1.
        index: within the episode, from 0.
    """

    episode: int
    index: int


class Draw(NamedTuple):
    """A slot, and the positions of the tasks that its member is fitted on, in stream order."""

    slot: Slot
    tasks: tuple[int, ...]


def settled_episodes(rules: Rules, *, complete: int) -> range:
    """The episodes after the complete ones whose draws no loss can change any more.

    These are the next one; the episodes up to b, which draw every task; and all of them where the
    draw does not look at losses.

    Args:
        complete: how many episodes have all their members.
    """
    if rules.mode != "continual" or rules.past_tasks == 0:
        last = rules.tasks
    else:
        last = min(max(complete + 1, rules.past_tasks + 1), rules.tasks)
    return range(complete + 1, last + 1)


def draw_episode(rules: Rules, *, episode: int, weights: Floats) -> list[Draw]:
    """The draws of one episode's members.

    Args:
        episode: from 1; its newest task has position episode - 1.
        weights: boosting weights of the episode - 1 past tasks; not read in a mode, or in an
            early episode, that does not look at them.
    """
    past = episode - 1
    if rules.mode == "uniform":
        weights = np.ones(past)
    if rules.past_tasks >= past:
        weights = np.ones(past)  # every past task is drawn: their losses may not be known yet
    return [
        Draw(
            slot=Slot(episode, index),
            tasks=(
                *draw_tasks(
                    weights=weights,
                    count=rules.past_tasks,
                    seed=rules.seed,
                    episode=episode,
                    index=index,
                ),
                past,
            ),
        )
        for index in range(rules.members_per_episode)
    ]
