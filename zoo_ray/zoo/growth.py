"""A zoo while it grows: a state machine without I/O, clock or randomness of its own.

The same object drives a run in one process and a run on a cluster, so they cannot differ.
"""

import hashlib
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from zoo_ray.errors import UserError
from zoo_ray.keys import hash_bits
from zoo_ray.members.spec import MemberSpec, Recipe
from zoo_ray.rules import Rules
from zoo_ray.task import PartName, Predictions, TaskLabels
from zoo_ray.zoo.boosting import Floats, mean_log_loss
from zoo_ray.zoo.buffer import Buffer
from zoo_ray.zoo.ensemble import Ensemble
from zoo_ray.zoo.forecast import Predictor, Standing, mean_change
from zoo_ray.zoo.metrics import Metrics, metrics
from zoo_ray.zoo.schedule import Draw, Slot, draw_episode, prospects, settled_episodes
from zoo_ray.zoo.weights import task_weights

# So many members that are here early are folded into the guess of what comes after them: a bound
# on the work, and guesses that far ahead are vague anyway.
_MOST_FOLDED = 32


@dataclass(frozen=True)
class Wanted:
    """A member that the zoo needs, or may need, and does not have yet.

    Attributes:
        slot: its place in the zoo.
        tasks: positions of its tasks in the stream, in the order of `spec.tasks`.
        spec: what it is.
        samples: training samples that an epoch of its fit sees, repeats included.
    """

    slot: Slot
    tasks: tuple[int, ...]
    spec: MemberSpec
    samples: int

    @property
    def name(self) -> str:
        """What messages call the member."""
        return f"member {self.slot.index + 1} of episode {self.slot.episode}"


@dataclass(frozen=True)
class GrownMember:
    """A member of the zoo, as the run's record names it; `samples` as in `Wanted`."""

    slot: Slot
    tasks: tuple[int, ...]
    digest: str
    predictions_sha256: str
    samples: int


@dataclass(frozen=True)
class Episode:
    """What an episode left behind.

    Attributes:
        members: the episode's new members, in order of index.
        weights: boosting weights of the tasks that its draws chose from, shape (tasks,).
        members_of_task, losses, validation_accuracy, test_accuracy: of each task seen, after the
            episode; shape (tasks seen,). Validation accuracy is NaN without a validation part.
    """

    members: tuple[GrownMember, ...]
    weights: Floats
    members_of_task: tuple[int, ...]
    losses: Floats
    validation_accuracy: Floats
    test_accuracy: Floats


class _Here(NamedTuple):
    """What was delivered of a member whose episode is not complete."""

    predictions: Sequence[Predictions]
    sha256: str
    likelihoods: Sequence[Floats]


