"""What replay holds of the tasks that have arrived before."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from zoo_ray.members.spec import Rows, TaskShare
from zoo_ray.task import TaskLabels


class Buffer:
    """Which training samples of a task a member may see once the task is a past one.

    Of each class the first max(floor(f n), 1), in stored order; each is seen max(floor(1 / ((t - 1)
    f)), 1) times by a member of t tasks, so that about half of its batches is new where (t - 1) f
    is at most 1 (Ramesh & Chaudhari 2022, section 4).

    Args:
        tasks: the stream.
        fraction: f, in (0, 1]; 1: past tasks are kept whole.
    """

    def __init__(self, tasks: Sequence[TaskLabels], *, fraction: float) -> None:
        self._fraction = Fraction(str(fraction))  # as it is written: 0.29 of 100 is 29
        self._tasks = tasks
        self._whole = [TaskShare(task.digest) for task in tasks]
        self._kept = [self._past(task) for task in tasks]
        sizes = [
            [share.samples(task.train) for share, task in zip(shares, tasks, strict=True)]
            for shares in (self._whole, self._kept)
        ]
        self._mean_whole, self._mean_kept = (sum(each) / len(each) for each in sizes)
        self.is_even = all(len(set(each)) == 1 for each in sizes)
        """Whether all tasks have as many samples, and replay keeps as many of each."""

    def _past(self, task: TaskLabels) -> TaskShare:
        if self._fraction == 1:
            return TaskShare(task.digest)
        counts = np.bincount(task.train, minlength=len(task.classes)).tolist()
        kept = tuple(min(max(int(self._fraction * n), 1), n) for n in counts)
        return TaskShare(task.digest, samples_per_class=kept)

    def rows(self, task: int) -> slice | Rows:
        """The rows of a task's training part that are kept, as an index."""
        share = self._kept[task]
        if share.samples_per_class is None:
            return slice(None)
        return share.rows(self._tasks[task].train)

    def share(self, task: int, *, newest: Sequence[int], tasks: int) -> TaskShare:
        """A task as a member sees it.

        Args:
            task: its position.
            newest: the task that arrives with the member, if any: it is whole.
            tasks: how many the member has.
        """
        if task in newest or self._fraction == 1:
            return self._whole[task]
        return replace(self._kept[task], repeats=self._repeats(newest, tasks))

    def mean_samples(self, *, newest: Sequence[int], tasks: int) -> float:
        """Training samples, repeats included, of a member of so many tasks if each is the stream's
        mean one."""
        past = tasks - len(newest)
        if past == 0:
            return self._mean_whole * tasks
        repeats = self._repeats(newest, tasks)
        return self._mean_whole * len(newest) + self._mean_kept * repeats * past

    def _repeats(self, newest: Sequence[int], tasks: int) -> int:
        """How often a member sees each kept sample in an epoch."""
        if not newest:  # nothing that they must be weighed against
            return 1
        return max(int(1 / ((tasks - 1) * self._fraction)), 1)
