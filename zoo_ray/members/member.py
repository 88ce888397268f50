"""What a fit gives: a member, or an error, and on the way there, its progress."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from zoo_ray.task import Predictions


class FitFailed(Exception):
    """A fit has no usable result; the message says why, in one line."""


class OutOfMemory(FitFailed):
    """A fit asked for more memory than there is; the cause is the error that said so."""


class CutShort(Exception):
    """To be raised by whoever hears of a fit's progress: the fit ends, and leaves a checkpoint
    unless it still waits to begin."""


class FitProgress(NamedTuple):
    """How far a fit is: epochs done (a fraction counts the present one), of how many, and the mean
    training loss of the present epoch so far (None: not begun)."""

    epochs_done: float
    epochs: int
    loss: float | None


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A fit cut short: with its spec and tasks, all that decides how it goes on.

    Attributes:
        step: steps done, counted over all epochs.
        epoch_losses: mean training loss of each complete epoch.
        arrays: parameters, buffers, momenta and the present epoch's loss so far, by name.
        hardware: what it was fitted on: elsewhere, going on would give the bits of neither.
    """

    step: int
    epoch_losses: list[float]
    arrays: dict[str, npt.NDArray[Any]]
    hardware: dict[str, str]


@dataclass(frozen=True)
class Member:
    """A fitted member.

    Attributes:
        weights: parameters and buffers by name, as numpy arrays.
        predictions: on each task of the spec, in its order.
        epoch_losses: mean training loss of each epoch.
        first_step: the step that the process which finished the fit went on from; 0: all of them
            are its own.
        fit_s: seconds that the fit took, predictions included, in the process that ended it: what
            one cut short before took does not count.
        hardware: what it was fitted on (see `zoo_ray.members.hardware`).
    """

    weights: dict[str, npt.NDArray[Any]]
    predictions: list[Predictions]
    epoch_losses: list[float]
    first_step: int
    fit_s: float
    hardware: dict[str, str]

    def is_finite(self) -> bool:
        """Whether every weight and every prediction is a finite number."""
        arrays = [*self.weights.values()]
        arrays += [array for prediction in self.predictions for array in prediction.values()]
        return all(bool(np.isfinite(array).all()) for array in arrays)