class Growth:
    """Grows a zoo, member by member.

    Args:
        tasks: the stream, in order.
        rules: which members the zoo has.
        recipe: how each is fitted.
        score_test: whether test accuracies are worked out; NaN if not. A search must not know them
            before its best is fixed.

    Attributes:
        tasks, rules, recipe: as given.
        episodes: the complete ones.
        arrivals: how many members were delivered.
        problem: why it cannot grow on, by a rule of the user's own; None: it can.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[TaskLabels],
        rules: Rules,
        recipe: Recipe,
        score_test: bool = True,
    ) -> None:
        self.tasks = tasks
        self.rules = rules
        self.episodes: list[Episode] = []
        self.arrivals = 0
        self.problem: str | None = None
        self.recipe = recipe
        self._score_test = score_test
        self._buffer = Buffer(tasks, fraction=rules.replay)
        self._ensemble = Ensemble(tasks, rows=[self._buffer.rows(i) for i in range(len(tasks))])
        before = np.array([self._ensemble.loss(task) for task in range(rules.known(1))])
        self._weights = self._weights_after(before, np.zeros(len(before)))
        self._drawn = np.zeros(len(tasks))
        self._wanted: dict[str, Wanted] = {}
        self._draws: dict[int, list[Wanted]] = {}
        self._certain: set[str] = set()
        self._members: dict[Draw, Wanted] = {}
        self._named: dict[str, Wanted] = {}
        self._here: dict[str, _Here] = {}
        self._settle()

    @property
    def finished(self) -> bool:
        """Whether the zoo has all its members."""
        return len(self.episodes) == self.rules.episodes

    @property
    def ended(self) -> bool:
        """Whether it grows no further: it is finished, or has a problem."""
        return self.finished or self.problem is not None

    @property
    def members_left(self) -> int:
        """How many members have not been delivered."""
        # A warm start, which is smaller, is never among the undrawn.
        undrawn = self.rules.episodes - self.drawn_episodes
        return len(self._wanted) + undrawn * self.rules.members_per_episode

    @property
    def certain(self) -> Set[str]:
        """Digests of all members that the zoo has, or is certain to have."""
        return self._certain

    @property
    def drawn_episodes(self) -> int:
        """The episodes up to this one have their draws."""
        return max(self._draws, default=len(self.episodes))

    def wanted(self) -> list[Wanted]:
        """The members that are certain to be needed and not delivered yet, most urgent first."""
        return list(self._wanted.values())

    def prospects(
        self, *, count: int, least: float = 0.0, predict: Predictor = mean_change
    ) -> list[tuple[Wanted, float]]:
        """Members that may be wanted later and are not here yet, each with the worth of fitting it
        early; see `zoo_ray.zoo.schedule.prospects`."""
        standings = [Standing(e.losses, e.members_of_task) for e in self.episodes]
        with_early: dict[int, tuple[Floats, float]] = {}
        folded: list[Draw] = []

        def fold(draw: Draw) -> dict[int, float] | None:
            known = self._members.get(draw)  # only what was named can be here
            here = self._here.get(known.spec.digest) if known else None
            if here is None:
                return None
            losses: dict[int, float] = {}
            if len(folded) == _MOST_FOLDED:
                return losses
            folded.append(draw)
            for task, likelihood in zip(draw.tasks, here.likelihoods, strict=True):
                total, weight = with_early.get(task) or self._ensemble.likelihoods(task)
                more = self.rules.weight(task, draw.slot.episode)
                total, weight = with_early[task] = total + more * likelihood, weight + more
                losses[task] = mean_log_loss(total / weight)
            return losses

        try:
            found = prospects(
                self.rules, standings, count=count, least=least, fold=fold, predict=predict
            )
        except UserError:  # of a rule of the user's own, which need not take guesses
            return []
        members = [(self._member(prospect.draw), prospect.worth) for prospect in found]
        return [(w, worth) for w, worth in members if w.spec.digest not in self._here]

    def needs(self, digest: str) -> bool:
        """Whether the zoo has a member, or is certain to have it."""
        return digest in self._certain

    def may_want(self, digest: str) -> bool:
        """Whether a member that `wanted` or `prospects` has named is still to come."""
        return digest in self._named and digest not in self._here

    def wants(self, digest: str) -> bool:
        """Whether a member is wanted, by the digest of its spec."""
        return digest in self._wanted

    def deliver(
        self, digest: str, predictions: Sequence[Predictions], *, predictions_sha256: str
    ) -> None:
        """Take in a member that `wanted` or `prospects` named. Members of later slots wait until
        those before them have come.

        A member that cannot be wanted (any more) changes nothing.

        Args:
            digest: of the member's spec.
            predictions: on each of its tasks, in the order of the spec, as the store holds them.
            predictions_sha256: checksum of the stored predictions.

        Raises:
            ValueError: the predictions do not fit the tasks.
        """
        wanted = self._named.get(digest)
        if wanted is None or digest in self._here:
            return
        self._check(wanted, predictions)
        likelihoods = [
            self._ensemble.likelihood(task, prediction)
            for task, prediction in zip(wanted.tasks, predictions, strict=True)
        ]
        self._here[digest] = _Here(predictions, predictions_sha256, likelihoods)
        self.arrivals += 1
        self._wanted.pop(digest, None)
        while not self.ended and self._next_episode_is_here():
            self._complete_episode()
            self._settle()

    def accuracy(self, part: Literal["validation", "test"] = "test") -> Floats:
        """Accuracy A[e, i] on a part, float64, shape (complete episodes, tasks); NaN where task i
        had not arrived."""
        matrix = np.full((len(self.episodes), self.rules.tasks), np.nan)
        for row, episode in enumerate(self.episodes):
            scores = episode.test_accuracy if part == "test" else episode.validation_accuracy
            matrix[row, : len(scores)] = scores
        return matrix

    def confusion(self, task: int) -> npt.NDArray[np.int64]:
        """How many test samples of each class (rows) are taken for each (columns), by the present
        averages, shape (classes, classes)."""
        classes = len(self.tasks[task].classes)
        found = self._ensemble.prediction(task, "test").argmax(axis=1)
        pairs = self.tasks[task].test * classes + found
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def metrics(
        self, part: Literal["validation", "test"] = "test", *, episode: int | None = None
    ) -> Metrics:
        """The field's metrics, of the tasks seen by the end of an episode (None: of the last)."""
        episode = episode or len(self.episodes)
        matrix = self.accuracy(part)[:episode, : self.rules.seen(episode)]
        return metrics(matrix, arriving=self.rules.arriving)

    def members(self) -> list[GrownMember]:
        """The members of all complete episodes, in the order in which they were averaged."""
        return [member for episode in self.episodes for member in episode.members]

    def mean_samples(self, episode: int) -> float:
        """`Wanted.samples` of a member of an episode, if each task were the stream's mean one."""
        newest, tasks = self.rules.newest(episode), self.rules.tasks_at(episode)
        return self._buffer.mean_samples(newest=newest, tasks=tasks)

    @property
    def is_even(self) -> bool:
        """Whether `mean_samples` is exact."""
        return self._buffer.is_even

    def digest(self) -> str:
        """SHA-256 over the members' specs and predictions, in order: equal for equal zoos."""
        state = hashlib.sha256()
        for member in self.members():
            state.update(f"{member.digest} {member.predictions_sha256}\n".encode())
        return state.hexdigest()

    def _weights_after(self, losses: Floats, members: Floats) -> Floats:
        try:
            return task_weights(self.rules, losses=losses, members=members)
        except UserError as error:
            self.problem = str(error)
            return np.ones(len(losses))

    def _settle(self) -> None:
        if self.problem:
            return
        for episode in settled_episodes(self.rules, complete=len(self.episodes)):
            if episode not in self._draws:
                known = self.rules.known(episode)
                draws = draw_episode(
                    self.rules,
                    episode=episode,
                    weights=self._weights,
                    members=self._drawn[:known],
                )
                for draw in draws:
                    self._drawn[[*draw.tasks]] += 1
                self._draws[episode] = [self._member(draw) for draw in draws]
        drawn = [wanted for draws in self._draws.values() for wanted in draws]
        certain = {wanted.spec.digest for wanted in drawn}
        self._certain |= certain
        last = self.drawn_episodes
        self._members = {
            draw: wanted
            for draw, wanted in self._members.items()
            if draw.slot.episode > last or wanted.spec.digest in certain
        }
        self._named = {wanted.spec.digest: wanted for wanted in self._members.values()}
        self._here = {d: here for d, here in self._here.items() if d in self._named}
        self._wanted = {
            wanted.spec.digest: wanted for wanted in drawn if wanted.spec.digest not in self._here
        }

    def _member(self, draw: Draw) -> Wanted:
        known = self._members.get(draw)
        if known is not None:
            return known
        episode = draw.slot.episode
        newest, tasks = self.rules.newest(episode), len(draw.tasks)
        shares = [self._buffer.share(task, newest=newest, tasks=tasks) for task in draw.tasks]
        spec = MemberSpec(
            tasks=tuple(shares),
            recipe=self.recipe,
            seed=hash_bits("fit", self.rules.seed, self.rules.key(episode), draw.slot.index),
        )
        samples = sum(
            share.samples(self.tasks[task].train)
            for share, task in zip(shares, draw.tasks, strict=True)
        )
        wanted = Wanted(slot=draw.slot, tasks=draw.tasks, spec=spec, samples=samples)
        self._members[draw] = self._named[spec.digest] = wanted
        return wanted

    def _check(self, wanted: Wanted, predictions: Sequence[Predictions]) -> None:
        if len(predictions) != len(wanted.tasks):
            raise ValueError(f"{len(predictions)} tasks predicted, not {len(wanted.tasks)}")
        for position, prediction in zip(wanted.tasks, predictions, strict=True):
            self._ensemble.check(position, prediction)

    def _next_episode_is_here(self) -> bool:
        wanted = self._draws[len(self.episodes) + 1]
        return all(member.spec.digest in self._here for member in wanted)

    def _complete_episode(self) -> None:
        episode = len(self.episodes) + 1
        members = []
        for wanted in self._draws.pop(episode):
            digest = wanted.spec.digest
            here = self._here[digest]
            for position, prediction in zip(wanted.tasks, here.predictions, strict=True):
                weight = self.rules.weight(position, episode)
                self._ensemble.add(position, prediction, weight=weight)
            members.append(
                GrownMember(wanted.slot, wanted.tasks, digest, here.sha256, wanted.samples)
            )
        seen = range(self.rules.seen(episode))
        losses = np.array([self._ensemble.loss(task) for task in seen])
        members_of_task = tuple(self._ensemble.members(task) for task in seen)
        self.episodes.append(
            Episode(
                members=tuple(members),
                weights=self._weights,
                members_of_task=members_of_task,
                losses=losses,
                validation_accuracy=self._accuracies(seen, "validation"),
                test_accuracy=self._accuracies(seen, "test")
                if self._score_test
                else np.full(len(seen), np.nan),
            )
        )
        if not self.finished:  # else nothing is drawn by them
            counts = np.array(members_of_task, dtype=np.float64)
            self._weights = self._weights_after(losses, counts)

    def _accuracies(self, seen: range, part: PartName) -> Floats:
        return np.array([self._ensemble.accuracy(task, part) for task in seen])
