"""A task: one classification problem as uint8 images and labels. numpy alone."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

PartName = Literal["train", "validation", "test"]
PARTS: tuple[PartName, ...] = ("train", "validation", "test")

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]
"""Predicted class probabilities, float32, shape (samples, classes), rows in stored order."""
Predictions = dict[PartName, Probabilities]
"""One member's predictions on the three parts of one task."""


@dataclass(frozen=True, eq=False)
class Part:
    """Images and labels of one part (train, validation or test) of a task.

    Attributes:
        images: uint8, shape (samples, height, width, channels), C-contiguous; channels 1 or 3.
        labels: int64, shape (samples,): the position of the sample's class in the task's classes,
            which is also the row of the task's head.
    """

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class TaskLabels:
    """A task without its images: all that the zoo needs to know of it.

    Attributes:
        name: what tables and figures call the task, unique within a stream.
        classes: class names, in head order.
        digest: the task's content digest (see `Task.digest`).
        train, validation, test: int64 labels of each part, as in `Part.labels`.
    """

    name: str
    classes: tuple[str, ...]
    digest: str
    train: Labels
    validation: Labels
    test: Labels

    def labels(self, part: PartName) -> Labels:
        """The labels of a part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


@dataclass(frozen=True, eq=False)
class Task:
    """One classification problem: its own label set, and train / validation / test parts.

    Attributes:
        name: what tables and figures call the task, unique within a stream.
        classes: class names, in head order.
        train, validation, test: the parts; validation may be empty.
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    validation: Part
    test: Part

    def parts(self) -> Iterator[tuple[PartName, Part]]:
        """Train, validation and test, in this order."""
        yield "train", self.train
        yield "validation", self.validation
        yield "test", self.test

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every array that a fit or its predictions depend on, and the head's size.

        Labels are positions in `classes`, so another order of classes is another digest; class and
        task names are not part of it, since they change no bit of a member.
        """
        state = hashlib.sha256(f"task 1, {len(self.classes)} classes".encode())
        for name, part in self.parts():
            for array in (part.images, part.labels):
                state.update(f"{name} {array.dtype.str} {array.shape}".encode())
                state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def without_images(self) -> TaskLabels:
        """What the zoo needs of the task."""
        return TaskLabels(
            name=self.name,
            classes=self.classes,
            digest=self.digest,
            train=self.train.labels,
            validation=self.validation.labels,
            test=self.test.labels,
        )


def same_shape(tasks: "list[Task]") -> tuple[int, int, int] | None:
    """The tasks' common image shape, or None if they differ."""
    shapes = {task.image_shape for task in tasks}
    return shapes.pop() if len(shapes) == 1 else None
