"""The field's metrics, from the accuracy matrix A[e, i]: accuracy of task i after episode e.

A is square, float64; NaN above the diagonal, where a task has not yet arrived.
"""

from typing import NamedTuple

import numpy as np

from zoo_ray.zoo.boosting import Floats


class Metrics(NamedTuple):
    """Each lies in [-1, 1]; the last two are None for a stream of one task.

    Attributes:
        average_accuracy: mean of A[T, i]: how good the zoo is in the end.
        learning_accuracy: mean of A[i, i]: how good it is when a task arrives (Riemer 2019).
        backward_transfer: mean of A[T, i] - A[i, i] over i < T (Lopez-Paz & Ranzato 2017).
        forgetting: mean over i < T of the best A[e, i] for i <= e < T, minus A[T, i] (Chaudhry
            2018); negative if tasks are at their best in the end.
    """

    average_accuracy: float
    learning_accuracy: float
    backward_transfer: float | None
    forgetting: float | None


def metrics(accuracy: Floats) -> Metrics:
    """The metrics of a complete accuracy matrix, shape (tasks, tasks)."""
    tasks = len(accuracy)
    final, learned = accuracy[-1], np.diagonal(accuracy)
    backward = forgetting = None
    if tasks > 1:
        backward = float((final - learned)[:-1].mean())
        best = np.array([accuracy[task:-1, task].max() for task in range(tasks - 1)])
        forgetting = float((best - final[:-1]).mean())
    return Metrics(float(final.mean()), float(learned.mean()), backward, forgetting)
