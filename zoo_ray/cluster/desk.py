"""What is to be fitted, and by whom: the driver's state machine, without Ray, clock or I/O."""

from collections.abc import Sequence

from zoo_ray.cluster.leases import Answer, Leases, Turn, Worker
from zoo_ray.task import Predictions
from zoo_ray.zoo.forecast import Predictor, mean_change
from zoo_ray.zoo.growth import Growth, Wanted

# Below this chance, a speculative fit costs more than the wait it may save.
LEAST_CHANCE = 0.25
# A plan's work grows with the workers, and so do the arrivals: each is planned for up to so many
# workers, and every hundredth with ten times as many.
_EACH_ARRIVAL = 100


class Desk:
    """Between zoos that want members and the workers that fit them.

    Whoever runs it asks the store for each member of `to_look_up`, and either delivers it or calls
    `missing`. What is missing is leased: certain specs before speculative ones, and among them
    those of the zoo of the lowest turn. Zoos that want the same member share its fit.

    Args:
        growth: the zoo, if there is just one. There may be more or fewer: see `add`.
        speculate: whether workers for whom there is no certain spec fit what may be wanted later;
            needs just one zoo.
        predict: guesses losses to come.

    Attributes:
        leases: who fits what.
    """

    def __init__(
        self, growth: Growth | None = None, *, speculate: bool, predict: Predictor = mean_change
    ) -> None:
        self.leases = Leases()
        self._zoos: dict[Turn, Growth] = {} if growth is None else {(): growth}
        self._speculate = speculate
        self._predict = predict
        self._offered: set[str] = set()
        self._missing: set[str] = set()
        self._prospects: dict[str, tuple[Wanted, float]] = {}
        self._planned_for: tuple[tuple[int, int], int] | None = None

    # ---- zoos

    def add(self, growth: Growth, *, turn: Turn) -> None:
        """Have a zoo more."""
        self._zoos = dict(sorted({**self._zoos, turn: growth}.items()))

    def remove(self, turn: Turn) -> None:
        """Have a zoo less, if it is here: what nobody else wants leaves the queue."""
        growth = self._zoos.pop(turn, None)
        for wanted in growth.wanted() if growth else ():
            digest = wanted.spec.digest
            if not self.wants(digest):
                self.leases.withdraw(digest)
                self._offered.discard(digest)
                self._missing.discard(digest)

    def wants(self, digest: str) -> bool:
        """Whether a zoo is certain to want a member that has not come."""
        return any(growth.wants(digest) for growth in self._zoos.values())

    def needs(self, digest: str) -> bool:
        """Whether a zoo has a member, or is certain to have it."""
        return any(growth.needs(digest) for growth in self._zoos.values())

    def may_want(self, digest: str) -> bool:
        """Whether a member that `to_look_up` has named is still to come."""
        return any(growth.may_want(digest) for growth in self._zoos.values())

    def who_wants(self, digest: str) -> list[Turn]:
        """The turns of the zoos that are certain to want a member, in order."""
        return [turn for turn, growth in self._zoos.items() if growth.wants(digest)]

    def wanted(self, digest: str) -> Wanted:
        """A member that a zoo is certain to want, as the zoo of the lowest turn names it."""
        growth = self._zoos[self.who_wants(digest)[0]]
        return next(wanted for wanted in growth.wanted() if wanted.spec.digest == digest)

    # ---- members

    def to_look_up(self) -> list[Wanted]:
        """The members that the store is to be asked for now: the certain ones that it was not yet
        asked for, or else those that are worth a speculative fit."""
        new = {
            wanted.spec.digest: wanted
            for growth in self._zoos.values()
            for wanted in growth.wanted()
            if wanted.spec.digest not in self._offered
        }
        if new or not self._speculate:
            return list(new.values())
        (growth,) = self._zoos.values()
        if growth.finished:
            return []
        self._plan(growth)
        return [
            wanted
            for digest, (wanted, _) in self._prospects.items()
            if digest not in self._missing and growth.may_want(digest)
        ]

    def missing(self, wanted: Wanted) -> None:
        """Hear that the store does not hold a member: it is to be fitted."""
        digest = wanted.spec.digest
        self._missing.add(digest)
        if turns := self.who_wants(digest):
            self._offered.add(digest)
            self.leases.offer(wanted, turn=turns[0])
        else:
            self._consider(digest)

    def deliver(
        self, digest: str, predictions: Sequence[Predictions], *, predictions_sha256: str
    ) -> None:
        """Take in a member, for every zoo that may want it; see `Growth.deliver`."""
        for growth in self._zoos.values():
            growth.deliver(digest, predictions, predictions_sha256=predictions_sha256)
        self.leases.end(digest)
        # A zoo that comes to want it later asks the store for it.
        self._offered.discard(digest)
        self._missing.discard(digest)

    def published(self, digest: str) -> None:
        """Hear from a worker that the store holds a member now."""
        self.leases.end(digest)
        self._missing.discard(digest)

    def damaged(self, digest: str) -> None:
        """Have the store asked again for a member that could not be read."""
        self._offered.discard(digest)
        self._missing.discard(digest)

    def give_back(self, worker: Worker, digest: str) -> None:
        """Hear from a worker that it has left a fit, as it was told to."""
        if self.may_want(digest):
            self.leases.give_back(worker, digest)
        else:
            self.leases.end(digest, "left")

    def answer(self, worker: Worker, digest: str) -> Answer:
        """What to tell a worker of the fit that it reports."""
        if self.wants(digest):
            return "go on"
        return self.leases.answer(worker, digest) if self.may_want(digest) else "drop"

    def _plan(self, growth: Growth) -> None:
        """Choose what is worth a speculative fit, if that may have changed."""
        leases = self.leases
        step = max(1, leases.workers**2 // _EACH_ARRIVAL**2)
        state = growth.arrivals // step, leases.workers
        episodes = len(growth.episodes)
        if (state, episodes) == self._planned_for:
            return
        if self._planned_for is None or state != self._planned_for[0]:
            prospects = growth.prospects(
                count=leases.workers, least=LEAST_CHANCE, predict=self._predict
            )
            self._prospects = {wanted.spec.digest: (wanted, worth) for wanted, worth in prospects}
        else:
            self._prospects = {
                digest: prospect
                for digest, prospect in self._prospects.items()
                if growth.may_want(digest) and not growth.wants(digest)
            }
        self._planned_for = state, episodes
        worths = {digest: worth for digest, (_, worth) in self._prospects.items()}
        for wanted in leases.held().values():
            if growth.may_want(wanted.spec.digest):  # whatever it is worth now
                worths.setdefault(wanted.spec.digest, LEAST_CHANCE)
        leases.reconsider(worths)
        for digest in self._prospects.keys() & self._missing:
            self._consider(digest)

    def _consider(self, digest: str) -> None:
        if digest in self._prospects:
            wanted, worth = self._prospects[digest]
            self.leases.consider(wanted, worth=worth)
