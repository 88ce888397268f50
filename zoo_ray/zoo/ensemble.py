"""The zoo's averaged predictions, task by task."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from zoo_ray.members.spec import Rows
from zoo_ray.task import PARTS, PartName, Predictions, TaskLabels
from zoo_ray.zoo.boosting import Floats, log_loss


class Ensemble:
    """A running average of the members' predictions on each task.

    Sums are float64 and depend on the order of `add`: the caller adds members in the order of
    their episodes and indices, whatever the order in which they were fitted.

    Args:
        tasks: the stream, in order.
        rows: of each task's training part, the rows that losses are worked out from; None: all.
    """

    def __init__(
        self, tasks: Sequence[TaskLabels], *, rows: Sequence[slice | Rows] | None = None
    ) -> None:
        self._tasks = tasks
        self._rows = rows = [slice(None)] * len(tasks) if rows is None else rows
        self._train = [task.train[kept] for task, kept in zip(tasks, rows, strict=True)]
        self._sums: list[dict[PartName, Floats]] = [{} for _ in tasks]
        self._total_weight = [0.0] * len(tasks)
        self._members = [0] * len(tasks)
        # What was worked out of a task's average, until a member changes it.
        self._loss: list[float | None] = [None] * len(tasks)
        self._accuracy: list[dict[PartName, float]] = [{} for _ in tasks]

    def check(self, position: int, predictions: Predictions) -> None:
        """Raise ValueError unless the predictions fit the samples and classes of a task."""
        task = self._tasks[position]
        for part in PARTS:
            shape = (len(task.labels(part)), len(task.classes))
            if predictions[part].shape != shape:
                raise ValueError(
                    f"{part} predictions of task {task.name} have shape "
                    f"{predictions[part].shape}, not {shape}"
                )

    def add(self, position: int, predictions: Predictions, *, weight: float = 1.0) -> None:
        """Average in one member's predictions on the task at a position."""
        sums = self._sums[position]
        for part in PARTS:
            weighted = predictions[part].astype(np.float64) * weight
            sums[part] = sums[part] + weighted if part in sums else weighted
        self._total_weight[position] += weight
        self._members[position] += 1
        self._loss[position] = None
        self._accuracy[position] = {}

    def members(self, position: int) -> int:
        """How many members were fitted on a task."""
        return self._members[position]

    def prediction(self, position: int, part: PartName) -> Floats:
        """The averaged class probabilities, float64, shape (samples, classes); uniform for a task
        without members."""
        task = self._tasks[position]
        if not self._members[position]:
            classes = len(task.classes)
            return np.full((len(task.labels(part)), classes), 1.0 / classes)
        return self._sums[position][part] / self._total_weight[position]

    def loss(self, position: int) -> float:
        """Log loss of the average on the task's training part, on the rows chosen."""
        loss = self._loss[position]
        if loss is None:
            predicted = self.prediction(position, "train")[self._rows[position]]
            loss = log_loss(predicted, self._train[position])
            self._loss[position] = loss
        return loss

    def likelihood(
        self, position: int, predictions: Mapping[PartName, npt.NDArray[np.floating]]
    ) -> Floats:
        """What a member gives the true class of each training sample chosen, float64."""
        labels = self._train[position]
        predicted = predictions["train"][self._rows[position]]
        return predicted[np.arange(len(labels)), labels].astype(np.float64)

    def likelihoods(self, position: int) -> tuple[Floats, float]:
        """The members' weighted sum of `likelihood`, and of their weights: with those of members
        more added, `mean_log_loss` of the quotient is what `loss` would be with them."""
        if not self._members[position]:
            return np.zeros(len(self._train[position])), 0.0
        return self.likelihood(position, self._sums[position]), self._total_weight[position]

    def accuracy(self, position: int, part: PartName) -> float:
        """Share of samples whose most probable class is right (ties: the first); NaN for a part
        without samples."""
        known = self._accuracy[position]
        if part not in known:
            labels = self._tasks[position].labels(part)
            right = self.prediction(position, part).argmax(axis=1) == labels
            known[part] = float(right.mean()) if len(labels) else float("nan")
        return known[part]
