"""What decides which members a zoo has."""

from dataclasses import dataclass, replace
from typing import Literal

Mode = Literal["continual", "isolated", "uniform", "pairs", "multihead", "multitask"]


@dataclass(frozen=True)
class Rules:
    """What decides which members a zoo has.

    Episodes are numbered from 1. After those of the stream come the closing rounds; where all
    tasks are there from the start, a round counts as an episode.

    Attributes:
        tasks: length of the stream.
        mode: see `zoo_ray.config.ZooConfig`, as for all that follow.
        tasks_per_member: b, the newest task included.
        members_per_episode: m.
        seed: the run's seed.
        rounds: of a multi-task zoo, its warm start not counted; 0 in other modes.
        warm_start, closing_rounds, weights, sharpness, count_penalty, replay: see there.
        weights_source: SHA-256 of the file of the user's own `weights`; empty: of any.
    """

    tasks: int
    mode: Mode
    tasks_per_member: int
    members_per_episode: int
    seed: int
    rounds: int = 0
    warm_start: bool = False
    closing_rounds: int = 0
    weights: str = "boosting"
    weights_source: str = ""
    sharpness: float = 1.0
    count_penalty: float = 0.0
    replay: float = 1.0

    @property
    def arriving(self) -> bool:
        """Whether tasks arrive one by one; else all are there from the start."""
        return self.mode not in ("multihead", "multitask")

    @property
    def can_be_lengthened(self) -> bool:
        """Whether the zoo of a longer stream begins with this one."""
        return self.arriving and self.closing_rounds == 0

    @property
    def episodes(self) -> int:
        """How many there are."""
        if self.mode == "multihead":
            return 1
        if self.mode == "multitask":
            return self.rounds + self.warm_start
        return self.tasks + self.closing_rounds

    def so_far(self, episodes: int) -> "Rules":
        """The rules of the zoo that ends with an episode; its tasks are the first ones."""
        tasks = min(episodes, self.tasks) if self.arriving else self.tasks
        rounds = episodes - self.warm_start if self.mode == "multitask" else 0
        closing_rounds = max(episodes - self.tasks, 0) if self.arriving else 0
        return replace(self, tasks=tasks, rounds=rounds, closing_rounds=closing_rounds)

    @property
    def members(self) -> int:
        """How many members the grown zoo has."""
        return sum(self.members_at(episode) for episode in range(1, self.episodes + 1))

    @property
    def past_tasks(self) -> int:
        """How many past tasks a member is given beside the newest, where there are so many."""
        return {"isolated": 0, "pairs": 1}.get(self.mode, self.tasks_per_member - 1)

    def newest(self, episode: int) -> tuple[int, ...]:
        """The task that arrives in an episode, which all its members are fitted on; if any."""
        return (episode - 1,) if self.arriving and episode <= self.tasks else ()

    def known(self, episode: int) -> int:
        """How many tasks an episode's draws choose from: the past ones, or all."""
        return min(episode - 1, self.tasks) if self.arriving else self.tasks

    def seen(self, episode: int) -> int:
        """How many tasks are there at an episode's end."""
        return self.known(episode) + len(self.newest(episode))

    def weight(self, task: int, episode: int) -> float:
        """Of a member's prediction on a task, in the average: those that saw the task whole weigh
        more."""
        return 1 / self.replay if task in self.newest(episode) else 1.0

    def takes_all(self, episode: int) -> bool:
        """Whether an episode's members are fitted on all tasks, as a baseline or a start."""
        return self.mode == "multihead" or (self.warm_start and episode == 1)

    def tasks_at(self, episode: int) -> int:
        """How many tasks the members of an episode are fitted on."""
        if self.takes_all(episode):
            return self.tasks
        return min(self.past_tasks + 1, self.seen(episode))

    def members_at(self, episode: int) -> int:
        """How many members an episode has."""
        if self.mode == "pairs":
            return episode
        return 1 if self.warm_start and episode == 1 else self.members_per_episode

    def key(self, episode: int) -> int:
        """The number that an episode's randomness is keyed by: that of a round, where a warm start
        is round 0; a multi-head member is one of a stream's last episode."""
        return self.tasks if self.mode == "multihead" else episode - self.warm_start
