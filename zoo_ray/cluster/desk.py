"""What is to be fitted, and by whom: the driver's state machine, without Ray, clock or I/O."""

from zoo_ray.cluster.leases import Answer, Leases, Worker
from zoo_ray.zoo.forecast import Predictor, mean_change
from zoo_ray.zoo.growth import Growth, Wanted

# Below this chance, a speculative fit costs more than the wait it may save.
LEAST_CHANCE = 0.25
# A plan's work grows with the workers, and so do the arrivals: each is planned for up to so many
# workers, and every hundredth with ten times as many.
_EACH_ARRIVAL = 100


class Desk:
    """Between a zoo that wants members and the workers that fit them.

    Whoever runs it asks the store for each member of `to_look_up`, and either delivers it to the
    zoo or calls `missing`. What is missing is leased, certain specs before speculative ones.

    Args:
        growth: the zoo.
        speculate: whether workers for whom there is no certain spec fit what may be wanted later.
        predict: guesses losses to come.

    Attributes:
        growth: the zoo.
        leases: who fits what.
    """

    def __init__(
        self, growth: Growth, *, speculate: bool, predict: Predictor = mean_change
    ) -> None:
        self.growth = growth
        self.leases = Leases()
        self._speculate = speculate
        self._predict = predict
        self._offered: set[str] = set()
        self._missing: set[str] = set()
        self._prospects: dict[str, tuple[Wanted, float]] = {}
        self._planned_for: tuple[tuple[int, int], int] | None = None

    def to_look_up(self) -> list[Wanted]:
        """The members that the store is to be asked for now: the certain ones that it was not yet
        asked for, or else those that are worth a speculative fit."""
        new = [w for w in self.growth.wanted() if w.spec.digest not in self._offered]
        if new or not self._speculate or self.growth.finished:
            return new
        self._plan()
        return [
            wanted
            for digest, (wanted, _) in self._prospects.items()
            if digest not in self._missing and self.growth.may_want(digest)
        ]

    def missing(self, wanted: Wanted) -> None:
        """Hear that the store does not hold a member: it is to be fitted."""
        digest = wanted.spec.digest
        self._missing.add(digest)
        if self.growth.wants(digest):
            self._offered.add(digest)
            self.leases.offer(wanted)
        else:
            self._consider(digest)

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
        if self.growth.may_want(digest):
            self.leases.give_back(worker, digest)
        else:
            self.leases.end(digest)

    def answer(self, worker: Worker, digest: str) -> Answer:
        """What to tell a worker of the fit that it reports."""
        if self.growth.wants(digest):
            return "go on"
        return self.leases.answer(worker, digest) if self.growth.may_want(digest) else "drop"

    def _plan(self) -> None:
        """Choose what is worth a speculative fit, if that may have changed."""
        growth, leases = self.growth, self.leases
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
