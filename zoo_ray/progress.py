"""How far a run is: plain data, from whoever fits to whoever shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zoo_ray.members.member import FitProgress
from zoo_ray.zoo.growth import Growth, Wanted


@dataclass(frozen=True)
class FitState:
    """A fit under way.

    Attributes:
        worker: who fits, as a short name.
        digest: of the member's spec.
        episode, index: the member's slot.
        tasks: names of its tasks.
        certain: whether the member is certain to be wanted; else it is fitted early, in hope.
        epochs_done, epochs: a fraction counts the present epoch.
        loss: mean training loss of the present epoch so far; None before the first report.
    """

    worker: str
    digest: str
    episode: int
    index: int
    tasks: tuple[str, ...]
    certain: bool
    epochs_done: float
    epochs: int
    loss: float | None

    @staticmethod
    def of(
        wanted: Wanted,
        *,
        names: Mapping[str, str],
        certain: bool,
        worker: str,
        progress: FitProgress | None,
    ) -> "FitState":
        """The state of a member's fit.

        Args:
            wanted: the member.
            names: of the tasks, by digest.
            certain, worker: see above.
            progress: None: it has just begun.
        """
        return FitState(
            worker=worker,
            digest=wanted.spec.digest,
            episode=wanted.slot.episode,
            index=wanted.slot.index,
            tasks=tuple(names[share.digest] for share in wanted.spec.tasks),
            certain=certain,
            epochs_done=progress.epochs_done if progress else 0.0,
            epochs=wanted.spec.recipe.epochs,
            loss=progress.loss if progress else None,
        )


class Speculative(NamedTuple):
    """Members that were fitted before it was certain that they would be wanted. A driver that has
    restarted no longer knows which of those fitted before come to be used.

    Attributes:
        fitted: how many.
        used: those that turned out to be wanted.
    """

    fitted: int = 0
    used: int = 0


NONE = Speculative()


@dataclass(frozen=True)
class Progress:
    """A run under way.

    Attributes:
        episodes_done, episodes: complete episodes, and how many there will be.
        members_done, members: members delivered, and how many there will be.
        fitted: members fitted by this call so far.
        first_fit: when its first fit began, in seconds since the epoch; None before.
        work_share: share of this call's work that is done, 0 to 1, fits under way included.
        test_accuracy: mean over the tasks seen, after the last complete episode.
        fits: the fits under way.
        speculative: of the fitted.
    """

    episodes_done: int
    episodes: int
    members_done: int
    members: int
    fitted: int
    first_fit: float | None
    work_share: float
    test_accuracy: float | None
    fits: tuple[FitState, ...]
    speculative: Speculative


@dataclass(frozen=True)
class SearchProgress:
    """What the driver of a search is about.

    Attributes:
        members_done: members delivered to trials, each once.
        waiting: members that wait for a worker.
        first_fit: when the command's first fit began, in seconds since the epoch; None before.
        fits: the fits under way.
        problems: lines that say why trials, by number, came to nothing.
        grown: numbers of a comparison's zoos that are.
    """

    members_done: int
    waiting: int
    first_fit: float | None
    fits: tuple[FitState, ...]
    problems: Mapping[int, str]
    grown: Sequence[int] = ()


class Samples(NamedTuple):
    """Training samples of the members that a zoo still lacks.

    Attributes:
        wanted: of each member whose draw is settled, by digest of its spec.
        total: of all, where tasks of members not drawn yet count as the stream's mean.
        exact: whether none had to be guessed so.
    """

    wanted: dict[str, int]
    total: float
    exact: bool


def training_samples(growth: Growth) -> Samples:
    """Training samples that are left to fit, as a measure of work."""
    rules = growth.rules
    wanted = {w.spec.digest: w.samples for w in growth.wanted()}
    undrawn = range(growth.drawn_episodes + 1, rules.episodes + 1)
    guessed = sum(growth.mean_samples(e) * rules.members_at(e) for e in undrawn)
    return Samples(
        wanted=wanted,
        total=sum(wanted.values()) + guessed,
        exact=not undrawn or growth.is_even,
    )


class Work:
    """Measures a run's progress from the zoo's state when it began."""

    def __init__(self, growth: Growth) -> None:
        self._growth = growth
        self._at_start = training_samples(growth).total

    def progress(
        self,
        *,
        fitted: int,
        first_fit: float | None,
        fits: tuple[FitState, ...],
        speculative: Speculative = NONE,
    ) -> Progress:
        """The present state."""
        growth, rules = self._growth, self._growth.rules
        samples = training_samples(growth)
        under_way = sum(
            samples.wanted.get(fit.digest, 0) * fit.epochs_done / fit.epochs for fit in fits
        )
        share = 1 - (samples.total - under_way) / self._at_start if self._at_start else 1.0
        seen = growth.episodes[-1].test_accuracy if growth.episodes else None
        return Progress(
            episodes_done=len(growth.episodes),
            episodes=rules.episodes,
            members_done=rules.members - growth.members_left,
            members=rules.members,
            fitted=fitted,
            first_fit=first_fit,
            work_share=min(max(share, 0.0), 1.0),
            test_accuracy=None if seen is None else float(seen.mean()),
            fits=fits,
            speculative=speculative,
        )
