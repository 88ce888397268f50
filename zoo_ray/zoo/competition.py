"""How tasks compete for a network's capacity, from members on one task and on two."""

from typing import NamedTuple

import numpy as np

from zoo_ray.zoo.boosting import Floats


class Competition(NamedTuple):
    """What tasks do for each other (Ramesh & Chaudhari 2022, section 2).

    Attributes:
        alone: accuracy on each task of the member fitted on it alone, shape (tasks,).
        gain: gain[i, j], accuracy gained on task i by fitting task j with it, shape (tasks, tasks);
            NaN on the diagonal.
    """

    alone: Floats
    gain: Floats

    @property
    def helped(self) -> Floats:
        """Mean gain of each task, over the tasks that it is fitted with."""
        return np.asarray(np.nanmean(self.gain, axis=1))

    @property
    def helps(self) -> Floats:
        """Mean gain that each task gives to others."""
        return np.asarray(np.nanmean(self.gain, axis=0))

    @property
    def positive_share(self) -> float:
        """Share of the pairs, in each direction, where the one gains from the other."""
        return float((self.gain[~np.isnan(self.gain)] > 0).mean())

    @property
    def asymmetry(self) -> float:
        """Mean of |gain[i, j] - gain[j, i]|: how much the two directions differ."""
        return float(np.nanmean(np.abs(self.gain - self.gain.T)))


def competition(accuracy: dict[tuple[int, ...], list[float]], *, tasks: int) -> Competition:
    """What tasks do for each other.

    Args:
        accuracy: for each member, by the positions of its tasks, its accuracy on each of these;
            all single tasks, and all pairs (the lower position first).
        tasks: how many there are, two at least.
    """
    alone = np.array([accuracy[task,][0] for task in range(tasks)])
    gain = np.full((tasks, tasks), np.nan)
    for first in range(tasks):
        for second in range(first + 1, tasks):
            of_first, of_second = accuracy[first, second]
            gain[first, second] = of_first - alone[first]
            gain[second, first] = of_second - alone[second]
    return Competition(alone, gain)


def mean_competition(several: list[Competition]) -> Competition:
    """The mean over seeds."""
    return Competition(
        np.mean([one.alone for one in several], axis=0),
        np.mean([one.gain for one in several], axis=0),
    )
