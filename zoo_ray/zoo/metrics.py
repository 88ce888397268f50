"""The field's metrics, from the accuracy matrix A[e, i]: accuracy of task i after episode e.

A has a row for each episode, closing rounds included, and a column for each task; float64, NaN
where a task had not yet arrived. Where all tasks are there from the start, rows are rounds, and
only the average has a meaning.
"""

from typing import NamedTuple

import numpy as np

from zoo_ray.zoo.boosting import Floats


class Metrics(NamedTuple):
    """Each lies in [-1, 1]. The last two are None for a stream of one task, and the last three
    where no tasks arrive. Episode T is the last one.

    Attributes:
        average_accuracy: mean of A[T, i]: how good the zoo is in the end.
        learning_accuracy: mean of A[i, i]: how good it is when a task arrives (Riemer 2019).
        backward_transfer: mean of A[T, i] - A[i, i] over all tasks but the last (Lopez-Paz &
            Ranzato 2017).
        forgetting: mean over all tasks but the last of the best A[e, i] for i <= e < T, minus
            A[T, i] (Chaudhry 2018); negative if tasks are at their best in the end.
    """

    average_accuracy: float
    learning_accuracy: float | None
    backward_transfer: float | None
    forgetting: float | None


def metrics(accuracy: Floats, *, arriving: bool = True) -> Metrics:
    """The metrics of a complete accuracy matrix.

    Args:
        accuracy: A[e, i], shape (episodes, tasks).
        arriving: whether tasks arrive one by one; else rows are rounds.
    """
    tasks = accuracy.shape[1]
    final = accuracy[-1]
    average = float(final.mean())
    if not arriving:
        return Metrics(average, None, None, None)
    learned = np.diagonal(accuracy)
    backward = forgetting = None
    if tasks > 1:
        backward = float((final - learned)[:-1].mean())
        best = np.array([accuracy[task:-1, task].max() for task in range(tasks - 1)])
        forgetting = float((best - final[:-1]).mean())
    return Metrics(average, float(learned.mean()), backward, forgetting)
