"""A zoo while it grows: a state machine without I/O, clock or randomness of its own.

The same object drives a run in one process and a run on a cluster, so they cannot differ.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo_ray.keys import hash_bits
from zoo_ray.members.spec import MemberSpec, Recipe, TaskShare
from zoo_ray.task import PartName, Predictions, TaskLabels
from zoo_ray.zoo.boosting import Floats, boosting_weights
from zoo_ray.zoo.ensemble import Ensemble
from zoo_ray.zoo.schedule import Draw, Rules, Slot, draw_episode, settled_episodes


@dataclass(frozen=True)
class Wanted:
    """A member that the zoo needs and does not have yet.

    Attributes:
        slot: its place in the zoo.
        tasks: positions of its tasks in the stream, in the order of `spec.tasks`.
        spec: what it is.
    """

    slot: Slot
    tasks: tuple[int, ...]
    spec: MemberSpec

    @property
    def name(self) -> str:
        """What messages call the member."""
        return f"member {self.slot.index + 1} of episode {self.slot.episode}"


@dataclass(frozen=True)
class GrownMember:
    """A member of the zoo, as the run's record names it."""

    slot: Slot
    tasks: tuple[int, ...]
    digest: str
    predictions_sha256: str


@dataclass(frozen=True)
class Episode:
    """What an episode left behind.

    Attributes:
        members: the episode's new members, in order of index.
        weights: boosting weights of the past tasks that its draws saw, shape (episode - 1,).
        members_of_task, losses, validation_accuracy, test_accuracy: of each task seen, after the
            episode; shape (episode,). Validation accuracy is NaN without a validation part.
    """

    members: tuple[GrownMember, ...]
    weights: Floats
    members_of_task: tuple[int, ...]
    losses: Floats
    validation_accuracy: Floats
    test_accuracy: Floats


class Growth:
    """Grows a zoo, member by member.

    Args:
        tasks: the stream, in order.
        rules: which members the zoo has.
        recipe: how each is fitted.
    """

    def __init__(self, *, tasks: Sequence[TaskLabels], rules: Rules, recipe: Recipe) -> None:
        self.tasks = tasks
        self.rules = rules
        self.episodes: list[Episode] = []
        self._recipe = recipe
        self._ensemble = Ensemble(tasks)
        self._weights = np.ones(0)
        self._wanted: dict[str, Wanted] = {}
        self._draws: dict[int, list[Wanted]] = {}
        self._early: dict[Slot, tuple[Sequence[Predictions], str]] = {}
        self._settle()

    @property
    def finished(self) -> bool:
        """Whether the zoo has all its members."""
        return len(self.episodes) == self.rules.tasks

    @property
    def members_left(self) -> int:
        """How many members have not been delivered."""
        undrawn = self.rules.tasks - self.drawn_episodes
        return len(self._wanted) + undrawn * self.rules.members_per_episode

    @property
    def drawn_episodes(self) -> int:
        """The episodes up to this one have their draws."""
        return max(self._draws, default=len(self.episodes))

    def wanted(self) -> list[Wanted]:
        """The members that are certain to be needed and not delivered yet, most urgent first."""
        return list(self._wanted.values())

    def wants(self, digest: str) -> bool:
        """Whether a member is wanted, by the digest of its spec."""
        return digest in self._wanted

    def deliver(
        self, digest: str, predictions: Sequence[Predictions], *, predictions_sha256: str
    ) -> None:
        """Take in a member. Members of later slots wait until those before them have come.

        A member that is not wanted (any more) changes nothing.

        Args:
            digest: of the member's spec.
            predictions: on each of its tasks, in the order of the spec, as the store holds them.
            predictions_sha256: checksum of the stored predictions.

        Raises:
            ValueError: the predictions do not fit the tasks.
        """
        wanted = self._wanted.get(digest)
        if wanted is None:
            return
        self._check(wanted, predictions)
        del self._wanted[digest]
        self._early[wanted.slot] = (predictions, predictions_sha256)
        while not self.finished and self._next_episode_is_here():
            self._complete_episode()
            self._settle()

    def accuracy(self) -> Floats:
        """Test accuracy A[e, i], float64, shape (complete episodes, tasks); NaN where task i had
        not arrived."""
        matrix = np.full((len(self.episodes), self.rules.tasks), np.nan)
        for row, episode in enumerate(self.episodes):
            matrix[row, : row + 1] = episode.test_accuracy
        return matrix

    def members(self) -> list[GrownMember]:
        """The members of all complete episodes, in the order in which they were averaged."""
        return [member for episode in self.episodes for member in episode.members]

    def digests(self) -> list[str]:
        """Digests of all members that the zoo has, or is certain to have."""
        drawn = [wanted for draws in self._draws.values() for wanted in draws]
        return [m.digest for m in self.members()] + [wanted.spec.digest for wanted in drawn]

    def digest(self) -> str:
        """SHA-256 over the members' specs and predictions, in order: equal for equal zoos."""
        state = hashlib.sha256()
        for member in self.members():
            state.update(f"{member.digest} {member.predictions_sha256}\n".encode())
        return state.hexdigest()

    def _settle(self) -> None:
        for episode in settled_episodes(self.rules, complete=len(self.episodes)):
            if episode not in self._draws:
                draws = draw_episode(self.rules, episode=episode, weights=self._weights)
                self._draws[episode] = [self._want(draw) for draw in draws]
                self._wanted.update({wanted.spec.digest: wanted for wanted in self._draws[episode]})

    def _want(self, draw: Draw) -> Wanted:
        spec = MemberSpec(
            tasks=tuple(TaskShare(self.tasks[task].digest) for task in draw.tasks),
            recipe=self._recipe,
            seed=hash_bits("fit", self.rules.seed, draw.slot.episode, draw.slot.index),
        )
        return Wanted(slot=draw.slot, tasks=draw.tasks, spec=spec)

    def _check(self, wanted: Wanted, predictions: Sequence[Predictions]) -> None:
        if len(predictions) != len(wanted.tasks):
            raise ValueError(f"{len(predictions)} tasks predicted, not {len(wanted.tasks)}")
        for position, prediction in zip(wanted.tasks, predictions, strict=True):
            self._ensemble.check(position, prediction)

    def _next_episode_is_here(self) -> bool:
        wanted = self._draws[len(self.episodes) + 1]
        return all(member.slot in self._early for member in wanted)

    def _complete_episode(self) -> None:
        episode = len(self.episodes) + 1
        members = []
        for wanted in self._draws.pop(episode):
            predictions, predictions_sha256 = self._early.pop(wanted.slot)
            for position, prediction in zip(wanted.tasks, predictions, strict=True):
                self._ensemble.add(position, prediction)
            members.append(
                GrownMember(wanted.slot, wanted.tasks, wanted.spec.digest, predictions_sha256)
            )
        seen = range(episode)
        losses = np.array([self._ensemble.loss(task) for task in seen])
        self.episodes.append(
            Episode(
                members=tuple(members),
                weights=self._weights,
                members_of_task=tuple(self._ensemble.members(task) for task in seen),
                losses=losses,
                validation_accuracy=self._accuracies(seen, "validation"),
                test_accuracy=self._accuracies(seen, "test"),
            )
        )
        self._weights = boosting_weights(losses)

    def _accuracies(self, seen: range, part: PartName) -> Floats:
        return np.array([self._ensemble.accuracy(task, part) for task in seen])
