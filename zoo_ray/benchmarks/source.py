"""A labelled image data set with a train and a test split, before it is cut into tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from zoo_ray.errors import UserError
from zoo_ray.task import Images, Labels

Rows = npt.NDArray[np.intp]

# Far above any data set there is; below it, a list of names by number stays small.
MAX_CLASSES = 1_000_000


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one split, in stored order.

    Attributes:
        labels: int64, shape (samples,): class numbers.
        read: the images of the given rows: a new uint8 array, shape (rows, height, width,
            channels), C-contiguous. Encoded images are decoded here, so only those that a task
            wants ever are.
    """

    labels: Labels
    read: Callable[[Rows], Images]

    @classmethod
    def of_arrays(cls, images: Images, labels: Labels) -> "Split":
        """A split whose images are at hand, shape (samples, height, width, channels)."""
        return cls(labels=labels, read=lambda rows: np.ascontiguousarray(images[rows]))

    def of_rows(self, chosen: Rows) -> "Split":
        """The split of these rows alone."""
        return Split(labels=self.labels[chosen], read=lambda rows: self.read(chosen[rows]))


@dataclass(frozen=True, eq=False)
class Source:
    """A data set: what each class is called, and the train and test splits.

    Attributes:
        class_names: names by class number.
        train: the training samples; all there are if `test` is None.
        test: None for data that have no test split: `load_stream` sets one aside.
        numbers_last: whether a class keeps its number when another is added.
    """

    class_names: tuple[str, ...]
    train: Split
    test: Split | None
    numbers_last: bool = True


def set_aside(rows: Rows, *, share: float, key: tuple[int, int]) -> Rows:
    """A share of the rows, at least one of them, chosen by the key: the same in every run."""
    # As the decimal number that was written: 0.29 of 100 is 29, which floats make 28.
    chosen = max(int(Fraction(str(share)) * len(rows)), 1)
    # Raw bits and a stable sort are the same in every numpy; Generator's methods need not be.
    bits = np.random.Philox(key=np.array(key, dtype=np.uint64)).random_raw(len(rows))
    return rows[np.argsort(bits, kind="stable")[:chosen]]


def numbered_classes(*splits: Labels) -> tuple[str, ...]:
    """Class numbers as names, up to the largest label: for data sets that name no classes."""
    highest = max((int(labels.max()) for labels in splits if len(labels)), default=-1)
    return tuple(str(number) for number in range(highest + 1))


def check_labels(labels: npt.NDArray[np.integer], *, classes: int, where: str) -> Labels:
    """The labels as int64, or a UserError that names the first one outside 0 .. classes - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UserError(
            f"{where}: row {wrong[0]} has label {labels[wrong[0]]}, allowed is 0 to {classes - 1}; "
            "the labels belong to another data set or are damaged"
        )
    return labels.astype(np.int64)
